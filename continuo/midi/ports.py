"""Give tracks of a MIDI file that symusic wrote ports of their own, so that no two programs share a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import symusic

CHANNELS = 15  # of a port, without the one for percussion; symusic counts tracks through them


def dumps_midi(score: symusic.Score) -> bytes:
    """Return a score as a MIDI file of type 1 in which each track has a channel of its own.

    The tracks beyond the fifteenth, and kits of percussion beyond the first, are on the next ports.
    """
    ports, kits = [], 0
    for number, track in enumerate(score.tracks):
        ports.append(kits if track.is_drum else number // CHANNELS)
        kits += track.is_drum
    return _with_ports(score.dumps_midi(), ports) if any(ports) else score.dumps_midi()


def _with_ports(data: bytes, ports: list[int]) -> bytes:
    """Return a well-formed MIDI file whose tracks begin with the events that name their ports."""
    position = 8 + int.from_bytes(data[4:8])
    parts = [data[:position]]
    for port in ports:
        length = int.from_bytes(data[position + 4 : position + 8])
        content = b"\x00\xff\x21\x01" + bytes([min(port, 127)]) + data[position + 8 : position + 8 + length]
        parts += [b"MTrk", len(content).to_bytes(4), content]
        position += 8 + length
    return b"".join(parts)

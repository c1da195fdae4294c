"""Write MIDI files byte by byte, also ones that no library would write."""

END = b"\xff\x2f\x00"


def variable_length(number: int) -> bytes:
    """Return a number as MIDI files write it."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def track(*events: tuple[int, str], end: int | None = None) -> bytes:
    """Return the content of a track: events as `(tick, hexadecimal bytes)`, and an end event at `end`."""
    content, now = b"", 0
    for tick, event in events:
        content += variable_length(tick - now) + bytes.fromhex(event)
        now = tick
    return content + variable_length((now if end is None else end) - now) + END


def chunk(content: bytes, length: int | None = None) -> bytes:
    """Return a track chunk that states a length, by default the right one."""
    return b"MTrk" + (len(content) if length is None else length).to_bytes(4) + content


def midi_file(*chunks: bytes, form: int = 1, tracks: int | None = None, division: int = 480) -> bytes:
    """Return a MIDI file; at 120 quarter notes per minute a tick of 480 is half a second."""
    count = len(chunks) if tracks is None else tracks
    return b"MThd" + (6).to_bytes(4) + b"".join(n.to_bytes(2) for n in (form, count, division)) + b"".join(chunks)

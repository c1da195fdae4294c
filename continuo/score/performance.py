"""A score as it will be heard: MusicXML or MIDI in, timed notes out.

`perform` reads a file, `perform_score` a music21 score; both give a `Performance`, which is all that the synthesiser
(`continuo.score.synth`) and the symbolic representations need. What is performed and how is in docs/SCORES.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from continuo.score.interpretation import interpret
from continuo.score.midi import read_midi
from continuo.score.musicxml import at_sounding_pitch, explained, parse_score, read_bytes
from continuo.score.notes import Note, Performance
from continuo.score.sounds import Sound, check_count, check_length
from continuo.system import cache

if TYPE_CHECKING:
    from music21.stream import Score

MIDI_ENDINGS = frozenset({".mid", ".midi"})
SCORE_ENDINGS = frozenset({".musicxml", ".xml", ".mxl"}) | MIDI_ENDINGS
MIN_S = 0.01
"""No sounding note is shorter; shorter ones are clicks."""
CACHE_VERSION = 4
"""Part of every cache key: raise it whenever a score would be performed differently."""


def perform(path: Path, *, expressive: bool = False) -> Performance:
    """Any score or MIDI file as timed notes; the second reading of the same content comes from a cache.

    Args:
        expressive: also perform what only words and signs say about time: ritardando, "Andante", fermatas that stop
            the beat. Off, the beat is as exact as a notation program's.

    Raises:
        ValueError: one line saying why it cannot be performed: missing, empty, ill-formed, oversize, too nested.
    """
    path = Path(path)
    data, is_midi = score_bytes(path)
    key = cache.key_of_values("performance", CACHE_VERSION, expressive, hashlib.sha256(data).hexdigest())
    found = cache.get_json(key)
    if found is not None:
        return Performance.from_dict(found)
    with explained(path.name, "cannot be performed"):
        performance = perform_midi(data) if is_midi else perform_score(parse_score(data), expressive=expressive)
    cache.put_json(key, performance.to_dict())
    return performance


def score_bytes(path: Path) -> tuple[bytes, bool]:
    """The content of a score or MIDI file, and whether it is MIDI, whatever its name says.

    Raises:
        ValueError: it has another ending, or cannot be read.
    """
    if path.suffix.lower() not in SCORE_ENDINGS:
        raise ValueError(f"{path.name}: not a score; known endings are {' '.join(sorted(SCORE_ENDINGS))}")
    data = read_bytes(path)
    return data, data.startswith((b"MThd", b"RIFF")) or path.suffix.lower() in MIDI_ENDINGS


def perform_midi(data: bytes) -> Performance:
    """The bytes of a MIDI file as timed notes.

    Raises:
        ValueError: damaged, without notes, or too long.
    """
    performance = _finish(*read_midi(data))
    if not performance.notes:
        raise ValueError("there is no note to perform")
    return performance


def perform_score(score: Score, *, expressive: bool = False) -> Performance:
    """A parsed music21 score as timed notes, transposing parts at sounding pitch; the score stays as it was.

    Args:
        expressive: as in `perform`.

    A score of rests alone is silence, and says so in its warnings.

    Raises:
        ValueError: neither notes nor rests, repeats without end, too many notes, or too long.
    """
    sounds, seconds, warnings = interpret(at_sounding_pitch(score), expressive=expressive)
    if not sounds and not seconds:
        raise ValueError("there is neither a note nor a rest to perform")
    return _finish(sounds, seconds, warnings if sounds else [*warnings, "there is no note: silence"])


def _finish(sounds: Iterable[Sound], seconds: float, warnings: Iterable[str]) -> Performance:
    """Check, clip and sort what was read."""
    sounds = list(sounds)
    check_count(len(sounds))
    notes = []
    for s in sounds:
        if not (math.isfinite(s.onset_s) and math.isfinite(s.end_s) and math.isfinite(s.pitch)):
            raise ValueError("a note has no finite time or pitch; export the score again")
        if s.end_s > s.onset_s and 0 <= s.pitch <= 127:
            onset_s = max(s.onset_s, 0.0)
            velocity = min(127, max(1, round(s.velocity)))
            notes.append(Note(onset_s, max(s.end_s - onset_s, MIN_S), s.pitch, velocity, s.program, s.is_drum))
    notes.sort(key=lambda n: (n.onset_s, n.pitch, n.program, n.duration_s))
    seconds = max([seconds, *(n.onset_s + n.duration_s for n in notes)])
    check_length(seconds)
    return Performance(tuple(notes), seconds, tuple(dict.fromkeys(warnings)))

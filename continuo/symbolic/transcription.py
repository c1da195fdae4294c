"""A score or MIDI file as a `Song`: what is written, in musical time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from continuo.score.interpretation import transcribe
from continuo.score.midi import transcribe_midi
from continuo.score.musicxml import at_sounding_pitch, explained, parse_score
from continuo.score.performance import score_bytes
from continuo.score.sounds import Sound, check_count, check_length
from continuo.symbolic.song import QUARTER, Song, SongNote
from continuo.system import cache

VERSION = 3
"""Part of every cache key: raise it whenever the same file would be read differently."""
MAX_QUARTERS = 50_000
"""Longest song in musical time: six hours at 140 quarter notes per minute."""
QPM_RANGE = (4.0, 1000.0)
Mark = TypeVar("Mark", bound=tuple[Any, ...])


def read_song(path: Path, *, name: str | None = None) -> Song:
    """A MusicXML or MIDI file as it is written, repeats played, at sounding pitch; kept in the cache.

    Raises:
        ValueError: one line saying why it cannot be read: missing, empty, ill-formed, oversize, without notes.
    """
    path = Path(path)
    data, is_midi = score_bytes(path)
    key = cache.key_of_values("song", VERSION, hashlib.sha256(data).hexdigest())
    found = cache.get_json(key)
    if found is None:
        with explained(path.name, "cannot be read"):
            song = _song(*(transcribe_midi(data) if is_midi else transcribe(at_sounding_pitch(parse_score(data)))))
        found = song.to_dict()
        cache.put_json(key, found)
    return Song.from_dict(found, id=name or path.name, source=str(path), key=key)


def _song(
    sounds: list[Sound], length_q: float, tempos: list[tuple[float, float]], meters: list[tuple[float, int, int]]
) -> Song:
    """Check what was read, and round it to ticks and semitones."""
    check_count(len(sounds))
    notes = set()
    for s in sounds:
        if not (math.isfinite(s.onset_s) and math.isfinite(s.end_s) and math.isfinite(s.pitch)):
            raise ValueError("a note has no finite time or pitch; export the score again")
        onset, end, pitch = _tick(max(s.onset_s, 0.0)), _tick(s.end_s), math.floor(s.pitch + 0.5)
        if end >= onset and 0 <= pitch <= 127:
            velocity = min(127, max(1, round(s.velocity)))
            notes.add(SongNote(onset, pitch, max(1, end - onset), velocity, s.program, s.is_drum))
    if not notes:
        raise ValueError("there is no note in it")
    ticks = max(_tick(length_q), *(t.end for t in notes))
    if ticks > MAX_QUARTERS * QUARTER:
        raise ValueError(f"it has {ticks // QUARTER} quarter notes in time; the most is {MAX_QUARTERS}")
    heard = [(_tick(at), float(qpm)) for at, qpm in tempos if QPM_RANGE[0] <= qpm <= QPM_RANGE[1]]
    counted = [(_tick(at), n, d) for at, n, d in meters if n > 0 and d > 0 and n * 4 * QUARTER % d == 0]
    defaults = Song("", "", (), 0)
    changes = _changes(heard, ticks) or defaults.tempos, _changes(counted, ticks) or defaults.meters
    song = Song("", "", tuple(sorted(notes)), ticks, *changes)
    check_length(song.seconds)
    return song


def _changes(marks: Iterable[Mark], end: int) -> tuple[Mark, ...]:
    """Of marks that begin with their tick the last at each place up to `end`, and only those that change something."""
    found: list[Mark] = []
    for mark in {mark[0]: mark for mark in marks if mark[0] <= end}.values():
        if not found or found[-1][1:] != mark[1:]:
            found.append(mark)
    return tuple(found)


def _tick(quarters: float) -> int:
    return math.floor(quarters * QUARTER + 0.5)

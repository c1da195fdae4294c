"""Read a score or MIDI file as a `Song`: as it is written, in musical time."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from continuo.score.interpretation import transcribe
from continuo.score.midi import transcribe_midi
from continuo.score.musicxml import at_sounding_pitch, explained, parse_score
from continuo.score.performance import score_bytes
from continuo.score.sounds import Sound, check_count, check_length
from continuo.symbolic.grid import effective_changes
from continuo.symbolic.song import DEFAULT_METER, DEFAULT_QPM, QUARTER, Song, SongNote
from continuo.system import cache

VERSION = 3  # part of every cache key: raise it when the same file would be read differently
MAX_QUARTERS = 50_000  # of a song: six hours at 140 quarter notes per minute
MIN_QPM, MAX_QPM = 4.0, 1000.0  # quarter notes per minute; other tempos are ignored


def read_song(path: Path, *, name: str | None = None) -> Song:
    """Read a MusicXML or MIDI file as it is written, repeats played, at sounding pitch; keep it in the cache.

    Raises:
        ValueError: one line that says why the file cannot be read.
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
    """Check notes whose times are in quarter notes, and round them to ticks and semitones."""
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
    ticks = max(_tick(length_q), *(note.end for note in notes))
    if ticks > MAX_QUARTERS * QUARTER:
        raise ValueError(f"it has {ticks // QUARTER} quarter notes in time; the most is {MAX_QUARTERS}")
    played = [(_tick(at), float(qpm)) for at, qpm in tempos if MIN_QPM <= qpm <= MAX_QPM]
    counted = [(_tick(at), n, d) for at, n, d in meters if n > 0 and d > 0 and n * 4 * QUARTER % d == 0]
    song_tempos = effective_changes(played, ticks + 1) or [(0, DEFAULT_QPM)]
    song_meters = effective_changes(counted, ticks + 1) or [(0, *DEFAULT_METER)]
    song = Song("", "", tuple(sorted(notes)), ticks, tuple(song_tempos), tuple(song_meters))
    check_length(song.seconds)
    return song


def _tick(quarters: float) -> int:
    return math.floor(quarters * QUARTER + 0.5)

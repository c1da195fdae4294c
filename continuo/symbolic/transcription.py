"""Read a score or MIDI file as a `Song`: as it is written, in musical time."""

import math
from pathlib import Path

from continuo.score.midi import transcribe_midi
from continuo.score.musicxml import explain_errors, parse_score
from continuo.score.notes import Transcript, check_count, check_finite, check_length, midi_velocity
from continuo.score.performance import score_bytes, transcribe
from continuo.symbolic.grid import effective_changes
from continuo.symbolic.song import DEFAULT_METER, DEFAULT_QPM, QUARTER, Song, SongNote
from continuo.system import cache

VERSION = 6  # part of every cache key: raise it when the same file would be read differently
MAX_QUARTERS = 50_000  # of a song: six hours at 140 quarter notes per minute
MIN_QPM, MAX_QPM = 4.0, 1000.0  # quarter notes per minute; other tempos are ignored


def read_song(path: Path, *, name: str | None = None) -> Song:
    """Read a MusicXML or MIDI file, repeats played, at sounding pitch; a ValueError says why it cannot be read."""
    path = Path(path)
    data, is_midi = score_bytes(path)
    key = cache.key_of_bytes(data, "song", VERSION)
    found = cache.get_json(key)
    if found is None:
        with explain_errors(path.name, "cannot be read"):
            song = _song(transcribe_midi(data) if is_midi else transcribe(parse_score(data)))
        found = song.to_dict()
        cache.put_json(key, found)
    return Song.from_dict(found, id=name or path.name, source=str(path), key=key)


def _song(transcript: Transcript) -> Song:
    """Check a transcript, and round it to ticks and semitones."""
    check_count(len(transcript.notes))
    notes = set()
    for note in transcript.notes:
        check_finite(note)
        onset, end, pitch = _tick(max(note.onset_s, 0.0)), _tick(note.end_s), math.floor(note.pitch + 0.5)
        if end >= onset and 0 <= pitch <= 127:
            velocity = midi_velocity(note.velocity)
            notes.add(SongNote(onset, pitch, max(1, end - onset), velocity, note.program, note.is_drum, note.part))
    if not notes:
        raise ValueError("there is no note in it")
    ticks = max(_tick(transcript.length_q), *(note.end for note in notes))
    if ticks > MAX_QUARTERS * QUARTER:
        raise ValueError(f"it has {ticks // QUARTER} quarter notes in time; the most is {MAX_QUARTERS}")
    played = [(_tick(at), float(qpm)) for at, qpm in transcript.tempos if MIN_QPM <= qpm <= MAX_QPM]
    counted = [(_tick(at), n, d) for at, n, d in transcript.meters if n > 0 and d > 0 and n * 4 * QUARTER % d == 0]
    tempos = effective_changes(played, ticks + 1) or [(0, DEFAULT_QPM)]
    meters = effective_changes(counted, ticks + 1) or [(0, *DEFAULT_METER)]
    keys = effective_changes([(_tick(at), sharps, is_minor) for at, sharps, is_minor in transcript.keys], ticks + 1)
    marks = tuple(tempos), tuple(meters), tuple(keys)
    song = Song("", "", tuple(sorted(notes)), ticks, *marks, tuple(transcript.parts))
    check_length(song.seconds)
    return song


def _tick(quarters: float) -> int:
    return math.floor(quarters * QUARTER + 0.5)

"""MIDI files read as sounds: type 0 and 1, any resolution, tempo maps, pedal folded into note ends.

symusic parses; it resolves running status and note-ons of velocity 0. Source: MIDI 1.0 detailed specification,
Standard MIDI Files 1.0, https://midi.org/standard-midi-files-specification.
"""

from __future__ import annotations

from typing import Any

from continuo.score.sounds import Sound, check_count, hold_pedal, pedal_spans

PEDAL = 64
"""Control change of the sustain pedal; values from 64 on are down."""
BEND_RANGE = 2.0
"""Semitones of a full pitch bend where nothing else is said."""
MAX_EVENTS = 3_000_000
"""Most events of a file; what is called black MIDI may have more."""
MAX_TICKS = 2**31 - 1
"""Latest time that symusic counts to."""
IGNORED = {7: "channel volume", 11: "expression", 66: "sostenuto pedal", 67: "soft pedal", 1: "modulation"}
"""Controls that are met often and not performed."""


def read_midi(data: bytes) -> tuple[list[Sound], float, list[str]]:
    """Sounds, length in seconds, and what was not performed.

    Raises:
        ValueError: not a MIDI file, or damaged.
    """
    score = _parsed(data, "second")
    sounds: list[Sound] = []
    warnings: dict[str, None] = {}
    for track in score.tracks:
        sounds += _read_track(track, warnings)
    return sounds, max((s.end_s for s in sounds), default=0.0), list(warnings)


def transcribe_midi(data: bytes) -> tuple[list[Sound], float, list[tuple[float, float]], list[tuple[float, int, int]]]:
    """Keys as they are pressed, without pedal or bend: sounds, length, tempos and meters, in quarter notes.

    Returns:
        As `continuo.score.interpretation.transcribe`.

    Raises:
        ValueError: not a MIDI file, or damaged.
    """
    score = _parsed(data, "tick")
    quarter = float(score.ticks_per_quarter)
    sounds = [
        Sound(n.time / quarter, (n.time + n.duration) / quarter, n.pitch, n.velocity, track.program, track.is_drum)
        for track in score.tracks
        for n in track.notes
    ]
    tempos = sorted((t.time / quarter, t.qpm) for t in score.tempos)
    meters = sorted((m.time / quarter, m.numerator, m.denominator) for m in score.time_signatures)
    return sounds, max((s.end_s for s in sounds), default=0.0), tempos, meters


def _parsed(data: bytes, unit: str) -> Any:
    """symusic's score of a MIDI file, times in seconds or ticks."""
    import symusic

    data = data[max(data.find(b"MThd"), 0) :]  # a RIFF file holds the MIDI file further on
    check_bounds(data)
    try:
        score: Any = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises whatever its C++ core throws
        raise ValueError(f"not a readable MIDI file ({' '.join(str(error).split())[:150]})") from None
    check_count(sum(len(track.notes) for track in score.tracks))
    return score if unit == "tick" else score.to(unit)


def check_bounds(data: bytes) -> None:
    """Refuse MIDI data whose chunks or events reach beyond their end: symusic would read what lies there in memory.

    Raises:
        ValueError: no MIDI data, or cut off, with the place.
    """
    if data[:4] != b"MThd" or len(data) < 14:
        raise ValueError("not a MIDI file (it does not begin with MThd): is it what its name says?")
    tracks, place = int.from_bytes(data[10:12]), 8 + int.from_bytes(data[4:8])
    if not 0 < int.from_bytes(data[12:14]) < 0x8000:
        raise ValueError(
            "the MIDI file does not count in parts of a quarter note: export it with ticks per quarter note"
        )
    left = MAX_EVENTS
    while tracks:
        end = place + 8 + int.from_bytes(data[place + 4 : place + 8])
        if place + 8 > len(data) or end > len(data):
            raise ValueError(f"the MIDI file is cut off after {len(data)} bytes: get it again")
        if data[place : place + 4] == b"MTrk":
            left -= _check_track(data[place + 8 : end], left)
            tracks -= 1
        place = end


META_LENGTHS = {0x51: 3, 0x54: 5, 0x58: 4, 0x59: 2}
"""Of tempo, offset, time and key signature."""


def _check_track(track: bytes, most: int) -> int:
    """Walk the events of a track, and count them; ValueError where one is incomplete, or where they are too many."""
    place, status, now, count = 0, 0, 0, 0
    try:
        while place < len(track):
            delta, place = _number(track, place)
            now, count = now + delta, count + 1
            if count > most:
                raise ValueError(f"the MIDI file has more than {MAX_EVENTS} events: split it")
            if now > MAX_TICKS:
                raise ValueError("the MIDI file is damaged: its times go beyond what can be counted; get it again")
            if track[place] >= 0x80:
                status, place = track[place], place + 1
            if status in (0xF0, 0xF7, 0xFF):
                kind = track[place] if status == 0xFF else -1
                length, place = _number(track, place + (status == 0xFF))
                place += length
                if length < META_LENGTHS.get(kind, 0):
                    raise IndexError
                if kind == 0x2F:
                    return count
            elif 0x80 <= status < 0xF0:
                place += 1 if 0xC0 <= status < 0xE0 else 2
            else:
                raise IndexError
            if place > len(track):
                raise IndexError
    except IndexError:
        raise ValueError("the MIDI file is damaged: a track ends within an event; get it again") from None
    return count


def _number(track: bytes, place: int) -> tuple[int, int]:
    """A number of variable length, at most four bytes, and the place after it."""
    number = 0
    for k in range(4):
        number = number << 7 | track[place + k] & 0x7F
        if track[place + k] < 0x80:
            return number, place + k + 1
    raise IndexError


def _read_track(track: Any, warnings: dict[str, None]) -> list[Sound]:
    """One channel of one track."""
    sounds = [
        Sound(n.time, n.time + n.duration, float(n.pitch), n.velocity, track.program, track.is_drum)
        for n in track.notes
    ]
    presses: list[tuple[float, bool]] = []
    for control in track.controls:
        if control.number == PEDAL:
            presses.append((control.time, control.value >= 64))
        elif control.number in IGNORED and not (control.number in (7, 11) or control.value == 0):
            warnings[f"the {IGNORED[control.number]} (control {control.number}) is not performed"] = None
    if not track.is_drum:
        hold_pedal(sounds, pedal_spans(presses))
        _bend(sounds, [(b.time, b.value) for b in track.pitch_bends])
    return sounds


def _bend(sounds: list[Sound], bends: list[tuple[float, int]]) -> None:
    """Tune each sound by the bend in force when it begins; glides within a sound are not followed."""
    if not any(value for _, value in bends):
        return
    sounds.sort(key=lambda s: s.onset_s)
    now, k = 0, 0
    for sound in sounds:
        while k < len(bends) and bends[k][0] <= sound.onset_s + 1e-6:
            now, k = bends[k][1], k + 1
        sound.pitch += now / 8192 * BEND_RANGE

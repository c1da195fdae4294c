"""MIDI files of type 0 and 1 as notes: in seconds with the pedal applied, or in musical time as keys are pressed.

symusic parses; it resolves running status and note-ons of velocity 0. Source: MIDI 1.0 detailed specification,
Standard MIDI Files 1.0, https://midi.org/standard-midi-files-specification.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from continuo.score.notes import DraftNote, Transcript, check_count, hold_pedal, pedal_spans
from continuo.system.text import one_line

if TYPE_CHECKING:
    import symusic

PEDAL = 64  # control change of the sustain pedal; values from 64 on are down
BEND_RANGE = 2.0  # semitones of a full pitch bend
MAX_EVENTS = 3_000_000  # events of a file; "black MIDI" may have more
MAX_TICKS = 2**31 - 1  # latest time that symusic can hold
UNPERFORMED = {66: "sostenuto pedal", 67: "soft pedal", 1: "modulation"}  # controls that are named in the warnings
META_LENGTHS = {0x51: 3, 0x54: 5, 0x58: 4, 0x59: 2}  # bytes of a tempo, offset, time signature and key signature


def read_midi(data: bytes) -> tuple[list[DraftNote], float, list[str]]:
    """Return a MIDI file's notes, length in seconds, and unperformed controls; ValueError if it is none or damaged."""
    warnings = dict[str, None]()
    notes = [note for track in _parse(data).to("second").tracks for note in _read_track(track, warnings)]
    return notes, max((n.end_s for n in notes), default=0.0), list(warnings)


def transcribe_midi(data: bytes) -> Transcript:
    """Return a MIDI file's keys as pressed, in musical time, without pedal or bend; ValueError as in `read_midi`."""
    score = _parse(data)
    quarter = float(score.ticks_per_quarter)
    notes = [
        DraftNote(n.time / quarter, (n.time + n.duration) / quarter, n.pitch, n.velocity, track.program, track.is_drum)
        for track in score.tracks
        for n in track.notes
    ]
    tempos = sorted((t.time / quarter, t.qpm) for t in score.tempos)
    meters = sorted((m.time / quarter, m.numerator, m.denominator) for m in score.time_signatures)
    return Transcript(notes, max((n.end_s for n in notes), default=0.0), tempos, meters)


def _parse(data: bytes) -> symusic.Score:
    """Return symusic's score of a MIDI file, with times in ticks."""
    import symusic

    data = data[max(data.find(b"MThd"), 0) :]  # a RIFF file has a header before the MIDI file
    check_bounds(data)
    try:
        score = symusic.Score.from_midi(data)
    except Exception as error:  # symusic raises exceptions of any type from its C++ core
        raise ValueError(f"not a readable MIDI file ({one_line(str(error))})") from None
    check_count(sum(len(track.notes) for track in score.tracks))
    return score


def check_bounds(data: bytes) -> None:
    """Raise ValueError if a chunk or event of a MIDI file reaches beyond its end: symusic would read foreign memory."""
    if data[:4] != b"MThd" or len(data) < 14:
        raise ValueError("not a MIDI file (it does not begin with MThd): is it what its name says?")
    tracks, position = int.from_bytes(data[10:12]), 8 + int.from_bytes(data[4:8])
    if not 0 < int.from_bytes(data[12:14]) < 0x8000:
        reason = "does not count in parts of a quarter note: export it with ticks per quarter note"
        raise ValueError(f"the MIDI file {reason}")
    events = 0
    while tracks:
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8])
        if position + 8 > len(data) or end > len(data):
            raise ValueError(f"the MIDI file is cut off after {len(data)} bytes: get it again")
        if data[position : position + 4] == b"MTrk":
            try:
                events += _count_events(data[position + 8 : end], MAX_EVENTS - events)
            except IndexError:
                raise ValueError("the MIDI file is damaged: a track ends within an event; get it again") from None
            tracks -= 1
        position = end


def _count_events(track: bytes, limit: int) -> int:
    """Return the number of events of a track; ValueError above `limit`, IndexError if one is incomplete."""
    position = status = ticks = count = 0
    while position < len(track):
        delta, position = _variable_length(track, position)
        ticks, count = ticks + delta, count + 1
        if count > limit:
            raise ValueError(f"the MIDI file has more than {MAX_EVENTS} events: split it")
        if ticks > MAX_TICKS:
            raise ValueError("the MIDI file is damaged: its times go beyond what can be counted; get it again")
        if track[position] >= 0x80:
            status, position = track[position], position + 1
        if status in (0xF0, 0xF7, 0xFF):
            kind = track[position] if status == 0xFF else -1
            length, position = _variable_length(track, position + (status == 0xFF))
            position += length
            if length < META_LENGTHS.get(kind, 0):
                raise IndexError
            if kind == 0x2F:  # end of track
                return count
        elif 0x80 <= status < 0xF0:
            position += 1 if 0xC0 <= status < 0xE0 else 2
        else:
            raise IndexError
        if position > len(track):
            raise IndexError
    return count


def _variable_length(track: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, at most four bytes, and the position after it."""
    number = 0
    for k in range(position, position + 4):
        number = number << 7 | track[k] & 0x7F
        if track[k] < 0x80:
            return number, k + 1
    raise IndexError


def _read_track(track: symusic.Track, warnings: dict[str, None]) -> list[DraftNote]:
    """Return the notes of one channel of one track, with its pedal and bends."""
    notes = [
        DraftNote(n.time, n.time + n.duration, float(n.pitch), n.velocity, track.program, track.is_drum)
        for n in track.notes
    ]
    for control in track.controls:
        if control.number in UNPERFORMED and control.value:
            warnings[f"the {UNPERFORMED[control.number]} (control {control.number}) is not performed"] = None
    if not track.is_drum:
        hold_pedal(notes, pedal_spans([(c.time, c.value >= 64) for c in track.controls if c.number == PEDAL]))
        bends = track.pitch_bends
        for note in notes:  # bends within a note are not followed
            if k := bisect_right(bends, note.onset_s + 1e-6, key=lambda bend: bend.time):
                note.pitch += bends[k - 1].value / 8192 * BEND_RANGE
    return notes

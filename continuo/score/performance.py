"""Perform a score: MusicXML or MIDI in, timed notes out.

`perform` returns a `Performance`, the input of the synthesizer (`continuo.score.synth`). `transcribe` returns the notes
in musical time instead, for the symbolic representations. docs/SCORES.md lists what is performed and how.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path

from continuo.score.interpretation import LEGATO_S, StaffPlayer
from continuo.score.measures import ROUND_Q, Placed, Staff, T, WrittenScore
from continuo.score.midi import read_midi
from continuo.score.musicxml import explain_errors, parse_score, read_bytes
from continuo.score.notes import (
    DraftNote,
    Performance,
    Tie,
    Transcript,
    check_length,
    hold_pedal,
    join_ties,
    pedal_spans,
)
from continuo.score.tempo import TempoMap, read_tempo_map
from continuo.system import cache

MIDI_ENDINGS = frozenset({".mid", ".midi", ".kar", ".rmi"})
SCORE_ENDINGS = frozenset({".musicxml", ".xml", ".mxl"}) | MIDI_ENDINGS
CACHE_VERSION = 18  # part of every cache key; raise it whenever a score would be performed differently
BarTimes = list[tuple[int, float]]  # index of each bar in playing order, and the seconds at which it begins


def perform(path: Path) -> Performance:
    """Perform a score or MIDI file; the performance of a content is kept in the cache.

    Raise ValueError if the file is missing, empty, ill-formed, too large, too deeply nested, or has no music in it.
    """
    path = Path(path)
    data, is_midi = score_bytes(path)
    key = cache.key_of_bytes(data, "performance", CACHE_VERSION)
    found = cache.get_json(key)
    if found is not None:
        return Performance.from_dict(found)
    with explain_errors(path.name, "cannot be performed"):
        performance = perform_midi(data) if is_midi else perform_score(parse_score(data))
    cache.put_json(key, performance.to_dict())
    return performance


def score_bytes(path: Path) -> tuple[bytes, bool]:
    """Return the content of a score or MIDI file, and whether it is MIDI; ValueError if it is neither or unreadable."""
    if path.suffix.lower() not in SCORE_ENDINGS:
        raise ValueError(f"{path.name}: not a score; known endings are {' '.join(sorted(SCORE_ENDINGS))}")
    data = read_bytes(path)  # which decides before the name
    return data, data.startswith((b"MThd", b"RIFF")) or path.suffix.lower() in MIDI_ENDINGS


def perform_midi(data: bytes) -> Performance:
    """Perform the bytes of a MIDI file; raise ValueError if it is damaged, without notes, or too long."""
    performance = Performance.from_drafts(*read_midi(data))
    if not performance.notes:
        raise ValueError("there is no note to perform")
    return performance


def perform_score(written: WrittenScore) -> Performance:
    """Perform a score of `parse_score`; one of rests alone becomes silence, with a warning.

    Raise ValueError for neither notes nor rests, repeats without end, too many notes, or too many seconds.
    """
    tempo = read_tempo_map(written)
    times, seconds = _bar_times(written, tempo)
    check_length(seconds)
    last_fermata_q = _last_fermata(written)
    players = [StaffPlayer(written, staff, tempo, last_fermata_q) for staff in written.staves]
    by_instrument = _play(players, times)
    for staff in {s.group: s for s in written.staves}.values():
        hold_pedal(by_instrument[staff.group], _pedal_seconds(written, staff, tempo, times))
    drafts = list(chain.from_iterable(by_instrument.values()))
    if not drafts and not seconds:
        raise ValueError("there is neither a note nor a rest to perform")
    if not drafts:
        written.warn("there is no note: silence")
    return Performance.from_drafts(drafts, seconds, written.warnings)


def transcribe(written: WrittenScore) -> Transcript:
    """Return a score of `parse_score` in musical time: as written, with repeats played.

    Articulations, slurs, pedal and fermatas do not change the lengths, and ornaments become their main note. Raise
    ValueError for repeats without end, or too long a score.
    """
    quarters = TempoMap([(0.0, 60.0)])  # a quarter note lasts a second
    times, length_q = _bar_times(written, quarters)
    check_length(length_q / 4)  # at four quarter notes a second, which is fast
    players = [StaffPlayer(written, staff, quarters, as_written=True) for staff in written.staves]
    groups = _play(players, times)
    notes = [replace(note, part=part) for part, members in enumerate(groups.values()) for note in members]
    names = {staff.group: staff.name for staff in written.staves}
    marks = _tempos(written, times), _meters(written, times), _keys(written, times)
    return Transcript(notes, length_q, *marks, [names[group] for group in groups])


def _play(players: list[StaffPlayer], times: BarTimes) -> dict[str, list[DraftNote]]:
    """Return the notes of each instrument, with their ties joined."""
    found: dict[str, list[list[tuple[DraftNote, Tie]]]] = defaultdict(list)
    for player in players:
        found[player.staff.group].append(player.play(times))
    return {group: join_ties(staves) for group, staves in found.items()}


def _bar_times(written: WrittenScore, tempo: TempoMap) -> tuple[BarTimes, float]:
    """Return the bars in playing order with their beginnings, and the end, in seconds."""
    edges_s = [tempo.seconds(start_q) for start_q in written.starts_q]
    *begins_s, end_s = accumulate((edges_s[i + 1] - edges_s[i] for i in written.order), initial=0.0)
    return list(zip(written.order, begins_s, strict=True)), end_s


def _tempos(written: WrittenScore, times: BarTimes) -> list[tuple[float, float]]:
    """Return the tempos in playing order, as `(position, quarter notes per minute)`, at least one for each bar."""
    tempo = read_tempo_map(written)
    marks = list(zip(tempo.positions_q, tempo.qpm, strict=True))
    found: list[tuple[float, float]] = []
    for i, now_q in times:
        begin_q, end_q = written.starts_q[i], written.starts_q[i + 1]
        inside = ((now_q + q - begin_q, qpm) for q, qpm in marks if begin_q < q < end_q)
        found += [(now_q, tempo.qpm_at(begin_q)), *inside]
    return found


def _meters(written: WrittenScore, times: BarTimes) -> list[tuple[float, int, int]]:
    """Return the meters in playing order, as `(position, numerator, denominator)`, one for each bar that has one."""
    marks = sorted(written.marked(written.staves, lambda marks: marks.meters), key=lambda mark: mark[0])
    return [(now_q, *meter) for now_q, meter in _in_force(marks, written, times)]


def _keys(written: WrittenScore, times: BarTimes) -> list[tuple[float, int, bool]]:
    """Return the keys of the first staff in playing order, as `(position, sharps, is_minor)`, one for each bar."""
    marks = written.marked(written.staves[:1], lambda marks: marks.keys)
    usual = [(q, (key.fifths, key.is_minor)) for q, key in marks if key.fifths is not None]
    return [(now_q, *key) for now_q, key in _in_force(usual, written, times)]


def _in_force(marks: Placed[T], written: WrittenScore, times: BarTimes) -> Iterator[tuple[float, T]]:
    """Yield the beginning of each bar in playing order, and the mark in force there, if there is one."""
    for i, now_q in times:
        k = bisect_right(marks, written.starts_q[i] + ROUND_Q, key=lambda mark: mark[0])
        if k:
            yield now_q, marks[k - 1][1]


def _last_fermata(written: WrittenScore) -> float:
    """Return the position of the fermata that ends the piece, infinity without; name the others, which are ignored."""
    found: dict[float, float] = {}  # the end of each by its beginning, once for all staves
    for staff in written.staves:
        for start_q, bar in zip(written.starts_q, staff.bars, strict=False):
            for chord in bar.chords:
                if "fermata" in chord.marks:
                    begin_q = round(start_q + chord.start_q, 6)
                    found[begin_q] = max(found.get(begin_q, 0.0), begin_q + chord.length_q)
    end_q = written.starts_q[written.order[-1] + 1] if written.order else 0.0
    last = [begin_q for begin_q, until_q in found.items() if until_q >= end_q - ROUND_Q]
    if len(found) > len(last):
        written.warn("fermatas within the piece do not stop the beat")
    return min(last, default=math.inf)


def _pedal_seconds(written: WrittenScore, staff: Staff, tempo: TempoMap, times: BarTimes) -> list[tuple[float, float]]:
    """Return the spans of seconds in which the sustain pedal of a staff's instrument is down.

    The pedal depends on the position in the score as written, so a jump can press or release it. It is pressed when the
    notes before it have ended, also slurred ones.
    """
    changes: list[tuple[float, bool]] = []
    for position_q, pedal in written.marked(written.family(staff), lambda marks: marks.pedals):
        if pedal == "sostenuto":
            written.warn("the sostenuto pedal is not performed")
        if pedal in ("start", "stop", "change"):
            changes.append((position_q, False))
        if pedal in ("start", "change"):
            changes.append((position_q, True))
    changes.sort()  # at one position the release comes first
    presses: list[tuple[float, bool]] = []
    seconds = 0.0
    for i, begin_s in times:
        start_q, end_q = written.starts_q[i], written.starts_q[i + 1]
        shift_s = begin_s - tempo.seconds(start_q)
        first, last = bisect_left(changes, (start_q, False)), bisect_left(changes, (end_q, False))
        inside = [(start_q, first > 0 and changes[first - 1][1]), *changes[first:last]]
        presses += [(shift_s + tempo.seconds(q) + LEGATO_S * is_down, is_down) for q, is_down in inside]
        seconds = shift_s + tempo.seconds(end_q)
    return pedal_spans([*presses, (seconds, False)])

"""A music21 score laid out in bars: the notes and marks of each bar of each staff, and the lengths of the bars.

Each bar has one position, in quarter notes from the beginning of the score as written; repeats are not unfolded here.
All staves are aligned at every barline, so a staff in a meter of its own, or with a badly filled bar, does not drift.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any

from continuo.score.musicxml import MAX_PASSES, read_hint, read_sign
from continuo.score.playback import FULL_VOLUME, HINT, Instrument, Playback
from continuo.score.repeats import BarMarks, lost_jumps, play_bars

if TYPE_CHECKING:
    from music21.base import Music21Object
    from music21.note import GeneralNote
    from music21.stream import Score, Stream

ROUND_Q = 1e-4  # quarter notes; positions closer than this are equal, since MusicXML divides triplets inexactly


@dataclass(slots=True)
class WrittenNote:
    """One note, chord or rest of the score as written."""

    start_q: float  # quarter notes from the beginning of the bar
    length_q: float  # quarter notes; 0 for a grace note
    element: GeneralNote  # music21's Note, Chord, Unpitched, PercussionChord or Rest
    voice: str  # name of the voice in its bar, "" in bars without voices


@dataclass
class Bar:
    """One bar of one staff."""

    notes: list[WrittenNote]  # notes, chords and rests, sorted
    marks: list[tuple[float, Any]]  # all other elements, and hints as of `read_hint`, with their position in the bar
    is_filled: bool  # whether the bar holds more than a bar-long rest
    length_q: float  # quarter notes of the bar as it is written
    meter_q: float  # quarter notes of a full bar in the meter in force


@dataclass(frozen=True)
class Staff:
    """One music21 part: `stream`, the id of its part in MusicXML, shared with the other staves, and its bars."""

    stream: Stream
    group: str
    bars: list[Bar]


class WrittenScore:
    """A score laid out in aligned bars."""

    def __init__(self, score: Score) -> None:
        """Lay out a score at sounding pitch; raise ValueError if its repeats never end."""
        self.playback: Playback = score.editorial.get("playback") or Playback()
        # Names of marks that are not performed, as keys, in order.
        self.warnings: dict[str, None] = dict.fromkeys(self.playback.warnings)
        stated = [i.volume for part in self.playback.instruments.values() for i in part]
        self.full_volume = max(
            [FULL_VOLUME, *stated]
        )  # percent, of the instruments that play as loud as they are marked
        self.staves = [_read_staff(part) for part in score.parts]
        lengths_q = (_align([bar for bar in bars if bar]) for bars in zip_longest(*(s.bars for s in self.staves)))
        self.starts_q = list(accumulate(lengths_q, initial=0.0))  # position of each bar, and of the end
        marks = self._bar_marks()
        played = play_bars(marks)
        self.order = [i for i, _ in played]  # indices of the bars in playing order
        self.warnings |= dict.fromkeys(lost_jumps(marks))
        self.passes = [number for _, number in played]  # pass of each of them, from 1

    def warn(self, text: str) -> None:
        """Name a mark that is not performed; repetitions are ignored."""
        self.warnings[text] = None

    def instruments(self, staff: Staff) -> list[Instrument]:
        """Return the instruments of a staff's part; the first one is for notes that name none."""
        return self.playback.instruments.get(staff.group, [Instrument("")])

    def family(self, staff: Staff) -> list[Staff]:
        """Return all staves of an instrument, the given one last, so that its own marks win where they differ."""
        return [s for s in self.staves if s.group == staff.group and s is not staff] + [staff]

    def marked(self, staves: list[Staff], kind: type) -> Iterator[tuple[float, Any]]:
        """Yield all marks of one music21 class in some staves, or (`dict`) their hints, each with its position."""
        for staff in staves:
            for start_q, bar in zip(self.starts_q, staff.bars, strict=False):
                yield from ((start_q + offset_q, mark) for offset_q, mark in bar.marks if isinstance(mark, kind))

    def _bar_marks(self) -> list[BarMarks]:
        """Collect the marks of all staves that decide the order of the bars."""
        from music21 import bar, spanner

        found = [BarMarks() for _ in self.starts_q[1:]]
        for staff in self.staves:
            for i, written in enumerate(staff.bars):
                for _, mark in written.marks:
                    if isinstance(mark, bar.Repeat) and mark.direction == "start":
                        found[i].starts = True
                    elif isinstance(mark, bar.Repeat):
                        found[i].times = max(found[i].times, min(mark.times or 2, MAX_PASSES))
                    elif isinstance(mark, dict) and "sign" in mark:
                        found[i].add(**read_sign(mark))
            index = {id(measure): i for i, measure in enumerate(staff.stream.getElementsByClass("Measure"))}
            for bracket in staff.stream.getElementsByClass(spanner.RepeatBracket):
                inside = [index[id(m)] for m in bracket.getSpannedElements() if id(m) in index]
                for i in range(min(inside, default=0), max(inside, default=-1) + 1):
                    found[i].passes = frozenset(bracket.numberRange)
        return found


def _read_staff(part: Stream) -> Staff:
    """Sort the elements of each bar of a part into notes, and marks and hints."""
    from music21.harmony import Harmony
    from music21.meter import TimeSignature
    from music21.note import GeneralNote

    bars: list[Bar] = []
    meter_q = 4.0
    for measure in part.getElementsByClass("Measure"):
        notes: list[WrittenNote] = []
        marks: list[tuple[float, Any]] = []
        for offset_q, element, voice in _elements(measure):
            if isinstance(element, GeneralNote) and not isinstance(element, Harmony):
                notes.append(WrittenNote(offset_q, float(element.duration.quarterLength), element, voice))
            else:
                is_hint = str(getattr(element, "content", "")).startswith(HINT)
                marks.append((offset_q, read_hint(element) if is_hint else element))
        notes.sort(key=lambda n: n.start_q)
        signature = next((mark for _, mark in marks if isinstance(mark, TimeSignature)), None)
        if signature is not None:
            meter_q = float(signature.barDuration.quarterLength) or 4.0  # 4 for music without a meter
        hints = (mark for _, mark in marks if isinstance(mark, dict))
        length = next((hint for hint in hints if "length" in hint or "rest" in hint), {"rest": "0"})
        bars.append(Bar(notes, marks, "length" in length, float(length.get("length") or length["rest"]), meter_q))
    instrument = part.recurse().getElementsByClass("Instrument").first()
    group = str(part.id).rsplit("-Staff", 1)[0] if instrument is None else str(instrument.partId)
    return Staff(part, group, bars)


def _elements(stream: Stream, base_q: float = 0.0, voice: str = "") -> Iterator[tuple[float, Music21Object, str]]:
    """Yield the elements of a measure and its voices, each with its position in the measure and its voice."""
    for element in stream.elements:
        offset_q = base_q + float(stream.elementOffset(element))
        if element.isStream:
            yield from _elements(element, offset_q, str(element.id))
        else:
            yield offset_q, element, voice


def _align(bars: list[Bar]) -> float:
    """Stretch the bars of staves in a meter of their own (12/8 against 4/4) to the common meter; return its length.

    The common meter is that of most filled bars; a bar with notes decides before a bar of rest.
    """
    meters_q = [bar.meter_q for bar in bars]
    filled = {meter_q: sum(abs(bar.length_q - meter_q) < ROUND_Q for bar in bars) for meter_q in meters_q}
    common_q = max(reversed(meters_q), key=lambda meter_q: (filled[meter_q], meters_q.count(meter_q)))
    for bar in bars:
        if bar.meter_q != common_q:
            _stretch(bar, common_q / bar.meter_q)
    return max((bar.is_filled, bar.length_q) for bar in bars if bar.meter_q == common_q)[1]


def _stretch(bar: Bar, ratio: float) -> None:
    """Multiply the positions and lengths in a bar by a ratio.

    MuseScore writes such bars with stretched durations of the rests and plain durations of the notes. Where the printed
    note values fill the meter, they are taken instead of the durations.
    """
    ends_q: dict[str, float] = defaultdict(float)
    printed: list[tuple[float, float]] = []
    for note in bar.notes:
        printed.append((ends_q[note.voice], _printed_length(note.element)))
        ends_q[note.voice] += printed[-1][1]
    if abs(max(ends_q.values(), default=0.0) - bar.meter_q) > ROUND_Q:
        if bar.length_q * ratio > bar.meter_q * ratio + ROUND_Q:
            return  # stretched already
        printed = [(note.start_q, note.length_q) for note in bar.notes]
    for note, (start_q, length_q) in zip(bar.notes, printed, strict=True):
        note.start_q, note.length_q = start_q * ratio, length_q * ratio
    bar.marks = [(offset_q * ratio, mark) for offset_q, mark in bar.marks]


_TYPES_Q = {"breve": 8, "whole": 4, "half": 2, "quarter": 1, "eighth": 0.5, "16th": 0.25, "32nd": 0.125, "64th": 0.0625}


def _printed_length(element: GeneralNote) -> float:
    """Return the quarter notes of a note's printed value: head, flags, dots and tuplets; 0 for grace notes."""
    length = element.duration
    if length.isGrace or length.type not in _TYPES_Q:
        return 0.0 if length.isGrace else float(length.quarterLength)
    tuplets = math.prod(float(tuplet.tupletMultiplier()) for tuplet in length.tuplets)
    return float(_TYPES_Q[length.type] * (2 - 0.5**length.dots) * tuplets)

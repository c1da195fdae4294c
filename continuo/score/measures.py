"""A music21 score laid out in bars: the notes and marks of each bar of each staff, and the lengths of the bars.

Each bar has one position, in quarter notes from the beginning of the score as written; repeats are not unfolded here.
All staves are aligned at every barline, so a staff in a meter of its own, or with a badly filled bar, does not drift.
No music21 object is copied, which makes this fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from continuo.score.musicxml import HINT, MAX_PASSES, read_hint
from continuo.score.repeats import BarMarks, playing_order, read_words

if TYPE_CHECKING:
    from music21.base import Music21Object
    from music21.note import GeneralNote
    from music21.stream import Measure, Score, Stream

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
    marks: list[tuple[float, Music21Object]]  # all other elements, with their position in the bar
    hints: list[tuple[float, dict[str, str]]]  # hints of `continuo.score.musicxml`, with their position in the bar
    is_filled: bool  # whether the bar holds more than a bar-long rest
    length_q: float  # quarter notes of the bar as it is written
    meter_q: float  # quarter notes of a full bar in the meter in force


@dataclass(frozen=True)
class Staff:
    """One music21 part: `stream`, the instrument that it shares with the other staves of its `group`, and its bars."""

    stream: Stream
    group: str
    bars: list[Bar]


class WrittenScore:
    """A score laid out in aligned bars."""

    def __init__(self, score: Score) -> None:
        """Lay out a score at sounding pitch; raise ValueError if its repeats never end."""
        self.warnings: dict[str, None] = {}  # names of marks that are not performed, as keys, in order
        self.staves = [_read_staff(part) for part in score.parts]
        count = max((len(staff.bars) for staff in self.staves), default=0)
        self.starts_q = [0.0]  # position of each bar, and of the end
        for i in range(count):
            self.starts_q.append(self.starts_q[-1] + _align([s.bars[i] for s in self.staves if i < len(s.bars)]))
        self.order = playing_order(self._bar_marks(count))  # indices of the bars

    def warn(self, text: str) -> None:
        """Name a mark that is not performed; repetitions are ignored."""
        self.warnings[text] = None

    def family(self, staff: Staff) -> list[Staff]:
        """Return all staves of an instrument, the given one last, so that its own marks win where they differ."""
        return [s for s in self.staves if s.group == staff.group and s is not staff] + [staff]

    def marked(self, staff: Staff, kind: type) -> Iterator[tuple[float, Music21Object]]:
        """Yield all marks of one music21 class in a staff, each with its position."""
        for start_q, bar in zip(self.starts_q, staff.bars, strict=False):
            yield from ((start_q + offset_q, mark) for offset_q, mark in bar.marks if isinstance(mark, kind))

    def hinted(self, staff: Staff, name: str) -> Iterator[tuple[float, dict[str, str]]]:
        """Yield all hints of one name in a staff, each with its position."""
        for start_q, bar in zip(self.starts_q, staff.bars, strict=False):
            yield from ((start_q + offset_q, hint) for offset_q, hint in bar.hints if name in hint)

    def _bar_marks(self, count: int) -> list[BarMarks]:
        """Collect the marks of all staves that decide the order of the bars."""
        from music21 import expressions, repeat, spanner

        marks = [BarMarks() for _ in range(count)]
        for staff in self.staves:
            measures = list(staff.stream.getElementsByClass("Measure"))
            for i, (measure, bar) in enumerate(zip(measures, staff.bars, strict=True)):
                _read_barlines(measure, marks[i])
                for offset_q, element in bar.marks:
                    if isinstance(element, repeat.RepeatExpression):
                        text = element.getText()
                    elif isinstance(element, expressions.TextExpression):
                        text = element.content or ""
                    else:
                        continue
                    # A sign at the end of a bar marks the beginning of the next one.
                    is_sign = text.strip().lower() in ("segno", "coda")
                    at_end = i + 1 < count and offset_q > 0 and offset_q >= bar.length_q - ROUND_Q
                    read_words(text, marks[i + 1] if at_end and is_sign else marks[i])
            index = {id(measure): i for i, measure in enumerate(measures)}
            for bracket in staff.stream.getElementsByClass(spanner.RepeatBracket):
                inside = [index[id(m)] for m in bracket.getSpannedElements() if id(m) in index]
                for i in range(min(inside, default=0), max(inside, default=-1) + 1):
                    marks[i].passes = frozenset(bracket.numberRange)
        return marks


def _read_barlines(measure: Measure, marks: BarMarks) -> None:
    from music21 import bar

    for line in (getattr(measure, "leftBarline", None), getattr(measure, "rightBarline", None)):
        if isinstance(line, bar.Repeat):
            if line.direction == "start":
                marks.starts = True
            else:
                marks.times = max(marks.times, min(line.times or 2, MAX_PASSES))


def _read_staff(part: Stream) -> Staff:
    """Sort the elements of each bar of a part into notes, marks and hints."""
    from music21.meter import TimeSignature

    bars: list[Bar] = []
    meter_q = 4.0
    for measure in part.getElementsByClass("Measure"):
        notes: list[WrittenNote] = []
        marks: list[tuple[float, Music21Object]] = []
        _collect(measure, 0.0, "", notes, marks)
        notes.sort(key=lambda n: n.start_q)
        hints = [(offset_q, hint) for offset_q, element in marks if (hint := read_hint(element))]
        marks = [mark for mark in marks if not str(getattr(mark[1], "content", "")).startswith(HINT)]
        signature = next((element for _, element in marks if isinstance(element, TimeSignature)), None)
        if signature is not None:
            meter_q = float(signature.barDuration.quarterLength) or 4.0  # 4 for music without a meter
        length = next((hint for _, hint in hints if "length" in hint or "rest" in hint), {"rest": "0"})
        length_q = float(length.get("length") or length["rest"])
        bars.append(Bar(notes, marks, hints, "length" in length, length_q, meter_q))
    return Staff(part, str(part.id).rsplit("-Staff", 1)[0], bars)


def _collect(
    stream: Stream, base_q: float, voice: str, notes: list[WrittenNote], marks: list[tuple[float, Music21Object]]
) -> None:
    """Append the elements of a measure and its voices to `notes` and `marks`."""
    from music21 import harmony
    from music21.note import GeneralNote
    from music21.stream import Stream

    for element in stream.elements:
        offset_q = base_q + float(stream.elementOffset(element))
        if isinstance(element, Stream):
            _collect(element, offset_q, str(element.id), notes, marks)
        elif isinstance(element, GeneralNote) and not isinstance(element, harmony.Harmony):
            notes.append(WrittenNote(offset_q, float(element.duration.quarterLength), element, voice))
        else:
            marks.append((offset_q, element))


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
    ends_q: dict[str, float] = {}
    printed: list[tuple[float, float]] = []
    for note in bar.notes:
        length_q = _printed_length(note.element)
        printed.append((ends_q.get(note.voice, 0.0), length_q))
        ends_q[note.voice] = printed[-1][0] + length_q
    if abs(max(ends_q.values(), default=0.0) - bar.meter_q) > ROUND_Q:
        if bar.length_q * ratio > bar.meter_q * ratio + ROUND_Q:
            return  # stretched already
        printed = [(note.start_q, note.length_q) for note in bar.notes]
    for note, (start_q, length_q) in zip(bar.notes, printed, strict=True):
        note.start_q, note.length_q = start_q * ratio, length_q * ratio
    bar.marks = [(offset_q * ratio, mark) for offset_q, mark in bar.marks]
    bar.hints = [(offset_q * ratio, hint) for offset_q, hint in bar.hints]


_TYPES_Q = {"breve": 8, "whole": 4, "half": 2, "quarter": 1, "eighth": 0.5, "16th": 0.25, "32nd": 0.125, "64th": 0.0625}


def _printed_length(element: GeneralNote) -> float:
    """Return the quarter notes of a note's printed value: head, flags, dots and tuplets; 0 for grace notes."""
    length = element.duration
    if length.isGrace or length.type not in _TYPES_Q:
        return 0.0 if length.isGrace else float(length.quarterLength)
    tuplets = math.prod(float(tuplet.tupletMultiplier()) for tuplet in length.tuplets)
    return float(_TYPES_Q[length.type] * (2 - 0.5**length.dots) * tuplets)

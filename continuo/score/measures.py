"""A music21 score laid out on one written line: what stands in which bar of which staff, and how long the bars are.

Every bar has one place on the written line, in quarter notes from the beginning; repeats are not written out. Staves
are aligned bar by bar, so a staff in a metre of its own, or with a badly filled bar, does not drift from the others.
Nothing is copied inside music21, which is what makes this fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from continuo.score.musicxml import HINT, MAX_PASSES, read_hint
from continuo.score.repeats import Marks, playing_order, read_words

if TYPE_CHECKING:
    from music21.stream import Score

ROUND_Q = 1e-4
"""Places closer than this are the same place: MusicXML divisions of triplets are not exact."""


@dataclass(slots=True)
class Written:
    """One note, chord or rest of the page.

    Attributes:
        start_q, length_q: quarter notes, within its bar; a grace note has no length.
        element: music21's Note, Chord, Unpitched, PercussionChord or Rest.
        voice: name of the voice in its bar, "" without voices.
    """

    start_q: float
    length_q: float
    element: Any
    voice: str


@dataclass
class Staff:
    """One music21 part.

    Attributes:
        group: the instrument it belongs to; the staves of a piano share it.
        bars: notes, chords and rests of each bar, by place.
        marks: everything else in each bar, with its place in the bar.
        hints: what `continuo.score.musicxml` left in each bar, with its place.
        lengths: of each bar: whether by more than a bar-long rest, and the length in quarter notes.
        metres_q: length of each bar when full, as the time signature in force says.
    """

    stream: Any
    group: str = ""
    bars: list[list[Written]] = field(default_factory=list)
    marks: list[list[tuple[float, Any]]] = field(default_factory=list)
    hints: list[list[tuple[float, dict[str, str]]]] = field(default_factory=list)
    lengths: list[tuple[bool, float]] = field(default_factory=list)
    meters_q: list[float] = field(default_factory=list)


class Page:
    """A score on one written line.

    Attributes:
        staves: one for each part that has bars.
        starts_q: where each bar begins, and one more for the end.
        order: bars in playing order.
        warnings: what is met and not performed; the values are unused, the keys keep their order.
    """

    def __init__(self, score: Score) -> None:
        """Raises ValueError for repeats without end."""
        self.warnings: dict[str, None] = {}
        self.staves = [_read_staff(part) for part in _parts(score)]
        count = max((len(staff.bars) for staff in self.staves), default=0)
        self.starts_q = [0.0]
        for i in range(count):
            self.starts_q.append(self.starts_q[-1] + _align([s for s in self.staves if i < len(s.bars)], i))
        self.order = playing_order(self._repeat_marks(count))

    def warn(self, text: str) -> None:
        """Name something that is not performed; a second time changes nothing."""
        self.warnings[text] = None

    def place(self, bar: int, offset_q: float) -> float:
        """A place in a bar on the written line."""
        return self.starts_q[bar] + offset_q

    def family(self, staff: Staff) -> list[Staff]:
        """All staves of the same instrument, this one last: where they disagree, its own marks come last."""
        return [s for s in self.staves if s.group == staff.group and s is not staff] + [staff]

    def marked(self, staff: Staff, kind: type) -> Iterator[tuple[float, Any]]:
        """All marks of a music21 class in a staff, with their place on the written line."""
        for i, marks in enumerate(staff.marks):
            for offset_q, element in marks:
                if isinstance(element, kind):
                    yield self.starts_q[i] + offset_q, element

    def hinted(self, staff: Staff, name: str) -> Iterator[tuple[float, dict[str, str]]]:
        """All hints of a name in a staff, with their place on the written line."""
        for i, hints in enumerate(staff.hints):
            for offset_q, hint in hints:
                if name in hint:
                    yield self.starts_q[i] + offset_q, hint

    def notes(self, staff: Staff) -> Iterator[tuple[float, Written]]:
        """All notes, chords and rests of a staff, with their place on the written line."""
        for i, bar in enumerate(staff.bars):
            for written in bar:
                yield self.starts_q[i] + written.start_q, written

    def _repeat_marks(self, count: int) -> list[Marks]:
        """What the bars of all staves together say about their order."""
        from music21 import expressions, repeat, spanner

        marks = [Marks() for _ in range(count)]
        for staff in self.staves:
            measures = _measures(staff.stream)
            for i, measure in enumerate(measures):
                _read_barlines(measure, marks[i])
                for offset_q, element in staff.marks[i]:
                    text = ""
                    if isinstance(element, repeat.RepeatExpression):
                        text = element.getText()
                    elif isinstance(element, expressions.TextExpression):
                        text = element.content or ""
                    at_end = i + 1 < count and offset_q > 0 and offset_q >= staff.lengths[i][1] - ROUND_Q
                    is_place = text.strip().lower() in ("segno", "coda")  # a place belongs to the bar that it begins
                    read_words(text, marks[i + 1] if at_end and is_place else marks[i])
            index = {id(measure): i for i, measure in enumerate(measures)}
            for bracket in staff.stream.getElementsByClass(spanner.RepeatBracket):
                inside = [index[id(m)] for m in bracket.getSpannedElements() if id(m) in index]
                for i in range(min(inside, default=0), max(inside, default=-1) + 1):
                    marks[i].passes, marks[i].ending = frozenset(bracket.numberRange), min(inside)
        return marks


def _read_barlines(measure: Any, marks: Marks) -> None:
    """Repeat signs of one measure."""
    from music21 import bar

    for line in (getattr(measure, "leftBarline", None), getattr(measure, "rightBarline", None)):
        if isinstance(line, bar.Repeat):
            if line.direction == "start":
                marks.starts = True
            else:
                marks.times = max(marks.times, min(line.times or 2, MAX_PASSES))


def _parts(score: Any) -> list[Any]:
    """The part streams of a score; a stream without parts is its own part."""
    parts = list(score.parts) if hasattr(score, "parts") else []
    return parts or [score]


def _measures(part: Any) -> list[Any]:
    """A part's measures; a part without measures is one measure."""
    from music21.stream import Measure

    return list(part.getElementsByClass(Measure)) or [part]


def _read_staff(part: Any) -> Staff:
    """Sort what stands in each bar of a part."""
    from music21.meter import TimeSignature

    staff = Staff(part, group=str(part.id).rsplit("-Staff", 1)[0])
    metre_q = 4.0
    for measure in _measures(part):
        notes: list[Written] = []
        marks: list[tuple[float, Any]] = []
        _collect(measure, 0.0, "", notes, marks)
        notes.sort(key=lambda n: n.start_q)
        hints = [(offset_q, read_hint(element)) for offset_q, element in marks]
        hints = [(offset_q, hint) for offset_q, hint in hints if hint]
        marks = [mark for mark in marks if not str(getattr(mark[1], "content", "")).startswith(HINT)]
        metre_q = next((_metre(element) for _, element in marks if isinstance(element, TimeSignature)), metre_q)
        staff.bars.append(notes)
        staff.marks.append(marks)
        staff.hints.append(hints)
        staff.meters_q.append(metre_q)
        staff.lengths.append(_bar_length(notes, hints))
    return staff


def _metre(signature: Any) -> float:
    """Quarter notes in a full bar; 4 for a senza-misura signature."""
    return float(signature.barDuration.quarterLength) or 4.0


def _collect(stream: Any, base_q: float, voice: str, notes: list[Written], marks: list[tuple[float, Any]]) -> None:
    """Walk a measure and its voices."""
    from music21 import harmony
    from music21.note import GeneralNote
    from music21.stream import Stream

    for element in stream.elements:
        offset_q = base_q + float(stream.elementOffset(element))
        if isinstance(element, Stream):
            _collect(element, offset_q, str(element.id), notes, marks)
        elif isinstance(element, GeneralNote) and not isinstance(element, harmony.Harmony):
            notes.append(Written(offset_q, float(element.duration.quarterLength), element, voice))
        else:
            marks.append((offset_q, element))


def _align(staves: list[Staff], i: int) -> float:
    """How long bar i is in all staves; a staff in a metre of its own (12/8 against 4/4) is first fitted to the others.

    A filled bar decides before any bar of rest.
    """
    meters_q = [staff.meters_q[i] for staff in staves]
    lengths_q = [staff.lengths[i][1] for staff in staves]
    filled = {metre_q: sum(abs(length_q - metre_q) < ROUND_Q for length_q in lengths_q) for metre_q in meters_q}
    common_q = max(reversed(meters_q), key=lambda metre_q: (filled[metre_q], meters_q.count(metre_q)))
    agreeing = [staff.lengths[i] for staff, metre_q in zip(staves, meters_q, strict=True) if metre_q == common_q]
    for staff, metre_q in zip(staves, meters_q, strict=True):
        if metre_q != common_q:
            _fit(staff, i, common_q / metre_q)
    return max(agreeing)[1]


def _fit(staff: Staff, i: int, ratio: float) -> None:
    """Stretch a staff's bar by a ratio.

    MuseScore writes such bars with the durations of their rests stretched and those of their notes not. Where the
    printed values fill the metre, they are taken instead of the durations.
    """
    ends_q: dict[str, float] = {}
    printed: list[tuple[float, float]] = []
    for note in staff.bars[i]:
        length_q = _printed_length(note.element)
        printed.append((ends_q.get(note.voice, 0.0), length_q))
        ends_q[note.voice] = printed[-1][0] + length_q
    if abs(max(ends_q.values(), default=0.0) - staff.meters_q[i]) > ROUND_Q:
        if staff.lengths[i][1] * ratio > staff.meters_q[i] * ratio + ROUND_Q:
            return  # stretched already
        printed = [(note.start_q, note.length_q) for note in staff.bars[i]]
    for note, (start_q, length_q) in zip(staff.bars[i], printed, strict=True):
        note.start_q, note.length_q = start_q * ratio, length_q * ratio
    staff.marks[i] = [(offset_q * ratio, element) for offset_q, element in staff.marks[i]]
    staff.hints[i] = [(offset_q * ratio, hint) for offset_q, hint in staff.hints[i]]


def _printed_length(element: Any) -> float:
    """Quarter notes that a note's head, flags, dots and tuplets stand for; 0 for grace notes."""
    length = element.duration
    if length.isGrace or length.type not in _TYPES_Q:
        return 0.0 if length.isGrace else float(length.quarterLength)
    tuplets = 1.0
    for tuplet in length.tuplets:
        tuplets *= float(tuplet.tupletMultiplier())
    return float(_TYPES_Q[length.type] * (2 - 0.5**length.dots) * tuplets)


_TYPES_Q = {"breve": 8, "whole": 4, "half": 2, "quarter": 1, "eighth": 0.5, "16th": 0.25, "32nd": 0.125, "64th": 0.0625}


def _bar_length(notes: list[Written], hints: list[tuple[float, dict[str, str]]]) -> tuple[bool, float]:
    """How long a bar is, and whether by more than a bar-long rest: as the file says, else by its notes."""
    for _, hint in hints:
        if "length" in hint or "rest" in hint:
            return "length" in hint, float(hint.get("length") or hint["rest"])
    ends = [n.start_q + n.length_q for n in notes if not _is_bar_rest(n.element)]
    return bool(ends), max(ends or [n.start_q + n.length_q for n in notes], default=0.0)


def _is_bar_rest(element: Any) -> bool:
    return bool(element.isRest and element.fullMeasure is True)

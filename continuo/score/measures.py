"""A score as it is written: the chords and marks of each bar of each staff, at sounding pitch.

`continuo.score.reader` fills these classes from MusicXML. Each bar has one position, in quarter notes from the
beginning of the score as written; repeats are not unfolded here. All staves are aligned at every barline, so a staff in
a meter of its own, or with a badly filled bar, does not drift.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import NamedTuple, TypeVar

from continuo.score.notes import Tie
from continuo.score.repeats import BarMarks, lost_jumps, play_bars

ROUND_Q = 1e-4  # quarter notes; positions closer than this are equal, since MusicXML divides triplets inexactly
FULL_VOLUME = 100 / 1.27  # percent; the channel volume 100 of 127, which General MIDI takes where none is stated
NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C
STEPS = "CDEFGAB"
SHARPS = "FCGDAEB"  # order of the sharps in key signatures; that of the flats is the reverse
TYPES_Q = {
    "maxima": 32.0, "long": 16.0, "breve": 8.0, "whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 1 / 2,
    "16th": 1 / 4, "32nd": 1 / 8, "64th": 1 / 16, "128th": 1 / 32, "256th": 1 / 64, "512th": 1 / 128, "1024th": 1 / 256,
}  # fmt: skip
"""Quarter notes of the types of notes."""
SILENT_STAVES = ("alternate", "cue", "ossia")  # staff types that repeat other music, or stand next to it
T = TypeVar("T")
Placed = list[tuple[float, T]]  # marks with their positions in the bar, in quarter notes


@dataclass(frozen=True)
class Instrument:
    """One instrument of a part as the score states it."""

    name: str  # its name, else that of the part
    sound: str = ""  # MusicXML's name of its sound, such as "wind.flutes.flute"
    program: int | None = None  # General MIDI, 0 to 127
    is_drum: bool = False  # on MIDI channel 10
    key: int | None = None  # General MIDI percussion key, 0 to 127
    volume: float = FULL_VOLUME  # percent


@dataclass(slots=True)
class Head:
    """One note of a chord."""

    step: str  # letter; for percussion that of the place on the staff
    octave: int
    alter: float = 0.0  # semitones
    is_pitched: bool = True  # False for <unpitched>
    tie: Tie = (False, False)
    instrument: int = 0  # index among the instruments of the part
    names_instrument: bool = False
    velocity: float | None = None  # MIDI velocity that the note states
    passes: frozenset[int] = frozenset()  # passes of the bar in which alone it sounds; empty for all
    is_pizzicato: bool = False
    roll: tuple[int, int] | None = None  # place in its arpeggio, and number of notes in it

    @property
    def pitch(self) -> float:
        """MIDI number; fractional for quarter tones."""
        return NATURALS[self.step] + 12 * (self.octave + 1) + self.alter


@dataclass(slots=True, eq=False)
class Chord:
    """One note, chord or rest as written; a rest has no heads."""

    start_q: float  # quarter notes from the beginning of the bar
    length_q: float  # quarter notes; 0 for a grace note
    printed_q: float  # quarter notes of the printed value: head, flags, dots and tuplets
    voice: str
    heads: list[Head] = field(default_factory=list)
    is_grace: bool = False
    is_slashed: bool = False
    dots: int = 0
    flags: int = 0
    tuplet: float = 1.0  # ratio of the written to the played length, inverted: 2/3 in a triplet
    marks: set[str] = field(default_factory=set)  # elements of <notations>; "slur" on all notes of one but the last
    neighbors: dict[int, float] = field(default_factory=dict)  # alterations in an ornament, by steps from the note
    tremolo: int = 0  # marks of a tremolo on this chord, or on it and its partner
    first: Chord | None = None  # first chord of a tremolo on two, of which this is the second
    second: Chord | None = None
    goal: Chord | None = None  # end of a glissando
    arpeggio: tuple[str, bool, bool] | None = None  # number of the sign, whether it goes down, and is unbroken
    staff_type: str = ""  # "TAB", "ossia" and the like in special staves


class Key(NamedTuple):
    """A key signature."""

    fifths: int | None  # number of sharps, of flats below 0; None if it is no usual one
    is_minor: bool
    alters: dict[str, float]  # semitones by letter


class Meter(NamedTuple):
    """A time signature."""

    numerator: int
    denominator: int

    @property
    def length_q(self) -> float:
        """Quarter notes of a full bar."""
        return 4.0 * self.numerator / self.denominator


class TempoMark(NamedTuple):
    """A tempo: a number, or a relation to the tempo before."""

    qpm: float | None  # quarter notes per minute; None for a relation
    ratio: float = 1.0  # new tempo / old tempo
    is_for_playback: bool = False  # in a <sound>, which outweighs printed tempos


class Wedge(NamedTuple):
    """The beginning of a hairpin (sign 1 or -1), or its end (sign 0)."""

    sign: int
    number: str


@dataclass
class Marks:
    """The marks of a bar of a staff other than its notes."""

    dynamics: Placed[str | float] = field(default_factory=list)  # names, or MIDI velocities
    wedges: Placed[Wedge] = field(default_factory=list)
    pedals: Placed[str] = field(default_factory=list)  # types of <pedal>
    words: Placed[str] = field(default_factory=list)
    techniques: Placed[str] = field(default_factory=list)  # "pizz." or "arco" of a <sound>
    tempos: Placed[TempoMark] = field(default_factory=list)
    swings: Placed[tuple[float, float]] = field(default_factory=list)  # unit in quarter notes, part of the first note
    keys: Placed[Key] = field(default_factory=list)
    meters: Placed[Meter] = field(default_factory=list)

    def place(self, change: Callable[[float], float] = lambda q: q) -> None:
        """Change all positions, and sort the marks by them."""
        for found in vars(self).values():
            found[:] = sorted(((change(q), mark) for q, mark in found), key=lambda entry: entry[0])


@dataclass
class Bar:
    """One bar of one staff."""

    meter_q: float  # quarter notes of a full bar in the meter in force
    chords: list[Chord] = field(default_factory=list)  # sorted
    marks: Marks = field(default_factory=Marks)
    is_filled: bool = False  # whether the bar holds more than a bar-long rest
    length_q: float = 0.0  # quarter notes of the bar as it is written


@dataclass(frozen=True)
class Staff:
    """One staff: the id and name of its part, shared with the other staves of the part, and its bars."""

    group: str
    name: str
    bars: list[Bar]


class WrittenScore:
    """A score laid out in aligned bars."""

    def __init__(
        self,
        staves: list[Staff],
        instruments: dict[str, list[Instrument]],
        order: list[BarMarks],
        warnings: Iterable[str] = (),
        sung: Collection[str] = (),
    ) -> None:
        """Align staves; raise ValueError if the repeats never end.

        Args:
            staves: all staves of the score.
            instruments: those of each part, by `Staff.group`; the first one is for notes that name none.
            order: for each bar, the marks that decide the order of the bars.
            warnings: names of marks that are not performed.
            sung: parts with lyrics, by `Staff.group`.
        """
        self.sung = sung
        self.staves, self._instruments = staves, instruments
        self.warnings: dict[str, None] = dict.fromkeys(warnings)  # as keys, in order
        stated = [instrument.volume for part in instruments.values() for instrument in part]
        self.full_volume = max([FULL_VOLUME, *stated])  # percent, of instruments that play as loud as they are marked
        lengths_q = (_align([bar for bar in bars if bar]) for bars in zip_longest(*(s.bars for s in staves)))
        self.starts_q = list(accumulate(lengths_q, initial=0.0))  # position of each bar, and of the end
        played = play_bars(order)
        self.order = [i for i, _ in played]  # indices of the bars in playing order
        self.passes = [number for _, number in played]  # pass of each of them, from 1
        self.warnings |= dict.fromkeys(lost_jumps(order))

    def warn(self, text: str) -> None:
        """Name a mark that is not performed; repetitions are ignored."""
        self.warnings[text] = None

    def instruments(self, staff: Staff) -> list[Instrument]:
        """Return the instruments of a staff's part; the first one is for notes that name none."""
        return self._instruments[staff.group]

    def family(self, staff: Staff) -> list[Staff]:
        """Return all staves of an instrument, the given one last, so that its own marks win where they differ."""
        return [s for s in self.staves if s.group == staff.group and s is not staff] + [staff]

    def marked(self, staves: list[Staff], kind: Callable[[Marks], Placed[T]]) -> Placed[T]:
        """Return all marks of one kind in some staves, each with its position in the score."""
        return [
            (start_q + offset_q, mark)
            for staff in staves
            for start_q, bar in zip(self.starts_q, staff.bars, strict=False)
            for offset_q, mark in kind(bar.marks)
        ]


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
    for chord in bar.chords:
        printed.append((ends_q[chord.voice], chord.printed_q))
        ends_q[chord.voice] += chord.printed_q
    if abs(max(ends_q.values(), default=0.0) - bar.meter_q) > ROUND_Q:
        if bar.length_q > bar.meter_q + ROUND_Q / ratio:
            return  # stretched already
        printed = [(chord.start_q, chord.length_q) for chord in bar.chords]
    for chord, (start_q, length_q) in zip(bar.chords, printed, strict=True):
        chord.start_q, chord.length_q = start_q * ratio, length_q * ratio
    bar.marks.place(lambda offset_q: offset_q * ratio)


def pair_tremolos(marks: list[tuple[str, int, Chord]]) -> None:
    """Join the two chords of each tremolo in a bar, which may stand in two voices or staves."""
    seconds = [chord for kind, _, chord in marks if kind == "stop"]
    for kind, strokes, first in marks:
        if kind == "start" and seconds and first.second is None:
            end_q = first.start_q + first.length_q
            second = min(seconds, key=lambda c: (abs(c.start_q - end_q) > ROUND_Q, c.voice != first.voice))
            seconds.remove(second)
            first.second, second.first, first.tremolo = second, first, strokes


def place_arpeggios(chords: list[Chord]) -> None:
    """Give the notes of arpeggios in a bar their places.

    Chords that begin together are one arpeggio if their signs have one number, or if they say that it is unbroken.
    """
    found: dict[tuple[float, str], list[Chord]] = defaultdict(list)
    for chord in chords:
        if chord.arpeggio is not None and not chord.is_grace:
            number, _, is_unbroken = chord.arpeggio
            name = number or ("unbroken" if is_unbroken else f"alone {len(found)}")
            found[round(chord.start_q, 4), name].append(chord)
    for members in found.values():
        is_down = any(chord.arpeggio is not None and chord.arpeggio[1] for chord in members)
        heads = [head for chord in members for head in chord.heads]
        for place, head in enumerate(sorted(heads, key=lambda head: head.pitch, reverse=is_down)):
            head.roll = (place, len(heads)) if len(heads) > 1 else None


def silence_alternates(staves: list[Staff], warn: Callable[[str], None]) -> None:
    """Remove the notes of staves that only repeat others.

    These are staves of the types `SILENT_STAVES` in measures where another staff of the part has notes, and tablatures
    whose notes another staff has in the same measure. A part in tablature alone is one where another part is equal.
    """
    chords = [[(i, chord) for i, bar in enumerate(staff.bars) for chord in bar.chords] for staff in staves]
    if not any(chord.staff_type for members in chords for _, chord in members):
        return
    strokes = [{_stroke(i, c, h) for i, c in members for h in c.heads if not h.tie[0]} for members in chords]
    plain = [
        {_stroke(i, c, h) for i, c in members if not c.staff_type for h in c.heads if not h.tie[0]}
        for members in chords
    ]
    for k, staff in enumerate(staves):
        family = [plain[n] for n, other in enumerate(staves) if other.group == staff.group and n != k]
        shared = set[tuple[int, float, float]]().union(*family)
        bars = {i for i, _, _ in shared}
        strays = {i for i, _, _ in strokes[k] - shared}  # bars with notes that no other staff has
        others = [plain[n] for n, other in enumerate(staves) if other.group != staff.group]
        repeats_part = all(c.staff_type for _, c in chords[k] if c.heads) and strokes[k] in others
        for i, chord in chords[k]:
            is_other = chord.staff_type in SILENT_STAVES and i in bars
            if chord.heads and (repeats_part or is_other or (chord.staff_type == "TAB" and i not in strays)):
                chord.heads.clear()
                if chord.staff_type == "ossia":
                    warn("not performed: ossia")


def _stroke(i: int, chord: Chord, head: Head) -> tuple[int, float, float]:
    """Return what two strokes of the same note have in common: bar, position and pitch."""
    return i, round(chord.start_q, 4), head.pitch

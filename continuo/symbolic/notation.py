"""Notes as a player reads them: bars, voices, and the values to write, on a grid of 1/12 quarter.

16ths and triplets down to 32nds lie on the grid exactly; anything else is moved by at most 1/24 quarter. Wherever
thirds of a quarter, eighth or 16th come in, that whole span is one bracket of three in the time of two, never a part.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import NamedTuple

from continuo.symbolic.song import QUARTER, Song, SongNote

UNITS = 12
"""Of a quarter note: the finest value is a 32nd of a triplet."""
UNIT = QUARTER // UNITS
SIXTEENTH = UNITS // 4
BRACKETS = {12: "eighth", 6: "16th", 3: "32nd"}
"""Spans that may become a bracket, in units, and the value of which it holds three."""
PLAIN = {
    1: ("16th", 0), 2: ("eighth", 0), 3: ("eighth", 1), 4: ("quarter", 0), 6: ("quarter", 1), 8: ("half", 0),
    12: ("half", 1), 16: ("whole", 0), 24: ("whole", 1),
}  # fmt: skip
"""Values outside brackets by their length in 16ths: type and dots."""
BRACKETED = {8: ("quarter", 0), 6: ("eighth", 1), 4: ("eighth", 0), 3: ("16th", 1), 2: ("16th", 0), 1: ("32nd", 0)}
"""Values inside brackets by their sounding length in units, the longest first."""
EDGE = 99
"""Strength of a bar line, above that of any beat."""


class Bar(NamedTuple):
    """A bar: `start` and `length` in units; `is_new` where its meter has not been in force."""

    start: int
    length: int
    numerator: int
    denominator: int
    is_new: bool


class Chord(NamedTuple):
    """Notes that begin and end together, in units."""

    start: int
    end: int
    pitches: tuple[int, ...]


class NoteValue(NamedTuple):
    """One written note, chord or rest.

    Attributes:
        start, length: units, from the beginning of the bar.
        pitches: MIDI numbers, none for a rest.
        from_tie, to_tie: whether it is tied to what is before and after it.
        type, dots: as in MusicXML.
        bracket: what the bracket around it holds three of, in the time of two; "" outside brackets.
        edge: "start" and "stop" for the first and last value of a bracket.
    """

    start: int
    length: int
    pitches: tuple[int, ...]
    from_tie: bool
    to_tie: bool
    type: str
    dots: int
    bracket: str = ""
    edge: str = ""


def to_units(tick: int) -> int:
    """Ticks rounded to units, halves up."""
    return (tick + UNIT // 2) // UNIT


def span(note: SongNote) -> tuple[int, int]:
    """Where a note begins and ends, in units, at least one apart."""
    start = to_units(note.onset)
    return start, max(to_units(note.end), start + 1)


def bars(song: Song) -> list[Bar]:
    """Bars from the beginning to the end of the song and of its last note; the last one is whole.

    They begin at whole 16ths, and so do meters. Where a meter ends within a bar, that bar has a shorter meter of its
    own: many programs do not read incomplete bars. 32nds and what else is not 1, 2, 4, 8 or 16 are counted as 16ths.
    """
    end = max([1, to_units(song.ticks), *(span(note)[1] for note in song.notes)])
    changes = {0: song.meter_at(0)}
    for tick, *meter in song.meters:
        at = (2 * tick // (UNIT * SIXTEENTH) + 1) // 2 * SIXTEENTH
        if tick > 0 and at < end:
            changes[at] = (meter[0], meter[1])
    found: list[Bar] = []
    for (start, (numerator, denominator)), until in zip_longest(changes.items(), list(changes)[1:]):
        unit = denominator if denominator in (1, 2, 4, 8, 16) else 16
        whole = 4 * UNITS // unit * numerator
        for at in range(start, until or end, whole):
            length = min(whole, until - at) if until else whole
            least = next(u for u in (4, 8, 16) if length * u % (4 * UNITS) == 0)
            meter = [numerator, unit] if length == whole else [length * least // (4 * UNITS), least]
            is_new = not found or list(found[-1][2:4]) != meter
            found.append(Bar(at, length, meter[0], meter[1], is_new))
    return found


def voices(notes: Iterable[SongNote], bars: Sequence[Bar]) -> list[list[list[Chord]]]:
    """For each bar its voices, the highest first, each with the chords that sound in it, those held over included.

    A chord goes to the first voice if nothing is held, else to the free voice that is nearest in pitch; voices are
    ordered anew at every bar line over which nothing is held. Notes of one pitch that begin and end together are one.
    """
    together: dict[tuple[int, int], set[int]] = defaultdict(set)
    for note in notes:
        together[span(note)].add(note.pitch)
    chords = [Chord(*times, tuple(sorted(pitches))) for times, pitches in together.items()]
    starts = [bar.start for bar in bars]
    found: list[list[list[Chord]]] = [[] for _ in bars]
    running: list[list[Chord]] = []
    for chord in sorted(chords, key=lambda c: (c.start, -c.pitches[-1], c)):
        if all(voice[-1].end <= starts[bisect_right(starts, chord.start) - 1] for voice in running):
            _enter(running, starts, found)
            running = []
        free = [voice for voice in running if voice[-1].end <= chord.start]
        if not free:
            running.append([chord])
        elif len(free) == len(running):
            running[0].append(chord)
        else:
            min(free, key=lambda voice: abs(_mean([voice[-1]]) - _mean([chord]))).append(chord)
    _enter(running, starts, found)
    return found


def _mean(chords: Iterable[Chord]) -> float:
    pitches = [pitch for chord in chords for pitch in chord.pitches]
    return sum(pitches) / len(pitches)


def _enter(running: list[list[Chord]], starts: list[int], found: list[list[list[Chord]]]) -> None:
    """Enter voices into their bars: the same number of voices in each, so that a tie finds its voice."""
    if not running:
        return
    first = bisect_right(starts, min(voice[0].start for voice in running)) - 1
    last = bisect_right(starts, max(voice[-1].end for voice in running) - 1) - 1
    for k in range(first, last + 1):
        found[k] = [[] for _ in running]
    for number, voice in enumerate(sorted(running, key=_mean, reverse=True)):
        for chord in voice:
            for k in range(bisect_right(starts, chord.start) - 1, bisect_right(starts, chord.end - 1)):
                found[k][number].append(chord)


def strokes(notes: Iterable[SongNote], bars: Sequence[Bar]) -> list[list[list[Chord]]]:
    """As `voices`, for percussion: one voice, each stroke until the next one or the next quarter."""
    keys: dict[int, set[int]] = defaultdict(set)
    for note in notes:
        keys[to_units(note.onset)].add(note.pitch)
    starts = [bar.start for bar in bars]
    found: list[list[list[Chord]]] = [[] for _ in bars]
    for now, after in pairwise([*sorted(keys), bars[-1].start + bars[-1].length]):
        k = bisect_right(starts, now) - 1
        beat = now + UNITS - (now - starts[k]) % UNITS
        chord = Chord(now, min(after, beat, starts[k] + bars[k].length), tuple(sorted(keys[now])))
        found[k] = [[*(found[k][0] if found[k] else []), chord]]
    return found


def values(chords: Sequence[Chord], bar: Bar) -> list[NoteValue]:
    """The values of one voice in one bar, which they fill; `chords` sound in it, one after the other.

    >>> [(v.pitches, v.type, v.dots) for v in values([Chord(6, 15, (60,))], Bar(0, 48, 4, 4, True))]
    [((), 'eighth', 0), ((60,), 'eighth', 0), ((60,), '16th', 0), ((), 'eighth', 1), ((), 'half', 0)]
    """
    stretches: list[tuple[int, int, tuple[int, ...], bool, bool]] = []
    now = 0
    for chord in chords:
        start, end = max(chord.start - bar.start, 0), min(chord.end - bar.start, bar.length)
        if start > now:
            stretches.append((now, start, (), False, False))
        over = chord.end > bar.start + bar.length
        stretches.append((start, end, chord.pitches, chord.start < bar.start, over))
        now = end
    if now < bar.length:
        stretches.append((now, bar.length, (), False, False))
    tuplets = dict(_brackets({start for start, *_ in stretches}, bar))
    edges = {edge for start, length in tuplets.items() for edge in (start, start + length)}
    found: list[NoteValue] = []
    for start, end, pitches, before, after in stretches:
        cuts = [start, *sorted(edge for edge in edges if start < edge < end), end]
        for at, length, kind, dots, bracket, edge in (p for a, b in pairwise(cuts) for p in _parts(a, b, bar, tuplets)):
            is_note = bool(pitches)
            tied = (is_note and (before or at > start), is_note and (after or at + length < end))
            found.append(NoteValue(at, length, pitches, *tied, kind, dots, bracket, edge))
    return found


def _spans(bar: Bar) -> Iterator[tuple[int, int]]:
    """Start and length of what may become a bracket: quarters, then what they leave of a beat or bar."""
    group = 12 * UNITS // bar.denominator if _is_compound(bar) else bar.length
    for first in range(0, bar.length, group):
        end = min(first + group, bar.length)
        for length in BRACKETS:
            while end - first >= length:
                yield first, length
                first += length


def _brackets(starts: set[int], bar: Bar) -> Iterator[tuple[int, int]]:
    """Start and length of the brackets of a voice whose values begin at `starts`: the shortest that are whole."""
    waiting = list(_spans(bar))
    while waiting:
        first, length = waiting.pop()
        inside = {start for start in starts if first < start < first + length}
        half = length // 2
        if all(start % SIXTEENTH == 0 for start in inside):
            continue
        if half in BRACKETS and first + half in inside:
            waiting += [(first, half), (first + half, half)]
        else:
            yield first, length


def _parts(start: int, end: int, bar: Bar, tuplets: dict[int, int]) -> Iterator[tuple[int, int, str, int, str, str]]:
    """Start, length, type, dots, bracket and edge of the values that `start` to `end` is written in."""
    first = next((b for b, length in tuplets.items() if b <= start < b + length), None)
    if first is None:
        for at, sixteenths in _split(start // SIXTEENTH, end // SIXTEENTH, bar):
            yield at * SIXTEENTH, sixteenths * SIXTEENTH, *PLAIN[sixteenths], "", ""
        return
    length = tuplets[first]
    while start < end:
        part = next(units for units in BRACKETED if units <= end - start)
        edge = "start" if start == first else "stop" if start + part == first + length else ""
        yield start, part, *BRACKETED[part], BRACKETS[length], edge
        start += part


def _split(start: int, end: int, bar: Bar) -> list[tuple[int, int]]:
    """Start and length, in 16ths, of the plain values for `start` to `end`: cut at strong places until they read well.

    A value reads well if it exists, begins at a multiple of half of it (dots aside), and goes over no place that is
    stronger by two than the weaker one of its ends: an eighth between 16ths, but no quarter.
    """
    length = end - start
    inner = {place: _strength(place, bar) for place in range(start + 1, end)}
    half = (1 << length.bit_length() - 1) // 2 or 1
    weaker = min(_strength(start, bar), _strength(end, bar))
    if length in PLAIN and start % half == 0 and max(inner.values(), default=0) <= weaker + 1:
        return [(start, length)]
    cut = max(inner, key=lambda place: (inner[place], place))
    return _split(start, cut, bar) + _split(cut, end, bar)


def _strength(place: int, bar: Bar) -> int:
    """How strong a place of a bar is, in 16ths from its beginning: how often its distance can be halved."""
    total = bar.length // SIXTEENTH
    if place in (0, total):
        return EDGE
    if _is_compound(bar):
        beat = 48 // bar.denominator
        return 3 + _halvings(place // beat) if place % beat == 0 else min(_halvings(place % beat), 1)
    return min(_halvings(place), _halvings(total))


def _halvings(number: int) -> int:
    """How often a positive number can be halved."""
    return (number & -number).bit_length() - 1


def _is_compound(bar: Bar) -> bool:
    """Whether its beats have three parts, as in 6/8."""
    return bar.numerator % 3 == 0 and bar.denominator >= 8

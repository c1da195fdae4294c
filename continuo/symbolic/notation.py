"""Arrange notes as a player reads them: bars, voices and note values, on a grid of 1/12 of a quarter note.

16ths, and triplets down to 32nds, lie on the grid exactly; anything else moves by at most 1/24 of a quarter. Where
thirds of a quarter, eighth or 16th occur, that whole span becomes one tuplet, three in the time of two, never a part.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest
from statistics import mean
from typing import NamedTuple

from continuo.symbolic.grid import nearest_step
from continuo.symbolic.song import QUARTER, Song, SongNote

UNITS = 12  # of a quarter note; the shortest value is a 32nd in a tuplet
UNIT = QUARTER // UNITS  # ticks
SIXTEENTH = UNITS // 4  # units
TUPLETS = {12: "eighth", 6: "16th", 3: "32nd"}  # spans that may become a tuplet, in units, and what it has three of
PLAIN_VALUES = {
    1: ("16th", 0), 2: ("eighth", 0), 3: ("eighth", 1), 4: ("quarter", 0), 6: ("quarter", 1), 8: ("half", 0),
    12: ("half", 1), 16: ("whole", 0), 24: ("whole", 1),
}  # fmt: skip
"""Type and dots outside tuplets, by length in 16ths."""
TUPLET_VALUES = {8: ("quarter", 0), 6: ("eighth", 1), 4: ("eighth", 0), 3: ("16th", 1), 2: ("16th", 0), 1: ("32nd", 0)}
"""Type and dots inside tuplets, by sounding length in units, the longest first."""
BAR_LINE_STRENGTH = 99  # above that of any beat


class Bar(NamedTuple):
    """A bar: `start` and `length` in units; `is_new_meter` if its meter differs from the bar before."""

    start: int
    length: int
    numerator: int
    denominator: int
    is_new_meter: bool

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def is_compound(self) -> bool:
        """True if the beats have three parts, as in 6/8."""
        return self.numerator % 3 == 0 and self.denominator >= 8


class Chord(NamedTuple):
    """Notes that begin and end together, in units."""

    start: int
    end: int
    pitches: tuple[int, ...]


class NoteValue(NamedTuple):
    """One written note, chord or rest."""

    start: int  # units, from the beginning of the bar
    length: int  # units
    pitches: tuple[int, ...]  # MIDI numbers; none for a rest
    from_tie: bool  # whether it is tied to what comes before
    to_tie: bool  # and after
    type: str  # note value as in MusicXML
    dots: int
    tuplet: str = ""  # the value that its tuplet has three of, in the time of two; "" outside tuplets
    edge: str = ""  # "start" and "stop" for the first and last value of a tuplet


def to_units(tick: int) -> int:
    return nearest_step(tick, UNIT)


def span(note: SongNote) -> tuple[int, int]:
    """Return the beginning and end of a note in units, at least one apart."""
    start = to_units(note.onset)
    return start, max(to_units(note.end), start + 1)


def bars(song: Song) -> list[Bar]:
    """Return whole bars from the beginning of a song to its end and that of its last note.

    Bars and meters begin at whole 16ths. Where a meter ends within a bar, that bar has a shorter meter of its own,
    because many programs cannot read incomplete bars. A denominator other than 1, 2, 4, 8 and 16 becomes 16.
    """
    end = max([1, to_units(song.ticks), *(span(note)[1] for note in song.notes)])
    changes = {0: song.meter_at(0)}
    for tick, numerator, denominator in song.meters:
        at = nearest_step(tick, UNIT * SIXTEENTH) * SIXTEENTH
        if tick > 0 and at < end:
            changes[at] = (numerator, denominator)
    found: list[Bar] = []
    for (start, (numerator, denominator)), stop in zip_longest(changes.items(), list(changes)[1:]):
        unit = denominator if denominator in (1, 2, 4, 8, 16) else 16
        whole = 4 * UNITS // unit * numerator
        for at in range(start, stop or end, whole):
            length = min(whole, stop - at) if stop else whole
            plainest = next(u for u in (4, 8, 16) if length * u % (4 * UNITS) == 0)
            meter = (numerator, unit) if length == whole else (length * plainest // (4 * UNITS), plainest)
            is_new_meter = not found or (found[-1].numerator, found[-1].denominator) != meter
            found.append(Bar(at, length, *meter, is_new_meter))
    return found


def voices(notes: Iterable[SongNote], bars: Sequence[Bar]) -> list[list[list[Chord]]]:
    """Return for each bar its voices, the highest first, each with the chords that sound in it, held ones included.

    A chord goes to the first voice if no voice sounds, else to the free voice that is nearest in pitch. Voices are
    ordered again at every bar line without held notes. Notes of one pitch that begin and end together become one.
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
            _add_to_bars(running, starts, found)
            running = []
        free = [voice for voice in running if voice[-1].end <= chord.start]
        if not free:
            running.append([chord])
        elif len(free) == len(running):
            running[0].append(chord)
        else:
            min(free, key=lambda voice: abs(mean(voice[-1].pitches) - mean(chord.pitches))).append(chord)
    _add_to_bars(running, starts, found)
    return found


def _add_to_bars(running: list[list[Chord]], starts: list[int], found: list[list[list[Chord]]]) -> None:
    """Add voices to their bars, the same number of voices to each, so that every tie finds its voice."""
    if not running:
        return
    first = bisect_right(starts, min(voice[0].start for voice in running)) - 1
    last = bisect_right(starts, max(voice[-1].end for voice in running) - 1) - 1
    for k in range(first, last + 1):
        found[k] = [[] for _ in running]
    by_pitch = sorted(running, key=lambda voice: mean(p for chord in voice for p in chord.pitches), reverse=True)
    for number, voice in enumerate(by_pitch):
        for chord in voice:
            for k in range(bisect_right(starts, chord.start) - 1, bisect_right(starts, chord.end - 1)):
                found[k][number].append(chord)


def percussion_voices(notes: Iterable[SongNote], bars: Sequence[Bar]) -> list[list[list[Chord]]]:
    """Return for each bar one voice of percussion, in which notes last to the next onset or the next quarter."""
    keys: dict[int, set[int]] = defaultdict(set)
    for note in notes:
        keys[to_units(note.onset)].add(note.pitch)
    starts = [bar.start for bar in bars]
    found: list[list[list[Chord]]] = [[] for _ in bars]
    for now, following in pairwise([*sorted(keys), bars[-1].end]):
        k = bisect_right(starts, now) - 1
        beat = now + UNITS - (now - starts[k]) % UNITS
        chord = Chord(now, min(following, beat, bars[k].end), tuple(sorted(keys[now])))
        found[k] = [[*(found[k][0] if found[k] else []), chord]]
    return found


def values(chords: Sequence[Chord], bar: Bar) -> list[NoteValue]:
    """Return the values of a voice that fill a bar; `chords` sound in it, one after the other.

    >>> [(v.pitches, v.type, v.dots) for v in values([Chord(6, 15, (60,))], Bar(0, 48, 4, 4, True))]
    [((), 'eighth', 0), ((60,), 'eighth', 0), ((60,), '16th', 0), ((), 'eighth', 1), ((), 'half', 0)]
    """
    stretches: list[tuple[int, int, tuple[int, ...], bool, bool]] = []  # start, end, pitches, tied before and after
    now = 0
    for chord in chords:
        start, end = max(chord.start - bar.start, 0), min(chord.end - bar.start, bar.length)
        if start > now:
            stretches.append((now, start, (), False, False))
        stretches.append((start, end, chord.pitches, chord.start < bar.start, chord.end > bar.end))
        now = end
    if now < bar.length:
        stretches.append((now, bar.length, (), False, False))
    tuplets = dict(_tuplets({start for start, *_ in stretches}, bar))
    edges = {edge for start, length in tuplets.items() for edge in (start, start + length)}
    found: list[NoteValue] = []
    for start, end, pitches, before, after in stretches:
        cuts = [start, *sorted(edge for edge in edges if start < edge < end), end]
        parts = (part for a, b in pairwise(cuts) for part in _parts(a, b, bar, tuplets))
        for at, length, kind, dots, tuplet, edge in parts:
            from_tie = bool(pitches) and (before or at > start)
            to_tie = bool(pitches) and (after or at + length < end)
            found.append(NoteValue(at, length, pitches, from_tie, to_tie, kind, dots, tuplet, edge))
    return found


def _tuplet_spans(bar: Bar) -> Iterator[tuple[int, int]]:
    """Yield start and length of spans that may become a tuplet: quarters, then the rest of a beat or bar."""
    group = 12 * UNITS // bar.denominator if bar.is_compound else bar.length
    for first in range(0, bar.length, group):
        end = min(first + group, bar.length)
        for length in TUPLETS:
            while end - first >= length:
                yield first, length
                first += length


def _tuplets(starts: set[int], bar: Bar) -> Iterator[tuple[int, int]]:
    """Yield start and length of the shortest whole tuplets of a voice whose values begin at `starts`."""
    waiting = list(_tuplet_spans(bar))
    while waiting:
        first, length = waiting.pop()
        inside = {start for start in starts if first < start < first + length}
        half = length // 2
        if all(start % SIXTEENTH == 0 for start in inside):
            continue
        if half in TUPLETS and first + half in inside:
            waiting += [(first, half), (first + half, half)]
        else:
            yield first, length


def _parts(start: int, end: int, bar: Bar, tuplets: dict[int, int]) -> Iterator[tuple[int, int, str, int, str, str]]:
    """Yield start, length, type, dots, tuplet and edge of the values from `start` to `end`."""
    first = next((b for b, length in tuplets.items() if b <= start < b + length), None)
    if first is None:
        for at, sixteenths in _split(start // SIXTEENTH, end // SIXTEENTH, bar):
            yield at * SIXTEENTH, sixteenths * SIXTEENTH, *PLAIN_VALUES[sixteenths], "", ""
        return
    length = tuplets[first]
    while start < end:
        part = next(units for units in TUPLET_VALUES if units <= end - start)
        edge = "start" if start == first else "stop" if start + part == first + length else ""
        yield start, part, *TUPLET_VALUES[part], TUPLETS[length], edge
        start += part


def _split(start: int, end: int, bar: Bar) -> list[tuple[int, int]]:
    """Return start and length of plain values from `start` to `end`, in 16ths, cut at strong places to read well.

    A value reads well if it exists, begins at a multiple of its half (without dots), and crosses no place that is
    stronger by two than the weaker one of its ends: an eighth may stand between 16ths, a quarter may not.
    """
    length = end - start
    inner = {place: _strength(place, bar) for place in range(start + 1, end)}
    half = (1 << length.bit_length() - 1) // 2 or 1
    weaker = min(_strength(start, bar), _strength(end, bar))
    if length in PLAIN_VALUES and start % half == 0 and max(inner.values(), default=0) <= weaker + 1:
        return [(start, length)]
    cut = max(inner, key=lambda place: (inner[place], place))
    return _split(start, cut, bar) + _split(cut, end, bar)


def _strength(place: int, bar: Bar) -> int:
    """Return the metrical strength of a place, in 16ths from the beginning of a bar: the halvings of its distance."""
    total = bar.length // SIXTEENTH
    if place in (0, total):
        return BAR_LINE_STRENGTH
    if bar.is_compound:
        beat = 48 // bar.denominator
        return 3 + _halvings(place // beat) if place % beat == 0 else min(_halvings(place % beat), 1)
    return min(_halvings(place), _halvings(total))


def _halvings(number: int) -> int:
    return (number & -number).bit_length() - 1

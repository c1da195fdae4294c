"""A song: the notes of a piece in musical time. All symbolic code reads and writes songs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from continuo.model.metadata import Json
from continuo.score.notes import Note, Performance
from continuo.score.tempo import DEFAULT_QPM, TempoMap
from continuo.symbolic.grid import change_in_force

if TYPE_CHECKING:
    import symusic

QUARTER = 480  # ticks of a quarter note; all times of a song are ticks from its beginning
DEFAULT_METER = (4, 4)
MAJOR = (0, 2, 4, 5, 7, 9, 11)  # semitones above the tonic
FIFTHS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6)  # sharps of the major keys, flats below 0; few accidentals first


@dataclass(frozen=True, order=True, slots=True)
class SongNote:
    """A note in musical time."""

    onset: int  # ticks from the beginning of the song, 0 or more
    pitch: int  # MIDI number, 0 to 127, where 60 is middle C; of drums a General MIDI percussion key
    length: int  # ticks, 1 or more
    velocity: int = 80  # MIDI velocity, 1 to 127
    program: int = 0  # General MIDI program, 0 to 127
    is_drum: bool = False  # whether the note belongs to the percussion channel
    part: int = field(default=0, compare=False)  # number of its part in the song's `parts`

    @property
    def end(self) -> int:
        return self.onset + self.length


@dataclass(frozen=True)
class Song:
    """The notes of a piece in musical time.

    Tempos are `(tick, quarter notes per minute)`, meters `(tick, numerator, denominator)`, keys `(tick, sharps,
    is_minor)` with flats below 0, all sorted; the first of each also holds before its tick.
    """

    id: str  # a name that is unique and stable within a corpus
    source: str  # where the song comes from, for people
    notes: tuple[SongNote, ...]  # sorted
    ticks: int  # length, final rests included
    tempos: tuple[tuple[int, float], ...] = ((0, DEFAULT_QPM),)
    meters: tuple[tuple[int, int, int], ...] = ((0, *DEFAULT_METER),)
    keys: tuple[tuple[int, int, bool], ...] = ()  # none where the source states none
    parts: tuple[str, ...] = ()  # names of the parts, some empty
    key: str = ""  # a cache key that changes with the music; empty where nothing about the song is to be cached
    has_ending: bool = True  # whether the music ends where the song ends, rather than being cut there

    @property
    def extent(self) -> int:
        """Length in the unit in which training measures pieces; it changes when the music does."""
        return self.ticks

    @property
    def empty(self) -> bool:
        return not self.notes

    @property
    def seconds(self) -> float:
        return self.second(self.ticks)

    @cached_property
    def _tempo_map(self) -> TempoMap:
        return TempoMap([(tick / QUARTER, qpm) for tick, qpm in self.tempos])

    def second(self, tick: int) -> float:
        """Return the seconds from the beginning of the song to a tick (`QUARTER` ticks make a quarter note)."""
        return self._tempo_map.seconds(tick / QUARTER)

    def qpm_at(self, tick: int) -> float:
        """Return the tempo in force at a tick, in quarter notes per minute."""
        return change_in_force(self.tempos, tick, (0, DEFAULT_QPM))[1]

    def meter_at(self, tick: int) -> tuple[int, int]:
        """Return the numerator and denominator of the meter in force at a tick."""
        return change_in_force(self.meters, tick, (0, *DEFAULT_METER))[1:]

    def program(self) -> int:
        """Return the General MIDI program with most pitched notes, or 0 without any."""
        counts = Counter(note.program for note in self.notes if not note.is_drum)
        return counts.most_common(1)[0][0] if counts else 0

    def by_part(self, *, merged: bool = False) -> dict[tuple[int, bool, int], list[SongNote]]:
        """Return the notes of each `(part, is_drum, program)`, ascending; one empty piano for an empty song.

        `merged` takes all parts for part 0.
        """
        found: dict[tuple[int, bool, int], list[SongNote]] = defaultdict(list)
        for note in self.notes:
            found[0 if merged else note.part, note.is_drum, note.program].append(note)
        return dict(sorted(found.items())) or {(0, False, 0): []}

    def part_name(self, part: int, is_drum: bool, program: int) -> str:
        """Return the name of a part, or of its program if it has none."""
        return (self.parts[part] if part < len(self.parts) else "") or program_name(is_drum, program)

    def in_parts(self, notes: Iterable[SongNote]) -> list[SongNote]:
        """Return notes that continue the song in its parts: of those with their program the nearest by mean pitch."""
        centers = {
            place: float(np.mean([n.pitch for n in members])) for place, members in self.by_part().items() if members
        }
        found = []
        for note in notes:
            same = [place for place in centers if place[1:] == (note.is_drum, note.program)]
            nearest = min(same, key=lambda place: abs(centers[place] - note.pitch), default=(len(self.parts),))
            found.append(replace(note, part=nearest[0]))
        return found

    def sharps_at(self, tick: int) -> int:
        """Return the sharps of the key in force at a tick, flats below 0; without keys those of the best scale."""
        best = () if self.keys else ((0, (self.best_scale()[0] * 7 + 5) % 12 - 5, False),)
        return change_in_force(self.keys or best, tick, (0, 0, False))[1]

    def best_scale(self) -> tuple[int, float]:
        """Find the major scale with most pitched notes in it, of several the one with fewest accidentals.

        Return the pitch class of its tonic (0 to 11, C is 0) and the fraction of the notes in it, nan without notes.
        """
        counts = self.pitch_classes()
        inside = {k * 7 % 12: counts[[(k * 7 + step) % 12 for step in MAJOR]].sum() for k in FIFTHS}
        tonic = max(inside, key=lambda pitch_class: inside[pitch_class])
        return tonic, float(inside[tonic] / counts.sum()) if counts.any() else math.nan

    def pitch_classes(self) -> np.ndarray:
        """Count the pitched notes of each pitch class, `(12,)`."""
        return np.bincount([note.pitch % 12 for note in self.notes if not note.is_drum], minlength=12)

    def performance(self) -> Performance:
        """Return the song in seconds, as it is played."""
        spans = [(self.second(n.onset), self.second(n.end), n) for n in self.notes]
        notes = (Note(a, b - a, float(n.pitch), n.velocity, n.program, n.is_drum) for a, b, n in spans)
        return Performance(tuple(sorted(notes, key=lambda n: (n.onset_s, n.pitch, n.program))), self.seconds)

    def transposed(self, semitones: int) -> Song:
        """Return the song with its pitched notes moved by semitones, without those that leave 0 to 127."""
        if semitones == 0:
            return self
        moved = (n if n.is_drum else replace(n, pitch=n.pitch + semitones) for n in self.notes)
        notes = tuple(sorted(n for n in moved if 0 <= n.pitch <= 127))
        keys = tuple((at, (sharps + 7 * semitones + 5) % 12 - 5, is_minor) for at, sharps, is_minor in self.keys)
        words = f"{semitones:+d}"
        return self._changed(words, f"{words} semitones", words, notes=notes, keys=keys)

    def excerpt(self, start: int, stop: int, name: str) -> Song:
        """Return ticks `start` to `stop` as a song: the notes that begin there, cut at its end."""
        inside = (n for n in self.notes if start <= n.onset < stop)
        notes = tuple(replace(n, onset=n.onset - start, length=min(n.length, stop - n.onset)) for n in inside)
        tempos = ((0, self.qpm_at(start)), *((at - start, qpm) for at, qpm in self.tempos if start < at < stop))
        meters = ((0, *self.meter_at(start)), *((at - start, n, d) for at, n, d in self.meters if start < at < stop))
        first = [(0, *change_in_force(self.keys, start, (0, 0, False))[1:])] if self.keys else []
        keys = (*first, *((at - start, *key) for at, *key in self.keys if start < at < stop))
        facts = {"tempos": tempos, "meters": meters, "keys": keys, "has_ending": self.has_ending and stop >= self.ticks}
        return self._changed(f"#{name}", name, f"#{start}-{stop}", notes=notes, ticks=stop - start, **facts)

    def _changed(self, id: str, source: str, key: str, **changes: Any) -> Song:
        """Return the song with changes that are named at the end of its id, source and key."""
        id, source, key = f"{self.id}{id}", f"{self.source} ({source})", self.key and f"{self.key}{key}"
        return replace(self, id=id, source=source, key=key, **changes)

    def bars(self) -> list[int]:
        """Return the ticks before the end of the song at which bars begin, after the meters in force."""
        changes = [(0, *self.meter_at(0)), *(change for change in self.meters if change[0] > 0)]
        stops = [*(at for at, _, _ in changes[1:]), self.ticks]
        found: list[int] = []
        for (at, numerator, denominator), stop in zip(changes, stops, strict=True):
            found += range(at, min(stop, self.ticks), max(1, numerator * 4 * QUARTER // denominator))
        return found

    def text(self) -> str:
        """Describe the song, one line for the notes of one onset and length.

        >>> notes = SongNote(0, 60, 480), SongNote(0, 64, 480), SongNote(480, 67, 240)
        >>> print(Song("s", "s", notes, 960).text())
        bar 1  beat 1     C4 E4  1 quarter
        bar 1  beat 2     G4     0.5 quarters
        """
        starts, groups, lines = self.bars() or [0], defaultdict[tuple[int, int], list[str]](list), list[str]()
        for n in sorted(self.notes, key=lambda n: (n.onset, n.length, n.pitch)):
            groups[n.onset, n.length].append(f"drum{n.pitch}" if n.is_drum else pitch_name(n.pitch))
        width = max((len(" ".join(names)) for names in groups.values()), default=0)
        for (onset, length), names in groups.items():
            bar = max(bisect_right(starts, onset), 1)
            beat = f"{1 + (onset - starts[bar - 1]) / QUARTER:g}"
            quarters = f"{length / QUARTER:g} quarter{'s' * (length != QUARTER)}"
            lines.append(f"bar {bar}  beat {beat:<5.5} {' '.join(names):<{width}}  {quarters}")
        return "\n".join(lines)

    def to_dict(self) -> Json:
        """Return the music in plain JSON types, for `from_dict`."""
        notes = [[n.onset, n.pitch, n.length, n.velocity, n.program, n.is_drum, n.part] for n in self.notes]
        facts = {"tempos": self.tempos, "meters": self.meters, "keys": self.keys, "parts": self.parts}
        return {"tones": notes, "ticks": self.ticks, **facts}

    @classmethod
    def from_dict(cls, data: Json, *, id: str, source: str, key: str = "") -> Song:
        """Return the song that `to_dict` described; raise ValueError if the dictionary describes none."""
        try:
            notes = tuple(SongNote(*values) for values in data["tones"])
            tempos = tuple((int(at), float(qpm)) for at, qpm in data["tempos"])
            meters = tuple((int(at), int(n), int(d)) for at, n, d in data["meters"])
            keys = tuple((int(at), int(sharps), bool(is_minor)) for at, sharps, is_minor in data["keys"])
            return cls(id, source, notes, int(data["ticks"]), tempos, meters, keys, tuple(data["parts"]), key)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a song ({error})") from None

    def to_symusic(self, ticks_per_quarter: int = QUARTER, *, by_part: bool = False) -> symusic.Score:
        """Return a symusic score with a track for each program, or for each program in each part and with its name.

        The first tempo and meter hold from the beginning; meters that MIDI cannot say (4/3) are left out.
        """
        import symusic

        def ticks(tick: int) -> int:
            return tick * ticks_per_quarter // QUARTER

        score = symusic.Score(ticks_per_quarter)
        score.tempos = [symusic.Tempo(ticks(at) if k else 0, qpm) for k, (at, qpm) in enumerate(self.tempos)]
        for k, (at, numerator, denominator) in enumerate(self.meters):
            if denominator & (denominator - 1) == 0 and numerator < 256:
                score.time_signatures.append(symusic.TimeSignature(ticks(at) if k else 0, numerator, denominator))
        groups = self.by_part(merged=not by_part)
        for (part, is_drum, program), notes in groups.items():  # symusic 0.5.9 misplaces tempos without a track
            name = self.part_name(part, is_drum, program) if by_part else ""
            track = symusic.Track(name=name, program=program, is_drum=is_drum)
            track.notes = [symusic.Note(ticks(n.onset), ticks(n.length), n.pitch, n.velocity) for n in notes]
            score.tracks.append(track)
        return score


def program_name(is_drum: bool, program: int) -> str:
    """Return the General MIDI name of a program, such as Violin."""
    from pretty_midi import program_to_instrument_name

    return "Percussion" if is_drum else str(program_to_instrument_name(program))


def pitch_name(pitch: int) -> str:
    """Return the name of a MIDI number: 60 is C4, 61 is C#4."""
    return f"{('C', 'C#', 'D', 'D#', 'E', 'F', 'F#', 'G', 'G#', 'A', 'A#', 'B')[pitch % 12]}{pitch // 12 - 1}"


def pitch_number(name: str) -> int:
    """Return the MIDI number of a pitch such as C4, F#3 or Bb5, or of one in digits; ValueError for other words.

    >>> [pitch_number(name) for name in ("C4", "bb3", "F#-1", "61")]
    [60, 58, 6, 61]
    """
    found = regex.fullmatch(r"(?i)([a-g])([#b]*)(-?\d+)|(\d+)", name)
    if found is None:
        raise ValueError(f"{name!r} is not a note: write C4, F#3, Bb5 or a MIDI number")
    letter, signs, octave, number = found.groups()
    steps = 0 if number else {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}[letter.lower()]
    pitch = int(number) if number else steps + signs.count("#") - signs.lower().count("b") + 12 * (int(octave) + 1)
    if not 0 <= pitch <= 127:
        raise ValueError(f"the note {name!r} is out of range: MIDI numbers are 0 to 127")
    return pitch

"""A piece as notes in musical time: what the symbolic representations read and write."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import regex

from continuo.score.notes import Note, Performance

QUARTER = 480
"""Ticks of a quarter note; all times of a song are ticks from its beginning."""
DEFAULT_QPM = 120.0
DEFAULT_METER = (4, 4)


@dataclass(frozen=True, order=True, slots=True)
class SongNote:
    """One note of a song.

    Attributes:
        onset, length: ticks, at least 0 and at least 1.
        pitch: MIDI number, 0 to 127, 60 is middle C; for drums a General MIDI percussion key.
        velocity: MIDI velocity, 1 to 127.
        program: General MIDI program, 0 to 127.
        is_drum: whether it belongs to the percussion channel.
    """

    onset: int
    pitch: int
    length: int
    velocity: int = 80
    program: int = 0
    is_drum: bool = False

    @property
    def end(self) -> int:
        return self.onset + self.length


@dataclass(frozen=True)
class Song:
    """Notes in musical time.

    Attributes:
        id: unique and stable within a corpus.
        source: where it came from, for people.
        tones: sorted.
        ticks: length, final rests included.
        tempos: `(tick, quarter notes per minute)`, sorted; before the first its tempo holds.
        meters: `(tick, numerator, denominator)`, sorted, likewise.
        key: changes with the music; empty where nothing about the song is to be cached.
        has_ending: whether the music ends where the song ends, and is not cut there.
    """

    id: str
    source: str
    notes: tuple[SongNote, ...]
    ticks: int
    tempos: tuple[tuple[int, float], ...] = ((0, DEFAULT_QPM),)
    meters: tuple[tuple[int, int, int], ...] = ((0, *DEFAULT_METER),)
    key: str = ""
    has_ending: bool = True

    @property
    def extent(self) -> int:
        """Length in the unit that training is counted by: changes when the music does."""
        return self.ticks

    @property
    def empty(self) -> bool:
        """Whether no note is in it."""
        return not self.notes

    @property
    def seconds(self) -> float:
        return self.second(self.ticks)

    @property
    def beats(self) -> float:
        """Length in quarter notes."""
        return self.ticks / QUARTER

    @cached_property
    def _clock(self) -> tuple[list[int], list[float], list[float]]:
        """Places of tempo changes in ticks, the same in seconds, and seconds per tick from there on."""
        changes = list(self.tempos) or [(0, DEFAULT_QPM)]
        places, seconds, pace = [0], [0.0], [60 / changes[0][1] / QUARTER]
        for tick, qpm in changes:
            if tick > 0:
                seconds.append(seconds[-1] + (tick - places[-1]) * pace[-1])
                places.append(tick)
                pace.append(60 / qpm / QUARTER)
        return places, seconds, pace

    def second(self, tick: int) -> float:
        """Seconds from the beginning to a tick."""
        places, seconds, pace = self._clock
        k = max(bisect_right(places, tick) - 1, 0)
        return seconds[k] + (tick - places[k]) * pace[k]

    def qpm_at(self, tick: int) -> float:
        """Quarter notes per minute in force at a tick."""
        heard = [qpm for at, qpm in self.tempos if at <= tick] or [qpm for _, qpm in self.tempos[:1]]
        return heard[-1] if heard else DEFAULT_QPM

    def meter_at(self, tick: int) -> tuple[int, int]:
        """Time signature in force at a tick."""
        heard = [meter for at, *meter in self.meters if at <= tick] or [meter for _, *meter in self.meters[:1]]
        return (heard[-1][0], heard[-1][1]) if heard else DEFAULT_METER

    def program(self) -> int:
        """The General MIDI program of most pitched notes, 0 without any."""
        counts = Counter(note.program for note in self.notes if not note.is_drum)
        return counts.most_common(1)[0][0] if counts else 0

    def performance(self) -> Performance:
        """The song in seconds, as it is played."""
        notes = [
            Note(self.second(t.onset), self.second(t.end) - self.second(t.onset), float(t.pitch), t.velocity, t.program,
                 t.is_drum)
            for t in self.notes
        ]  # fmt: skip
        return Performance(tuple(sorted(notes, key=lambda n: (n.onset_s, n.pitch, n.program))), self.seconds)

    def transposed(self, semitones: int) -> Song:
        """Every pitched note so many semitones higher; drums stay, notes that would leave 0 to 127 are dropped."""
        if semitones == 0:
            return self
        notes = (t if t.is_drum else replace(t, pitch=t.pitch + semitones) for t in self.notes)
        return replace(
            self,
            id=f"{self.id}{semitones:+d}",
            source=f"{self.source} ({semitones:+d} semitones)",
            notes=tuple(sorted(t for t in notes if 0 <= t.pitch <= 127)),
            key=self.key and f"{self.key}{semitones:+d}",
        )

    def excerpt(self, start: int, stop: int, name: str) -> Song:
        """Ticks `start` to `stop`, as a song of its own: notes that begin there, cut where it ends."""
        notes = tuple(
            replace(t, onset=t.onset - start, length=min(t.length, stop - t.onset))
            for t in self.notes
            if start <= t.onset < stop
        )
        tempos = ((0, self.qpm_at(start)), *((at - start, qpm) for at, qpm in self.tempos if start < at < stop))
        meters = ((0, *self.meter_at(start)), *((at - start, n, d) for at, n, d in self.meters if start < at < stop))
        return replace(
            self,
            id=f"{self.id}#{name}",
            source=f"{self.source} ({name})",
            notes=notes,
            ticks=stop - start,
            tempos=tempos,
            meters=meters,
            key=self.key and f"{self.key}#{start}-{stop}",
            has_ending=self.has_ending and stop >= self.ticks,
        )

    def bars(self) -> list[int]:
        """Ticks at which bars begin, the song's end excluded: as the meters in force say, from the beginning."""
        changes = [(0, *self.meter_at(0)), *((at, n, d) for at, n, d in self.meters if at > 0)]
        found: list[int] = []
        for k, (at, numerator, denominator) in enumerate(changes):
            until = changes[k + 1][0] if k + 1 < len(changes) else self.ticks
            found += range(at, min(until, self.ticks), max(1, numerator * 4 * QUARTER // denominator))
        return found

    def text(self, most: int | None = None) -> str:
        """The song for people: bar by bar, what begins when, how long and how it is called; `most` lines at the most.

        >>> print(Song("s", "s", (SongNote(0, 60, 480), SongNote(0, 64, 480), SongNote(480, 67, 240)), 960).text())
        bar 1  beat 1     C4 E4  1 quarter
        bar 1  beat 2     G4     0.5 quarters
        """
        starts, groups = self.bars() or [0], dict[tuple[int, int], list[SongNote]]()
        for note in self.notes:
            groups.setdefault((note.onset, note.length), []).append(note)
        named = {key: " ".join(pitch_name(t.pitch) if not t.is_drum else f"drum{t.pitch}" for t in sorted(group))
                 for key, group in sorted(groups.items())}  # fmt: skip
        lines = []
        width = max(map(len, named.values()), default=0)
        for (onset, length), names in list(named.items())[:most]:
            bar = max(bisect_right(starts, onset), 1)
            beat = f"{1 + (onset - starts[bar - 1]) / QUARTER:g}"
            quarters = f"{length / QUARTER:g} quarter{'s' * (length != QUARTER)}"
            lines.append(f"bar {bar}  beat {beat:<5.5} {names:<{width}}  {quarters}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The music in plain JSON types; `from_dict` gives it back."""
        notes = [[t.onset, t.pitch, t.length, t.velocity, t.program, t.is_drum] for t in self.notes]
        return {"tones": notes, "ticks": self.ticks, "tempos": self.tempos, "meters": self.meters}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, id: str, source: str, key: str = "") -> Song:
        """The song that `to_dict` described.

        Raises:
            ValueError: the dictionary is of another kind.
        """
        try:
            notes = tuple(SongNote(*values) for values in data["tones"])
            tempos = tuple((int(at), float(qpm)) for at, qpm in data["tempos"])
            meters = tuple((int(at), int(n), int(d)) for at, n, d in data["meters"])
            return cls(id, source, notes, int(data["ticks"]), tempos, meters, key)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a song ({error})") from None


def pitch_name(pitch: int) -> str:
    """MIDI number to a name, 60 is C4.

    >>> pitch_name(61)
    'C#4'
    """
    return f"{('C', 'C#', 'D', 'D#', 'E', 'F', 'F#', 'G', 'G#', 'A', 'A#', 'B')[pitch % 12]}{pitch // 12 - 1}"


def pitch_number(name: str) -> int:
    """A name such as C4, F#3 or Bb5, or a MIDI number, to a MIDI number.

    >>> [pitch_number(name) for name in ("C4", "bb3", "F#-1", "61")]
    [60, 58, 6, 61]

    Raises:
        ValueError: no such note.
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

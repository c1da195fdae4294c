"""Is it copied? Stretches that a song shares with training songs, in whatever key.

An event is a step from one onset to the next: the pitches that begin, counted from the lowest pitch of the onset before
it, and the time in between in 1/12 quarter. So a transposed copy has the same events, and a copy of k onsets shares
k - 1 of them, the first has come from elsewhere. Lengths, velocities, programs and percussion do not count.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from continuo.symbolic.song import QUARTER, Song

UNIT = QUARTER // 12
"""Ticks; notes that begin within half of it of the first are one onset."""
Event = tuple[int, tuple[int, ...]]
END, UNKNOWN, FIRST = "\0", "\1", 2
"""Characters: after each training song; for events not met in training; number of the first event."""


def events(song: Song) -> list[Event]:
    """One event for each onset but the first: units since the onset before, sorted semitones above its lowest pitch.

    >>> from continuo.symbolic.song import SongNote
    >>> notes = SongNote(0, 60, 480), SongNote(0, 64, 480), SongNote(480, 62, 240), SongNote(720, 59, 240)
    >>> events(Song("s", "s", notes, 960))
    [(12, (2,)), (6, (-3,))]
    """
    onsets: list[tuple[int, set[int]]] = []
    for note in sorted(song.notes):
        if not note.is_drum:
            if not onsets or note.onset - onsets[-1][0] >= UNIT // 2:
                onsets.append((note.onset, set()))
            onsets[-1][1].add(note.pitch)
    return [
        ((now - before + UNIT // 2) // UNIT, tuple(pitch - min(old) for pitch in sorted(new)))
        for (before, old), (now, new) in pairwise(onsets)
    ]


class Copies:
    """The training songs as one text of one character per event, in which a stretch is looked up as a word.

    Raises:
        ValueError: the songs hold more than a million different events; there are no more characters.
    """

    def __init__(self, training: Sequence[Song]) -> None:
        self._numbers: dict[Event, int] = {}
        self._names = [song.id for song in training]
        self._starts: list[int] = []
        texts, length = [], 0
        for song in training:
            text = "".join(chr(self._numbers.setdefault(e, len(self._numbers) + FIRST)) for e in events(song)) + END
            self._starts.append(length)
            texts.append(text)
            length += len(text)
        self._text = "".join(texts)

    def longest(self, song: Song) -> tuple[int, str]:
        """Events of the longest stretch that some training song has too, and that song's id; (0, "") if there is none.

        Of stretches alike the first one counts.
        """
        word = self._word(song)
        best = first = 0
        for k in range(len(word)):
            while k + best < len(word) and word[k : k + best + 1] in self._text:
                best, first = best + 1, k
        if not best:
            return 0, ""
        place = self._text.find(word[first : first + best])
        return best, self._names[bisect_right(self._starts, place) - 1]

    def share(self, song: Song, n: int = 8) -> float:
        """Share (0 to 1) of the song's stretches of n events (at least 1) that occur in training; nan if it has none.

        Raises:
            ValueError: n is less than 1.
        """
        if n < 1:
            raise ValueError(f"a stretch has at least 1 event, not {n}")
        word = self._word(song)
        stretches = [word[k : k + n] for k in range(len(word) - n + 1)]
        return sum(stretch in self._text for stretch in stretches) / len(stretches) if stretches else math.nan

    def _word(self, song: Song) -> str:
        """A song's events as characters of the training text."""
        return "".join(chr(self._numbers[e]) if e in self._numbers else UNKNOWN for e in events(song))

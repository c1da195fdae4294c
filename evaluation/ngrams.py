"""Find the stretches that a song shares with training songs, in any key.

An event is the way from one onset to the next: the pitches that start, counted from the lowest pitch of the onset
before, and the time in between in 1/12 quarter. So a transposed copy has the same events, and a copy of k onsets shares
k - 1 of them. Lengths, velocities, programs and percussion do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from continuo.symbolic.song import QUARTER, Song

UNIT = QUARTER // 12  # ticks; notes that start within half of it of the first are one onset
END, UNKNOWN = "\0", "\1"  # characters for the end of a training song and for events that no training song has
FIRST = 2  # number of the first event
Event = tuple[int, tuple[int, ...]]


def events(song: Song) -> list[Event]:
    """Return one event for each onset but the first: units since the last onset, sorted semitones over its lowest note.

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
    """An index of training songs, one text of a character per event; ValueError: over a million different events."""

    def __init__(self, training: Sequence[Song]) -> None:
        letters: dict[Event, str] = {}
        self._letters, self._names = letters, [song.id for song in training]
        words = [[letters.setdefault(e, chr(len(letters) + FIRST)) for e in events(song)] for song in training]
        self._text = "".join("".join(word) + END for word in words)

    def longest(self, song: Song) -> tuple[int, str]:
        """Return the events of the first longest stretch that a training song has too, and its id; else (0, "")."""
        word = self._word(song)
        best, found = 0, ""
        for k in range(len(word)):
            while k + best < len(word) and word[k : k + best + 1] in self._text:
                best, found = best + 1, word[k : k + best + 1]
        return best, self._names[self._text.count(END, 0, self._text.find(found))] if found else ""

    def fraction(self, song: Song, n: int = 8) -> float:
        """Return the fraction of a song's stretches of `n` (1 or more) events that training songs have; NaN if none."""
        if n < 1:
            raise ValueError(f"a stretch has at least 1 event, not {n}")
        word = self._word(song)
        stretches = [word[k : k + n] for k in range(len(word) - n + 1)]
        return sum(stretch in self._text for stretch in stretches) / len(stretches) if stretches else math.nan

    def _word(self, song: Song) -> str:
        """Return a song's events as characters of the training text."""
        return "".join(self._letters.get(e, UNKNOWN) for e in events(song))

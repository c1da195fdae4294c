"""Timed notes: the result of performing a score, and the input of the synthesizer and of the symbolic codecs."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

MAX_SECONDS = 3 * 3600.0  # longest performance; longer ones come from broken tempos, durations or repeats
MAX_NOTES = 500_000  # notes of a performance; a long opera has a fifth of this
SAME_S = 0.01  # seconds between the end of a tied note and the onset of the next that count as none
MAX_TIE_S = 8.0  # seconds over which a tie passes other notes, as in an arpeggio that is written out
MIN_NOTE_S = 0.01  # shortest sounding note; shorter ones are clicks

Tie = tuple[bool, bool]  # whether a note is tied to the note before, and to the next one


@dataclass(frozen=True)
class Note:
    """One sounding note of a performance."""

    onset_s: float  # seconds from the beginning of the performance, at least 0
    duration_s: float  # seconds for which the key is held, more than 0
    pitch: float  # MIDI number, 60 is middle C; fractional for quarter tones; for drums a General MIDI percussion key
    velocity: int  # 1 to 127
    program: int  # General MIDI number, 0 to 127; 0 is the grand piano
    is_drum: bool  # whether it is on the percussion channel


@dataclass(slots=True)
class DraftNote:
    """A note under construction: mutable, with any values; `Performance.from_drafts` checks and rounds them."""

    onset_s: float
    end_s: float
    pitch: float
    velocity: float = 0.0
    program: int = 0
    is_drum: bool = False
    part: int = 0  # number of its part among the names of a `Transcript`


class PerformanceDict(TypedDict):
    """A performance in JSON types; a note is its six attributes in order."""

    notes: list[tuple[float, float, float, int, int, bool]]
    seconds: float
    warnings: list[str]


@dataclass(frozen=True)
class Performance:
    """The notes of a whole score."""

    notes: tuple[Note, ...]  # sorted by onset, then pitch
    seconds: float  # length as written, including final rests
    warnings: tuple[str, ...] = ()  # marks of the score that are not performed, each named once

    @classmethod
    def from_drafts(cls, drafts: Iterable[DraftNote], seconds: float, warnings: Iterable[str]) -> Performance:
        """Check, clip and sort notes that were read from a file; drop those that no MIDI key can play.

        It lasts `seconds`, the length as written, or longer if a note does; `warnings` may repeat themselves. Raise
        ValueError for too many notes or too long a performance, and if a time or pitch is not finite.
        """
        drafts, notes = list(drafts), []
        check_count(len(drafts))
        for draft in drafts:
            check_finite(draft)
            if draft.end_s > draft.onset_s and 0 <= draft.pitch <= 127:
                onset_s, velocity = max(draft.onset_s, 0.0), midi_velocity(draft.velocity)
                duration_s = max(draft.end_s - onset_s, MIN_NOTE_S)
                notes.append(Note(onset_s, duration_s, draft.pitch, velocity, draft.program, draft.is_drum))
        notes.sort(key=lambda n: (n.onset_s, n.pitch, n.program, n.duration_s))
        seconds = max([seconds, *(n.onset_s + n.duration_s for n in notes)])
        check_length(seconds)
        return cls(tuple(notes), seconds, tuple(dict.fromkeys(warnings)))

    def to_dict(self) -> PerformanceDict:
        """Return plain JSON types, from which `from_dict` restores the performance.

        >>> p = Performance((Note(0.5, 1.0, 60.5, 80, 0, False),), 2.0)
        >>> Performance.from_dict(p.to_dict()) == p
        True
        """
        notes = [(n.onset_s, n.duration_s, n.pitch, n.velocity, n.program, n.is_drum) for n in self.notes]
        return {"notes": notes, "seconds": self.seconds, "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, data: PerformanceDict) -> Performance:
        """Restore a performance from `to_dict`; raise ValueError if the dictionary describes something else."""
        try:
            return cls(tuple(Note(*values) for values in data["notes"]), data["seconds"], tuple(data["warnings"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a performance ({error})") from None

    def with_program(self, program: int) -> Performance:
        """Return it with all pitched notes on one General MIDI program, 0 to 127 (else ValueError); drums stay."""
        if not 0 <= program <= 127:
            raise ValueError(f"General MIDI programs are 0 to 127, not {program}")
        return replace(self, notes=tuple(n if n.is_drum else replace(n, program=program) for n in self.notes))


class Transcript(NamedTuple):
    """A piece in musical time; all times are quarter notes from the beginning."""

    notes: list[DraftNote]  # in any order; `onset_s` and `end_s` hold quarter notes, too
    length_q: float  # as written, including final rests
    tempos: list[tuple[float, float]]  # position and quarter notes per minute, sorted
    meters: list[tuple[float, int, int]]  # position, numerator and denominator, sorted
    keys: list[tuple[float, int, bool]]  # position, sharps (flats below 0), and whether the key is minor, sorted
    parts: list[str]  # names of the parts, some empty


def check_length(seconds: float) -> None:
    """Raise ValueError if a performance lasts longer than `MAX_SECONDS`."""
    if not seconds <= MAX_SECONDS:
        hours = f"{seconds / 3600:.1f} hours; the most is {MAX_SECONDS / 3600:.0f}"
        raise ValueError(f"it would last {hours}: correct its tempos or repeats, or split it")


def check_count(notes: int) -> None:
    """Raise ValueError if a performance has more than `MAX_NOTES` notes."""
    if notes > MAX_NOTES:
        raise ValueError(f"more than {MAX_NOTES} notes; split the score")


def check_finite(draft: DraftNote) -> None:
    """Raise ValueError if a time or the pitch of a note is infinite or not a number."""
    if not (math.isfinite(draft.onset_s) and math.isfinite(draft.end_s) and math.isfinite(draft.pitch)):
        raise ValueError("a note has no finite time or pitch; export the score again")


def midi_velocity(velocity: float) -> int:
    """Round a velocity and clip it to 1 to 127."""
    return min(127, max(1, round(velocity)))


def join_ties(staves: list[list[tuple[DraftNote, Tie]]]) -> list[DraftNote]:
    """Join the tied notes of an instrument, also from voice to voice and from staff to staff, and return all notes.

    A tie reaches the note of its pitch that begins where it ends, rather one of its own staff; else the next one within
    `MAX_TIE_S`, unless the pitch is struck between them.
    """
    found: list[DraftNote] = []
    waiting: dict[float, list[tuple[DraftNote, int]]] = {}  # by pitch, notes whose tie is open, with their staff
    played = [(note, tie, staff) for staff, notes in enumerate(staves) for note, tie in notes]
    for note, (from_before, to_next), staff in sorted(
        played, key=lambda entry: (round(entry[0].onset_s, 4), not entry[1][0])
    ):
        here = waiting.get(note.pitch, [])
        near = [w for w in here if abs(w[0].end_s - note.onset_s) < SAME_S]
        far = [w for w in here if SAME_S <= note.onset_s - w[0].end_s <= MAX_TIE_S]
        held = min(near, key=lambda w: w[1] != staff) if near else far[-1] if far else None
        is_joined = held is not None and from_before
        open_s = note.onset_s - SAME_S if is_joined else note.onset_s + SAME_S  # a new stroke ends the ties before it
        waiting[note.pitch] = [w for w in here if w is not held and w[0].end_s > open_s]
        if held is not None and from_before:
            held[0].end_s = note.end_s
            note = held[0]
        else:
            found.append(note)
        if to_next:
            waiting[note.pitch].append((note, staff))
    return found


def pedal_spans(changes: list[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Return the spans in which the sustain pedal is down, the last up to infinity, from its `(time, is_down)`.

    >>> pedal_spans([(0.0, True), (1.0, True), (2.0, False)])
    [(0.0, 2.0)]
    """
    runs = itertools.groupby([*changes, (math.inf, False)], key=lambda change: change[1])
    edges = [next(run) for _, run in runs]  # the first of equal changes counts
    return [(down, up) for (down, is_down), (up, _) in itertools.pairwise(edges) if is_down]


def hold_pedal(notes: list[DraftNote], spans: list[tuple[float, float]]) -> None:
    """Lengthen notes whose key is released while the sustain pedal is down.

    They last until the pedal is released or their key is struck again. A pedal without release, which ends at infinity,
    holds them to the end of the last note. `notes` are those of one instrument, and `spans` as of `pedal_spans`.
    """
    last_s = max((note.end_s for note in notes), default=0.0)
    released_s = list(itertools.accumulate((up_s for _, up_s in spans), max))  # latest release of the spans so far
    by_pitch: dict[float, list[DraftNote]] = {}
    for note in sorted(notes, key=lambda n: n.onset_s):
        by_pitch.setdefault(note.pitch, []).append(note)
    for same_pitch in by_pitch.values():
        onsets_s = [note.onset_s for note in same_pitch]
        for note in same_pitch:
            k = bisect_right(released_s, note.end_s + 1e-6)  # the first span that ends later
            if k < len(spans) and spans[k][0] < note.end_s - 1e-6:
                following = bisect_right(onsets_s, note.onset_s)
                next_s = onsets_s[following] if following < len(onsets_s) else math.inf
                released = spans[k][1] if spans[k][1] < math.inf else last_s
                note.end_s = max(note.end_s, min(released, next_s))

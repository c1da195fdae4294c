"""The notes of ornaments: trills, turns, mordents, tremolos, arpeggios, glissandos and grace notes, in seconds.

Speeds and patterns are those that notation programs and today's players share: trills begin on the main note and move
in 32nds (at least 8 notes a second), a mordent goes to the lower neighbor, its inversion to the upper, a turn begins
above. Sources: MusicXML 4.0 ornaments; C. P. E. Bach, "Versuch", part 1, chapter 2, for the turn and the long
appoggiatura; times as MuseScore 3.6 plays them.
"""

from __future__ import annotations

import math
from itertools import cycle, islice, pairwise

from continuo.score.measures import NATURALS, STEPS, Head, Key
from continuo.score.notes import DraftNote

ACCIACCATURA_S = 0.065  # seconds of a slashed grace note, or of one of several; together at most half the main note
ARPEGGIO_S = 1 / 15  # seconds from one note of an arpeggio to the next, in chords that are long enough
MIN_ARPEGGIO_S = 0.005  # the same in the shortest chords
MAX_NOTES = 10_000  # notes of one ornament
MIN_ORNAMENT_S, MAX_ORNAMENT_S = 1 / 64, 1 / 8  # seconds of one note of a trill, turn or mordent

PATTERNS = {
    "trill": (0, 1), "mordent": (0, -1, 0), "inverted mordent": (0, 1, 0), "turn": (1, 0, -1, 0),
    "inverted turn": (-1, 0, 1, 0), "schleifer": (-2, -1, 0),
}  # fmt: skip
"""Steps from the main note. A trill repeats and ends on the main note; the others sustain their last note."""


def ornament_note_s(thirty_second_s: float) -> float:
    """Return the seconds of one note of an ornament: a 32nd, in slow music half or a quarter of it.

    >>> ornament_note_s(0.1), ornament_note_s(0.15)
    (0.1, 0.075)
    """
    halvings = max(math.ceil(math.log2(thirty_second_s / MAX_ORNAMENT_S) - 1e-6), 0)
    return max(thirty_second_s / 2**halvings, MIN_ORNAMENT_S)


def ornament(kind: str, onset_s: float, end_s: float, pitches: dict[int, float], note_s: float) -> list[DraftNote]:
    """Return the notes of one ornamented note.

    Args:
        kind: a key of `PATTERNS`, or "delayed" and such a key for an ornament in the second half of the note.
        onset_s, end_s: seconds of the ornamented note.
        pitches: MIDI pitch by steps from the main note; 0 must be among them.
        note_s: seconds of one note of the ornament.

    >>> [(n.onset_s, n.pitch) for n in ornament("mordent", 0.0, 1.0, {0: 60.0, -1: 59.0}, 0.125)]
    [(0.0, 60.0), (0.125, 59.0), (0.25, 60.0)]
    """
    if kind.startswith("delayed "):
        middle_s = (onset_s + end_s) / 2
        rest = ornament(kind.removeprefix("delayed "), middle_s, end_s, pitches, note_s)
        return [DraftNote(onset_s, middle_s, pitches[0]), *rest]
    steps = PATTERNS[kind]
    if kind == "trill":
        count = min(max(int((end_s - onset_s) / note_s + 1e-6), 1), MAX_NOTES)
        steps = tuple(islice(cycle(steps), count - 1 + count % 2))  # odd, to end on the main note
    note_s = min(note_s, (end_s - onset_s) / len(steps))
    spans = pairwise([*(onset_s + k * note_s for k in range(len(steps))), end_s])
    return [DraftNote(*span, pitches[step]) for span, step in zip(spans, steps, strict=True)]


def tremolo(onset_s: float, end_s: float, chords: list[list[float]], count: int) -> list[DraftNote]:
    """Return `count` equally long chords that take the given sets of pitches in turn: one repeats, two alternate."""
    length_s = (end_s - onset_s) / max(count, 1)
    spans = pairwise(onset_s + k * length_s for k in range(max(count, 1) + 1))
    return [DraftNote(begin_s, until_s, p) for chord, (begin_s, until_s) in zip(cycle(chords), spans) for p in chord]


def glissando(onset_s: float, end_s: float, start: float, goal: float) -> list[DraftNote]:
    """Return all keys from `start` up or down to the one before `goal`, equally long."""
    count = max(round(abs(goal - start)), 1)
    return tremolo(onset_s, end_s, [[start + math.copysign(k, goal - start)] for k in range(count)], count)


def arpeggio(onset_s: float, end_s: float, count: int) -> list[float]:
    """Return the onsets of the `count` notes of an arpeggio; the first one is on the beat.

    >>> [round(onset, 3) for onset in arpeggio(0.0, 1.0, 3)]
    [0.0, 0.067, 0.133]
    """
    step_s = ARPEGGIO_S
    while step_s * count > end_s - onset_s and step_s > MIN_ARPEGGIO_S:
        step_s *= 2 / 3
    return [onset_s + k * step_s for k in range(count)]


def grace_time(length_s: float, count: int, *, slashed: bool, dotted: bool) -> float:
    """Return how many seconds of a main note its `count` grace notes take.

    Slashed ones, or several, take `ACCIACCATURA_S` each. A single unslashed one takes half of the note, or two thirds
    of a dotted note.

    >>> grace_time(1.0, 1, slashed=False, dotted=False), grace_time(1.0, 2, slashed=False, dotted=False)
    (0.5, 0.13)
    """
    if slashed or count != 1:
        return min(ACCIACCATURA_S * count, length_s / 2)
    return length_s * (2 / 3 if dotted else 1 / 2)


def neighbor_name(head: Head, steps: int) -> tuple[str, int]:
    """Return letter and octave of the note some diatonic steps above (or, negative, below) a note."""
    octaves, number = divmod(STEPS.index(head.step) + steps, 7)
    return STEPS[number], head.octave + octaves


def neighbor(head: Head, steps: int, key: Key | None, alter: float | None) -> float:
    """Return the MIDI pitch that lies as many diatonic steps above (or, negative, below) a note; `steps` is not 0.

    Without a `key` it is C major; `alter`, semitones stated by the ornament or earlier in its bar, overrides the key.
    """
    step, octave = neighbor_name(head, steps)
    if alter is None:
        alter = key.alters.get(step, 0.0) if key is not None else 0.0
    found = NATURALS[step] + 12 * (octave + 1) + alter
    # A step is 1 to 3 semitones: the neighbor of an altered note never crosses it.
    low, high = sorted((steps, 3 * steps))
    return head.pitch + min(max(found - head.pitch, low), high)

"""What one written note becomes when it is ornamented: the strokes of trills, turns, mordents, tremolos, arpeggios.

Everything here is in seconds and knows nothing of the page. Speeds and patterns are those that notation programs and
today's players share: trills begin on the main note and move in 32nds (at least 8 strokes a second), a mordent goes to
the lower neighbour, its inversion to the upper, a turn begins above. Sources: MusicXML 4.0 ornaments; C. P. E. Bach,
"Versuch", part 1, chapter 2, for the turn and the long appoggiatura; times as MuseScore 3.6 plays them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

ACCIACCATURA_S = 0.065
"""One slashed grace note, or one of several, played on the beat; together at most half of the main note."""
ARPEGGIO_S = 1 / 15
"""From one note of an arpeggio to the next, unless the chord is too short for it."""
MIN_STEP_S = 0.005
MAX_STROKES = 10_000
"""Of one note."""
STROKE_RANGE_S = (1 / 64, 1 / 8)
"""Shortest and longest stroke of a trill, turn or mordent."""

PATTERNS = {
    "trill": (0, 1),
    "mordent": (0, -1, 0),
    "inverted mordent": (0, 1, 0),
    "turn": (1, 0, -1, 0),
    "inverted turn": (-1, 0, 1, 0),
    "schleifer": (-2, -1, 0),
}
"""Steps from the main note. A trill repeats and ends on the main note; the others sustain their last note."""


@dataclass(slots=True)
class Stroke:
    """One stroke: seconds, MIDI pitch."""

    onset_s: float
    end_s: float
    pitch: float


def stroke_length(thirty_second_s: float) -> float:
    """Seconds of one stroke of an ornament, given those of a 32nd: that, or in slow music half or a quarter of it.

    >>> stroke_length(0.1), stroke_length(0.15)
    (0.1, 0.075)
    """
    halvings = max(math.ceil(math.log2(thirty_second_s / STROKE_RANGE_S[1]) - 1e-6), 0)
    return max(thirty_second_s / 2**halvings, STROKE_RANGE_S[0])


def ornament(kind: str, onset_s: float, end_s: float, pitches: dict[int, float], stroke_s: float) -> list[Stroke]:
    """The strokes of one ornamented note.

    Args:
        kind: a key of `PATTERNS`, or "delayed" and such a key for an ornament in the note's second half.
        pitches: MIDI pitch by steps from the main note; 0 must be among them.

    >>> [(s.onset_s, s.pitch) for s in ornament("mordent", 0.0, 1.0, {0: 60.0, -1: 59.0}, 0.125)]
    [(0.0, 60.0), (0.125, 59.0), (0.25, 60.0)]
    """
    if kind.startswith("delayed "):
        middle_s = (onset_s + end_s) / 2
        rest = ornament(kind.removeprefix("delayed "), middle_s, end_s, pitches, stroke_s)
        return [Stroke(onset_s, middle_s, pitches[0]), *rest]
    steps = PATTERNS[kind]
    if kind == "trill":
        count = min(max(int((end_s - onset_s) / stroke_s + 1e-6), 1), MAX_STROKES)
        count -= 1 - count % 2  # odd, to end on the main note
        steps = tuple(steps[k % 2] for k in range(count))
    stroke_s = min(stroke_s, (end_s - onset_s) / len(steps))
    onsets = [onset_s + k * stroke_s for k in range(len(steps))] + [end_s]
    return [Stroke(onsets[k], onsets[k + 1], pitches[step]) for k, step in enumerate(steps)]


def tremolo(onset_s: float, end_s: float, sets: list[list[float]], count: int) -> list[Stroke]:
    """`count` equal strokes that take the sets of pitches in turn: one set repeats, two alternate."""
    count = max(count, 1)
    length_s = (end_s - onset_s) / count
    return [
        Stroke(onset_s + k * length_s, onset_s + (k + 1) * length_s, pitch)
        for k in range(count)
        for pitch in sets[k % len(sets)]
    ]


def arpeggio(onset_s: float, end_s: float, count: int, *, down: bool) -> list[float]:
    """Onsets of the notes of an arpeggiated chord, lowest note first in the list; the first stroke is on the beat.

    >>> [round(onset, 3) for onset in arpeggio(0.0, 1.0, 3, down=False)]
    [0.0, 0.067, 0.133]
    """
    step_s = ARPEGGIO_S
    while step_s * count > end_s - onset_s and step_s > MIN_STEP_S:
        step_s *= 2 / 3
    onsets = [onset_s + k * step_s for k in range(count)]
    return onsets[::-1] if down else onsets


def glissando(onset_s: float, end_s: float, start: float, goal: float) -> list[Stroke]:
    """Every key from `start` up or down to the one before `goal`, evenly."""
    count = max(round(abs(goal - start)), 1)
    sign = 1 if goal > start else -1
    return tremolo(onset_s, end_s, [[start + sign * k] for k in range(count)], count)


def grace_time(length_s: float, count: int, *, slashed: bool, dotted: bool) -> float:
    """How much of a main note of `length_s` seconds its grace notes take.

    Slashed ones, or several, are crushed into `ACCIACCATURA_S` each. A single unslashed one leans on the beat for half
    of the note, or two thirds when it is dotted.

    >>> grace_time(1.0, 1, slashed=False, dotted=False), grace_time(1.0, 2, slashed=False, dotted=False)
    (0.5, 0.13)
    """
    if slashed or count != 1:
        return min(ACCIACCATURA_S * count, length_s / 2)
    return length_s * (2 / 3 if dotted else 1 / 2)


def neighbour_name(pitch: Any, steps: int) -> tuple[str, int]:
    """Letter and octave of the note some diatonic steps from a music21 pitch."""
    number = "CDEFGAB".index(pitch.step) + steps
    return "CDEFGAB"[number % 7], pitch.implicitOctave + number // 7


def neighbour(pitch: Any, steps: int, key: Any, accidental: Any) -> float:
    """The MIDI pitch some diatonic steps from a music21 pitch.

    Args:
        key: music21 KeySignature in force, or None for C major.
        accidental: music21 Accidental written at the ornament, or in force in its bar; it overrides the key. None
            without.
    """
    step, octave = neighbour_name(pitch, steps)
    if accidental is None and key is not None:
        accidental = key.accidentalByStep(step)
    natural = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[step] + 12 * (octave + 1)
    found = natural + (float(accidental.alter) if accidental is not None else 0.0)
    distance = abs(steps) if steps else 0
    low, high = distance, 3 * distance  # an altered main note never makes its neighbour cross it
    gap = (found - pitch.ps) * (1 if steps > 0 else -1)
    return float(pitch.ps) + (1 if steps > 0 else -1) * min(max(gap, low), high)

"""Dynamics and hairpins of a written score: the MIDI velocity at each position."""

import re
from bisect import bisect_right
from dataclasses import dataclass

from continuo.score.measures import ROUND_Q, Staff, WrittenScore

STEP = 16  # MIDI velocity from one dynamic to the next, and over a hairpin that no dynamic follows
VELOCITIES = {name: 80 + STEP * k for k, name in enumerate(("ppp", "pp", "p", "mp", "mf", "f", "ff"), start=-4)} | {
    "fff": 122, "ffff": 125, "fffff": 127, "ffffff": 127, "pppp": 10, "ppppp": 6, "pppppp": 4, "n": 1,
}  # fmt: skip
DEFAULT_VELOCITY = VELOCITIES["mf"]  # MIDI velocity without a mark, as in notation programs
TWO_LEVELS = {"fp": "f p", "sfp": "ff p", "sfpp": "ff pp", "ffp": "ff p", "mfp": "mf p", "pf": "p f"}
"""Dynamics of two levels: the level of the note that carries them, and the level that follows."""
STRESSES = frozenset({"sf", "sfz", "sffz", "fz", "rf", "rfz", "sfzp"})  # they stress one note and change no level
STRESS = 1.5 * STEP  # MIDI velocity that a stress adds
NEAR_Q = 1.0  # quarter notes from the end of a hairpin to the dynamic that counts as its goal
WORDS_Q = 16.0  # quarter notes that "cresc." in words reaches for the next dynamic; half of it if there is none


def loudness_direction(text: str) -> int:
    """Return 1 for words that mean growing louder, -1 for softer, 0 for others.

    >>> loudness_direction("poco a poco cresc."), loudness_direction("rit. e dim."), loudness_direction("dolce")
    (1, -1, 0)
    """
    softer = re.search(r"(?i)\b(decresc|dim\b|dimin|smorz|morendo|calando|perdendo)", text)
    return 1 if re.search(r"(?i)\bcresc", text) else -1 if softer else 0


@dataclass
class Hairpin:
    """A crescendo (sign 1) or diminuendo (sign -1) between two positions, with the velocities at its ends."""

    begin_q: float
    end_q: float
    sign: int
    start: float = 0.0
    goal: float = 0.0


class Dynamics:
    """MIDI velocity as a function of the position, for one staff."""

    def __init__(self, written: WrittenScore, staff: Staff) -> None:
        self.single: dict[float, float] = {}  # velocity of the notes at one position only
        levels: dict[float, float] = {0.0: float(DEFAULT_VELOCITY)}
        stressed: list[float] = []
        for position_q, value in written.marked(written.family(staff), lambda marks: marks.dynamics):
            if value in STRESSES:
                stressed.append(position_q)
            elif isinstance(value, float):
                levels[position_q] = min(127.0, value)
            else:
                self._enter(written, levels, position_q, value)
        self.hairpins = read_hairpins(written, staff, levels)
        for hairpin in self.hairpins:
            self._enter_hairpin(levels, hairpin)
        self.positions_q = sorted(levels)
        self.levels = [levels[position_q] for position_q in self.positions_q]
        self.single |= {position_q: self.level(position_q) + STRESS for position_q in stressed}

    def _enter(self, written: WrittenScore, levels: dict[float, float], position_q: float, value: str) -> None:
        known = re.findall(r"\b(?:[pf]{1,6}|m[pf])\b", value)
        if value in TWO_LEVELS:
            here, after = TWO_LEVELS[value].split()
            self.single[position_q] = VELOCITIES[here]
            levels[position_q] = VELOCITIES[after]
        elif level := next((name for name in (value, *known[-1:]) if name in VELOCITIES), ""):
            levels[position_q] = VELOCITIES[level]
        else:
            written.warn(f"the dynamic '{value[:30]}' is not known")

    def _enter_hairpin(self, levels: dict[float, float], hairpin: Hairpin) -> None:
        """Enter a hairpin, whose goal is the dynamic that follows it, or one step from its start."""
        start = levels[max(q for q in levels if q <= hairpin.begin_q + ROUND_Q)]
        inside = [q for q in levels if hairpin.begin_q + ROUND_Q < q < hairpin.end_q + NEAR_Q]
        goal = levels[min(inside)] if inside else start
        if (goal - start) * hairpin.sign <= 0:
            goal = min(max(start + STEP * hairpin.sign, 10.0), 126.0)
        hairpin.end_q = min([hairpin.end_q, *inside])
        hairpin.start, hairpin.goal = start, goal
        if not inside:
            levels[hairpin.end_q] = goal

    def level(self, position_q: float) -> float:
        """Return the velocity in force at a position, without stresses of single notes."""
        k = bisect_right(self.hairpins, position_q + ROUND_Q, key=lambda hairpin: hairpin.begin_q) - 1
        if k >= 0 and position_q < self.hairpins[k].end_q - ROUND_Q:
            hairpin = self.hairpins[k]
            rise = (hairpin.goal - hairpin.start) * max(position_q - hairpin.begin_q, 0.0)
            return hairpin.start + rise / (hairpin.end_q - hairpin.begin_q)
        return self.levels[bisect_right(self.positions_q, position_q + ROUND_Q) - 1]

    def velocity(self, position_q: float) -> float:
        return self.single.get(position_q, self.level(position_q))


def read_hairpins(written: WrittenScore, staff: Staff, levels: dict[float, float]) -> list[Hairpin]:
    """Return the hairpins of an instrument, and "cresc." and "dim." in words, by position and without overlaps.

    A crescendo in words ends at the next dynamic of `levels`, its velocities by position.
    """
    found: list[Hairpin] = []
    for member in written.family(staff):
        opened: dict[str, tuple[float, int]] = {}
        for position_q, wedge in written.marked([member], lambda marks: marks.wedges):
            begin_q, sign = opened.pop(wedge.number, (position_q, 0))
            if position_q > begin_q:
                found.append(Hairpin(begin_q, position_q, sign))
            if wedge.sign:
                opened[wedge.number] = (position_q, wedge.sign)
    for position_q, text in written.marked(written.family(staff), lambda marks: marks.words):
        sign = loudness_direction(text)
        if sign and not any(abs(hairpin.begin_q - position_q) < NEAR_Q for hairpin in found):
            following = [q for q in levels if position_q + ROUND_Q < q <= position_q + WORDS_Q]
            others = [hairpin.begin_q for hairpin in found if hairpin.begin_q > position_q]
            found.append(Hairpin(position_q, min([*following, *others, position_q + WORDS_Q / 2]), sign))
    apart: list[Hairpin] = []
    for hairpin in sorted(found, key=lambda hairpin: (hairpin.begin_q, hairpin.end_q)):
        if not apart or hairpin.begin_q >= apart[-1].end_q - ROUND_Q:
            apart.append(hairpin)
    return [hairpin for hairpin in apart if hairpin.end_q > hairpin.begin_q]

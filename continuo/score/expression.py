"""Tempo, dynamics and pedal of a page, as functions of the place on its written line.

What notation programs agree on is performed always: tempo marks with numbers, dynamics, hairpins, pedal marks. What
only words and signs say about time (ritardando, "Andante" without a number, fermatas that stop the beat) is performed
when `expressive` is asked for, because no two players and no program agree on how much: see docs/SCORES.md.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from continuo.score.measures import ROUND_Q, Page, Staff
from continuo.score.musicxml import HINT, loudness_words

DEFAULT_QPM = 120.0
"""Quarter notes per minute where nothing is marked: what notation programs play."""
QPM_RANGE = (5.0, 1000.0)
"""Tempi outside are taken for mistakes and ignored with a warning."""

STEP = 16
"""MIDI velocity from one dynamic to the next, and over a hairpin that no dynamic follows."""
VELOCITIES = {name: 80 + STEP * k for k, name in enumerate(("ppp", "pp", "p", "mp", "mf", "f", "ff"), start=-4)} | {
    "fff": 122, "ffff": 125, "fffff": 127, "ffffff": 127, "pppp": 10, "ppppp": 6, "pppppp": 4, "n": 1,
}  # fmt: skip
"""MIDI velocity of each dynamic: mf = 80, as notation programs have it."""
ATTACKS = {
    "fp": ("f", "p"),
    "sfp": ("ff", "p"),
    "sfpp": ("ff", "pp"),
    "ffp": ("ff", "p"),
    "mfp": ("mf", "p"),
    "pf": ("p", "f"),
}
"""Dynamics of two levels: that of the note that carries them, and what follows."""
FORCED = frozenset({"sf", "sfz", "sffz", "fz", "rf", "rfz", "sfzp"})
"""Dynamics that stress one note, by one and a half steps, and change nothing after it."""
DEFAULT_VELOCITY = VELOCITIES["mf"]
NEAR_Q = 1.0
"""A dynamic this soon after a hairpin's end is its goal."""
WORDS_Q = 16.0
"""How far "cresc." in words reaches for the next dynamic; without one it grows by a step over half of this."""

TEMPO_WORDS = {
    "grave": 40, "largo": 46, "lento": 52, "adagio": 60, "larghetto": 63, "andante": 76, "andantino": 84,
    "moderato": 100, "allegretto": 112, "allegro": 132, "vivace": 150, "presto": 176, "prestissimo": 196,
    "langsam": 52, "mässig": 92, "lebhaft": 126, "schnell": 144, "lent": 52, "modéré": 96, "animé": 120, "vif": 144,
}  # fmt: skip
"""Quarter notes per minute of tempo words, used only in expressive performances."""
_GRADUAL = re.compile(r"\b(rit|rall|slentando|allarg|accel|string(?!s)|animando|cédez|retenu|retard)", re.IGNORECASE)
_FASTER = re.compile(r"\b(accel|string|animando)", re.IGNORECASE)
_BACK = re.compile(r"\b(a tempo|in tempo|tempo (i|1|primo)\b|tempo 1)", re.IGNORECASE)
GRADUAL_SHARE = 0.3
"""How much slower a ritardando has become at its end, how much faster an accelerando."""
GRADUAL_Q = 8.0
"""How far a ritardando reaches when nothing ends it."""
FERMATA_STRETCH = 1.75
"""How much longer than written a fermata holds."""


class Clock:
    """Seconds as a function of the place on the written line: a metronome that knows every tempo mark."""

    def __init__(self, tempi: dict[float, float]) -> None:
        """Args: tempi: quarter notes per minute from each place on; what comes before the first is at the first's."""
        places = sorted(tempi) or [0.0]
        self.places, self.seconds = [0.0], [0.0]
        self.qpm = [tempi.get(places[0], DEFAULT_QPM)]
        for place in places:
            if place > 0.0:
                self.seconds.append(self(place))
                self.places.append(place)
                self.qpm.append(tempi[place])

    def __call__(self, place_q: float) -> float:
        """Seconds at a place; after the last mark its tempo holds."""
        k = max(bisect_right(self.places, place_q) - 1, 0)
        return self.seconds[k] + (place_q - self.places[k]) * 60.0 / self.qpm[k]

    def quarter_s(self, place_q: float) -> float:
        """Seconds of a quarter note at a place."""
        return 60.0 / self.qpm[max(bisect_right(self.places, place_q + ROUND_Q) - 1, 0)]


def read_tempi(page: Page, *, expressive: bool) -> dict[float, float]:
    """Quarter notes per minute from each place of the written line on."""
    from music21.tempo import MetricModulation, TempoIndication

    found: list[tuple[float, Any]] = []
    for staff in page.staves:
        found += page.marked(staff, TempoIndication)
    tempi: dict[float, float] = {}
    now = DEFAULT_QPM
    # Of several marks at one place the last counts, and what a file says for playback before what it prints.
    for place, mark in sorted(found, key=lambda pair: (pair[0], getattr(pair[1], "numberSounding", None) is not None)):
        qpm = _modulated(mark, now) if isinstance(mark, MetricModulation) else mark.getQuarterBPM()
        if qpm is None:
            continue
        if not math.isfinite(qpm) or not QPM_RANGE[0] <= qpm <= QPM_RANGE[1]:
            page.warn(f"a tempo of {qpm:g} quarter notes per minute is ignored")
            continue
        now = tempi[place] = float(qpm)
    # A mark after the pick-up, or over the first note, holds from the beginning; a later one does not.
    if not tempi or min(tempi) > page.starts_q[min(2, len(page.starts_q) - 1)]:
        tempi[0.0] = tempi.get(0.0, DEFAULT_QPM)
    _read_time_words(page, tempi, expressive=expressive)
    return tempi


def _modulated(mark: Any, now_qpm: float) -> float:
    """The tempo after a metric modulation such as dotted quarter = quarter."""
    old, new = mark.oldReferent, mark.newReferent
    if old is None or new is None or not old.quarterLength:
        return now_qpm
    return now_qpm * float(new.quarterLength) / float(old.quarterLength)


def _words(page: Page) -> list[tuple[float, str]]:
    """All words on the page by place."""
    from music21.expressions import TextExpression

    found = [(place, mark.content or "") for s in page.staves for place, mark in page.marked(s, TextExpression)]
    return sorted(set(found))


def _read_time_words(page: Page, tempi: dict[float, float], *, expressive: bool) -> None:
    """Tempo words without a number, ritardando and accelerando: performed into `tempi`, or named in the warnings."""
    unmet: list[str] = []
    stretches: list[tuple[float, float, float]] = []  # from, to, share by which the tempo changes
    first_qpm = tempi[min(tempi)]
    for place, text in _words(page):
        word = re.match(r"\w+", text.lower())
        if _GRADUAL.search(text):
            share = GRADUAL_SHARE if _FASTER.search(text) else -GRADUAL_SHARE
            if _is_numbered(tempi, place, share):
                continue
            stretches.append((place, place + GRADUAL_Q, share))
            unmet.append(text)
        elif _BACK.search(text) and not _near(tempi, place):
            stretches = [(a, min(b, place), s) for a, b, s in stretches]
            if expressive:
                is_first = re.search(r"tempo (i|1|primo)\b", text, re.IGNORECASE)
                tempi[place] = first_qpm if is_first else _at(tempi, place)
            unmet.append(text)
        elif word and word.group() in TEMPO_WORDS and not _near(tempi, place):
            if expressive:
                tempi[place] = TEMPO_WORDS[word.group()]
                first_qpm = tempi[place] if place < ROUND_Q else first_qpm
            unmet.append(text)
    stretches += [(a, b, 1 / FERMATA_STRETCH - 1) for a, b in fermatas(page)]
    if not expressive:
        if unmet:
            names = ", ".join(dict.fromkeys(" ".join(text.split())[:30] for text in unmet[:6]))
            page.warn(f"words about time without a number are played in time: {names}")
        return
    for begin, end, share in stretches:
        _stretch(tempi, begin, min(end, page.starts_q[-1]), share)


def _is_numbered(tempi: dict[float, float], place: float, share: float) -> bool:
    """Whether tempi with numbers, as some programs write them, do what a gradual word says."""
    coming = [(p, q) for p, q in sorted(tempi.items()) if place < p <= place + GRADUAL_Q]
    return bool(coming) and (coming[0][1] - _at(tempi, place)) * share > 0


def _near(tempi: dict[float, float], place: float) -> bool:
    """Whether a numbered tempo stands at a place, the default at the beginning aside."""
    return any(abs(p - place) < 0.5 and (p > 0 or q != DEFAULT_QPM) for p, q in tempi.items())


def _at(tempi: dict[float, float], place: float) -> float:
    """The tempo in force at a place."""
    before = [p for p in tempi if p <= place + ROUND_Q]
    return tempi[max(before)] if before else tempi[min(tempi)]


def _stretch(tempi: dict[float, float], begin: float, end: float, share: float) -> None:
    """Change the tempo from `begin` to `end`: gradually in eighths up to `share`, at once for a fermata's big share."""
    end = min([end] + [p for p in tempi if p > begin + ROUND_Q]) if abs(share) == GRADUAL_SHARE else end
    if end <= begin:
        return
    after = _at(tempi, end)
    if abs(share) == GRADUAL_SHARE:
        base, count = _at(tempi, begin), max(round((end - begin) / 0.5), 1)
        for k in range(count):
            tempi[begin + (end - begin) * k / count] = base * (1 + share * (k + 1) / count)
    else:
        inside = [p for p in tempi if begin < p < end]
        tempi[begin] = _at(tempi, begin)
        for place in [begin, *inside]:
            tempi[place] *= 1 + share
    tempi[end] = after


def fermatas(page: Page) -> list[tuple[float, float]]:
    """From and to which place fermatas hold, those of several staves at one place once."""
    from music21.expressions import Fermata

    found: dict[float, float] = {}
    for staff in page.staves:
        for place, written in page.notes(staff):
            if any(isinstance(e, Fermata) for e in written.element.expressions):
                place = round(place, 6)
                found[place] = max(found.get(place, 0.0), place + written.length_q)
    return sorted(found.items())


@dataclass(frozen=True)
class Wedge:
    """A crescendo (sign 1) or diminuendo (-1) between two places."""

    begin: float
    end: float
    sign: int


class Dynamics:
    """MIDI velocity as a function of the place on the written line, for one staff."""

    def __init__(self, page: Page, staff: Staff) -> None:
        from music21.dynamics import Dynamic

        self.forced: dict[float, float] = {}
        levels: dict[float, float] = {0.0: float(DEFAULT_VELOCITY)}
        stressed: list[float] = []
        for member in page.family(staff):
            for place, mark in page.marked(member, Dynamic):
                value = str(mark.value).strip().lower()
                if value in FORCED:
                    stressed.append(place)
                else:
                    self._enter(page, levels, place, value)
        self.ramps: list[tuple[float, float, float, float]] = []  # begin, end, level there, level here
        for wedge in read_wedges(page, staff, levels):
            self._ramp(levels, wedge)
        self.places = sorted(levels)
        self.levels = [levels[place] for place in self.places]
        self.begins = [ramp[0] for ramp in self.ramps]
        for place in stressed:
            self.forced[place] = self.level(place) + 1.5 * STEP

    def _enter(self, page: Page, levels: dict[float, float], place: float, value: str) -> None:
        known = re.findall(r"\b(?:[pf]{1,6}|m[pf])\b", value)
        if value in ATTACKS:
            self.forced[place] = VELOCITIES[ATTACKS[value][0]]
            levels[place] = VELOCITIES[ATTACKS[value][1]]
        elif value.startswith(f"{HINT}velocity="):
            levels[place] = min(127.0, float(value.rpartition("=")[2]))
        elif value in VELOCITIES or (known and known[-1] in VELOCITIES):
            levels[place] = VELOCITIES.get(value, VELOCITIES.get(known[-1] if known else "", DEFAULT_VELOCITY))
        else:
            page.warn(f"the dynamic '{value[:30]}' is not known")

    def _ramp(self, levels: dict[float, float], wedge: Wedge) -> None:
        """Enter a hairpin: its goal is the dynamic that follows it, or one step from where it began."""
        start = levels[max(p for p in levels if p <= wedge.begin + ROUND_Q)]
        inside = [p for p in levels if wedge.begin + ROUND_Q < p < wedge.end + NEAR_Q]
        goal = levels[min(inside)] if inside else start
        end = min([wedge.end, *inside])
        if (goal - start) * wedge.sign <= 0:
            goal = min(max(start + STEP * wedge.sign, 10.0), 126.0)
        self.ramps.append((wedge.begin, end, start, goal))
        if not inside:
            levels[end] = goal

    def level(self, place_q: float) -> float:
        """The level in force, without single stresses."""
        k = bisect_right(self.begins, place_q + ROUND_Q) - 1
        if k >= 0:
            begin, end, start, goal = self.ramps[k]
            if place_q < end - ROUND_Q:
                return start + (goal - start) * max(place_q - begin, 0.0) / (end - begin)
        return self.levels[bisect_right(self.places, place_q + ROUND_Q) - 1]

    def __call__(self, place_q: float) -> float:
        """The velocity of a note that begins here."""
        return self.forced.get(place_q, self.level(place_q))


def read_wedges(page: Page, staff: Staff, levels: dict[float, float]) -> list[Wedge]:
    """Hairpins of an instrument, and "cresc." and "dim." in words, by place; they do not overlap."""
    from music21.dynamics import DynamicWedge
    from music21.expressions import TextExpression

    found: list[Wedge] = []
    for member in page.family(staff):
        opened: dict[str, tuple[float, int]] = {}
        for place, hint in page.hinted(member, "wedge"):
            begin, sign = opened.pop(hint["number"], (place, 0))
            if place > begin:
                found.append(Wedge(begin, place, sign))
            if hint["wedge"] != "stop":
                opened[hint["number"]] = (place, 1 if hint["wedge"] == "crescendo" else -1)
        found += _spanned(page, member, DynamicWedge)
    for member in page.family(staff):
        for place, mark in page.marked(member, TextExpression):
            sign = loudness_words(mark.content or "")
            if sign and not any(abs(wedge.begin - place) < NEAR_Q for wedge in found):
                following = [p for p in levels if place + ROUND_Q < p <= place + WORDS_Q]
                others = [wedge.begin for wedge in found if wedge.begin > place]
                found.append(Wedge(place, min([*following, *others, place + WORDS_Q / 2]), sign))
    found.sort(key=lambda wedge: (wedge.begin, wedge.end))
    apart: list[Wedge] = []
    for wedge in found:
        if not apart or wedge.begin >= apart[-1].end - ROUND_Q:
            apart.append(wedge)
    return [wedge for wedge in apart if wedge.end > wedge.begin]


def _spanned(page: Page, staff: Staff, kind: type) -> list[Wedge]:
    """Hairpins that music21 holds as spanners over notes."""
    spanners = list(staff.stream[kind])
    if not spanners:
        return []
    spans = {id(written.element): (place, place + written.length_q) for place, written in page.notes(staff)}
    found = []
    for spanner in spanners:
        ends = [spans[id(e)] for e in spanner.getSpannedElements() if id(e) in spans]
        if ends:
            sign = -1 if "Diminuendo" in spanner.classes else 1
            found.append(Wedge(min(a for a, _ in ends), max(b for _, b in ends), sign))
    return found


def read_pedal(page: Page, family: list[Staff]) -> list[tuple[float, float]]:
    """From and to which place on the written line the sustain pedal of an instrument is down."""
    presses: list[tuple[float, int, bool]] = []
    for staff in family:
        for place, hint in page.hinted(staff, "pedal"):
            if hint["pedal"] == "sostenuto":
                page.warn("the sostenuto pedal is not performed")
            elif hint["pedal"] in ("stop", "change"):
                presses.append((place, 0, False))
            if hint["pedal"] in ("start", "change"):
                presses.append((place, 1, True))
    spans: list[tuple[float, float]] = []
    down: float | None = None
    for place, _, is_down in sorted(presses):
        if down is not None and place > down:
            spans.append((down, place))
        down = place if is_down else None
    if down is not None:
        spans.append((down, page.starts_q[-1]))
    return spans

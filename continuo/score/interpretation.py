"""A score read the way a musician reads it: every sound of a music21 score with its place in seconds.

Tempo and dynamics are functions of the place on the written line (`continuo.score.expression`), so they are the same
each time a bar is played. `continuo.score.repeats` gives the order of bars; every playing of a bar is a stretch of
seconds. Ties are joined along the playing order: a tie over a repeat sign finds the note that really follows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from continuo.score import ornaments
from continuo.score.expression import Clock, Dynamics, fermatas, read_pedal, read_tempi
from continuo.score.instruments import percussion_key, programs
from continuo.score.measures import ROUND_Q, Page, Staff, Written
from continuo.score.musicxml import read_hint
from continuo.score.ornaments import Stroke
from continuo.score.sounds import Sound, check_length, hold_pedal

if TYPE_CHECKING:
    from music21.stream import Score

SAME_S = 0.01
"""A tie's end and the next note's beginning may differ by rounding, not by more."""
LEGATO_S = 0.03
"""How far a slurred note reaches into the next one, at most a tenth of its length."""
BREATH_S = 0.2
"""What a breath mark takes from the end of its note, at most a quarter of it."""
LAST_FERMATA = 1.75
"""How much longer than written the last notes sound under a fermata."""

LENGTHS = {"Staccatissimo": 0.3, "Spiccato": 0.4, "Staccato": 0.5, "DetachedLegato": 0.75, "StrongAccent": 0.85}
"""Sounding share of the written length; a staccato under a slur or with a tenuto keeps `PORTATO`."""
PORTATO = 0.75
STRESSES = {
    "StrongAccent": 28,
    "Accent": 18,
    "SoftAccent": 10,
    "Stress": 10,
    "Tenuto": 4,
    "Unstress": -10,
    "Spiccato": 4,
}
"""What an articulation adds to the velocity."""
GRACE_VELOCITY = -8

UNPERFORMED = frozenset({
    "Scoop", "Plop", "Doit", "Falloff", "IndeterminateSlide", "StringHarmonic", "Harmonic", "FretBend", "FretTap",
    "HammerOn", "PullOff", "Stopped", "HandbellIndication",
})  # fmt: skip
"""Marks on notes that would be heard and are not performed; others only tell a player how."""


@dataclass
class Line:
    """What is needed to play one staff."""

    page: Page
    staff: Staff
    clock: Clock
    dynamics: Dynamics
    instruments: list[tuple[float, int, bool]]
    keys: list[tuple[float, Any]]
    spans: Spans
    last_fermata: float  # place on the written line where the last notes stand under a fermata; infinity without
    as_written: bool = False  # lengths as they are printed, no ornament played out


class Spans:
    """Notes under slurs, trill lines, two-note tremolos and glissandos of a part."""

    def __init__(self, staff: Staff) -> None:
        from music21 import expressions, spanner

        self.slurred: set[int] = set()  # all but the last note of each slur
        self.trilled: set[int] = set()
        self.tremolo: dict[int, tuple[Any, Any, int]] = {}  # first and second note, marks
        self.glissando: dict[int, Any] = {}  # where it leads
        self.arpeggio: dict[int, str] = {}
        order = {id(written.element): k for k, written in enumerate(w for bar in staff.bars for w in bar)}
        everything = [w.element for bar in staff.bars for w in bar]
        for element in everything:
            for span in element.getSpannerSites():
                members = span.getSpannedElements()
                if isinstance(span, spanner.Slur):
                    if element is not members[-1]:
                        self._cover(self.slurred, everything, order, members, last=False)
                elif isinstance(span, expressions.TrillExtension):
                    self._cover(self.trilled, everything, order, members, last=True)
                elif isinstance(span, expressions.TremoloSpanner) and len(members) == 2:
                    for member in members:
                        self.tremolo[id(member)] = (members[0], members[1], span.numberOfMarks)
                elif isinstance(span, spanner.Glissando) and len(members) == 2 and element is members[0]:
                    self.glissando[id(element)] = members[1]
                elif isinstance(span, expressions.ArpeggioMarkSpanner):
                    self.arpeggio[id(element)] = str(span.type)

    @staticmethod
    def _cover(
        found: set[int], everything: list[Any], order: dict[int, int], members: list[Any], *, last: bool
    ) -> None:
        """All elements of the same voice from a spanner's first to its last member."""
        if id(members[0]) in order and id(members[-1]) in order:
            first, end = order[id(members[0])], order[id(members[-1])]
            site = members[0].activeSite
            inside = [
                e for e in everything[first : end + 1] if e is members[0] or e is members[-1] or e.activeSite is site
            ]
            found.update(id(e) for e in (inside if last else inside[:-1]))


def interpret(score: Score, *, expressive: bool = False) -> tuple[list[Sound], float, tuple[str, ...]]:
    """All sounds of a score at sounding pitch, its length in seconds, and what was met and not performed.

    Args:
        expressive: whether words about time and fermatas change the tempo, see `continuo.score.expression`.

    Raises:
        ValueError: repeats without end.
    """
    page = Page(score)
    clock = Clock(read_tempi(page, expressive=expressive))
    times: list[tuple[int, float]] = []  # bar, seconds at which this playing of it begins
    now_s = 0.0
    for i in page.order:
        times.append((i, now_s))
        now_s += clock(page.starts_q[i + 1]) - clock(page.starts_q[i])
    check_length(now_s)
    last_fermata = _last_fermata(page) if not expressive else float("inf")
    groups: dict[str, list[Sound]] = {}
    for staff in page.staves:
        keys = _keys(page, staff)
        line = Line(page, staff, clock, Dynamics(page, staff), programs(page, staff), keys, Spans(staff), last_fermata)
        groups.setdefault(staff.group, []).extend(_play_staff(line, times))
    for staff in {s.group: s for s in page.staves}.values():
        hold_pedal(groups[staff.group], _pedal_seconds(page, clock, read_pedal(page, page.family(staff)), times))
    return [sound for sounds in groups.values() for sound in sounds], now_s, tuple(page.warnings)


def transcribe(score: Score) -> tuple[list[Sound], float, list[tuple[float, float]], list[tuple[float, int, int]]]:
    """A score at sounding pitch as it is written, repeats played: sounds, length, tempos and meters.

    All times are quarter notes: the score is played by a clock on which a quarter lasts a second. Articulations,
    slurs, pedal and fermatas change no length, and of ornaments the main note is played.

    Returns:
        Sounds, length, `(place, quarter notes per minute)` and `(place, numerator, denominator)`, both sorted.

    Raises:
        ValueError: repeats without end.
    """
    from music21.meter import TimeSignature

    page = Page(score)
    tempo, metronome = Clock(read_tempi(page, expressive=False)), Clock({0.0: 60.0})
    signatures = sorted(
        (
            (place, mark.numerator, mark.denominator)
            for s in page.staves
            for place, mark in page.marked(s, TimeSignature)
        ),
        key=lambda entry: entry[0],
    )
    times: list[tuple[int, float]] = []
    tempos: list[tuple[float, float]] = []
    meters: list[tuple[float, int, int]] = []
    now_q = 0.0
    for i in page.order:
        begin, end = page.starts_q[i], page.starts_q[i + 1]
        times.append((i, now_q))
        inside = [(place, qpm) for place, qpm in zip(tempo.places, tempo.qpm, strict=True) if begin < place < end]
        for place, qpm in [(begin, 60 / tempo.quarter_s(begin)), *inside]:
            if not tempos or abs(tempos[-1][1] - qpm) > ROUND_Q:
                tempos.append((now_q + place - begin, qpm))
        meter = next((m for place, *m in reversed(signatures) if place <= begin + ROUND_Q), None)
        if meter and (not meters or list(meters[-1][1:]) != meter):
            meters.append((now_q, meter[0], meter[1]))
        now_q += end - begin
    check_length(now_q / 4)  # four quarter notes a second are many
    sounds: list[Sound] = []
    for staff in page.staves:
        lines = (
            metronome,
            Dynamics(page, staff),
            programs(page, staff),
            _keys(page, staff),
            Spans(staff),
            float("inf"),
        )
        sounds += _play_staff(Line(page, staff, *lines, as_written=True), times)
    return sounds, now_q, tempos, meters


def _last_fermata(page: Page) -> float:
    """Where the fermata stands that ends the piece; names the ones that do not, which do not stop the beat."""
    found = fermatas(page)
    end = page.starts_q[page.order[-1] + 1] if page.order else 0.0
    last = [begin for begin, until in found if until >= end - ROUND_Q]
    if len(found) > len(last):
        page.warn("fermatas within the piece do not stop the beat")
    return min(last, default=float("inf"))


def _pedal_seconds(
    page: Page, clock: Clock, spans: list[tuple[float, float]], times: list[tuple[int, float]]
) -> list[tuple[float, float]]:
    """Pedal spans of the written line as spans of seconds, in every playing of their bars."""
    found: list[tuple[float, float]] = []
    for begin, end in spans:
        open_at = -1.0  # seconds at which the previous bar left the pedal down
        for i, begin_s in times:
            low, high = max(begin, page.starts_q[i]), min(end, page.starts_q[i + 1])
            if low >= high:
                continue
            zero_s = begin_s - clock(page.starts_q[i])
            down_s, up_s = zero_s + clock(low), zero_s + clock(high)
            if found and open_at == begin_s and low == page.starts_q[i]:
                found[-1] = (found[-1][0], up_s)
            else:
                found.append((down_s, up_s))
            open_at = up_s if high < end else -1.0
    return sorted(found)


def _keys(page: Page, staff: Staff) -> list[tuple[float, Any]]:
    """Key signatures of a staff by place."""
    from music21.key import KeySignature

    return sorted(page.marked(staff, KeySignature), key=lambda pair: pair[0])


def _play_staff(line: Line, times: list[tuple[int, float]]) -> list[Sound]:
    """The sounds of one staff in playing order, ties joined."""
    sounds: list[Sound] = []
    tied: dict[float, list[Sound]] = {}
    bars = [_gestures(bar) for bar in line.staff.bars]
    for i, begin_s in times:
        if i < len(bars):
            zero_s = begin_s - line.clock(line.page.starts_q[i])
            for gesture in bars[i]:
                _play(line, gesture, line.page.starts_q[i], zero_s, sounds, tied)
    return sounds


@dataclass(slots=True)
class Gesture:
    """A written note or chord with the grace notes that belong to it."""

    main: Written
    before: list[Written]
    after: list[Written]


def _gestures(bar: list[Written]) -> list[Gesture]:
    """The notes of a bar, each with the grace notes before it; those that no note follows belong to the note before."""
    found: list[Gesture] = []
    waiting: dict[str, list[Written]] = {}
    latest: dict[str, Gesture] = {}
    for written in bar:
        if written.element.duration.isGrace:
            waiting.setdefault(written.voice, []).append(written)
            continue
        graces = waiting.pop(written.voice, [])
        before = [g for g in graces if abs(g.start_q - written.start_q) < ROUND_Q and not written.element.isRest]
        if len(before) < len(graces) and written.voice in latest:
            latest[written.voice].after += [g for g in graces if g not in before]
        if not written.element.isRest:
            latest[written.voice] = Gesture(written, before, [])
            found.append(latest[written.voice])
    for voice, graces in waiting.items():
        if voice in latest:
            latest[voice].after += graces
        else:  # a bar of grace notes alone: each is played for itself
            found += [Gesture(Written(g.start_q, 0.125, g.element, g.voice), [], []) for g in graces]
    return found


def _play(
    line: Line, gesture: Gesture, bar_q: float, zero_s: float, sounds: list[Sound], tied: dict[float, list[Sound]]
) -> None:
    """One gesture at its place; `zero_s` is what the clock's seconds must be shifted by in this playing of the bar."""
    main = gesture.main
    place = bar_q + main.start_q
    onset_s = zero_s + line.clock(place)
    end_s = zero_s + line.clock(place + main.length_q)
    if place >= line.last_fermata - ROUND_Q:
        end_s = onset_s + (end_s - onset_s) * LAST_FERMATA
    program, is_drum = line.instruments[bisect_right(line.instruments, (place + ROUND_Q, 128, True)) - 1][1:]
    is_drum = is_drum or _is_unpitched(main.element)
    velocity = line.dynamics(place)

    def add(stroke: Stroke, stress: float, tie: str = "") -> None:
        waiting = tied.setdefault(stroke.pitch, [])  # of several voices, perhaps
        held = next((s for s in waiting if abs(s.end_s - stroke.onset_s) < SAME_S), None)
        if held is not None and tie in ("stop", "continue"):
            waiting.remove(held)
            held.end_s, sound = stroke.end_s, held
        else:
            level = min(max(velocity + stress, 1.0), 127.0)
            sound = Sound(stroke.onset_s, stroke.end_s, stroke.pitch, level, program, is_drum)
            sounds.append(sound)
        if tie in ("start", "continue"):
            waiting.append(sound)

    taken_s = _grace_time(line, gesture, place, end_s - onset_s)
    for stroke, tie in _graces(gesture.before, onset_s, onset_s + taken_s):
        add(stroke, GRACE_VELOCITY, tie)
    after_s = _grace_time(line, Gesture(main, gesture.after, []), place, end_s - onset_s, after=True)
    for stroke, tie in _graces(gesture.after, end_s - after_s, end_s):
        add(stroke, GRACE_VELOCITY, tie)
    stress = sum(STRESSES.get(type(a).__name__, 0) for a in main.element.articulations)
    for stroke, tie, member in _strokes(line, main, place, onset_s + taken_s, end_s - after_s):
        add(stroke, stress + _own_level(member, velocity) - velocity, tie)


def _grace_time(line: Line, gesture: Gesture, place: float, length_s: float, *, after: bool = False) -> float:
    """How much of the main note the grace notes before it take; beside an ornament they move at its speed."""
    graces = gesture.before
    if not graces:
        return 0.0
    if _ornament_name(line, gesture.main.element):
        return min(len(graces) * ornaments.stroke_length(line.clock.quarter_s(place) / 8), length_s / 2)
    slashed = after or bool(getattr(graces[0].element.duration, "slash", True))
    dotted = gesture.main.element.duration.dots > 0
    return ornaments.grace_time(length_s, len(graces), slashed=slashed, dotted=dotted)


def _graces(graces: list[Written], onset_s: float, end_s: float) -> Iterator[tuple[Stroke, str]]:
    """Grace notes and grace chords, evenly from `onset_s` to `end_s`."""
    step_s = (end_s - onset_s) / max(len(graces), 1)
    for k, grace in enumerate(graces):
        for pitch, _, tie in _members(grace.element):
            yield Stroke(onset_s + k * step_s, onset_s + (k + 1) * step_s, pitch), tie


def _is_unpitched(element: Any) -> bool:
    """Whether a note, or any member of a chord, stands for a percussion sound."""
    members = element.notes if hasattr(element, "notes") else (element,)
    return any(not hasattr(member, "pitch") for member in members)


def _members(element: Any) -> list[tuple[float, Any, str]]:
    """MIDI pitch, music21 note and tie type ("" without) of each note of a note or chord, lowest first."""
    found = []
    for member in element.notes if hasattr(element, "notes") else (element,):
        tie = member.tie.type if member.tie is not None else ""
        if hasattr(member, "pitch"):
            found.append((float(member.pitch.ps), member, tie))
        else:
            key = read_hint(member).get("key")
            pitch = int(key) if key else percussion_key("", str(member.displayStep), int(member.displayOctave))
            found.append((float(pitch), member, tie))
    return sorted(found, key=lambda entry: entry[0])


def _own_level(member: Any, velocity: float) -> float:
    """The velocity that a single note states for itself, else the one given."""
    scalar = member.volume.velocityScalar if member.hasVolumeInformation() else None
    return velocity if scalar is None else float(scalar) * 127.0


def _strokes(
    line: Line, main: Written, place: float, onset_s: float, end_s: float
) -> Iterator[tuple[Stroke, str, Any]]:
    """What a note or chord sounds as: each stroke with its tie and the music21 note it comes from."""
    element = main.element
    members = _members(element)
    expressions = {type(e).__name__: e for e in element.expressions}
    _name_unperformed(line.page, element)
    special = _tremolo_or_glissando(line, main, place, onset_s, end_s, expressions)
    if special is not None:
        yield from ((stroke, "", members[0][1]) for stroke in special)
        return
    onsets = [onset_s] * len(members)
    rolled = line.spans.arpeggio.get(id(element)) or (
        "ArpeggioMark" in expressions and expressions["ArpeggioMark"].type
    )
    if rolled and rolled != "non-arpeggio" and len(members) > 1 and not line.as_written:
        onsets = ornaments.arpeggio(onset_s, end_s, len(members), down=rolled == "down")
    for k, ((pitch, member, tie), begin_s) in enumerate(zip(members, onsets, strict=True)):
        until_s = begin_s + _sounding_s(line, element, end_s - begin_s, is_tied=tie in ("start", "continue"))
        is_top = k == len(members) - 1
        ornamented = _ornamented(line, element, member, place, begin_s, until_s, expressions) if is_top else []
        for n, stroke in enumerate(ornamented or [Stroke(begin_s, until_s, pitch)]):
            joins = [n == 0 and tie in ("stop", "continue"), n >= len(ornamented) - 1 and tie in ("start", "continue")]
            yield stroke, ("", "start", "stop", "continue")[2 * joins[0] + joins[1]], member


def _sounding_s(line: Line, element: Any, length_s: float, *, is_tied: bool) -> float:
    """How much of its written length a note sounds; a tied note keeps all of it, its last part decides."""
    if is_tied or line.as_written:
        return length_s
    names = {type(a).__name__ for a in element.articulations}
    slurred = id(element) in line.spans.slurred
    share = min((LENGTHS[name] for name in names if name in LENGTHS), default=1.0)
    if "Staccato" in names and (slurred or "Tenuto" in names):
        share = PORTATO
    if names & {"BreathMark", "Caesura"}:
        return min(share * length_s, length_s - min(BREATH_S, length_s / 4))
    if slurred and share == 1.0:
        return length_s + min(LEGATO_S, length_s / 10)
    return share * length_s


ORNAMENTS = {
    "Trill": "trill", "InvertedTrill": "trill", "Shake": "trill", "Mordent": "mordent",
    "InvertedMordent": "inverted mordent", "Turn": "turn", "InvertedTurn": "inverted turn", "Schleifer": "schleifer",
}  # fmt: skip
"""Patterns of `continuo.score.ornaments` by music21's class."""


def _ornament_name(line: Line, element: Any) -> str:
    """A key of `ORNAMENTS`, or nothing."""
    names = (type(expression).__name__ for expression in element.expressions)
    return next((name for name in names if name in ORNAMENTS), "Trill" if id(element) in line.spans.trilled else "")


def _ornamented(
    line: Line, element: Any, member: Any, place: float, onset_s: float, end_s: float, expressions: dict[str, Any]
) -> list[Stroke]:
    """The strokes of a trill, mordent or turn; none when the note is plain."""
    name = _ornament_name(line, element)
    if not name or not hasattr(member, "pitch") or line.as_written:
        return []
    mark = expressions.get(name)
    key = next((k for p, k in reversed(line.keys) if p <= place + ROUND_Q), None)
    single = getattr(mark, "accidental", None)
    above = getattr(mark, "upperAccidental", None) or (single if name != "Mordent" else None)
    below = getattr(mark, "lowerAccidental", None) or (single if name == "Mordent" else None)
    pitches = {
        steps: ornaments.neighbour(member.pitch, steps, key, mark or _in_force(element, member.pitch, steps))
        for steps, mark in ((-2, below), (-1, below), (1, above))
    }
    delayed = "delayed " if str(getattr(mark, "delay", "")).endswith("DEFAULT_DELAY") else ""
    stroke_s = ornaments.stroke_length(line.clock.quarter_s(place) / 8)
    return ornaments.ornament(
        delayed + ORNAMENTS[name], onset_s, end_s, pitches | {0: float(member.pitch.ps)}, stroke_s
    )


def _in_force(element: Any, pitch: Any, steps: int) -> Any:
    """The accidental that the bar gave to a neighbour of a note before that note, or None."""
    from music21.pitch import Accidental

    bar = element.getContextByClass("Measure")
    if bar is None:
        return None
    here, found = element.getOffsetInHierarchy(bar), None
    for note in bar.recurse().notes:
        if note.getOffsetInHierarchy(bar) < here:
            for earlier in getattr(note, "pitches", ()):
                if (earlier.step, earlier.implicitOctave) == ornaments.neighbour_name(pitch, steps):
                    found = earlier.accidental or Accidental("natural")
    return found


def _tremolo_or_glissando(
    line: Line, main: Written, place: float, onset_s: float, end_s: float, expressions: dict[str, Any]
) -> list[Stroke] | None:
    """The strokes of a tremolo (on one note, or the first of two) or glissando; None for other notes."""
    element = main.element
    pitches = [pitch for pitch, _, _ in _members(element)]
    if id(element) in line.spans.tremolo:
        first, second, marks = line.spans.tremolo[id(element)]
        if element is second:
            return []
        both_q = main.length_q + float(second.duration.quarterLength)
        both_s = line.clock(place + both_q) - line.clock(place)
        other = [pitch for pitch, _, _ in _members(second)]
        return ornaments.tremolo(onset_s, onset_s + both_s, [pitches, other], _stroke_count(both_q, first, marks))
    if "Tremolo" in expressions:
        marks = expressions["Tremolo"].numberOfMarks or 3
        return ornaments.tremolo(onset_s, end_s, [pitches], _stroke_count(main.length_q, element, marks))
    if id(element) in line.spans.glissando and len(pitches) == 1:
        goal = _members(line.spans.glissando[id(element)])
        if len(goal) == 1 and abs(goal[0][0] - pitches[0]) > 1:
            return ornaments.glissando(onset_s, end_s, pitches[0], goal[0][0])
    return None


def _stroke_count(length_q: float, element: Any, marks: int) -> int:
    """How many strokes a tremolo has: one mark is eighths, two 16ths and so on; a note's own flags count too."""
    flags = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4}.get(element.duration.type, 0)
    return min(max(round(length_q * 2 ** min(marks + flags, 5)), 1), ornaments.MAX_STROKES)


def _name_unperformed(page: Page, element: Any) -> None:
    """Name what stands on a note and is not performed."""
    for mark in [*element.articulations, *element.expressions]:
        name = type(mark).__name__
        if name in UNPERFORMED:
            page.warn(f"not performed: {''.join(' ' + c.lower() if c.isupper() else c for c in name).strip()}")

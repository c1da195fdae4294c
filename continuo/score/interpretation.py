"""The notes of one staff: lengths, stresses, ornaments, grace notes and ties, each time a bar is played.

Tempo and dynamics are functions of the position in the score as written, so they are the same in each pass of a bar.
`continuo.score.notes.join_ties` joins ties along the playing order: a tie over a repeat sign finds the note that really
follows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from continuo.score import ornaments
from continuo.score.dynamics import Dynamics
from continuo.score.instruments import PIZZICATO, STRINGS, percussion_key, read_programs
from continuo.score.measures import ROUND_Q, Staff, WrittenNote, WrittenScore
from continuo.score.musicxml import read_hint
from continuo.score.notes import DraftNote, Tie
from continuo.score.repeats import passes
from continuo.score.tempo import TempoMap, read_swing

if TYPE_CHECKING:
    from music21.base import Music21Object
    from music21.note import GeneralNote, NotRest
    from music21.pitch import Accidental, Pitch

    Played = tuple[DraftNote, Tie, NotRest]

LEGATO_S = 0.03  # seconds that a slurred note reaches into the next one, at most a tenth of its length
BREATH_S = 0.2  # seconds that a breath mark takes from the end of its note, at most a quarter of its length
LAST_FERMATA = 1.75  # sounding length of the last notes under a fermata / written length

LENGTHS = {"Staccatissimo": 0.3, "Spiccato": 0.4, "Staccato": 0.5, "DetachedLegato": 0.75, "StrongAccent": 0.85}
"""Sounding length / written length by music21's class of articulation."""
PORTATO = 0.75  # the same for a staccato under a slur or with a tenuto
STRESSES = {
    "StrongAccent": 28, "Accent": 18, "SoftAccent": 10, "Stress": 10, "Tenuto": 4, "Unstress": -10, "Spiccato": 4,
}  # fmt: skip
"""MIDI velocity that an articulation adds."""
GRACE_STRESS = -8  # MIDI velocity that a grace note adds
ORNAMENTS = {
    "Trill": "trill", "InvertedTrill": "trill", "Shake": "trill", "Mordent": "mordent",
    "InvertedMordent": "inverted mordent", "Turn": "turn", "InvertedTurn": "inverted turn", "Schleifer": "schleifer",
}  # fmt: skip
"""Patterns of `continuo.score.ornaments` by music21's class."""
UNPERFORMED = frozenset({
    "Scoop", "Plop", "Doit", "Falloff", "IndeterminateSlide", "StringHarmonic", "Harmonic", "FretBend", "FretTap",
    "HammerOn", "PullOff", "Stopped", "HandbellIndication",
})  # fmt: skip
"""Marks on notes that would change the sound and are not performed."""


class Spanners:
    """The notes of a staff under slurs, trill lines, two-note tremolos and glissandos, by `id`."""

    def __init__(self, staff: Staff) -> None:
        from music21 import expressions, spanner

        self.slurred: set[int] = set()  # all but the last note of each slur
        self.trilled: set[int] = set()
        self.tremolo: dict[int, tuple[NotRest, NotRest, int]] = {}  # first note, second note, marks
        self.glissando: dict[int, NotRest] = {}  # goal
        self._elements = [note.element for bar in staff.bars for note in bar.notes]
        self._order = {id(element): k for k, element in enumerate(self._elements)}
        for element in self._elements:
            for span in element.getSpannerSites():
                members = span.getSpannedElements()
                if isinstance(span, spanner.Slur):
                    if element is not members[-1]:
                        self.slurred.update(self._covered(members)[:-1])
                elif isinstance(span, expressions.TrillExtension):
                    self.trilled.update(self._covered(members))
                elif isinstance(span, expressions.TremoloSpanner) and len(members) == 2:
                    for member in members:
                        self.tremolo[id(member)] = (members[0], members[1], span.numberOfMarks)
                elif isinstance(span, spanner.Glissando) and len(members) == 2 and element is members[0]:
                    self.glissando[id(element)] = members[1]

    def _covered(self, members: list[GeneralNote]) -> list[int]:
        """Return all notes of the same voice from the first to the last member of a spanner."""
        first, last = members[0], members[-1]
        if id(first) not in self._order or id(last) not in self._order:
            return []
        inside = self._elements[self._order[id(first)] : self._order[id(last)] + 1]
        return [id(e) for e in inside if e is first or e is last or e.activeSite is first.activeSite]


@dataclass(slots=True)
class Gesture:
    """A written note or chord with the grace notes before and after it."""

    main: WrittenNote
    before: list[WrittenNote]
    after: list[WrittenNote] = field(default_factory=list)


def group_gestures(notes: list[WrittenNote]) -> list[Gesture]:
    """Group the notes of a bar with their grace notes; those without a note after them belong to the note before."""
    found: list[Gesture] = []
    waiting: dict[str, list[WrittenNote]] = {}  # grace notes by voice
    latest: dict[str, Gesture] = {}
    for note in notes:
        if note.element.duration.isGrace:
            waiting.setdefault(note.voice, []).append(note)
            continue
        graces = waiting.pop(note.voice, [])
        before = [g for g in graces if abs(g.start_q - note.start_q) < ROUND_Q and not note.element.isRest]
        if len(before) < len(graces) and note.voice in latest:
            latest[note.voice].after += [g for g in graces if g not in before]
        if not note.element.isRest:
            latest[note.voice] = Gesture(note, before)
            found.append(latest[note.voice])
    for voice, graces in waiting.items():
        if voice in latest:
            latest[voice].after += graces
        else:  # a bar of grace notes alone: each becomes a 32nd
            found += [
                Gesture(WrittenNote(g.start_q, 0.125, g.element, g.voice), []) for g in graces if not g.element.isRest
            ]
    return found


@dataclass
class StaffPlayer:
    """Play the bars of one staff."""

    written: WrittenScore
    staff: Staff  # one of `written`
    tempo: TempoMap
    last_fermata_q: float = math.inf  # position of the fermata over the last notes
    as_written: bool = False  # keep the printed lengths, and play ornaments as their main note

    def __post_init__(self) -> None:
        from music21.key import KeySignature

        self.dynamics = Dynamics(self.written, self.staff)
        self._programs: dict[int, list[tuple[float, int, bool]]] = {}  # by index of the instrument
        self.swing = {} if self.as_written else read_swing(self.written, self.staff)
        self.keys = sorted(self.written.marked([self.staff], KeySignature), key=lambda mark: mark[0])
        self.spanners = Spanners(self.staff)
        self.notes: list[tuple[DraftNote, Tie]] = []
        self._passes: dict[int, frozenset[int]] = {}  # by `id` of a note, the passes in which alone it sounds
        self._pass = 1

    def play(self, times: list[tuple[int, float]]) -> list[tuple[DraftNote, Tie]]:
        """Return the notes of the staff; `times`: the index of each bar in playing order, and its first second."""
        for written in (note for bar in self.staff.bars for note in bar.notes):
            for member in getattr(written.element, "notes", (written.element,)):
                if only := read_hint(member).get("only"):
                    self._passes[id(member)] = passes(only)
        bars = [group_gestures(bar.notes) for bar in self.staff.bars]
        for (i, begin_s), number in zip(times, self.written.passes, strict=False):
            self._pass = number
            if i < len(bars):
                start_q = self.written.starts_q[i]
                shift_s = begin_s - self.tempo.seconds(start_q)
                for gesture in bars[i]:
                    self._play(gesture, start_q + gesture.main.start_q, shift_s)
        return self.notes

    def _play(self, gesture: Gesture, position_q: float, shift_s: float) -> None:
        """Play one gesture; `shift_s` is the time of this pass of its bar minus the time of the tempo map."""
        main = gesture.main
        if not self._sounds(main):
            return
        gesture = Gesture(main, list(filter(self._sounds, gesture.before)), list(filter(self._sounds, gesture.after)))
        onset_s = shift_s + self.tempo.seconds(self._swung(position_q))
        end_s = shift_s + self.tempo.seconds(self._swung(position_q + main.length_q))
        if position_q >= self.last_fermata_q - ROUND_Q:
            end_s = onset_s + (end_s - onset_s) * LAST_FERMATA
        velocity = self.dynamics.velocity(position_q)
        before_s = self._grace_time(gesture.before, main, position_q, end_s - onset_s)
        after_s = self._grace_time(gesture.after, main, position_q, end_s - onset_s, after=True)
        before = self._graces(gesture.before, onset_s, onset_s + before_s)
        after = self._graces(gesture.after, end_s - after_s, end_s)
        played: list[tuple[*Played, float]] = [(*grace, GRACE_STRESS) for grace in chain(before, after)]
        stress = sum(STRESSES.get(type(a).__name__, 0) for a in main.element.articulations)
        for note, tie, member in self._main_notes(main, position_q, onset_s + before_s, end_s - after_s):
            if not self._is_in_pass(member):
                continue
            own = member.volume.velocityScalar if member.hasVolumeInformation() else None
            played.append((note, tie, member, stress + (velocity if own is None else float(own) * 127.0) - velocity))
        for note, tie, member, added in played:
            note.program, note.is_drum, volume = self._instrument(member, position_q)
            note.velocity = min(max((velocity + added) * volume, 1.0), 127.0)
            if volume:
                self.notes.append((note, tie))

    def _instrument(self, member: NotRest, position_q: float) -> tuple[int, bool, float]:
        """Return the program of a note, whether it is percussion, and its volume as a factor of the velocity."""
        hint, changes = read_hint(member), self._programs_of(member)
        _, program, is_drum = changes[bisect_right(changes, (position_q + ROUND_Q, 128, True)) - 1]
        instrument = self.written.instruments(self.staff)[int(hint.get("instrument", 0))]
        if not instrument.volume:
            self.written.warn(f"the volume 0 silences the instrument '{instrument.name[:40]}'")
        if "pizzicato" in hint and changes[0][1] in STRINGS:
            program = PIZZICATO
        return program, is_drum or not hasattr(member, "pitch"), instrument.volume / self.written.full_volume

    def _sounds(self, written: WrittenNote) -> bool:
        """Return whether a note, or any note of a chord, sounds in this pass of its bar."""
        return any(map(self._is_in_pass, getattr(written.element, "notes", (written.element,))))

    def _is_in_pass(self, note: NotRest) -> bool:
        """Return whether a note sounds in this pass of its bar."""
        return self._pass in self._passes.get(id(note), (self._pass,))

    def _grace_time(
        self, graces: list[WrittenNote], main: WrittenNote, position_q: float, length_s: float, *, after: bool = False
    ) -> float:
        """Return the seconds that grace notes take from a main note; with an ornament they move at its speed."""
        if not graces or self._ornament_name(main.element):
            return min(len(graces) * self._ornament_note_s(position_q), length_s / 2)
        slashed = after or bool(getattr(graces[0].element.duration, "slash", True))
        dotted = main.element.duration.dots > 0
        return ornaments.grace_time(length_s, len(graces), slashed=slashed, dotted=dotted)

    def _main_notes(self, main: WrittenNote, position_q: float, onset_s: float, end_s: float) -> Iterator[Played]:
        """Yield the notes of a note or chord with its ornaments, each with its tie and its music21 note."""
        element, members = main.element, self._members(main.element)
        marks = {type(e).__name__: e for e in element.expressions}
        for name in (type(mark).__name__ for mark in [*element.articulations, *element.expressions]):
            if name in UNPERFORMED:
                words = "".join(" " + c.lower() if c.isupper() else c for c in name).strip()
                self.written.warn(f"not performed: {words}")
        special = self._tremolo_or_glissando(main, position_q, onset_s, end_s)
        if special is not None:
            yield from ((note, (False, False), members[0][1]) for note in special)
            return
        onsets = [onset_s] * len(members)
        rolled = marks["ArpeggioMark"].type if "ArpeggioMark" in marks else "non-arpeggio"
        places = [read_hint(member).get("roll", "").split("/") for _, member, _ in members]
        if len(places[0]) == 2 and not self.as_written:  # a part of an arpeggio through several chords
            rising = ornaments.arpeggio(onset_s, end_s, int(places[0][1]), down=False)
            onsets = [rising[int(place)] for place, _ in places]
        elif rolled != "non-arpeggio" and len(members) > 1 and not self.as_written:
            onsets = ornaments.arpeggio(onset_s, end_s, len(members), down=rolled == "down")
        for k, ((pitch, member, (from_before, to_next)), begin_s) in enumerate(zip(members, onsets, strict=True)):
            until_s = begin_s + self._sounding_s(element, end_s - begin_s, is_tied=to_next)
            is_top = k == len(members) - 1
            notes = self._ornamented(element, member, position_q, begin_s, until_s) if is_top else []
            notes = notes or [DraftNote(begin_s, until_s, pitch)]
            for n, note in enumerate(notes):  # an ornament is tied by its first and its last note
                yield note, (from_before and n == 0, to_next and n == len(notes) - 1), member

    def _sounding_s(self, element: GeneralNote, length_s: float, *, is_tied: bool) -> float:
        """Return how many seconds a note sounds; a tied note keeps its length, since its last part decides."""
        if is_tied or self.as_written:
            return length_s
        names = {type(a).__name__ for a in element.articulations}
        slurred = id(element) in self.spanners.slurred
        fraction = min((LENGTHS[name] for name in names if name in LENGTHS), default=1.0)
        if "Staccato" in names and (slurred or "Tenuto" in names):
            fraction = PORTATO
        if names & {"BreathMark", "Caesura"}:
            return min(fraction * length_s, length_s - min(BREATH_S, length_s / 4))
        if slurred and fraction == 1.0:
            return length_s + min(LEGATO_S, length_s / 10)
        return fraction * length_s

    def _ornament_name(self, element: GeneralNote) -> str:
        """Return the key of `ORNAMENTS` for a note, "" without an ornament."""
        names = (type(mark).__name__ for mark in element.expressions)
        return next((n for n in names if n in ORNAMENTS), "Trill" if id(element) in self.spanners.trilled else "")

    def _ornament_note_s(self, position_q: float) -> float:
        return ornaments.ornament_note_s(60 / self.tempo.qpm_at(position_q) / 8)

    def _ornamented(
        self, element: NotRest, member: NotRest, position_q: float, onset_s: float, end_s: float
    ) -> list[DraftNote]:
        """Return the notes of a trill, mordent or turn on one member of a chord; none for a plain note."""
        name = self._ornament_name(element)
        if not name or not hasattr(member, "pitch") or self.as_written:
            return []
        mark = next((e for e in reversed(element.expressions) if type(e).__name__ == name), None)
        key = next((k for q, k in reversed(self.keys) if q <= position_q + ROUND_Q), None)
        single = getattr(mark, "accidental", None)
        above = getattr(mark, "upperAccidental", None) or (single if name != "Mordent" else None)
        below = getattr(mark, "lowerAccidental", None) or (single if name == "Mordent" else None)
        pitches = {0: self._pitch(member)}
        for steps, accidental in ((-2, below), (-1, below), (1, above)):
            accidental = accidental or _accidental_in_force(element, member.pitch, steps)
            pitches[steps] = ornaments.neighbor(member.pitch, steps, key, accidental)
        delayed = "delayed " if str(getattr(mark, "delay", "")).endswith("DEFAULT_DELAY") else ""
        return ornaments.ornament(delayed + ORNAMENTS[name], onset_s, end_s, pitches, self._ornament_note_s(position_q))

    def _tremolo_or_glissando(
        self, main: WrittenNote, position_q: float, onset_s: float, end_s: float
    ) -> list[DraftNote] | None:
        """Return the notes of a tremolo (on one note, or the first of two) or glissando; None for other notes."""
        element = main.element
        pitches = [pitch for pitch, _, _ in self._members(element)]
        if id(element) in self.spanners.tremolo:
            first, second, marks = self.spanners.tremolo[id(element)]
            if element is second:
                return []
            both_q = main.length_q + float(second.duration.quarterLength)
            both_s = self.tempo.seconds(position_q + both_q) - self.tempo.seconds(position_q)
            other = [pitch for pitch, _, _ in self._members(second)]
            return ornaments.tremolo(onset_s, onset_s + both_s, [pitches, other], _tremolo_count(both_q, first, marks))
        tremolo = next((e for e in reversed(element.expressions) if type(e).__name__ == "Tremolo"), None)
        if tremolo is not None:
            count = _tremolo_count(main.length_q, element, tremolo.numberOfMarks or 3)
            return ornaments.tremolo(onset_s, end_s, [pitches], count)
        if id(element) in self.spanners.glissando and len(pitches) == 1:
            goal = self._members(self.spanners.glissando[id(element)])
            if len(goal) == 1 and abs(goal[0][0] - pitches[0]) > 1:
                return ornaments.glissando(onset_s, end_s, pitches[0], goal[0][0])
        return None

    def _graces(self, graces: list[WrittenNote], onset_s: float, end_s: float) -> Iterator[Played]:
        """Yield grace notes and grace chords, equally long, from `onset_s` to `end_s`, with their ties and notes."""
        step_s = (end_s - onset_s) / max(len(graces), 1)
        for k, grace in enumerate(graces):
            for pitch, member, tie in self._members(grace.element):
                yield DraftNote(onset_s + k * step_s, onset_s + (k + 1) * step_s, pitch), tie, member

    def _members(self, element: NotRest) -> list[tuple[float, NotRest, Tie]]:
        """Return MIDI pitch, music21 note and tie of each note of a note or chord, lowest first; none of a rest."""
        found = []
        for member in element.notes if hasattr(element, "notes") else () if element.isRest else (element,):
            kind = member.tie.type if member.tie is not None else ""
            tie = kind in ("stop", "continue"), kind in ("start", "continue")
            found.append((self._pitch(member), member, tie))
        return sorted(found, key=lambda entry: entry[0])

    def _pitch(self, member: NotRest) -> float:
        """Return the MIDI pitch of a note, fractions of a semitone included, or its percussion key."""
        if not hasattr(member, "pitch") or self._programs_of(member)[0][2]:
            return percussion_key(self.written, self.staff, member)
        return float(member.pitch.ps) + float(read_hint(member).get("bend", 0.0))

    def _programs_of(self, member: NotRest) -> list[tuple[float, int, bool]]:
        """Return the changes of program, as of `read_programs`, of the instrument of a note."""
        index = int(read_hint(member).get("instrument", 0))
        if index not in self._programs:
            self._programs[index] = read_programs(self.written, self.staff, index)
        return self._programs[index]

    def _swung(self, position_q: float) -> float:
        """Return where a position is played: elsewhere only if it is an off-beat in swing."""
        return self.swing.get(round(position_q, 4), position_q)


def _accidental_in_force(element: Music21Object, pitch: Pitch, steps: int) -> Accidental | None:
    """Return the accidental that earlier notes of the bar gave to a neighbor of a note, if any."""
    from music21.pitch import Accidental

    bar, name = element.getContextByClass("Measure"), ornaments.neighbor_name(pitch, steps)
    if bar is None:
        return None
    here_q = element.getOffsetInHierarchy(bar)
    notes = [note for note in bar.recurse().notes if note.getOffsetInHierarchy(bar) < here_q]
    earlier = [p for note in notes for p in getattr(note, "pitches", ()) if (p.step, p.implicitOctave) == name]
    return earlier[-1].accidental or Accidental("natural") if earlier else None


def _tremolo_count(length_q: float, element: GeneralNote, marks: int) -> int:
    """Return the number of notes of a tremolo: one mark is eighths, two 16ths and so on; flags count as marks.

    In a tuplet they are eighths and so on of the tuplet.
    """
    tuplets = math.prod(float(tuplet.tupletMultiplier()) for tuplet in element.duration.tuplets)
    # The two notes of a tremolo are also halved by a tuplet of their own, 2 in the time of 1.
    length_q /= (tuplets if tuplets > 0.5 else 2 * tuplets) or 1.0
    flags = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4}.get(element.duration.type, 0)
    return min(max(round(length_q * 2 ** min(marks + flags, 5)), 1), ornaments.MAX_NOTES)

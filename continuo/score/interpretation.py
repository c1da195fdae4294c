"""The notes of one staff: lengths, stresses, ornaments, grace notes and ties, each time a bar is played.

Tempo and dynamics are functions of the position in the score as written, so they are the same in each pass of a bar.
`continuo.score.notes.join_ties` joins ties along the playing order: a tie over a repeat sign finds the note that really
follows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from continuo.score import ornaments
from continuo.score.dynamics import Dynamics
from continuo.score.instruments import PIZZICATO, STRINGS, percussion_key, read_programs
from continuo.score.measures import ROUND_Q, Bar, Chord, Head, Staff, WrittenScore
from continuo.score.notes import DraftNote, Tie
from continuo.score.tempo import TempoMap, read_swing

Played = tuple[DraftNote, Tie, Head]

LEGATO_S = 0.03  # seconds that a slurred note reaches into the next one, at most a tenth of its length
BREATH_S = 0.2  # seconds that a breath mark takes from the end of its note, at most a quarter of its length
LAST_FERMATA = 1.75  # sounding length of the last notes under a fermata / written length

LENGTHS = {"staccatissimo": 0.3, "spiccato": 0.4, "staccato": 0.5, "detached-legato": 0.75, "strong-accent": 0.85}
"""Sounding length / written length by element of MusicXML."""
PORTATO = 0.75  # the same for a staccato under a slur or with a tenuto
STRESSES = {
    "strong-accent": 28, "accent": 18, "soft-accent": 10, "stress": 10, "tenuto": 4, "unstress": -10, "spiccato": 4,
}  # fmt: skip
"""MIDI velocity that an articulation adds."""
GRACE_STRESS = -8  # MIDI velocity that a grace note adds
ORNAMENTS = {
    "trill-mark": "trill", "shake": "trill", "mordent": "mordent", "inverted-mordent": "inverted mordent",
    "turn": "turn", "vertical-turn": "turn", "inverted-turn": "inverted turn",
    "inverted-vertical-turn": "inverted turn", "delayed-turn": "delayed turn",
    "delayed-inverted-turn": "delayed inverted turn", "schleifer": "schleifer", "wavy-line": "trill",
}  # fmt: skip
"""Patterns of `continuo.score.ornaments` by element of MusicXML, the first one of a note first."""


@dataclass(slots=True)
class Gesture:
    """A written note or chord with the grace notes before and after it."""

    main: Chord
    before: list[Chord]
    after: list[Chord] = field(default_factory=list)


def group_gestures(chords: list[Chord]) -> list[Gesture]:
    """Group the notes of a bar with their grace notes; those without a note after them belong to the note before."""
    found: list[Gesture] = []
    waiting: dict[str, list[Chord]] = {}  # grace notes by voice
    latest: dict[str, Gesture] = {}
    for chord in chords:
        if chord.is_grace:
            if chord.heads:
                waiting.setdefault(chord.voice, []).append(chord)
            continue
        graces = waiting.pop(chord.voice, [])
        before = [g for g in graces if abs(g.start_q - chord.start_q) < ROUND_Q and chord.heads]
        if len(before) < len(graces) and chord.voice in latest:
            latest[chord.voice].after += [g for g in graces if g not in before]
        if chord.heads:
            latest[chord.voice] = Gesture(chord, before)
            found.append(latest[chord.voice])
    for voice, graces in waiting.items():
        if voice in latest:
            latest[voice].after += graces
        else:  # a bar of grace notes alone: each becomes a 32nd
            found += [Gesture(replace(grace, length_q=0.125), []) for grace in graces]
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
        self.dynamics = Dynamics(self.written, self.staff)
        self._programs: dict[int, list[tuple[float, int, bool]]] = {}  # by index of the instrument
        self.swing = {} if self.as_written else read_swing(self.written, self.staff)
        self.keys = self.written.marked([self.staff], lambda marks: marks.keys)
        self.notes: list[tuple[DraftNote, Tie]] = []
        self._pass = 1
        self._bar = Bar(0.0)  # the bar that is played

    def play(self, times: list[tuple[int, float]]) -> list[tuple[DraftNote, Tie]]:
        """Return the notes of the staff; `times`: the index of each bar in playing order, and its first second."""
        bars = [group_gestures(bar.chords) for bar in self.staff.bars]
        for (i, begin_s), number in zip(times, self.written.passes, strict=False):
            if i < len(bars):
                self._pass, self._bar = number, self.staff.bars[i]
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
        stress = sum(STRESSES.get(mark, 0) for mark in main.marks)
        for note, tie, head in self._main_notes(main, position_q, onset_s + before_s, end_s - after_s):
            if self._is_in_pass(head):
                own = velocity if head.velocity is None else head.velocity
                played.append((note, tie, head, stress + own - velocity))
        for note, tie, head, added in played:
            note.program, note.is_drum, volume = self._instrument(head, position_q)
            note.velocity = min(max((velocity + added) * volume, 1.0), 127.0)
            if volume:
                self.notes.append((note, tie))

    def _instrument(self, head: Head, position_q: float) -> tuple[int, bool, float]:
        """Return the program of a note, whether it is percussion, and its volume as a factor of the velocity."""
        changes = self._programs_of(head)
        _, program, is_drum = changes[bisect_right(changes, (position_q + ROUND_Q, 128, True)) - 1]
        instrument = self.written.instruments(self.staff)[head.instrument]
        if not instrument.volume:
            self.written.warn(f"the volume 0 silences the instrument '{instrument.name[:40]}'")
        if head.is_pizzicato and changes[0][1] in STRINGS:
            program = PIZZICATO
        return program, is_drum or not head.is_pitched, instrument.volume / self.written.full_volume

    def _sounds(self, chord: Chord) -> bool:
        """Return whether any note of a chord sounds in this pass of its bar."""
        return any(map(self._is_in_pass, chord.heads))

    def _is_in_pass(self, head: Head) -> bool:
        """Return whether a note sounds in this pass of its bar."""
        return not head.passes or self._pass in head.passes

    def _grace_time(
        self, graces: list[Chord], main: Chord, position_q: float, length_s: float, *, after: bool = False
    ) -> float:
        """Return the seconds that grace notes take from a main note; with an ornament they move at its speed."""
        if not graces or _ornament_of(main):
            return min(len(graces) * self._ornament_note_s(position_q), length_s / 2)
        slashed = after or graces[0].is_slashed
        return ornaments.grace_time(length_s, len(graces), slashed=slashed, dotted=main.dots > 0)

    def _main_notes(self, main: Chord, position_q: float, onset_s: float, end_s: float) -> Iterator[Played]:
        """Yield the notes of a note or chord with its ornaments, each with its tie and its written note."""
        heads = self._sorted(main)
        special = self._tremolo_or_glissando(main, position_q, onset_s, end_s)
        if special is not None:
            yield from ((note, (False, False), heads[0][1]) for note in special)
            return
        rising: list[float] = []
        for k, (pitch, head) in enumerate(heads):
            begin_s = onset_s
            if head.roll is not None and not self.as_written:
                rising = rising or ornaments.arpeggio(onset_s, end_s, head.roll[1])
                begin_s = rising[head.roll[0]]
            from_before, to_next = head.tie
            until_s = begin_s + self._sounding_s(main, end_s - begin_s, is_tied=to_next)
            is_top = k == len(heads) - 1
            notes = self._ornamented(main, head, position_q, begin_s, until_s) if is_top else []
            notes = notes or [DraftNote(begin_s, until_s, pitch)]
            for n, note in enumerate(notes):  # an ornament is tied by its first and its last note
                yield note, (from_before and n == 0, to_next and n == len(notes) - 1), head

    def _sounding_s(self, chord: Chord, length_s: float, *, is_tied: bool) -> float:
        """Return how many seconds a note sounds; a tied note keeps its length, since its last part decides."""
        if is_tied or self.as_written:
            return length_s
        slurred = "slur" in chord.marks
        fraction = min((LENGTHS[mark] for mark in chord.marks if mark in LENGTHS), default=1.0)
        if "staccato" in chord.marks and (slurred or "tenuto" in chord.marks):
            fraction = PORTATO
        if chord.marks & {"breath-mark", "caesura"}:
            return min(fraction * length_s, length_s - min(BREATH_S, length_s / 4))
        if slurred and fraction == 1.0:
            return length_s + min(LEGATO_S, length_s / 10)
        return fraction * length_s

    def _ornament_note_s(self, position_q: float) -> float:
        return ornaments.ornament_note_s(60 / self.tempo.qpm_at(position_q) / 8)

    def _ornamented(self, chord: Chord, head: Head, position_q: float, onset_s: float, end_s: float) -> list[DraftNote]:
        """Return the notes of a trill, mordent or turn on one note of a chord; none for a plain note."""
        kind = _ornament_of(chord)
        if not kind or not head.is_pitched or self.as_written:
            return []
        key = next((key for q, key in reversed(self.keys) if q <= position_q + ROUND_Q), None)
        pitches = {0: self._pitch(head)}
        for steps in (-2, -1, 1):
            alter = chord.neighbors.get(1 if steps > 0 else -1)
            alter = _alter_in_force(self._bar, chord, head, steps) if alter is None else alter
            pitches[steps] = ornaments.neighbor(head, steps, key, alter)
        return ornaments.ornament(kind, onset_s, end_s, pitches, self._ornament_note_s(position_q))

    def _tremolo_or_glissando(
        self, main: Chord, position_q: float, onset_s: float, end_s: float
    ) -> list[DraftNote] | None:
        """Return the notes of a tremolo (on one chord, or the first of two) or glissando; None for other notes."""
        pitches = [pitch for pitch, _ in self._sorted(main)]
        if main.first is not None:
            return []
        if main.second is not None:
            both_q = main.length_q + main.second.length_q
            both_s = self.tempo.seconds(position_q + both_q) - self.tempo.seconds(position_q)
            other = [pitch for pitch, _ in self._sorted(main.second)]
            return ornaments.tremolo(onset_s, onset_s + both_s, [pitches, other], _tremolo_count(both_q, main))
        if main.tremolo:
            return ornaments.tremolo(onset_s, end_s, [pitches], _tremolo_count(main.length_q, main))
        if main.goal is not None and len(pitches) == 1:
            goal = self._sorted(main.goal)
            if len(goal) == 1 and abs(goal[0][0] - pitches[0]) > 1:
                return ornaments.glissando(onset_s, end_s, pitches[0], goal[0][0])
        return None

    def _graces(self, graces: list[Chord], onset_s: float, end_s: float) -> Iterator[Played]:
        """Yield grace notes and grace chords, equally long, from `onset_s` to `end_s`, with their ties and notes."""
        step_s = (end_s - onset_s) / max(len(graces), 1)
        for k, grace in enumerate(graces):
            for pitch, head in self._sorted(grace):
                yield DraftNote(onset_s + k * step_s, onset_s + (k + 1) * step_s, pitch), head.tie, head

    def _sorted(self, chord: Chord) -> list[tuple[float, Head]]:
        """Return the notes of a chord with their MIDI pitches, lowest first."""
        return sorted(((self._pitch(head), head) for head in chord.heads), key=lambda entry: entry[0])

    def _pitch(self, head: Head) -> float:
        """Return the MIDI pitch of a note, fractions of a semitone included, or its percussion key."""
        if not head.is_pitched or self._programs_of(head)[0][2]:
            return percussion_key(self.written, self.staff, head)
        return head.pitch

    def _programs_of(self, head: Head) -> list[tuple[float, int, bool]]:
        """Return the changes of program, as of `read_programs`, of the instrument of a note."""
        if head.instrument not in self._programs:
            self._programs[head.instrument] = read_programs(self.written, self.staff, head.instrument)
        return self._programs[head.instrument]

    def _swung(self, position_q: float) -> float:
        """Return where a position is played: elsewhere only if it is an off-beat in swing."""
        return self.swing.get(round(position_q, 4), position_q)


def _ornament_of(chord: Chord) -> str:
    """Return the pattern of the ornament of a chord, "" without one."""
    return next((pattern for mark, pattern in ORNAMENTS.items() if mark in chord.marks), "")


def _alter_in_force(bar: Bar, chord: Chord, head: Head, steps: int) -> float | None:
    """Return the alteration that earlier notes of the bar gave to a neighbor of a note, if any."""
    name = ornaments.neighbor_name(head, steps)
    earlier = (other for before in reversed(bar.chords) if before.start_q < chord.start_q for other in before.heads)
    return next((other.alter for other in earlier if other.is_pitched and (other.step, other.octave) == name), None)


def _tremolo_count(length_q: float, chord: Chord) -> int:
    """Return the number of notes of a tremolo: one mark is eighths, two 16ths and so on; flags count as marks.

    In a tuplet they are eighths and so on of the tuplet.
    """
    # The two notes of a tremolo are also halved by a tuplet of their own, 2 in the time of 1.
    length_q /= chord.tuplet if chord.tuplet > 0.5 else 2 * chord.tuplet
    return min(max(round(length_q * 2 ** min(chord.tremolo + chord.flags, 5)), 1), ornaments.MAX_NOTES)

"""Read a MusicXML tree into a `WrittenScore`, in one walk through each part.

The walk keeps what is in force (divisions, transpositions, open slurs) and the position in the bar, which notes,
<backup> and <forward> move. What a direction, a note or <attributes> says is entered at once at its position. Only what
needs a whole bar or part is done after it: tremolos on two notes, arpeggios through several chords, instruments that
change, and staves that repeat others.

Source: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple
from xml.etree.ElementTree import Element

from continuo.score.dynamics import loudness_direction
from continuo.score.instruments import PartInstruments, listed_parts
from continuo.score.measures import (
    NATURALS,
    ROUND_Q,
    SHARPS,
    SILENT_STAVES,
    STEPS,
    TYPES_Q,
    Bar,
    Chord,
    Head,
    Instrument,
    Key,
    Marks,
    Meter,
    Staff,
    Wedge,
    WrittenScore,
    pair_tremolos,
    place_arpeggios,
    silence_alternates,
)
from continuo.score.repeats import MAX_BARS, BarMarks, passes, read_signs
from continuo.score.tempo import read_swing_mark, read_tempos, words_of
from continuo.system.text import finite_number

MAX_BAR_Q = 10_000.0  # quarter notes of a bar
MAX_PASSES = 99  # times that a section is played
FULL_DYNAMICS = 0.9  # MIDI velocity of one percent of dynamics; 100 % are forte, 90
SPANNERS = {"slur": "slur", "wavy-line": "wavy-line", "glissando": "glissando", "slide": "glissando"}
"""Elements of <notations> that reach from note to note, and the names under which their numbers are counted."""
TIES = {"start": (False, True), "stop": (True, False), "continue": (True, True)}  # by type of <tie> or <tied>
PEDALS = {"damper-pedal": ("stop", "start"), "sostenuto-pedal": ("", "sostenuto")}  # types for "no" and "yes"
FLAGS = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4, "128th": 5, "256th": 6}
ALTERS = {
    "sharp": 1.0, "flat": -1.0, "natural": 0.0, "double-sharp": 2.0, "sharp-sharp": 2.0, "flat-flat": -2.0,
    "double-flat": -2.0, "natural-sharp": 1.0, "natural-flat": -1.0, "quarter-sharp": 0.5, "quarter-flat": -0.5,
    "three-quarters-sharp": 1.5, "three-quarters-flat": -1.5, "triple-sharp": 3.0, "triple-flat": -3.0,
}  # fmt: skip
"""Semitones of accidentals."""


class _Transposition(NamedTuple):
    """A <transpose>: diatonic steps and semitones to the sounding pitch, and the octave of a doubling (1, -1 or 0)."""

    steps: int = 0
    semitones: float = 0.0
    doubling: int = 0

    def sounding(self, head: Head) -> Head:
        """Return a written note at its sounding pitch."""
        if not (head.is_pitched and (self.steps or self.semitones)):
            return head
        octave, place = divmod(7 * head.octave + STEPS.index(head.step) + self.steps, 7)
        moved = replace(head, step=STEPS[place], octave=octave, alter=0.0)
        moved.alter = round(head.pitch + self.semitones - moved.pitch, 6)
        return moved

    def sounding_key(self, key: Key) -> Key:
        """Return a key of the part as it sounds after transposition; of equal keys the one with fewer accidentals."""
        if key.fifths is None or not (self.steps or self.semitones):
            return key
        fifths = key.fifths + 7 * round(self.semitones) - 12 * self.steps
        fifths -= 12 * round(fifths / 12) if abs(fifths) > 7 else 0
        return Key(fifths, key.is_minor, _altered_steps(fifths))


def read_score(root: Element, warnings: list[str]) -> WrittenScore:
    """Return the score in a <score-partwise>, at sounding pitch, with `warnings` and those about what is left out.

    ValueError: it exceeds a limit.
    """
    found: dict[str, None] = dict.fromkeys(warnings)
    warn = found.setdefault
    order: list[BarMarks] = []
    staves: list[Staff] = []
    instruments: dict[str, list[Instrument]] = {}
    sung: set[str] = set()
    for group, name, part, entry in listed_parts(root, warn):
        reader = _PartReader(part, PartInstruments(entry, name), order, warn)
        staves += [Staff(group, name, bars) for bars in reader.read()]
        instruments[group] = reader.instruments.found
        sung |= {group} if part.find("measure/note/lyric") is not None else set()
    silence_alternates(staves, warn)
    by_part: dict[str, list[list[Bar]]] = defaultdict(list)
    for staff in staves:
        by_part[staff.group].append(staff.bars)
    for members in by_part.values():
        for bars in zip(*members, strict=True):
            place_arpeggios([chord for bar in bars for chord in bar.chords])
    return WrittenScore(staves, instruments, order, found, sung)


class _PartReader:
    """The walk through one part."""

    def __init__(
        self, part: Element, instruments: PartInstruments, order: list[BarMarks], warn: Callable[[str], None]
    ) -> None:
        self.instruments, self.warn = instruments, warn
        self._measures = part.findall("measure")
        if len(self._measures) > MAX_BARS:
            raise ValueError(f"more than {MAX_BARS} bars; split the score")
        order += [BarMarks() for _ in range(len(self._measures) - len(order))]
        self._order = order
        numbers = {_staff(item) for item in part.iterfind("measure/note")}
        self._staves: dict[str, list[Bar]] = {n: [] for n in sorted(numbers or {"1"}, key=lambda n: (len(n), n))}
        self._meters_q = dict.fromkeys(self._staves, 4.0)
        self._keys: dict[str, Key] = {}  # as written, by staff
        self._transpositions: dict[str, _Transposition] = {}
        self._types: dict[str, str] = {}  # "TAB" or one of `SILENT_STAVES`, by staff
        self._open: dict[tuple[str, str], Chord] = {}  # first chord of slurs and the like, by name and number
        self._ending: tuple[int, frozenset[int]] | None = None  # first bar and passes of the ending that is open
        self._voices: dict[str, list[tuple[int, Chord]]] = defaultdict(list)  # chords with the index of their bar
        self._divisions = _divisions(part) or 1.0  # some programs state them after the first notes

    def read(self) -> list[list[Bar]]:
        """Return the bars of each staff."""
        for i, measure in enumerate(self._measures):
            self._read_measure(i, measure)
        self.instruments.assign(self.warn)
        return list(self._staves.values())

    def _read_measure(self, i: int, measure: Element) -> None:
        """Enter a measure into the bars of all staves."""
        self._bar_number = i
        self._bars = {n: Bar(self._meters_q[n]) for n in self._staves}
        self._now = self._begin_q = self._reach_q = self._rest_reach_q = 0.0
        self._latest: Chord | None = None
        self._graces: list[tuple[Chord, Bar]] = []
        self._voice = ""
        self._tremolos: list[tuple[str, int, Chord]] = []  # type and strokes of tremolos on two chords, and a chord
        signs: list[tuple[Element, float]] = []
        for item, stands_in_chord in _with_chords(measure):
            self._place_q = self._begin_q if stands_in_chord else self._now_q
            if item.tag == "note":
                self._read_note(item)
            elif item.tag in ("backup", "forward"):
                self._move(self._duration(item) * (1 if item.tag == "forward" else -1))
                self._latest = None
            elif item.tag == "attributes":
                self._read_attributes(item)
            elif item.tag in ("direction", "sound"):
                self._read_direction(item)
            if item.tag in ("direction", "sound", "barline"):
                signs.append((item, self._place_q))
        self._read_order(i, measure, signs)
        pair_tremolos(self._tremolos)
        for n, bar in self._bars.items():
            bar.chords.sort(key=lambda chord: (chord.start_q, not chord.is_grace))
            bar.is_filled, bar.length_q = self._reach_q > 0, self._reach_q or self._rest_reach_q
            bar.marks.place()
            bar.meter_q = bar.marks.meters[0][1].length_q if bar.marks.meters else bar.meter_q
            self._staves[n].append(bar)

    @property
    def _now_q(self) -> float:
        """Quarter notes from the beginning of the bar."""
        return self._now / self._divisions

    def _duration(self, item: Element) -> float:
        """Return the <duration> in an element, in divisions."""
        text = (item.findtext("duration") or "0").strip()
        duration = finite_number(text)
        if duration is None:
            raise ValueError(f"the duration {text[:20]!r} is not a number; export the score again")
        if not max(abs(duration), self._now) / self._divisions <= MAX_BAR_Q:
            raise ValueError(f"a bar has more than {MAX_BAR_Q:g} quarter notes; correct its durations or divisions")
        return max(duration, 0.0)

    def _move(self, duration: float, *, is_bar_rest: bool = False) -> None:
        """Go on in the bar by some divisions, or back."""
        self._now = max(self._now + duration, 0.0)  # divisions are whole numbers, so that bars end exactly
        if is_bar_rest:
            self._rest_reach_q = max(self._rest_reach_q, self._now_q)
        else:
            self._reach_q = max(self._reach_q, self._now_q)

    # --- notes --------------------------------------------------------------------------------------------------------

    def _read_note(self, note: Element) -> None:
        """Enter a note into its chord, or begin a chord with it."""
        staff, chord, duration = _staff(note), self._latest, self._duration(note)
        if note.find("chord") is None or chord is None:
            rest = note.find("rest")
            is_bar_rest = rest is not None and rest.get("measure") == "yes"
            chord = self._latest = self._new_chord(note, duration / self._divisions, is_bar_rest=is_bar_rest)
            self._begin_q = self._now_q
            self._bars[staff].chords.append(chord)
            self._graces = self._with_graces(chord, self._bars[staff])
            self._voices[chord.voice].append((self._bar_number, chord))
            if not chord.is_grace:
                self._move(duration, is_bar_rest=is_bar_rest)
        if note.find("cue") is not None:  # another player sounds it
            return
        named = note.find("instrument")
        for head in self._heads(note, staff):
            chord.heads.append(head)
            place = self._bar_number, round(chord.start_q, 4)
            self.instruments.add_note(place, head, None if named is None else named.get("id", ""))
        for notations in note.findall("notations"):
            self._read_notations(notations, chord, staff)

    def _new_chord(self, note: Element, length_q: float, *, is_bar_rest: bool) -> Chord:
        """Return a chord without heads at the present position."""
        self._voice = (note.findtext("voice") or self._voice).strip()
        grace = note.find("grace")
        kind, dots = (note.findtext("type") or "").strip(), len(note.findall("dot"))
        ratio = note.find("time-modification")
        ratio = Element("time-modification") if ratio is None else ratio
        actual, normal = (finite_number(ratio.findtext(tag)) for tag in ("actual-notes", "normal-notes"))
        tuplet = normal / actual if kind and normal and actual and normal / actual > 0 else 1.0
        is_printed = kind in TYPES_Q and not is_bar_rest and grace is None
        printed_q = TYPES_Q[kind] * (2 - 0.5**dots) * tuplet if is_printed else length_q
        if not kind:
            kind, dots = _type_of(length_q)
        return Chord(
            self._now_q,
            length_q if grace is None else 0.0,
            printed_q if grace is None else 0.0,
            self._voice,
            is_grace=grace is not None,
            is_slashed=grace is not None and grace.get("slash") == "yes",
            dots=dots,
            flags=FLAGS.get(kind, 0),
            tuplet=tuplet,
            staff_type=self._types.get(_staff(note), ""),
        )

    def _with_graces(self, chord: Chord, bar: Bar) -> list[tuple[Chord, Bar]]:
        """Move the grace notes before a chord to its staff; return the grace notes that have no main note yet."""
        if chord.is_grace:
            return [*self._graces, (chord, bar)]
        for grace, other in self._graces:
            if other is not bar and grace.voice == chord.voice:
                other.chords.remove(grace)
                bar.chords.append(grace)
        return []

    def _heads(self, note: Element, staff: str) -> list[Head]:
        """Return a note at its sounding pitch, with the octave that a <transpose> adds; none for a rest."""
        pitch, unpitched = note.find("pitch"), note.find("unpitched")
        if pitch is not None:
            step, octave = pitch.findtext("step", "").strip(), finite_number(pitch.findtext("octave"))
            alter = self._alter(pitch.findtext("alter"), note.findtext("accidental"))
        elif unpitched is not None:
            step, octave = (
                unpitched.findtext("display-step", "B").strip(),
                finite_number(unpitched.findtext("display-octave")),
            )
            alter = 0.0
        else:
            return []
        if step not in NATURALS:
            self.warn(f"a note of the step '{step[:10]}' is silent")
            return []
        ties = [
            TIES.get(e.get("type", ""), (False, False))
            for e in [*note.findall("tie"), *(t for n in note.findall("notations") for t in n.findall("tied"))]
        ]
        dynamics = finite_number(note.get("dynamics"))
        head = Head(
            step,
            4 if octave is None else int(octave),
            alter,
            is_pitched=pitch is not None,
            tie=(any(before for before, _ in ties), any(after for _, after in ties)),
            velocity=None if dynamics is None else min(max(dynamics * FULL_DYNAMICS, 0.0), 127.0),
            passes=passes(note.get("time-only", "")),
            is_pizzicato=note.get("pizzicato") == "yes",
        )
        change = self._transpositions.get(staff, _Transposition())
        head = change.sounding(head)
        doubled = [replace(head, octave=head.octave + change.doubling)] if change.doubling and pitch is not None else []
        return [head, *doubled]

    def _alter(self, text: str | None, accidental: str | None) -> float:
        """Return the semitones that an <alter> states, or else an <accidental>."""
        value = finite_number(text)
        if value is None and (text or "").strip():
            self.warn(f"the alteration '{(text or '').strip()[:20]}' is not a number")
            return 0.0
        return ALTERS.get((accidental or "").strip(), 0.0) if value is None else value

    def _read_notations(self, notations: Element, chord: Chord, staff: str) -> None:
        """Enter the marks of a note into its chord, and dynamics into its bar."""
        for mark in notations:
            if mark.tag in ("articulations", "technical"):
                chord.marks.update(child.tag for child in mark)
            elif mark.tag == "ornaments":
                self._read_ornaments(mark, chord)
            elif mark.tag in SPANNERS:
                self._read_spanner(mark, chord)
            elif mark.tag == "fermata":
                chord.marks.add("fermata")
            elif mark.tag == "arpeggiate":
                is_down, is_unbroken = mark.get("direction") == "down", mark.get("unbroken") == "yes"
                chord.arpeggio = (mark.get("number", ""), is_down, is_unbroken)
            elif mark.tag == "dynamics":
                self._bars[staff].marks.dynamics += [(chord.start_q, _dynamic(child)) for child in mark]

    def _read_ornaments(self, ornaments: Element, chord: Chord) -> None:
        """Enter the ornaments of a note, and the accidentals that belong to the last of them."""
        latest = ""
        for mark in ornaments:
            if mark.tag == "wavy-line":
                self._read_spanner(mark, chord)
            elif mark.tag == "tremolo":
                strokes = int(finite_number(mark.text) or 3)
                if mark.get("type") in ("start", "stop"):
                    self._tremolos.append((mark.get("type", ""), strokes, chord))
                else:
                    chord.tremolo = strokes
            elif mark.tag == "accidental-mark" and latest:
                is_below = latest == "mordent" or ("turn" in latest and mark.get("placement") == "below")
                chord.neighbors[-1 if is_below else 1] = ALTERS.get((mark.text or "").strip(), 0.0)
            else:
                latest = mark.tag
                chord.marks.add(mark.tag)

    def _read_spanner(self, mark: Element, chord: Chord) -> None:
        """Begin a slur or the like at a chord, or end it and mark all chords under it."""
        name = SPANNERS[mark.tag]
        key = name, mark.get("number", "1")
        if mark.get("type") != "stop":
            self._open.setdefault(key, chord)
            return
        first = self._open.pop(key, None)
        if first is None:
            return
        if name == "glissando":
            first.goal = chord
            return
        end = self._bar_number, chord.start_q + (ROUND_Q if name == "wavy-line" else -ROUND_Q)
        for i, other in reversed(self._voices[first.voice]):
            if (i, other.start_q) < end:
                other.marks.add(name)
            if other is first:
                break

    # --- attributes and directions ------------------------------------------------------------------------------------

    def _read_attributes(self, attributes: Element) -> None:
        """Take up divisions, staff types, transpositions, keys and meters."""
        divisions = _divisions(attributes) or self._divisions
        self._now *= divisions / self._divisions
        self._divisions = divisions
        for clef in attributes.findall("clef"):
            self._types[clef.get("number", "1")] = "TAB" if clef.findtext("sign", "").strip() == "TAB" else ""
        for details in attributes.findall("staff-details"):
            if (kind := details.findtext("staff-type")) in SILENT_STAVES:
                self._types[details.get("number", "1")] = kind or ""
        for transpose in attributes.findall("transpose"):
            self._transpositions.update(dict.fromkeys(self._numbers(transpose), self._transposition(transpose)))
        for key in attributes.findall("key"):
            self._keys.update(dict.fromkeys(self._numbers(key), _key(key)))
        if attributes.find("key") is not None or attributes.find("transpose") is not None:
            for n, written in self._keys.items():
                sounding = self._transpositions.get(n, _Transposition()).sounding_key(written)
                self._bars[n].marks.keys.append((self._place_q, sounding))
        for time in attributes.findall("time"):
            if (meter := self._meter(time)) is not None:
                for n in self._numbers(time):
                    self._meters_q[n] = meter.length_q
                    self._bars[n].marks.meters.append((self._place_q, meter))

    def _numbers(self, element: Element) -> list[str]:
        """Return the staves to which an element with a number belongs: its own, or all."""
        number = element.get("number", "").strip()
        return [n for n in self._staves if n == number or not number]

    def _transposition(self, transpose: Element) -> _Transposition:
        """Read a <transpose>."""
        values = [finite_number(transpose.findtext(tag)) for tag in ("octave-change", "chromatic")]
        if values == [None, None]:
            self.warn("a transposition without a number of semitones is ignored")
        octaves, semitones = (value or 0.0 for value in values)
        diatonic = finite_number(transpose.findtext("diatonic"))
        steps = round(semitones * 7 / 12) if diatonic is None else int(diatonic)
        double = transpose.find("double")
        doubling = 0 if double is None else 1 if double.get("above") == "yes" else -1
        return _Transposition(steps + 7 * int(octaves), semitones + 12 * int(octaves), doubling)

    def _meter(self, time: Element) -> Meter | None:
        """Read a <time>, also one of several parts (3+2/8 or 3/4+3/8); None without a meter."""
        beats = [[int(n) for n in (e.text or "").split("+") if n.strip().isdecimal()] for e in time.findall("beats")]
        units = [int(e.text or 0) if (e.text or "").strip().isdecimal() else 0 for e in time.findall("beat-type")]
        if not (beats and units and all(map(sum, beats)) and all(0 < unit <= 1024 for unit in units)):
            if time.find("senza-misura") is None:
                self.warn("a time signature without numbers is ignored")
            return None
        unit = math.lcm(*units)
        return Meter(sum(sum(n) * unit // each for n, each in zip(beats, units, strict=False)), unit)

    def _read_direction(self, direction: Element) -> None:
        """Enter the marks of a <direction>, or of a <sound> that stands alone in its measure."""
        sound = direction if direction.tag == "sound" else direction.find("sound")
        position_q = self._place_q + (finite_number(direction.findtext("offset")) or 0.0) / self._divisions
        text = words_of(direction)
        found = Marks()
        found.tempos = [(position_q, tempo) for tempo in read_tempos(direction, sound, self.warn)]
        if (swing := read_swing_mark(sound, text, self.warn)) is not None:
            found.swings = [(position_q, swing)]
        found.words = [(position_q, (e.text or "").strip()) for e in direction.iterfind("direction-type/words")]
        found.wedges = [(position_q, wedge) for wedge in _wedges(direction)]
        percent = finite_number(sound.get("dynamics")) if sound is not None else None
        velocity = None if percent is None else float(round(percent * FULL_DYNAMICS))
        dynamics = [_dynamic(e, velocity) for e in direction.iterfind("direction-type/dynamics/*")]
        dynamics = dynamics or ([] if velocity is None else [velocity])
        found.dynamics = [(position_q, dynamic) for dynamic in dynamics]
        pedals = [e.get("type", "") for e in direction.iterfind("direction-type/pedal")]
        if sound is not None:
            pedals = pedals or _sound_pedals(sound)
            if sound.get("pizzicato") in ("yes", "no"):
                found.techniques = [(position_q, "pizz." if sound.get("pizzicato") == "yes" else "arco")]
            self.instruments.change((self._bar_number, round(self._place_q, 4)), sound)
        found.pedals = [(position_q, pedal) for pedal in pedals]
        own = self._bars.get((direction.findtext("staff") or "").strip())
        for bar in self._bars.values() if own is None else [own]:
            for name, marks in vars(found).items():
                getattr(bar.marks, name).extend(marks)

    # --- the order of the bars ----------------------------------------------------------------------------------------

    def _read_order(self, i: int, measure: Element, placed: list[tuple[Element, float]]) -> None:
        """Enter the repeats, endings and jumps of a measure, whose directions, sounds and barlines are `placed`."""
        end_q = max(self._reach_q, self._rest_reach_q)
        signs = []
        for item, position_q in placed:
            is_right = item.tag == "barline" and item.get("location", "right") == "right"
            signs.append((item, is_right or 0 < position_q >= end_q - ROUND_Q))
        for sign, is_ahead in read_signs(signs):
            self._order[min(i + is_ahead, len(self._measures) - 1)].add(**sign)
        for barline in measure.findall("barline"):
            for repeat in barline.findall("repeat"):
                times = (repeat.get("times") or "").strip()
                if repeat.get("direction") == "forward":
                    self._order[i].starts = True
                elif repeat.get("direction") == "backward":
                    number = int(times) if times.isdecimal() else 0
                    self._order[i].times = max(self._order[i].times, min(number or 2, MAX_PASSES))
            for ending in barline.findall("ending"):
                self._read_ending(i, ending)
            if barline.find("fermata") is not None:
                self.warn("fermatas within the piece do not stop the beat")

    def _read_ending(self, i: int, ending: Element) -> None:
        """Begin an ending at a measure, or end it there."""
        if ending.get("type") == "start" or self._ending is None:
            text = (ending.text or "").strip().removesuffix(".")
            self._ending = i, passes(text if text.isdecimal() else ending.get("number", "")) or frozenset({1})
        first, numbers = self._ending
        for bar in self._order[first : i + 1]:
            bar.passes = numbers
        if ending.get("type") != "start":
            self._ending = None


def _divisions(element: Element) -> float:
    """Return the first divisions of a quarter note that stand in an element, 0 without any."""
    return max(finite_number(next((e.text for e in element.iter("divisions")), "")) or 0.0, 0.0)


def _staff(item: Element) -> str:
    """Return the number of the staff of a note."""
    return (item.findtext("staff") or "1").strip()


def _with_chords(measure: Element) -> list[tuple[Element, bool]]:
    """Return the elements of a measure, each with whether a further note of the chord before it follows."""
    found: list[tuple[Element, bool]] = []
    stands_in_chord = False
    for item in reversed(measure):
        if item.tag in ("note", "backup", "forward"):
            stands_in_chord = item.find("chord") is not None
        found.append((item, stands_in_chord))
    return found[::-1]


def _type_of(length_q: float) -> tuple[str, int]:
    """Return the note type and dots of a length, no type if it is none."""
    values = ((name, dots, type_q * (2 - 0.5**dots)) for name, type_q in TYPES_Q.items() for dots in range(3))
    return next(((name, dots) for name, dots, value_q in values if abs(value_q - length_q) < ROUND_Q), ("", 0))


def _altered_steps(fifths: int) -> dict[str, float]:
    """Return the semitones by letter of a key with some sharps (flats below 0).

    >>> _altered_steps(-2)
    {'B': -1.0, 'E': -1.0}
    """
    letters = SHARPS[: min(fifths, 7)] if fifths > 0 else SHARPS[::-1][: min(-fifths, 7)]
    return dict.fromkeys(letters, math.copysign(1.0, fifths))


def _key(key: Element) -> Key:
    """Read a <key>."""
    fifths = finite_number(key.findtext("fifths"))
    if fifths is not None:
        return Key(int(fifths), (key.findtext("mode") or "").strip() == "minor", _altered_steps(int(fifths)))
    alters = [finite_number(e.text) or 0.0 for e in key.findall("key-alter")]
    return Key(None, False, dict(zip((e.text or "" for e in key.findall("key-step")), alters, strict=False)))


def _dynamic(mark: Element, velocity: float | None = None) -> str | float:
    """Return a dynamic: its name, or for other words their text, or rather the velocity stated with them."""
    if mark.tag != "other-dynamics":
        return mark.tag
    return (mark.text or "").strip().lower() if velocity is None else velocity


def _wedges(direction: Element) -> Iterator[Wedge]:
    """Yield the hairpins of a direction, and the dashes after "cresc." or "dim."."""
    signs = {"crescendo": 1, "diminuendo": -1, "stop": 0}
    for wedge in direction.iterfind("direction-type/wedge"):
        if wedge.get("type") in signs:
            yield Wedge(signs[wedge.get("type", "")], wedge.get("number", "1"))
    for dashes in direction.iterfind("direction-type/dashes"):
        sign = loudness_direction(" ".join(e.text or "" for e in direction.iterfind("direction-type/words")))
        if dashes.get("type") == "stop" or (dashes.get("type") == "start" and sign):
            yield Wedge(sign if dashes.get("type") == "start" else 0, f"dashes{dashes.get('number', '1')}")


def _sound_pedals(sound: Element) -> list[str]:
    """Return the types of <pedal> that say what the attributes of a <sound> say."""
    found = []
    for attribute, (up, down) in PEDALS.items():
        text = sound.get(attribute, "")
        kind = {"yes": down, "no": up}.get(text, down if (finite_number(text) or 0.0) >= 50.0 else up)
        found += [kind] if text and kind else []
    return found

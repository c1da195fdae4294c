"""What a MusicXML score says about playback beside its notes, in a form that survives the import into music21.

`prepare` changes the element tree in place: transpositions are applied, silent staves become rests, dynamics inside
notations and bare ``<sound>`` elements become directions, tempos with text become numbers, parts that the part list
forgot are added. Facts without a place in music21 become hints (`add_hint`) or go into `Playback`.

Source: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (elements transpose, double, staff-type, metronome, sound,
swing, play, midi-instrument, volume, instrument-change, dynamics, alter, part-list).
"""

from __future__ import annotations

import copy
import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

HINT = "continuo:"  # prefix of a hint
FULL_VOLUME = 100 / 1.27  # percent; the channel volume 100 of 127, which General MIDI takes where none is stated
SOUNDING = ("cue", "pitch", "unpitched", "tie", "notations", "beam", "lyric", "notehead", "accidental", "stem")
SILENT_STAVES = ("alternate", "cue", "ossia")  # staff types that repeat other music, or stand beside it
NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C
KNOWN_ALTERS = frozenset({-4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4})  # which music21 reads
NEVER_PERFORMED = {
    "pan": "pan", "elevation": "elevation", "soft-pedal": "soft pedal", "attack": "attack", "release": "release",
    "end-dynamics": "end dynamics",
}  # fmt: skip
"""Attributes of <sound> and <note> that would change the sound, and their names in warnings."""
MAX_WORDS = 200  # letters of a direction in which a tempo is looked for
PEDALS = {"damper-pedal": ("stop", "start"), "sostenuto-pedal": ("", "sostenuto")}  # hints for "no" and "yes"
UNITS_Q = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}  # note values in quarter notes
UNITS_Q |= {"8th": 0.5, "semibreve": 4.0, "minim": 2.0, "crotchet": 1.0, "quaver": 0.5, "h": 2.0, "q": 1.0, "e": 0.5}
UNITS_Q |= {"ganze": 4.0, "halbe": 2.0, "viertel": 1.0, "achtel": 0.5, "ronde": 4.0, "blanche": 2.0, "noire": 1.0}
UNITS_Q |= {"croche": 0.5, "minima": 2.0, "semiminima": 1.0, "croma": 0.5, "blanca": 2.0, "negra": 1.0, "corchea": 0.5}
GLYPHS = {
    "\U0001d158\U0001d165\U0001d16e": "eighth", "\U0001d158\U0001d165\U0001d16f": "16th",
    "\U0001d158\U0001d165": "quarter", "\U0001d157\U0001d165": "half", "\U0001d15d": "whole", "\U0001d15e": "half",
    "\U0001d15f": "quarter", "\U0001d160": "eighth", "\U0001d161": "16th", "\u2669": "quarter", "\u266a": "eighth",
    "\ue1d2": "whole", "\ue1d3": "half", "\ue1d5": "quarter", "\ue1d7": "eighth", "\ue1d9": "16th", "\ue1e7": ".",
    "\ueca2": "whole", "\ueca3": "half", "\ueca5": "quarter", "\ueca7": "eighth", "\ueca9": "16th", "\uecb7": ".",
    "\U0001d16d": ".",
}  # fmt: skip
"""Note values as characters (Unicode, and SMuFL 1.4, https://w3c.github.io/smufl/latest/), longest first."""
_ABOUT = r"(?:circa|ca?\.?|etwa|approx\.?|about|[~\u2248])"
_NUMBER = rf"{_ABOUT}? ?(\d{{2,3}}(?:[.,]\d+)?)"
_UNIT = rf"(?:\b(dotted) )?\b({'|'.join(UNITS_Q)})(?: note)?( ?\.)?"
_WITH_UNIT = re.compile(rf"{_UNIT} ?(?:[=~:\u2248]|is|(?<=\w{{3}}) ) ?{_NUMBER}\b")
_CHARACTER = (
    r"\b(?:largo|larghetto|lento|adagio|andant\w+|moderato|allegr\w+|vivace|presto|slow|medium|moderate(?:ly)?|fast|bright"
    r"|lively|rock|ballad|waltz|swing|tempo di \w+)"
)
_WITHOUT_UNIT = (
    re.compile(rf"\b(?:tempo|m\.? ?m\.?|bpm) ?[:=]? ?{_NUMBER}\b"),
    re.compile(rf"{_NUMBER} ?(?:b\.?p\.?m\b|beats per min)"),
    re.compile(rf"(?:^|[^\w ]|{_CHARACTER}) ?[=\u2248] ?{_NUMBER}\b"),
    re.compile(rf"^\W*{_ABOUT} ?(\d{{2,3}}(?:[.,]\d+)?)\W*$"),
    re.compile(rf"^(?:\w+ )*{_CHARACTER}\W+{_NUMBER}\W*$"),
)
_EQUATION = re.compile(rf"{_UNIT} ?= ?{_UNIT}|[=\u2248] ?\d\d")


@dataclass(frozen=True)
class Instrument:
    """One instrument of a part as the score states it."""

    name: str  # its name, else that of the part
    sound: str = ""  # MusicXML's name of its sound, such as "wind.flutes.flute"
    program: int | None = None  # General MIDI, 0 to 127
    is_drum: bool = False  # on MIDI channel 10
    key: int | None = None  # General MIDI percussion key, 0 to 127
    volume: float = FULL_VOLUME  # percent

    def stated(self, midi: Element) -> Instrument:
        """Return this instrument with what a <midi-instrument> states: program, percussion key, volume, channel."""
        program, key = (number(midi.findtext(tag)) for tag in ("midi-program", "midi-unpitched"))
        volume, channel = (number(midi.findtext(tag)) for tag in ("volume", "midi-channel"))
        return replace(
            self,
            program=int(program) - 1 if program is not None and 1 <= program <= 128 else self.program,
            key=int(key) - 1 if key is not None and 1 <= key <= 128 else self.key,
            volume=min(max(volume, 0.0), 100.0) if volume is not None else self.volume,
            is_drum=channel == 10 if channel is not None else self.is_drum,
        )


@dataclass
class Playback:
    """The instruments of each part by its id, the first one for notes that name none, and the warnings of `prepare`."""

    instruments: dict[str, list[Instrument]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prepare(root: Element) -> Playback:
    """Put a partwise score into the form described above, in place."""
    playback = Playback()
    parts = complete_part_list(root, playback)
    for part in root.iterfind("part"):
        _read_instruments(part, parts[part.get("id", "")], playback)
        _transpose(part, playback)
        for measure in part.iterfind("measure"):
            measure[:] = [_direction_of(item) if item.tag == "sound" else item for item in measure]
            for item in measure:
                if item.tag == "direction":
                    _prepare_direction(item, playback)
                elif item.tag == "note":
                    _prepare_note(item, playback)
            _move_dynamics(measure)
    _silence_alternates(root, playback)
    return playback


def number(text: str | None) -> float | None:
    """Return a finite number, or None for other texts."""
    with suppress(ValueError):
        if math.isfinite(value := float(text or "")):
            return value
    return None


def add_hint(note: Element, hint: str) -> None:
    """Leave a hint such as ``key=38`` in the first footnote of a note, the only one that music21 keeps."""
    first = note.find("footnote")
    if first is None or not (first.text or "").startswith(HINT):
        first = Element("footnote")
        first.text = HINT + hint
        note.insert(0, first)
    else:
        first.text = f"{first.text};{hint}"


def hint_words(direction: Element, hint: str) -> None:
    """Add a hint to a direction, as words that begin with `HINT`, which the import keeps."""
    SubElement(SubElement(direction, "direction-type"), "words").text = HINT + hint


def silence(measure: Element, note: Element) -> None:
    """Turn a note of a measure into a rest; remove a grace note, and the further notes of a chord."""
    if note.find("grace") is not None or note.find("chord") is not None:
        measure.remove(note)
        return
    for child in [child for child in note if child.tag in SOUNDING]:
        note.remove(child)
    if note.find("rest") is None:
        note.insert(0, Element("rest"))


def walk(part: Element) -> Iterator[tuple[Element, Element, float]]:
    """Yield the elements of a part with their measures, and their positions in quarter notes of the measure."""
    divisions = 1.0
    for measure in part.iterfind("measure"):
        now_q = begin_q = 0.0
        for item in measure:
            if item.tag == "attributes":
                divisions = number(item.findtext("divisions")) or divisions
            length_q = (number(item.findtext("duration")) or 0.0) / divisions
            if item.tag == "note" and item.find("chord") is not None:
                yield item, measure, begin_q
                continue
            begin_q = now_q
            yield item, measure, begin_q
            if item.tag in ("note", "forward"):
                now_q += length_q if item.find("grace") is None else 0.0
            elif item.tag == "backup":
                now_q = max(now_q - length_q, 0.0)


def complete_part_list(root: Element, playback: Playback) -> dict[str, Element]:
    """Return the <score-part> of each part by its id; add those that are missing, and tell equal ids apart."""
    listing = root.find("part-list")
    if listing is None:
        listing = Element("part-list")
        root.insert(0, listing)
    listed = {entry.get("id", ""): entry for entry in listing.iterfind("score-part")}
    stated = {part.get("id", "") for part in root.iterfind("part")}
    unused = [name for name in listed if name not in stated]
    found: dict[str, Element] = {}
    for part in root.iterfind("part"):
        name = own = part.get("id", "")
        if name not in listed and unused:
            name = unused.pop(0)
        numbers = count(2)
        while name in found or (name != own and name in stated):
            name = f"{own}-{next(numbers)}"
        if name not in listed or name != own:
            playback.warnings.append(
                f"the part '{own}' is missing in the part list, or there twice; it is played as '{name}'"
            )
        if name not in listed:
            listed[name] = copy.deepcopy(listed.get(own, Element("score-part")))
            listed[name].set("id", name)
            if own not in listed:
                SubElement(listed[name], "part-name").text = name
            listing.append(listed[name])
        part.set("id", name)
        found[name] = listed[name]
    silent = [(listed[name].findtext("part-name") or name).strip() for name in listed if name not in found]
    playback.warnings += [f"the part '{name[:40]}' of the part list has no music" for name in silent]
    return found


def _read_instruments(part: Element, entry: Element, playback: Playback) -> None:
    """Enter the instruments of a part, and leave a hint on each note that names one, or follows a change of one.

    The hint is the index of the instrument among those of the part; each change makes a new one.
    """
    names = ("part-name", "part-name-display/display-text", "part-abbreviation")
    part_name = next((text for name in names if (text := (entry.findtext(name) or "").strip())), "")
    midi = {i.get("id", ""): i for i in entry.iterfind("midi-instrument")}
    found: list[Instrument] = []
    index: dict[str, list[tuple[tuple[int, float], int]]] = {}  # by id, where each state begins, and its index
    for stated in entry.findall("score-instrument") or list(midi.values())[:1] or [entry]:
        name, own = (stated.findtext("instrument-name") or "").strip(), stated.get("id", "")
        instrument = Instrument(name or part_name, (stated.findtext("instrument-sound") or "").strip())
        if own in midi or (len(midi) == 1 and not found):
            instrument = instrument.stated(midi.get(own, next(iter(midi.values()))))
        index[own] = [((-1, 0.0), len(found))]
        found.append(instrument)
    playback.instruments[part.get("id", "")] = found
    changes = (part.find(f".//sound/{tag}") for tag in ("instrument-change", "midi-instrument"))
    if len(found) > 1 or found[0].key is not None or any(change is not None for change in changes):
        _place_instruments(list(_ordered(part)), found, index, playback)


def _place_instruments(
    placed: list[tuple[tuple[int, float], Element, Element]],
    found: list[Instrument],
    index: dict[str, list[tuple[tuple[int, float], int]]],
    playback: Playback,
) -> None:
    """Add the changes of the instruments of a part to `found` and `index`, and leave the hints on its notes."""
    default = next(iter(index))
    for place, item, _ in placed:
        for sound in item.findall("sound") if item.tag == "direction" else [item] if item.tag == "sound" else []:
            for change in (*sound.iterfind("instrument-change"), *sound.iterfind("midi-instrument")):
                states = index.get(change.get("id", ""), index[default])
                found.append(_changed(found[states[-1][1]], change))
                states.append((place, len(found) - 1))
    for states in index.values():
        states.sort()
    for place, item, _ in placed:
        if item.tag == "note":
            named = item.find("instrument")
            own = named.get("id", "") if named is not None else default
            if own not in index:
                playback.warnings.append(f"the instrument '{own[:20]}' of a note is not in the part list")
            states = index.get(own, index[default])
            k = states[bisect_right(states, (place, len(found))) - 1][1]
            if named is not None or k:
                add_hint(item, f"instrument={k}")


def _ordered(part: Element) -> Iterator[tuple[tuple[int, float], Element, Element]]:
    """Yield the index of the measure, the position in it, the element, and the measure of all elements of a part."""
    i, last = -1, None
    for item, measure, position_q in walk(part):
        i += measure is not last
        last = measure
        yield (i, round(position_q, 4)), item, measure


def _changed(instrument: Instrument, change: Element) -> Instrument:
    """Return an instrument after an <instrument-change> or a <midi-instrument> within a <sound>."""
    if change.tag == "midi-instrument":
        return instrument.stated(change)
    sound = (change.findtext("instrument-sound") or "").strip()
    return replace(instrument, name="", sound=sound, program=None, key=None) if sound else instrument


def _transpose(part: Element, playback: Playback) -> None:
    """Write a part at sounding pitch: apply and remove its <transpose> elements, for all staves or for one."""
    if part.find("measure/attributes/transpose") is None:
        return
    staves = {n.text or "1" for n in part.iterfind("measure/note/staff")} | {"1"}
    in_force: dict[str, tuple[int, float, int]] = {}  # by staff: steps, semitones, octave of the doubling
    keys: dict[str, Element] = {}  # by staff: the written key
    for measure in part.iterfind("measure"):
        found: list[Element] = []
        for item in measure:
            found.append(item)
            if item.tag == "attributes":
                _read_transpose(item, staves, in_force, keys, playback)
            elif item.tag == "note" and (pitch := item.find("pitch")) is not None:
                steps, semitones, doubled = in_force.get(item.findtext("staff") or "1", (0, 0.0, 0))
                if steps or semitones:
                    _move_pitch(pitch, steps, semitones)
                    for accidental in item.findall("accidental"):
                        item.remove(accidental)
                if doubled:
                    found.append(_doubling(item, doubled))
        measure[:] = found


def _read_transpose(
    attributes: Element,
    staves: set[str],
    in_force: dict[str, tuple[int, float, int]],
    keys: dict[str, Element],
    playback: Playback,
) -> None:
    """Take the transpositions and keys out of <attributes>, and put the sounding keys into it."""
    transposes = attributes.findall("transpose")
    written = [key for key in attributes.findall("key") if number(key.findtext("fifths")) is not None]
    for element in transposes:
        octaves, semitones = (number(element.findtext(tag)) or 0.0 for tag in ("octave-change", "chromatic"))
        diatonic = number(element.findtext("diatonic"))
        steps = round(semitones * 7 / 12) if diatonic is None else int(diatonic)
        double = element.find("double")
        doubled = 0 if double is None else 1 if double.get("above") == "yes" else -1
        change = (steps + 7 * int(octaves), semitones + 12 * int(octaves), doubled)
        in_force.update(dict.fromkeys([element.get("number", "")] if element.get("number") else staves, change))
        attributes.remove(element)
        if all(number(element.findtext(tag)) is None for tag in ("octave-change", "chromatic")):
            playback.warnings.append("a transposition without a number of semitones is ignored")
    for key in written:
        keys.update(dict.fromkeys([key.get("number", "")] if key.get("number") else staves, key))
    if not transposes and not written:
        return
    at = next((k for k, child in enumerate(attributes) if child.tag == "key"), len(attributes.findall("divisions")))
    for key in written:
        attributes.remove(key)
    sounding = {staff: _moved_key(key, *in_force.get(staff, (0, 0.0, 0))[:2]) for staff, key in sorted(keys.items())}
    is_one = len({key.findtext("fifths") for key in sounding.values()}) == 1
    for staff, key in list(sounding.items())[: 1 if is_one else None]:
        key.attrib.pop("number", None)
        if not is_one:
            key.set("number", staff)
        attributes.insert(at, key)


def _moved_key(key: Element, steps: int, semitones: float) -> Element:
    """Return a copy of a key, transposed; of equal keys the one with fewer accidentals."""
    moved = copy.deepcopy(key)
    fifths = int(number(key.findtext("fifths")) or 0) + 7 * round(semitones) - 12 * steps
    fifths -= 12 * round(fifths / 12) if abs(fifths) > 7 else 0
    next(moved.iterfind("fifths")).text = str(fifths)
    return moved


def _move_pitch(pitch: Element, steps: int, semitones: float) -> None:
    """Transpose a <pitch> by a number of steps and of semitones."""
    step, octave = (pitch.findtext("step") or "C").strip(), int(pitch.findtext("octave") or 4)
    semitone = _semitone(pitch) + semitones
    octave, place = divmod(7 * octave + list(NATURALS).index(step) + steps, 7)
    moved = list(NATURALS)[place]
    alter = semitone - 12 * octave - NATURALS[moved]
    pitch.clear()
    for tag, text in (("step", moved), ("alter", f"{alter:g}"), ("octave", str(octave))):
        SubElement(pitch, tag).text = text


def _doubling(note: Element, octaves: int) -> Element:
    """Return the note that doubles another one in an octave, as a member of its chord."""
    kept = ("grace", "pitch", "duration", "tie", "instrument", "voice", "type", "dot", "time-modification", "staff")
    double = Element("note", note.attrib)
    double.extend(copy.deepcopy(child) for child in note if child.tag in kept)
    double.insert(len(double.findall("grace")), Element("chord"))
    _move_pitch(next(double.iterfind("pitch")), 7 * octaves, 12.0 * octaves)
    return double


def _direction_of(sound: Element) -> Element:
    """Return a direction with a <sound> that stood alone in its measure."""
    direction = Element("direction")
    SubElement(SubElement(direction, "direction-type"), "words")
    for offset in sound.findall("offset"):
        sound.remove(offset)
        direction.append(offset)
    direction.append(sound)
    return direction


def _prepare_direction(direction: Element, playback: Playback) -> None:
    """Make numbers of the tempos of a direction, and hints or dynamics of the other attributes of its <sound>."""
    sound = direction.find("sound")
    tempo = sound.get("tempo") if sound is not None else None
    if sound is not None and tempo is not None and number(tempo) is None:
        del sound.attrib["tempo"]
        playback.warnings.append(f"the tempo '{tempo[:30]}' is not a number")
    for metronome in direction.findall("direction-type/metronome"):
        _prepare_metronome(metronome, direction, playback)
    words = " ".join(_words(e) for e in direction.iterfind("direction-type/*"))
    if direction.find("direction-type/metronome") is None and (sound is None or sound.get("tempo") is None):
        qpm = tempo_in_words(words)
        if qpm is not None:
            sound = SubElement(direction, "sound") if sound is None else sound
            sound.set("tempo", f"{qpm:g}")
        elif _EQUATION.search(_spelt(words)):
            playback.warnings.append(f"not performed: {' '.join(words.split())[:40]}")
    swing = sound.find("swing") if sound is not None else None
    if swing is not None:
        parts = (
            [1.0, 1.0]
            if swing.find("straight") is not None
            else [number(swing.findtext(t)) for t in ("first", "second")]
        )
        first, second = (max(part or 1.0, 0.01) for part in parts)
        unit_q = UNITS_Q.get((swing.findtext("swing-type") or "eighth").strip(), 0.5)
        hint_words(direction, f"swing={first / (first + second)!r};unit={unit_q!r}")
    elif re.search(r"(?i)\b(swing|swung|shuffle)\b", words):
        playback.warnings.append(f"not performed: {' '.join(words.split())[:40]}")
    if sound is not None:
        _prepare_sound(sound, direction, playback)


def _words(mark: Element) -> str:
    """Return the text of words in a direction, or the note value that a <symbol> of SMuFL shows; "" for other marks."""
    if mark.tag == "symbol":
        found = re.search(r"(?i)note(whole|half|quarter|8th|16th)|(augmentationdot)", mark.text or "")
        return "" if found is None else "." if found.group(2) else found.group(1).lower()
    return (mark.text or "") if mark.tag in ("words", "rehearsal") else ""


def _prepare_metronome(metronome: Element, direction: Element, playback: Playback) -> None:
    """Leave the number of a <per-minute> with text, such as "c. 60"; remove a metronome mark without any."""
    per_minute = metronome.find("per-minute")
    if metronome.find("metronome-note") is not None and direction.find("sound") is None:
        playback.warnings.append("not performed: a metronome mark that compares notes")
    if per_minute is None or (number(per_minute.text) or 0.0) > 0.0:
        return
    text = " ".join((per_minute.text or "").split())
    numbers = [n for n in re.findall(r"\d+(?:[.,]\d+)?", text) if float(n.replace(",", ".")) > 0]
    numbers = [n for n in numbers if float(n.replace(",", ".")) >= 10] or numbers
    if numbers:
        per_minute.text = numbers[0].replace(",", ".")
    else:
        for kind in direction.iterfind("direction-type"):
            if metronome in list(kind):
                kind.remove(metronome)
    if len(numbers) != 1:
        played = f"is played as {numbers[0]}" if numbers else "is no positive number"
        playback.warnings.append(f"the tempo '{text[:30]}' {played}")


def _prepare_sound(sound: Element, direction: Element, playback: Playback) -> None:
    """Turn the dynamics, pedals and pizzicato of a <sound> into dynamics and hints; name what is not performed."""
    percent = number(sound.get("dynamics"))
    if percent is not None and direction.find("direction-type/dynamics") is None:
        dynamics = SubElement(SubElement(direction, "direction-type"), "dynamics")
        SubElement(dynamics, "other-dynamic").text = f"{HINT}velocity={round(percent * 0.9)}"
    for attribute, (up, down) in PEDALS.items():
        text = sound.get(attribute, "")
        hint = {"yes": down, "no": up}.get(text, down if (number(text) or 0.0) >= 50.0 else up)
        if text and hint and direction.find("direction-type/pedal") is None:
            hint_words(direction, f"pedal={hint}")
    if sound.get("pizzicato") in ("yes", "no"):
        hint_words(direction, f"pizzicato={sound.get('pizzicato')}")
    _name_unperformed(sound, playback)


def _name_unperformed(element: Element, playback: Playback) -> None:
    """Enter into the warnings what a <sound> or <note> states and nobody performs."""
    names = [name for attribute, name in NEVER_PERFORMED.items() if element.get(attribute) not in (None, "no")]
    if "time-only" in element.attrib and element.attrib.keys() & {"tempo", "dynamics"}:
        names.append("tempo or dynamics in some passes only")
    names += ["tie in some passes only" for tie in element.iterfind("tie") if "time-only" in tie.attrib]
    names += ["mute" for mute in element.iterfind("play/mute") if mute.text not in ("on", "off")]
    playback.warnings += [f"not performed: {name}" for name in names]


def _spelt(words: str) -> str:
    """Return words in small letters, with the names of note values instead of their glyphs."""
    words = words[:MAX_WORDS]
    for glyph, name in GLYPHS.items():
        words = words.replace(glyph, f" {name}" if name != "." else name)
    return " ".join(words.lower().split())


def tempo_in_words(words: str) -> float | None:
    """Return the quarter notes per minute that words state as a number, None without.

    >>> tempo_in_words("c. 60"), tempo_in_words("Allegro (\u2669. = 90)"), tempo_in_words("Bar 60")
    (60.0, 135.0, None)
    """
    plain = _spelt(words)
    found = _WITH_UNIT.search(plain)
    if found:
        dotted, unit, dot, number = found.groups()
        return UNITS_Q[unit] * (1.5 if dotted or dot else 1.0) * float(number.replace(",", "."))
    numbers = (match.group(1) for pattern in _WITHOUT_UNIT if (match := pattern.search(plain)))
    return next((float(number.replace(",", ".")) for number in numbers), None)


def _prepare_note(note: Element, playback: Playback) -> None:
    """Turn alterations that music21 does not know, and a note's own pizzicato, into hints."""
    alter = note.find("pitch/alter")
    value = number(alter.text) if alter is not None else None
    if alter is not None and value is None and (alter.text or "").strip():
        playback.warnings.append(f"the alteration '{(alter.text or '').strip()[:20]}' is not a number")
        alter.text = "0"
    if alter is not None and value is not None and value not in KNOWN_ALTERS:
        near = min(max(round(value), -2), 2)
        alter.text = str(near)
        add_hint(note, f"bend={value - near!r}")
        for accidental in note.findall("accidental"):
            note.remove(accidental)
    if note.get("pizzicato") == "yes":
        add_hint(note, "pizzicato=yes")
    _name_unperformed(note, playback)


def _move_dynamics(measure: Element) -> None:
    """Move dynamics inside <notations> into directions before the note or chord."""
    found: list[Element] = []
    at = 0  # index of the first note of the chord in `found`
    for item in measure:
        at = len(found) if item.find("chord") is None else at
        found.append(item)
        for notations in item.findall("notations"):
            for dynamics in notations.findall("dynamics"):
                notations.remove(dynamics)
                direction = Element("direction")
                SubElement(direction, "direction-type").append(dynamics)
                direction.extend(item.findall("staff"))
                found.insert(at, direction)
    measure[:] = found


def _silence_alternates(root: Element, playback: Playback) -> None:
    """Turn the notes of staves that only repeat others into rests.

    These are staves of the types `SILENT_STAVES` in measures where another staff of the part has notes, and tablatures
    whose notes another staff has in the same measure. A part in tablature alone is one where another part is equal.
    """
    found = _notes_by_staff(root)
    plain = {staff: {note.key for note in notes if note.begins and not note.kind} for staff, notes in found.items()}
    for (part, staff), notes in found.items():
        beside = set[tuple[int, float, float]]().union(*(plain[s] for s in plain if s[0] == part and s[1] != staff))
        measures = {key[0] for key in beside}
        own = {note.key for note in notes if note.begins}
        repeats_part = all(note.kind for note in notes) and any(
            keys == own for s, keys in plain.items() if s[0] != part
        )
        strays = {note.key[0] for note in notes if note.begins and note.key not in beside}  # measures with own notes
        for note in notes:
            is_other = note.kind in SILENT_STAVES and note.key[0] in measures
            if repeats_part or is_other or (note.kind == "TAB" and note.key[0] not in strays):
                silence(note.measure, note.element)
                if note.kind == "ossia":
                    playback.warnings.append("not performed: ossia")


class _StaffNote(NamedTuple):
    key: tuple[int, float, float]  # index of the measure, position, pitch in semitones
    kind: str  # "TAB" or one of `SILENT_STAVES`, "" for ordinary notes
    begins: bool  # whether it is no continuation of a tied note
    measure: Element
    element: Element


def _notes_by_staff(root: Element) -> dict[tuple[str, str], list[_StaffNote]]:
    """Return the notes of each staff by part and staff; none where no staff is a tablature or of a special type."""
    found: dict[tuple[str, str], list[_StaffNote]] = defaultdict(list)
    attributes = "part/measure/attributes"
    if (
        root.find(f"{attributes}/clef[sign='TAB']") is None
        and root.find(f"{attributes}/staff-details/staff-type") is None
    ):
        return found
    for part in root.iterfind("part"):
        kinds: dict[str, str] = {}
        for place, item, measure in _ordered(part):
            for clef in item.findall("clef"):
                kinds[clef.get("number", "1")] = "TAB" if clef.findtext("sign") == "TAB" else ""
            for details in item.findall("staff-details"):
                if details.findtext("staff-type") in SILENT_STAVES:
                    kinds[details.get("number", "1")] = details.findtext("staff-type") or ""
            if item.tag == "note" and (pitch := item.find("pitch")) is not None:
                staff = item.findtext("staff") or "1"
                begins = item.find("tie[@type='stop']") is None
                note = _StaffNote((*place, _semitone(pitch)), kinds.get(staff, ""), begins, measure, item)
                found[part.get("id", ""), staff].append(note)
    return found


def _semitone(pitch: Element) -> float:
    """Return the semitones of a <pitch> above C of octave 0."""
    octave, alter = (number(pitch.findtext(tag)) or 0.0 for tag in ("octave", "alter"))
    return 12 * octave + NATURALS.get((pitch.findtext("step") or "").strip(), 0) + alter

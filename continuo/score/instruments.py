"""General MIDI programs and percussion keys of instruments: from MIDI numbers in the score, else from names.

Sources: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (elements score-instrument, midi-instrument,
instrument-change); General MIDI 1 sound set and percussion map, https://midi.org/general-midi.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from xml.etree.ElementTree import Element

from continuo.score.measures import Head, Instrument, Staff, WrittenScore
from continuo.system.text import finite_number

PIANO, ELECTRIC_BASS, VIOLA, DOUBLE_BASS, PIZZICATO, SINGERS = 0, 33, 41, 43, 45, 52
GUITARS = range(24, 32)
STRINGS = (*range(40, 45), *range(48, 52))  # bowed instruments and string ensembles
AMBIGUOUS = ((r"\b(bass|bass[eio]|basses|baixos?)\b", DOUBLE_BASS), (r"\balt(o|i|os)\b", VIOLA))
"""Names of singers that are also those of string instruments, and their programs."""
TECHNIQUES = (
    (STRINGS, r"\bpizz", PIZZICATO), (STRINGS, r"\barco\b", None),
    ((56,), r"\b(con sord|with mute|muted)", 59), ((56,), r"\b(senza sord|open|without mute)", None),  # trumpet
)  # fmt: skip
"""Programs of instruments, words for a playing technique, and the program for it, None for the instrument's own."""

DRUM_SETS = (  # names of many instruments at once
    r"(?<!steel )drums\b|drum ?(set|kit|group)|percus|schlagzeug|batteri[ae]|bateria|schlagwerk"
)
STAFF_KEYS = {
    ("D", 4): 44, ("E", 4): 35, ("F", 4): 36, ("G", 4): 41, ("A", 4): 43, ("B", 4): 45, ("C", 5): 38, ("D", 5): 47,
    ("E", 5): 50, ("F", 5): 51, ("G", 5): 42, ("A", 5): 49, ("B", 5): 57,
}  # fmt: skip
"""Percussion keys by position on a five-line staff (N. Weinberg, "Guidelines for Drumset Notation")."""
CHANGE = re.compile(r"(?i)(change )?(to|muta in|cambia a|nimmt|take|prend) ")  # words that announce another instrument
DEFAULT_KEY = 38  # percussion key without a name or position: the snare drum

Place = tuple[int, float]  # index of the bar, and quarter notes from its beginning


def _patterns(name: str) -> list[tuple[str, int]]:
    """Return the pairs of pattern and number in a table of this folder, whose comments say what they are."""
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [(pattern, int(number)) for number, _, pattern in (line.partition(" ") for line in lines if line[0] != "#")]


PROGRAMS, PERCUSSION_KEYS = _patterns("programs.txt"), _patterns("percussion.txt")


def program_of_name(name: str) -> int | None:
    """Return the General MIDI program for the name of a part, None for an unknown name.

    >>> program_of_name("Violoncello II"), program_of_name("Part_1")
    (42, None)
    """
    plain = _plain(name)
    return next((program for words, program in PROGRAMS if re.search(words, plain)), None)


def _plain(name: str) -> str:
    """Return a name in small letters without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))


def key_of_name(name: str, least: int = 1) -> int | None:
    """Return the General MIDI percussion key for the name of an instrument, None for other names.

    Matches of fewer than `least` letters, which can be names of anything, do not count.

    >>> key_of_name("Snare Drum"), key_of_name("Drumset"), key_of_name("Tom", least=5)
    (38, None, None)
    """
    plain = re.sub(r"[^a-z]+", " ", _plain(name))
    for words, key in PERCUSSION_KEYS:
        found = re.search(rf"\b({words})", plain)
        if found and len(found.group()) >= least:
            is_set = words == PERCUSSION_KEYS[-1][0] and re.search(DRUM_SETS, plain)
            return None if is_set else key
    return None


def listed_parts(root: Element, warn: Callable[[str], None]) -> Iterator[tuple[str, str, Element, Element]]:
    """Yield an id of its own, the name, the <part> and the <score-part> of each part, also if they are not listed."""
    listed = {entry.get("id", ""): entry for entry in root.iterfind("part-list/score-part")}
    stated = {part.get("id", "") for part in root.findall("part")}
    unused = [name for name in listed if name not in stated]
    found: set[str] = set()
    for part in root.findall("part"):
        group = own = part.get("id", "")
        if own not in listed and unused:
            group = unused.pop(0)
        numbers = count(2)
        while group in found or (group != own and group in stated):
            group = f"{own}-{next(numbers)}"
        if group not in listed or group != own:
            warn(f"the part '{own}' is missing in the part list, or there twice; it is played as '{group}'")
        found.add(group)
        entry = listed.get(group, listed.get(own, Element("score-part")))
        names = ("part-name", "part-name-display/display-text", "part-abbreviation")
        name = next((text for tag in names if (text := " ".join((entry.findtext(tag) or "").split()))), "")
        yield group, name, part, entry
    for name in listed:
        if name not in found:
            title = (listed[name].findtext("part-name") or name).strip()[:40]
            warn(f"the part '{title}' of the part list has no music")


class PartInstruments:
    """The instruments of a part, their changes, and the notes that each of them plays."""

    def __init__(self, entry: Element, part_name: str) -> None:
        """Read a <score-part>."""
        midi = {i.get("id", ""): i for i in entry.findall("midi-instrument")}
        self.found: list[Instrument] = []
        self._states: dict[str, list[tuple[Place, int]]] = {}  # by id, where each state begins, and its index
        self._notes: list[tuple[Place, Head, str | None]] = []
        for stated in entry.findall("score-instrument") or list(midi.values())[:1] or [entry]:
            name, own = (stated.findtext("instrument-name") or "").strip(), stated.get("id", "")
            instrument = Instrument(name or part_name, (stated.findtext("instrument-sound") or "").strip())
            if own in midi or (len(midi) == 1 and not self.found):
                instrument = _with_midi(instrument, midi.get(own, next(iter(midi.values()))))
            self._states[own] = [((-1, 0.0), len(self.found))]
            self.found.append(instrument)

    def change(self, place: Place, sound: Element) -> None:
        """Enter the changes that a <sound> states; each makes another instrument."""
        default = next(iter(self._states))
        for change in (*sound.findall("instrument-change"), *sound.findall("midi-instrument")):
            states = self._states.get(change.get("id", ""), self._states[default])
            states.append((place, len(self.found)))
            self.found.append(_changed(self.found[states[-2][1]], change))

    def add_note(self, place: Place, head: Head, own: str | None) -> None:
        """Enter a note, and the id of the instrument that it names."""
        self._notes.append((place, head, own))

    def assign(self, warn: Callable[[str], None]) -> None:
        """Give each note the index of its instrument, once all changes are known."""
        if len(self.found) == 1 and self.found[0].key is None:
            return
        default = next(iter(self._states))
        for states in self._states.values():
            states.sort()
        for place, head, named in self._notes:
            own = default if named is None else named
            if own not in self._states:
                warn(f"the instrument '{own[:20]}' of a note is not in the part list")
            states = self._states.get(own, self._states[default])
            head.instrument = states[bisect_right(states, (place, len(self.found))) - 1][1]
            head.names_instrument = named is not None or head.instrument > 0


def _with_midi(instrument: Instrument, midi: Element) -> Instrument:
    """Return an instrument with what a <midi-instrument> states: program, percussion key, volume, channel."""
    program, key = (finite_number(midi.findtext(tag)) for tag in ("midi-program", "midi-unpitched"))
    volume, channel = (finite_number(midi.findtext(tag)) for tag in ("volume", "midi-channel"))
    return replace(
        instrument,
        program=int(program) - 1 if program is not None and 1 <= program <= 128 else instrument.program,
        key=int(key) - 1 if key is not None and 1 <= key <= 128 else instrument.key,
        volume=min(max(volume, 0.0), 100.0) if volume is not None else instrument.volume,
        is_drum=channel == 10 if channel is not None else instrument.is_drum,
    )


def _changed(instrument: Instrument, change: Element) -> Instrument:
    """Return an instrument after an <instrument-change> or a <midi-instrument> within a <sound>."""
    if change.tag == "midi-instrument":
        return _with_midi(instrument, change)
    sound = (change.findtext("instrument-sound") or "").strip()
    return replace(instrument, name="", sound=sound, program=None, key=None) if sound else instrument


def percussion_key(written: WrittenScore, staff: Staff, head: Head) -> float:
    """Return the General MIDI key of a percussion note: the stated one, by names, or by its place on the staff.

    They are those of the note's own instrument, or, in a part of one instrument that is no drum set, those of the part.
    A note with a pitch keeps it where neither a number nor a name is known.
    """
    names: list[str] = []
    if head.names_instrument or len(written.instruments(staff)) == 1:
        instrument = written.instruments(staff)[head.instrument]
        if instrument.key is not None and (head.names_instrument or not re.search(DRUM_SETS, _plain(staff.name))):
            return instrument.key
        names = [instrument.name, instrument.sound, "" if head.names_instrument else staff.name]
    by_name = next((key for name in names if (key := key_of_name(name)) is not None), None)
    if by_name is not None:
        return float(by_name)
    return head.pitch if head.is_pitched else STAFF_KEYS.get((head.step, head.octave), DEFAULT_KEY)


def read_programs(written: WrittenScore, staff: Staff, index: int = 0) -> list[tuple[float, int, bool]]:
    """Return the changes of program of an instrument: position in quarter notes, General MIDI program, is_drum.

    The first entry holds from the beginning. "pizz." and "arco", "con sord." and "senza sord." change the program.
    """
    base, is_drum = _program(written, staff, index)
    changes = [(0.0, base, is_drum)]
    family = written.family(staff)
    stated = written.marked(family, lambda marks: marks.techniques)
    if stated and base not in STRINGS:
        written.warn(f"not performed: pizzicato of the program {base}")
    for position_q, text in sorted(written.marked(family, lambda marks: marks.words) + stated):
        if CHANGE.match(text) and program_of_name(text) is not None and len(written.instruments(staff)) == 1:
            written.warn(f"not performed: {' '.join(text.split())[:40]}")
        meant = [program for bases, words, program in TECHNIQUES if base in bases and re.search(words, text.lower())]
        if meant and not is_drum:
            changes.append((position_q, base if meant[0] is None else meant[0], False))
    return sorted(changes, key=lambda change: change[0])


def _program(written: WrittenScore, staff: Staff, index: int) -> tuple[int, bool]:
    """Return the program of an instrument of a staff, and whether it is percussion; name an unknown one."""
    instrument = written.instruments(staff)[index]
    part_name = "" if index else staff.name
    sound = re.sub(r"^(?!pluck|synth)[\w-]+\.|\W", " ", instrument.sound)  # other families name no instrument
    names = (f"{part_name} {instrument.name}", sound)
    if instrument.is_drum or instrument.key is not None:
        return PIANO, True
    if instrument.program is None and any(key_of_name(name, 5) or re.search(DRUM_SETS, _plain(name)) for name in names):
        return PIANO, True
    by_name = next((program for name in names if (program := program_of_name(name)) is not None), None)
    if by_name == SINGERS and not instrument.sound.startswith("voice"):
        by_name = _singers_or_players(written, staff, *names)
    if instrument.program or by_name is None:  # piano is often stated for other instruments
        name = instrument.name or part_name or instrument.sound
        if instrument.program is None and name not in ("", "Instrument"):
            is_pitched = any(head.is_pitched for bar in staff.bars for chord in bar.chords for head in chord.heads)
            player = "a piano plays it" if is_pitched else "the places of its notes choose percussion"
            written.warn(f"the instrument '{name[:40]}' is not known; {player}")
        return instrument.program or PIANO, False
    return by_name, False


def _singers_or_players(written: WrittenScore, staff: Staff, name: str, sound: str) -> int:
    """Return the program of a part whose name may be that of singers: by its words, its sound or the other parts."""
    words, player = next((found for found in AMBIGUOUS if re.search(found[0], _plain(name))), ("", SINGERS))
    if player == SINGERS or program_of_name(re.sub(words, "", _plain(name))) == SINGERS or staff.group in written.sung:
        return SINGERS
    if by_sound := program_of_name(sound):
        return by_sound
    others = {other.name for other in written.staves if other.group != staff.group}
    has_strings = any(program_of_name(other) in STRINGS for other in others)
    plucks = (program_of_name(other) in GUITARS or re.search(DRUM_SETS, _plain(other)) for other in others)
    if player == DOUBLE_BASS and not has_strings and any(plucks):
        return ELECTRIC_BASS
    is_clear = {other: not any(re.search(words, _plain(other)) for words, _ in AMBIGUOUS) for other in others}
    sings = any(program_of_name(other) == SINGERS and (is_clear[other] or not has_strings) for other in others)
    if sings and not (has_strings and written.sung):  # where words are written, it has none
        return SINGERS
    return player if has_strings or player == DOUBLE_BASS else SINGERS

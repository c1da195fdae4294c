"""General MIDI programs and percussion keys of instruments: from MIDI numbers in the score, else from names.

Source: General MIDI 1 sound set and percussion map, https://midi.org/general-midi.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from continuo.score.measures import Staff, WrittenScore
from continuo.score.musicxml import read_hint

if TYPE_CHECKING:
    from music21.note import Note, Unpitched

PIANO = 0
PIZZICATO = 45
STRINGS = (*range(40, 45), *range(48, 52))  # bowed instruments and string ensembles
TECHNIQUES = (
    (STRINGS, r"\bpizz", PIZZICATO), (STRINGS, r"\barco\b", None),
    ((56,), r"\b(con sord|with mute|muted)", 59), ((56,), r"\b(senza sord|open|without mute)", None),  # trumpet
)  # fmt: skip
"""Programs of instruments, words for a playing technique, and the program for it, None for the instrument's own."""

PERCUSSION_KEYS = (
    ("bass drum|kick|gro(ss|ß)e trommel|grosse caisse|gran ?cassa|grancassa", 36), ("side stick|rim", 37),
    ("snare|caisse|side drum|kleine trommel|tamburo|tambour\\b|tarol", 38), ("(hand )?clap|palmas", 39),
    ("pedal hi", 44), ("hi ?hat pedal", 44), ("open(ed)? hi", 46), ("hi ?hat.* open", 46), ("hi ?hat|charleston", 42),
    ("floor tom", 43), ("(low|lo) tom", 45), ("mid tom", 47), ("(high|hi) tom", 50), ("tom ?tom|tom", 47),
    ("splash", 55), ("china", 52), ("ride bell", 53), ("ride", 51), ("crash|cymbals?\\b|becken|piatti|cinelli", 49),
    ("tambourin|tamburin|pandeir|schellentrommel", 54), ("cowbell|kuhglocke|cencerro", 56), ("vibraslap", 58),
    ("bongo", 60), ("conga|tumba", 63), ("timbale", 65), ("agogo", 67), ("cabasa", 69), ("maraca", 70), ("guiro", 73),
    ("clave", 75), ("temple ?block|wood ?block|holzblock|tempelblock", 76), ("cuica", 79), ("triang", 81),
    ("shaker|ganza", 82), ("jingle|sleigh|schellen", 83), ("(c|k)asta(gn|n)", 85), ("tam ?tam|gong", 52), ("cajon", 36),
    ("surdo", 87), (r"(\w* )?drum\b|\w*trommel\b", 38),
)  # fmt: skip
"""Percussion keys by patterns for the beginning of a word in the name of an instrument; the first match counts."""
DRUM_SETS = (
    r"drums\b|drum ?(set|kit|group)|percussion|schlagzeug|batterie|schlagwerk"  # names of many instruments at once
)
STAFF_KEYS = {
    ("D", 4): 44, ("E", 4): 35, ("F", 4): 36, ("G", 4): 41, ("A", 4): 43, ("B", 4): 45, ("C", 5): 38, ("D", 5): 47,
    ("E", 5): 50, ("F", 5): 51, ("G", 5): 42, ("A", 5): 49, ("B", 5): 57,
}  # fmt: skip
"""Percussion keys by position on a five-line staff (N. Weinberg, "Guidelines for Drumset Notation")."""
CHANGE = re.compile(r"(?i)(change )?(to|muta in|cambia a|nimmt|take|prend) ")  # words that announce another instrument
DEFAULT_KEY = 38  # percussion key without a name or position: the snare drum

NAMES = (
    (r"(contra|kontra|double )-?(bass?oo?n|fagott)|contrefagot|contrebasson", 70),
    (r"synth\w*[ -]bass", 38), (r"fretless", 35), (r"slap.*bass", 36),
    (r"(acoustic|upright|jazz) bass\b|bass.*acoustic", 32),
    (r"bass[ -]?(guitar|gitar)|(guitar|gitar)\w*[ -]bass|bas\w*[ -]guit|guit\w*[ -]bas|\bel\w*\.?[ -]?bass?[eo]?\b"
     r"|\be[.-]? ?bass?\b|bass\W.*electric|bas\w* [eé]l[eé]ct|bass?o elettrico|\bbajo", 33),
    (r"\b(electric|e)[. -]?piano|rhodes|wurlitzer", 4), (r"piano accord", 21), (r"clavinet|clavichord", 7),
    (r"piano|klavier|keyboard|pian\.?$|pno", 0), (r"celesta|celeste", 8), (r"glocken", 9), (r"music box", 10),
    (r"vibraph", 11), (r"marimba", 12), (r"xylo", 13), (r"tubular|chimes|röhrengl", 14), (r"dulcimer|hackbrett", 15),
    (r"harpsi|cembalo|clavecin", 6), (r"harmonium|reed organ", 20), (r"organ|orgel|orgue", 19), (r"accord|akkord", 21),
    (r"harmonica|mundharmonika", 22), (r"\b(electric|e)[. -]?(guitar|gitar)|(guitar|gitar).*electric", 27),
    (r"(steel|western)\w*[ -](guitar|gitar)", 25), (r"guitar|gitar|guitare", 24),
    (r"(contrab|kontrab|contreb)(?!.*(clar|klar|fl[uöa]|tub|trom|pos|sax|rec))|double bass|string bass|violone", 43),
    (r"violonc|cello|vc", 42), (r"viola|bratsche|vla", 41), (r"viol|geige|vln|vn", 40), (r"harp|harfe", 46),
    (r"timpani|pauken", 47), (r"strings|streicher", 48), (r"\bbrass\b|blechbl", 61),
    (r"english horn|cor anglais|englischhorn", 69),
    (r"fl[uü]gelhorn", 56), (r"horn|cor\b", 60), (r"trumpet|trompet|tromba|cornet", 56), (r"tromb|posaune", 57),
    (r"tuba|euphonium|sousaph", 58), (r"sopran.*sax", 64), (r"alto.*sax", 65), (r"bari.*sax", 67), (r"sax", 66),
    (r"oboe|hautbois", 68), (r"bassoon|fagott?|basson", 70), (r"clarinet|klarinet|basset", 71), (r"piccolo", 72),
    (r"recorder|blockfl", 74), (r"pan ?(flute|flöte|pipe)", 75), (r"ocarina|okarina", 79),
    (r"flute|flöte|flauto|flûte", 73),
    (r"voice|voix|gesang|bariton|mezzo|sing|stimme|sopran|alt|tenor|bass|choir|chor|vocal", 52),
    (r"banjo", 105), (r"sitar", 104), (r"mandolin", 25), (r"ukulele", 24), (r"lute|laute", 24), (r"whistle", 78),
    (r"^fl\b", 73), (r"^ob\b", 68), (r"^cl\b", 71), (r"^(bsn|bn|fg)\b", 70), (r"^(hn|hr)\b", 60), (r"^(tpt|trp)\b", 56),
    (r"^(tbn|trb|pos)\b", 57), (r"^(db|cb|kb)\b", 43), (r"^(timp|pk)\b", 47), (r"^(gtr|git|guit)\b", 24),
    (r"koto", 107), (r"kalimba", 108), (r"bagpipe|dudelsack", 109), (r"fiddle", 110), (r"steel ?(drum|pan)", 114),
)  # fmt: skip
"""General MIDI programs by patterns for the name of a part; the first match counts."""


def program_of_name(name: str) -> int | None:
    """Return the General MIDI program for the name of a part, None for an unknown name.

    >>> program_of_name("Violoncello II"), program_of_name("Part_1")
    (42, None)
    """
    return next((program for words, program in NAMES if re.search(words, name, re.IGNORECASE)), None)


def key_of_name(name: str, least: int = 1) -> int | None:
    """Return the General MIDI percussion key for the name of an instrument, None for other names.

    Matches of fewer than `least` letters, which can be names of anything, do not count.

    >>> key_of_name("Snare Drum"), key_of_name("Drumset"), key_of_name("Tom", least=5)
    (38, None, None)
    """
    plain = re.sub(r"[^a-zß]+", " ", name.lower().translate(str.maketrans("íóöü", "ioou")))
    for words, key in PERCUSSION_KEYS:
        found = re.search(rf"\b({words})", plain)
        if found and len(found.group()) >= least:
            is_set = words == PERCUSSION_KEYS[-1][0] and re.search(DRUM_SETS, plain)
            return None if is_set else key
    return None


def percussion_key(written: WrittenScore, staff: Staff, note: Note | Unpitched) -> float:
    """Return the General MIDI key of a percussion note: the stated one, by names, or by its place on the staff.

    They are those of the note's own instrument, or, in a part of one instrument that is no drum set, those of the part.
    A note with a pitch keeps it where neither a number nor a name is known.
    """
    index = read_hint(note).get("instrument")
    part_name = str(staff.stream.partName or "")
    names: list[str] = []
    if index is not None or len(written.instruments(staff)) == 1:
        instrument = written.instruments(staff)[int(index or 0)]
        if instrument.key is not None and (index is not None or not re.search(DRUM_SETS, part_name.lower())):
            return instrument.key
        names = [instrument.name, instrument.sound, "" if index else part_name]
    by_name = next((key for name in names if (key := key_of_name(name)) is not None), None)
    if by_name is not None or hasattr(note, "pitch"):
        return float(note.pitch.ps if by_name is None else by_name)
    return STAFF_KEYS.get((str(note.displayStep), int(note.displayOctave)), DEFAULT_KEY)


def read_programs(written: WrittenScore, staff: Staff, index: int = 0) -> list[tuple[float, int, bool]]:
    """Return the changes of program of an instrument: position in quarter notes, General MIDI program, is_drum.

    The first entry holds from the beginning. "pizz." and "arco", "con sord." and "senza sord." change the program.
    """
    from music21.expressions import TextExpression

    base, is_drum = _program(written, staff, index)
    changes = [(0.0, base, is_drum)]
    family = written.family(staff)
    texts = [(q, mark.content or "") for q, mark in written.marked(family, TextExpression)]
    for position_q, hint in written.marked(family, dict):
        if "pizzicato" in hint:
            texts.append((position_q, "pizz." if hint["pizzicato"] == "yes" else "arco"))
            if base not in STRINGS:
                written.warn(f"not performed: pizzicato of the program {base}")
    for position_q, text in sorted(texts):
        if CHANGE.match(text) and program_of_name(text) is not None and len(written.instruments(staff)) == 1:
            written.warn(f"not performed: {' '.join(text.split())[:40]}")
        meant = [program for bases, words, program in TECHNIQUES if base in bases and re.search(words, text.lower())]
        if meant and not is_drum:
            changes.append((position_q, base if meant[0] is None else meant[0], False))
    return sorted(changes, key=lambda change: change[0])


def _program(written: WrittenScore, staff: Staff, index: int) -> tuple[int, bool]:
    """Return the program of an instrument of a staff, and whether it is percussion; name an unknown one."""
    instrument = written.instruments(staff)[index]
    part_name = "" if index else str(staff.stream.partName or "")
    names = (f"{part_name} {instrument.name}", instrument.sound.partition(".")[2].replace(".", " "))
    if instrument.is_drum or instrument.key is not None:
        return PIANO, True
    if instrument.program is None and any(key_of_name(name, 5) or re.search(DRUM_SETS, name.lower()) for name in names):
        return PIANO, True
    by_name = next((program for name in names if (program := program_of_name(name)) is not None), None)
    if instrument.program or by_name is None:  # piano is often stated for other instruments
        name = instrument.name or part_name or instrument.sound
        if instrument.program is None and name not in ("", "Instrument"):
            written.warn(f"the instrument '{name[:40]}' is not known; a piano plays it")
        return instrument.program or PIANO, False
    return by_name, False

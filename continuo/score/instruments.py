"""General MIDI programs and percussion keys of parts: from MIDI numbers in the score, else from names.

Source: General MIDI 1 sound set and percussion map, https://midi.org/general-midi.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from continuo.score.measures import Staff, WrittenScore

if TYPE_CHECKING:
    from music21.instrument import Instrument

PIANO = 0
STRINGS = (*range(40, 45), *range(48, 52))  # bowed instruments and string ensembles
TECHNIQUES = (
    (STRINGS, r"\bpizz", 45), (STRINGS, r"\barco\b", None),
    ((56,), r"\b(con sord|with mute|muted)", 59), ((56,), r"\b(senza sord|open|without mute)", None),  # trumpet
)  # fmt: skip
"""Programs of instruments, words for a playing technique, and the program for it, None for the instrument's own."""

PERCUSSION_KEYS = (
    ("bass drum", 36), ("kick", 36), ("grosse trommel", 36), ("side stick", 37), ("rim", 37), ("snare", 38),
    ("caisse", 38), ("side drum", 38), ("kleine trommel", 38), ("hand clap", 39), ("clap", 39), ("pedal hi", 44),
    ("open hi", 46), ("hi hat", 42), ("hihat", 42), ("floor tom", 43), ("low tom", 45), ("mid tom", 47),
    ("high tom", 50), ("tom", 47), ("crash", 49), ("splash", 55), ("china", 52), ("ride bell", 53), ("ride", 51),
    ("cymbal", 49), ("becken", 49), ("tambourine", 54), ("cowbell", 56), ("vibraslap", 58), ("bongo", 60),
    ("conga", 63), ("timbale", 65), ("agogo", 67), ("cabasa", 69), ("maraca", 70), ("guiro", 73), ("clave", 75),
    ("temple block", 76), ("wood block", 76), ("woodblock", 76), ("cuica", 79), ("triangle", 81), ("shaker", 82),
    ("jingle", 83), ("sleigh", 83), ("castanet", 85), ("tam tam", 52), ("gong", 52), ("cajon", 36), ("surdo", 87),
    ("drum", 38),
)  # fmt: skip
"""Percussion keys by words in the name of an instrument; the first match counts."""
STAFF_KEYS = {
    ("D", 4): 44, ("E", 4): 35, ("F", 4): 36, ("G", 4): 41, ("A", 4): 43, ("B", 4): 45, ("C", 5): 38, ("D", 5): 47,
    ("E", 5): 50, ("F", 5): 51, ("G", 5): 42, ("A", 5): 49, ("B", 5): 57,
}  # fmt: skip
"""Percussion keys by position on a five-line staff (N. Weinberg, "Guidelines for Drumset Notation")."""
DEFAULT_KEY = 38  # percussion key without a name or position: the snare drum

NAMES = (
    (r"piano|klavier|keyboard|pian\.?$|pno", 0), (r"celesta", 8), (r"glocken", 9), (r"vibra", 11), (r"marimba", 12),
    (r"xylo", 13), (r"harpsi|cembalo|clavecin", 6), (r"organ|orgel|orgue", 19), (r"accord|akkord", 21),
    (r"guitar|gitar", 24), (r"contrab|kontrab|double bass", 43), (r"bass guitar|e-?bass", 33),
    (r"violonc|cello|vc", 42), (r"viola|bratsche|vla", 41), (r"viol|geige|vln|vn", 40), (r"harp|harfe", 46),
    (r"timpani|pauken", 47), (r"strings|streicher", 48), (r"english horn|cor anglais|englischhorn", 69),
    (r"horn|cor\b", 60), (r"trumpet|trompet|tromba|cornet", 56), (r"tromb|posaune", 57), (r"tuba", 58),
    (r"sopran.*sax", 64), (r"alto.*sax", 65), (r"bari.*sax", 67), (r"sax", 66), (r"oboe|hautbois", 68),
    (r"bassoon|fagott?", 70), (r"clarinet|klarinet", 71), (r"piccolo", 72), (r"recorder|blockfl", 74),
    (r"flute|flöte|flauto|flûte", 73), (r"voice|voix|gesang|sing|stimme|sopran|alt|tenor|bass|choir|chor|vocal", 52),
    (r"banjo", 105), (r"sitar", 104), (r"mandolin", 25), (r"ukulele", 24), (r"lute|laute", 24), (r"whistle", 78),
)  # fmt: skip
"""General MIDI programs by patterns for the name of a part; the first match counts."""


def program_of_name(name: str) -> int | None:
    """Return the General MIDI program for the name of a part, None for an unknown name.

    >>> program_of_name("Violoncello II"), program_of_name("Part_1")
    (42, None)
    """
    return next((program for words, program in NAMES if re.search(words, name, re.IGNORECASE)), None)


def percussion_key(names: str, step: str = "", octave: int = 0) -> int:
    """Return a General MIDI percussion key by the name of an instrument, else by the note's position on the staff.

    >>> percussion_key("Snare Drum"), percussion_key("", "G", 5), percussion_key("")
    (38, 42, 38)
    """
    plain = re.sub(r"[^a-z]+", " ", names.lower())
    at_place = STAFF_KEYS.get((step, octave), DEFAULT_KEY)
    return next((key for words, key in PERCUSSION_KEYS if words in plain), at_place)


def read_programs(written: WrittenScore, staff: Staff) -> list[tuple[float, int, bool]]:
    """Return the changes of program of a staff: position in quarter notes, General MIDI program, is_drum.

    The first entry holds from the beginning. "pizz." and "arco", "con sord." and "senza sord." change the program.
    """
    from music21.expressions import TextExpression
    from music21.instrument import Instrument

    outside = staff.stream.getElementsByClass(Instrument)  # of its measures
    found = [(float(staff.stream.elementOffset(e)), e) for e in outside] + list(written.marked([staff], Instrument))
    found.sort(key=lambda mark: mark[0])
    own = [(0.0, PIANO, False), *((q, *_program(written, staff, instrument)) for q, instrument in found)]
    changes, marks = list(own), written.marked(written.family(staff), TextExpression)
    for position_q, text in sorted((q, mark.content or "") for q, mark in marks):
        _, base, is_drum = [change for change in own if change[0] <= position_q][-1]
        meant = [program for bases, words, program in TECHNIQUES if base in bases and re.search(words, text.lower())]
        if meant and not is_drum:
            changes.append((position_q, base if meant[0] is None else meant[0], False))
    return sorted(changes, key=lambda change: change[0])


def _program(written: WrittenScore, staff: Staff, instrument: Instrument) -> tuple[int, bool]:
    """Return the program of a music21 instrument, and whether it is percussion."""
    from music21.instrument import UnpitchedPercussion

    if isinstance(instrument, UnpitchedPercussion) or instrument.midiChannel == 9:
        return PIANO, True
    stated = instrument.midiProgram
    if stated is not None and not (stated == PIANO and instrument.partName):
        return min(max(int(stated), 0), 127), False
    program = program_of_name(" ".join(filter(None, (instrument.partName, instrument.instrumentName))))
    name = str(instrument.instrumentName or instrument.partName or staff.stream.partName or "")
    if program is None and stated is None and name not in ("", "Instrument"):
        written.warn(f"the instrument '{name[:40]}' is not known; a piano plays it")
    return int(stated or PIANO) if program is None else program, False

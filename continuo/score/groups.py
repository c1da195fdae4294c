"""Notes of MusicXML that belong together: chords, ties, and arpeggios through several chords.

The functions on elements put a measure into a form that music21 reads rightly. Sources: MusicXML 4.0, elements chord,
tie, tied, arpeggiate (https://www.w3.org/2021/06/musicxml40/).
"""

from collections import defaultdict
from xml.etree.ElementTree import Element, SubElement

from continuo.score.notes import DraftNote
from continuo.score.playback import add_hint

SAME_S = 0.01  # seconds between the end of a tied note and the onset of the next that count as none
MAX_TIE_S = 8.0  # seconds over which a tie passes other notes, as in an arpeggio that is written out
TIES = {"start": ("start",), "stop": ("stop",), "continue": ("stop", "start")}  # types of <tie> by type of <tied>

Tie = tuple[bool, bool]  # whether a note is tied to the note before, and to the next one


def gather_chords(measure: Element) -> None:
    """Move whatever stands between the notes of a chord to the place before the chord."""
    ordered: list[Element] = []
    begin = end = -1  # place of the first note of the latest chord, and the place after its last
    for item in measure:
        if item.tag == "note":
            if item.find("chord") is not None and begin >= 0:
                between = ordered[end:]
                del ordered[end:]
                ordered[begin:begin] = between
                begin += len(between)
            else:
                begin = len(ordered)
            end = len(ordered) + 1
        elif item.tag in ("backup", "forward"):
            begin = -1
        ordered.append(item)
    measure[:] = ordered


def complete_ties(note: Element) -> None:
    """Give a note a <tie> for each <tied> that has none: some programs write only the sign."""
    kinds = {kind for tied in note.iterfind("notations/tied") for kind in TIES.get(tied.get("type", ""), ())}
    for kind in sorted(kinds - {tie.get("type") for tie in note.iterfind("tie")}):
        SubElement(note, "tie", {"type": kind})


def mark_arpeggios(measure: Element) -> None:
    """Give the notes of arpeggios that pass through several chords a hint with their place: ``roll=PLACE/COUNT``.

    Chords that begin together are one arpeggio if their signs have one number, or if they say that it is unbroken.
    """
    found: dict[tuple[float, str], list[list[Element]]] = defaultdict(list)
    for position, chord in _chords(measure):
        signs = [sign for note in chord for sign in note.iterfind("notations/arpeggiate")]
        numbers = [sign.attrib.pop("number", "") for sign in signs]
        for sign in (sign for note in chord for sign in note.iterfind("notations/non-arpeggiate")):
            sign.attrib.pop("number", None)
        if signs and chord[0].find("grace") is None:
            is_unbroken = any(sign.get("unbroken") == "yes" for sign in signs)
            found[position, max(numbers) or ("unbroken" if is_unbroken else f"alone {len(found)}")].append(chord)
    for (position, name), chords in list(found.items()):
        if name.startswith("alone") and (position, "unbroken") in found:
            found[position, "unbroken"] += chords
    for chords in found.values():
        notes = sorted((note for chord in chords for note in chord if note.find("pitch") is not None), key=_height)
        signs = [sign for note in notes for sign in note.iterfind("notations/arpeggiate")]
        if len(chords) > 1:
            notes = notes[::-1] if any(sign.get("direction") == "down" for sign in signs) else notes
            for place, note in enumerate(notes):
                add_hint(note, f"roll={place}/{len(notes)}")


def _chords(measure: Element) -> list[tuple[float, list[Element]]]:
    """Return the chords of a measure, single notes too, each with its position in divisions."""
    found: list[tuple[float, list[Element]]] = []
    now = 0.0
    for item in measure:
        if item.tag not in ("note", "backup", "forward"):
            continue
        if item.tag == "note" and item.find("chord") is not None and found:
            found[-1][1].append(item)
            continue
        if item.tag == "note":
            found.append((now, [item]))
        text = (item.findtext("duration") or "").strip()
        length = float(text) if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit() else 0.0
        now += -length if item.tag == "backup" else length
    return found


def _height(note: Element) -> float:
    """Return a number that grows with the written pitch of a note."""
    octave = note.findtext("pitch/octave") or ""
    alter = (note.findtext("pitch/alter") or "0").strip()
    step = "C D EF G A B".find((note.findtext("pitch/step") or "C").strip())
    altered = float(alter) if alter.lstrip("+-").replace(".", "", 1).isdigit() else 0.0
    return 12 * (int(octave) if octave.strip().isdecimal() else 4) + step + altered


def join_ties(staves: list[list[tuple[DraftNote, Tie]]]) -> list[DraftNote]:
    """Join the tied notes of an instrument, also from voice to voice and from staff to staff, and return all notes.

    A tie reaches the note of its pitch that begins where it ends, rather one of its own staff; else the next one within
    `MAX_TIE_S`, unless the pitch is struck between them.
    """
    found: list[DraftNote] = []
    waiting: dict[float, list[tuple[DraftNote, int]]] = {}  # by pitch, notes whose tie is open, with their staff
    played = [(note, tie, staff) for staff, notes in enumerate(staves) for note, tie in notes]
    for note, (from_before, to_next), staff in sorted(
        played, key=lambda entry: (round(entry[0].onset_s, 4), not entry[1][0])
    ):
        here = waiting.get(note.pitch, [])
        near = [w for w in here if abs(w[0].end_s - note.onset_s) < SAME_S]
        far = [w for w in here if SAME_S <= note.onset_s - w[0].end_s <= MAX_TIE_S]
        held = min(near, key=lambda w: w[1] != staff) if near else far[-1] if far else None
        if held is None or not from_before:
            closed = near + far  # the pitch is struck again
            found.append(note)
        else:
            closed = [held, *far]
            held[0].end_s = note.end_s
            note = held[0]
        waiting[note.pitch] = [w for w in here if w not in closed] + [(note, staff)] * to_next
    return found

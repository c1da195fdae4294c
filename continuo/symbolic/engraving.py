"""A song as a music21 score that is ready to be written: staves, voices, spelling, brackets, beams."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

from continuo.score.instruments import STAFF_KEYS
from continuo.symbolic import notation
from continuo.symbolic.notation import UNITS, Bar, Chord, NoteValue
from continuo.symbolic.note_metrics import best_scale
from continuo.symbolic.song import Song, SongNote

if TYPE_CHECKING:
    from music21.stream import Score

MAX_VOICES = 4
"""Voices of a staff that notation programs know."""
KEYBOARDS = frozenset({*range(9), *range(16, 24), 46})
"""Programs on two staves: pianos, harpsichord, celesta, organs and accordions, harp."""
OTHER_PIANOS = range(1, 6)
MIDDLE_C, BASS_BELOW = 60, 57
"""Where the hands of a keyboard part; below which mean pitch a staff has a bass clef."""
PERCUSSION_CHANNEL = 9
STEPS = "FCGDAEB"
"""Naturals in the order of fifths; C is 0 on the line of fifths."""
MAX_BARS = 5_000  # of all instruments; music21 takes a millisecond or two for each
Grid = list[list[list[Chord]]]
"""For each bar its voices, for each voice its chords."""


class TooLong(ValueError):
    """A song is not written as a score, because that would take too long."""


def to_score(song: Song, title: str) -> Score:
    """A song as a music21 score with one part per staff, to be written without further makeNotation.

    See `continuo.symbolic.writing.write_musicxml` for what it holds.

    Raises:
        TooLong: its staves have more than `MAX_BARS` bars together.
    """
    from music21 import layout, metadata, stream

    bars = notation.bars(song)
    key = (best_scale(song)[0] * 7 + 5) % 12 - 5  # sharps, or flats below 0
    score = stream.Score([metadata.Metadata(title=title, composer="Continuo")])
    parts = sorted((by_program(song) or {(False, 0): []}).items())
    most, written = MAX_BARS // max(len(bars), 1), 0  # staves
    for number, ((is_drum, program), notes) in enumerate(parts):
        name = program_name(is_drum, program)
        keys = sorted({36, 38, *(t.pitch for t in notes)}) if is_drum else None  # one alone would not be named by notes
        instruments = _instruments(name, program, number, keys)
        staves: list[Any] = []
        for grid in _grids(notes, bars, program, is_drum):
            if (written := written + 1) > most:
                raise TooLong(f"{len(bars):,} bars on {most + 1} staves or more are above {MAX_BARS:,} in all")
            staves.append(_staff(grid, bars, len(staves) * MAX_VOICES + 1, instruments if is_drum else key))
            staves[-1].partName = name
            score.insert(0, staves[-1])
        for instrument in instruments.values():
            staves[0].insert(0, instrument)
        if len(staves) > 1:
            score.insert(0, layout.StaffGroup(staves, name=name, symbol="brace", barTogether=True))
    _mark_tempos(score.parts[0], song, bars)
    return score


def by_program(song: Song) -> dict[tuple[bool, int], list[SongNote]]:
    """The notes of each percussion kit (True) and program (False)."""
    found: dict[tuple[bool, int], list[SongNote]] = defaultdict(list)
    for note in song.notes:
        found[note.is_drum, note.program].append(note)
    return found


def program_name(is_drum: bool, program: int) -> str:
    """What General MIDI calls a program.

    >>> program_name(False, 40)
    'Violin'
    """
    from pretty_midi import program_to_instrument_name

    return "Percussion" if is_drum else str(program_to_instrument_name(program))


def _grids(notes: list[SongNote], bars: list[Bar], program: int, is_drum: bool) -> Iterator[Grid]:
    """The staves of a program: for each bar the chords of at most `MAX_VOICES` voices, the highest first."""
    if is_drum:
        yield notation.strokes(notes, bars)
        return
    hands = [[t for t in notes if t.pitch >= MIDDLE_C], [t for t in notes if t.pitch < MIDDLE_C]]
    for hand in hands if program in KEYBOARDS and all(hands) else [notes]:
        grid = notation.voices(hand, bars)
        for first in range(0, max(map(len, grid)) or 1, MAX_VOICES):
            yield [voices[first : first + MAX_VOICES] for voices in grid]


def _instruments(name: str, program: int, number: int, keys: list[int] | None) -> dict[int, Any]:
    """The instrument of the number-th part under 0, or one for each percussion key.

    music21 tells the instruments of a part apart by their classes, so each key has one of its own.
    """
    from music21 import instrument
    from pretty_midi import note_number_to_drum_name

    channel = number % 15 + (number % 15 >= PERCUSSION_CHANNEL) if keys is None else PERCUSSION_CHANNEL
    found = {}
    for percussion_key in keys or [0]:
        base = instrument.Instrument if keys is None else instrument.UnpitchedPercussion
        one = found[percussion_key] = type(f"Key{percussion_key}", (base,), {})()
        one.instrumentName = name if keys is None else note_number_to_drum_name(percussion_key) or name
        if program in OTHER_PIANOS and keys is None:
            one.instrumentName = ""  # music21's reader would take it for the program that its name brings to mind
        one.percMapPitch = percussion_key
        one.partId, one.instrumentId = f"P{number + 1}", f"P{number + 1}-I{percussion_key}"
        one.midiProgram, one.midiChannel = program, channel
        one.autoAssignMidiChannel = lambda **_: channel  # where more than 15 programs share the 15 channels
    return found


def _staff(grid: Grid, bars: list[Bar], first_voice: int, key: int | dict[int, Any]) -> Any:
    """A music21 part in the key of so many sharps, or for these percussion instruments."""
    from music21 import bar, clef, meter, stream
    from music21 import key as keys

    pitches = [pitch for voices in grid for voice in voices for chord in voice for pitch in chord.pitches]
    low = bool(pitches) and sum(pitches) / len(pitches) < BASS_BELOW
    part = stream.PartStaff()
    for number, (where, voices) in enumerate(zip(bars, grid, strict=True), start=1):
        measure = stream.Measure(number=number)
        if where.is_new:
            signature = meter.TimeSignature(f"{where.numerator}/{where.denominator}")
            measure.timeSignature = signature
        _fill(measure, voices, where, first_voice, key, signature)
        part.coreInsert(where.start / UNITS, measure, ignoreSort=True)  # `insert` looks at every bar before it
    part.coreElementsChanged()
    opening = part[stream.Measure].first()
    opening.clef = clef.PercussionClef() if isinstance(key, dict) else clef.BassClef() if low else clef.TrebleClef()
    opening.keySignature = keys.KeySignature(0 if isinstance(key, dict) else key)
    measure.rightBarline = bar.Barline("final")
    return part


def _fill(
    measure: Any, voices: list[list[Chord]], bar: Bar, first_voice: int, key: int | dict[int, Any], signature: Any
) -> None:
    """Enter the voices of a bar; silent ones are left out, but for the first."""
    from music21 import note, stream

    heard = [(k, notation.values(voice, bar)) for k, voice in enumerate(voices) if voice or k == 0]
    if not any(voices):
        rest = note.Rest(quarterLength=bar.length / UNITS)
        rest.fullMeasure = True
        measure.insert(0, stream.Voice([rest], id=first_voice))
        return
    lines: dict[int, list[Any]] = {k: [] for k, _ in heard}
    shown: dict[tuple[str, int], int] = {}
    for value, k in sorted((value, k) for k, line in heard for value in line):
        lines[k].append(_strokes(value, key) if isinstance(key, dict) else _notes(value, key, shown))
    for k, elements in lines.items():
        home = stream.Voice(id=first_voice + k)
        home.append(elements)
        measure.insert(0, home)
        for element, beams in zip(elements, signature.getBeams(elements), strict=True):
            if beams is not None and not element.isRest:
                element.beams = beams


def _notes(value: NoteValue, key: int, shown: dict[tuple[str, int], int]) -> Any:
    """A value as a music21 rest, note or chord. `shown` holds the accidentals met in this bar by step and octave."""
    from music21 import chord, note, pitch

    members = []
    for number in value.pitches:
        line = _line_of_fifths(number, key)
        step, alter = STEPS[(line + 1) % 7], (line + 1) // 7
        member = note.Note(pitch.Pitch(step=step, octave=(number - alter) // 12 - 1))
        usual = (key - STEPS.index(step) + 6) // 7  # what the key signature says
        is_shown = not value.from_tie and shown.get((step, member.octave), usual) != alter
        if alter or is_shown:
            member.pitch.accidental = pitch.Accidental(alter)
            member.pitch.accidental.displayStatus = is_shown
        if not value.from_tie:
            shown[step, member.octave] = alter
        members.append(member)
    element = chord.Chord(members) if len(members) > 1 else members[0] if members else _rest()
    return _timed(element, value)


def _rest() -> Any:
    """A rest within a bar; music21 would look back through the score whether it fills one."""
    from music21 import note

    return note.Rest(fullMeasure=False)


def _line_of_fifths(number: int, key: int) -> int:
    """The place of a pitch on the line of fifths, C is 0, that is at home in a key: of a minor key's seventh raised."""
    return (number * 7 - key + 3) % 12 + key - 3


def _strokes(value: NoteValue, instruments: dict[int, Any]) -> Any:
    """A value as a music21 rest, or as strokes of percussion, each at its place of the staff; they have no ties."""
    from music21 import note, percussion

    places = {percussion_key: place for place, percussion_key in STAFF_KEYS.items()}
    members = []
    for percussion_key in () if value.from_tie else value.pitches:
        step, octave = places.get(percussion_key, ("C", 5))
        members.append(note.Unpitched(displayName=f"{step}{octave}"))
        members[-1].storedInstrument = instruments[percussion_key]
    element = percussion.PercussionChord(members) if len(members) > 1 else members[0] if members else _rest()
    if len(members) > 1:  # music21's writer asks the chord for the instrument of each of its members in turn
        one_by_one = cycle([member.storedInstrument for member in members])
        element.getInstrument = lambda **_: next(one_by_one)
    return _timed(element, value._replace(to_tie=False, from_tie=False))


def _timed(element: Any, value: NoteValue) -> Any:
    """A music21 element with the length, bracket and ties of a value."""
    from music21 import duration, tie

    length = duration.Duration(type=value.type, dots=value.dots)
    if value.bracket:
        length.appendTuplet(duration.Tuplet(3, 2, value.bracket))
        length.tuplets[0].type = value.edge or None
    element.duration = length
    if value.pitches and (value.from_tie or value.to_tie):
        kind = "continue" if value.from_tie and value.to_tie else "stop" if value.from_tie else "start"
        element.tie = tie.Tie(kind)
    return element


def _mark_tempos(part: Any, song: Song, bars: list[Bar]) -> None:
    """Enter a song's tempos into the bars of a part."""
    from music21 import tempo

    measures, starts = list(part.getElementsByClass("Measure")), [bar.start for bar in bars]
    for k, (tick, qpm) in enumerate(song.tempos):
        place = notation.to_units(tick) if k else 0
        number = bisect_right(starts, place) - 1
        if place < bars[-1].start + bars[-1].length:
            measures[number].insert((place - starts[number]) / UNITS, tempo.MetronomeMark(number=round(qpm, 2)))

"""Build a music21 score of a song that is ready to be written: staves, voices, spelling, tuplets and beams."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from statistics import mean
from typing import TYPE_CHECKING

from continuo.score.instruments import STAFF_KEYS
from continuo.symbolic import notation
from continuo.symbolic.notation import UNITS, Bar, Chord, NoteValue
from continuo.symbolic.song import QUARTER, Song, SongNote, program_name

if TYPE_CHECKING:
    from music21.instrument import Instrument
    from music21.meter import TimeSignature
    from music21.note import GeneralNote
    from music21.stream import PartStaff, Score, Voice

MAX_VOICES = 4  # of a staff in notation programs
MAX_BARS = 5_000  # of all staves together; music21 takes a millisecond or two for each
KEYBOARDS = frozenset({*range(9), *range(16, 24), 46})  # programs on two staves: pianos, organs, accordions, harp, ...
OTHER_PIANOS = range(1, 6)  # programs
MIDDLE_C = 60  # the lowest pitch of the upper staff of a keyboard
BASS_BELOW = 57  # a staff with a lower mean pitch has a bass clef
PERCUSSION_CHANNEL = 9
STEPS = "FCGDAEB"  # naturals on the line of fifths, where C is 0
Voices = list[list[Chord]]  # of one bar, each with its chords
Grid = list[Voices]  # by bar


class TooLong(ValueError):
    """A song is too long to be written as a score in reasonable time."""


def to_score(song: Song, title: str) -> Score:
    """Return a song as a music21 score with one part per staff, to be written without further makeNotation.

    `continuo.symbolic.writing.write_musicxml` says what it holds. Raise TooLong above `MAX_BARS` bars of all staves.
    """
    from music21 import layout, metadata, stream

    bars = notation.bars(song)
    sharps = [song.sharps_at(bar.start * QUARTER // UNITS) for bar in bars]
    programs = Counter((is_drum, program) for _, is_drum, program in song.by_part())
    score = stream.Score([metadata.Metadata(title=title, composer="Continuo")])
    max_staves = MAX_BARS // max(len(bars), 1)
    for number, ((part, is_drum, program), notes) in enumerate(song.by_part().items()):
        name = program_name(is_drum, program)
        is_alone = programs[is_drum, program] == 1  # other parts may be the other hand
        instruments = _percussion(number, program, notes) if is_drum else {0: _instrument(name, program, number)}
        staves: list[PartStaff] = []
        for written, grid in enumerate(_grids(notes, bars, program, is_drum, is_alone), start=len(score.parts)):
            if written >= max_staves:
                raise TooLong(f"{len(bars):,} bars on {max_staves + 1} staves or more are above {MAX_BARS:,} in all")
            first_voice = len(staves) * MAX_VOICES + 1
            keys, percussion = ([0] * len(bars), instruments) if is_drum else (sharps, {})
            staves.append(_staff(grid, bars, first_voice, keys, percussion))
            staves[-1].partName = song.part_name(part, is_drum, program)
            score.insert(0, staves[-1])
        for instrument in instruments.values():
            staves[0].insert(0, instrument)
        if len(staves) > 1:
            score.insert(0, layout.StaffGroup(staves, name=staves[0].partName, symbol="brace", barTogether=True))
    _mark_tempos(score.parts[0], song, bars)
    return score


def _grids(notes: list[SongNote], bars: list[Bar], program: int, is_drum: bool, is_alone: bool) -> Iterator[Grid]:
    """Yield the staves of a program: for each bar the chords of at most `MAX_VOICES` voices, the highest first."""
    if is_drum:
        yield notation.percussion_voices(notes, bars)
        return
    hands = [[n for n in notes if n.pitch >= MIDDLE_C], [n for n in notes if n.pitch < MIDDLE_C]]
    for hand in hands if is_alone and program in KEYBOARDS and all(hands) else [notes]:
        grid = notation.voices(hand, bars)
        for first in range(0, max(map(len, grid)) or 1, MAX_VOICES):
            yield [voices[first : first + MAX_VOICES] for voices in grid]


def _percussion(number: int, program: int, notes: list[SongNote]) -> dict[int, Instrument]:
    """Return an instrument for each percussion key of part `number`; two at least, or notes would not name theirs."""
    from pretty_midi import note_number_to_drum_name

    keys = sorted({36, 38, *(note.pitch for note in notes)})
    return {key: _instrument(note_number_to_drum_name(key) or "Percussion", program, number, key) for key in keys}


def _instrument(name: str, program: int, number: int, percussion_key: int | None = None) -> Instrument:
    """Return the instrument of part `number` (from 0), or of one percussion key in it.

    music21 distinguishes the instruments of a part by class, so each key has its own class.
    """
    from music21 import instrument

    is_drum, key = percussion_key is not None, percussion_key or 0
    made = type(f"Key{key}", (instrument.UnpitchedPercussion if is_drum else instrument.Instrument,), {})()
    # The reader of music21 would take another piano for the program that its name suggests.
    made.instrumentName = "" if program in OTHER_PIANOS and not is_drum else name
    made.percMapPitch = key
    made.partId = f"P{number + 1}"
    made.instrumentId = f"P{number + 1}-I{key}"
    made.midiProgram = program
    made.midiChannel = channel = PERCUSSION_CHANNEL if is_drum else number % 15 + (number % 15 >= PERCUSSION_CHANNEL)
    made.autoAssignMidiChannel = lambda **_: channel  # more than 15 programs share the 15 channels
    return made


def _staff(
    grid: Grid, bars: list[Bar], first_voice: int, sharps: list[int], percussion: dict[int, Instrument]
) -> PartStaff:
    """Return a music21 part whose bars have keys of some sharps, or for percussion instruments if there are any."""
    from music21 import bar, clef, key, meter, stream

    part = stream.PartStaff()
    for number, (where, voices, fifths) in enumerate(zip(bars, grid, sharps, strict=True), start=1):
        measure = stream.Measure(number=number)
        if where.is_new_meter:
            signature = meter.TimeSignature(f"{where.numerator}/{where.denominator}")
            measure.timeSignature = signature
        if number == 1 or fifths != sharps[number - 2]:
            measure.keySignature = key.KeySignature(fifths)
        for voice in _voices(voices, where, first_voice, fifths, percussion, signature):
            measure.insert(0, voice)
        part.coreInsert(where.start / UNITS, measure, ignoreSort=True)  # `insert` looks at every bar before it
    part.coreElementsChanged()
    pitches = [pitch for voices in grid for voice in voices for chord in voice for pitch in chord.pitches]
    pitched_clef = clef.BassClef() if pitches and mean(pitches) < BASS_BELOW else clef.TrebleClef()
    first = part[stream.Measure].first()
    first.clef = clef.PercussionClef() if percussion else pitched_clef
    measure.rightBarline = bar.Barline("final")
    return part


def _voices(
    voices: Voices, bar: Bar, first_voice: int, sharps: int, percussion: dict[int, Instrument], signature: TimeSignature
) -> Iterator[Voice]:
    """Yield the voices of a bar as music21 voices, without silent voices except the first."""
    from music21 import note, stream

    if not any(voices):
        rest = note.Rest(quarterLength=bar.length / UNITS)
        rest.fullMeasure = True
        yield stream.Voice([rest], id=first_voice)
        return
    lines = {k: notation.values(voice, bar) for k, voice in enumerate(voices) if voice or k == 0}
    elements: dict[int, list[GeneralNote]] = {k: [] for k in lines}
    shown: dict[tuple[str, int], int] = {}
    for value, k in sorted((value, k) for k, line in lines.items() for value in line):
        elements[k].append(_percussion_notes(value, percussion) if percussion else _notes(value, sharps, shown))
    for k, line in elements.items():
        voice = stream.Voice(id=first_voice + k)
        voice.append(line)
        for element, beams in zip(line, signature.getBeams(line), strict=True):
            if beams is not None and not element.isRest:
                element.beams = beams
        yield voice


def _notes(value: NoteValue, sharps: int, shown: dict[tuple[str, int], int]) -> GeneralNote:
    """Return a value as a music21 rest, note or chord; `shown` holds the alterations in this bar by step and octave."""
    from music21 import chord, note, pitch

    members = []
    for number in value.pitches:
        line = (number * 7 - sharps + 3) % 12 + sharps - 3  # fifths above C as the key spells it; minor raises its 7th
        step, alter = STEPS[(line + 1) % 7], (line + 1) // 7
        member = note.Note(pitch.Pitch(step=step, octave=(number - alter) // 12 - 1))
        in_key = (sharps - STEPS.index(step) + 6) // 7  # the alteration of the key signature
        is_shown = not value.from_tie and shown.get((step, member.octave), in_key) != alter
        if alter or is_shown:
            member.pitch.accidental = pitch.Accidental(alter)
            member.pitch.accidental.displayStatus = is_shown
        if not value.from_tie:
            shown[step, member.octave] = alter
        members.append(member)
    rest = note.Rest(fullMeasure=False)  # saves music21 a search through the score
    return _timed(chord.Chord(members) if len(members) > 1 else [*members, rest][0], value)


def _percussion_notes(value: NoteValue, instruments: dict[int, Instrument]) -> GeneralNote:
    """Return a value as a music21 rest or percussion, each key at its place of the staff; percussion has no ties."""
    from music21 import note, percussion

    places = {percussion_key: place for place, percussion_key in STAFF_KEYS.items()}
    members = []
    for percussion_key in () if value.from_tie else value.pitches:
        step, octave = places.get(percussion_key, ("C", 5))
        members.append(note.Unpitched(displayName=f"{step}{octave}"))
        members[-1].storedInstrument = instruments[percussion_key]
    element = members[0] if members else note.Rest(fullMeasure=False)
    if len(members) > 1:  # the writer of music21 asks the chord for the instrument of each member in turn
        element = percussion.PercussionChord(members)
        one_by_one = cycle([member.storedInstrument for member in members])
        element.getInstrument = lambda **_: next(one_by_one)
    return _timed(element, value._replace(to_tie=False, from_tie=False))


def _timed(element: GeneralNote, value: NoteValue) -> GeneralNote:
    """Give a music21 element the length, tuplet and ties of a value, and return it."""
    from music21 import duration, tie

    element.duration = length = duration.Duration(type=value.type, dots=value.dots)
    if value.tuplet:
        length.appendTuplet(duration.Tuplet(3, 2, value.tuplet))
        length.tuplets[0].type = value.edge or None
    if value.pitches and (value.from_tie or value.to_tie):
        element.tie = tie.Tie("start" if not value.from_tie else "continue" if value.to_tie else "stop")
    return element


def _mark_tempos(part: PartStaff, song: Song, bars: list[Bar]) -> None:
    from music21 import tempo

    measures = list(part.getElementsByClass("Measure"))
    for k, (tick, qpm) in enumerate(song.tempos):
        place = notation.to_units(tick) if k else 0
        number = bisect_right(bars, place, key=lambda bar: bar.start) - 1
        if place < bars[-1].end:
            measures[number].insert((place - bars[number].start) / UNITS, tempo.MetronomeMark(number=round(qpm, 2)))

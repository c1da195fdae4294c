"""Interpret the events of a MIDI file as notes: in seconds as they sound, or in musical time as keys are pressed.

A channel is one stream, whatever the track: its program, drum kit, bends, tuning, volume and pedals hold for all its
notes. Sources: MIDI 1.0 detailed specification; General MIDI 2 (RP-024); MIDI Polyphonic Expression (RP-053), all at
https://midi.org/specifications; the MIDI data lists of Roland GS (SC-88) and Yamaha XG (MU80) for their drum parts.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable

from continuo.midi.events import KEY, META, METER, NAME, RESET, SYSEX, TEMPO, Event, MidiFile, parse_midi
from continuo.score.notes import DraftNote, Transcript, check_count, hold_pedal, pedal_spans
from continuo.score.tempo import TempoMap

DRUM_CHANNEL = 9  # of each port
DRUM_BANKS = frozenset({120, 126, 127})  # of General MIDI 2 and XG
MELODIC_BANK = 121  # of General MIDI 2
MPE_RANGE = 48  # semitones of a full pitch bend of the members of a zone
VOLUME = 100  # of a channel unless a file sets another
SUSTAIN, SOSTENUTO, HOLD_2 = 64, 66, 69  # pedals; values from 64 on are down
MAX_CHANGES = 100  # bends within a note that are looked at
SHORTEST_Q = 1 / 8  # quarter notes for which a note of no length sounds
UNPERFORMED = {1: "modulation", 2: "breath", 5: "portamento", 8: "balance", 10: "pan", 65: "portamento switch",
               67: "soft pedal", 68: "legato pedal", 71: "resonance", 72: "release time", 73: "attack time",
               74: "brightness", 84: "portamento note", 91: "reverb", 92: "tremolo", 93: "chorus", 94: "celeste",
               95: "phaser", 126: "mono mode"}  # fmt: skip
"""Controls that change the sound and are only named in the warnings."""
NEUTRAL = {8: 64, 10: 64, 71: 64, 72: 64, 73: 64, 74: 64}  # values that change nothing; of the other controls 0
SET_UP = {"gm": RESET, "gm2": bytes.fromhex("7e7f0903"), "gm off": bytes.fromhex("7e7f0902"),
          "gs": bytes.fromhex("4110421240007f00"), "xg": bytes.fromhex("43104c00007e00")}  # fmt: skip
"""System exclusive messages that reset all channels, with the system of sounds that they choose."""
BEND_RANGE, FINE_TUNING, COARSE_TUNING, ZONE, NO_PARAMETER = (0, 0), (0, 1), (0, 2), (0, 6), (127, 127)
"""Numbers of registered parameters."""
PARAMETERS = {BEND_RANGE: (2, 0), FINE_TUNING: (64, 0), COARSE_TUNING: (64, 0)}  # with their default values
ZONE_CONTROLS = frozenset({0, 7, 11, SUSTAIN, SOSTENUTO, HOLD_2, *range(120, 128)})  # hold for all members of a zone
UNIVERSAL, ROLAND, YAMAHA = b"\x7f", b"\x41", b"\x43"  # first bytes of system exclusive messages
MASTERS = (b"\4\1", b"\4\3", b"\4\4")  # master volume, fine and coarse tuning
ALL_OFF = "all off"  # the end of all notes of a channel
BENDS = "bends within a note are not followed: it has the pitch that lasts longest"
LOUDNESS_CHANGES = (
    "changes of volume or expression (controls 7 and 11) within a note are not followed: it has their mean"
)
Presses = list[tuple[float, "DraftNote | str | None"]]  # tick, and a note that begins, None for an end, ALL_OFF


def read_midi(data: bytes) -> tuple[list[DraftNote], float, list[str]]:
    """Return a MIDI file's notes, length in seconds, and what is not performed; ValueError if it is none or damaged."""
    file = parse_midi(data)
    player = _Player(file)
    notes = player.notes(pedals=True)
    tempo = TempoMap(_tempos(file, player.warnings))
    for note in notes:
        note.onset_s, note.end_s = tempo.seconds(note.onset_s / file.quarter), tempo.seconds(note.end_s / file.quarter)
    return notes, max((n.end_s for n in notes), default=0.0), list(player.warnings)


def transcribe_midi(data: bytes) -> Transcript:
    """Return a MIDI file's keys as pressed, in musical time, without pedals; ValueError as in `read_midi`."""
    file = parse_midi(data)
    player = _Player(file)
    notes = player.notes(pedals=False)
    for note in notes:
        note.onset_s, note.end_s = note.onset_s / file.quarter, note.end_s / file.quarter
    metas = [(e.tick / file.quarter, e.number, e.content) for e in file.events if e.status == META]
    meters = [(at, content[0], 2 ** content[1]) for at, kind, content in metas if kind == METER]
    keys = [(at, (content[0] + 128) % 256 - 128, content[1] == 1) for at, kind, content in metas if kind == KEY]
    keys = [key for key in keys if -7 <= key[1] <= 7]
    length_q = max((n.end_s for n in notes), default=0.0)
    return Transcript(notes, length_q, _tempos(file, {}), meters, keys, player.part_names())


def _tempos(file: MidiFile, warnings: dict[str, None]) -> list[tuple[float, float]]:
    """Return the position in quarter notes and the quarter notes per minute of the tempos; those of 0 are left out."""
    found = [(0.0, 120.0)]
    for event in file.events if file.has_tempo else ():
        if event.channel < 0 and event.number == TEMPO:
            if microseconds := int.from_bytes(event.content[:3]):
                found.append((event.tick / file.quarter, 60e6 / microseconds))
            else:
                warnings["a tempo of 0 microseconds for a quarter note is ignored"] = None
    return list(dict(found).items())


def _decoded(content: bytes) -> str:
    """Return text, for which MIDI files have no stated encoding: UTF-8 if it can be that, or else Latin-1."""
    try:
        return content.decode().replace("\0", "")
    except UnicodeDecodeError:
        return content.decode("latin-1").replace("\0", "")


class _Steps:
    """A value that changes at ticks."""

    def __init__(self, value: float) -> None:
        self.ticks, self.values, self.sums = [0], [value], [0.0]

    def set(self, tick: int, value: float) -> None:
        """Let the value change at a tick, the latest so far."""
        if tick == self.ticks[-1]:
            self.values[-1] = value
        elif value != self.values[-1]:
            self.sums.append(self._sum(tick))
            self.ticks.append(tick)
            self.values.append(value)

    def at(self, tick: float) -> float:
        return self.values[bisect_right(self.ticks, tick) - 1]

    def changes_within(self, start: float, stop: float) -> bool:
        """Return True if the value changes after `start` and before `stop`."""
        following = bisect_right(self.ticks, start)
        return following < len(self.ticks) and self.ticks[following] < stop

    def mean(self, start: float, stop: float) -> float:
        if not self.changes_within(start, stop):
            return self.at(start)
        return (self._sum(stop) - self._sum(start)) / (stop - start)

    def longest(self, start: float, stop: float) -> float:
        """Return the value that lasts longest from `start` to `stop`, of several the first one, after few changes."""
        if not self.changes_within(start, stop):
            return self.at(start)
        first = bisect_right(self.ticks, start)
        last = min(bisect_left(self.ticks, stop), first + MAX_CHANGES)
        lasting: dict[float, float] = defaultdict(float)
        edges = [start, *self.ticks[first:last], stop]
        for value, (begin, end) in zip(self.values[first - 1 : last], itertools.pairwise(edges), strict=True):
            lasting[value] += end - begin
        return max(lasting, key=lambda value: lasting[value])

    def _sum(self, tick: float) -> float:
        k = bisect_right(self.ticks, tick) - 1
        return self.sums[k] + (tick - self.ticks[k]) * self.values[k]


class _Channel:
    """The state of a channel, and what it has been."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.part_is_drum: bool | None = None  # as a system exclusive message says
        self.tuning = _Steps(0.0)  # semitones above the keys
        self.loudness = _Steps(1.0)  # 1 is the default volume and full expression
        self.pedals: dict[int, list[tuple[float, bool]]] = {SUSTAIN: [], HOLD_2: [], SOSTENUTO: []}
        self.silences: list[int] = []  # ticks at which all sound ends
        self.notes: list[DraftNote] = []
        self.presses: dict[tuple[int, int], Presses] = defaultdict(list)  # by key and track
        self.held: dict[int, Counter[int]] = defaultdict(Counter)  # by key and track: notes without an end so far
        self.reset(0)

    def reset(self, tick: int) -> None:
        """Set everything to its default, and release all keys."""
        self.end_notes(tick)
        self.program, self.volume, self.part_is_drum = 0, VOLUME, None
        self.bank: int | None = None
        self.fine_bank = 0
        self.is_drum = self.number % 16 == DRUM_CHANNEL
        self.parameters = dict(PARAMETERS)
        self.reset_controls(tick)

    def reset_controls(self, tick: int) -> None:
        """Set to its default what the message "reset all controllers" sets (RP-015)."""
        self.expression, self.bend, self.zone_bend = 127, 0.0, 0.0
        self.parameter: tuple[int, int] | None = NO_PARAMETER  # None after the number of a non-registered one
        for changes in self.pedals.values():
            changes.append((tick, False))

    def press(self, event: Event) -> None:
        """Begin a note; for now its part is its track."""
        tick, track, _, _, key, velocity, _ = event
        note = DraftNote(tick, tick, float(key), velocity, self.program, self.is_drum, track)
        self.notes.append(note)
        self.presses[key, track].append((tick, note))
        self.held[key][track] += 1

    def release(self, event: Event) -> None:
        """End a note that its own track began, or else another track; without any do nothing."""
        held = self.held[event.number]
        track = event.track if event.track in held else next(iter(held), None)
        if track is not None:
            self.presses[event.number, track].append((event.tick, None))
            held[track] -= 1
            if not held[track]:
                del held[track]

    def end_notes(self, tick: int) -> None:
        """Release all keys."""
        for key, held in self.held.items():
            for track in held:
                self.presses[key, track].append((tick, ALL_OFF))
        self.held.clear()

    @property
    def bend_range(self) -> float:
        """Semitones of a full pitch bend."""
        semitones, cents = self.parameters[BEND_RANGE]
        return semitones + cents / 100

    def own_tuning(self) -> float:
        """Return how many semitones the channel sounds above its keys, by bend, its zone's bend and its tuning."""
        (high, low), (coarse, _) = self.parameters[FINE_TUNING], self.parameters[COARSE_TUNING]
        fine = (high * 128 + low - 8192) / 8192
        return self.bend * self.bend_range + self.zone_bend + coarse - 64 + fine


class _Player:
    """All channels of a MIDI file, after its last event."""

    def __init__(self, file: MidiFile) -> None:
        self.file, self.warnings = file, dict.fromkeys(file.warnings)
        self._warn = self.warnings.setdefault
        self.channels: dict[int, _Channel] = {}
        self.zones: dict[int, range] = {}  # member channels of the zones of MIDI Polyphonic Expression, by main channel
        self.system = ""  # one of `SET_UP`
        self.gain, self.fine, self.coarse = 1.0, 0.0, 0.0  # of all channels: volume, and tuning in semitones
        check_count(sum(event.status == 0x90 and event.value > 0 for event in file.events))
        for event in file.events:
            if event.channel >= 0:
                self._channel_message(event)
            elif event.status == SYSEX:
                self._system_message(event)

    def _channel(self, number: int) -> _Channel:
        if number not in self.channels:
            self.channels[number] = _Channel(number)
            self._record((number,), 0)
        return self.channels[number]

    def _channel_message(self, event: Event) -> None:
        channel, members = self._channel(event.channel), self.zones.get(event.channel, range(0))
        if event.status == 0x90 and event.value:
            channel.press(event)
        elif event.status in (0x80, 0x90):
            channel.release(event)
        elif event.status == 0xB0:
            for number in (event.channel, *(members if event.number in ZONE_CONTROLS else ())):
                self._control(self._channel(number), event)
        elif event.status == 0xC0:
            for number in (event.channel, *members):
                self._program(self._channel(number), event.number)
        elif event.status == 0xE0:
            channel.bend = (event.number + event.value * 128 - 8192) / 8192
            for number in members:
                self._channel(number).zone_bend = channel.bend * channel.bend_range
            self._record((event.channel, *members), event.tick)
        elif event.number or event.value:
            self._warn("aftertouch is not performed")

    def _record(self, numbers: Iterable[int], tick: int) -> None:
        """Note tuning and loudness of channels as they are from a tick on."""
        for channel in map(self._channel, numbers):
            channel.tuning.set(tick, channel.own_tuning() + self.fine + self.coarse)
            channel.loudness.set(tick, channel.volume / VOLUME * channel.expression / 127 * self.gain)

    def _control(self, channel: _Channel, event: Event) -> None:
        """Perform a control change."""
        number, value, tick = event.number, event.value, event.tick
        if number in UNPERFORMED and value != NEUTRAL.get(number, 0):
            self._warn(f"the {UNPERFORMED[number]} (control {number}) is not performed")
        if number == 0:
            channel.bank = value
            channel.is_drum = channel.is_drum or self._is_drum(channel)
        elif number == 32:
            channel.fine_bank = value
        elif number == 7:
            channel.volume = value
        elif number == 11:
            channel.expression = value
        elif number in channel.pedals:
            channel.pedals[number].append((tick, value >= 64))
        elif number in (6, 38, 96, 97, 98, 99, 100, 101):
            self._parameter(channel, number, value)
        elif number == 121:
            channel.reset_controls(tick)
        elif number == 120 or number >= 123:
            channel.end_notes(tick)
            if number == 120:
                channel.silences.append(tick)
        members = self._zone_of(channel) if number in (6, 38) else ()
        self._record((channel.number, *members), tick)

    def _parameter(self, channel: _Channel, number: int, value: int) -> None:
        """Choose a registered parameter, or change the chosen one."""
        if number in (98, 99):
            channel.parameter = None
        elif number in (100, 101):
            high, low = channel.parameter or NO_PARAMETER
            channel.parameter = (high, value) if number == 100 else (value, low)
        elif channel.parameter is None:
            self._warn("parameters that are not registered (controls 98 and 99) are not performed")
        elif channel.parameter == ZONE and channel.number % 16 in (0, 15):
            if number == 6:
                self._set_zone(channel.number, value)
        elif channel.parameter in PARAMETERS and number in (6, 38):
            members = self._zone_of(channel) if channel.parameter == BEND_RANGE else ()
            for one in map(self._channel, members or (channel.number,)):
                high, _ = one.parameters[channel.parameter]
                one.parameters[channel.parameter] = (value, 0) if number == 6 else (high, value)
        elif channel.parameter != NO_PARAMETER:
            self._warn(f"the registered parameter {channel.parameter[0] * 128 + channel.parameter[1]} is not performed")

    def _set_zone(self, main: int, count: int) -> None:
        """Make the channels next to a main channel (the first or last of a port) the members of its zone."""
        count = min(count, 15)
        self.zones[main] = range(main + 1, main + 1 + count) if main % 16 == 0 else range(main - count, main)
        for number in self.zones[main]:
            self._channel(number).parameters[BEND_RANGE] = (MPE_RANGE, 0)

    def _zone_of(self, channel: _Channel) -> range:
        """Return the members of the zone that a channel is a member of."""
        return next((members for members in self.zones.values() if channel.number in members), range(0))

    def _program(self, channel: _Channel, program: int) -> None:
        """Perform a program change, at which the chosen bank becomes effective."""
        channel.program, channel.is_drum = program, self._is_drum(channel)
        bank = 0 if channel.bank in (None, MELODIC_BANK) else channel.bank
        if (bank or channel.fine_bank) and not channel.is_drum:
            name = bank if not channel.fine_bank else f"{channel.bank or 0}.{channel.fine_bank}"
            self._warn(f"sounds of bank {name} are not played: those of General MIDI stand in")

    def _is_drum(self, channel: _Channel) -> bool:
        """Return True if the bank and the system of sounds make a channel a drum kit."""
        if channel.bank in DRUM_BANKS and self.system != "gs":  # whose bank 127 has the sounds of the MT-32
            return True
        if channel.part_is_drum is not None:
            return channel.part_is_drum
        is_melodic = channel.bank == MELODIC_BANK or (self.system == "xg" and channel.bank is not None)
        return channel.number % 16 == DRUM_CHANNEL and not is_melodic

    def _system_message(self, event: Event) -> None:
        """Perform a system exclusive message; its second byte is the number of a device, and matters not."""
        maker, message = event.content[:1], event.content[2:]
        system = next((n for n, c in SET_UP.items() if c[:1] == maker and message.startswith(c[2:])), None)
        if system is not None:
            self.system, self.gain, self.fine, self.coarse = system, 1.0, 0.0, 0.0
            for channel in self.channels.values():
                channel.reset(event.tick)
        elif maker == UNIVERSAL and message[:2] in MASTERS and len(message) >= 4:
            self._master(message[1], message[2], message[3])
        elif maker == ROLAND and message[:3] == b"\x42\x12\x40" and message[3:4] >= b"\x10" and message[4:5] == b"\x15":
            part = message[3] % 16  # the first is the one for drums
            number = DRUM_CHANNEL if part == 0 else part - (part <= DRUM_CHANNEL)
            self._set_part(event.value * 16 + number, is_drum=any(message[5:6]))
        elif maker == YAMAHA and message[:2] == b"\x4c\x08" and message[3:4] == b"\7":
            self._set_part(event.value * 16 + message[2] % 16, is_drum=any(message[4:5]))
        else:
            self._warn("system exclusive messages but resets, master volume, tuning and drum parts are not performed")
        self._record(self.channels, event.tick)

    def _set_part(self, number: int, *, is_drum: bool) -> None:
        """Make a channel a drum kit, or an instrument with pitches."""
        channel = self._channel(number)
        channel.part_is_drum = channel.is_drum = is_drum

    def _master(self, kind: int, low: int, high: int) -> None:
        """Set the volume or the tuning of all channels."""
        if kind == 1:
            self.gain = (high * 128 + low) / 16383
        elif kind == 3:
            self.fine = (high * 128 + low - 8192) / 8192
        else:
            self.coarse = high - 64.0

    def notes(self, *, pedals: bool) -> list[DraftNote]:
        """Return the notes of all channels with times in ticks; without `pedals` they end where their keys do."""
        loud: list[tuple[DraftNote, float]] = []
        last_tick = max(self.file.ends)
        for _, channel in sorted(self.channels.items()):
            if any(channel.held.values()):
                self._warn("notes without an end last to the next of their key, or to the end of their track")
            for (_, track), presses in channel.presses.items():
                _end_presses(presses, self.file.ends[track], last_tick, self.file.quarter)
            loud += [(note, channel.loudness.mean(note.onset_s, note.end_s)) for note in channel.notes]
            self._warn_of_changes(channel.loudness, channel.notes, LOUDNESS_CHANGES)
            if pedals:
                _hold(channel)
            pitched = [note for note in channel.notes if not note.is_drum]
            for note in pitched:  # many begin with a bend up to their pitch
                note.pitch += channel.tuning.longest(note.onset_s, note.end_s)
            self._warn_of_changes(channel.tuning, pitched, BENDS)
        reference = max([1.0, *(loudness for _, loudness in loud)])
        for note, loudness in loud:
            note.velocity *= loudness / reference
        if loud and not any(loudness for _, loudness in loud):
            raise ValueError("all its notes are at volume or expression 0 (controls 7 and 11)")
        if not all(loudness for _, loudness in loud):
            self._warn("notes at volume or expression 0 (controls 7 and 11) are silent")
        return [note for note, loudness in loud if loudness]

    def part_names(self) -> list[str]:
        """Return the names of the parts, and write the number of its part into each note.

        A part is the notes of one channel in one track. Its name is that of the track; it is empty where a track has
        several channels or is the only one.
        """
        played = [(note, (note.part, channel.number)) for channel in self.channels.values() for note in channel.notes]
        places = sorted({place for _, place in played})
        numbers = {place: number for number, place in enumerate(places)}
        for note, place in played:
            note.part = numbers[place]
        names: dict[int, str] = {}
        for event in self.file.events:
            if event.status == META and event.number == NAME:
                names.setdefault(event.track, " ".join(_decoded(event.content).split()))
        tracks = Counter(track for track, _ in places)
        return [names.get(track, "") if tracks[track] == 1 < len(self.file.ends) else "" for track, _ in places]

    def _warn_of_changes(self, steps: _Steps, notes: Iterable[DraftNote], text: str) -> None:
        """Warn of a value that changes within a note."""
        if len(steps.ticks) > 1 and any(steps.changes_within(note.onset_s, note.end_s) for note in notes):
            self._warn(text)


def _end_presses(presses: Presses, end: float, last: float, quarter: float) -> None:
    """Set the ends of the notes of one key and track.

    Where notes overlap, the first end belongs to the first note. Where an end is missing, each note lasts to the next
    event of its key, or else to the end of its track at `end`.
    """
    onset = presses[-1][0]
    end = next((tick for tick in (end, last) if tick > onset), onset + quarter)
    run: Presses = []
    count = 0
    for press in [*presses, (end, ALL_OFF)]:
        run.append(press)
        count += 1 if isinstance(press[1], DraftNote) else -1
        if count == 0 or press[1] is ALL_OFF:
            _end_run(run, quarter)
            run, count = [], 0


def _end_run(run: Presses, quarter: float) -> None:
    """Set the ends of notes of one key from where none of them is held to where none is again."""
    notes = [note for _, note in run if isinstance(note, DraftNote)]
    ends: list[float] = [tick for tick, note in run if note is None]
    if len(ends) < len(notes):
        ticks = [tick for tick, _ in run]
        ends = [ticks[min(bisect_right(ticks, note.onset_s), len(ticks) - 1)] for note in notes]
    for note, end in zip(notes, ends, strict=True):
        note.end_s = end if end > note.onset_s else note.onset_s + SHORTEST_Q * quarter


def _hold(channel: _Channel) -> None:
    """Lengthen the notes of a channel by its pedals, and end them where all sound is off."""
    notes = [note for note in channel.notes if not note.is_drum]
    for pedal in (SUSTAIN, HOLD_2):
        hold_pedal(notes, pedal_spans(channel.pedals[pedal]))
    if spans := pedal_spans(channel.pedals[SOSTENUTO]):
        _hold_sostenuto(notes, spans)
    for note in channel.notes:
        k = bisect_right(channel.silences, note.onset_s)
        if k < len(channel.silences):
            note.end_s = min(note.end_s, channel.silences[k])


def _hold_sostenuto(notes: list[DraftNote], spans: list[tuple[float, float]]) -> None:
    """Hold those notes that sound when the sostenuto pedal is pressed, until its release or their next onset."""
    downs = [down for down, _ in spans]
    following: dict[float, float] = {}  # next onset by pitch
    last = max((note.end_s for note in notes), default=0.0)
    for note in sorted(notes, key=lambda n: -n.onset_s):
        k = bisect_left(downs, note.end_s) - 1
        if k >= 0 and downs[k] >= note.onset_s:
            up = min(spans[k][1], following.get(note.pitch, math.inf))
            note.end_s = max(note.end_s, up if up < math.inf else last)
        following[note.pitch] = note.onset_s

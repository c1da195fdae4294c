"""Read the bytes of a MIDI file as events in playing order, also where its header or its chunks state wrong lengths.

Source: Standard MIDI Files 1.0 and MIDI 1.0 detailed specification, https://midi.org/standard-midi-files-specification;
RMID files, https://midi.org/rp-029-bundling-smf-and-dls-data-in-an-rmid-file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_EVENTS = 3_000_000  # events of a file; "black MIDI" may have more
MAX_TICKS = 2**31 - 1  # latest time of an event
META, SYSEX, ESCAPE = 0xFF, 0xF0, 0xF7  # status bytes
NAME, PORT, END, TEMPO, METER, KEY = 0x03, 0x21, 0x2F, 0x51, 0x58, 0x59  # kinds of meta events
META_LENGTHS = {PORT: 1, TEMPO: 3, METER: 4, KEY: 2}  # bytes
SYSTEM_LENGTHS = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # data bytes of system messages, which no file should hold; others have 0
FRAMES_PER_S = {24: 24.0, 25: 25.0, 29: 30 / 1.001, 30: 30.0}  # by the number in the header
RESET = bytes.fromhex("7e7f0901")  # the system exclusive message that turns General MIDI on, without its F0 and F7


class Event(NamedTuple):
    """One event of a track."""

    tick: int
    track: int  # number of its track chunk
    channel: int  # 0 to 15, and 16 more for each port; -1 for the events of no channel
    status: int  # of a channel message without its channel, such as 0x90; or META or SYSEX
    number: int  # first data byte: key, controller, program; or the kind of a meta event
    value: int  # second data byte, 0 without one; of a meta event or system exclusive message its port
    content: bytes  # of a meta event or system exclusive message


@dataclass
class MidiFile:
    """The events of a MIDI file."""

    events: list[Event]  # in playing order
    ends: list[int]  # tick at which each track ends
    quarter: float  # ticks of a quarter note
    has_tempo: bool  # False where ticks are parts of a second: a quarter note then lasts half a second
    warnings: list[str]


def parse_midi(data: bytes) -> MidiFile:
    """Return the events of a MIDI file, also of one in a RIFF file; raise ValueError if it is none or damaged.

    A track is read up to its end event, whatever length is stated, and all tracks are read, however many are stated.
    The tracks of format 2, which are pieces of their own, follow each other.
    """
    data = _unwrap(data)
    form, stated = int.from_bytes(data[8:10]), int.from_bytes(data[10:12])
    quarter, has_tempo = _division(data[12:14])
    warnings, tracks, ends, count = [], list[list[Event]](), list[int](), 0
    cut_off = f"the MIDI file is cut off after {len(data)} bytes: get it again"
    for number, (content, is_cut_off) in enumerate(_chunks(data)):
        try:
            events, end, left_out = _read_track(content, number, MAX_EVENTS - count, needs_end=is_cut_off)
        except IndexError:
            damaged = "the MIDI file is damaged: a track ends within an event; get it again"
            raise ValueError(cut_off if is_cut_off else damaged) from None
        tracks.append(events)
        ends.append(end)
        count += len(events)
        if left_out:
            warnings.append("messages with data above 127, which no MIDI message has, are left out")
    if not tracks:
        raise ValueError(cut_off)
    if len(tracks) < stated:
        warnings.append(f"the MIDI file states {stated} tracks and has {len(tracks)}: it may be cut off")
    if form == 2 and len(tracks) > 1:
        warnings.append("the tracks of a MIDI file of format 2 are played one after the other")
        _put_in_sequence(tracks, ends)
    if max(ends) > MAX_TICKS:
        raise ValueError("the MIDI file is damaged: its times go beyond what can be counted; get it again")
    return MidiFile(_merge(tracks), ends, quarter, has_tempo, warnings)


def _unwrap(data: bytes) -> bytes:
    """Return the MIDI file within a RIFF file, or after a header of some other system; ValueError if there is none."""
    start = data.find(b"MThd")
    if start < 0 or len(data) < start + 14 or (data[:4] == b"RIFF" and data[8:12] != b"RMID"):
        raise ValueError("not a MIDI file (it does not begin with MThd): is it what its name says?")
    size = int.from_bytes(data[start - 4 : start], "little") if data[:4] == b"RIFF" else 0
    return data[start : start + size] if size else data[start:]


def _division(stated: bytes) -> tuple[float, bool]:
    """Return the ticks of a quarter note, and whether tempos change how long it lasts; ValueError if there are none."""
    if stated[0] < 0x80:
        quarter, has_tempo = float(int.from_bytes(stated)), True
    else:  # ticks are parts of a video frame
        quarter, has_tempo = FRAMES_PER_S.get(256 - stated[0], 0.0) * stated[1] / 2, False
    if not quarter:
        raise ValueError("the MIDI file does not say how long a tick lasts: export it with ticks per quarter note")
    return quarter, has_tempo


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the events of each track as bytes, and whether the file ends before the stated length of the track.

    They reach to the end by that length if another track or nothing follows there, or else to the next track.
    """
    position = data.find(b"MTrk", 14)
    while 0 <= position <= len(data) - 8:
        start = position + 8
        stated = stop = start + int.from_bytes(data[position + 4 : start])
        if stop != len(data) and data[stop : stop + 4] != b"MTrk":
            following = data.find(b"MTrk", start)
            stop = following if following >= 0 else len(data)
        # A stated length may reach over whole tracks: one begins where the end event stands.
        inside = data.find(b"\xff\x2f\x00MTrk", start, stop)
        stop = inside + 3 if inside >= 0 else stop
        yield data[start:stop], stop == len(data) < stated
        position = data.find(b"MTrk", stop)


# Longer than 40 lines: one walk through the bytes, whose state all branches share.
def _read_track(data: bytes, number: int, limit: int, *, needs_end: bool) -> tuple[list[Event], int, bool]:
    """Return the events of a track, the tick of its end, and whether messages with impossible data were left out.

    It is read up to its end event. IndexError if an event is incomplete, or the end event missing though `needs_end`;
    ValueError for more than `limit` events.
    """
    events: list[Event] = []
    position = tick = port = status = count = 0
    left_out = False
    partial, partial_tick = b"", 0  # beginning of a system exclusive message that comes in several packets
    while position < len(data):
        delta, position = _number(data, position)
        tick, count = tick + delta, count + 1
        if count > limit:
            raise ValueError(f"the MIDI file has more than {MAX_EVENTS} events: split it")
        first = data[position]
        if partial and first != ESCAPE:
            events.append(Event(partial_tick, number, -1, SYSEX, 0, port, partial))
            partial = b""
        position += first >= 0x80
        if first < 0xF0:  # system and meta events leave the running status as it is, as most programs read it
            status = first if first >= 0x80 else status
            key, value, position = _channel_message(data, position, status)
            if key < 0x80 and value < 0x80:
                events.append(Event(tick, number, port * 16 + status % 16, status & 0xF0, key, value, b""))
            else:
                left_out = True
        elif first in (META, SYSEX, ESCAPE):
            kind, content, position = _long_message(data, position, first)
            if first == META:
                port = content[0] if kind == PORT else port
                events.append(Event(tick, number, -1, META, kind, port, content))
                if kind == END:
                    return events, tick, left_out
                continue
            partial_tick = tick if first == SYSEX else partial_tick
            partial += content
            if partial.endswith(b"\xf7"):
                events.append(Event(partial_tick, number, -1, SYSEX, 0, port, partial.removesuffix(b"\xf7")))
                partial = b""
        else:
            position += SYSTEM_LENGTHS.get(first, 0)
    if needs_end or position > len(data):
        raise IndexError
    return events, tick, left_out


def _channel_message(data: bytes, position: int, status: int) -> tuple[int, int, int]:
    """Return key and value of a message, 0 where it has no value, and the position after it; IndexError: no status."""
    if not status:
        raise IndexError
    if 0xC0 <= status < 0xE0:
        return data[position], 0, position + 1
    return data[position], data[position + 1], position + 2


def _long_message(data: bytes, position: int, first: int) -> tuple[int, bytes, int]:
    """Return the kind of a meta event, 0 of another message, its content and the position after it.

    IndexError: it is incomplete.
    """
    kind = data[position] if first == META else 0
    length, position = _number(data, position + (first == META))
    if position + length > len(data) or (first == META and length < META_LENGTHS.get(kind, 0)):
        raise IndexError
    return kind, data[position : position + length], position + length


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Return the number of variable length, at most four bytes, at a position, and the position after it."""
    number = 0
    for place in range(position, position + 4):
        number = number << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return number, place + 1
    raise IndexError


def _put_in_sequence(tracks: list[list[Event]], ends: list[int]) -> None:
    """Move each track behind the one before it; it begins with the default tempo, and with all channels reset."""
    begin = 0
    for number, events in enumerate(tracks):
        tempo = Event(0, number, -1, META, TEMPO, 0, (500_000).to_bytes(3))
        reset = Event(0, number, -1, SYSEX, 0, 0, RESET)
        tracks[number] = [event._replace(tick=event.tick + begin) for event in (tempo, reset, *events)]
        ends[number] += begin
        begin = ends[number]


def _merge(tracks: list[list[Event]]) -> list[Event]:
    """Return the events of all tracks in playing order.

    Of those at one tick the ones before the first note-on of their track come first, so that a program or pedal holds
    for the notes of all tracks; and resets come before anything else.
    """
    keyed: list[tuple[int, Event]] = []
    for events in tracks:
        tick, after = -1, False
        for event in events:
            after = (after and event.tick == tick) or (event.status == 0x90 and event.value > 0)
            tick = event.tick
            keyed.append((tick * 3 + (0 if event.status == SYSEX else 2 if after else 1), event))
    keyed.sort(key=lambda pair: pair[0])
    return [event for _, event in keyed]

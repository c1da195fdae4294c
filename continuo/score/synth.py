"""Timed notes to sound and to MIDI.

`render` plays a performance with a SoundFont through symusic, or with a small built-in additive synthesiser when there
is none, so that a score is always heard. `write_midi` writes it as a MIDI file.

symusic 0.5.9 stops at the last note's end, ignores velocity, bends, volume and pedal, does not limit peaks, and plays
fonts with overridden root keys out of tune. The notes contain the pedal, `soundfont` repairs the font, and
the rest is done here.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from continuo.score.notes import Note, Performance
from continuo.score.soundfont import in_tune, is_soundfont
from continuo.system import cache
from continuo.system.files import atomic_write

SOUNDFONT_VARIABLE = "CONTINUO_SOUNDFONT"
SYSTEM_FOLDERS = (
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
    "/Library/Audio/Sounds/Banks",
    "~/Library/Audio/Sounds/Banks",
    "~/.local/share/soundfonts",
)
"""Where Linux and macOS keep SoundFonts."""
VERSION = 3
"""Part of every cache key: raise it whenever the same notes would sound differently."""
RATES_HZ = range(4_000, 192_001)
RELEASE_S = 1.0
"""How long the last notes may ring after the performance's end."""
FADE_S = 0.1
SILENCE = 10 ** (-70 / 20)
"""What is quieter than -70 dB at the end is cut off."""
PEAK = 0.89
"""Highest sample of a rendering (-1 dB)."""
GAIN = 2.0
"""A single mf note of a piano then peaks at about -16 dB, a full chord of four at about -6 dB."""
MAX_LAYERS = 12
LAYER_DB = 1.5
PAUSE_S = 0.5
MAX_RUN_S = 600.0
"""How much of a piece is rendered at once, so that memory does not grow with it."""
MAX_NOTE_S = 600.0
"""How long a note sounds at most: what is longer was never let go."""
SILENT_PROGRAM = 0


def check_rate(sample_rate_hz: int) -> None:
    """Raises ValueError for a sample rate that cannot be rendered."""
    if sample_rate_hz not in RATES_HZ:
        raise ValueError(f"a sample rate must be {RATES_HZ.start} to {RATES_HZ.stop - 1} Hz, not {sample_rate_hz}")


def find_soundfont(explicit: Path | None = None) -> Path | None:
    """The SoundFont to play with: the one given, CONTINUO_SOUNDFONT, the system's, pretty_midi's, or None.

    Raises:
        ValueError: the one given (or named by the variable) is missing or no SoundFont.
    """
    named = explicit or (Path(value) if (value := os.environ.get(SOUNDFONT_VARIABLE)) else None)
    if named is not None:
        if not is_soundfont(named):
            reason = "is not a SoundFont (.sf2 or .sf3)" if named.is_file() else "does not exist"
            raise ValueError(f"the SoundFont {named} {reason}; leave it out to use the installed one")
        return named
    for folder in SYSTEM_FOLDERS:
        for path in sorted(Path(folder).expanduser().glob("*.sf[23]")):
            if is_soundfont(path):
                return path
    package = importlib.util.find_spec("pretty_midi")
    for place in (package.submodule_search_locations or []) if package else []:
        if is_soundfont(font := Path(place) / "TimGM6mb.sf2"):
            return font
    return None


def render(
    performance: Performance, sample_rate_hz: int, *, soundfont: Path | None = None, stereo: bool = False
) -> np.ndarray:
    """A performance as sound, the same bytes every time.

    Args:
        performance: what to play.
        sample_rate_hz: 4000 to 192000.
        soundfont: a SoundFont; None looks for one as `find_soundfont` does.
        stereo: two channels instead of their mean.

    Shape:
        returns float32 (N,) or, stereo, (2, N) in [-0.89, 0.89]; N covers performance.seconds and at most
        `RELEASE_S` of release, without long silence after it.

    Raises:
        ValueError: a sample rate out of range, or a SoundFont that is none.
    """
    check_rate(sample_rate_hz)
    font = find_soundfont(soundfont)
    length = int(np.ceil((performance.seconds + RELEASE_S) * sample_rate_hz))
    least = round(performance.seconds * sample_rate_hz)
    sound = np.zeros((2 if stereo else 1, length), dtype=np.float32)  # (C, N)
    tail = sound[:, least:] if stereo else np.zeros((2, length - least), dtype=np.float32)  # the release on both sides
    if font:
        for (velocity, cents), notes in sorted(_layers(performance.notes).items()):
            for run in _runs(notes):
                start = int(run[0].onset_s * sample_rate_hz)
                layer = _play(font, run, cents, start, sample_rate_hz)[:, : length - start]
                layer = layer * np.float32(GAIN * (velocity / 127) ** 2)
                end = start + layer.shape[1]
                sound[:, start:end] += layer if stereo else layer.mean(axis=0)
                if not stereo and end > least:
                    tail[:, max(start - least, 0) : end - least] += layer[:, max(least - start, 0) :]
    else:
        sound += _add_up(performance.notes, sample_rate_hz, length)
        tail = sound[:, least:]
    sound = _trim(sound, tail, sample_rate_hz)
    return limit(sound if stereo else sound[0], sample_rate_hz)


def _layers(notes: Iterable[Note]) -> dict[tuple[int, int], list[Note]]:
    """Notes by velocity and by their distance from the nearest key in cents (-50 to 49).

    symusic ignores velocity, so each loudness is played for itself. Where there are more than `MAX_LAYERS` of them,
    those within `LAYER_DB` are taken together at its middle.
    """
    notes = list(notes)
    exact = len({note.velocity for note in notes}) <= MAX_LAYERS
    layers: dict[tuple[int, int], list[Note]] = defaultdict(list)
    for note in notes:
        velocity = note.velocity
        if not exact:
            steps = round(40 * math.log10(127 / velocity) / LAYER_DB)
            velocity = max(round(127 * 10 ** (-steps * LAYER_DB / 40)), 1)
        layers[velocity, round((note.pitch - _key(note.pitch)) * 100)].append(note)
    return layers


def _runs(notes: list[Note]) -> Iterator[list[Note]]:
    """Notes in order, parted where nothing sounds for `PAUSE_S` (no silence is rendered), and after `MAX_RUN_S`.

    Notes sound on to the end of theirs, at most `MAX_NOTE_S`, whatever run they are in.
    """
    run: list[Note] = []
    end_s = 0.0
    for note in sorted(notes, key=lambda n: (n.onset_s, n.pitch, n.program, n.duration_s)):
        if note.duration_s > MAX_NOTE_S:
            note = replace(note, duration_s=MAX_NOTE_S)
        if run and note.onset_s > min(end_s + RELEASE_S + PAUSE_S, run[0].onset_s + MAX_RUN_S):
            yield run
            run, end_s = [], 0.0
        run.append(note)
        end_s = max(end_s, note.onset_s + note.duration_s)
    if run:
        yield run


def _key(pitch: float) -> int:
    """The nearest key; halves go up.

    >>> _key(60.5), _key(60.4)
    (61, 60)
    """
    return min(int(np.floor(pitch + 0.5)), 127)


@functools.lru_cache(maxsize=4)
def _synthesiser(font: Path, rate_hz: int, _changed_ns: int) -> Any:
    """symusic's synthesiser, loaded once for each font and rate."""
    import symusic

    tuned = in_tune(font, cache.folder() / "soundfonts")
    return symusic.Synthesizer(str(tuned), rate_hz, 0)


def _play(font: Path, notes: list[Note], cents: int, start: int, sample_rate_hz: int) -> np.ndarray:
    """Notes of one tuning through a SoundFont, with their release, at full velocity, from sample `start` on.

    Shape: (2, N).

    Notes between the keys are played on their keys at a lower rate and as much faster: read at the right rate they
    sound at their time and higher by the difference.
    """
    import symusic

    rate_hz = round(sample_rate_hz / 2 ** (cents / 1200))
    stretch = sample_rate_hz / rate_hz
    start_s = start / sample_rate_hz
    score = _to_score((replace(note, onset_s=note.onset_s - start_s) for note in notes), stretch)
    # A note of velocity 0 and no sound keeps symusic playing through the release.
    end_s = max(note.onset_s + note.duration_s for note in notes) + RELEASE_S - start_s
    score.tracks.append(symusic.Track("", SILENT_PROGRAM, False))
    score.tracks[-1].notes.append(symusic.Note(_ticks(end_s * stretch), 1, 0, 0))
    synthesiser = _synthesiser(font, rate_hz, font.stat().st_mtime_ns)
    sound: np.ndarray = synthesiser.render(score, True)[:, : round(end_s * sample_rate_hz)]
    return sound


TICKS_PER_QUARTER = 960
TICKS_PER_SECOND = 2 * TICKS_PER_QUARTER
"""At 120 quarter notes per minute: half a millisecond."""


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_SECOND)


def _to_score(notes: Iterable[Note], stretch: float = 1.0) -> Any:
    """A symusic score with one track for each program, tuning and percussion."""
    import symusic

    tracks: dict[tuple[bool, int, int], list[Note]] = defaultdict(list)
    for note in notes:
        cents = 0 if note.is_drum else round((note.pitch - _key(note.pitch)) * 100)
        tracks[note.is_drum, note.program, cents].append(note)
    score: Any = symusic.Score(TICKS_PER_QUARTER)
    score.tempos.append(symusic.Tempo(0, 120.0))
    for (is_drum, program, cents), members in sorted(tracks.items()):
        score.tracks.append(symusic.Track("", program, is_drum))
        track = score.tracks[-1]
        if cents:
            track.pitch_bends.append(symusic.PitchBend(0, round(cents / 200 * 8192)))
        for n in members:
            start = _ticks(n.onset_s * stretch)
            length = max(_ticks((n.onset_s + n.duration_s) * stretch) - start, 1)
            track.notes.append(symusic.Note(start, length, _key(n.pitch), n.velocity))
    return score


def write_midi(performance: Performance, path: Path) -> None:
    """A performance as a MIDI file (type 1, half a millisecond per tick), whole or not at all.

    Quarter tones get a track of their own with a pitch bend (range of two semitones).

    Raises:
        ValueError: the folder does not exist or cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            _to_score(performance.notes).dump_midi(temporary)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error})") from None


def _trim(sound: np.ndarray, tail: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Cut silence after the release, never before the performance's end, and fade, in place.

    Shape: (C, N) and what is after the end (C', R), to (C, M).
    """
    least = sound.shape[1] - tail.shape[1]
    loud = np.flatnonzero(np.abs(tail).max(axis=0, initial=0.0) > SILENCE)
    fade = round(FADE_S * sample_rate_hz)
    length = least + (int(loud[-1]) + 1 if len(loud) else 0)
    length = min(length + fade, sound.shape[1])
    sound = sound[:, :length]
    faded = min(fade, length - least)
    if faded > 0:
        sound[:, length - faded :] *= np.linspace(1.0, 0.0, faded, dtype=np.float32)
    return sound


def limit(sound: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Bring peaks under `PEAK`, in place: the whole is turned down when it is too loud. Shape: (N,) or (2, N).

    One gain for the piece cannot pump, and keeps the distances between soft and loud.
    """
    peak = float(max(sound.max(initial=0.0), -sound.min(initial=0.0)))
    if peak > PEAK:
        sound *= np.float32(PEAK / peak)
    return np.ascontiguousarray(sound, dtype=np.float32)


def _add_up(notes: Iterable[Note], sample_rate_hz: int, length: int) -> np.ndarray:
    """Notes as decaying partials, for machines without a SoundFont. Shape: (N,)."""
    sound = np.zeros(length, dtype=np.float32)
    for note in notes:
        tone = _noise(note, sample_rate_hz) if note.is_drum else _tone(note, sample_rate_hz)
        start = round(note.onset_s * sample_rate_hz)
        tone = tone[: max(length - start, 0)]
        sound[start : start + len(tone)] += tone
    return sound


def _tone(note: Note, sample_rate_hz: int) -> np.ndarray:
    """A struck string: eight partials, the higher the softer and shorter; a release of 80 ms after the key goes up."""
    release_s = 0.08
    duration_s = min(note.duration_s, MAX_NOTE_S)
    t = np.arange(round((duration_s + release_s) * sample_rate_hz)) / sample_rate_hz
    hz = 440.0 * 2 ** ((note.pitch - 69) / 12)
    tone = np.zeros_like(t)
    for partial in range(1, 9):
        if partial * hz < 0.45 * sample_rate_hz:
            decay_s = 2.5 * (220.0 / hz) ** 0.5 / partial**0.6
            tone += np.sin(2 * np.pi * partial * hz * t) * np.exp(-t / decay_s) / partial**1.3
    attack = np.minimum(t / 0.004, 1.0)
    release = np.clip((duration_s + release_s - t) / release_s, 0.0, 1.0)
    return (tone * attack * release * 0.2 * (note.velocity / 127) ** 1.5).astype(np.float32)


def _noise(note: Note, sample_rate_hz: int) -> np.ndarray:
    """A drum: low keys are a falling tone, high ones a burst of noise, always the same one."""
    t = np.arange(round(0.25 * sample_rate_hz)) / sample_rate_hz
    if note.pitch < 37 or (40 < note.pitch < 51 and note.pitch % 2):
        body = np.sin(2 * np.pi * (50 * t + 6 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.09)
    else:
        body = np.random.default_rng(int(note.pitch)).standard_normal(len(t)) * 0.4 * np.exp(-t / 0.05)
    fade = np.clip((0.25 - t) / 0.02, 0.0, 1.0)
    return (body * fade * 0.5 * (note.velocity / 127) ** 1.5).astype(np.float32)

"""Render timed notes to audio, and write them as MIDI files.

symusic 0.5.9 plays them with a SoundFont. It stops at the last note, ignores velocity, bends, volume and pedal,
does not limit peaks, and plays fonts with overridden root keys out of tune. The notes already contain the pedal,
`continuo.score.soundfont` corrects the font, and this module does the rest.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from continuo.midi.ports import dumps_midi
from continuo.score.notes import Note, Performance
from continuo.score.soundfont import in_tune, is_soundfont
from continuo.system import cache
from continuo.system.files import write_bytes

if TYPE_CHECKING:
    import symusic

    from continuo.model.checkpoint import SoundFont

SOUNDFONT_VARIABLE = "CONTINUO_SOUNDFONT"
SYSTEM_FOLDERS = (
    "/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts", "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts", "/Library/Audio/Sounds/Banks", "~/Library/Audio/Sounds/Banks",
    "~/.local/share/soundfonts",
)  # fmt: skip
"""Folders of SoundFonts on Linux and macOS."""
VERSION = 3  # part of every cache key; raise it whenever the same notes would sound differently
RATES_HZ = range(4_000, 192_001)  # sample rates that can be rendered
RELEASE_S = 1.0  # seconds that the last notes may sound after the end of a performance
FADE_S = 0.1  # seconds of the fade at the end
SILENCE = 10 ** (-70 / 20)  # amplitude (-70 dB) below which the end is cut off
PEAK = 0.89  # highest amplitude of a rendering (-1 dB)
GAIN = 2.0  # of the SoundFont; a single mf note of a piano then peaks at about -16 dB, a chord of four at -6 dB
MAX_LAYERS = 12  # velocities up to which each is rendered exactly
MAX_UNISONS = 16  # notes of one pitch and program that overlap and are kept apart in a MIDI file
LAYER_DB = 1.5  # decibels between velocities that are rendered separately, if there are more
PAUSE_S = 0.5  # seconds of silence that are not rendered
MAX_RUN_S = 600.0  # seconds between the first and the last onset of a run, which bounds the memory
MAX_NOTE_S = 600.0  # seconds that a note sounds; longer ones were never released
SILENT_PROGRAM = 0
TICKS_PER_QUARTER = 960
TICKS_PER_SECOND = 2 * TICKS_PER_QUARTER  # at 120 quarter notes per minute; a tick is half a millisecond


def check_rate(sample_rate_hz: int) -> None:
    """Raise ValueError if a sample rate cannot be rendered."""
    if sample_rate_hz not in RATES_HZ:
        raise ValueError(f"a sample rate must be {RATES_HZ.start} to {RATES_HZ.stop - 1} Hz, not {sample_rate_hz}")


def find_soundfont(explicit: Path | None = None) -> Path:
    """Return the given SoundFont, that of CONTINUO_SOUNDFONT, of the system or of pretty_midi.

    Raise ValueError if the given one, or that of the variable, is missing or no SoundFont, or if there is none at all.
    """
    if named := explicit or _of_variable():
        if not is_soundfont(named):
            reason = "is not a SoundFont (.sf2 or .sf3)" if named.is_file() else "does not exist"
            raise ValueError(f"the SoundFont {named} {reason}; leave it out to use the installed one")
        return named
    if found := next(filter(is_soundfont, _installed()), None):
        return found
    raise ValueError(f"no SoundFont is installed: reinstall pretty_midi, or name one in {SOUNDFONT_VARIABLE}")


def _of_variable() -> Path | None:
    variable = os.environ.get(SOUNDFONT_VARIABLE)
    return Path(variable) if variable else None


def _installed() -> Iterator[Path]:
    """Yield the files that may be SoundFonts in the folders of the system and of pretty_midi."""
    for folder in SYSTEM_FOLDERS:
        yield from sorted(Path(folder).expanduser().glob("*.sf[23]"))
    if package := importlib.util.find_spec("pretty_midi"):
        yield from (Path(folder) / "TimGM6mb.sf2" for folder in package.submodule_search_locations or ())


def identify_soundfont(font: Path) -> SoundFont:
    """Return name, size and hash of a SoundFont; OSError if it cannot be read."""
    stat = font.stat()
    return {"name": font.name, "bytes": stat.st_size, "sha256": _sha256(font, stat.st_size, stat.st_mtime_ns)}


@functools.lru_cache
def _sha256(font: Path, _size: int, _changed_ns: int) -> str:
    with font.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_soundfont(explicit: Path | None, earlier: SoundFont | None, place: Path | None = None) -> tuple[Path, str]:
    """Return the SoundFont to render scores with, and a remark if it is `explicit` or not the one of the model.

    The SoundFont of the model is `earlier`, which rendered its corpus. It is found by its content at `place` and
    wherever SoundFonts are looked for; `explicit` outweighs it. Where it is missing or not known, the choice and the
    errors are those of `find_soundfont`. The remark continues a sentence that begins with what is rendered.
    """
    own = _find_same(earlier, place) if earlier and not explicit else None
    font = own or find_soundfont(explicit or (place if not earlier else None))
    if own or not (explicit or earlier):
        return font, ""
    remark = f"is rendered with {font.name}"
    if earlier and identify_soundfont(font)["sha256"] != earlier["sha256"]:
        own_words = f"{earlier['name']}, whose sound the model has learned"
        remark += f" instead of {own_words}" if explicit else f", because {own_words}, is not on this computer"
        remark += ": the music may come out worse"
    return font, remark


def _find_same(wanted: SoundFont, place: Path | None) -> Path | None:
    """Return a SoundFont on this computer that has the content of `wanted`, None if there is none."""
    places = [place, _of_variable(), *_installed()]
    fonts = (font for font in places if font and is_soundfont(font) and font.stat().st_size == wanted["bytes"])
    return next((font for font in fonts if identify_soundfont(font)["sha256"] == wanted["sha256"]), None)


def render(
    performance: Performance, sample_rate_hz: int, *, soundfont: Path | None = None, stereo: bool = False
) -> np.ndarray:
    """Render a performance to audio: float32 (N,), or in stereo (2, N), in [-0.89, 0.89].

    N covers performance.seconds and at most `RELEASE_S` of release, without long silence after it. The same notes give
    the same bytes. The sample rate is 4000 to 192000, or else ValueError; a SoundFont is found, or refused, as by
    `find_soundfont`.
    """
    check_rate(sample_rate_hz)
    font = find_soundfont(soundfont)
    samples = int(np.ceil((performance.seconds + RELEASE_S) * sample_rate_hz))
    end = round(performance.seconds * sample_rate_hz)
    sound = np.zeros((2 if stereo else 1, samples), dtype=np.float32)  # (C, N)
    # The release is kept in stereo: only where both channels are silent is it cut off.
    release = sound[:, end:] if stereo else np.zeros((2, samples - end), dtype=np.float32)
    for (velocity, cents), notes in sorted(_layers(performance.notes).items()):
        for run in _runs(notes):
            start = int(run[0].onset_s * sample_rate_hz)
            layer = _play(font, run, cents, start, sample_rate_hz)[:, : samples - start]
            layer = layer * np.float32(GAIN * (velocity / 127) ** 2)
            stop = start + layer.shape[1]
            sound[:, start:stop] += layer if stereo else (layer[0] + layer[1]) / 2  # mean() takes far longer
            if not stereo and stop > end:
                release[:, max(start - end, 0) : stop - end] += layer[:, max(end - start, 0) :]
    sound = _trim(sound, release, sample_rate_hz)
    peak = float(max(sound.max(initial=0.0), -sound.min(initial=0.0)))
    if peak > PEAK:  # one gain for the whole cannot pump
        sound *= np.float32(PEAK / peak)
    return np.ascontiguousarray(sound if stereo else sound[0], dtype=np.float32)


def _layers(notes: Sequence[Note]) -> dict[tuple[int, int], list[Note]]:
    """Group notes by velocity, which symusic ignores, and by distance from the nearest key in cents (-50 to 49).

    Of more than `MAX_LAYERS` velocities, those within `LAYER_DB` are rendered together.
    """
    layer = {note.velocity: note.velocity for note in notes}
    for velocity in layer if len(layer) > MAX_LAYERS else ():
        steps = round(40 * math.log10(127 / velocity) / LAYER_DB)
        layer[velocity] = max(round(127 * 10 ** (-steps * LAYER_DB / 40)), 1)
    layers: dict[tuple[int, int], list[Note]] = defaultdict(list)
    for note in notes:
        layers[layer[note.velocity], _cents(note.pitch)].append(note)
    return layers


def _runs(notes: list[Note]) -> Iterator[list[Note]]:
    """Split notes where nothing sounds for `PAUSE_S`, so that no silence is rendered, and after `MAX_RUN_S`."""
    run: list[Note] = []
    end_s = 0.0
    for note in sorted(notes, key=lambda n: (n.onset_s, n.pitch, n.program, n.duration_s)):
        note = replace(note, duration_s=min(note.duration_s, MAX_NOTE_S))
        if run and note.onset_s > min(end_s + RELEASE_S + PAUSE_S, run[0].onset_s + MAX_RUN_S):
            yield run
            run, end_s = [], 0.0
        run.append(note)
        end_s = max(end_s, note.onset_s + note.duration_s)
    if run:
        yield run


def _key(pitch: float) -> int:
    """Return the nearest key of a MIDI pitch; halves go up."""
    return min(int(np.floor(pitch + 0.5)), 127)


def _cents(pitch: float) -> int:
    return round((pitch - _key(pitch)) * 100)


@functools.lru_cache(maxsize=4)
def _synthesizer(font: Path, rate_hz: int, _changed_ns: int) -> symusic.Synthesizer:
    """Load symusic's synthesizer, once for each font, rate and time of the font's last change."""
    import symusic

    return symusic.Synthesizer(str(in_tune(font, cache.folder() / "soundfonts")), rate_hz, 0)


def _play(font: Path, notes: list[Note], cents: int, start: int, sample_rate_hz: int) -> np.ndarray:
    """Render notes of one tuning with a SoundFont, with their release, at full velocity, from sample `start` on.

    Notes between the keys are rendered on their keys, slower and at a lower rate: read at the right rate they sound at
    their time, and higher by `cents`. Shape: (2, N).
    """
    import symusic

    rate_hz = round(sample_rate_hz / 2 ** (cents / 1200))
    stretch = sample_rate_hz / rate_hz
    start_s = start / sample_rate_hz
    score = _to_symusic((replace(note, onset_s=note.onset_s - start_s) for note in notes), stretch)
    # A last note of velocity 0, which is silent, keeps symusic rendering through the release.
    end_s = max(note.onset_s + note.duration_s for note in notes) + RELEASE_S - start_s
    score.tracks.append(symusic.Track("", SILENT_PROGRAM, False))
    score.tracks[-1].notes.append(symusic.Note(_ticks(end_s * stretch), 1, 0, 0))
    synthesizer = _synthesizer(font, rate_hz, font.stat().st_mtime_ns)
    return np.asarray(synthesizer.render(score, True)[:, : round(end_s * sample_rate_hz)])


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_SECOND)


def _to_symusic(notes: Iterable[Note], stretch: float = 1.0) -> symusic.Score:
    """Return a symusic score, slower by `stretch`, with a track for each program, tuning and percussion."""
    import symusic

    tracks: dict[tuple[bool, int, int], list[Note]] = defaultdict(list)
    for note in notes:
        tracks[note.is_drum, note.program, 0 if note.is_drum else _cents(note.pitch)].append(note)
    score = symusic.Score(TICKS_PER_QUARTER)
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
    """Write a performance as a MIDI file (type 1, half a millisecond per tick); ValueError if that cannot be done.

    Quarter tones get a track of their own with a pitch bend (range of two semitones), and so do notes that overlap
    another one of their pitch and program.
    """
    score, layers = _to_symusic(()), _unison_layers(performance.notes)
    for layer in layers:
        score.tracks.extend(_to_symusic(layer).tracks)
    write_bytes(path, dumps_midi(score))


def _unison_layers(notes: Iterable[Note]) -> list[list[Note]]:
    """Split sorted notes so that in each list no pitched note overlaps another one of its pitch and program."""
    layers: list[list[Note]] = [[]]
    ends: dict[tuple[int, float, int], int] = {}  # tick at which the last note of a layer, pitch and program ends
    for note in notes:
        layer, start = 0, _ticks(note.onset_s)
        while layer < MAX_UNISONS and not note.is_drum and ends.get((layer, note.pitch, note.program), 0) > start:
            layer += 1
        ends[layer, note.pitch, note.program] = _ticks(note.onset_s + note.duration_s)
        layers += [[] for _ in range(layer + 1 - len(layers))]
        layers[layer].append(note)
    return layers


def _trim(sound: np.ndarray, release: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Fade a sound (C, N) in place, and cut off the silence after its `release`, (2, R), its last R samples."""
    end = sound.shape[1] - release.shape[1]
    loud = np.flatnonzero(np.abs(release).max(axis=0, initial=0.0) > SILENCE)
    fade = round(FADE_S * sample_rate_hz)
    length = min(end + (int(loud[-1]) + 1 if len(loud) else 0) + fade, sound.shape[1])
    fade = min(fade, length - end)
    sound[:, length - fade : length] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return sound[:, :length]

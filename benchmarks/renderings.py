"""Render scores as groups of recordings with other instruments, SoundFonts and rooms, to train the codec on them."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

from continuo.codec.vectors import RATE_HZ
from continuo.score import synth
from continuo.score.notes import Performance
from continuo.score.performance import MIDI_ENDINGS, perform
from continuo.system.progress import Display

MAX_SCORE_S = 100.0  # s of each score that are rendered


@dataclass(frozen=True)
class Rendering:
    """Describe how a group of scores is rendered; without programs it is made of MIDI files, which have their own."""

    name: str
    programs: tuple[int, ...]  # General MIDI numbers that replace those of the score, in turn
    soundfont: int  # number of the SoundFont
    reverberation_s: float
    wet: float  # share of the reverberation; without any there is no noise either
    tilt_db: float  # per octave, 0 dB at 1 kHz
    minutes: float


RENDERINGS = [
    Rendering("piano-1", (0,), 0, 0.8, 0.15, 0, 8), Rendering("piano-2", (0,), 1, 1.8, 0.25, -1, 8),
    Rendering("choir-1", (52,), 0, 2.5, 0.3, 0, 8), Rendering("choir-2", (52, 53), 1, 1.5, 0.2, 1, 8),
    Rendering("organ", (19,), 1, 3.0, 0.3, 0, 6), Rendering("strings-1", (48,), 0, 1.5, 0.2, 0, 6),
    Rendering("strings-2", (40, 48, 42), 1, 1.2, 0.2, 0, 6), Rendering("guitar", (24,), 0, 0.5, 0.1, 0, 6),
    Rendering("harpsichord", (6,), 1, 1.0, 0.2, 0, 5), Rendering("winds", (73, 71, 68, 70), 0, 1.2, 0.2, 0, 6),
    Rendering("brass", (56, 60, 57, 58), 1, 1.5, 0.2, 0, 6), Rendering("electric-piano", (4, 5), 0, 0.4, 0.05, 0, 5),
    Rendering("reeds", (19, 21), 0, 0.8, 0.15, 0, 5), Rendering("ensemble", (49, 52), 1, 2.0, 0.25, 0, 6),
    Rendering("midi-1", (), 0, 0.5, 0.08, 0, 10), Rendering("midi-2", (), 1, 0.8, 0.12, 0, 10),
    Rendering("dry-piano-1", (0,), 0, 0, 0, 0, 8), Rendering("dry-piano-2", (1,), 1, 0, 0, 0, 8),
    Rendering("dry-choir-1", (52,), 0, 0, 0, 0, 8), Rendering("dry-choir-2", (53, 52), 1, 0, 0, 0, 8),
    Rendering("dry-strings", (48, 40), 1, 0, 0, 0, 6), Rendering("dry-winds", (73, 71, 68), 0, 0, 0, 0, 6),
    Rendering("dry-organ", (19,), 0, 0, 0, 0, 6), Rendering("dry-midi", (), 1, 0, 0, 0, 10),
]  # fmt: skip


def render_groups(
    scores: list[Path], fonts: list[Path], out: Path, seed: int, display: Display
) -> dict[str, list[Path]]:
    """Render the groups of `RENDERINGS` that are not there yet, and return the recordings of all by name."""
    groups: dict[str, list[Path]] = {}
    for number, plan in enumerate(RENDERINGS):
        files = [path for path in scores if (path.suffix.lower() in MIDI_ENDINGS) != bool(plan.programs)]
        folder, partial = out / plan.name, out / f".{plan.name}.part"
        if files and not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            rng, seconds = np.random.default_rng([seed, number]), 0.0
            for place in rng.permutation(len(files)):
                try:
                    audio = render(perform(files[place]), plan, fonts, rng)
                except (ValueError, RuntimeError) as error:
                    display.say(f"skipped {files[place]}: {error}")
                    continue
                soundfile.write(partial / f"{place:05}-{files[place].stem[:100]}.flac", audio, RATE_HZ)
                seconds += len(audio) / RATE_HZ
                if seconds > 60 * plan.minutes:
                    break
            partial.rename(folder)
            display.say(f"rendered {plan.name}: {seconds / 60:.1f} minutes")
        if files:
            groups[f"rendered-{plan.name}"] = sorted(folder.glob("*.flac"))
    return groups


def render(performance: Performance, plan: Rendering, fonts: list[Path], rng: np.random.Generator) -> np.ndarray:
    """Return a rendered score `(N, 2)`; ValueError if nothing sounds."""
    notes = tuple(note for note in performance.notes if note.onset_s < MAX_SCORE_S)
    if plan.programs:
        shift = int(rng.integers(-3, 4))
        used = sorted({note.program for note in notes})
        programs = {program: plan.programs[i % len(plan.programs)] for i, program in enumerate(used)}
        notes = tuple(
            replace(note, program=programs[note.program], pitch=note.pitch + shift)
            for note in notes
            if not note.is_drum and 0 <= note.pitch + shift <= 127
        )
    if not notes:
        raise ValueError("there is no note to render")
    performance = replace(performance, notes=notes, seconds=min(performance.seconds, MAX_SCORE_S))
    font = fonts[plan.soundfont % len(fonts)]
    try:
        audio = synth.render(performance, RATE_HZ, soundfont=font, stereo=True).T
    except RuntimeError:  # symusic cannot decode a sample of this font
        audio = synth.render(performance, RATE_HZ, soundfont=fonts[0], stereo=True).T
    if plan.wet:
        audio = tilt(reverberate(audio, plan.reverberation_s, plan.wet, rng), plan.tilt_db)
        audio = audio + rng.standard_normal(audio.shape) * 10 ** (rng.uniform(-95, -75) / 20)
    return np.asarray(audio * (0.9 / max(np.abs(audio).max(), 1e-3) * rng.uniform(0.5, 1)), np.float32)


def reverberate(audio: np.ndarray, seconds: float, wet: float, rng: np.random.Generator) -> np.ndarray:
    """Return audio `(N, 2)` mixed with its convolution by smoothed noise that decays by 60 dB in `seconds`."""
    samples, smoothing = int(seconds * RATE_HZ), np.exp(-np.arange(64) / 8)
    response = rng.standard_normal((samples, 2)) * np.exp(-6.9 * np.arange(samples) / samples)[:, None]
    response = fftconvolve(response, smoothing[:, None], mode="same", axes=0)
    response /= np.sqrt(np.square(response).sum(axis=0))
    return np.asarray((1 - wet) * audio + wet * fftconvolve(audio, response, axes=0)[: len(audio)])


def tilt(audio: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Return audio `(N, 2)` with a spectrum that rises by `db_per_octave` and is unchanged at 1 kHz."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(audio), 1 / RATE_HZ), 30) / 1000)
    gains = 10 ** (db_per_octave * octaves / 20)
    return np.fft.irfft(np.fft.rfft(audio, axis=0) * gains[:, None], len(audio), axis=0)

"""Evaluate models of sound: free runs next to real music, the codec and the phases, a long run, and novelty.

All sound that is compared is mono: the mean of both channels, where a model has two.
"""

import math
import warnings
from pathlib import Path

import numpy as np

import corpus
from continuo.audio.files import flac
from continuo.audio.phase import invert
from continuo.audio.piece import Piece
from continuo.audio.samples import mix_to_mono
from continuo.audio.stft import spectrum
from continuo.model.metadata import Json, Sampling
from continuo.system.progress import Display
from dataset import AudioDataset
from evaluation import audio_metrics, long_run, plots
from evaluation.base import Evaluation, Plan
from evaluation.excerpts import Excerpt, bounded, excerpts, mono, other_real_music
from evaluation.novelty import Index, against
from featurizer import StftFeaturizer
from predictor import Predictor, joined

SIDES = ("real", "codec", "generated")  # of an excerpt, to see and to hear
MIN_ONSETS_PER_S = 0.3  # of real music; with fewer, a ratio of onsets says nothing


def free_run(predictor: Predictor, excerpt: Excerpt, *, seed: int, how: Sampling | None = None) -> np.ndarray:
    """Return the model's continuation of the prompt, without the prompt, at the prompt's loudness."""
    steps = round(excerpt.length / excerpt.piece.sample_rate_hz * predictor.steps_per_second)
    take = predictor.take(excerpt.prompt, seed=seed, sampling=how)
    return mix_to_mono(np.concatenate([*joined(take, excerpt.prompt, steps, with_prompt=False)]))


def through_codec(predictor: Predictor, excerpt: Excerpt) -> np.ndarray:
    """Return the real music after the prompt, encoded and decoded as a continuation would be."""
    piece, featurizer = excerpt.piece, predictor.featurizer
    assert isinstance(featurizer, StftFeaturizer)
    steps = round(excerpt.length / piece.sample_rate_hz * predictor.steps_per_second)
    end = excerpt.join + int(steps * piece.sample_rate_hz / predictor.steps_per_second)
    whole = Piece("whole", "whole", piece.sample_rate_hz, piece.samples[:end], excerpt.prompt.loudness_db)
    decoder = featurizer.decoder(excerpt.prompt)
    decoded = [decoder.push(step) for step in featurizer.encode_prompt(whole)[-steps:]]
    audio = mix_to_mono(np.concatenate([*decoded, decoder.finish()]))
    return audio[decoder.overlap_samples :] / np.float32(excerpt.prompt.gain)


def with_new_phases(predictor: Predictor, excerpt: Excerpt) -> tuple[np.ndarray, float]:
    """Return what follows the prompt, as audio `(N,)` of the real magnitudes with reconstructed phases, and its error.

    The error is the spectral convergence, |made - real| / |real| over all magnitudes (Sturmel and Daudet, 2011), of the
    frames that lie wholly after the prompt and before the fade-out of the overlap-add; 0 is exact.
    """
    featurizer = predictor.featurizer
    assert isinstance(featurizer, StftFeaturizer)
    n_fft, hop, join = featurizer.n_fft, featurizer.hop, excerpt.join
    frames = excerpt.length // hop
    audio = np.array(mono(excerpt.piece, join - n_fft, join + frames * hop), np.float32)
    magnitude = spectrum(audio[hop:], n_fft, hop).abs().numpy()
    made = invert(magnitude, n_fft, hop, audio[:n_fft])[n_fft - hop :]
    first = math.ceil(n_fft / hop)  # frame j = 1, 2, ... covers [j * hop - n_fft, j * hop) after the prompt
    found = spectrum(made[first * hop - n_fft :], n_fft, hop).abs().numpy()[: -(n_fft // hop)]
    wanted = magnitude[first - 1 : first - 1 + len(found)]
    return made, float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) + 1e-12))


def similarity(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> dict[str, float | None]:
    """Return `audio_metrics.compare` and, as `auc`, `separability`; None if there is too little music for a figure.

    Onsets are not compared if the real music has hardly any that can be measured (long notes, soft attacks).
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        figures: dict[str, float | None] = {**audio_metrics.compare(real, other, rate_hz)}
    if np.mean([audio_metrics.statistics(audio, rate_hz)["onsets_per_s"] for audio in real]) < MIN_ONSETS_PER_S:
        figures["onset_ratio"] = None
    figures["auc"] = audio_metrics.separability(real, other, rate_hz) if len(real) > 1 else None
    return {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}


class SoundEvaluation(Evaluation[Piece]):
    """The evaluation of a model of sound."""

    load = staticmethod(corpus.load)
    excerpts: list[Excerpt]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        super().__init__(meta_path, predictor, plan, display)
        self.audio: dict[str, list[np.ndarray]] = {}  # by side: real, generated, codec, long
        self.excerpts = excerpts(self.held_out, count=plan.pieces, **plan.times)

    def lengths(self, music: AudioDataset, steps: np.ndarray) -> tuple[float, float | None]:
        return float(steps.sum()) / self.spec.steps_per_second, None  # sound has no known beats

    def free_runs(self, *, ceilings: bool = True) -> Json:
        real = [excerpt.real for excerpt in self.excerpts]
        numbered = enumerate(self.tracked("free runs", self.excerpts), start=self.plan.seed)
        made = [free_run(self.predictor, excerpt, seed=seed) for seed, excerpt in numbered]
        self.audio |= {"real": real, "generated": made}
        pairs = other_real_music(self.excerpts)
        facts = [audio_metrics.statistics(audio, self.rate) for audio in real]
        self.real = {name: float(np.mean([s[name] for s in facts])) for name in ("onsets_per_s", "silence", "flux")}
        runs: Json = {
            "excerpts": len(real),
            "real": self.real,
            "generated": similarity(real, made, self.rate),
            # other real music of the same pieces
            "floor": similarity([a for a, _ in pairs], [b for _, b in pairs], self.rate) if len(pairs) > 1 else None,
        }
        if ceilings:
            runs["codec"], runs["inversion"] = self._ceilings(real)
        return runs

    def _ceilings(self, real: list[np.ndarray]) -> tuple[Json, Json]:
        """Compare with real music what the codec alone, and the reconstruction of phases alone, make of it."""
        codec, inverted = [], []
        for excerpt in self.tracked("codec and inversion", self.excerpts):
            codec.append(through_codec(self.predictor, excerpt))
            inverted.append(with_new_phases(self.predictor, excerpt))
        self.audio["codec"], errors = codec, [error for _, error in inverted]
        phases = similarity(real, [audio for audio, _ in inverted], self.rate)
        return similarity(real, codec, self.rate), phases | {"spectral_convergence": float(np.mean(errors))}

    def long_run(self) -> Json:
        prompt, count = self.excerpts[0].prompt, math.ceil(self.plan.long_seconds * self.spec.steps_per_second)
        task, take = self.display.task("long run", count), self.predictor.take(prompt, seed=self.plan.seed)
        steps, blocks = [], []
        for step in take.steps(count):
            steps.append(step.numpy())
            blocks.append(take.decoder.push(step))
            task.update(len(steps))
        task.close()
        audio = mix_to_mono(np.concatenate([*blocks, take.decoder.finish()]))[take.overlap_samples :]
        self.audio["long"] = [audio]
        prompt_db = long_run.levels_db(prompt.read(0, len(prompt.samples)), self.rate, prompt.seconds)[0]
        self.pictures["level"] = plots.level_over_time(long_run.levels_db(audio, self.rate), float(prompt_db))
        longest = max(self.held_out, key=lambda piece: piece.seconds)
        real = longest.read(0, min(len(longest.samples), len(audio)))
        usual, onsets = self.real["onsets_per_s"], long_run.onsets_by_part(audio, self.rate)
        still_s, real_still_s = self._still_s(np.stack(steps))
        return {
            "seconds": len(audio) / self.rate,
            "level_drift_db": long_run.level_drift(audio, self.rate),
            "endings_s": take.endings,
            "silence": audio_metrics.statistics(audio, self.rate)["silence"],
            "onset_ratio_by_30_s": [n / usual if usual >= MIN_ONSETS_PER_S else None for n in onsets],
            "loop_s": long_run.loop_length_s(audio, self.rate),  # length of a loop
            "real_loop_s": long_run.loop_length_s(real, self.rate),
            "still_s": still_s,  # longest time without change
            "real_still_s": real_still_s,
        }

    def _still_s(self, steps: np.ndarray) -> tuple[float, float]:
        """Return the longest time without change in the steps of the long run, and in as much held-out music."""
        pieces = bounded(self.held_out, self.plan.long_seconds, self.plan.seed)
        streams = [steps, *(self.predictor.featurizer.encode(piece).numpy() for piece in pieces)]
        changes = [long_run.changes(stream, self.spec) for stream in streams]
        usual = float(np.median(np.concatenate(changes[1:])))
        made, *real = (long_run.longest_still_s(change, usual, self.spec.steps_per_second) for change in changes)
        return made, max(real)

    def novelty(self) -> Json | None:
        output = [*self.audio["generated"], *self.audio.get("long", [])]
        total_s = sum(len(audio) for audio in output) / self.rate
        held_out = [mono(piece) for piece in bounded(self.held_out, total_s, self.plan.seed)]
        sides = {"held-out": held_out, "generated": output, "through the codec": self.audio["codec"]}
        training = [mono(piece) for piece in self.training_sample]
        if max(map(len, training)) < 2 * self.rate:
            return None
        spectra = Index(self.tracked("looking for copies (spectrum)", training), self.rate)
        harmony = Index(self.tracked("looking for copies (harmony)", training), self.rate, chroma=True)
        distances = {side: spectra.nearest(audio) for side, audio in sides.items()}
        self.pictures["novelty"] = plots.distances(distances)
        spectrum_figures = against(distances, "held-out")
        nearest, codec = (spectrum_figures[side]["p5"] for side in ("generated", "through_the_codec"))
        threshold = spectra.calibrate(held_out)
        control = [spectra.copied(audio, threshold) for audio in self._control()]
        return {
            "training_minutes": sum(piece.seconds for piece in self.training_sample) / 60,
            "of_minutes": self.model()["training_minutes"],
            "spectrum": spectrum_figures,
            "harmony": against({side: harmony.nearest(a) for side, a in sides.items()}, "held-out"),
            "near_ratio": nearest / codec if nearest is not None and codec else None,  # of the nearest seconds
            "threshold": threshold,
            "copied_s": max(spectra.copied(audio, threshold) for audio in output),
            "held_out_copied_s": max(spectra.copied(audio, threshold) for audio in held_out),
            "control_copied_s": float(np.mean(control)) if control else None,
            "control_of_s": self.plan.seconds,
        }

    def _control(self) -> list[np.ndarray]:
        """Return training music through the codec, which shows what a copy looks like; nothing if pieces are short."""
        try:
            found = excerpts(self.training_sample, count=2, **self.plan.times)
        except ValueError:
            return []
        return [through_codec(self.predictor, excerpt) for excerpt in found]

    def draw(self, report: Json) -> dict[str, bytes]:
        sides = {name: self.audio[name][0] for name in SIDES}
        return super().draw(report) | {"spectrograms": plots.spectrograms(sides, self.rate)}

    def sounds(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        found = enumerate(self.excerpts[:count])
        return [(e.name, {side: flac(self.audio[side][place], self.rate) for side in SIDES}) for place, e in found]

"""Excerpts of held-out music, and what a model makes of them: shared by `evaluate.py` and `benchmarks/free_run.py`.

An excerpt is a prompt and what the piece really does after it. A free run continues the prompt; the codec and the
inversion are ceilings: the real frames through the model's own encoding, and true magnitudes with phases found anew.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import corpus
from continuo.audio.phase import invert
from continuo.audio.piece import Piece
from continuo.audio.stft import spectrum
from continuo.model import metadata
from continuo.model.sampling import Sampling
from continuo.symbolic.song import Song
from continuo.system.progress import Display
from evaluation import audio_metrics
from featurizer import Featurizer, StftFeaturizer
from predictor import Predictor, joined

MIN_ONSETS = 0.3  # per second of real music, below which a ratio of onsets says nothing
P = TypeVar("P", Piece, Song)


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        pieces: excerpts that are continued, 1 ... 256.
        seconds: of each free run, 2 ... 600: the measures look at 2 s at a time, or at whole bars.
        prompt_seconds: of each prompt, above 0, at most 600.
        long_seconds: of the long run, 10 ... 3600, or 0 for none.
        seed: of all sampling.

    Raises:
        ValueError: a value outside its range.
    """

    pieces: int = 16
    seconds: float = 6.0
    prompt_seconds: float = 4.0
    long_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, ok, words in (
            ("pieces", self.pieces, 1 <= self.pieces <= 256, "1 to 256"),
            ("seconds", self.seconds, 2 <= self.seconds <= 600, "2 to 600"),
            ("prompt-seconds", self.prompt_seconds, 0 < self.prompt_seconds <= 600, "above 0, at most 600"),
            ("long", self.long_seconds, self.long_seconds == 0 or 10 <= self.long_seconds <= 3600, "0, or 10 to 3600"),
            ("seed", self.seed, 0 <= self.seed < 2**62, "0 or more, and below 2 to the power of 62"),
        ):
            if not ok:
                raise ValueError(f"--{flag} {value} must be {words}")


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a piece: `prompt` ends at sample `seam`, and `length` samples are compared with what comes after."""

    name: str
    piece: Piece
    prompt: Piece
    seam: int
    length: int

    @property
    def real(self) -> np.ndarray:
        """What the piece does after the prompt, `(length,)`."""
        return np.asarray(self.piece.samples[self.seam : self.seam + self.length])


def corpora(
    predictor: Predictor, meta_path: Path, display: Display | None = None
) -> tuple[list[Any], list[Any], list[str]]:
    """The pieces that a model was trained on, those that were held out, and what is to be said about that.

    They are `Piece`s or `Song`s, as the model hears. The corpus is where the metadata file says now; what was held out
    is what the state says was.

    Raises:
        ValueError: there is no such corpus, or nothing of what was held out is in it.
    """
    meta = metadata.load(meta_path)
    saved, facts = predictor.metadata, predictor.facts
    load = corpus.load if predictor.modality == "sound" else corpus.load_songs
    loaded: corpus.Corpus[Any] = load(meta.corpus, seed=saved.training.seed, display=display)
    train, held_out = loaded.split(saved.corpus.validation_share, saved.training.seed)
    then = set(facts["validation"])
    if {piece.id for piece in held_out} == then:
        return train, held_out, []
    everything = [*train, *held_out]
    train, held_out = ([p for p in everything if (p.id in then) == wanted] for wanted in (False, True))
    if not (train and held_out):
        raise ValueError(f"the corpus {meta.corpus.path} is not the one that the model was trained on: none of its "
                         "held-out pieces is there; set corpus.path in the metadata file")  # fmt: skip
    note = f"the corpus changed since the training: {len(held_out)} of {len(then)} held-out pieces are still in it"
    return train, held_out, [note]


def bounded(pieces: Sequence[P], seconds: float, seed: int) -> list[P]:
    """Pieces in random order, `seconds` in all: the last one is cut, and the rest left out.

    It is cut by its extent; where its tempo changes that is not quite so many seconds.
    """
    found: list[P] = []
    left = seconds
    for place in np.random.default_rng(seed).permutation(len(pieces)):
        piece = pieces[place]
        if piece.seconds > left:
            piece = piece.excerpt(0, int(left * piece.extent / piece.seconds), "beginning")
        if piece.seconds > 0.5 or not found:
            found.append(piece)
        left -= piece.seconds
        if left <= 0:
            break
    return sorted(found, key=lambda piece: piece.id)


def excerpts(pieces: Sequence[Piece], *, count: int, prompt_seconds: float, seconds: float) -> list[Excerpt]:
    """`count` excerpts at most, from the middle of as many pieces; several of each where pieces are few.

    Those of one piece are evenly spaced, do not overlap, and leave room for other music of the piece beside them.

    Raises:
        ValueError: no piece is long enough.
    """
    need = prompt_seconds + seconds
    fitting = [piece for piece in pieces if piece.seconds >= need + 0.1]
    if not fitting:
        longest = max((piece.seconds for piece in pieces), default=0.0)
        raise ValueError(f"no held-out piece lasts {need + 0.1:g} s (the longest: {longest:.1f} s): "
                         "lower --prompt-seconds and --seconds, or hold longer recordings out")  # fmt: skip
    each = math.ceil(count / len(fitting))
    found: list[Excerpt] = []
    for piece in fitting:
        rate = piece.sample_rate_hz
        slots = max(1, min(each, int(piece.seconds / (need + seconds))))
        pause = (piece.seconds - slots * need) / (slots + 1)
        for slot in range(slots):
            start = int(rate * (pause * (slot + 1) + need * slot))
            seam = start + int(prompt_seconds * rate)
            prompt = Piece.from_samples(piece.samples[start:seam], rate, source=piece.source)
            name = Path(piece.source).stem + (f" {slot + 1}" if slots > 1 else "")
            found.append(Excerpt(name, piece, prompt, seam, int(seconds * rate)))
    places = np.linspace(0, len(found) - 1, count).astype(int) if len(found) > count else range(len(found))
    return [found[place] for place in places] if each > 1 else found[:count]


def elsewhere(found: Sequence[Excerpt]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of an excerpt's real music and as much of the same piece from elsewhere, clear of every excerpt's.

    Where a piece has no such place, or no further one, the excerpt has no pair.
    """
    taken: dict[str, list[int]] = {}
    for excerpt in found:
        taken.setdefault(excerpt.piece.id, []).append(excerpt.seam)
    pairs = []
    for excerpt in found:
        length, places = excerpt.length, taken[excerpt.piece.id]
        starts = np.arange(0, len(excerpt.piece.samples) - length + 1, max(1, excerpt.piece.sample_rate_hz // 4))
        clear = starts[np.all(np.abs(starts[:, None] - np.array(places)) >= length, axis=1)]
        if len(clear):
            start = int(clear[np.argmin(np.abs(clear - excerpt.seam))])
            places.append(start)
            pairs.append((excerpt.real, np.asarray(excerpt.piece.samples[start : start + length])))
    return pairs


def free_run(predictor: Predictor, excerpt: Excerpt, *, seed: int, how: Sampling | None = None) -> np.ndarray:
    """What the model does after the prompt, alone, as loud as the prompt."""
    frames = round(excerpt.length / excerpt.piece.sample_rate_hz * predictor.steps_per_second)
    take = predictor.take(excerpt.prompt, seed=seed, how=how)
    return np.concatenate([*joined(take, excerpt.prompt, frames, with_prompt=False)])


def through_codec(predictor: Predictor, excerpt: Excerpt) -> np.ndarray:
    """The real frames after the prompt, encoded and decoded as a continuation would be."""
    piece = excerpt.piece
    featurizer: Any = predictor.featurizer  # one of sound, which has a decoder
    frames = round(excerpt.length / piece.sample_rate_hz * predictor.steps_per_second)
    end = excerpt.seam + int(frames * piece.sample_rate_hz / predictor.steps_per_second)
    heard = Piece("whole", "whole", piece.sample_rate_hz, piece.samples[:end], excerpt.prompt.loudness_db)
    decoder = featurizer.decoder(excerpt.prompt)
    made = [decoder.push(step) for step in featurizer.encode_prompt(heard)[-frames:]]
    audio = np.concatenate([*made, decoder.finish()])[decoder.overlap_samples :]
    return audio / np.float32(excerpt.prompt.gain)


def inverted(featurizer: Featurizer, excerpt: Excerpt) -> tuple[np.ndarray, float] | None:
    """The real magnitudes after the prompt with phases found anew, and the spectral convergence.

    Spectral convergence is the relative error of the magnitudes (Sturmel and Daudet, 2011), over the frames that lie
    wholly after the prompt and before the fade at the end. None where the representation has no such frames.
    """
    if not isinstance(featurizer, StftFeaturizer):
        return None
    n_fft, hop, seam = featurizer.n_fft, featurizer.hop, excerpt.seam
    frames = excerpt.length // hop
    audio = np.array(excerpt.piece.samples[seam - n_fft : seam + frames * hop], np.float32)
    magnitude = spectrum(audio[hop:], n_fft, hop).abs().numpy()
    made = invert(magnitude, n_fft, hop, audio[:n_fft])[n_fft - hop :]
    first = math.ceil(n_fft / hop)  # frame j = 1, 2, ... covers [j * hop - n_fft, j * hop) after the prompt
    got = spectrum(made[first * hop - n_fft :], n_fft, hop).abs().numpy()[: -(n_fft // hop)]
    want = magnitude[first - 1 : first - 1 + len(got)]
    return made, float(np.linalg.norm(got - want) / (np.linalg.norm(want) + 1e-12))


def likeness(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> dict[str, float | None]:
    """`audio_metrics.compare` and, as `auc`, `separability`; None where there is too little to measure one.

    Onsets are not compared where the measure hears hardly any in the real music (long notes, soft attacks).
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        figures: dict[str, float | None] = {**audio_metrics.compare(real, other, rate_hz)}
    if np.mean([audio_metrics.statistics(audio, rate_hz)["onsets_per_s"] for audio in real]) < MIN_ONSETS:
        figures["onset_ratio"] = None
    figures["auc"] = audio_metrics.separability(real, other, rate_hz) if len(real) > 1 else None
    return {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}

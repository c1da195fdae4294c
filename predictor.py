"""Predictor: load a model, prime it with a prompt, step, decode. No printing, no arguments.

    predictor = Predictor.load(Path("model.json"))
    take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
    audio = np.concatenate([*take.samples(500), take.finish()])

It needs the metadata file and the state file beside it, nothing else: no corpus, and not the device of the training.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import corpus
from continuo import checkpoint, metadata
from continuo.piece import Piece
from continuo.sampling import Sampling
from featurizer import FEATURIZERS, Featurizer
from model_definition import SequenceModel, build_model

PRIME_STEPS = 4096  # steps of a prompt that are heard at once
LEAST_S = 2.0  # of a continuation: prompts often close with a cadence, and what is asked for is how the music goes on


class Predictor:
    """A trained model, ready to continue prompts.

    Attributes:
        section: the metadata that the state was trained with.
        step: training step of the state.
        weights_step: of the weights that are used: the average of now while held-out nats still fall, the best after.
    """

    def __init__(
        self, featurizer: Featurizer, model: SequenceModel, device: torch.device, facts: dict[str, Any]
    ) -> None:
        self.featurizer, self.model, self.device = featurizer, model.to(device).eval(), device
        self.metadata = metadata.Metadata.model_validate(facts["metadata"])
        self.step: int = facts["progress"]["step"]
        now = checkpoint.predicting(facts["progress"]) == "average"
        self.weights_step: int = self.step if now else facts["progress"]["best_step"]

    @classmethod
    def load(cls, meta_path: Path, device: torch.device | None = None) -> "Predictor":
        """The model that a metadata file describes, from the state file that it names.

        Raises:
            ValueError: either file is missing, damaged, or they do not belong together.
        """
        meta = metadata.load(meta_path)
        path = meta_path.parent / meta.state
        tensors, facts = checkpoint.load(path, "featurizer.", "best.", "average.")
        metadata.check_same_model(meta, facts["metadata"], path)
        saved = metadata.validated(facts["metadata"], {}, source=path.name)
        section = saved.representation
        featurizer = FEATURIZERS[section.kind](section, saved.corpus.sample_rate_hz)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path} is damaged (it holds values that are no numbers): restore a copy, or train anew")
        try:
            featurizer.load_state(checkpoint.under_prefix("featurizer", tensors))
            model = build_model(saved.architecture, featurizer.spec)
            model.load_weights(checkpoint.under_prefix(checkpoint.predicting(facts["progress"]), tensors))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} lacks what its model needs ({reason}): train anew with --fresh") from None
        return cls(featurizer, model, device or torch.device("cpu"), facts)

    @property
    def sample_rate_hz(self) -> int:
        return self.metadata.corpus.sample_rate_hz

    @property
    def steps_per_second(self) -> float:
        return self.featurizer.spec.steps_per_second

    def prompt(self, path: Path, *, expressive: bool = False, ring_out: bool = False) -> Piece:
        """A score, MIDI or audio file as a prompt, rendered as the model's corpus was.

        Raises:
            ValueError: it cannot be continued, with the reason.
        """
        return corpus.load_prompt(path, self.metadata.corpus, expressive=expressive, ring_out=ring_out)

    def take(self, prompt: Piece, *, seed: int = 0, how: Sampling | None = None, until_end: bool = False) -> "Take":
        """A continuation of `prompt`; the same seed gives the same one.

        Where the model ends the piece, after two seconds at the earliest, another one begins, or, `until_end`, nothing
        more comes.
        """
        return Take(self, prompt, seed, how or Sampling(), until_end)


class Take:
    """One continuation while it is made.

    Samples come at the loudness of the prompt. They begin `overlap_samples` before the prompt's end, in whose place
    they stand: prompt and continuation are overlap-added like any two frames. What comes out does not depend on how
    many steps are asked for at once.

    Attributes:
        endings: seconds after the prompt at which the model ended a piece.

    Raises:
        ValueError: the prompt is shorter than a frame.
    """

    def __init__(self, predictor: Predictor, prompt: Piece, seed: int, how: Sampling, until_end: bool) -> None:
        self.model, self.prompt_piece, self.how, self.until_end = predictor.model, prompt, how, until_end
        self.steps_per_second, self.made = predictor.steps_per_second, 0
        self.least = math.ceil(LEAST_S * predictor.steps_per_second)
        self.endings: list[float] = []
        self.generator = torch.Generator(predictor.device).manual_seed(seed)
        self.context, self.state = self._prime(predictor.featurizer.encode_prompt(prompt).to(predictor.device))
        self.decoder = predictor.featurizer.decoder(prompt)
        self.overlap_samples = self.decoder.overlap_samples

    @torch.inference_mode()
    def _prime(self, stream: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Hear the prompt; gives the context after its last step."""
        state = self.model.initial_state(1)
        for part in stream.split(PRIME_STEPS):
            context, state = self.model(part[None], state)
        return context[:, -1], state

    def steps(self, count: int) -> Iterator[torch.Tensor]:
        """Draw `count` more steps, `(L,)` or `(F,)` each, on the CPU; fewer where the piece ends, `until_end`."""
        for _ in range(count):
            with torch.inference_mode():
                ends = bool(self.model.ends(self.context, generator=self.generator, how=self.how))
                if ends and self.made >= self.least:
                    self.endings.append(self.made / self.steps_per_second)
                    if self.until_end:
                        return
                    self.context, self.state = self.model.opening(1), self.model.initial_state(1)
                x = self.model.sample(self.context, generator=self.generator, how=self.how)
                self.context, self.state = self.model.step(x, self.state)
            self.made += 1
            yield x[0].cpu()

    def samples(self, count: int) -> Iterator[np.ndarray]:
        """Draw `count` more steps as audio: the samples that became final, float32, some blocks possibly empty."""
        for step in self.steps(count):
            yield self.decoder.push(step) / np.float32(self.prompt_piece.gain)

    def finish(self) -> np.ndarray:
        """The samples that were still open; the last half window fades out."""
        return self.decoder.finish() / np.float32(self.prompt_piece.gain)


def joined(take: Take, prompt: Piece, frames: int, *, with_prompt: bool = True) -> Iterator[np.ndarray]:
    """Prompt and continuation in one stream of blocks: `len(prompt) + frames * hop` samples, or the latter alone.

    With no frames the prompt comes out alone, as it is. A take that ends with its piece gives fewer.
    """
    overlap = take.overlap_samples if frames else 0
    if with_prompt:
        for start in range(0, len(prompt.samples) - overlap, 1 << 18):
            yield np.asarray(prompt.samples[start : min(start + (1 << 18), len(prompt.samples) - overlap)])
        overlap = 0
    if frames:
        for block in take.samples(frames):
            yield block[overlap:]
            overlap -= min(overlap, len(block))
        yield take.finish()[overlap:]

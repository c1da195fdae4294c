"""Generation: draw the steps of continuations, many streams in one call of a model's graph, or step by step.

A stream yields pairs indefinitely: the next step, `(L,)` or `(F,)`, on the CPU, and whether a new piece starts with it.
The same seed gives the same steps, alone and next to other streams.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
import torch

from continuo.model.backbones import State
from continuo.model.metadata import Sampling
from continuo.model.onnx_step import repeated
from model_definition import SequenceModel

Stream = Iterator[tuple[torch.Tensor, bool]]
STEPS_PER_CALL = 16  # steps that the graph draws in one call
MIN_DRAW = 2.0**-25  # replaces 0, which a uniform draw of 24 bits may be


def single_stream(
    model: SequenceModel, context: torch.Tensor, state: State, seed: int, sampling: Sampling, min_steps: int
) -> Stream:
    """Yield a stream of any model from its first context `(1, W)` and state; no piece ends before `min_steps` steps."""
    device, spec, made = context.device, model.spec, 0
    generator = torch.Generator(device).manual_seed(seed)
    opens = None if spec.opens is None else spec.opens[None].to(device)  # a continuation begins as a piece does
    follows = None if spec.follows is None else spec.follows.to(device)
    allowed = opens
    while True:
        with torch.inference_mode():
            if ended := bool(model.sample_ending(context, generator, sampling)) and made >= min_steps:
                context, state, allowed = model.bos_context(1), model.initial_state(1), opens
            x = model.sample(context, generator=generator, sampling=sampling, allowed=allowed)
            context, state = model.step(x, state)
            allowed = None if follows is None else follows[x[:, 0]]
        made += 1
        yield x[0].cpu(), ended


class StepRunner:
    """Runs the graph of a step many times in one call, without Python in between."""

    def __init__(self, step: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a step is too small to share
        graph = repeated(step).SerializeToString()
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.classes = self.session.get_inputs()[2].shape[-1] // self.session.get_outputs()[0].shape[-1]

    def __call__(self, state: np.ndarray, threshold: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        """Draw T steps of B streams: codes (T, B, L), ended (T, B, 1) and the state after the last step (B, S).

        Shape: state (B, S), threshold (T, B, 1), noise (T, B, L * V).
        """
        drawn: list[np.ndarray] = self.session.run(None, dict(zip(self.inputs, (state, threshold, noise), strict=True)))
        return drawn


class StreamBatch:
    """Streams that one graph draws together. Several threads may read them at the same time.

    `state` `(1, S)` is that in which all begin; no piece ends before `min_steps` steps; of the `temperatures`, one per
    level, 0 takes the likeliest class.
    """

    def __init__(
        self, runner: StepRunner, state: np.ndarray, seeds: Sequence[int], temperatures: Sequence[float], min_steps: int
    ) -> None:
        self.runner, self.state = runner, state.repeat(len(seeds), 0)
        self.min_steps, self.made = min_steps, 0
        self.temperatures = np.array(temperatures, np.float32)[:, None]
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.drawn: list[deque[tuple[torch.Tensor, list[bool]]]] = [deque() for _ in seeds]
        self.lock = threading.Lock()

    def stream(self, row: int) -> Stream:
        """Yield the stream of the seed at index `row`."""
        while True:
            with self.lock:
                if not self.drawn[row]:
                    self._draw()
                codes, ended = self.drawn[row].popleft()
            yield from zip(codes, ended, strict=True)

    def _draw(self) -> None:
        """Draw the next steps of every stream."""
        codes, ended, self.state = self.runner(self.state, self._thresholds(), self._noise())
        self.made += STEPS_PER_CALL
        rows = zip(torch.from_numpy(codes.swapaxes(0, 1)), ended[..., 0].T.tolist(), strict=True)
        for drawn, steps in zip(self.drawn, rows, strict=True):
            drawn.append(steps)

    def _thresholds(self) -> np.ndarray:
        """Draw logistic thresholds for the logit of an ending, `(STEPS_PER_CALL, B, 1)`."""
        shape = STEPS_PER_CALL, len(self.generators), 1
        thresholds = np.zeros(shape, np.float32)  # at temperature 0: a piece ends where that is likelier than not
        if self.temperatures.any():
            for row, generator in enumerate(self.generators):
                thresholds[:, row, 0] = generator.logistic(size=STEPS_PER_CALL)
        thresholds[: max(0, self.min_steps - self.made)] = np.inf
        return thresholds

    def _noise(self) -> np.ndarray:
        """Draw Gumbel noise times the temperatures, `(STEPS_PER_CALL, B, L * V)`."""
        size = STEPS_PER_CALL, len(self.temperatures), self.runner.classes
        noise = np.stack([generator.random(size, np.float32) for generator in self.generators], axis=1)
        np.log(np.maximum(noise, MIN_DRAW, out=noise), out=noise)
        np.log(np.negative(noise, out=noise), out=noise)
        noise *= -self.temperatures
        return noise.reshape(*noise.shape[:2], -1)

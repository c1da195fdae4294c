"""Lanes: the steps of continuations while they are drawn, by a model's graph, many side by side, or by the model.

A lane is an endless iterator over pairs: the next step, `(L,)` or `(F,)`, on the CPU, and whether a piece ended before
it. The same seed gives the same steps, alone and among others.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from continuo.model.sampling import Sampling
from continuo.model.stream import StreamSpec
from onnx_step import Steps

Lane = Iterator[tuple[torch.Tensor, bool]]
AT_ONCE = 16  # steps that are drawn together, before anybody asks for them
MIN_DRAW = 2.0**-25  # in place of 0, which a uniform draw of 24 bits may be


def single_stream(
    model: Any, context: torch.Tensor, state: tuple[torch.Tensor, ...], *, seed: int, how: Sampling, least: int
) -> Lane:
    """A lane of any `SequenceModel` on any device.

    Args:
        context: `(1, W)` of the first step, which follows `state`.
        least: steps before which no piece ends.
    """
    generator = torch.Generator(context.device).manual_seed(seed)
    grammar, made = Grammar(model.spec, context.device), 0
    while True:
        with torch.inference_mode():
            ended = bool(model.ends(context, generator=generator, how=how)) and made >= least
            if ended:
                context, state = model.opening(1), model.initial_state(1)
                grammar.begin()
            x = model.sample(context, generator=generator, how=how, allowed=grammar.allowed())
            context, state = model.step(x, state)
            grammar.heard(x)
        made += 1
        yield x[0].cpu(), ended


class Grammar:
    """Which codes may come next, where a stream says so. What comes after a prompt begins as a piece does."""

    def __init__(self, spec: StreamSpec, device: torch.device) -> None:
        self.follows = None if spec.follows is None else spec.follows.to(device)
        self.opens = None if spec.opens is None else spec.opens[None].to(device)
        self.begin()

    def begin(self) -> None:
        """A piece begins."""
        self.next = self.opens

    def heard(self, x: torch.Tensor) -> None:
        """A step `(1, L)` was heard or drawn."""
        if self.follows is not None:
            self.next = self.follows[x[:, 0]]

    def allowed(self) -> torch.Tensor | None:
        """Codes of the first level, `(1, V)` bool; None: any."""
        return self.next


class StreamBatch:
    """Lanes that one graph draws together. Threads may read them at the same time.

    Args:
        state: `(1, S)` in which all begin.
        seeds: one for each lane.
        temperatures: of each level; 0 takes the likeliest class.
        least: steps before which no piece ends.
    """

    def __init__(
        self, steps: Steps, state: np.ndarray, seeds: Sequence[int], temperatures: Sequence[float], least: int
    ) -> None:
        self.steps, self.state, self.least, self.made = steps, state.repeat(len(seeds), 0), least, 0
        self.temperatures = np.array(temperatures, np.float32)[:, None]
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.drawn: list[deque[tuple[torch.Tensor, list[bool]]]] = [deque() for _ in seeds]
        self.lock = threading.Lock()

    def lane(self, number: int) -> Lane:
        while True:
            with self.lock:
                if not self.drawn[number]:
                    self._draw()
                codes, ended = self.drawn[number].popleft()
            yield from zip(codes, ended, strict=True)

    def _draw(self) -> None:
        """The next steps of every lane."""
        codes, ended, self.state = self.steps(self.state, self._thresholds(), self._noise())
        self.made += AT_ONCE
        each = zip(torch.from_numpy(codes.swapaxes(0, 1)), ended[..., 0].T.tolist(), strict=True)
        for lane, steps in zip(self.drawn, each, strict=True):
            lane.append(steps)

    def _thresholds(self) -> np.ndarray:
        """Logistic draws, which the logit of a piece's end exceeds as often as it should, `(AT_ONCE, B, 1)`."""
        shape = AT_ONCE, len(self.generators), 1
        thresholds = np.zeros(shape, np.float32)  # where nothing is left to chance: an end is likelier than none
        if self.temperatures.any():
            for lane, generator in enumerate(self.generators):
                thresholds[:, lane, 0] = generator.logistic(size=AT_ONCE)
        thresholds[: max(0, self.least - self.made)] = np.inf
        return thresholds

    def _noise(self) -> np.ndarray:
        """Gumbel noise times the temperatures, `(AT_ONCE, B, L * V)`."""
        size = AT_ONCE, len(self.temperatures), self.steps.classes
        noise = np.stack([generator.random(size, np.float32) for generator in self.generators], axis=1)
        np.log(np.maximum(noise, MIN_DRAW, out=noise), out=noise)
        np.log(np.negative(noise, out=noise), out=noise)
        noise *= -self.temperatures
        return noise.reshape(*noise.shape[:2], -1)

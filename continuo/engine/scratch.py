"""Train the perceptron with `continuo.engine.network` instead of torch: the same model and losses in NumPy alone.

`Scratch` reads the parameters of a torch model by their names, works out nats and gradients in differentiable values,
moves them with the engine's AdamW, and writes them back, so that everything else (checkpoints, averages, prediction)
need not know which engine trained. It knows the perceptron on a window of steps, over streams of codes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from continuo.engine.network import AdamW, Value, clip_norm, concatenate, layer_norm

Array = np.ndarray[Any, Any]


class Scratch:
    """A model of torch, trained by the engine.

    Args:
        model: a sequence model with the perceptron for its backbone and a head over levels; changed in place.

    Raises:
        ValueError: the model is of another make.
    """

    def __init__(self, model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float):
        self.torch_parameters = dict(model.named_parameters())
        names = self.torch_parameters.keys()
        if "backbone.layers.0.weight" not in names or "head.embedding.vectors" not in names:
            raise ValueError(
                "training.engine scratch trains perceptrons (architecture.kind mlp) on events or tokens "
                "(representation.kind chords or remi): choose those, or the engine torch"
            )
        if any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()):
            raise ValueError(
                "training.engine scratch knows no dropout: set architecture.dropout=0, or the engine torch"
            )
        self.values = {name: Value(p.detach().numpy().copy()) for name, p in self.torch_parameters.items()}
        self.unused: Array = model.get_buffer("head.unused").numpy()
        self.optimizer = AdamW(self.values.values(), learning_rate, betas=betas, weight_decay=weight_decay)
        self.layers = sum(name.startswith("backbone.layers.") for name in names) // 2

    def step(self, batch: Any, lanes: Array, *, learning_rate: float, most: float) -> tuple[float, Array]:
        """Train on one batch; gives the mean nats before it, and the lanes moved on.

        Args:
            batch: inputs and targets `(B, T, L)`, ends and mask `(B, T)`, first `(B,)`, of torch.
            lanes: the last steps of each lane, `(B, window - 1, H)`; those that begin a piece are at 0.
            most: length that the gradient is cut to.
        """
        inputs, targets, ends, mask, first = (tensor.numpy() for tensor in batch)
        total, count, lanes = self.nll(inputs, targets, ends, mask, first, lanes)
        loss = total / count
        self.optimizer.zero()
        loss.backward()
        clip_norm(self.optimizer.parameters, most)
        self.optimizer.learning_rate = learning_rate
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.torch_parameters.items():
                parameter.copy_(torch.from_numpy(self.values[name].data))
        return loss.item(), lanes

    def nll(
        self, inputs: Array, targets: Array, ends: Array, mask: Array, first: Array, lanes: Array
    ) -> tuple[Value, int, Array]:
        """Nats summed over a batch, the number of steps that count, and the lanes moved on."""
        sums = self._partial_sums(inputs)
        vectors = sums[-1]
        entered = concatenate([lanes, self._linear("enter", vectors)], axis=1)
        window, steps = lanes.shape[1] + 1, inputs.shape[1]
        h = entered[:, np.arange(steps)[:, None] + np.arange(window)].reshape(*inputs.shape[:2], -1)
        for layer in range(self.layers):
            h = self._linear(f"backbone.layers.{layer}", h).silu()
        context = self._linear("leave", self._norm("norm", h)) + self._linear("skip", vectors)
        width = context.shape[-1]
        end = self._linear("ending", context)[..., 0]
        event = end.softplus() - end * ends.astype(end.data.dtype)
        goes_on = (mask & ~ends).astype(end.data.dtype)
        total = (self._step_nats(context.reshape(-1, width), targets.reshape(-1, targets.shape[-1]))
                 * goes_on.reshape(-1)).sum() + (event * mask.astype(end.data.dtype)).sum()  # fmt: skip
        begun = inputs[first, 0]
        if len(begun):
            opening = self.values["begin"].reshape(1, width) + np.zeros((len(begun), width), end.data.dtype)
            total = total + self._step_nats(opening, begun).sum()
        return total, int(mask.sum()) + len(begun), entered.data[:, steps:].copy()

    def _partial_sums(self, codes: Array) -> Value:
        """Codes `(..., L)` to sums of the vectors of levels 0 to l, `(L, ..., P)`."""
        table = self.values["head.embedding.vectors"]
        level = np.arange(codes.shape[-1]).reshape(-1, *[1] * (codes.ndim - 1))
        return table[level, np.moveaxis(codes, -1, 0)].cumsum(0) * math.sqrt(table.shape[-1])

    def _step_nats(self, context: Value, target: Array) -> Value:
        """Context `(N, W)` and target `(N, L)` to the nats of a step, `(N,)`."""
        levels, count = target.shape[1], len(target)
        known = self._partial_sums(target)[: levels - 1]
        nothing = np.zeros((1, count, known.shape[-1]), known.data.dtype)
        level = self.values["head.level"]
        h = context + self._linear("head.known", concatenate([nothing, known])) + level.reshape(levels, 1, -1)
        h = h.silu()
        h = h + self._linear("head.outer", self._linear("head.inner", self._norm("head.norm_in", h)).silu())
        out = self.values["head.embedding.vectors"].transpose(0, 2, 1)
        barred = np.where(self.unused, np.float32(-1e9), np.float32(0))[:, None]
        bias = self.values["head.bias"].reshape(levels, 1, -1) + barred
        logs = (self._norm("head.norm_out", h) @ out + bias).log_softmax(-1)
        picked = logs[np.arange(levels)[:, None], np.arange(count), target.T]
        return -picked.sum(0)

    def _linear(self, name: str, x: Value) -> Value:
        return x @ self.values[f"{name}.weight"].transpose(1, 0) + self.values[f"{name}.bias"]

    def _norm(self, name: str, x: Value) -> Value:
        return layer_norm(x, self.values[f"{name}.weight"], self.values[f"{name}.bias"])

    def moments(self) -> dict[int, dict[str, torch.Tensor]]:
        """The optimizer's state as torch's AdamW keeps it, so that either engine can go on."""
        return {
            index: {
                "step": torch.tensor(float(steps)),
                "exp_avg": torch.from_numpy(mean),
                "exp_avg_sq": torch.from_numpy(square),
            }
            for index, (steps, mean, square) in enumerate(self.optimizer.moments)
            if steps
        }

    def load(self, moments: dict[int, dict[str, torch.Tensor]]) -> None:
        """Take up the torch model's parameters as they are now, and the optimizer's state."""
        for name, parameter in self.torch_parameters.items():
            self.values[name].data = parameter.detach().cpu().numpy().copy()
        for index, kept in moments.items():
            arrays = kept["exp_avg"].cpu().numpy().copy(), kept["exp_avg_sq"].cpu().numpy().copy()
            self.optimizer.moments[index] = (int(kept["step"]), *arrays)

"""Train a torch perceptron with `continuo.engine.network` instead of torch: the same losses in NumPy alone."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from continuo.engine.network import AdamW, clip_norm
from continuo.engine.value import Value, concatenate, layer_norm

Moments = dict[int, dict[str, torch.Tensor]]  # as in the state of torch's AdamW
MASKED = np.float32(-1e9)  # logit of a code that a level does not have


class PerceptronTrainer:
    """Trains copies of a torch model's parameters, a perceptron and a head over levels, and writes them back.

    Nothing else need know which engine trained. ValueError: the model has another architecture, or dropout.
    """

    def __init__(self, model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float):
        self.torch_parameters = dict(model.named_parameters())
        names = self.torch_parameters.keys()
        if "backbone.layers.0.weight" not in names or "head.embedding.vectors" not in names:
            raise ValueError("training.engine scratch trains perceptrons (architecture.kind mlp) on events or tokens "
                             "(representation.kind chords or remi): choose those, or the engine torch")  # fmt: skip
        if any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()):
            raise ValueError("training.engine scratch has no dropout: set architecture.dropout=0, or the engine torch")
        self.values = {name: Value(p.detach().numpy().copy()) for name, p in self.torch_parameters.items()}
        self.unused: np.ndarray = model.get_buffer("head.unused").numpy()
        self.optimizer = AdamW(self.values.values(), learning_rate, betas=betas, weight_decay=weight_decay)
        self.layers = sum(name.startswith("backbone.layers.") for name in names) // 2

    def step(
        self, batch: Iterable[torch.Tensor], state: np.ndarray, *, learning_rate: float, clip: float
    ) -> tuple[float, np.ndarray]:
        """Train on one batch; return the loss (nats per step) before it, and the state after it.

        Shape: inputs and targets `(B, T, L)`, ends and mask `(B, T)`, first `(B,)`; state, the last inputs of each row,
        `(B, window - 1, H)`, zeros where a piece begins. `clip`: maximum norm of the gradient.
        """
        total, count, state = self.nll(batch, state)
        loss = total / count
        self.optimizer.zero()
        loss.backward()
        clip_norm(self.optimizer.parameters, clip)
        self.optimizer.learning_rate = learning_rate
        self.optimizer.step()
        with torch.no_grad():
            for name, parameter in self.torch_parameters.items():
                parameter.copy_(torch.from_numpy(self.values[name].data))
        return loss.item(), state

    def nll(self, batch: Iterable[torch.Tensor], state: np.ndarray) -> tuple[Value, int, np.ndarray]:
        """Return the negative log-likelihood in nats summed over a batch, its number of steps, and the state after."""
        inputs, targets, ends, mask, first = (tensor.numpy() for tensor in batch)
        vectors = self._partial_sums(inputs)[-1]
        entered = concatenate([state, self._linear("in_proj", vectors)], axis=1)
        window, steps = state.shape[1] + 1, inputs.shape[1]
        h = entered[:, np.arange(steps)[:, None] + np.arange(window)].reshape(*inputs.shape[:2], -1)
        for layer in range(self.layers):
            h = self._linear(f"backbone.layers.{layer}", h).silu()
        context = self._linear("out_proj", self._norm("norm", h)) + self._linear("skip_proj", vectors)
        width = context.shape[-1]
        end = self._linear("ending", context)[..., 0]
        kind = end.data.dtype
        event = end.softplus() - end * ends.astype(kind)
        next_step = self._step_nll(context.reshape(-1, width), targets.reshape(-1, targets.shape[-1]))
        total = (next_step * (mask & ~ends).astype(kind).reshape(-1)).sum() + (event * mask.astype(kind)).sum()
        begun = inputs[first, 0]
        if len(begun):
            bos_context = self.values["bos"].reshape(1, width) + np.zeros((len(begun), width), kind)
            total = total + self._step_nll(bos_context, begun).sum()
        return total, int(mask.sum()) + len(begun), entered.data[:, steps:].copy()

    def _partial_sums(self, codes: np.ndarray) -> Value:
        """Return the sums `(L, ..., P)` of the vectors of levels 0 to l, for codes `(..., L)`."""
        table = self.values["head.embedding.vectors"]
        level = np.arange(codes.shape[-1]).reshape(-1, *[1] * (codes.ndim - 1))
        return table[level, np.moveaxis(codes, -1, 0)].cumsum(0) * math.sqrt(table.shape[-1])

    def _step_nll(self, context: Value, target: np.ndarray) -> Value:
        """Return the negative log-likelihood of steps, `(N,)`: context `(N, W)`, target `(N, L)`."""
        levels, count = target.shape[1], len(target)
        partial = self._partial_sums(target)[: levels - 1]
        nothing = np.zeros((1, count, partial.shape[-1]), partial.data.dtype)
        level = self.values["head.level"].reshape(levels, 1, -1)
        h = (context + self._linear("head.partial_proj", concatenate([nothing, partial])) + level).silu()
        h = h + self._linear("head.outer", self._linear("head.inner", self._norm("head.norm_in", h)).silu())
        out = self.values["head.embedding.vectors"].transpose(0, 2, 1)
        masked = np.where(self.unused, MASKED, np.float32(0))[:, None]
        bias = self.values["head.bias"].reshape(levels, 1, -1) + masked
        logs = (self._norm("head.norm_out", h) @ out + bias).log_softmax(-1)
        return -logs[np.arange(levels)[:, None], np.arange(count), target.T].sum(0)

    def _linear(self, name: str, x: Value) -> Value:
        return x @ self.values[f"{name}.weight"].transpose(1, 0) + self.values[f"{name}.bias"]

    def _norm(self, name: str, x: Value) -> Value:
        return layer_norm(x, self.values[f"{name}.weight"], self.values[f"{name}.bias"])

    def moments(self) -> Moments:
        """Return the optimizer's state as torch's AdamW keeps it, so that either engine can resume."""
        moments = {}
        for index, (steps, *arrays) in enumerate(self.optimizer.moments):
            if steps:
                mean, square = map(torch.from_numpy, arrays)
                moments[index] = {"step": torch.tensor(float(steps)), "exp_avg": mean, "exp_avg_sq": square}
        return moments

    def load(self, moments: Moments) -> None:
        """Copy the torch model's parameters again, and load the optimizer's state."""
        for name, parameter in self.torch_parameters.items():
            self.values[name].data = parameter.detach().cpu().numpy().copy()
        for index, saved in moments.items():
            arrays = saved["exp_avg"].cpu().numpy().copy(), saved["exp_avg_sq"].cpu().numpy().copy()
            self.optimizer.moments[index] = (int(saved["step"]), *arrays)

"""Learn from scratch in NumPy alone: perceptrons of differentiable values, losses, optimizers, a trainer and a test.

    model = MLP((2, 8, 3), task="softmax", seed=0)
    trainer = Trainer(model, model.loss, SGD(model.parameters(), 0.1, momentum=0.9), seed=0)
    trainer.fit(x, classes, epochs=50, batch_size=32)

Any other model is a `Module` with values as attributes and a `__call__`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, DTypeLike
from safetensors import SafetensorError

from continuo.engine.value import Array, Operand, Value
from continuo.system.files import atomic_write

Choice = TypeVar("Choice")

# Losses are means over all examples. Those of classification take logits, so that no logarithm of 0 can occur.


def squared_error(values: Value, targets: ArrayLike) -> Value:
    """Return the mean of (value - target)^2, both of one shape."""
    return ((values - _of_same_shape(targets, values)) ** 2).mean()


def binary_cross_entropy(logits: Value, targets: ArrayLike) -> Value:
    """Return -log p of targets from 0 to 1 in nats, log(1 + e^z) - t z, both of one shape."""
    array = _of_same_shape(targets, logits)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"targets must lie between 0 and 1, not between {array.min():g} and {array.max():g}")
    return (logits.softplus() - logits * array).mean()


def cross_entropy(logits: Value, classes: ArrayLike) -> Value:
    """Return -log p of the right class in nats. Shape: logits `(..., C)`, classes `(...)` integers from 0 to C - 1.

    >>> round(cross_entropy(Value([[0.0, 0.0], [1000.0, -1000.0]]), [1, 0]).item(), 4)  # (log 2 + 0) / 2
    0.3466
    """
    right, count = np.asarray(classes), logits.shape[-1]
    if right.dtype.kind not in "iu" or right.shape != logits.shape[:-1]:
        expected = f"logits of shape {logits.shape} need integer classes of shape {logits.shape[:-1]}"
        raise ValueError(f"{expected}, not {right.dtype} of shape {right.shape}")
    outside = right[(right < 0) | (right >= count)]
    if outside.size:
        raise ValueError(f"class {outside[0]} is out of range: these logits know 0 to {count - 1}")
    return -logits.log_softmax().reshape(-1, count)[np.arange(right.size), right.ravel()].mean()


def _of_same_shape(targets: ArrayLike, values: Value) -> Array:
    """Return targets as an array; broadcasting `(N,)` against `(N, 1)` would train on wrong pairs."""
    array = np.asarray(targets, values.data.dtype)
    if array.shape != values.shape:
        raise ValueError(f"targets of shape {array.shape} do not match the output of the model, {values.shape}")
    return array


Loss: TypeAlias = Callable[[Value, Array], Value]
TASKS: dict[str, tuple[Loss, Callable[[Value], Value]]] = {  # loss of logits, and the function from logits to an answer
    "softmax": (cross_entropy, Value.softmax),
    "sigmoid": (binary_cross_entropy, Value.sigmoid),
    "regression": (squared_error, lambda values: values),
}
ACTIVATIONS: dict[str, tuple[Callable[[Value], Value], int]] = {  # with the variance of weights times their inputs
    "tanh": (Value.tanh, 1),
    "relu": (Value.relu, 2),  # He et al. 2015
    "silu": (Value.silu, 2),
    "linear": (lambda values: values, 1),
}


def _choice(kind: str, name: str, table: Mapping[str, Choice]) -> Choice:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]


class Module(ABC):
    """Holds parameters: values, modules and lists of them among its attributes, named by the path to them."""

    @abstractmethod
    def __call__(self, x: Operand) -> Value: ...

    def named_parameters(self) -> Iterator[tuple[str, Value]]:
        for name, held in vars(self).items():
            parts = {f"{name}.{i}": part for i, part in enumerate(held)} if isinstance(held, list) else {name: held}
            for key, part in parts.items():
                if isinstance(part, Value):
                    yield key, part
                elif isinstance(part, Module):
                    yield from ((f"{key}.{inner}", value) for inner, value in part.named_parameters())

    def parameters(self) -> list[Value]:
        return list(dict.fromkeys(value for _, value in self.named_parameters()))

    def state(self) -> dict[str, Array]:
        """Return a copy of every parameter."""
        return {name: value.data.copy() for name, value in self.named_parameters()}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Load the parameters of a model of the same shape; a ValueError for another state leaves all as it was."""
        values = dict(self.named_parameters())
        arrays = {name: np.array(array) for name, array in state.items()}
        if unmatched := sorted(values.keys() ^ arrays.keys()):
            raise ValueError(f"the state is of another model: {', '.join(unmatched)} stands on one side only")
        for name, value in values.items():
            if arrays[name].shape != value.shape:
                raise ValueError(f"the state is of another model: {name} is {arrays[name].shape}, not {value.shape}")
        for name, value in values.items():
            value.data = arrays[name].astype(value.data.dtype)

    def save(self, path: str | Path) -> None:
        """Write the parameters to a safetensors file, whole or not at all."""
        with atomic_write(Path(path)) as temporary:
            safetensors.numpy.save_file(self.state(), temporary)

    def load(self, path: str | Path) -> None:
        """Load the parameters that `save` wrote; raise ValueError if the file holds something else."""
        try:
            self.load_state(safetensors.numpy.load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file ({error})") from None


class Neuron(Module):
    """One unit, activation(x . weight + bias): `(..., inputs)` to `(...)`."""

    def __init__(self, inputs: int, activation: str, rng: np.random.Generator) -> None:
        self.activate, variance = _choice("activation", activation, ACTIVATIONS)
        self.weight = Value(rng.standard_normal(inputs) * math.sqrt(variance / inputs))
        self.bias = Value(0.0)

    def __call__(self, x: Operand) -> Value:
        return self.activate(x @ self.weight + self.bias)


class Layer(Module):
    """Neurons as one matrix product, with the weights of neurons drawn in turn: `(..., inputs)` to `(..., outputs)`."""

    def __init__(self, inputs: int, outputs: int, activation: str, rng: np.random.Generator) -> None:
        self.activate, variance = _choice("activation", activation, ACTIVATIONS)
        self.weight = Value((rng.standard_normal((outputs, inputs)) * math.sqrt(variance / inputs)).T.copy())
        self.bias = Value(np.zeros(outputs))

    def __call__(self, x: Operand) -> Value:
        x = x if isinstance(x, Value) else np.asarray(x)
        if x.shape[-1:] != self.weight.shape[:1]:
            raise ValueError(f"the layer takes {len(self.weight.data)} numbers a row, not an input of shape {x.shape}")
        return self.activate(x @ self.weight + self.bias)


class MLP(Module):
    """A multi-layer perceptron; the last layer is linear.

    Args:
        widths: numbers of inputs, of hidden units in each layer, and of outputs.
        task: "softmax" (one class of several), "sigmoid" (yes or no for each output) or "regression".
        activation: of the hidden layers, "tanh", "relu", "silu" or "linear".
        dtype: precision of the parameters; float32 input stays float32 in a float32 model.
    """

    def __init__(
        self, widths: Sequence[int], *, task: str, activation: str = "tanh", seed: int, dtype: DTypeLike = np.float64
    ) -> None:
        self.loss, self.answer = _choice("task", task, TASKS)
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths {tuple(widths)}: give inputs, hidden units and outputs, all above 0")
        rng = np.random.default_rng(seed)
        activations = [activation] * (len(widths) - 2) + ["linear"]
        self.layers = [Layer(*sizes, rng) for sizes in zip(widths, widths[1:], activations, strict=False)]
        for value in self.parameters():
            value.data = value.data.astype(dtype)

    def __call__(self, x: Operand) -> Value:
        """Return logits, or the values of a regression: `(..., inputs)` to `(..., outputs)`."""
        values = self.layers[0](x)
        for layer in self.layers[1:]:
            values = layer(values)
        return values

    def predict(self, x: Operand) -> Array:
        """Return probabilities, or the values of a regression: `(..., inputs)` to `(..., outputs)`."""
        return self.answer(self(x)).data


class Optimizer(ABC):
    """Moves parameters against their gradients; `learning_rate`, above 0, may change between steps."""

    def __init__(self, parameters: Iterable[Value], learning_rate: float) -> None:
        if not learning_rate > 0:
            raise ValueError(f"the learning rate must be above 0, not {learning_rate}")
        self.parameters, self.learning_rate = list(parameters), learning_rate

    def zero(self) -> None:
        for parameter in self.parameters:
            parameter.gradient = None

    def step(self) -> None:
        """Move every parameter that has a gradient once. Arrays are replaced, never written to."""
        for index, parameter in enumerate(self.parameters):
            if parameter.gradient is not None:
                moved = parameter.data - self._change(index, parameter.data, parameter.gradient)
                parameter.data = np.asarray(moved, parameter.data.dtype)

    @abstractmethod
    def _change(self, index: int, data: Array, gradient: Array) -> Array:
        """Return what to subtract from parameter `index`."""


class SGD(Optimizer):
    """Gradient descent with momentum (Polyak 1964), which `velocities` hold; weight decay counts as gradient."""

    def __init__(
        self, parameters: Iterable[Value], learning_rate: float, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities = [np.zeros_like(parameter.data) for parameter in self.parameters]

    def _change(self, index: int, data: Array, gradient: Array) -> Array:
        self.velocities[index] = self.momentum * self.velocities[index] + gradient + self.weight_decay * data
        return self.learning_rate * self.velocities[index]


class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient (Loshchilov, Hutter 2019); `moments`: steps, mean, mean square."""

    def __init__(
        self,
        parameters: Iterable[Value],
        learning_rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.moments = [(0, np.zeros_like(p.data), np.zeros_like(p.data)) for p in self.parameters]

    def _change(self, index: int, data: Array, gradient: Array) -> Array:
        beta1, beta2 = self.betas
        steps, mean, square = self.moments[index]
        steps += 1
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        self.moments[index] = steps, mean, square
        # Both means begin at 0, so they are divided by the sum of their weights.
        direction = mean / (1 - beta1**steps) / (np.sqrt(square / (1 - beta2**steps)) + self.epsilon)
        return self.learning_rate * (direction + self.weight_decay * data)


def clip_norm(parameters: Iterable[Value], max_norm: float) -> float:
    """Scale all gradients together so that their norm is at most `max_norm`; return the norm before."""
    held = [(parameter, parameter.gradient) for parameter in parameters if parameter.gradient is not None]
    norm = math.sqrt(math.fsum(np.vdot(gradient, gradient) for _, gradient in held))
    for parameter, gradient in held:
        parameter.gradient = gradient * min(1.0, max_norm / (norm + 1e-6))
    return norm


class Metrics(NamedTuple):
    """The mean loss over all examples, and the fraction of right answers or None where the loss has none."""

    loss: float
    accuracy: float | None

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f", accuracy {100 * self.accuracy:.1f} %"
        return f"loss {self.loss:.4f}{right}"


IS_RIGHT: dict[Loss, Callable[[Array, Array], Array]] = {
    cross_entropy: lambda logits, classes: logits.argmax(-1) == classes,
    binary_cross_entropy: lambda logits, targets: (logits > 0) == (targets > 0.5),
}


def evaluate(model: Module, loss: Loss, x: ArrayLike, y: ArrayLike, *, batch_size: int = 1024) -> Metrics:
    """Return loss and accuracy of a model on examples; rows as in `Trainer.fit`."""
    inputs, targets = _examples(x, y, batch_size)
    losses, right = [], []
    for start in range(0, len(inputs), batch_size):
        batch = slice(start, start + batch_size)
        logits = model(inputs[batch])
        losses.append(loss(logits, targets[batch]).item() * len(inputs[batch]))
        if loss in IS_RIGHT:
            right.append(IS_RIGHT[loss](logits.data, targets[batch]).ravel())
    return Metrics(math.fsum(losses) / len(inputs), float(np.concatenate(right).mean()) if right else None)


class Trainer:
    """Trains a model on mini-batches, shuffled by a seed; gradients are clipped to the norm `max_norm`."""

    def __init__(
        self, model: Module, loss: Loss, optimizer: Optimizer, *, seed: int, max_norm: float = math.inf
    ) -> None:
        self.model, self.loss, self.optimizer, self.max_norm = model, loss, optimizer, max_norm
        self._rng = np.random.default_rng(seed)

    def fit(self, x: ArrayLike, y: ArrayLike, epochs: int, batch_size: int) -> list[float]:
        """Train on all examples `epochs` times, continuing earlier calls; return the mean loss of every epoch.

        Shape: x `(N, ...)`, y `(N, ...)`, one example per row. Raise ValueError if x and y have no rows or differ in
        their number, the batch is empty, or the loss is not finite.
        """
        inputs, targets = _examples(x, y, batch_size)
        history = []
        for _ in range(epochs):
            order = self._rng.permutation(len(inputs))
            batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
            losses = [self._step(inputs[batch], targets[batch]) * len(batch) for batch in batches]
            history.append(math.fsum(losses) / len(order))
        return history

    def test(self, x: ArrayLike, y: ArrayLike) -> Metrics:
        """Return loss and accuracy on examples."""
        return evaluate(self.model, self.loss, x, y)

    def _step(self, x: Array, y: Array) -> float:
        self.optimizer.zero()
        loss = self.loss(self.model(x), y)
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss became {loss.item()}: lower the learning rate, or look for odd numbers in x")
        loss.backward()
        if math.isfinite(self.max_norm):
            clip_norm(self.optimizer.parameters, self.max_norm)
        self.optimizer.step()
        return loss.item()


def _examples(x: ArrayLike, y: ArrayLike, batch_size: int) -> tuple[Array, Array]:
    inputs, targets = np.asarray(x), np.asarray(y)
    if not inputs.ndim or not targets.ndim or not 0 < len(inputs) == len(targets):
        raise ValueError(f"x of shape {inputs.shape} and y of shape {targets.shape}: give as many rows of both")
    if batch_size < 1:
        raise ValueError(f"a batch needs at least 1 example, not {batch_size}")
    return inputs, targets

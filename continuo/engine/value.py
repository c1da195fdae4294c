"""Differentiable numbers: a `Value` remembers how it was computed, so that `backward` finds the derivatives.

For each operand a value keeps a function from its own gradient to that of the operand (reverse mode: Linnainmaa 1970).
Only values are differentiated; plain numbers and arrays are constants, on either side of an operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, Union, cast

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]
Operand: TypeAlias = Union["Value", npt.ArrayLike]
Axis: TypeAlias = int | tuple[int, ...] | None
Pull: TypeAlias = Callable[[Array], Array]  # from the gradient of a result to that of an operand
UnaryPull: TypeAlias = Callable[[Array, Array, Array], Array]  # of y at x, from the gradient of y, x and y
BinaryPull: TypeAlias = Callable[[Array, Array, Array, Array], Array]  # of y at a and b, from the gradient, a, b and y
Binary: TypeAlias = Callable[[Operand, Operand], "Value"]


def _raw(operand: Operand) -> Array:
    """Return the numbers of an operand; a constant becomes a float of Python, which takes any precision it meets."""
    if isinstance(operand, Value):
        return operand.data
    return cast("Array", float(operand)) if isinstance(operand, int | float | np.integer) else np.asarray(operand)


def _result(data: npt.ArrayLike, *edges: tuple[Operand, Pull]) -> Value:
    value = Value(data)
    value._edges = tuple((operand, pull) for operand, pull in edges if isinstance(operand, Value))
    return value


def _unary(function: Callable[[Array], Array], pull: UnaryPull) -> Callable[[Value], Value]:
    """Return an operation on each number; `pull` returns the gradient of x."""

    def apply(value: Value) -> Value:
        x, y = value.data, function(value.data)
        return _result(y, (value, lambda g: pull(g, x, y)))

    return apply


def _binary(function: Callable[..., Array], pull_a: BinaryPull, pull_b: BinaryPull) -> tuple[Binary, Binary]:
    """Return an operation on two operands, and the same with its operands reversed."""

    def apply(left: Operand, right: Operand) -> Value:
        a, b = _raw(left), _raw(right)
        y = function(a, b)
        return _result(y, (left, lambda g: pull_a(g, a, b, y)), (right, lambda g: pull_b(g, a, b, y)))

    return apply, lambda right, left: apply(left, right)


def _fit(gradient: Array, operand: Array) -> Array:
    """Undo broadcasting: sum the gradients of all places where a number was used."""
    if gradient.shape != operand.shape:
        new = gradient.ndim - operand.ndim
        stretched = (axis for axis, n in enumerate(gradient.shape) if axis < new or n != operand.shape[axis - new])
        gradient = gradient.sum(axis=tuple(stretched)).reshape(operand.shape)
    return np.asarray(gradient, operand.dtype)


def _matrices(g: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return g `(..., N, M)`, a `(..., N, K)`, b `(..., K, M)`: vectors are rows on the left, columns on the right."""
    if b.ndim == 1:
        g, b = g[..., None], b[:, None]
    return (g[..., None, :], a[None], b) if a.ndim == 1 else (g, a, b)


def _product_to_left(g: Array, a: Array, b: Array, _: Array) -> Array:
    g, _, b = _matrices(g, a, b)
    return g @ b.swapaxes(-1, -2)


def _product_to_right(g: Array, a: Array, b: Array, _: Array) -> Array:
    vector = b.ndim == 1
    g, a, b = _matrices(g, a, b)
    if b.ndim == 2:  # one product over all rows instead of one for each matrix and then their sum
        a, g = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
    product = a.swapaxes(-1, -2) @ g
    return product[..., 0] if vector else product


def _max_exponent(x: Array) -> float:
    """Return the last whole number of which e^x is finite: 709, or 88 in float32."""
    return float(np.floor(np.log(np.finfo(x.dtype).max)))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


def _log_softmax(x: Array, axis: int) -> Array:
    below = x - x.max(axis, keepdims=True)  # at most 0
    return below - np.log(np.exp(below).sum(axis, keepdims=True))


class Value:
    """A number or an array of numbers, `data`, with a `gradient`; float64 unless given as float32.

    The gradient is the sum over the calls of `backward`; None before, and always in values computed from others.

    >>> x = Value([1.0, 2.0])
    >>> (x * x + 1).sum().backward()
    >>> x.gradient
    array([2., 4.])
    """

    __slots__ = ("__weakref__", "_edges", "data", "gradient")
    __array_ufunc__ = None  # leaves array + value to Value.__radd__

    def __init__(self, data: npt.ArrayLike) -> None:
        array = np.asarray(data)
        self.data: Array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
        self.gradient: Array | None = None
        self._edges: tuple[tuple[Value, Pull], ...] = ()

    def __repr__(self) -> str:
        return f"Value({self.data})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def item(self) -> float:
        return float(self.data.item())

    def backward(self) -> None:
        """Add the derivatives of this number to the `gradient` of every value that it was computed from.

        There is no recursion, so a graph may be as long as memory allows. It stays usable, and is freed with the last
        value that refers to it. ValueError: this is more than one number.
        """
        if self.data.size != 1:
            raise ValueError(f"backward() starts at one number, not at shape {self.shape}: take a sum or a mean first")
        awaited: Counter[Value] = Counter()
        found = [self]
        while found:
            for operand, _ in found.pop()._edges:
                if operand not in awaited:
                    found.append(operand)
                awaited[operand] += 1
        arrived = {self: np.ones_like(self.data)}
        ready = [self]
        while ready:
            value = ready.pop()
            gradient = arrived.pop(value)
            if not value._edges:
                value.gradient = gradient.copy() if value.gradient is None else value.gradient + gradient
            for operand, pull in value._edges:
                part = _fit(pull(gradient), operand.data)
                arrived[operand] = arrived[operand] + part if operand in arrived else part
                awaited[operand] -= 1
                if not awaited[operand]:
                    ready.append(operand)

    # Derivatives: a function, then the gradients of its operands from the gradient g of its result y.

    __add__, __radd__ = _binary(np.add, lambda g, a, b, y: g, lambda g, a, b, y: g)
    __sub__, __rsub__ = _binary(np.subtract, lambda g, a, b, y: g, lambda g, a, b, y: -g)
    __mul__, __rmul__ = _binary(np.multiply, lambda g, a, b, y: g * b, lambda g, a, b, y: g * a)
    __truediv__, __rtruediv__ = _binary(np.divide, lambda g, a, b, y: g / b, lambda g, a, b, y: -g * y / b)
    __pow__, __rpow__ = _binary(
        np.power,
        lambda g, a, b, y: g * b * a ** (b - (b != 0)),  # 0 where b is 0, even at a = 0
        lambda g, a, b, y: g * y * np.log(np.where(a == 0, 1, a)),
    )
    __matmul__, __rmatmul__ = _binary(np.matmul, _product_to_left, _product_to_right)

    __neg__ = _unary(np.negative, lambda g, x, y: -g)
    exp = _unary(lambda x: np.exp(np.minimum(x, _max_exponent(x))), lambda g, x, y: g * y * (x <= _max_exponent(x)))
    log = _unary(np.log, lambda g, x, y: g / x)
    sqrt = _unary(np.sqrt, lambda g, x, y: g / (2 * y))
    tanh = _unary(np.tanh, lambda g, x, y: g * (1 - y * y))
    relu = _unary(lambda x: np.maximum(x, 0), lambda g, x, y: g * (x > 0))
    sigmoid = _unary(_sigmoid, lambda g, x, y: g * y * (1 - y))
    softplus = _unary(lambda x: np.logaddexp(0, x), lambda g, x, y: g * _sigmoid(x))  # log(1 + e^x)

    def silu(self) -> Value:
        return self * self.sigmoid()

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Value:
        total = self.data.sum(axis=axis, keepdims=True)
        y = total if keepdims else total.squeeze(axis)
        return _result(y, (self, lambda g: np.broadcast_to(g.reshape(total.shape), self.shape)))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Value:
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def cumsum(self, axis: int = -1) -> Value:
        # A number is part of all later sums, so its gradient is a sum from the end.
        return _result(self.data.cumsum(axis), (self, lambda g: np.flip(np.flip(g, axis).cumsum(axis), axis)))

    def softmax(self, axis: int = -1) -> Value:
        y = np.exp(_log_softmax(self.data, axis))
        return _result(y, (self, lambda g: y * (g - (g * y).sum(axis, keepdims=True))))

    def log_softmax(self, axis: int = -1) -> Value:
        y = _log_softmax(self.data, axis)
        return _result(y, (self, lambda g: g - np.exp(y) * g.sum(axis, keepdims=True)))

    def reshape(self, *shape: int) -> Value:
        return _result(self.data.reshape(shape), (self, lambda g: g.reshape(self.shape)))

    def transpose(self, *axes: int) -> Value:
        """Return the axes in the order given, or in reverse."""
        order = [axis % self.data.ndim for axis in axes] or [*range(self.data.ndim)][::-1]
        return _result(self.data.transpose(order), (self, lambda g: g.transpose(np.argsort(order))))

    def __getitem__(self, index: Any) -> Value:
        """Return slices, masked numbers, or rows of an embedding as in `table[tokens]`."""

        def scatter(g: Array) -> Array:
            full = np.zeros_like(self.data)
            np.add.at(full, index, g)  # numbers that were taken twice get both gradients
            return full

        return _result(self.data[index], (self, scatter))


maximum, _ = _binary(  # equal numbers share the gradient
    np.maximum,
    lambda g, a, b, y: g * ((a > b) + 0.5 * (a == b)),
    lambda g, a, b, y: g * ((b > a) + 0.5 * (a == b)),
)


def where(mask: npt.ArrayLike, chosen: Operand, otherwise: Operand) -> Value:
    """Return `chosen` where the mask is true, else `otherwise`; the gradient goes only to the numbers taken."""
    taken = np.where(mask, _raw(chosen), _raw(otherwise))
    return _result(taken, (chosen, lambda g: np.where(mask, g, 0)), (otherwise, lambda g: np.where(mask, 0, g)))


def concatenate(parts: Sequence[Operand], axis: int = 0) -> Value:
    """Join values along an existing axis."""
    data = [_raw(part) for part in parts]
    ends = np.cumsum([array.shape[axis] for array in data])

    def cut(array: Array, end: int) -> Pull:
        return lambda g: g.take(range(end - array.shape[axis], end), axis)

    return _result(np.concatenate(data, axis), *zip(parts, map(cut, data, ends), strict=True))


def layer_norm(x: Value, scale: Operand = 1.0, shift: Operand = 0.0, *, epsilon: float = 1e-5) -> Value:
    """Normalize the last axis to mean 0 and variance 1, then scale and shift it (Ba, Kiros and Hinton 2016)."""
    centered = x - x.mean(-1, keepdims=True)
    return centered / ((centered**2).mean(-1, keepdims=True) + epsilon).sqrt() * scale + shift

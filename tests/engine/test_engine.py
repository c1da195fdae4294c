"""The engine against torch, operation by operation and on random graphs; training, saving and refusals."""

import contextlib
import gc
import math
import re
import weakref
from itertools import chain

import numpy as np
import perceptron
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.engine.network import (
    MLP,
    SGD,
    AdamW,
    Layer,
    Metrics,
    Module,
    Neuron,
    Trainer,
    binary_cross_entropy,
    clip_norm,
    cross_entropy,
    evaluate,
    squared_error,
)
from continuo.engine.value import Value, concatenate, layer_norm, maximum, where

XOR = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0.0], [1], [1], [0]])


def rng(seed=0):
    return np.random.default_rng(seed)


def tensor(array):
    return torch.tensor(array, requires_grad=True)


def strict():
    """Make every overflow, division by zero and nan an error."""
    return np.errstate(over="raise", divide="raise", invalid="raise")


def assert_like_torch(ours, theirs, arrays, tolerance=1e-9):
    """Compare results, and the gradients of every array from a random direction."""
    values, tensors = [Value(array) for array in arrays], [tensor(array) for array in arrays]
    got, want = ours(*values), theirs(*tensors)
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=tolerance, atol=tolerance)
    direction = rng(9).standard_normal(got.shape)
    (got * direction).sum().backward()
    (want * torch.tensor(direction)).sum().backward()
    for value, leaf in zip(values, tensors, strict=True):
        if leaf.grad is None:
            assert value.gradient is None
        else:
            assert value.gradient.shape == value.shape
            np.testing.assert_allclose(value.gradient, leaf.grad.numpy(), rtol=tolerance, atol=tolerance)


# Operations. One function serves both where the names agree.

BOTH = {
    "3 - x": lambda x: 3 - x,
    "x - 3": lambda x: x - 3,
    "2 / x": lambda x: 2 / x,
    "x / 2": lambda x: x / 2,
    "-x": lambda x: -x,
    "x + 1": lambda x: x + 1,
    "1 + x": lambda x: 1 + x,
    "3 * x": lambda x: 3 * x,
    "x * x": lambda x: x * x,
    "x ** 2": lambda x: x**2,
    "x ** -3": lambda x: x**-3,
    "x ** 0": lambda x: x**0,
    "|x| ** 0.5": lambda x: (x * x) ** 0.25,
    "2 ** x": lambda x: 2**x,
    "x ** x": lambda x: (x * x) ** x,
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x).log(),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "tanh": lambda x: x.tanh(),
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "reused": lambda x: x.tanh() * x + x.tanh().exp() / (1 + x.tanh() ** 2),
}
BOTH_ARRAYS = {  # of shape (2, 3, 4)
    "sum of an axis": lambda x: x.sum(1),
    "sum kept": lambda x: x.sum(-1, True),
    "mean of an axis": lambda x: x.mean(0),
    "mean of two axes": lambda x: x.mean((0, 2)),
    "mean kept": lambda x: x.mean((-1, 0), True),
    "cumsum": lambda x: x.cumsum(1),
    "cumsum of the last": lambda x: x.cumsum(-1),
    "softmax": lambda x: x.softmax(-1),
    "softmax of the first": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(1),
    "reshape": lambda x: x.reshape(6, -1),
    "slice": lambda x: x[:, 1:, ::2],
    "one": lambda x: x[1, 2, 3],
    "ellipsis": lambda x: x[..., -1],
    "new axis": lambda x: x[:, None],
    "gather with repeats": lambda x: x[[1, 0, 1, 1]],
    "gather of pairs": lambda x: x[[0, 1, 0], [2, 2, 2]],
    "mask": lambda x: x[np.arange(24).reshape(2, 3, 4) % 5 == 0],
}
APART = {
    "silu": (Value.silu, F.silu),
    "softplus": (Value.softplus, F.softplus),
    "reversed axes": (lambda x: x.transpose(), lambda x: x.permute(2, 1, 0)),
    "ordered axes": (lambda x: x.transpose(1, 2, 0), lambda x: x.permute(1, 2, 0)),
    "axes from behind": (lambda x: x.transpose(-1, 0, -2), lambda x: x.permute(2, 0, 1)),
    "layer_norm": (layer_norm, lambda x: F.layer_norm(x, (4,))),
    "where": (
        lambda x: where(x.data > 0.3, x, 2 * x),
        lambda x: torch.where(x > 0.3, x, 2 * x),
    ),
    "masked": (
        lambda x: where(np.tri(3, 4) > 0, x, -np.inf).softmax(),
        lambda x: x.masked_fill(torch.tensor(np.tri(3, 4) == 0), -torch.inf).softmax(-1),
    ),
    "clamped": (lambda x: maximum(x, 0.2), lambda x: torch.maximum(x, torch.full_like(x, 0.2))),
    "equals": (lambda x: maximum(x, x.relu()), lambda x: torch.maximum(x, x.relu())),
}
OPERATIONS = {name: (both, both) for name, both in (BOTH | BOTH_ARRAYS).items()} | APART


@pytest.mark.parametrize("name", OPERATIONS)
def test_E01_operation_equals_torch(name):
    assert_like_torch(*OPERATIONS[name], [rng().standard_normal((2, 3, 4))])


@pytest.mark.parametrize("name", BOTH)
def test_E01_operation_on_one_number_equals_torch(name):
    assert_like_torch(*OPERATIONS[name], [np.array(0.7)])
    assert_like_torch(*OPERATIONS[name], [np.array(-1.3)])


BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: (a * a) ** b,
}
SHAPES = [
    ((), ()),
    ((3,), ()),
    ((), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((4, 1, 3), (2, 1)),
    ((1, 1), (5, 2, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", [*BINARY, "maximum", "where"])
def test_E01_gradient_of_a_broadcast_operand_has_its_shape(name, shapes):
    mask = np.arange(3) > 0
    special = {
        "maximum": (maximum, torch.maximum),
        "where": (lambda a, b: where(mask, a, b), lambda a, b: torch.where(torch.tensor(mask), a, b)),
    }
    ours, theirs = special.get(name) or (BINARY[name], BINARY[name])
    assert_like_torch(ours, theirs, [rng(i).standard_normal(shape) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize("name", BINARY)
def test_E01_operation_with_constants_on_either_side_equals_torch(name):
    operation, x = BINARY[name], rng().standard_normal((2, 3))
    for constant in (rng(1).standard_normal(3), np.array([[2.0], [-1.0]]), 2, 0.5, np.float64(1.5), np.int64(3)):
        other = torch.tensor(constant) if isinstance(constant, np.ndarray) else float(constant)
        assert_like_torch(lambda v, c=constant: operation(v, c), lambda v, c=other: operation(v, c), [x])
        assert_like_torch(lambda v, c=constant: operation(c, v), lambda v, c=other: operation(c, v), [x])


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((6, 1, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 4)),
    ],
)
def test_E01_matmul_equals_torch(shapes):
    a, b = (rng(i).standard_normal(shape) for i, shape in enumerate(shapes))
    assert_like_torch(lambda x, y: x @ y, lambda x, y: x @ y, [a, b])
    assert_like_torch(lambda x: x @ b, lambda x: x @ torch.tensor(b), [a])
    assert_like_torch(lambda y: a @ y, lambda y: torch.tensor(a) @ y, [b])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_E01_concatenate_equals_torch(axis):
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for n, shape in enumerate(shapes):
        shape[axis] = n + 1
    parts = [rng(i).standard_normal(shape) for i, shape in enumerate(shapes)]
    assert_like_torch(lambda *x: concatenate(x, axis), lambda *x: torch.cat(x, axis), parts)
    constant = parts[1]
    assert_like_torch(
        lambda a, b: concatenate([a, constant, b], axis),
        lambda a, b: torch.cat([a, torch.tensor(constant), b], axis),
        [parts[0], parts[2]],
    )


def test_E01_layer_norm_with_scale_and_shift_equals_torch():
    assert_like_torch(
        layer_norm,
        lambda x, scale, shift: F.layer_norm(x, (5,), scale, shift),
        [rng().standard_normal((3, 5)), rng(1).standard_normal(5), rng(2).standard_normal(5)],
    )


def test_E01_slopes_at_zero_equal_torch():
    with strict():
        assert_like_torch(lambda x: x.relu(), lambda x: x.relu(), [np.array([0.0, -0.0])])
        for exponent in (0, 1, 2, 3):
            assert_like_torch(lambda x, n=exponent: x**n, lambda x, n=exponent: x**n, [np.array([0.0, 2.0])])
        assert_like_torch(lambda b: 0.0**b, lambda b: 0.0**b, [np.array([1.0, 2.0])])


def test_E01_where_keeps_infinite_slopes_out():
    x, mask = Value([4.0, 9.0]), [True, False]
    with np.errstate(divide="ignore"):
        where(mask, x, 0.0).sqrt().sum().backward()
    np.testing.assert_array_equal(x.gradient, [0.25, 0.0])


# Random graphs: every step uses results of earlier steps, so that values are used many times or never.

UNARY = {
    "1 - x": lambda x: 1 - x,
    "2 / x": lambda x: 2 / (x * x + 1),
    "2 ** x": lambda x: 2 ** x.tanh(),
    "x ** 3": lambda x: x**3,
    "-x": lambda x: -x,
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: x.tanh().exp(),
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "log": lambda x: (x * x + 0.5).log(),
    "sqrt": lambda x: (x * x + 0.5).sqrt(),
    "mean": lambda x: x.mean(),
    "flat": lambda x: x.reshape(-1),
    "sum": lambda x: x.reshape(1, -1).sum(1, True),
    "cumsum": lambda x: x.reshape(-1).cumsum(0),
    "softmax": lambda x: x.reshape(1, -1).softmax(-1),
    "log_softmax": lambda x: x.reshape(1, -1).log_softmax(-1),
    "gather": lambda x: x.reshape(-1)[[0, -1, 0]],
    "slice": lambda x: x.reshape(-1)[::2],
}
STEPS = {name: (both, both) for name, both in UNARY.items()} | {
    "silu": (Value.silu, F.silu),
    "transpose": (lambda x: x.transpose(), lambda x: x.permute(tuple(range(x.ndim)[::-1]))),
    "layer_norm": (lambda x: layer_norm(x.reshape(1, -1)), lambda x: F.layer_norm(x.reshape(1, -1), (x.numel(),))),
}
PAIRS = {
    "+": (lambda a, b: a + b,) * 2,
    "-": (lambda a, b: a - b,) * 2,
    "*": (lambda a, b: a * b,) * 2,
    "/": (lambda a, b: a / (b * b + 1),) * 2,
    "**": (lambda a, b: (a * a + 0.5) ** b.tanh(),) * 2,
    "@": (lambda a, b: a.reshape(-1, 1) @ b.reshape(1, -1),) * 2,
    "maximum": (maximum, torch.maximum),
    "concatenate": (
        lambda a, b: concatenate([a.reshape(-1), b.reshape(-1)]),
        lambda a, b: torch.cat([a.reshape(-1), b.reshape(-1)]),
    ),
}
WIDEST = 200  # numbers in one value


def run(program, leaves, side):
    """Return the sum of all values that a program computes with the engine (side 0) or torch (side 1)."""
    made = list(leaves)
    for name, first, second in program:
        a, b = made[first % len(made)], made[second % len(made)]
        if name in STEPS:
            result = STEPS[name][side](a)
        else:
            with contextlib.suppress(ValueError):
                np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
                made.append(PAIRS[name][side](a, b).tanh())
                continue
            result = PAIRS[name][side](a, b.mean())
        if math.prod(result.shape) > WIDEST:
            result = result.mean()
        made.append(result.tanh())
    return sum(value.sum() for value in made[len(leaves) :])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (2, 1), (2, 3), (4, 1, 3), (4, 2, 1)]), min_size=1, max_size=4),
    program=st.lists(
        st.tuples(st.sampled_from([*STEPS, *PAIRS]), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=15
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_E01_random_graphs_have_the_gradients_of_torch(shapes, program, seed):
    draw = rng(seed)
    arrays = [draw.standard_normal(shape) for shape in shapes]
    values, tensors = [Value(array) for array in arrays], [tensor(array) for array in arrays]
    ours, theirs = run(program, values, 0), run(program, tensors, 1)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-9)
    ours.backward()
    theirs.backward()
    for value, leaf in zip(values, tensors, strict=True):
        want = np.zeros(value.shape) if leaf.grad is None else leaf.grad.numpy()
        got = np.zeros(value.shape) if value.gradient is None else value.gradient
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


# The graph.


def test_E01_chain_of_100_000_operations_is_differentiated():
    x = Value(0.5)
    value = x
    for _ in range(50_000):
        value = value * 1.0001 + 1e-6
    value.backward()
    assert x.gradient == pytest.approx(1.0001**50_000, rel=1e-9)


def test_E01_graph_is_freed_without_the_garbage_collector():
    x = Value(0.5)
    gc.disable()
    try:
        inner = value = x.tanh()
        watched = weakref.ref(inner)
        del inner
        for _ in range(10_000):
            value = (value + value[None][0]) * 0.5
        value.backward()
        assert watched() is not None
        del value
        assert watched() is None
    finally:
        gc.enable()


def test_E01_value_on_exponentially_many_paths_is_visited_once():
    x = value = Value(1.0)
    for _ in range(60):
        value = (value * 1.0) + value  # the shorter way must wait for the longer
    value.backward()
    assert x.gradient == 2.0**60


def test_E01_gradients_add_up_over_calls_in_leaves_only():
    x = Value([1.0, 2.0])
    square = x * x
    total = square.sum()
    total.backward()
    total.backward()
    np.testing.assert_array_equal(x.gradient, [4.0, 8.0])
    assert square.gradient is None


def test_E01_gradients_of_two_values_are_two_arrays():
    x, y = Value([1.0, 2.0]), Value([3.0, 4.0])
    (x + y).sum().backward()
    x.gradient *= 5
    np.testing.assert_array_equal(y.gradient, [1.0, 1.0])


def test_E01_float32_stays_float32():
    x = Value(np.ones((2, 3), np.float32))
    y = layer_norm(2 / (x.exp() + np.float64(0.5)) ** 2 - 1).softmax().silu().mean() * np.int64(3)
    assert y.data.dtype == np.float32
    (y + Value(np.float64(1))).backward()
    assert x.gradient.dtype == np.float32
    assert Value([1, 2]).data.dtype == Value(True).data.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_E01_extremes_are_finite_without_warnings(dtype):
    extremes = np.array([[-1000, 0, 1000], [1000, -1000, 1000]], dtype)
    for name in ("exp", "sigmoid", "softplus", "silu", "tanh", "relu", "softmax", "log_softmax"):
        x = Value(extremes)
        with strict():
            y = getattr(x, name)()
            (y * 0.01).sum().backward()
        assert np.isfinite(y.data).all(), name
        assert np.isfinite(x.gradient).all(), name
        if name != "exp":
            theirs = getattr(F, name)(torch.tensor(extremes), *[-1] * ("softmax" in name))
            np.testing.assert_allclose(y.data, theirs, rtol=1e-6, atol=1e-30)
    assert Value(np.array(-1000, dtype)).exp().item() == 0
    assert Value(np.array(1000, dtype)).exp().item() > 0.1 * np.finfo(dtype).max


def test_E01_exp_and_sigmoid_of_large_numbers_are_precise():
    x = np.array([-700.0, -40, -1, 0, 1, 40, 700])
    np.testing.assert_allclose(Value(x).exp().data, np.exp(x), rtol=1e-15)
    np.testing.assert_allclose(Value(x).sigmoid().data, torch.tensor(x).sigmoid(), rtol=1e-14)


# Losses.

LOGITS = rng().standard_normal((5, 4)) * 3
CASES = {
    "squared_error": (squared_error, F.mse_loss, rng(1).standard_normal((5, 4))),
    "binary_cross_entropy": (binary_cross_entropy, F.binary_cross_entropy_with_logits, rng(1).random((5, 4))),
    "cross_entropy": (cross_entropy, F.cross_entropy, np.array([0, 3, 3, 1, 2])),
}


@pytest.mark.parametrize("name", CASES)
def test_E03_losses_equal_torch(name):
    ours, theirs, targets = CASES[name]
    assert_like_torch(lambda z: ours(z, targets), lambda z: theirs(z, torch.tensor(targets)), [LOGITS])


def test_E03_cross_entropy_of_sequences_equals_torch():
    logits, classes = rng().standard_normal((2, 3, 4)), rng().integers(0, 4, (2, 3))
    assert_like_torch(
        lambda z: cross_entropy(z, classes),
        lambda z: F.cross_entropy(z.reshape(6, 4), torch.tensor(classes).reshape(6)),
        [logits],
    )


def test_E03_confident_mistakes_have_exact_losses():
    with strict():
        wrong = Value([[1000.0], [-1000.0]])
        loss = binary_cross_entropy(wrong, [[0], [1]])
        loss.backward()
        assert loss.item() == 1000
        np.testing.assert_array_equal(wrong.gradient, [[0.5], [-0.5]])
        assert binary_cross_entropy(Value([[1000.0], [-1000.0]]), [[1], [0]]).item() == 0
        assert cross_entropy(Value([[1000.0, -1000.0]]), [1]).item() == 2000


# Models.


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "linear"])
def test_E02_layer_equals_the_stack_of_its_neurons(activation):
    x = rng(1).standard_normal((5, 3))
    layer = Layer(3, 4, activation, rng(2))
    draw = rng(2)
    neurons = [Neuron(3, activation, draw) for _ in range(4)]
    for shift, neuron in enumerate(neurons):
        neuron.bias.data = np.array(0.1 * shift)
    layer.bias.data = 0.1 * np.arange(4)
    stacked = concatenate([neuron(x).reshape(5, 1) for neuron in neurons], 1)
    np.testing.assert_allclose(layer(x).data, stacked.data, rtol=1e-12)
    direction = rng(3).standard_normal((5, 4))
    (layer(x) * direction).sum().backward()
    (stacked * direction).sum().backward()
    weights = np.stack([neuron.weight.gradient for neuron in neurons], 1)
    np.testing.assert_allclose(layer.weight.gradient, weights, rtol=1e-12)
    np.testing.assert_allclose(layer.bias.gradient, [neuron.bias.gradient for neuron in neurons], rtol=1e-12)


@pytest.mark.parametrize(("activation", "variance"), [("tanh", 1), ("linear", 1), ("relu", 2), ("silu", 2)])
def test_E02_weights_have_the_variance_of_their_activation(activation, variance):
    layer = Layer(400, 300, activation, rng())
    assert layer.weight.data.var() * 400 == pytest.approx(variance, rel=0.03)
    assert not layer.bias.data.any()


TORCH_ACTIVATIONS = {
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "silu": torch.nn.SiLU,
    "linear": torch.nn.Identity,
}


def twin(model, activation):
    """Return the same perceptron in torch."""
    layers = []
    for layer in model.layers:
        linear = torch.nn.Linear(*layer.weight.shape, dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(layer.weight.data.T), torch.tensor(layer.bias.data)
        layers += [linear, TORCH_ACTIVATIONS[activation]()]
    return torch.nn.Sequential(*layers[:-1])


OPTIMIZERS = {
    "sgd": (lambda p: SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd with all": (
        lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.02),
    ),
    "adamw": (lambda p: AdamW(p), lambda p: torch.optim.AdamW(p)),
    "adamw with all": (
        lambda p: AdamW(p, 0.03, betas=(0.8, 0.95), epsilon=1e-6, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.03, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_E04_fifty_steps_equal_torch(name, activation):
    model = MLP((6, 8, 4), task="softmax", activation=activation, seed=1)
    reference = twin(model, activation)
    ours, theirs = OPTIMIZERS[name][0](model.parameters()), OPTIMIZERS[name][1](reference.parameters())
    x, classes = rng().standard_normal((20, 6)), rng().integers(0, 4, 20)
    for step in range(50):
        ours.learning_rate = theirs.param_groups[0]["lr"] = 0.05 / (1 + step)
        ours.zero()
        cross_entropy(model(x), classes).backward()
        ours.step()
        theirs.zero_grad()
        F.cross_entropy(reference(torch.tensor(x)), torch.tensor(classes)).backward()
        theirs.step()
    for layer, linear in zip(model.layers, reference[::2], strict=True):
        np.testing.assert_allclose(layer.weight.data, linear.weight.detach().T, atol=1e-6)
        np.testing.assert_allclose(layer.bias.data, linear.bias.detach(), atol=1e-6)
    np.testing.assert_allclose(model.predict(x), reference(torch.tensor(x)).softmax(-1).detach(), atol=1e-6)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: AdamW(p, 0.1)])
def test_E04_step_skips_missing_gradients_and_replaces_arrays(make):
    array, idle = np.ones(3, np.float32), Value([1.0])
    moving = Value(array)
    optimizer = make([moving, idle])
    optimizer.learning_rate = np.float64(0.1)
    for _ in range(2):
        (moving * 3).sum().backward()
        optimizer.step()
    assert idle.data == 1
    assert (moving.data < 1).all()
    assert moving.data.dtype == np.float32
    np.testing.assert_array_equal(array, 1)
    optimizer.zero()
    assert moving.gradient is None


@pytest.mark.parametrize(
    ("make", "memory"), [(lambda p: SGD(p, 0.1, momentum=0.9), "velocities"), (lambda p: AdamW(p, 0.1), "moments")]
)
def test_E04_optimizer_with_copied_state_continues_alike(make, memory):
    one, other = Value([1.0, 2.0]), Value([1.0, 2.0])
    first = second = make([one])
    for step in range(6):
        if step == 3:
            other.data, second = one.data.copy(), make([other])
            setattr(second, memory, list(getattr(first, memory)))
        for value, optimizer in {one: first, other: second}.items():
            optimizer.zero()
            (value**4).sum().backward()
            if step >= 3 or value is one:
                optimizer.step()
    np.testing.assert_array_equal(one.data, other.data)
    assert (one.data < [1, 2]).all()


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_E04_clip_norm_equals_torch(max_norm):
    arrays = [rng(i).standard_normal(shape) for i, shape in enumerate([(3, 4), (4,), ()])]
    values, tensors = [Value(array) for array in [*arrays, arrays[0]]], [tensor(array) for array in arrays]
    for value, leaf in zip(values, tensors, strict=False):
        (value**3).sum().backward()
        (leaf**3).sum().backward()
    want = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    assert clip_norm(values, max_norm) == pytest.approx(want.item(), rel=1e-12)
    for value, leaf in zip(values, tensors, strict=False):
        np.testing.assert_allclose(value.gradient, leaf.grad, rtol=1e-12)
    assert values[-1].gradient is None


# Learning.


def three_spirals(count, seed):
    """Draw points on the arms of a spiral, one class each, that no straight line separates."""
    draw = rng(seed)
    classes = draw.integers(0, 3, count)
    radius = draw.uniform(0.1, 1, count)
    angle = classes * 2 * np.pi / 3 + 3 * radius + 0.1 * draw.standard_normal(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1), classes


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_E05_trainer_learns_exclusive_or(activation):
    model = MLP((2, 8, 1), task="sigmoid", activation=activation, seed=0)
    trainer = Trainer(model, model.loss, SGD(model.parameters(), 0.2, momentum=0.9), seed=0)
    history = trainer.fit(*XOR, epochs=300, batch_size=4)
    assert history[-1] < 0.05 < history[0]
    assert trainer.test(*XOR).accuracy == 1
    np.testing.assert_allclose(model.predict(XOR[0]), XOR[1], atol=0.1)


def test_E05_linear_model_cannot_learn_exclusive_or():
    model = MLP((2, 8, 1), task="sigmoid", activation="linear", seed=0)
    trainer = Trainer(model, model.loss, SGD(model.parameters(), 0.2, momentum=0.9), seed=0)
    trainer.fit(*XOR, epochs=300, batch_size=4)
    assert trainer.test(*XOR).loss == pytest.approx(math.log(2), abs=0.02)


def test_E05_trainer_learns_three_classes_of_unseen_points():
    model = MLP((2, 32, 32, 3), task="softmax", activation="relu", seed=0)
    trainer = Trainer(model, model.loss, AdamW(model.parameters(), 0.01), seed=0)
    x, classes = three_spirals(600, 1)
    before = trainer.test(x, classes)
    trainer.fit(x, classes, epochs=40, batch_size=50)
    unseen = trainer.test(*three_spirals(300, 2))
    assert before.accuracy < 0.6
    assert unseen.accuracy > 0.95
    assert unseen.loss < 0.2
    np.testing.assert_allclose(model.predict(x).sum(-1), 1)


def test_E05_trainer_learns_a_regression_in_float32():
    x = np.linspace(-3, 3, 200, dtype=np.float32)[:, None]
    model = MLP((1, 32, 1), task="regression", seed=0, dtype=np.float32)
    trainer = Trainer(model, model.loss, AdamW(model.parameters(), 0.02), seed=0, max_norm=1.0)
    trainer.fit(x, np.sin(x), epochs=150, batch_size=50)
    assert trainer.test(x, np.sin(x)).loss < 5e-3
    assert trainer.test(x, np.sin(x)).accuracy is None
    assert model(x).data.dtype == np.float32


class Recorder(Module):
    """A model of one weight that records its batches."""

    def __init__(self):
        self.weight, self.batches = Value([[1.0]]), []

    def __call__(self, x):
        self.batches.append(x.ravel().tolist())
        return x @ self.weight


def test_E05_epoch_uses_every_example_once_in_a_new_order():
    x = np.arange(10.0)[:, None]
    runs = []
    for seed in (0, 0, 1):
        model = Recorder()
        Trainer(model, squared_error, SGD(model.parameters(), 1e-9), seed=seed).fit(x, x, epochs=2, batch_size=4)
        assert [len(batch) for batch in model.batches] == [4, 4, 2, 4, 4, 2]
        epochs = [list(chain(*model.batches[:3])), list(chain(*model.batches[3:]))]
        assert all(sorted(epoch) == list(range(10)) != epoch for epoch in epochs)
        assert epochs[0] != epochs[1]
        runs.append(epochs)
    assert runs[0] == runs[1] != runs[2]


def test_E05_history_is_the_mean_over_examples():
    x = np.arange(10.0)[:, None]
    model = Recorder()
    trainer = Trainer(model, squared_error, SGD(model.parameters(), 1e-12), seed=0)
    history = trainer.fit(x, 3 * x, epochs=2, batch_size=4)
    assert history == pytest.approx([(4 * x**2).mean()] * 2, rel=1e-6)


def test_E05_fit_with_max_norm_clips_gradients():
    x = np.full((4, 1), 1000.0)
    model = Recorder()
    Trainer(model, squared_error, SGD(model.parameters(), 0.1), seed=0, max_norm=1.0).fit(x, 0 * x, 1, 4)
    assert model.weight.item() == pytest.approx(0.9)


def test_E05_same_seeds_give_the_same_bytes():
    def train(seed):
        model = MLP((2, 16, 3), task="softmax", seed=seed)
        Trainer(model, model.loss, AdamW(model.parameters()), seed=seed).fit(*three_spirals(100, 0), 3, 10)
        return b"".join(array.tobytes() for array in model.state().values())

    assert train(0) == train(0) != train(1)


def test_E06_evaluate_equals_values_by_hand():
    class Fixed(Module):
        def __call__(self, x):
            return Value(x)

    logits = np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 1], [5, 0, 0]])
    classes = [0, 1, 0, 0]
    found = evaluate(Fixed(), cross_entropy, logits, classes)
    assert found.accuracy == 0.75
    assert found.loss == pytest.approx(F.cross_entropy(torch.tensor(logits), torch.tensor(classes)).item())
    for batch_size in (1, 3):
        batched = evaluate(Fixed(), cross_entropy, logits, classes, batch_size=batch_size)
        assert batched.accuracy == 0.75
        assert batched.loss == pytest.approx(found.loss)
    assert evaluate(Fixed(), binary_cross_entropy, [[-1.0, 2.0]], [[0, 0]]).accuracy == 0.5
    assert evaluate(Fixed(), squared_error, [[1.0], [2.0]], [[1.0], [4.0]]) == Metrics(2.0, None)
    assert str(Metrics(2.0, 0.75)) == "loss 2.0000, accuracy 75.0 %"
    assert str(Metrics(2.0, None)) == "loss 2.0000"


# Saving.


class Tied(Module):
    """An embedding that is also the output, around a perceptron."""

    def __init__(self, seed):
        self.table = Value(rng(seed).standard_normal((5, 3)))
        self.mlp = MLP((3, 4, 3), task="softmax", seed=seed)
        self.gains = [Value(1.0), Value(2.0)]
        self.same = self.table

    def __call__(self, tokens):
        return self.mlp(self.table[tokens] * self.gains[0]) @ self.table.transpose() * self.gains[1]


def test_E13_load_of_save_restores_the_model(tmp_path):
    ours, others, path = Tied(0), Tied(1), tmp_path / "tied.safetensors"
    tokens = np.array([0, 4, 2])
    assert not np.allclose(ours(tokens).data, others(tokens).data)
    ours.save(path)
    others.load(str(path))
    np.testing.assert_array_equal(ours(tokens).data, others(tokens).data)
    assert list(path.parent.iterdir()) == [path]
    others.gains[0].data = np.array(7.0)
    assert ours.gains[0].item() == 1


def test_E13_parameters_have_names_and_count_once():
    model = Tied(0)
    layers = [f"mlp.layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    assert list(model.state()) == ["table", *layers, "gains.0", "gains.1", "same"]
    assert len(model.parameters()) == 7
    model.state()["table"][:] = 0
    assert model.table.data.any()


def test_E13_load_state_keeps_the_precision():
    model, other = (MLP((2, 3), task="regression", seed=i, dtype=t) for i, t in enumerate((np.float32, np.float64)))
    model.load_state(other.state())
    assert model.layers[0].weight.data.dtype == np.float32
    np.testing.assert_allclose(model.layers[0].weight.data, other.layers[0].weight.data, rtol=1e-6)


def test_E13_load_of_another_model_is_refused_and_changes_nothing(tmp_path):
    model = MLP((2, 3, 1), task="sigmoid", seed=0)
    before = model.state()
    path = tmp_path / "odd.safetensors"
    for other in (MLP((2, 4, 1), task="sigmoid", seed=1), MLP((2, 1), task="sigmoid", seed=1)):
        other.save(path)
        with pytest.raises(ValueError, match="the state is of another model: layers"):
            model.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"odd\.safetensors is not a safetensors file"):
        model.load(path)
    with pytest.raises(FileNotFoundError):
        model.load(tmp_path / "missing.safetensors")
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


# Bad input.


def fit(x, y, batch_size=2, model=None, rate=0.1):
    model = model or MLP((2, 3), task="softmax", seed=0)
    Trainer(model, model.loss, SGD(model.parameters(), rate), seed=0).fit(x, y, 5, batch_size)


REFUSED = {
    "backward() starts at one number, not at shape (2,)": lambda: Value([1.0, 2.0]).backward(),
    "could not be broadcast together with shapes (2,3) (4,)": lambda: Value(np.ones((2, 3))) + np.ones(4),
    "the layer takes 2 numbers a row, not an input of shape (1, 3)": lambda: Layer(2, 1, "tanh", rng())([[1, 2, 3]]),
    "the layer takes 2 numbers a row, not an input of shape ()": lambda: MLP((2, 1), task="sigmoid", seed=0)(1.0),
    "unknown activation 'tan': choose one of tanh, relu, silu, linear": lambda: Neuron(2, "tan", rng()),
    "unknown activation 'Relu'": lambda: MLP((2, 3, 1), task="sigmoid", activation="Relu", seed=0),
    "unknown task 'classify': choose one of softmax, sigmoid, regression": lambda: MLP((2, 1), task="classify", seed=0),
    "widths (2,): give inputs": lambda: MLP((2,), task="sigmoid", seed=0),
    "widths (2, 0, 1): give inputs": lambda: MLP((2, 0, 1), task="sigmoid", seed=0),
    "class 3 is out of range: these logits know 0 to 2": lambda: cross_entropy(Value(np.ones((2, 3))), [0, 3]),
    "class -1 is out of range": lambda: cross_entropy(Value(np.ones((2, 3))), [-1, 0]),
    "need integer classes of shape (2,), not float64 of shape (2,)": lambda: cross_entropy(
        Value(np.ones((2, 3))), [0.0, 1]
    ),
    "need integer classes of shape (2,), not int64 of shape (2, 1)": lambda: cross_entropy(
        Value(np.ones((2, 3))), [[0], [1]]
    ),
    "targets of shape (4,) do not match the output of the model, (4, 1)": lambda: squared_error(
        Value(np.ones((4, 1))), np.ones(4)
    ),
    "targets must lie between 0 and 1, not between -1 and 2": lambda: binary_cross_entropy(Value([0.0, 0]), [-1, 2]),
    "targets must lie between 0 and 1, not between nan": lambda: binary_cross_entropy(Value([0.0]), [np.nan]),
    "the learning rate must be above 0, not 0": lambda: SGD([], 0),
    "x of shape (3, 2) and y of shape (2,): give as many rows": lambda: fit(np.ones((3, 2)), [0, 1]),
    "x of shape (0, 2) and y of shape (0,): give as many rows": lambda: fit(np.ones((0, 2)), np.zeros(0, int)),
    "a batch needs at least 1 example, not 0": lambda: fit(np.ones((2, 2)), [0, 1], batch_size=0),
    "the loss became nan: lower the learning rate": lambda: fit([[np.nan, 1.0]], [0]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_one_line(message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


def test_example_learns_the_moons(capsys):
    assert perceptron.main([]) == 0
    accuracy = re.search(r"unseen moons: loss [\d.]+, accuracy ([\d.]+) %", capsys.readouterr().out)
    assert float(accuracy[1]) > 97

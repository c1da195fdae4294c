"""The step of a model as an ONNX graph for ONNX Runtime, with 8-bit weights: build it, and repeat it in one call.

The graph draws one step of B streams, with code vectors looked up in tables and random noise as an input. Only an LSTM
whose head draws one level after another has such a graph. Its inputs, all float32:

    state (B, S)          a context, W, then hidden and cell state of each LSTM layer in turn, H each, then, where the
                          LSTM has a memory of onsets, the onsets in it, the oldest first, and the latest features,
                          and last, where codes are changes, the decoded step before
    threshold (B, 1)      the piece ends where the logit of its end is larger; infinite where it must not end
    noise (B, L * V)      Gumbel noise times the temperature, level by level; the class with the largest sum of logit
                          and noise is drawn

Outputs: `codes` (B, L) int64; `ended` (B, 1) bool, whether a piece ended before this step, which then begins another
one; `state_after`, the state of the next step. No rounding depends on another row. A product of small integers reads a
quarter of the bytes of one in float32, and reading the weights is most of what one step of a model costs.
"""

from typing import Protocol

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from continuo.model.backbones import ONSET_FEATURES, Backbone, Lstm, State
from continuo.model.heads import ChangeDecoder, LevelHead, RegressionHead, SetHead

OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"  # domain of the operations that ONNX Runtime adds
MAX_WEIGHT = 64  # of a row; two products with 8-bit inputs then fit into 16 bits, in which some processors add them
MAX_INPUT = 127
MAX_DEVIATIONS = 8.0  # larger layer-normalized values are clipped
LOST_SQUARES = 0.01  # fraction of a matrix's squares that two factors may leave out
MAX_FACTOR_SIZE = 0.5  # fraction of a matrix's numbers that two factors may have
TYPES = {"codes": TensorProto.INT64, "ended": TensorProto.BOOL}  # of outputs; all else is float32


class Model(Protocol):
    """The parts of a `SequenceModel` that a step computes with."""

    head: RegressionHead | LevelHead | SetHead
    backbone: Backbone
    change_decoder: ChangeDecoder | None
    in_proj: nn.Linear
    norm: nn.LayerNorm
    out_proj: nn.Linear
    skip_proj: nn.Linear
    ending: nn.Linear

    @property
    def has_step_graph(self) -> bool: ...
    def bos_context(self, batch: int) -> Tensor: ...
    def initial_state(self, batch: int) -> State: ...


def flat_state(model: Model, context: Tensor, state: State) -> np.ndarray:
    """Return the graph's `state` input `(B, S)` for contexts `(B, W)` and the state of a model with an `Lstm`."""
    assert isinstance(model.backbone, Lstm)
    hidden, cell, *past = state
    parts = [context, torch.stack([hidden, cell], dim=2)]
    if model.backbone.memory:
        features, *past = past
        parts += [features.diff(dim=1).clamp(min=0), features[:, -1]]
    parts += past
    return torch.cat([tensor.flatten(1) for tensor in parts], dim=1).detach().numpy()


def first_state(model: Model) -> np.ndarray:
    """Return the graph's `state` input before a piece begins, `(1, S)`."""
    return flat_state(model, model.bos_context(1), model.initial_state(1))


@torch.no_grad()
def step_graph(model: Model) -> onnx.ModelProto:
    """Build the ONNX graph, described at the top of this file, that draws one step of B streams of a model on the CPU.

    ValueError: the model has no such graph: its backbone is no LSTM, or its steps are not levels of codes.
    """
    head, backbone = model.head, model.backbone
    if not (model.has_step_graph and isinstance(head, LevelHead) and isinstance(backbone, Lstm)):
        raise ValueError("this model has no graph of its step: only an LSTM has one whose steps are levels of codes")
    g = Graph()
    start = torch.from_numpy(first_state(model))
    width, size = model.out_proj.out_features, start.shape[1]

    ending = torch.zeros(1, size)
    ending[:, :width] = model.ending.weight
    end = g.add("Gemm", "state", g.constant(ending), g.constant(model.ending.bias), transB=1)
    g.add("Greater", end, "threshold", to="ended")
    context, before = g.split(g.add("Where", "ended", g.constant(start), "state"), [width, size - width])

    read = _input_weight(backbone)  # (R, H); nothing stands between it and the input projection
    weight = torch.cat([read @ model.in_proj.weight, model.skip_proj.weight])
    bias = torch.cat([read @ model.in_proj.bias, model.skip_proj.bias])
    if model.change_decoder:
        before, last = g.split(before, [size - width - head.features, head.features])
        weight, of_steps = weight.split(head.features, dim=1)
        with_change = torch.cat([weight, torch.eye(head.features)]), F.pad(bias, (0, head.features))
        mapped = _draw_levels(g, head, context, *with_change)
        mapped, *decoded = _decode_change(g, model.change_decoder, mapped, last, of_steps)
    else:
        mapped, decoded = _draw_levels(g, head, context, weight, bias), []
    read_input, skipped = g.split(mapped, [len(read), width])
    hidden, after = _lstm_step(g, backbone, read_input, before)
    out = g.normed_product(hidden, model.norm, model.out_proj.weight, model.out_proj.bias)
    g.add("Concat", g.add("Add", out, skipped), *after, *decoded, axis=1, to="state_after")
    levels, classes, _ = head.embedding.vectors.shape
    inputs = {"state": size, "threshold": 1, "noise": levels * classes}
    return g.finished(inputs, {"codes": levels, "ended": 1, "state_after": size})


def _draw_levels(g: "Graph", head: LevelHead, context: str, weight: Tensor, bias: Tensor) -> str:
    """Add the drawing of a step to a graph: inputs `context` `(B, W)` and `noise` `(B, L * V)`, output `codes`.

    Return a linear map of the vector of the step, `(B, R)`: `weight` `(R, P)` and `bias`, tabulated for each code.
    """
    vectors = head.embedding.vectors * head.embedding.scale
    partials, mapped = vectors @ head.partial_proj.weight.T, vectors @ weight.T  # (L, V, W) and (L, V, R)
    mapped[0] += bias
    codes, parts = [], []
    for level, noise in enumerate(g.split("noise", [vectors.shape[1]] * head.levels)):
        h = g.silu(g.add("Add", context, g.constant(head.partial_proj.bias + head.level[level])))
        inner = g.silu(g.normed_product(h, head.norm_in, head.inner.weight, head.inner.bias))
        h = g.add("Sum", h, g.scaled_product(inner, head.outer.weight), g.constant(head.outer.bias))
        if head.refining:
            logits = g.normed_product(h, head.norm_out, head.out[level].T, None)
        else:
            masked = head.bias[level].masked_fill(head.unused[level], -torch.inf)
            logits = g.normed_product(h, head.norm_out, head.embedding.vectors[level], masked)
        codes.append(g.add("ArgMax", g.add("Add", logits, noise), axis=1))  # (B, 1)
        context = g.add("Add", context, g.add("GatherND", g.constant(partials[level]), codes[-1]))
        parts.append(g.add("GatherND", g.constant(mapped[level]), codes[-1]))
    g.add("Concat", *codes, axis=1, to="codes")
    return g.add("Sum", *parts)


def _decode_change(g: "Graph", decoder: ChangeDecoder, mapped: str, last: str, weight: Tensor) -> tuple[str, str]:
    """Add the decoding of a step; return what it adds to the input, `weight` `(R, P)` times the step, and the step.

    `mapped` is `(B, R + P)`, what the change adds to the input and the change itself; `last` is the step before.
    """
    mapped, change = g.split(mapped, list(weight.shape))
    step = g.add("Add", change, g.add("Mul", last, g.constant(decoder.decay)))
    reach = weight.abs().amax(0)  # loud components have small weights; equal ones lose least when they are rounded
    equal = g.add("Mul", step, g.constant(reach))
    return g.add("Add", mapped, g.scaled_product(equal, weight / reach.clamp(min=1e-12))), step


def _input_weight(backbone: Lstm) -> Tensor:
    """Return what multiplies a step's input, `(R, H)`, to tabulate it: the first gates and the onset features."""
    gates = backbone.lstm.all_weights[0][0]
    return torch.cat([gates, backbone.onset_proj.weight]) if backbone.memory else gates


def _lstm_step(g: "Graph", backbone: Lstm, read_input: str, state: str) -> tuple[str, list[str]]:
    """Add one step of an LSTM; return its output `(B, H)` and the parts of the state after it, to be concatenated.

    `read_input`: the input multiplied by `_input_weight`, `(B, R)`; `state`: that of the LSTM, as `flat_state` lays it
    out.
    """
    width, layers, weights = backbone.width, backbone.layers, backbone.lstm.all_weights
    features, kept = ONSET_FEATURES * bool(backbone.memory), ONSET_FEATURES * backbone.memory
    gates, now = g.split(read_input, [4 * width, features])
    *cells, past = g.split(state, [width] * 2 * layers + [kept])
    if backbone.memory:
        recalled, past = _recall_onsets(g, backbone, past, now)
        gates = g.add("Add", gates, recalled)
    x, after = "", []
    for layer, (into, hidden_weight, bias, hidden_bias) in enumerate(weights):
        hidden, cell = cells[2 * layer : 2 * layer + 2]
        if layer:
            both = g.add("Concat", x, hidden, axis=1)
            gates = g.product(both, 1.0, torch.cat([into, hidden_weight], dim=1), bias + hidden_bias)
        else:
            gates = g.add("Add", gates, g.product(hidden, 1.0, hidden_weight, bias + hidden_bias))
        enter, keep, new, leave = g.split(gates, [width] * 4)
        remembered = g.add("Mul", g.add("Sigmoid", keep), cell)
        cell = g.add("Add", remembered, g.add("Mul", g.add("Sigmoid", enter), g.add("Tanh", new)))
        x = g.add("Mul", g.add("Sigmoid", leave), g.add("Tanh", cell))
        after += [x, cell]
    return x, [*after, past]


def _recall_onsets(g: "Graph", backbone: Lstm, past: str, now: str) -> tuple[str, str]:
    """Add the memory of onsets; return its part of the first gates and its state after the step."""
    size = ONSET_FEATURES * backbone.memory
    earlier, latest = g.split(past, [size - ONSET_FEATURES, ONSET_FEATURES])
    rises = g.add("Concat", earlier, g.add("Relu", g.add("Sub", now, latest)), axis=1)
    after = g.add("Concat", g.split(rises, [ONSET_FEATURES, size - ONSET_FEATURES])[1], now, axis=1)
    ordered = backbone.memory_proj.weight.unflatten(1, (ONSET_FEATURES, -1)).transpose(1, 2).flatten(1)  # as in `rises`
    recalled = rises
    for factor in low_rank(backbone.lstm.all_weights[0][0] @ ordered):
        recalled = g.scaled_product(recalled, factor)
    return recalled, after


def low_rank(weight: Tensor) -> list[Tensor]:
    """Factor a matrix `(out, in)` into two, to apply in turn, without `LOST_SQUARES`, unless that saves little."""
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    rank = int((sizes.square().cumsum(0) < (1 - LOST_SQUARES) * sizes.square().sum()).sum()) + 1
    if rank * sum(weight.shape) > MAX_FACTOR_SIZE * weight.numel():
        return [weight]
    return [right[:rank], left[:, :rank] * sizes[:rank]]


class Graph:
    """Collects nodes and constants; values are referred to by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, to: str = "", domain: str | None = None, **attributes: float) -> str:
        """Add a node; return the name of its output, `to` or a new name."""
        name = to or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], None, None, domain, None, **attributes))
        return name

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """Cut `x` along its second axis."""
        names = [f"Split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.integers(*sizes)], names, axis=1))
        return names

    def constant(self, value: Tensor | np.ndarray | np.generic) -> str:
        """Add a constant; return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def integers(self, *values: int) -> str:
        """Add a constant of int64 `(N,)`."""
        return self.constant(np.array(values, np.int64))

    def silu(self, x: str) -> str:
        """Return `x * sigmoid(x)`."""
        return self.add("Mul", x, self.add("Sigmoid", x))

    def product(self, x: str, largest: float, weight: Tensor, bias: Tensor | None) -> str:
        """Multiply `x` `(B, in)`, clipped to ±`largest`, by `weight` `(out, in)` transposed, both rounded to 8 bits."""
        scale = (weight.abs().amax(1) / MAX_WEIGHT).clamp(min=1e-12)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        input_scale, middle = self.constant(np.float32(largest / MAX_INPUT)), self.constant(np.uint8(128))
        rounded = self.add("QuantizeLinear", x, input_scale, middle)
        optional = [] if bias is None else ["", self.constant(bias)]
        parts = [rounded, self.constant(whole.T), input_scale, self.constant(scale), middle, *optional]
        return self.add("MatMulIntegerToFloat", *parts, domain=MICROSOFT)

    def scaled_product(self, x: str, weight: Tensor) -> str:
        """Return `product` of `x` of any size, without a bias."""
        largest = self.add("ReduceMax", self.add("Abs", x), self.integers(1))
        largest = self.add("Max", largest, self.constant(np.float32(1e-30)))
        return self.add("Mul", self.product(self.add("Div", x, largest), 1.0, weight, None), largest)

    def normed_product(self, x: str, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> str:
        """Return `product` of the layer-normalized `x`, with the norm's own weight and bias folded into the product."""
        normed = self.add("LayerNormalization", x, self.constant(torch.ones_like(norm.weight)), epsilon=norm.eps)
        shift = weight @ norm.bias
        return self.product(normed, MAX_DEVIATIONS, weight * norm.weight, shift if bias is None else shift + bias)

    def finished(self, inputs: dict[str, int], outputs: dict[str, int]) -> onnx.ModelProto:
        """Return the graph as a model. Inputs and outputs, by name, are `(B, size)`."""

        def described(sizes: dict[str, int]) -> list[onnx.ValueInfoProto]:
            kinds = {name: TYPES.get(name, TensorProto.FLOAT) for name in sizes}
            return [helper.make_tensor_value_info(name, kinds[name], ["B", size]) for name, size in sizes.items()]

        graph = helper.make_graph(self.nodes, "step", described(inputs), described(outputs), self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def repeated(step: onnx.ModelProto) -> onnx.ModelProto:
    """Return a loop over the graph of a step: T steps along a new first axis of every value but the state."""
    body = onnx.GraphProto()
    body.CopyFrom(step.graph)
    body.output.sort(key=lambda value: value.name != "state_after")  # a loop's state comes first

    def all_steps(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        kind = value.type.tensor_type
        shape = [size.dim_param or size.dim_value for size in kind.shape.dim]
        whole = shape if value.name.startswith("state") else ["T", *shape]
        return helper.make_tensor_value_info(f"{value.name}_of_all", kind.elem_type, whole)

    ins, outs = [[*map(all_steps, values)] for values in (step.graph.input, step.graph.output)]
    into, out = ([value.name for value in values] for values in (ins, map(all_steps, body.output)))
    loop = helper.make_node("Scan", into, out, num_scan_inputs=len(ins) - 1, body=body)
    graph = helper.make_graph([loop], "steps", ins, outs)
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)

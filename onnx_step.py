"""A model's step as one graph, many steps as one call: ONNX Runtime computes them with 8-bit weights.

A step one at a time costs reading weights and calling operations. Here matrices are small integers, what a code adds is
looked up in a table, and drawing is part of the graph (the noise comes from outside, so seeds stay ours). Only an LSTM
whose head draws level after level has such a graph; whole windows, as training and evaluation hear them, go through the
plain model.

Inputs of the graph, for B lanes, all float32:

    state (B, S)          a context, W, then hidden and cell state of each LSTM layer in turn, H each, then, where the
                          LSTM has a memory of onsets, the rises it still recalls, the oldest first, and what it
                          listened to last
    threshold (B, 1)      the piece ends where the logit of its end is above; infinite where it must not
    noise (B, L * V)      Gumbel noise times the temperature, level after level; the class whose logit and noise add up
                          to most is drawn

Outputs: `codes` (B, L) int64, `ended` (B, 1) bool, whether a piece ended before this step, which then begins another
one, and `state_after`, the state of the step after it. Lanes do not hear each other: nothing is rounded by what is in
another lane, and sums of integers do not depend on their order, so a lane is the same to the last bit alone and among
others.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"  # the domain of operations that ONNX Runtime adds
MAX_WEIGHT = 64  # of a row; two products with 8-bit inputs then fit into 16 bits, in which some processors add them
MAX_INPUT = 127
LOST, WORTH = 0.01, 0.5  # share of squares that two factors leave out; of numbers that they have at most
DEVIATIONS = 8.0  # a normalised value beyond is cut off


class Steps:
    """Draws steps of many lanes at once with the graph above, many in one call: Python is asked in between no more.

    Attributes:
        levels, classes: L and V.
    """

    def __init__(self, step: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a step is too small to share
        graph = repeated(step).SerializeToString()
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.levels = self.session.get_outputs()[0].shape[-1]
        self.classes = self.session.get_inputs()[2].shape[-1] // self.levels

    def __call__(self, state: np.ndarray, threshold: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        """T steps from a threshold `(T, B, 1)` and noise `(T, B, L * V)` for each.

        Returns codes `(T, B, L)`, where pieces ended `(T, B, 1)`, and the state after the last step.
        """
        drawn: list[np.ndarray] = self.session.run(None, dict(zip(self.inputs, (state, threshold, noise), strict=True)))
        return drawn


def repeated(step: onnx.ModelProto) -> onnx.ModelProto:
    """A loop over the graph of a step: T of them along a new first axis of everything but the state."""
    body = onnx.GraphProto()
    body.CopyFrom(step.graph)
    outputs = sorted(step.graph.output, key=lambda value: value.name != "state_after")  # a loop's state is its first
    del body.output[:]
    body.output.extend(outputs)

    def of_all(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        kind = value.type.tensor_type
        shape = [size.dim_param or size.dim_value for size in kind.shape.dim]
        whole = shape if value.name.startswith("state") else ["T", *shape]
        return helper.make_tensor_value_info(f"{value.name}_of_all", kind.elem_type, whole)

    ins, outs = [[*map(of_all, values)] for values in (step.graph.input, step.graph.output)]
    into, out = ([value.name for value in values] for values in (ins, map(of_all, outputs)))
    loop = helper.make_node("Scan", into, out, num_scan_inputs=len(ins) - 1, body=body)
    graph = helper.make_graph([loop], "steps", ins, outs)
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def flat_state(context: torch.Tensor, state: tuple[torch.Tensor, ...]) -> np.ndarray:
    """What the graph takes for a context `(B, W)` and the state of an `Lstm`."""
    hidden, cell, *heard = state
    after = [torch.stack([hidden, cell], dim=2)]
    for past in heard:
        after += [past.diff(dim=1).clamp(min=0), past[:, -1]]
    return torch.cat([context, *(tensor.flatten(1) for tensor in after)], dim=1).detach().numpy()


@torch.no_grad()
def step_graph(model: Any) -> onnx.ModelProto:
    """The step of a `SequenceModel` on the CPU.

    Raises:
        ValueError: it is not one that steps in one call.
    """
    if not model.steps_in_one_call:
        raise ValueError("this model has no graph of its step: only an LSTM has one whose steps are levels of codes")
    head, backbone, lstm = model.head, model.backbone, model.backbone.lstm
    levels, classes, _ = head.embedding.vectors.shape
    layers, width, context_width = lstm.num_layers, lstm.hidden_size, len(model.begin)
    vectors = head.embedding.vectors * head.embedding.scale  # (L, V, P)
    into_gates = lstm.weight_ih_l0 @ model.enter.weight  # two products without anything between them
    known = vectors @ head.known.weight.T  # (L, V, W)
    listen = backbone.listen.weight if backbone.memory else torch.zeros(0, width)  # (D, H)
    read = torch.cat([into_gates, model.skip.weight, listen @ model.enter.weight])  # (4H + W + D, P)
    heard = vectors @ read.T  # (L, V, 4H + W + D)
    onsets, kept = len(listen), len(listen) * backbone.memory
    beginning = torch.cat([model.begin, torch.zeros(2 * layers * width + kept)])
    g = _Graph()

    ending = torch.cat([model.ending.weight, torch.zeros(1, 2 * layers * width + kept)], dim=1)
    end = g.add("Gemm", "state", g.constant(ending), g.constant(model.ending.bias), transB=1)
    g.add("Greater", end, "threshold", to="ended")
    state = g.add("Where", "ended", g.constant(beginning[None]), "state")
    context, *before, past = g.split(state, [context_width, *[width] * 2 * layers, kept])

    codes, adds = [], []
    for level, noise in enumerate(g.split("noise", [classes] * levels)):
        h = g.silu(g.plus(context, head.known.bias + head.level[level]))
        inner = g.silu(g.normed_product(h, head.norm_in, head.inner.weight, head.inner.bias))
        h = g.add("Sum", h, g.scaled_product(inner, head.outer.weight), g.constant(head.outer.bias))
        if head.refining:
            logits = g.normed_product(h, head.norm_out, head.out[level].T, None)
        else:
            bias = head.bias[level].masked_fill(head.unused[level], -torch.inf)
            logits = g.normed_product(h, head.norm_out, head.embedding.vectors[level], bias)
        codes.append(g.add("ArgMax", g.add("Add", logits, noise), axis=1))  # (B, 1)
        context = g.add("Add", context, g.add("GatherND", g.constant(known[level]), codes[-1]))
        adds.append(g.add("GatherND", g.constant(heard[level]), codes[-1]))
    g.add("Concat", *codes, axis=1, to="codes")

    gates, skipped, listened = g.split(g.add("Sum", *adds), [4 * width, context_width, onsets])
    past_after = past
    if backbone.memory:
        earlier, before_now = g.split(past, [kept - onsets, onsets])
        now = g.plus(listened, listen @ model.enter.bias)
        rises = g.add("Concat", earlier, g.add("Relu", g.add("Sub", now, before_now)), axis=1)
        past_after = g.add("Concat", g.split(rises, [onsets, kept - onsets])[1], now, axis=1)
        recall = backbone.recall.weight.unflatten(1, (onsets, -1)).transpose(1, 2).flatten(1)  # as `rises` is laid out
        recalled = rises
        for factor in low_rank(lstm.weight_ih_l0 @ recall):
            recalled = g.scaled_product(recalled, factor)
        gates = g.add("Add", gates, recalled)
    x, after = "", []
    for layer, (into, past, bias, past_bias) in enumerate(lstm.all_weights):
        hidden, cell = before[2 * layer : 2 * layer + 2]
        if layer:
            both = g.add("Concat", x, hidden, axis=1)
            gates = g.product(both, 1.0, torch.cat([into, past], dim=1), bias + past_bias)
        else:
            gates = g.add("Add", gates, g.product(hidden, 1.0, past, bias + past_bias + into @ model.enter.bias))
        enter, keep, new, leave = g.split(gates, [width] * 4)
        kept = g.add("Mul", g.add("Sigmoid", keep), cell)
        cell = g.add("Add", kept, g.add("Mul", g.add("Sigmoid", enter), g.add("Tanh", new)))
        x = g.add("Mul", g.add("Sigmoid", leave), g.add("Tanh", cell))
        after += [x, cell]
    left = g.normed_product(x, model.norm, model.leave.weight, model.leave.bias + model.skip.bias)
    g.add("Concat", g.add("Add", left, skipped), *after, past_after, axis=1, to="state_after")

    size = len(beginning)
    return g.finished(
        {"state": ["B", size], "threshold": ["B", 1], "noise": ["B", levels * classes]},
        {"codes": ["B", levels], "ended": ["B", 1], "state_after": ["B", size]},
    )


def low_rank(weight: torch.Tensor) -> list[torch.Tensor]:
    """A matrix `(out, in)` as two, applied in turn, but for `LOST` of its squares; as it is where little is saved.

    Reading the weights is what a step costs, and a trained memory of onsets uses few of its directions.
    """
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    rank = int((sizes.square().cumsum(0) < (1 - LOST) * sizes.square().sum()).sum()) + 1
    if rank * sum(weight.shape) > WORTH * weight.numel():
        return [weight]
    return [right[:rank], left[:, :rank] * sizes[:rank]]


class _Graph:
    """Collects nodes and constants; values go by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
        """A node; the name of its output."""
        name = to or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """`x` cut along its second axis."""
        names = [f"Split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.integers(*sizes)], names, axis=1))
        return names

    def constant(self, value: torch.Tensor | np.ndarray) -> str:
        array = np.asarray(value)
        self.constants.append(numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def plus(self, x: str, bias: torch.Tensor) -> str:
        return self.add("Add", x, self.constant(bias))

    def silu(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def product(self, x: str, most: float, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
        """`x` `(B, in)`, cut off at `most`, times the transpose of `weight` `(out, in)`, both rounded to 8 bits."""
        scale = (weight.abs().amax(1) / MAX_WEIGHT).clamp(min=1e-12)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        input_scale = self.constant(np.array(most / MAX_INPUT, np.float32))
        middle = self.constant(np.array(128, np.uint8))
        rounded = self.add("QuantizeLinear", x, input_scale, middle)
        optional = [] if bias is None else ["", self.constant(bias)]
        parts = [rounded, self.constant(whole.T), input_scale, self.constant(scale), middle, *optional]
        return self.add("MatMulIntegerToFloat", *parts, domain=MICROSOFT)

    def scaled_product(self, x: str, weight: torch.Tensor) -> str:
        """`product` of `x` of any size."""
        largest = self.add("ReduceMax", self.add("Abs", x), self.integers(1))
        least = self.constant(np.array(1e-30, np.float32))
        largest = self.add("Max", largest, least)
        return self.add("Mul", self.product(self.add("Div", x, largest), 1.0, weight, None), largest)

    def normed_product(self, x: str, norm: torch.nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
        """`product` of layer-normalised `x`; what the norm multiplies and adds is part of the weight and the bias."""
        ones = self.constant(torch.ones_like(norm.weight))
        normed = self.add("LayerNormalization", x, ones, epsilon=norm.eps)
        shift = weight @ norm.bias
        return self.product(normed, DEVIATIONS, weight * norm.weight, shift if bias is None else shift + bias)

    def finished(self, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> onnx.ModelProto:
        kinds = {"codes": TensorProto.INT64, "ended": TensorProto.BOOL}
        ins, outs = (
            [
                helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
                for name, shape in shapes.items()
            ]
            for shapes in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, "step", ins, outs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

"""Build ONNX graphs for ONNX Runtime node by node, with matrix products of 8-bit integers.

The builder knows nothing of models. Values of a graph are referred to by their names. A product of small integers reads
a quarter of the bytes of one in float32, and reading the weights is most of what one step of a model costs.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"  # domain of the operations that ONNX Runtime adds
MAX_WEIGHT = 64  # of a row; two products with 8-bit inputs then fit into 16 bits, in which some processors add them
MAX_INPUT = 127
MAX_DEVIATIONS = 8.0  # larger layer-normalized values are clipped
TYPES = {"codes": TensorProto.INT64, "ended": TensorProto.BOOL}  # of outputs; all else is float32


class Graph:
    """Collects nodes and constants."""

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

    def constant(self, value: torch.Tensor | np.ndarray | np.generic) -> str:
        """Add a constant; return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def integers(self, *values: int) -> str:
        """Add a constant of int64 `(N,)`."""
        return self.constant(np.array(values, np.int64))

    def silu(self, x: str) -> str:
        """Return `x * sigmoid(x)`."""
        return self.add("Mul", x, self.add("Sigmoid", x))

    def product(self, x: str, largest: float, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
        """Multiply `x` `(B, in)`, clipped to ±`largest`, by `weight` `(out, in)` transposed, both rounded to 8 bits."""
        scale = (weight.abs().amax(1) / MAX_WEIGHT).clamp(min=1e-12)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        input_scale, middle = self.constant(np.float32(largest / MAX_INPUT)), self.constant(np.uint8(128))
        rounded = self.add("QuantizeLinear", x, input_scale, middle)
        optional = [] if bias is None else ["", self.constant(bias)]
        parts = [rounded, self.constant(whole.T), input_scale, self.constant(scale), middle, *optional]
        return self.add("MatMulIntegerToFloat", *parts, domain=MICROSOFT)

    def scaled_product(self, x: str, weight: torch.Tensor) -> str:
        """Return `product` of `x` of any size, without a bias."""
        largest = self.add("ReduceMax", self.add("Abs", x), self.integers(1))
        largest = self.add("Max", largest, self.constant(np.float32(1e-30)))
        return self.add("Mul", self.product(self.add("Div", x, largest), 1.0, weight, None), largest)

    def normed_product(self, x: str, norm: torch.nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
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

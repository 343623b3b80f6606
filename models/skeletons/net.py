"""Writes ONNX graphs layer by layer, with random weights that keep activations alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Net:
    """One graph in the making.

    Every layer method takes value names and gives the name of its output; ``width`` remembers the
    number of channels of each value, so that layers need to be told their output width only.

    Args:
        seed: of the weights.
        opset: version of the standard operators.
        microsoft: import the ``com.microsoft`` operators too.
    """

    def __init__(self, seed: int = 0, *, opset: int = 17, microsoft: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.opsets = [helper.make_opsetid("", opset)]
        if microsoft:
            self.opsets.append(helper.make_opsetid("com.microsoft", 1))
        self.width: dict[str, int] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 0

    def name(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}_{self.count}"

    def input(self, name: str, shape: Shape, dtype: int = FLOAT, width: int = 0) -> str:
        """A graph input; strings in the shape are dynamic."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        self.width[name] = width
        return name

    def constant(self, array: NDArray[Any] | Sequence[int], stem: str = "const") -> str:
        """An initializer; a plain sequence becomes int64."""
        name = self.name(stem)
        values = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def scalar(self, value: float) -> str:
        """A float32 initializer of rank 0."""
        return self.constant(np.array(value, np.float32))

    def weight(self, *shape: int, fan: int, gain: float = 1.0, stem: str = "weight") -> str:
        """A normal float32 initializer whose variance is gain^2 / fan."""
        values = self.rng.standard_normal(shape, np.float32) * np.float32(gain / fan**0.5)
        return self.constant(values, stem)

    def vector(self, size: int, low: float, high: float, stem: str = "vector") -> str:
        """A uniform float32 initializer [size]."""
        return self.constant(self.rng.uniform(low, high, size).astype(np.float32), stem)

    def node(self, op: str, *inputs: str, width: int | None = None, **attributes: Any) -> str:
        """Any operator with one output; its width is the first input's unless given."""
        return self.nodes_with(op, inputs, 1, width=width, **attributes)[0]

    def nodes_with(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: int,
        *,
        width: int | None = None,
        **attributes: Any,
    ) -> list[str]:
        """Any operator with several outputs, all of the same width."""
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, self.name(op), **attributes))
        for name in names:
            self.width[name] = self.width.get(inputs[0], 0) if width is None else width
        return names

    def conv(
        self,
        x: str,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        gain: float = 1.4,
    ) -> str:
        """A same-padded convolution."""
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        inputs = self.width[x] // groups
        weight = self.weight(outputs, inputs, *size, fan=inputs * size[0] * size[1], gain=gain)
        return self.node(
            "Conv",
            x,
            weight,
            *([self.vector(outputs, -0.2, 0.2, "bias")] if bias else []),
            width=outputs,
            group=groups,
            kernel_shape=size,
            strides=[stride, stride],
            pads=[size[0] // 2, size[1] // 2] * 2,
        )

    def norm(self, x: str, gain: float = 1.0) -> str:
        """Batch normalisation with statistics away from 0 and 1."""
        size = self.width[x]
        vectors = [
            self.vector(size, 0.7 * gain, 1.3 * gain, "gamma"),
            self.vector(size, -0.2, 0.2, "beta"),
            self.vector(size, -0.2, 0.2, "mean"),
            self.vector(size, 0.7, 1.5, "variance"),
        ]
        return self.node("BatchNormalization", x, *vectors)

    def conv_norm(self, x: str, outputs: int, kernel: int = 1, **options: Any) -> str:
        """A convolution without bias, batch normalisation and Relu."""
        return self.node("Relu", self.norm(self.conv(x, outputs, kernel, bias=False, **options)))

    def gate(self, x: str, hidden: int, last: str = "Sigmoid") -> str:
        """Squeeze and excite: global mean, bottleneck, gate."""
        size = self.width[x]
        y = self.node("Relu", self.conv(self.node("GlobalAveragePool", x), hidden))
        return self.node("Mul", x, self.node(last, self.conv(y, size)))

    def gemm(self, x: str, outputs: int, inputs: int | None = None, gain: float = 1.0) -> str:
        """A Gemm on [batch, inputs] with transposed weights and a bias, as torch exports Linear."""
        inputs = self.width[x] if inputs is None else inputs
        weight = self.weight(outputs, inputs, fan=inputs, gain=gain)
        return self.node(
            "Gemm", x, weight, self.vector(outputs, -0.2, 0.2), width=outputs, transB=1
        )

    def dense(self, x: str, outputs: int, *, bias: bool = True, gain: float = 1.0) -> str:
        """A MatMul and an Add on [..., inputs], as torch exports Linear above rank 2."""
        inputs = self.width[x]
        y = self.node(
            "MatMul", x, self.weight(inputs, outputs, fan=inputs, gain=gain), width=outputs
        )
        return self.node("Add", y, self.vector(outputs, -0.2, 0.2, "bias")) if bias else y

    def layer_norm(self, x: str) -> str:
        """Layer normalisation over the last axis (opset 17)."""
        size = self.width[x]
        vectors = self.vector(size, 0.7, 1.3, "gamma"), self.vector(size, -0.2, 0.2, "beta")
        return self.node("LayerNormalization", x, *vectors, axis=-1)

    def concat(self, *values: str, axis: int = 1) -> str:
        """A Concat along the channels."""
        return self.node("Concat", *values, width=sum(self.width[v] for v in values), axis=axis)

    def head(self, x: str, classes: int) -> str:
        """Global mean, Flatten, Gemm."""
        return self.gemm(self.node("Flatten", self.node("GlobalAveragePool", x)), classes)

    def build(self, y: str, shape: Shape, name: str = "skeleton") -> onnx.ModelProto:
        """The checked model whose one output, "output", is the value ``y`` of the given shape."""
        self.nodes.append(helper.make_node("Identity", [y], ["output"], self.name("Identity")))
        output = helper.make_tensor_value_info("output", FLOAT, shape)
        graph = helper.make_graph(self.nodes, name, self.inputs, [output], self.initializers)
        model = helper.make_model(graph, opset_imports=self.opsets, producer_name="onnxprune-zoo")
        model.ir_version = 11 if self.opsets[0].version > 21 else 8
        onnx.checker.check_model(model)
        return model

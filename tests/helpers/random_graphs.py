"""Random convolutional graphs: every way to couple channels, in random order."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """A graph in the making; ``live`` holds (name, channels) of values that may be read."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.live: list[tuple[str, int]] = [("x", 3)]

    def name(self) -> str:
        return f"v{len(self.nodes)}_{len(self.weights)}"

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        fan = max(int(np.prod(shape[1:])), 1)
        array = self.rng.standard_normal(shape) / np.sqrt(fan)
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"{self.name()}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def pick(self) -> tuple[str, int]:
        recent = self.live[-4:]
        return recent[self.rng.integers(len(recent))]

    def push(self, name: str, channels: int) -> None:
        self.live.append((name, channels))

    # -- steps -------------------------------------------------------------------------------

    def conv(self) -> None:
        x, c = self.pick()
        groups = int(self.rng.choice([g for g in (1, 1, 1, 2, c) if c % g == 0]))
        out = groups * int(self.rng.integers(2, 9) if groups < c else self.rng.integers(1, 3))
        w, b = self.weight(out, c // groups, 3, 3), self.weight(out)
        (y,) = self.node("Conv", [x, w, b], group=groups, pads=[1, 1, 1, 1])
        self.push(y, out)

    def norm(self) -> None:
        x, c = self.pick()
        var = f"w{len(self.weights)}"
        self.weights.append(
            numpy_helper.from_array(self.rng.uniform(0.5, 2, c).astype(np.float32), var)
        )
        rest = [self.weight(c) for _ in range(3)]
        (y,) = self.node("BatchNormalization", [x, *rest, var])
        self.push(y, c)

    def activate(self) -> None:
        x, c = self.pick()
        (y,) = self.node(str(self.rng.choice(["Relu", "Sigmoid", "HardSwish", "Tanh"])), [x])
        self.push(y, c)

    def add(self) -> None:
        x, c = self.pick()
        same = [n for n, k in self.live if k == c and n != x]
        if same:
            (y,) = self.node(str(self.rng.choice(["Add", "Mul", "Max"])), [x, same[-1]])
            self.push(y, c)

    def concat(self) -> None:
        (x, c), (y, d) = self.pick(), self.pick()
        (z,) = self.node("Concat", [x, y], axis=1)
        self.push(z, c + d)

    def split(self) -> None:
        x, c = self.pick()
        if c >= 4:
            first = int(self.rng.integers(1, c))
            parts = self.node("Split", [x, self.integers(first, c - first)], 2, axis=1)
            self.push(parts[0], first)
            self.push(parts[1], c - first)

    def slice(self) -> None:
        x, c = self.pick()
        if c >= 4:
            ends = [self.integers(1), self.integers(2**62), self.integers(1)]
            (y,) = self.node("Slice", [x, *ends])
            self.push(y, c - 1)

    def gate(self) -> None:
        x, c = self.pick()
        (s,) = self.node("GlobalAveragePool", [x])
        (s,) = self.node("Conv", [s, self.weight(c, c, 1, 1)])
        (s,) = self.node("Sigmoid", [s])
        (y,) = self.node("Mul", [x, s])
        self.push(y, c)

    def shuffle(self) -> None:
        x, c = self.pick()
        if c % 2 == 0:
            (y,) = self.node("Reshape", [x, self.integers(0, 2, c // 2, 6, 6)])
            (y,) = self.node("Transpose", [y], perm=[0, 2, 1, 3, 4])
            (y,) = self.node("Reshape", [y, self.integers(0, c, 6, 6)])
            self.push(y, c)

    def pad(self) -> None:
        x, c = self.pick()
        (y,) = self.node("Pad", [x, self.integers(0, 1, 0, 0, 0, 2, 0, 0)])
        self.push(y, c + 3)


STEPS = (
    "conv",
    "conv",
    "conv",
    "norm",
    "activate",
    "add",
    "concat",
    "split",
    "slice",
    "gate",
    "shuffle",
    "pad",
)


def random_graph(seed: int, steps: int = 14) -> onnx.ModelProto:
    """A valid model of about ``steps`` layers on ``x [n, 3, 6, 6]``, ending in 5 logits."""
    builder = Builder(seed)
    builder.conv()
    for _ in range(steps):
        getattr(builder, STEPS[builder.rng.integers(len(STEPS))])()
    builder.conv()
    x, c = builder.live[-1]
    if builder.rng.random() < 0.5:
        (x,) = builder.node("GlobalAveragePool", [x])
        width = c
    else:
        width = c * 36
    (x,) = builder.node("Flatten", [x])
    weight, bias = builder.weight(5, width), builder.weight(5)
    builder.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["logits"], transB=1))
    graph = helper.make_graph(
        builder.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        builder.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

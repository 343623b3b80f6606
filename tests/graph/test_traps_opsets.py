"""The same networks as every opset spells them: sizes in attributes, then in inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from models.skeletons.net import Net
from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut
from onnxprune.runtime import open_session
from verified_cuts import choose, synthetic_feeds, verified_cut

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)


class Spelling:
    """Layers in the words of one opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.net = Net(71, opset=opset)

    def sized(
        self, op: str, x: str, since: int, sizes: dict[str, list[int]], **attributes: Any
    ) -> str:
        """An operator whose integers moved from attributes to inputs with opset ``since``."""
        if self.opset < since:
            return self.net.node(op, x, **sizes, **attributes)
        return self.net.node(op, x, *map(self.net.constant, sizes.values()), **attributes)

    def drop(self, x: str) -> str:
        """Dropout at inference."""
        if self.opset < 12:
            return self.net.node("Dropout", x, ratio=0.5)
        return self.net.node("Dropout", x, self.net.scalar(0.5))

    def clip(self, x: str) -> str:
        """Relu6."""
        if self.opset < 11:
            return self.net.node("Clip", x, min=0.0, max=6.0)
        return self.net.node("Clip", x, self.net.scalar(0.0), self.net.scalar(6.0))

    def pad(self, x: str) -> str:
        """One row and column of zeros around the picture."""
        pads = [0, 0, 1, 1, 0, 0, 1, 1]
        return self.sized("Pad", x, 11, {"pads": pads}, mode="constant")

    def grow(self, x: str) -> str:
        """Twice the height and width."""
        scales = [1.0, 1.0, 2.0, 2.0]
        if self.opset < 9:
            return self.net.node("Upsample", x, scales=scales, mode="nearest")
        table = self.net.constant(np.array(scales, np.float32))
        if self.opset < 10:
            return self.net.node("Upsample", x, table, mode="nearest")
        if self.opset < 11:
            return self.net.node("Resize", x, table, mode="nearest")
        if self.opset < 13:
            roi = self.net.constant(np.zeros(8, np.float32))
            return self.net.node("Resize", x, roi, table, mode="nearest")
        return self.net.node("Resize", x, "", table, mode="nearest")

    def halves(self, x: str) -> list[str]:
        """Two halves of the channels."""
        half = self.net.width[x] // 2
        if self.opset < 13:
            return self.net.nodes_with("Split", [x], 2, axis=1, split=[half] * 2, width=half)
        return self.net.nodes_with(
            "Split", [x, self.net.constant([half] * 2)], 2, axis=1, width=half
        )

    def rest(self, x: str) -> str:
        """All channels but the first two."""
        bounds = {"starts": [2], "ends": [2**31 - 1], "axes": [1]}
        y = self.sized("Slice", x, 10, bounds)
        self.net.width[y] = self.net.width[x] - 2
        return y

    def mean(self, x: str) -> str:
        """The mean over the picture, axes dropped and brought back and dropped."""
        y = self.sized("ReduceMean", x, 18, {"axes": [2, 3]}, keepdims=0)
        y = self.sized("Unsqueeze", y, 13, {"axes": [2]})
        return self.sized("Squeeze", y, 13, {"axes": [2]})

    def gelu(self, x: str) -> str:
        """One node since opset 20."""
        return self.net.node("Gelu" if self.opset >= 20 else "Relu", x)

    def linear(self, x: str, outputs: int) -> str:
        """A Gemm, whose bias may be left out since opset 11."""
        if self.opset >= 11:
            weight = self.net.weight(outputs, self.net.width[x], fan=self.net.width[x])
            return self.net.node("Gemm", x, weight, width=outputs, transB=1)
        return self.net.gemm(x, outputs)


def network(opset: int) -> onnx.ModelProto:
    spell = Spelling(opset)
    net = spell.net
    x = net.norm(net.conv(spell.pad(net.input("image", ("batch", 3, 8, 8), width=3)), 12, 3))
    x = spell.clip(x)
    a, b = spell.halves(x)
    y = net.concat(net.conv(a, 8, 3), spell.rest(net.conv(b, 10, 3)))
    slope = net.constant(net.rng.uniform(0.1, 0.4, (16, 1, 1)).astype(np.float32))
    y = net.node("PRelu", y, slope)
    y = spell.grow(net.node("Sum", y, net.conv(x, 16, 3)))
    y = spell.drop(spell.gelu(spell.linear(spell.mean(net.conv(y, 10, 3)), 14)))
    y = net.node("Softmax", spell.linear(y, 5), axis=1)
    return net.build(y, ("batch", 5))


@pytest.mark.parametrize("opset", OPSETS)
def test_one_network_in_the_words_of_every_opset(opset: int) -> None:
    result = verified_cut(network(opset))
    counts = sorted(len(g) for g in result.analysis.groups if g.exact)
    assert counts == COUNTS
    (split,) = result.nodes("Split")
    assert (opset < 13) == ("split" in split.attributes)


COUNTS = sorted(len(g) for g in analyse(models.load(network(17))).groups if g.exact)
"""Every opset tells of the same units."""


def test_the_network_is_reached_nearly_whole() -> None:
    analysis = analyse(models.load(network(17)))
    assert analysis.reachable > 0.9
    assert sum(COUNTS) > 40


def test_broadcasting_by_axis_of_opset_6() -> None:
    """Add with ``broadcast`` and ``axis``: a vector meets the channels, not the columns."""
    net = Net(72, opset=6)
    x = net.input("image", ("batch", 3, 8, 8), width=3)
    y = net.conv(x, 10, 3, bias=False)
    y = net.node("Add", y, net.vector(10, -0.3, 0.3), broadcast=1, axis=1)
    y = net.node("Mul", net.node("Relu", y), net.vector(10, 0.5, 1.5), broadcast=1, axis=1)
    y = net.node("GlobalAveragePool", net.conv(y, 6, 3))
    y = net.node(
        "Gemm",
        net.node("Flatten", y),
        net.weight(5, 6, fan=6),
        net.vector(5, -1, 1),
        broadcast=1,
        transB=1,
    )
    model = net.build(y, ("batch", 5))
    analysis = analyse(models.load(model))
    removed = choose(analysis, 0.4, 0)
    assert sorted(map(len, removed.values())) == [2, 4]
    feeds = synthetic_feeds(analysis.model, {"image": (2, 3, 8, 8)})
    small, reference = (
        run(models.to_proto(m), feeds)
        for m in (cut(analysis, removed), mask_model(analysis, removed))
    )
    np.testing.assert_allclose(small, reference, rtol=0, atol=1e-5)
    assert np.abs(reference - run(model, feeds)).max() > 1e-2


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    """Outputs of a model whose opset onnxruntime is too young for, said in the words of opset 9."""
    modern = onnx.ModelProto()
    modern.CopyFrom(model)
    modern.opset_import[0].version = 9
    vectors = {tensor.name: tensor for tensor in modern.graph.initializer}
    for node in modern.graph.node:
        if node.op_type in ("Add", "Mul"):
            vectors[node.input[1]].dims.extend([1, 1])
        if node.op_type in ("Add", "Mul", "Gemm"):
            kept = [a for a in node.attribute if a.name not in ("broadcast", "axis")]
            del node.attribute[:]
            node.attribute.extend(kept)
    del modern.graph.value_info[:]
    return open_session(models.load(modern)).run(feeds)["output"]


@pytest.mark.parametrize("opset", [7, 9, 13, 18])
def test_attention_in_the_words_of_every_opset(opset: int) -> None:
    """Squeeze, Unsqueeze, Slice, ReduceSum and Softmax around heads."""
    spell = Spelling(opset)
    net = spell.net
    x = net.input("x", ("batch", "length", 16), width=16)
    both = net.dense(x, 3 * 24)
    both = net.node("Reshape", both, net.constant([0, 0, 3, 4, 6]))
    both = net.node("Transpose", both, perm=[2, 0, 3, 1, 4])

    def part(k: int) -> str:
        y = spell.sized("Slice", both, 10, {"starts": [k], "ends": [k + 1], "axes": [0]})
        return spell.sized("Squeeze", y, 13, {"axes": [0]})

    q, k, v = map(part, range(3))
    y = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.node("Softmax", net.node("Div", y, net.scalar(6**0.5)), axis=3)
    y = net.node("Transpose", net.node("MatMul", y, v), perm=[0, 2, 1, 3])
    y = net.node("Reshape", y, net.constant([0, 0, 24]), width=24)
    result = verified_cut(net.build(net.dense(y, 5), ("batch", "length", 5)))
    assert result.kinds["head"] == 1
    assert result.kinds["head-dim"] == 2


def test_the_version_of_the_long_domain_name_counts() -> None:
    model = network(13)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    assert verified_cut(model).units > 15

"""Cut at random, and check: a cut model computes what its masked original computes.

The inputs are those of the analysis and, for models with open sizes, others it has never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.evaluate.equivalence import check_equivalence, difference
from onnxprune.evaluate.node_check import check_nodes
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut
from onnxprune.model.signature import signature_of
from onnxprune.runtime import open_session

UNSEEN: tuple[Mapping[str, int], ...] = (
    {"batch": 1, "length": 6, "keys": 3, "height": 20, "width": 12},
    {"batch": 4, "length": 1, "keys": 9, "height": 8, "width": 28},
)
"""Sizes no analysis picks by itself."""


def choose(analysis: Analysis, part: float, seed: int) -> dict[str, list[int]]:
    """A random part of every exact group, as far as no axis is emptied."""
    rng = np.random.default_rng(seed)
    removed: dict[str, list[int]] = {}
    for group in analysis.groups:
        count = max(1, int(len(group) * part))
        if group.exact and len(group) > 1:
            removed[group.name] = sorted(rng.choice(len(group), count, replace=False).tolist())
            if analysis.emptied(removed):
                del removed[group.name]
    return removed


def assert_verified(analysis: Analysis, part: float = 0.3, seed: int = 0, blocks: int = 0) -> int:
    """Cut at random and check; returns how many units went."""
    removed = choose(analysis, part, seed)
    bypassed = [b.name for b in analysis.blocks[:blocks]]
    small = cut(analysis, removed, bypassed)
    masked, feeds = mask_model(analysis, removed, bypassed), list(synthetic_inputs(analysis))
    check = check_equivalence(small, masked, feeds)
    assert check.ok, check
    if not bypassed:
        assert not check_nodes(analysis, removed, small, masked, feeds).fault
    assert_interface_unchanged(analysis.model, small)
    return sum(map(len, removed.values()))


def assert_interface_unchanged(dense: models.Model, small: models.Model) -> None:
    for before, after in (
        (dense.ir.graph.inputs, small.ir.graph.inputs),
        (dense.ir.graph.outputs, small.ir.graph.outputs),
    ):
        kept = {v.name: v for v in after}
        for value in before:
            if value.is_initializer():
                continue
            assert kept[value.name].dtype == value.dtype
            assert str(kept[value.name].shape) == str(value.shape)


@dataclass(frozen=True, eq=False)
class VerifiedCut:
    """A model, some of its units, and the model without them."""

    analysis: Analysis
    removed: Mapping[str, Sequence[int]]
    small: models.Model

    @property
    def units(self) -> int:
        """How many units went."""
        return sum(map(len, self.removed.values()))

    @property
    def kinds(self) -> dict[str, int]:
        """Units that went, by kind of their group."""
        found: dict[str, int] = {}
        for name, units in self.removed.items():
            kind = self.analysis.group(name).kind
            found[kind] = found.get(kind, 0) + len(units)
        return found

    def nodes(self, op: str) -> list[ir.Node]:
        """Nodes of the cut model, bodies included."""
        return [n for g in models.graphs(self.small) for n in g if n.op_type == op]

    def stored(self, node: ir.Node, position: int) -> npt.NDArray[Any]:
        """What a stored input of a node of the cut model holds."""
        value = node.inputs[position]
        assert value is not None
        tensor = models.constant(value)
        assert tensor is not None
        return tensor.numpy()

    def why(self, op: str, which: int, axis: int, position: int = 1) -> str:
        """Why an axis of what the n-th such node stores stays; empty if it does not."""
        graphs = models.graphs(self.analysis.model)
        node = [n for g in graphs for n in g if n.op_type == op][which]
        value = node.inputs[position]
        assert value is not None
        found = [p for p in self.analysis.pinned if (p.tensor, p.axis) == (value.name, axis)]
        return found[0].reason if found else ""


def verified_cut(
    source: onnx.ModelProto | models.Model,
    *removals: Mapping[str, Sequence[int]],
    part: float = 0.4,
    unseen: Sequence[Mapping[str, int]] = UNSEEN,
    high: int = 8,
    limit: float = 1e-4,
) -> VerifiedCut:
    """Check cuts of a model at seen and unseen sizes; returns the first.

    Args:
        source: the model.
        removals: units by name of their group. By default, twice a random part
            of every exact group, and once of every other group.
        part: how large a part.
        unseen: sizes of open dimensions.
        high: integers that are fed are below this.
        limit: what the runtime's own noise may widen the tolerance to.

    What is removed first must matter: the masked original must not be the dense one.
    """
    analysis = analyse(models.load(source))
    feeds = [synthetic_feeds(analysis.model, shapes, high) for shapes in analysis.inputs]
    if any(isinstance(d, str) for spec in signature_of(analysis.model) for d in spec.shape):
        feeds += [synthetic_feeds(analysis.model, sizes, high) for sizes in unseen]
    chosen: list[Mapping[str, Sequence[int]]] = list(removals)
    if not removals:
        chosen = [choose(analysis, part, seed) for seed in range(3)]
        chosen[2] = {name: chosen[2][name] for name in list(chosen[2])[::2]}
    results = []
    for removed in chosen:
        small, reference = cut(analysis, removed), mask_model(analysis, removed)
        assert not _complaint(small) or _complaint(analysis.model), _complaint(small)
        check = check_equivalence(small, reference, feeds)
        assert check.ok, (check, removed)
        assert check.limit <= limit, "too noisy a model to check anything with"
        nodes = check_nodes(analysis, removed, small, reference, feeds)
        assert nodes.fault is None, (nodes.fault, nodes.value)
        assert_interface_unchanged(analysis.model, small)
        results.append(VerifiedCut(analysis, removed, small))
    if chosen[0]:
        reference = mask_model(analysis, chosen[0])
        dense, zeroed = (open_session(m).run(feeds[0]) for m in (analysis.model, reference))
        assert any(difference(zeroed[n], dense[n]) > 1e-3 for n in dense), "nothing mattered"
    return results[0]


def _complaint(model: models.Model) -> str:
    """What onnx has against a model; it does not know operators that only runtimes have."""
    try:
        onnx.checker.check_model(models.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return ""


def synthetic_feeds(
    model: models.Model, sizes: Mapping[str, Any], high: int = 8, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Random feeds. ``sizes`` are shapes by input, or sizes by the name of an open dimension."""
    rng = np.random.default_rng(seed)
    result = {}
    for spec in signature_of(model):
        shape = sizes.get(spec.name) or [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        if spec.dtype == np.bool_:
            result[spec.name] = np.ones(shape, np.bool_)
        elif np.issubdtype(spec.dtype, np.integer):
            ones = "mask" in spec.name
            result[spec.name] = rng.integers(ones, 2 if ones else high, shape).astype(spec.dtype)
        else:
            result[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return result

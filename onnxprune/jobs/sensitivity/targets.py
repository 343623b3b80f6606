"""The rows of a sweep: groups with the order their units leave in, blocks, and single weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from onnxprune.config import SensitivityOptions
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.run import Run
from onnxprune.jobs.sensitivity.job import Array
from onnxprune.quantities import Sparsity
from onnxprune.select.allocate import Limits
from onnxprune.select.allocate.limits import select
from onnxprune.select.importance.units import Problem, removal_orders
from onnxprune.select.sensitivity import Target
from onnxprune.sparse.rows import norms_of
from onnxprune.sparse.targets import find_targets


@dataclass(frozen=True, eq=False)
class Rows:
    """What is swept.

    Attributes:
        targets: in the order of the network: groups, blocks, weights.
        norms: by weight, root mean squares ``[g, K]`` of its inputs.
        criterion: that orders the units.
        declined: by name, why something is no row.
    """

    targets: tuple[Target, ...]
    norms: dict[str, Array] = field(default_factory=dict)
    criterion: str = ""
    declined: dict[str, str] = field(default_factory=dict)


def find_rows(run: Run, request: SensitivityOptions) -> Rows:
    """Find everything that can be pruned alone.

    Args:
        run: what to skip, the criterion, whether inexact groups count, and samples to look at.
        request: which kinds.

    Raises:
        OnnxpruneError: a glob matches nothing, or the criterion cannot be used.
    """
    analysis, config = run.analysis, run.config
    targets: list[Target] = []
    declined: dict[str, str] = {}
    norms: dict[str, Array] = {}
    criterion = ""
    if "groups" in request.kinds:
        groups, criterion = _groups(run, declined)
        targets += groups
    if "blocks" in request.kinds:
        for block in analysis.blocks:
            glob = next((g for g in config.skip if fnmatchcase(block.name, g)), None)
            if glob is not None:
                declined[block.name] = f"skipped, as {glob!r} asks"
            else:
                targets.append(Target(block.name, "block", 1, block.params, block.macs))
    if "weights" in request.kinds:
        layers, declined_weights = find_targets(analysis.model, Sparsity(0.5), config.skip)
        declined |= {each.weight or each.layer: each.reason for each in declined_weights}
        run.progress("measuring the inputs of every weight")
        norms = (
            norms_of(analysis.model, layers, list(run.data.fit), config.provider) if layers else {}
        )
        work = {
            call.name: sum(_volume(axes) for axes in call.work) // analysis.batch
            for _, call in analysis.walk.calls
        }
        targets += [
            Target(each.weight, "weight", each.size, each.size, work.get(each.node, 0))
            for each in layers
        ]
    return Rows(tuple(targets), norms, criterion, declined)


def _groups(run: Run, declined: dict[str, str]) -> tuple[list[Target], str]:
    analysis, config = run.analysis, run.config
    limits = Limits(allow_inexact=config.allow_inexact, skip=config.skip)
    names = [b.name for b in analysis.blocks] + list(analysis.constants)
    declined |= select(analysis.groups, limits, known=names).declined
    groups = []
    for group in analysis.groups:
        if group.name not in declined and len(group) == 1:
            declined[group.name] = "it has one unit, which must stay"
        elif group.name not in declined:
            groups.append(group)
    orders, criterion = removal_orders(
        Problem(analysis, config, fit=run.data.fit, progress=run.progress)
    )
    costs = CostModel(analysis)
    dense = costs()
    targets = []
    for group in groups:
        if group.name not in orders:
            declined[group.name] = f"not scored by {criterion}"
            continue
        one = costs({group.name: (0,)})
        saving = dense.params - one.params, dense.macs - one.macs
        order = tuple(int(unit) for unit in orders[group.name])
        targets.append(Target(group.name, group.kind, len(group), *saving, order))
    return targets, criterion


def _volume(axes: Sequence[object]) -> int:
    size = 1
    for axis in axes:
        size *= getattr(axis, "size", 0) or 0
    return size

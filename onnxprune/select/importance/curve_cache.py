"""Damage curves on disk, so that another budget on the same model and data measures nothing again.

A file is named by a hash of everything its curves follow from: the stored tensors and the structure
of the model, the calibration inputs in the batches they come in, the groups, the settings, and the
code and libraries that computed them. A file that is not what it should be is reported, ignored
and written anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.cache import folder, keep
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.plan import versions
from onnxprune.graph.units import Block, Group
from onnxprune.select.importance.curves import Feeds
from onnxprune.select.importance.error_curves import Curves, measure, orders
from onnxprune.solve.group_obs import Elimination

_ENDING = ".curves.npz"


def damage_curves(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    *,
    blocks: Sequence[Block] = (),
    outputs: bool = True,
    provider: str = "cpu",
    seed: int = 0,
    cache: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Curves:
    """What :func:`~onnxprune.select.importance.error_curves.measure` finds, kept for the next time.

    Args:
        analysis: of the dense model.
        groups: of it, those to price.
        batches: feeds.
        blocks: of it, those to price.
        outputs: whether prices are in the currency of the outputs.
        provider: what runs the model.
        seed: of the sample of rows.
        cache: whether to look for curves and to keep those found.
        tell: hears the progress, and what is wrong with the cache.
    """

    def measured() -> Curves:
        return measure(
            analysis, groups, batches, blocks=blocks, outputs=outputs, provider=provider,
            seed=seed, tell=tell,
        )  # fmt: skip

    place = folder() if cache else None
    if place is None:
        return measured()
    settings = {"provider": provider, "seed": seed, "outputs": outputs}
    name = key(analysis, groups, batches, settings | {"blocks": [b.name for b in blocks]})
    if (found := read(place, name, groups, tell)) is not None:
        tell("taking damage curves from the cache")
        return found
    curves = measured()
    write(place, name, curves, tell)
    return curves


def known_curves(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    *,
    provider: str = "cpu",
    seed: int = 0,
    cache: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Curves:
    """What :func:`damage_curves` kept, or else the orders of removal alone.

    Arguments are those of :func:`damage_curves`. Orders take fewer rows than damage does, and no
    look at the outputs; they are not kept.
    """
    place = folder() if cache else None
    if place is not None:
        settings = {"provider": provider, "seed": seed, "outputs": True, "blocks": []}
        name = key(analysis, groups, batches, settings)
        if (found := read(place, name, groups, tell)) is not None:
            return found
    return orders(analysis, groups, batches, provider=provider, seed=seed, tell=tell)


def key(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    settings: Mapping[str, object],
) -> str:
    """A hexadecimal name for everything that curves follow from."""
    digest = hashlib.blake2b(digest_size=20)

    def add(*said: object) -> None:
        digest.update(repr(said).encode())

    def add_array(array: npt.NDArray[np.generic]) -> None:
        flat = np.ascontiguousarray(array).reshape(-1)
        add(str(array.dtype), array.shape)
        strings = array.dtype == object
        digest.update(repr(flat.tolist()).encode() if strings else flat.view(np.uint8).data)

    add(_code(), sorted(versions().items()), sorted(settings.items()))
    add(models.structure_hash(analysis.model))
    for path, tensor in _stored(analysis.model):
        add(path)
        add_array(tensor.numpy())
    for group in groups:
        add(group.name, len(group))
        for cut in group.slices:
            add(cut.tensor, cut.axis, cut.role, cut.nodes)
            add_array(cut.rows)
    for feeds in batches:
        for name in sorted(feeds):
            add(name)
            add_array(feeds[name])
    return digest.hexdigest()


def read(
    place: Path, name: str, groups: Sequence[Group], tell: Callable[[str], None]
) -> Curves | None:
    """The curves of that name, or None where there are none that can be trusted."""
    path = place / f"{name}{_ENDING}"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            order, damage = stored["order"], stored["damage"]
        curves = _unpacked(about, order, damage)
        _check(name, about["name"], groups, curves)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes its readers raise
        tell(f"ignoring {path.name} in the cache, which cannot be used: {error}")
        return None
    with contextlib.suppress(OSError):  # a cache that only others write
        os.utime(path)  # used now: others go first
    return curves


def write(place: Path, name: str, curves: Curves, tell: Callable[[str], None]) -> None:
    """Keep curves under a name, and drop what was used longest ago where room is short."""
    about = {
        "name": name,
        "groups": {g: len(each.order) for g, each in curves.swept.items()},
        "unpriced": dict(curves.unpriced),
        "blocks": dict(curves.blocks),
    }
    swept = list(curves.swept.values())
    arrays: dict[str, Any] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "order": np.concatenate([e.order for e in swept] or [np.zeros(0, np.int64)]),
        "damage": np.concatenate([e.damage for e in swept] or [np.zeros(0)]),
    }
    try:
        keep(place, f"{name}{_ENDING}", lambda file: np.savez(file, **arrays))
    except OSError as error:
        tell(f"the damage curves are not kept for the next time: {error.strerror or error}")


def _unpacked(
    about: Mapping[str, Any],
    order: npt.NDArray[np.int64],
    damage: npt.NDArray[np.float64],
) -> Curves:
    """Curves from what a file holds.

    Raises:
        ValueError: that is no set of curves.
    """
    sizes = list(about["groups"].values())
    ends = np.cumsum([0, *sizes])
    if order.shape != (ends[-1],) or damage.shape != (ends[-1] + len(sizes),):
        raise ValueError("its parts do not belong together")
    swept = {}
    for number, (name, size) in enumerate(about["groups"].items()):
        units = order[ends[number] : ends[number + 1]]
        curve = damage[ends[number] + number :][: size + 1]
        if not np.array_equal(np.sort(units), np.arange(size)) or not np.isfinite(curve).all():
            raise ValueError(f"it holds no order of the units of {name}")
        swept[name] = Elimination(units, curve)
    unpriced = {str(name): str(why) for name, why in about["unpriced"].items()}
    return Curves(swept, unpriced, {str(k): float(v) for k, v in about["blocks"].items()})


def _check(name: str, held: object, groups: Sequence[Group], curves: Curves) -> None:
    swept, unpriced, _ = curves
    if held != name:
        raise ValueError("it holds what belongs to another file")
    sizes = {g.name: len(g) for g in groups}
    if {*swept, *unpriced} != {*sizes} or any(len(e.order) != sizes[g] for g, e in swept.items()):
        raise ValueError("it is of other groups")


def _stored(model: models.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every tensor that a model stores, with where it does: by value name, or in an attribute."""
    for name, value in models.constants(model).items():
        tensor = models.constant(value)
        if tensor is not None:
            yield name, tensor
    for graph in models.graphs(model):
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and node.op_type != "Constant":
                    yield f"{node.name}.{attribute.name}", attribute.as_tensor()


@functools.cache
def _code() -> str:
    """A hash of this package's source: curves of another version are other curves."""
    digest = hashlib.blake2b(digest_size=20)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()

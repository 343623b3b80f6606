"""Error curves on disk, so that another budget on the same model and data measures nothing again.

They are named by a hash of everything they follow from: the stored tensors and the structure of the
model, the calibration inputs in the batches they come in, the groups, the settings, and the code
and libraries that computed them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.cache import Cache
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.plan import versions
from onnxprune.graph.units import Group
from onnxprune.select.importance.curves import Feeds
from onnxprune.select.importance.error_curves import (
    Curves,
    Measurement,
    measure_curves,
    measure_orders,
)
from onnxprune.solve.group_obs import Elimination


def cached_curves(
    work: Measurement, progress: Callable[[str], None] = lambda _: None, *, cache: bool = True
) -> Curves:
    """Error curves as ``error_curves.measure_curves`` measures them, kept for the next time.

    Args:
        work: what is measured.
        progress: told what is being done, and what is wrong with the cache.
        cache: whether to look for curves and to keep those found.
    """
    if not cache:
        return measure_curves(work, progress)
    kept, name = Cache("curves", progress), _name(work)
    if (curves := read(kept, name)) is not None:
        progress("taking error curves from the cache")
        return curves
    curves = measure_curves(work, progress)
    write(kept, name, curves)
    return curves


def known_curves(
    work: Measurement, progress: Callable[[str], None] = lambda _: None, *, cache: bool = True
) -> Curves:
    """What :func:`cached_curves` kept, or else the orders of removal alone.

    Arguments are those of :func:`cached_curves`. Orders take fewer rows than errors do, and no
    look at the outputs; they are not kept.
    """
    if cache and (curves := read(Cache("curves", progress), _name(work))) is not None:
        return curves
    return measure_orders(work, progress)


def _name(work: Measurement) -> str:
    settings = {
        "provider": work.provider,
        "seed": work.seed,
        "outputs": work.outputs,
        "memory": work.memory.total,
        "blocks": [block.name for block in work.blocks],
    }
    return key(work.analysis, work.groups, work.batches, settings)


def key(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    settings: Mapping[str, object],
) -> str:
    """A hexadecimal name for everything that curves follow from."""
    digest = hashlib.blake2b(digest_size=20)

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode())

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


def read(cache: Cache, name: str) -> Curves | None:
    """The curves of that name; None where there are none that can be trusted."""
    if (kept := cache.get(name)) is None:
        return None
    eliminations = {
        group: Elimination(np.array(order, np.int64), np.array(error, np.float64))
        for group, (order, error) in kept["groups"].items()
    }
    return Curves(eliminations, kept["unpriced"], kept["blocks"], tuple(kept.get("notes", ())))


def write(cache: Cache, name: str, curves: Curves) -> None:
    """Keep curves under a name."""
    groups = {g: (each.order.tolist(), each.error.tolist()) for g, each in curves.groups.items()}
    about: dict[str, object] = {"groups": groups, "unpriced": dict(curves.declined)}
    about["blocks"] = dict(curves.blocks)
    if curves.notes:
        about["notes"] = list(curves.notes)
    cache.put(name, about)


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
    root = Path(models.__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()

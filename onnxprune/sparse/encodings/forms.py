"""The forms a weight can be stored in: their sizes, what decoding takes, and who reads them.

``d`` is the share of values that are not zero, ``b`` the bytes of one value; per weight:

========  ====================  ==========================================================
dense     ``b``
sparse    ``d (b + 8)``         values and int64 places (ONNX SparseTensorProto)
bitmask   ``1/8 + d b``         a bit per weight, and the values
delta     ``(d + e) (b + 1)``   a byte for the distance to the next value; ``e`` for distances
                                of more than 255, which take several
delta4    ``(d + e) / 2 + d b`` half a byte for the distance; ``e`` for distances of more than 14
nibble    ``1/8 + b/2``         2:4: which two of four are stored, in half a byte, and the two
========  ====================  ==========================================================

Sparse storage is not sparse compute: all of them are dense again once a runtime has loaded them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["dense", "sparse", "bitmask", "delta", "delta4", "nibble"]
FORMS: tuple[Form, ...] = ("dense", "sparse", "nibble", "delta", "bitmask", "delta4")
"""All forms; of two that take the same space the first one listed is chosen."""

PACKED: frozenset[Form] = frozenset({"bitmask", "delta", "delta4", "nibble"})
"""Forms that standard operators decode when the model is loaded."""

GRAPH: dict[Form, int] = {
    "dense": 0,
    "sparse": 24,
    "bitmask": 96,
    "delta": 96,
    "delta4": 96,
    "nibble": 96,
}
"""Bytes of graph a weight needs besides its data: nodes, names and shapes, measured."""

TABLE: dict[Form, int] = {"bitmask": 2200, "delta4": 1000, "nibble": 2300}
"""Bytes a form takes once per model, whatever the number of weights."""

RAM: dict[Form, int] = {
    "dense": 0,
    "sparse": 0,
    "bitmask": 38,
    "delta": 24,
    "delta4": 24,
    "nibble": 20,
}
"""Bytes per weight that onnxruntime holds while it decodes, measured; OpenVINO holds less."""

NOT_COMPUTE = (
    "sparse storage is not sparse compute: a runtime makes these weights dense again when it loads "
    "them, so the file is smaller and the model neither faster nor smaller in memory"
)

AT_LOAD = (
    "packed weights are decoded when a model is loaded with graph optimisations on, as runtimes do "
    "unless told otherwise; with them off they are decoded at every run: right, but slow"
)

OTHER_ORDER = (
    "OpenVINO decodes packed weights after it has folded what it can, so it multiplies "
    "BatchNormalization into outputs instead of weights: they differ in the last bits unless "
    "BatchNormalization was folded before"
)
"""Measured: its ConstantFolding leaves CumSum and GatherElements, which run when it compiles."""

_READERS: dict[str, frozenset[Form]] = {
    "cpu": frozenset(FORMS),
    "openvino": frozenset(FORMS),
}
"""Providers on which the forms were measured to load, and to run as fast as dense weights."""

_DENSE_ONLY = {
    "tensorrt": "TensorRT refuses sparse constants and decodes packed ones at each inference",
    "tensorrt-rtx": "TensorRT refuses sparse constants and decodes packed ones at each inference",
}


@dataclass(frozen=True)
class Content:
    """What decides how much space a weight takes.

    Attributes:
        size: number of values.
        kept: those that are not zero.
        steps: entries of the delta form: ``kept``, and one per 255 of every longer distance.
        short: the same of the delta4 form, with one per 14.
        paired: the axis along which at most two of every four values are not zero, or None.
        negative: zeros with a sign, which no form but the dense one keeps.
    """

    size: int
    kept: int
    steps: int
    short: int
    paired: int | None
    negative: int = 0


def payload(form: Form, content: Content, itemsize: int) -> int | None:
    """Bytes of the data of a weight in a form, graph not counted; None if the form cannot hold it.

    Args:
        form: which.
        content: of the weight.
        itemsize: bytes of one stored value.
    """
    match form:
        case "dense":
            return content.size * itemsize
        case "sparse":
            return content.kept * (itemsize + 8)
        case "bitmask":
            return -(-content.size // 8) + content.kept * itemsize
        case "delta":
            return max(content.steps, 1) * (itemsize + 1)
        case "delta4":
            return -(-max(content.short, 1) // 2) + content.kept * itemsize
        case "nibble":
            if content.paired is None or content.size % 8:
                return None
            return content.size // 8 + content.size // 2 * itemsize


def readable(providers: Iterable[str]) -> tuple[frozenset[Form], str]:
    """The forms that all of these providers load well, and why there are no more of them."""
    forms, why = frozenset(FORMS), ""
    for name in providers:
        if name not in _READERS:
            unknown = f"how the provider {name} loads anything but dense weights was not measured"
            why = why or _DENSE_ONLY.get(name, unknown)
        forms &= _READERS.get(name, frozenset({"dense"}))
    return forms, why


def default_ram() -> int:
    """How many bytes decoding may take where nobody says: a quarter of this machine's memory."""
    most = 256 * 10**6 * RAM["bitmask"]
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return most
    return min(most, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)

"""Which encoding each weight gets: the smallest allowed one, within the memory for decoding."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from onnxprune.config import StoreOptions
from onnxprune.sparse.encodings.sparsity_stats import SparsityStats
from onnxprune.sparse.encodings.table import DENSE, ENCODINGS, SPARSE, Encoding, Packed, readable
from onnxprune.sparse.encodings.weights import Coding, Weight

_ANYWAY = 100
"""Tables of an encoding count for nothing beside weights of this many times their size."""
_DECODED_AT_ONCE = 256 * 10**6
"""Values that are decoded by default, at most."""


def allowed_encodings(options: StoreOptions) -> tuple[tuple[Encoding, ...], str]:
    """The encodings to choose from, and why some are not among them although they could be."""
    match options.store:
        case "sparse":
            return (DENSE, SPARSE), ""
        case "packed":
            return (DENSE, *(e for e in ENCODINGS.values() if isinstance(e, Packed))), ""
        case "auto":
            return readable(options.backend)
    return (DENSE,), ""


def choose(weights: Sequence[Weight], config: StoreOptions) -> list[Weight]:
    """The weights with their encodings, in the same order.

    Args:
        weights: of one model, with the encodings that they cannot have.
        config: what may be chosen.
    """
    permitted, _ = allowed_encodings(config)
    allowed = permitted
    encodings = [_smallest(weight, allowed, always=config.always) for weight in weights]
    shared = [e for e in ENCODINGS.values() if e.table_bytes and not config.always]
    for encoding in sorted(shared, key=lambda e: -e.load_memory):
        gain = total = 0
        others = tuple(e for e in allowed if e is not encoding)
        for weight, own in zip(weights, encodings, strict=True):
            if own is encoding:
                other = _smallest(weight, others, always=False)
                total += _bytes(weight, encoding)
                gain += _bytes(weight, other) - _bytes(weight, encoding)
        if gain <= encoding.table_bytes and total < _ANYWAY * encoding.table_bytes:
            allowed = others  # the table takes what is saved
            encodings = [_smallest(weight, allowed, always=False) for weight in weights]
    chosen = [
        _with(weight, encoding, _refusal(weight, encoding, permitted, always=config.always))
        for weight, encoding in zip(weights, encodings, strict=True)
    ]
    return _within(chosen, allowed, default_ram() if config.ram_limit is None else config.ram_limit)


def bytes_of(weight: Weight, encoding: Encoding) -> int | None:
    """Bytes of a weight in an encoding, its part of the graph included; None if it has no such."""
    if encoding.exact:
        data = encoding.size(_exact_stats(weight), int(weight.tensor.dtype.itemsize))
    else:
        data = encoding.size(weight.stats, int(weight.coding.dtype.itemsize))
    return None if data is None else data + encoding.graph_bytes


def default_ram() -> int:
    """How many bytes decoding may take where nobody says: a quarter of this machine's memory."""
    most = _DECODED_AT_ONCE * max(encoding.load_memory for encoding in ENCODINGS.values())
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return most
    return min(most, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def _bytes(weight: Weight, encoding: Encoding) -> int:
    size = bytes_of(weight, encoding)
    assert size is not None
    return size


def _unpacked(encodings: Iterable[Encoding]) -> tuple[Encoding, ...]:
    return tuple(each for each in encodings if not isinstance(each, Packed))


def _smallest(weight: Weight, allowed: Sequence[Encoding], *, always: bool) -> Encoding:
    """The encoding that takes least; of two that take the same, the first of the table."""
    if weight.excluded:
        return DENSE
    usable = [e for e in ENCODINGS.values() if e in allowed and e not in weight.unusable]
    sizes = {each: bytes_of(weight, each) for each in usable}
    if always and weight.stats.nonzeros < weight.stats.size:
        sizes.pop(DENSE)
    fitting = {encoding: size for encoding, size in sizes.items() if size is not None}
    return min(fitting, key=lambda each: fitting[each]) if fitting else DENSE


def _refusal(
    weight: Weight, encoding: Encoding, allowed: Sequence[Encoding], *, always: bool
) -> str:
    """Why a weight stays dense although an encoding that it cannot have is smaller."""
    if encoding is not DENSE:
        return ""
    free = replace(weight, unusable={})
    reasons = [
        reason
        for each, reason in weight.unusable.items()
        if each in allowed and _smallest(free, (DENSE, each), always=always) is each
    ]
    return "; ".join(dict.fromkeys(filter(None, (weight.remark, *reasons))))


def _exact_stats(weight: Weight) -> SparsityStats:
    # Narrowing rounds small values to zero, so that fewer are left than an exact encoding writes.
    return weight.stats if weight.exact_stats is None else weight.exact_stats


def _with(weight: Weight, encoding: Encoding, remark: str = "") -> Weight:
    coding, stats = weight.coding, weight.stats
    if encoding.exact:
        coding, stats = Coding(weight.tensor.dtype), _exact_stats(weight)
    remark = remark or weight.remark
    return replace(weight, encoding=encoding, coding=coding, stats=stats, remark=remark)


def _within(weights: list[Weight], allowed: Sequence[Encoding], limit: int) -> list[Weight]:
    """The same, with as many weights decoded as memory allows: those that save most per byte."""

    def memory(weight: Weight) -> int:
        return weight.encoding.load_memory * weight.stats.size

    def saving(k: int) -> float:
        weight = weights[k]
        return (_bytes(weight, DENSE) - _bytes(weight, weight.encoding)) / memory(weight)

    remaining = limit
    packed = [k for k, weight in enumerate(weights) if isinstance(weight.encoding, Packed)]
    for k in sorted(packed, key=saving, reverse=True):
        needed = memory(weights[k])
        if needed <= remaining:
            remaining -= needed
            continue
        remark = (
            f"decoding it would take about {needed} bytes of memory, and {remaining} are left of "
            f"the {limit} allowed"
        )
        encoding = _smallest(weights[k], _unpacked(allowed), always=False)
        weights[k] = _with(weights[k], encoding, remark)
    return weights

"""Which form each weight gets: the smallest that is allowed, within the memory for decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxprune.config import Store
from onnxprune.errors import OnnxpruneError
from onnxprune.sparse.encodings.forms import (
    FORMS,
    GRAPH,
    PACKED,
    RAM,
    TABLE,
    Form,
    default_ram,
    payload,
    readable,
)
from onnxprune.sparse.encodings.values import Coding, Values
from onnxprune.sparse.encodings.weights import Weight

_ANYWAY = 100
"""Tables of a form count for nothing beside weights of this many times their size."""


@dataclass(frozen=True)
class Asked:
    """How weights are to be stored.

    Attributes:
        form: one form for all, or ``auto``, the smallest that all of ``providers`` read.
        values: what the values of floats may be narrowed to.
        providers: what will run the model, by short name.
        ram: bytes that decoding may take when the model is loaded; None for a quarter of this
            machine's memory.
        always: take the form asked for even where it is larger.

    Raises:
        OnnxpruneError: narrowed values are asked of a form that has no room for a decoder.
    """

    form: Store = "auto"
    values: Values = "exact"
    providers: tuple[str, ...] = ("cpu",)
    ram: int | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if self.values != "exact" and self.form not in ("auto", "packed"):
            raise OnnxpruneError(
                f"--values {self.values} cannot be had with --store {self.form}: only decoders of "
                "packed weights convert values",
                hint="take --store packed or auto, or leave --values out",
            )

    @property
    def allowed(self) -> tuple[frozenset[Form], str]:
        """The forms that may be chosen from, and why some may not although they could."""
        match self.form:
            case "sparse":
                return frozenset({"dense", "sparse"}), ""
            case "packed":
                return frozenset({"dense", *PACKED}), ""
            case "auto":
                return readable(self.providers)
        return frozenset({"dense"}), ""


def choose(weights: Sequence[Weight], asked: Asked, no_decoder: str = "") -> list[Weight]:
    """The weights with their forms, in the order given.

    Args:
        weights: of one model.
        asked: what may be chosen.
        no_decoder: why nothing can be decoded in this model; empty if it can. Then the values of
            ``weights`` have to be exact.
    """
    allowed, _ = asked.allowed
    if no_decoder:
        allowed -= PACKED
    forms = [_smallest(weight, allowed, always=asked.always) for weight in weights]
    for form in () if asked.always else TABLE:
        gains = held = 0
        for weight, had in zip(weights, forms, strict=True):
            if had == form:
                other = _smallest(weight, allowed - {form}, always=False)
                held += _bytes(weight, form)
                gains += _bytes(weight, other) - _bytes(weight, form)
        if gains <= TABLE[form] and held < _ANYWAY * TABLE[form]:  # the table takes what is saved
            allowed -= {form}
            forms = [_smallest(weight, allowed, always=False) for weight in weights]
    chosen = [_with(weight, form) for weight, form in zip(weights, forms, strict=True)]
    return _within(chosen, allowed, default_ram() if asked.ram is None else asked.ram)


def bytes_of(weight: Weight, form: Form) -> int | None:
    """Bytes a weight takes in a form, its part of the graph included; None if it cannot have it."""
    dtype = weight.tensor.dtype if form == "sparse" else weight.coding.dtype
    data = payload(form, weight.content, int(dtype.itemsize))
    return None if data is None else data + GRAPH[form]


def _bytes(weight: Weight, form: Form) -> int:
    found = bytes_of(weight, form)
    assert found is not None
    return found


def _smallest(weight: Weight, allowed: frozenset[Form], *, always: bool) -> Form:
    if weight.excluded:
        return "dense"
    sizes = {form: bytes_of(weight, form) for form in FORMS if form in allowed}
    if always and weight.content.kept < weight.content.size:
        sizes.pop("dense")
    fit = {form: size for form, size in sizes.items() if size is not None}
    return min(fit, key=lambda form: fit[form]) if fit else "dense"


def _with(weight: Weight, form: Form, remark: str = "") -> Weight:
    exact = Coding(weight.tensor.dtype)
    coding = exact if form == "sparse" else weight.coding
    return replace(weight, form=form, coding=coding, remark=remark or weight.remark)


def _within(weights: list[Weight], allowed: frozenset[Form], limit: int) -> list[Weight]:
    """The same, with as many weights decoded as memory allows: those that save most per byte."""
    packed = [k for k, weight in enumerate(weights) if weight.form in PACKED]

    def worth(k: int) -> float:
        weight = weights[k]
        return (_bytes(weight, "dense") - _bytes(weight, weight.form)) / _ram(weight)

    left = limit
    for k in sorted(packed, key=worth, reverse=True):
        needed = _ram(weights[k])
        if needed <= left:
            left -= needed
            continue
        remark = (
            f"decoding it would take about {needed} bytes of memory, and {left} are left of the "
            f"{limit} allowed"
        )
        weights[k] = _with(
            weights[k], _smallest(weights[k], allowed - PACKED, always=False), remark
        )
    return weights


def _ram(weight: Weight) -> int:
    return RAM[weight.form] * weight.content.size

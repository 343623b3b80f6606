"""Which indices of every axis a pruned model still has, axis after axis.

Every axis that has become shorter is compared, row by row, in all the tensors that have it and
whose other axes are already understood: from the inputs, which lose nothing, inwards. An axis is
settled by its atoms, so that what one tensor tells is true of all others with the same units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import PIN, Axis, Column
from onnxprune.graph.layers.sources import fits
from onnxprune.recovery.correspond.alignment import Alignment, Certainty, align
from onnxprune.recovery.correspond.matching import SAME_WAY

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

_UNKNOWN, _KEPT, _GONE = 0, 1, -1
_ORDER: tuple[Certainty, ...] = ("equal", "close", "equal to several")
"""What is believed first: the more is understood, the more there is to compare."""
_SAID: dict[Certainty, str] = {
    "out of order": "all of them are indices that the dense model has, but not in its order",
    "contradictory": "the tensors that share them have kept different ones",
    "unclear": "its weights have changed, and more than one choice explains them about as well",
    "unlike": "its weights do not resemble those of the dense model, whichever indices stay",
}
_HINT = "give the model that this one was made from, or prune with `onnxprune prune`"


@dataclass(frozen=True, eq=False)
class Seen:
    """One stored tensor as both models have it; ``keys`` name its axes."""

    name: str
    node: str
    dense: ir.TensorProtocol
    pruned: ir.TensorProtocol
    keys: tuple[bytes, ...]


@dataclass(eq=False)
class _Shared:
    """One axis, wherever it occurs.

    Attributes:
        columns: its atoms; none where it cannot lose anything.
        count: its size in the pruned model.
        seen: tensors that have it, and where.
        looked: what was known when it was last compared, and what came of that.
    """

    columns: list[Column]
    size: int
    count: int
    seen: list[tuple[Seen, int]] = field(default_factory=list)
    looked: tuple[bytes, int] = (b"", 0)
    found: Alignment | None = None


class Axes:
    """The axes of one dense model, and what is known of each.

    Attributes:
        tensors: those that both models store.
        notes: whole sentences: where the weights do not tell.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis, self._space = analysis, analysis.walk.space
        self._known = np.zeros(len(self._space), np.int8)
        self._known[PIN] = _KEPT
        self._axes: dict[bytes, _Shared] = {}
        self.tensors: list[Seen] = []
        self.notes: list[str] = []

    # -- gathering ---------------------------------------------------------------------------

    def add(self, value: ir.Value, axes: Sequence[Axis], other: ir.Value | None, node: str) -> None:
        """A tensor that both models store."""
        dense = models.constant(value)
        pruned = None if other is None else models.constant(other)
        assert dense is not None
        assert pruned is not None
        name = value.name or ""
        shapes = [[int(n) for n in t.shape.numpy()] for t in (dense, pruned)]
        if not fits(dense, pruned):
            raise OnnxpruneError(
                f"'{name}' is {dense.dtype.name.lower()} {shapes[0]} in the dense model and "
                f"{pruned.dtype.name.lower()} {shapes[1]} in the pruned one",
                hint=SAME_WAY,
            )
        keys = []
        for k, (axis, was, now) in enumerate(zip(axes, *shapes, strict=True)):
            columns = [self._space.labels(c) for c in self._space.columns(axis)]
            if not columns and was != now:
                why = self._space.why_pinned(axis) or "nothing that can be removed goes along it"
                raise OnnxpruneError(
                    f"axis {k} of '{name}' has {now} of {was} indices left, but it cannot lose "
                    f"any as far as onnxprune can tell: {why}",
                    hint="see `onnxprune inspect`, which says what can be removed",
                )
            key = b"|".join(c.tobytes() for c in columns)
            keys.append(key)
            shared = self._axes.setdefault(key, _Shared(columns, was, now)) if columns else None
            if shared is not None and shared.count != now:
                first = shared.seen[0][0].name
                raise OnnxpruneError(
                    f"'{name}' has {now} of {was} indices left along axis {k}, '{first}' has "
                    f"{shared.count} of the same",
                    hint=SAME_WAY,
                )
        seen = Seen(name, node, dense, pruned, tuple(keys))
        self.tensors.append(seen)
        for k, key in enumerate(keys):
            if key:
                self._axes[key].seen.append((seen, k))

    # -- finding -----------------------------------------------------------------------------

    def settle_all(self) -> None:
        """Settle every axis, the surest first."""
        for shared in self._axes.values():
            if shared.count == shared.size:
                self._settle(shared, np.ones(shared.size, np.bool_))
        while waiting := [s for s in self._axes.values() if not self._rows(s)[1].all()]:
            if not any(self._step(waiting, certainty) for certainty in _ORDER):
                raise self._stuck(waiting)
        for shared in self._axes.values():
            if int((self._rows(shared)[0]).sum()) != shared.count:
                raise self._contradiction(shared)

    def _step(self, waiting: Sequence[_Shared], certainty: Certainty) -> bool:
        """Settle the first axis that can be with this certainty."""
        for shared in waiting:
            found = self._look(shared)
            if found is not None and found.certainty == certainty:
                if certainty == "equal to several":
                    self.notes.append(
                        f"units of '{shared.seen[0][0].name}' have the same weights as others "
                        "that are gone: which of them stayed makes no difference"
                    )
                self._settle(shared, found.kept)
                return True
        return False

    def _look(self, shared: _Shared) -> Alignment | None:
        """Compare an axis in the tensors whose other axes are understood."""
        stays, sure = self._rows(shared)
        allowed = stays | ~sure
        if int(allowed.sum()) < shared.count:
            raise self._contradiction(shared)
        usable = [(t, k) for t, k in shared.seen if self._understood(t, k)]
        state = allowed.tobytes(), len(usable)
        if usable and state != shared.looked:
            parts = [self._part(t, k) for t, k in usable]
            shared.found = align([p[0] for p in parts], [p[1] for p in parts], allowed)
            shared.looked = state
        return shared.found

    def _rows(self, shared: _Shared) -> tuple[Bool, Bool]:
        """Which indices stay as far as is known, and of which that is sure."""
        gone = np.logical_or.reduce([self._known[c] == _GONE for c in shared.columns])
        kept = np.logical_and.reduce([self._known[c] == _KEPT for c in shared.columns])
        return kept, kept | gone

    def _understood(self, tensor: Seen, axis: int) -> bool:
        """Whether all axes but one are settled."""
        return all(
            k == axis or not key or bool(self._rows(self._axes[key])[1].all())
            for k, key in enumerate(tensor.keys)
        )

    def cut(self, tensor: Seen, but: int | None = None) -> Array:
        """The dense tensor with what is gone cut away, along all axes but one."""
        array: Array = tensor.dense.numpy()
        for k, key in enumerate(tensor.keys):
            if key and k != but:
                kept = self._rows(self._axes[key])[0]
                array = array if kept.all() else np.compress(kept, array, k)
        return array

    def _part(self, tensor: Seen, axis: int) -> tuple[Array, Array]:
        """One axis of a tensor as rows, of both models."""
        pair = self.cut(tensor, axis), tensor.pruned.numpy()
        a, b = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in pair)
        if a.shape[1] != b.shape[1]:
            raise self._contradiction(self._axes[tensor.keys[axis]])
        return a, b

    def _settle(self, shared: _Shared, kept: Bool) -> None:
        """Take it that these indices stay and no others."""
        for column in shared.columns:
            atoms = np.unique(column[kept])
            if (self._known[atoms] == _GONE).any():
                raise self._contradiction(shared)
            self._known[atoms] = _KEPT
        for column in shared.columns:
            atoms = column[~kept]
            atoms = atoms[self._known[atoms] == _UNKNOWN]
            self._known[atoms] = _GONE
        if not np.array_equal(self._rows(shared)[0], kept):
            raise self._contradiction(shared)

    @property
    def gone(self) -> Bool:
        """Which atoms are gone."""
        return np.asarray(self._known == _GONE)

    def _stuck(self, waiting: Sequence[_Shared]) -> OnnxpruneError:
        looked = [s for s in waiting if s.found is not None]
        shared = (looked or list(waiting))[0]
        tensor, axis = shared.seen[0]
        why = "everything it could be compared in is cut along other axes that are unknown too"
        if shared.found is not None:
            why = _SAID[shared.found.certainty]
        return OnnxpruneError(
            f"which {shared.count} of the {shared.size} indices along axis {axis} of "
            f"'{tensor.name}' are left cannot be told: {why}",
            hint=_HINT,
        )

    def _contradiction(self, shared: _Shared) -> OnnxpruneError:
        tensor, axis = shared.seen[0]
        return OnnxpruneError(
            f"no one choice of units explains axis {axis} of '{tensor.name}', which has "
            f"{shared.count} of {shared.size} indices left, and the other tensors with it",
            hint=_HINT,
        )

"""The job: a model whose weights are stored in the forms that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxprune import model as models
from onnxprune.model.decode import densify
from onnxprune.sparse.encodings import coo, packed
from onnxprune.sparse.encodings.choose import Asked, choose
from onnxprune.sparse.encodings.forms import AT_LOAD, NOT_COMPUTE, OTHER_ORDER, PACKED
from onnxprune.sparse.encodings.weights import Weight, weights


@dataclass(frozen=True, eq=False)
class Stored:
    """A model that is ready to be written.

    Attributes:
        model: what is written.
        dense: the same with all weights dense.
        weights: every weight that is large enough to be looked at, with the form it got.
        asked: what was asked for.
        notes: whole sentences on what the reader should know.
        unread: tools that cannot read what is written, and what they do; empty for packed
            weights, which are standard operators.
    """

    model: models.Model
    dense: models.Model
    weights: tuple[Weight, ...]
    asked: Asked
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether any weight is stored otherwise than dense."""
        return any(weight.changed for weight in self.weights)

    def save(self, path: str | Path) -> Path:
        """Write it; never over the model it came from.

        Raises:
            OnnxpruneError: it cannot be written there.
        """
        external = True if self.asked.form == "external" else None
        return models.save(self.model, path, external=external)


def store(source: models.ModelLike, asked: Asked | None = None) -> Stored:
    """Give every weight of a model the form that was asked for.

    Args:
        source: whatever `models.load` takes; it is left as it is. Weights that are packed or
            sparse in it are made dense first.
        asked: by default, the smallest form each.

    Raises:
        OnnxpruneError: the model cannot be loaded.
    """
    asked = asked or Asked()
    dense, _ = densify(models.load(source))
    allowed, why = asked.allowed
    notes = [why] if why else []
    if allowed == {"dense"}:
        return Stored(dense, dense, (), asked, tuple(notes))
    made = models.clone(dense)
    no_decoder = packed.no_decoder(made) if allowed & PACKED else "none was asked for"
    if no_decoder and allowed & PACKED:
        notes.append(no_decoder)
    found = list(weights(made, "exact" if no_decoder else asked.values))
    chosen = choose(found, asked, no_decoder)
    as_nodes = coo.in_nodes(made, asked.providers)
    coo.sparsify(made, chosen, as_nodes=as_nodes)
    packed.pack(made, chosen)
    notes += _notes(chosen)
    if "openvino" in asked.providers and _normalised(made) and _packs(chosen):
        notes.append(OTHER_ORDER)
    unread: tuple[str, ...] = ()
    if any(weight.form == "sparse" for weight in chosen):
        unread = coo.NODE_REFUSED_BY if as_nodes else coo.REFUSED_BY
    return Stored(made, dense, tuple(chosen), asked, tuple(notes), unread)


def _notes(chosen: list[Weight]) -> list[str]:
    notes = []
    negative = sum(w.content.negative for w in chosen if w.changed)
    if negative:
        notes.append(f"{negative} zeros had a sign, and have none now")
    if not any(weight.changed for weight in chosen):
        notes.append("no weight takes less space in another form than the dense one")
    if _packs(chosen):
        notes.append(AT_LOAD)
    if any(weight.form != "dense" for weight in chosen):
        notes.append(NOT_COMPUTE)
    return notes


def _packs(chosen: list[Weight]) -> bool:
    return any(weight.form in PACKED for weight in chosen)


def _normalised(model: models.Model) -> bool:
    return any(n.op_type == "BatchNormalization" for g in models.graphs(model) for n in g)

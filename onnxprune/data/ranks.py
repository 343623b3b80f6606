"""Ranks of inputs that declare none: those of the data, else those that the runtime accepts.

An exporter may write an input without any shape, which is not the empty shape of a number. Whoever
knows is asked for its rank: sizes that the user gave, then the data, then the runtime, which is
offered inputs of every rank. The rank is declared in a copy, whose sizes stay open, and taken back
where a result is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.dataset import open_source, synthetic_inputs
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.graph.analysis import analyse
from onnxprune.model import Model
from onnxprune.model.structure import ADDED_SHAPE
from onnxprune.runtime.first_run import RuntimeDiedError, first_run

_USUAL = (2, 4, 3, 5, 1, 0)
"""Ranks in the order in which the runtime is asked: rows, pictures, sequences, volumes."""
_RISING = (1, 2, 3, 4, 5, 6, 0)
"""The same for data: those of an array itself, before an axis for samples in front of it."""
_MOST = 64
"""Combinations of ranks that are tried, at most."""


def unranked(model: Model) -> list[str]:
    """The inputs that are tensors and declare no shape."""
    return [
        value.name or ""
        for value in model.ir.graph.inputs
        if value.shape is None
        and not value.is_initializer()
        and isinstance(value.type, ir.TensorType | None)
    ]


def with_ranks(model: Model, config: Options) -> Model:
    """A model whose inputs all have a rank: the same, or a copy that declares more.

    Args:
        model: not changed.
        config: the options; their shapes and samples say which ranks fit.

    Raises:
        OnnxpruneError: neither the data nor the runtime fit any rank.
    """
    names = unranked(model)
    if not names:
        return model
    shapes = dict(config.shapes or {})
    problem: OnnxpruneError | None = None
    has_data = config.calib is not None or config.eval is not None
    for ranks in _candidates(names, shapes, _RISING if has_data else _USUAL):
        declared = _declared(model, ranks)
        try:
            _try(declared, config)
        except RuntimeDiedError:
            raise
        except OnnxpruneError as error:
            problem = _telling(problem, error)
        else:
            return declared
    if has_data and problem is not None:
        raise OnnxpruneError(
            f"the input '{names[0]}' declares no shape, and the samples fit at no rank: "
            f"{problem.message}",
            hint="check that the samples are those of this model",
        )
    how = "give sizes that fit" if shapes else "give inputs with --calib, or sizes"
    raise OnnxpruneError(
        f"the input '{names[0]}' declares no shape, and the model runs at no rank that was tried",
        hint=spelled(f"{how}, as in --shapes {names[0]}=1x3x224x224"),
    )


def with_ranks_of(model: Model, other: Model) -> Model:
    """A model whose inputs have the ranks that another model's inputs of these names have.

    Args:
        model: not changed; inputs that declare a shape keep it.
        other: a dense model, say, after :func:`with_ranks`.
    """
    shapes = {value.name: value.shape for value in other.ir.graph.inputs}
    ranks = {
        name: len(shape) for name in unranked(model) if (shape := shapes.get(name)) is not None
    }
    return _declared(model, ranks) if ranks else model


def without_ranks(model: Model, dense: Model | None = None) -> Model:
    """A model whose inputs declare no more than the original's: the same, or a copy.

    Args:
        model: it comes from one of :func:`with_ranks`.
        dense: that one, where a tool in between has lost which inputs these are.
    """
    origin = model if dense is None else dense
    names = {value.name for value in origin.ir.graph.inputs if ADDED_SHAPE in value.meta}
    if not names:
        return model
    copy = models.clone(model)
    for value in copy.ir.graph.inputs:
        if value.name in names:
            value.meta.pop(ADDED_SHAPE, None)
            value.shape = None
    return copy


def _telling(first: OnnxpruneError | None, other: OnnxpruneError) -> OnnxpruneError:
    """The problem that says more: that of data which fit no shape says only that."""
    return other if first is None or "gives an array of shape" in first.message else first


def _candidates(
    names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], ranks: Sequence[int]
) -> Iterator[dict[str, int]]:
    """Ranks of all inputs: where several are unknown, first the same for all."""
    free = [name for name in names if name not in shapes]
    known = {name: len(shapes[name]) for name in names if name in shapes}
    same = [(rank,) * len(free) for rank in ranks] if free else [()]
    mixed = itertools.product(ranks, repeat=len(free)) if len(free) > 1 else ()
    for chosen in itertools.islice(dict.fromkeys(itertools.chain(same, mixed)), _MOST):
        yield known | dict(zip(free, chosen, strict=True))


def _declared(model: Model, ranks: Mapping[str, int]) -> Model:
    copy = models.clone(model)
    for value in copy.ir.graph.inputs:
        rank = ranks.get(value.name or "")
        if rank is not None:
            value.shape = ir.Shape([None] * rank)
            value.meta[ADDED_SHAPE] = True
    return copy


def _try(model: Model, config: Options) -> None:
    """Run a model on the samples of the options, or on synthetic ones.

    Raises:
        OnnxpruneError: samples do not fit, or the model does not run on them.
    """
    if config.calib is None and config.eval is None:
        synthetic_inputs(analyse(model, inputs=dict(config.shapes) or None), config.provider)
        return
    few = replace(config, calib_samples=2) if config.calib is not None else config
    source, _ = open_source(model, few)
    assert source is not None
    first_run(model, itertools.islice(source, 1), provider=config.provider)

"""The job that stores weights in less space, and checks the file it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import Options, StoreOptions, split
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.data.ranks import with_ranks
from onnxprune.errors import OnnxpruneError, as_model_path, blame, spelled
from onnxprune.evaluate.equivalence import arrays_of, difference, tolerance
from onnxprune.graph.analysis import analyse
from onnxprune.graph.plan import Plan
from onnxprune.jobs.certificate import Claims
from onnxprune.jobs.certificate import certify as make_certificate
from onnxprune.jobs.keywords import keywords
from onnxprune.model.decode import densify
from onnxprune.model.seal import Certify, content_hash
from onnxprune.quantities import figure
from onnxprune.runtime import FIXED_THREADS, open_session
from onnxprune.sparse.encodings.choose import allowed_encodings, choose
from onnxprune.sparse.encodings.graph_builder import OLDEST
from onnxprune.sparse.encodings.table import DENSE, Packed
from onnxprune.sparse.encodings.weights import Weight, weights
from onnxprune.sparse.encodings.write import restrict, unusable_encodings, write
from onnxprune.types import Check, backend_name, provider_of

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

NOT_COMPUTE = (
    "sparse storage is not sparse compute: a runtime makes these weights dense again when it loads "
    "them, so the file is smaller and the model neither faster nor smaller in memory"
)

AT_LOAD = (
    "packed weights are decoded when a model is loaded with graph optimisations on, as runtimes do "
    "by default; otherwise they are decoded at every run, which is slow"
)

INPUTS = (
    "weights that are also graph inputs stay dense; to make constants of them: python -m "
    "onnxruntime.tools.remove_initializer_from_input --input MODEL --output NEW"
)

OTHER_ORDER = (
    "OpenVINO decodes packed weights after it has folded what it can, so it multiplies "
    "BatchNormalization into outputs instead of weights: they differ in the last bits unless "
    "BatchNormalization was folded before"
)
"""Measured: its ConstantFolding leaves CumSum and GatherElements, which run when it compiles."""


LARGEST_RUN = 1 << 30
"""Bytes of weights up to which a stored model is run: a runtime holds them several times over."""


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """A model that is ready to be written.

    Attributes:
        model: with its weights in their forms.
        dense: the same with all weights dense.
        weights: every weight that is large enough to be looked at, with its encoding.
        config: the options.
        notes: whole sentences for the user.
        unread: tools that cannot read what is written, and what they do; empty for packed
            weights, which are standard operators.
        command: that makes it, for its certificate.
    """

    model: models.Model
    dense: models.Model
    weights: tuple[Weight, ...]
    config: StoreOptions
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    command: str = "store"

    def __repr__(self) -> str:
        forms = sorted({weight.form for weight in self.weights} - {"dense"})
        stored = sum(weight.form != "dense" for weight in self.weights)
        words = f" ({', '.join(forms)})" if forms else ""
        return f"<Stored: {stored} of {len(self.weights)} weights{words}>"

    @property
    def changed(self) -> bool:
        """Whether any weight is stored otherwise than dense."""
        return any(weight.changed for weight in self.weights)

    def save(
        self,
        path: str | Path,
        *,
        certify: Certify | None = None,
        accept: Callable[[Path], bool] | None = None,
    ) -> Path:
        """Write it; never over the model it came from.

        The file appears once it has been read back: see `require_same`.

        Args:
            path: of the .onnx file.
            certify: makes the certificate; by default that of a model that was stored alone, or
                none if the options say so.
            accept: another judge of the file; see `onnxprune.model.write`.

        Raises:
            OnnxpruneError: it cannot be written there, or reads back otherwise.
        """
        if certify is None and self.config.certificate:
            weights = [each.name for each in self.weights if each.narrowed]
            claims = Claims(
                self.command, self.dense, self.dense, Plan(), narrowed=weights, fitted=False
            )
            certify = make_certificate(claims)
        external = True if self.config.store == "external" else None
        target = as_model_path(path)

        def same(place: Path) -> bool:
            require_same(self, place, target)
            return True

        return models.write(
            self.model, target, external=external, certify=certify, accept=accept or same
        )


@dataclass(frozen=True)
class StoredCheck:
    """The checks of a file, and notes on parts that could not be checked."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


@keywords("store")
def store(
    model: models.ModelLike,
    options: StoreOptions | None = None,
    **fields: object,
) -> Stored:
    """Give every weight of a model an encoding.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
            Weights that are packed or sparse in it are made dense first.
        options: how weights are written; or give the same as keywords
            (``store(path, store="packed", values="fp16")``).
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the options or the model cannot be used.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> sparse = prune(zoo.get("digits_mlp").model, sparsity="90%").model
        >>> stored = store(sparse, store="packed")
        >>> any(weight.form != "dense" for weight in stored.weights)
        True
    """
    config = split("store", fields, options)[0]
    providers = dict.fromkeys(provider_of(backend_name(name)) for name in config.backend)
    config = replace(config, backend=tuple(providers))
    dense, _ = densify(models.load(model))
    if config.shapes:  # wrong ones are refused here; the check below is of another file
        with blame("--shapes"):
            analyse(dense, inputs=config.shapes)
    encodings, reason = allowed_encodings(config)
    notes = [reason] if reason else []
    if encodings == (DENSE,):
        return Stored(dense, dense, (), config, tuple(notes))
    result = models.clone(dense)
    unusable = unusable_encodings(result, config.backend)
    packed = [encoding for encoding in encodings if isinstance(encoding, Packed)]
    notes += [
        f"{reason}; {_instead(config)}"
        for reason in dict.fromkeys(unusable[each] for each in packed if each in unusable)
    ]
    decodes = any(encoding not in unusable for encoding in packed)
    candidates = weights(result, config.values if decodes else "exact")
    chosen = choose(list(restrict(result, candidates, config.backend)), config)
    unread = write(result, chosen, config.backend)
    notes += _notes(chosen, usable=any(each not in unusable for each in encodings[1:]))
    if "openvino" in config.backend and _normalised(result) and _packs(chosen):
        notes.append(OTHER_ORDER)
    return Stored(result, dense, tuple(chosen), config, tuple(notes), unread)


def check_stored(
    stored: Stored,
    path: Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "cpu",
) -> StoredCheck:
    """Read a file back, and run it beside the dense model on synthetic inputs.

    A file whose weights are all dense is not run, nor is one of more than ``LARGEST_RUN`` bytes.

    Args:
        stored: the model that was written.
        path: where.
        shapes: of inputs whose sizes the model leaves open.
        provider: execution provider of both.
    """
    back = read_back(stored, path)
    if not stored.changed:
        return StoredCheck((back,))
    size = models.size_bytes(stored.dense)
    if size > LARGEST_RUN:
        why = f"it holds {size / 1e9:.1f} GB of weights, and up to {LARGEST_RUN / 1e9:.1f} are run"
        return StoredCheck((back,), (f"the file was read back but not run: {why}",))
    try:
        dense = with_ranks(stored.dense, Options(shapes=dict(shapes or {}), stand_in=provider))
        analysis = analyse(dense, inputs=shapes)
        feeds = synthetic_inputs(analysis, provider)
        outputs = same_outputs(stored, path, feeds, provider)
    except OnnxpruneError as problem:
        return StoredCheck((back,), (f"the file was read back but not run: {problem.message}",))
    if any(weight.narrowed for weight in stored.weights):
        change = f"{figure(outputs.value)} of their size on synthetic inputs"
        return StoredCheck((back,), (f"values in fewer bits move the outputs by up to {change}",))
    return StoredCheck((back, outputs))


def require_same(stored: Stored, path: Path, target: Path) -> None:
    """Read a file back: its graph, and every weight bit by bit, must be those that were written.

    A file of more than ``LARGEST_RUN`` bytes is not read again.

    Args:
        stored: the model that was written.
        path: where it is now.
        target: where it will be, for the message.

    Raises:
        OnnxpruneError: the file holds something else.
    """
    if models.size_bytes(stored.dense) > LARGEST_RUN:
        return
    if stored.changed:
        same = read_back(stored, path).ok
    else:
        same = content_hash(models.load(path)) == content_hash(stored.model)
    if not same:
        raise OnnxpruneError(
            f"{target} was not written: it reads back otherwise",
            hint="check the disk, or write to another one",
            exit_code=1,
        )


def read_back(stored: Stored, path: Path) -> Check:
    """Decode every weight from the file; each must equal the intended one, bit by bit."""
    constants = models.constants(densify(models.load(path))[0])
    changed = {weight.name: weight for weight in stored.weights if weight.changed}
    wrong = 0
    for name, value in models.constants(stored.dense).items():
        tensor = models.constant(value)
        decoded = models.constant(constants[name]) if name in constants else None
        if tensor is None or decoded is None:
            wrong += 1
            continue
        expected = changed[name].expected() if name in changed else tensor.numpy()
        try:
            wrong += not same(decoded.numpy(), expected)
        except OnnxpruneError:  # what is stored cannot be decoded
            wrong += 1
    return Check("weights that read back otherwise", wrong == 0, float(wrong), 0.0)


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal bit by bit; signs of zeros and payloads of NaN count too."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return bool((one == other).all())
    left, right = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, other))
    return np.array_equal(left, right)


def same_outputs(stored: Stored, path: Path, feeds: Sequence[Feeds], provider: str) -> Check:
    """Run the file and the dense model; outputs must agree to rounding, sequences part by part.

    Raises:
        OnnxpruneError: one of them does not run.
    """
    threads = FIXED_THREADS  # of both: some models carry the last bits of a product far
    dense = open_session(
        stored.dense, provider=provider, threads=threads, prepack=False, arena=False
    )
    expected = [arrays_of(dense.run(each)) for each in feeds]
    del dense
    session = open_session(path, provider=provider, threads=threads, spin=False, arena=False)
    worst = Check("outputs = dense", ok=True, value=0.0, limit=0.0)
    for each, outputs in zip(feeds, expected, strict=True):
        actual = arrays_of(session.run(each))
        for name in dict.fromkeys((*outputs, *actual)):  # a sequence may have become longer
            array = outputs.get(name, np.zeros(0, np.float32))
            limit = tolerance(array)
            both = name in outputs and name in actual
            value = difference(actual[name], array) if both else float("inf")
            if value >= worst.value:
                worst = Check(f"outputs = dense ({name})", value <= limit, value, limit)
    return worst


def _instead(config: StoreOptions) -> str:
    """What stores the weights of a model whose opset is too old for packed ones."""
    words = f"convert it with onnx.version_converter.convert_version(model, {OLDEST})"
    if config.store == "sparse" or "openvino" in config.backend:
        return words
    return spelled(f"{words}, or take --store sparse, which onnxruntime reads at any opset")


def _notes(weights: list[Weight], *, usable: bool) -> list[str]:
    """Notes on weights; ``usable`` is whether any form but the dense one fits the model."""
    notes = []
    if any(weight.value.is_graph_input() for weight in weights):
        notes.append(INPUTS)
    negative = sum(w.stats.negative for w in weights if w.changed)
    if negative:
        notes.append(f"{negative} zeros had a sign, and have none now")
    if usable and not any(weight.changed or weight.excluded for weight in weights):
        notes.append("no weight takes less space in another form than the dense one")
    if _packs(weights):
        notes.append(AT_LOAD)
    if any(weight.encoding is not DENSE for weight in weights):
        notes.append(NOT_COMPUTE)
    return notes


def _packs(weights: list[Weight]) -> bool:
    return any(isinstance(weight.encoding, Packed) for weight in weights)


def _normalised(model: models.Model) -> bool:
    return any(n.op_type == "BatchNormalization" for g in models.graphs(model) for n in g)

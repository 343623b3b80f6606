"""Every job on every network at hand, with few, some and many samples.

What is asserted are properties of the result, whatever the network: the job ends without an
internal error, its own checks are good, what it wrote loads and gives finite outputs, it kept to
what was asked or says why not, and zeros stay zeros. A refusal is an error too, unless `REFUSED`
expects it of that network and job. How good a result is hangs on the network, the job and the few
samples; `tests/jobs/test_verdicts.py` is about that.

``make test`` runs a few cells, among them every job and every family of networks, drawn by the
seed in ``ONNXPRUNE_MATRIX_SEED`` (0). ``make test-heavy`` runs the others.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from conftest import SHARED
from networks import FAMILIES, FFN, HEADS, UNREADABLE, Family, Feeds, feeds_of, path_of
from onnxprune import Result, prune, recover
from onnxprune import model as models
from onnxprune.config import StoreOptions, from_flags
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import difference, tolerance
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.quantize import quantize
from onnxprune.jobs.store import check_stored, store
from onnxprune.quantities import sparsity
from onnxprune.sparse.sparsify import sparsify

Array = npt.NDArray[Any]

SAMPLES = (12, 200, 1000)
SEED = int(os.environ.get("ONNXPRUNE_MATRIX_SEED", "0"))

RATIO, MACS, HEAD_RATIO, FFN_RATIO = 0.3, 0.7, 0.25, 0.4
SHORT = "store"
"""The job that takes seconds on every network."""
NEAR = 0.03
"""Difference from the ratio asked for that needs no explanation."""


@dataclass(frozen=True)
class Case:
    """One network and its inputs, as a job gets them.

    Attributes:
        path: of the dense model.
        feeds: inputs, in batches.
        folder: where the job writes.
    """

    path: Path
    feeds: Sequence[Feeds]
    folder: Path

    @property
    def data(self) -> dict[str, Any]:
        """The options that name the inputs."""
        return {"calib": list(self.feeds)}


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def assert_runs(case: Case, path: Path) -> None:
    """The file loads, and its outputs are finite wherever those of the dense model are."""
    dense, made = _session(case.path), _session(path)
    for feeds in case.feeds[:2]:
        names = [each.name for each in dense.get_outputs()]
        for name, before, after in zip(
            names, dense.run(names, feeds), made.run(names, feeds), strict=True
        ):
            assert not np.isfinite(before).all() or np.isfinite(after).all(), name


def tensors(model: models.Model) -> dict[str, Array]:
    """What a model stores, by name."""
    found = {name: models.constant(value) for name, value in models.constants(model).items()}
    return {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}


def assert_zeros_stay(before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
    """Whatever is zero in a matrix of one model is zero in that of the other."""
    kept = [name for name, array in before.items() if array.ndim > 1 and name in after]
    assert kept
    for name in kept:
        assert not after[name][before[name] == 0].any(), name


def pruned(case: Case, **flags: Any) -> Result:
    """Prune, with all that holds for every kind of pruning."""
    made = prune(case.path, **flags, **case.data)
    assert made.checks
    assert all(each.ok for each in made.checks), made.checks
    assert_runs(case, made.save(case.folder / "made.onnx", force=True))
    return made


def assert_removed(made: Result, share: float, kinds: tuple[str, ...] = ()) -> None:
    """So many units of groups of some kinds went, up to one a group; notes name other groups."""
    free = [g for g in made.analysis.groups if not kinds or g.kind in kinds]
    free = [g for g in free if not any(note.startswith(f"{g.name}: ") for note in made.notes)]
    removed = sum(len(made.plan.removed.get(g.name, ())) for g in free)
    units = sum(map(len, free))
    rounded = any("come nearer to" in note for note in made.notes)
    assert rounded or abs(removed - share * units) <= max(len(free), NEAR * units)


def _ratio(case: Case) -> None:
    made = pruned(case, ratio=RATIO)
    assert_removed(made, RATIO)
    assert made.plan.removed or made.notes


def _macs(case: Case) -> None:
    made = pruned(case, target=f"macs={MACS}x")
    assert any(check.name == "macs" for check in made.checks)
    dense = CostModel(made.analysis)().macs
    left = CostModel(analyse(made.model, inputs=made.analysis.inputs[0]))().macs
    assert left <= MACS * dense


def _heads(case: Case) -> None:
    made = pruned(case, heads=HEAD_RATIO)
    for kind in {g.kind for g in made.analysis.groups} & {"head", "kv-group"}:
        assert_removed(made, HEAD_RATIO, (kind,))


def _ffn(case: Case) -> None:
    assert_removed(pruned(case, ratios={"*:ffn": FFN_RATIO}, round_to=1), FFN_RATIO, ("ffn",))


def _sparsity(asked: str) -> Callable[[Case], None]:
    wanted = sparsity(asked)

    def job(case: Case) -> None:
        made = pruned(case, sparsity=asked)
        stored = tensors(made.model)
        zeros = size = columns = 0
        for each in made.outcomes.get("zeros", ()):
            assert each.method or each.reason, each
            if each.method:
                weight, mask = stored[each.weight], made.plan.zeroed[each.weight].unpack()
                assert not weight[~mask].any()
                size, zeros = size + weight.size, zeros + int((weight == 0).sum())
                columns += weight.size // min(weight.shape)
        assert size
        assert zeros >= (wanted.share or wanted.n / wanted.m) * size - columns

    return job


def _own_cut(case: Case) -> None:
    """A model that was cut by the size of its weights, and refitted by nobody."""
    cut = prune(case.path, ratio=RATIO, criterion="l1", recover="none")
    given = cut.save(case.folder / "cut.onnx", force=True)
    made = recover(case.path, given, **case.data)
    assert all(each.ok for each in made.checks), made.checks
    assert {g: len(u) for g, u in made.plan.removed.items()} == {
        g: len(u) for g, u in cut.plan.removed.items() if u
    }
    shapes = [{n: a.shape for n, a in tensors(m).items()} for m in (models.load(given), made.model)]
    assert shapes[0].items() <= shapes[1].items()
    assert all(len(shapes[1][name]) == 1 for name in shapes[1].keys() - shapes[0])  # new biases
    errors = [judged.main.relative_error for judged in (made.as_given, made.evaluation)]
    assert errors[0] is None or (errors[1] is not None and errors[1] <= errors[0])
    assert_runs(case, made.save(case.folder / "made.onnx", force=True))


def _thinned(case: Case, share: str) -> Path:
    """The model with the smallest of its weights zeroed, and nothing refitted."""
    made = sparsify(models.load(case.path), sparsity(share)).model
    return models.save(made, case.folder / "thinned.onnx")


def _own_zeros(case: Case) -> None:
    given = _thinned(case, "50%")
    made = recover(case.path, given, **case.data)
    assert all(each.ok for each in made.checks), made.checks
    assert_zeros_stay(tensors(models.load(given)), tensors(made.model))
    assert_runs(case, made.save(case.folder / "made.onnx", force=True))


def _quantize(case: Case) -> None:
    given = _thinned(case, "50%")
    made = quantize(given, options=from_flags(case.data))
    assert all(each.ok for each in made.checks), made.checks
    path = made.save(case.folder / "made.onnx", force=True)
    assert_runs(case, path)
    before, after = tensors(models.load(given)), tensors(models.load(path))
    found = 0
    for each in made.weights:
        weight, levels = before.get(each.name.removesuffix("/as_read")), after.get(each.quantized)
        if weight is None or levels is None:
            continue
        zero = after.get(each.quantized.removesuffix("_quantized") + "_zero_point", np.zeros(1))
        moved = levels.astype(np.int16) - zero.flat[0]
        laid = [way for way in (weight, weight.T) if way.shape == moved.shape]
        assert any(not moved[way == 0].any() for way in laid) or not laid, each.name
        found += bool(laid)
    assert found


def _store(case: Case) -> None:
    given = _thinned(case, "90%")
    stored = store(given, StoreOptions("auto", certificate=False))
    path = stored.save(case.folder / "stored.onnx")
    check = check_stored(stored, path)
    assert check.ok, check
    assert path.stat().st_size <= given.stat().st_size
    dense, made = _session(given), _session(path)
    for feeds in case.feeds[:2]:
        for before, after in zip(dense.run(None, feeds), made.run(None, feeds), strict=True):
            assert difference(after, before) <= tolerance(before)


JOBS: Mapping[str, Callable[[Case], None]] = {
    "ratio": _ratio,
    "macs": _macs,
    "half": _sparsity("50%"),
    "ninety": _sparsity("90%"),
    "two-four": _sparsity("2:4"),
    "heads": _heads,
    "ffn": _ffn,
    "own-cut": _own_cut,
    "own-zeros": _own_zeros,
    "quantize": _quantize,
    "store": _store,
}

ONLY: Mapping[str, frozenset[str]] = {"heads": HEADS, "ffn": FFN}
"""The networks of jobs that need units of some kind."""

_THINNED = ("half", "ninety", "own-zeros", "quantize", "store")  # all by zeros without data

REFUSED: Mapping[tuple[str, str], str] = {
    # All its weights are in bodies, which the quantizer does not enter.
    ("silero_vad", "quantize"): "found no weight that it quantizes",
    # Their weights come out of ConstantOfShape: nothing is stored that could be zeroed.
    **{
        (f"onnx_light_{stem}", job): "no weight .* its weight is computed from stored ones"
        for stem in ("densenet121", "inception_v1", "resnet50")
        for job in (*_THINNED, "two-four")
    },
}
"""What is refused, by network and job: the reason, and what the message has to say."""


@dataclass(frozen=True)
class Cell:
    """One job on one network with so many samples."""

    stem: str
    job: str
    samples: int

    def __str__(self) -> str:
        return f"{self.stem}-{self.job}-{self.samples}"


def cells_of(family: Family, samples: Sequence[int] = SAMPLES) -> list[Cell]:
    """All cells of a family."""
    sizes = sorted({min(each, family.most) for each in samples})
    # What is stored does not depend on inputs.
    return [
        Cell(stem, job, size)
        for size in sizes
        for stem in family.stems
        for job in JOBS
        if stem in ONLY.get(job, (stem,)) and (job != "store" or size == sizes[0])
    ]


def drawn(seed: int) -> list[Cell]:
    """Few cells that take seconds, among them every job and every family."""
    rng = random.Random(seed)
    found: list[Cell] = []

    def times(cell: Cell) -> int:
        return sum(other.stem == cell.stem for other in found)

    quick = [cell for f in FAMILIES if f.quick for cell in cells_of(f, SAMPLES[:1])]
    for job in JOBS:
        cells = [cell for cell in quick if cell.job == job]
        least = min(map(times, cells))
        found.append(rng.choice([cell for cell in cells if times(cell) == least]))
    for family in FAMILIES:
        cells = [c for c in cells_of(family, SAMPLES[:1]) if c.stem not in family.slow]
        if not any(cell in found for cell in cells):
            found.append(rng.choice([c for c in cells if family.quick or c.job == SHORT]))
    return found


CELLS = [cell for family in FAMILIES for cell in cells_of(family)]
DRAWN = drawn(SEED)


def check(cell: Cell, folder: Path) -> None:
    """Do what a cell says, and assert what has to hold."""
    path = path_of(cell.stem)
    if path is None:
        pytest.skip(f"no {cell.stem}.onnx in {SHARED} (set ONNXPRUNE_SHARED)")
    case = Case(path, feeds_of(cell.stem, cell.samples), folder)
    refusal = REFUSED.get((cell.stem, cell.job))
    if refusal is None:
        JOBS[cell.job](case)
        return
    with pytest.raises(OnnxpruneError) as refused:
        JOBS[cell.job](case)
    assert re.search(refusal, f"{refused.value.message}; {refused.value.hint}")


@pytest.mark.parametrize("cell", DRAWN, ids=str)
def test_a_job_on_a_network(cell: Cell, tmp_path: Path) -> None:
    check(cell, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in DRAWN], ids=str)
def test_every_job_on_every_network(cell: Cell, tmp_path: Path) -> None:
    check(cell, tmp_path)


def test_every_job_and_every_family_is_drawn() -> None:
    for seed in range(SEED, SEED + 20):
        cells = drawn(seed)
        assert {cell.job for cell in cells} == set(JOBS)
        assert all(any(cell.stem in family.stems for cell in cells) for family in FAMILIES)


@pytest.mark.heavy
def test_networks_with_heads_and_hidden_units_are_known(shared: Path) -> None:
    for stem in (stem for family in FAMILIES for stem in family.stems):
        path = path_of(stem)
        kinds = {group.kind for group in analyse(models.load(path)).groups if group.exact}
        assert ("head" in kinds, "ffn" in kinds) == (stem in HEADS, stem in FFN), stem


def test_every_network_has_a_family(shared: Path) -> None:
    files = {
        path.stem for folder in ("models", "wild") for path in (shared / folder).glob("*.onnx")
    }
    known = [stem for family in FAMILIES for stem in family.stems]
    assert len(known) == len(set(known))
    assert files | set(zoo.names()) == {*known, *UNREADABLE}


def test_refusals_name_networks_and_jobs() -> None:
    cells = {(cell.stem, cell.job) for cell in CELLS}
    assert cells >= set(REFUSED)
    assert all(re.compile(pattern) for pattern in REFUSED.values())

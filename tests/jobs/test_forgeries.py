"""No forged or damaged model, plan or certificate passes; every honest one does."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from forgeries import KINDS, Case, forge_as
from onnxprune import OnnxpruneError, Options, verify
from onnxprune.data import zoo
from onnxprune.graph.plan import save_plan

_LONGEST = 60.0
"""Seconds that a refusal may take on a busy machine."""

Maker = Callable[[zoo.Entry, Path], Path]


def _pruned(**options: Any) -> Maker:
    return lambda entry, path: onnxprune.prune(entry.model, **options).save(path)


def _fitted(**options: Any) -> Maker:
    def make(entry: zoo.Entry, path: Path) -> Path:
        return onnxprune.prune(
            entry.model, calib=entry.calibration, calib_samples=48, **options
        ).save(path)

    return make


def _quantized(**options: Any) -> Maker:
    def make(entry: zoo.Entry, path: Path) -> Path:
        data = {} if "dynamic" in options else {"calib": entry.calibration, "calib_samples": 16}
        return onnxprune.quantize(entry.model, **data, **options).save(path, force=True)

    return make


def _recovered(entry: zoo.Entry, path: Path) -> Path:
    small = onnxprune.prune(entry.model, ratio=0.4).model
    data = {"calib": entry.calibration, "calib_samples": 48}
    return onnxprune.recover(entry.model, small, **data).save(path)


MAKERS: Mapping[str, Maker] = {
    "cut": _pruned(ratio=0.4),
    "fitted": _fitted(ratio=0.3),
    "external": _pruned(ratio=0.3, sparsity="50%", store="external"),
    "packed": _pruned(ratio=0.3, sparsity="90%", store="packed"),
    "sparse": _pruned(sparsity="80%", store="sparse"),
    "pattern": _pruned(sparsity="2:4"),
    "narrow": lambda entry, path: onnxprune.store(entry.model, store="packed", values="int8").save(
        path
    ),
    "int8": _quantized(),
    "dynamic": _quantized(dynamic=True, first=Options(ratio=0.4)),
    "recovered": _recovered,
}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """A certified model by the names of its maker and network, made once."""
    folder = tmp_path_factory.mktemp("certified")

    def make(maker: str, network: str) -> Case:
        entry, path = zoo.get(network), folder / maker / network / "small.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True)
            MAKERS[maker](entry, path)
        return Case(path, entry.model)

    return make


def _copied(case: Case, folder: Path) -> Case:
    shutil.copytree(case.path.parent, folder)
    return replace(case, path=folder / case.path.name)


def _forged(
    seed: int, certified: Callable[[str, str], Case], networks: list[str], folder: Path
) -> tuple[str, str]:
    """Forge a model by a seed and verify it; the kind of the forgery, and what refused it."""
    network = networks[(seed // 3) % len(networks)]
    names, makers = sorted(KINDS), list(MAKERS)
    first = (seed // len(names) + seed) % len(makers)
    kind = names[seed % len(names)]
    for maker in makers[first:] + makers[:first]:  # the first model that has what it takes
        honest = certified(maker, network)
        others = [certified("cut" if maker != "cut" else "pattern", network)]
        others += [certified(maker, each) for each in networks if each != network][:1]
        case = _copied(honest, folder / maker)
        case.others = [each.path for each in others]
        case.strangers = [zoo.get(n).model for n in ("digits_lstm", "chars_decoder")]
        options: dict[str, Any] = {}
        if maker == "cut":
            plan = onnxprune.prune(honest.dense, ratio=0.4).plan
            case.plan = options["plan"] = save_plan(plan, case.path.with_name("plan.json"))
        if forge_as(kind, case, seed):
            break
    else:
        raise AssertionError(f"nothing of {network} can be forged by {kind}")
    start = time.monotonic()
    try:
        result = verify(case.path, case.dense, **options)
        failed = [each.name for each in result.checks if not each.ok]
        reason, code = next(iter(failed), ""), 1
    except OnnxpruneError as error:
        reason, code = error.message if error.hint else "", error.exit_code
    assert code in (1, 2)
    assert reason, f"seed {seed}: {kind} of {maker} {network} passes"
    assert time.monotonic() - start < _LONGEST
    return kind, reason


@pytest.mark.parametrize("maker", MAKERS)
def test_honest_models_pass(maker: str, certified: Callable[[str, str], Case]) -> None:
    case = certified(maker, "digits_mlp")
    result = verify(case.path, case.dense)
    assert result.ok, (result.checks, result.notes)


@pytest.mark.parametrize("part", range(4))
def test_forgeries_are_refused(
    part: int, certified: Callable[[str, str], Case], tmp_path: Path
) -> None:
    for seed in range(part * 10, part * 10 + 10):
        _forged(seed * 3 + 1, certified, ["digits_mlp"], tmp_path / str(seed))


@pytest.mark.heavy
def test_five_hundred_forgeries_are_refused(
    certified: Callable[[str, str], Case], tmp_path: Path
) -> None:
    networks = ["digits_mlp", "digits_rescnn", "digits_encoder"]
    kinds: Counter[str] = Counter()
    for seed in range(500):
        folder = tmp_path / str(seed)
        kinds[_forged(seed, certified, networks, folder)[0]] += 1
        shutil.rmtree(folder)
    assert set(kinds) == set(KINDS), set(KINDS) - set(kinds)


@pytest.mark.heavy
@pytest.mark.parametrize("network", zoo.names())
@pytest.mark.parametrize("maker", MAKERS)
def test_honest_models_of_every_network_pass(
    maker: str, network: str, certified: Callable[[str, str], Case]
) -> None:
    case = certified(maker, network)
    result = verify(case.path, case.dense)
    assert result.ok, (result.checks, result.notes)

"""Every network at hand, pruned by every method, parses and builds with TensorRT-RTX on the CPU.

`make test-engines` runs these: minutes, so they are no part of `make test`. Networks that
TensorRT-RTX refuses as they are must be refused for that reason when pruned too, and no other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from conftest import SHARED
from onnxprune import model as models
from onnxprune.config import BuildOptions, Options, QuantizeOptions, StoreOptions
from onnxprune.data import open_calibration, zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.surgery import cut
from onnxprune.jobs.quantize import quantizer, zeros
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.store import store
from onnxprune.model.signature import signature_of
from onnxprune.quantities import sparsity
from onnxprune.runtime.engines import build
from onnxprune.select.importance.units import Problem
from onnxprune.select.selection import select
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.encodings.graph_builder import OLDEST
from onnxprune.sparse.encodings.table import PACKED
from onnxprune.sparse.nm import sparsify_nm
from onnxprune.sparse.sparsify import sparsify

pytestmark = pytest.mark.engines

pytest.importorskip("tensorrt_rtx", reason="pip install 'onnxprune[tensorrt-rtx]'")

NETWORKS = (
    *(zoo.get(name).model for name in zoo.names()),
    *sorted((SHARED / "models").glob("*.onnx")),
    *sorted((SHARED / "wild").glob("*.onnx")),
)
SLOW = frozenset({"onnx_light_densenet121"})
"""Its 121 layers of two channels each take TensorRT-RTX 20 s an engine."""

_PLUGIN = "Plugin not found"
_SCOPE = r"graphScope.cpp.*Assertion tScope.getType\(\) != ScopeType::kUNDEFINED failed"
REFUSED: Mapping[str, str] = {
    "onnx_tutorial_super_resolution": "names no operator set",
    "openseeface_lm0": f"FusedConv '[^']*': .*{_PLUGIN}",  # onnxruntime's own operator
    "openseeface_retinaface640": f"FusedConv '[^']*': .*{_PLUGIN}",
    "silero_vad": _SCOPE,  # If without an else of its shape
    "silero_vad_half": _SCOPE,
    "superres_prepost_op18": f"DecodeImage '[^']*': .*{_PLUGIN}",
}
"""What TensorRT-RTX 1.7 says of networks that it builds no engine from, pruned or not."""

UNQUANTIZED: Mapping[str, str] = {
    # Its quantizer calls the copies of a shared bias like another tensor of this network.
    "basic_pitch_nmp": "makes a broken model of it",
    "wonnx_opt_mnist": "fails on it: 'the truth value of an array is ambiguous'",
}
"""Networks that onnxruntime's quantizer cannot do, and what it does instead."""

WEIGHTLESS = frozenset({"onnx_light_densenet121", "onnx_light_inception_v1", "onnx_light_resnet50"})
"""Networks whose weights are computed, and not stored: there is nothing to zero or quantize."""


@functools.lru_cache(maxsize=1)
def analysed(path: Path) -> Analysis:
    return analyse(models.load(path))


def units(path: Path) -> models.Model:
    """About a quarter of every group that can be cut exactly."""
    analysis = analysed(path)
    chosen = select(Problem(analysis, Options(ratio=0.25)))
    return cut(analysis, chosen.removed)


def weights(path: Path) -> models.Model:
    return sparsify(models.load(path), sparsity("80%")).model


def two_four(source: Path | models.Model) -> models.Model:
    made = models.clone(models.load(source))
    sparsify_nm(made, 2, 4, tied=True)
    return made


def units_two_four(path: Path) -> models.Model:
    return two_four(units(path))


def packed(path: Path) -> models.Model:
    """Weights that are decoded by standard operators; `build` makes them dense again."""
    stored = store(weights(path), StoreOptions("packed", always=True))
    if stored.dense.ir.opset_imports[""] >= OLDEST:  # else there are no operators to decode with
        assert {weight.form for weight in stored.weights} & PACKED
    return stored.model


def int8(path: Path) -> models.Model:
    """2:4, then INT8 behind DequantizeLinear; every zero is one still."""
    ready, _ = prepared(two_four(path))
    feeds = open_calibration("random", signature_of(ready), samples=2)
    settings = QuantizeOptions(backend="tensorrt")
    ranges = quantizer.measure_ranges(ready, settings, list(feeds))
    made = quantizer.run(ready, settings, ranges)
    found = zeros.compare(ready, made)
    assert any(each.quantized for each in found)
    assert all(check.ok for check in zeros.checks(found))
    return made


METHODS: Mapping[str, Callable[[Path], models.Model]] = {
    "units": units,
    "80%": weights,
    "2:4": two_four,
    "units+2:4": units_two_four,
    "packed": packed,
    "int8": int8,
}


def shapes_of(model: models.Model) -> dict[str, tuple[int, ...]]:
    """Two samples, sixteen of whatever else is open."""
    return {
        spec.name: tuple(
            size if isinstance(size, int) else (16 if axis else 2)
            for axis, size in enumerate(spec.shape)
        )
        for spec in signature_of(model)
        if not all(isinstance(size, int) for size in spec.shape)
    }


def engine(model: models.Model) -> bytes:
    asked = BuildOptions(
        runtime="tensorrt_rtx",
        compute_capability=((8, 6),),
        sparse_weights=True,
        shapes=shapes_of(model),
    )
    return build(model, asked).plan


def cases(methods: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(
            path, how, id=f"{path.stem}-{how}", marks=[pytest.mark.heavy] * (path.stem in SLOW)
        )
        for path in NETWORKS
        for how in methods
    ]


@pytest.mark.parametrize(("path", "how"), cases(tuple(METHODS)))
def test_every_network_pruned_every_way_becomes_an_engine(path: Path, how: str) -> None:
    if path.stem in REFUSED:
        pytest.skip("refused as it is: see the test below")
    if how == "int8" and path.stem in UNQUANTIZED:
        pytest.skip(f"onnxruntime's quantizer {UNQUANTIZED[path.stem]}")
    if path.stem in WEIGHTLESS and how in ("80%", "packed", "int8"):
        pytest.skip("it stores no weights")
    model = METHODS[how](path)
    if "2:4" in how or how == "int8":
        states = [each.state for each in layers(model)]
        assert "dense" not in states, "every layer that can be 2:4 is"
    assert len(engine(model)) > 0.2 * models.size_bytes(model)


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_is_refused_is_refused_for_a_known_reason(name: str, shared: Path) -> None:
    path = shared / "wild" / f"{name}.onnx"
    for make in (models.load, two_four):
        with pytest.raises(OnnxpruneError) as problem:
            engine(make(path))
        assert re.search(REFUSED[name], problem.value.message), problem.value.message


@pytest.mark.parametrize(
    "name", ["digits_mlp", "resnet20_cifar10_proj_fused", "mobilenetv1_0.75_imagenet_bn"]
)
def test_fewer_units_make_a_smaller_engine(name: str) -> None:
    path = next((each for each in NETWORKS if each.stem == name), None)
    if path is None:
        pytest.skip(f"no {name} in {SHARED}")
    assert len(engine(units(path))) < 0.95 * len(engine(models.load(path)))


def test_there_are_real_networks(shared: Path) -> None:
    assert len(NETWORKS) >= len(zoo.names()) + len(list((shared / "models").glob("*.onnx")))
    assert np.all([path.is_file() for path in NETWORKS])

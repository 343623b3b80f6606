"""Stock exports of stock networks, made on the spot: what users bring is what has to work.

Exporting needs torch and the packages that define the networks; see bench/README.md.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bench.judge import heads
from bench.subjects import Subject
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut
from onnxprune.model import Model, load, to_proto

REPOSITORY = Path(__file__).parents[2]
ATTENTION = [
    "bert_eager",
    "bert_sdpa",
    "gpt2_eager",
    "gpt2_sdpa",
    "llama_eager",
    "llama_sdpa",
    "llama_cached",
    "t5_encoder_eager",
    "t5_encoder_sdpa",
    "t5_decoder_eager",
    "whisper_encoder",
    "distilbert",
    "qwen3",
    "vit_eager",
    "vit_sdpa",
    "swin_hf_eager",
    "swin_hf_sdpa",
    "vit_torchvision",
    "vit_timm",
    "swin_torchvision",
]
CONVOLUTION = [
    "convnext",
    "resnet18",
    "resnet50",
    "resnext50",
    "densenet121",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3",
    "efficientnet",
    "regnet_x",
    "regnet_y",
    "shufflenet_v2",
    "shufflenet_v1",
]
# What can be reached at least, by the beginning of the file name. BERT's and T5's residual stream
# is a graph output, so its width stays. Unoptimised dynamo exports split through sequences.
REACHABLE = {
    "bert_": 0.8,
    "t5_encoder_": 0.85,
    "shufflenet_v2__dynamo18__dynamic__bn": 0.8,
}
NEEDED = ("torch", "transformers", "torchvision", "timm", "onnxscript")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(bool(MISSING), reason=f"exporting needs {', '.join(MISSING)}"),
]


def zoo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.zoo", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


SHUFFLED = pytest.mark.xfail(
    reason="a shuffle between grouped convolutions needs units that take one channel of every "
    "group on either side of it; pairing by position empties a group"
)


@pytest.fixture(scope="module", params=[*ATTENTION, *CONVOLUTION])
def exports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All variants of one network; the exporter's own check has passed for each."""
    folder = tmp_path_factory.mktemp(request.param)
    made = zoo(request.param, "--out", str(folder))
    assert made.returncode == 0, made.stdout + made.stderr
    return sorted(folder.glob("*.onnx"))


def some_of_everything(analysis: Analysis, seed: int) -> dict[str, list[int]]:
    """A fifth to three fifths of the units of every exact group, never all of an axis."""
    rng = np.random.default_rng(seed)
    removed: dict[str, list[int]] = {}
    for group in analysis.groups:
        count = min(round(len(group) * rng.uniform(0.2, 0.6)), len(group) - 1)
        if not group.exact or count < 1:
            continue
        removed[group.name] = sorted(rng.choice(len(group), count, replace=False).tolist())
        if analysis.emptied(removed):
            del removed[group.name]
    return removed


def run(model: Model, batches: list[dict[str, Any]]) -> Iterator[np.ndarray[Any, Any]]:
    """Every output for every batch; inputs that a cut made superfluous are not fed."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    proto = to_proto(model).SerializeToString()
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    for batch in batches:
        yield from session.run(None, {i.name: batch[i.name] for i in session.get_inputs()})


def test_every_network_of_the_zoo_is_tested() -> None:
    listed = {line.split()[0] for line in zoo("--list").stdout.splitlines()}
    assert listed == {*ATTENTION, *CONVOLUTION}


@pytest.fixture
def known_limits(request: pytest.FixtureRequest, exports: list[Path]) -> None:
    if exports[0].name.startswith("shufflenet_v1"):
        request.applymarker(SHUFFLED)


@pytest.mark.usefixtures("known_limits")
def test_cut_equals_masked(exports: list[Path]) -> None:
    for path in exports:
        model = load(path)
        analysis = analyse(model)
        batches = list(Subject(path.stem, "zoo", path, None).batches(2))
        dense = list(run(model, batches))
        for seed in range(3):
            removed = some_of_everything(analysis, seed)
            small = cut(analysis, removed)
            onnx.checker.check_model(to_proto(small), full_check=True)
            reference = list(run(mask_model(analysis, removed), batches))
            for got, want, before in zip(run(small, batches), reference, dense, strict=True):
                scale = float(np.abs(before).max())
                assert np.abs(got - want).max() <= 1e-5 * scale, (path.name, seed)
            moved = [float(np.abs(a - b).max()) for a, b in zip(reference, dense, strict=True)]
            assert max(moved) > 1e-2, f"{path.name}: the removed units did not matter"


@pytest.mark.usefixtures("known_limits")
def test_nearly_everything_can_be_reached(exports: list[Path]) -> None:
    for path in exports:
        analysis = analyse(load(path))
        least = next((v for k, v in REACHABLE.items() if path.name.startswith(k)), 0.9)
        assert analysis.reachable >= least, path.name


def test_heads_are_found_without_being_looked_for(exports: list[Path]) -> None:
    for path in exports:
        if path.name.split("__")[0] not in ATTENTION:
            continue
        analysis = analyse(load(path))
        groups = [g for g in analysis.groups if g.kind in {"head", "kv-group"} and g.exact]
        small = cut(analysis, {g.name: [0] for g in groups if g.kind == "kv-group" or len(g) > 1})
        feeds = next(Subject(path.stem, "zoo", path, None).batches(1))
        before, after = heads(onnx.load(path), feeds), heads(to_proto(small), feeds)
        assert 0 < after < before, path.name

"""What `bench.quality` measures: networks, budgets, and what is asked of onnxprune at each of them.

Networks with a score on real data: trained ones and graphs by strangers (bench/folders.py; neither
is committed) and those that ship with onnxprune, which anybody can repeat. Inputs that anything is
fitted to are unlabelled, and none of them is scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.folders import FOLDERS, SHARED
from bench.tasks import Array, Run, imagenet, sentiment, task_of
from onnxprune.data import zoo

Feeds = dict[str, Array]
DATA = SHARED / "data"

PICTURES = 2048
"""Calibration inputs of the networks for small pictures; others have fewer."""
_SAMPLES = {"mobilenet": 500, "minilm": 1024, "stories": 40, "digits": 512, "chars": 512}
_BATCHES = {"mobilenet": 25, "minilm": 32, "stories": 4}


@dataclass(frozen=True)
class Case:
    """One network at one budget.

    Attributes:
        graph: its name.
        asked: what onnxprune is asked for, by option.
        drop: the largest drop of each score (or rise, of a loss) that is good enough, by score.
        half_of: instead of a number: half the drop of this rival at the same setting.
    """

    graph: str
    asked: Mapping[str, Any]
    drop: Mapping[str, float] = field(default_factory=dict)
    half_of: str = ""

    @property
    def name(self) -> str:
        """How it is called on the command line and in results."""
        return f"{self.graph} {self.label}"

    @property
    def label(self) -> str:
        """What is asked for, in short."""
        return " ".join(_said(k, v) for k, v in self.asked.items())

    @property
    def sparsity(self) -> str:
        """The part of single weights that goes, or `2:4`; empty where whole units go."""
        return str(self.asked.get("sparsity", ""))


def _said(option: str, value: Any) -> str:
    """An option in a few letters: what speaks for itself stands alone."""
    if isinstance(value, Mapping):
        return " ".join(f"{glob}={amount}" for glob, amount in value.items())
    if value is True:
        return option
    return str(value) if option in {"target", "sparsity"} else f"{option}={value}"


def _macs(graph: str, **drops: float) -> list[Case]:
    """Budgets in multiply-accumulates, as in `x67=1.0`: 66.7 %, at most a point lost."""
    shares = {"x80": "80%", "x77": "76.9%", "x67": "66.7%", "x50": "50%", "x40": "40%"}
    return [
        Case(graph, {"target": f"macs={shares[k]}"}, {"top-1 %": v} if v < np.inf else {})
        for k, v in drops.items()
    ]


_ANY = float("inf")
_THIRD = {"heads": "33.4%", "ratios": {"*:ffn": "33.4%"}}
_MINILM = ("STS-B Spearman", "SST-2 %")
_RESNET, _MINI, _STORIES = (
    "resnet20_cifar10_proj_bn",
    "minilm_l6_sts_sst2",
    "stories260k_llama_legacy",
)

ASKED: tuple[Case, ...] = (
    *_macs(_RESNET, x67=1.0, x50=3.0),
    *_macs("resnet20_cifar10_optA_bn", x67=1.0, x50=3.5),
    *_macs("shufflenetv2_x0_5_cifar10_bn", x67=2.0),
    *_macs("mobilenetv1_0.75_imagenet_bn", x77=2.0, x67=5.0),
    Case(_MINI, _THIRD, dict.fromkeys(_MINILM, 1.0)),
    Case(_MINI, {"sparsity": "50%"}, dict.fromkeys(_MINILM, 0.3)),
    Case(_MINI, {"sparsity": "2:4"}, dict.fromkeys(_MINILM, 1.0)),
    Case(_STORIES, {"sparsity": "50%"}, half_of="sparsegpt"),
    Case(_STORIES, {"sparsity": "2:4"}, half_of="sparsegpt"),
    Case(_RESNET, {"sparsity": "70%"}, {"top-1 %": 1.0}),
    Case(_RESNET, {"sparsity": "2:4"}, {"top-1 %": 0.5}),
)
"""The budgets at which something is asked."""

_WILD = (
    "cntk_mnist", "wonnx_opt_mnist", "vnn_cifar10_resnet_2b", "vnn_oval_cifar_deep_kw",
    "vnn_marabou_cifar10_large", "vnn_eran_ffnn_sigmoid", "vnn_verivital_convnet_maxpool",
)  # fmt: skip
MORE: tuple[Case, ...] = (
    *_macs(_RESNET, x80=_ANY, x40=_ANY),
    *_macs("resnet20_cifar10_optA_bn", x80=_ANY, x40=_ANY),
    *_macs("resnet20_cifar10_proj_fused", x67=_ANY, x50=_ANY),
    *_macs("resnet20_cifar10_proj_dynamo", x67=_ANY, x50=_ANY),
    *_macs("shufflenetv2_x0_5_cifar10_bn", x80=_ANY, x50=_ANY),
    *_macs("resnet8_cifar10_mlperftiny_bn", x80=_ANY, x67=_ANY, x50=_ANY, x40=_ANY),
    *(Case(_RESNET, {"sparsity": s}) for s in ("50%", "80%")),
    Case(_RESNET, {"sparsity": "2:4", "permute": True}),
    Case(_MINI, {"sparsity": "70%"}),
    Case(_MINI, {"sparsity": "2:4", "permute": True}),
    Case(_STORIES, {"sparsity": "50%", "sparse_allocation": "sensitivity"}),
    Case(_STORIES, {"sparsity": "70%"}),
    Case(_STORIES, {"sparsity": "2:4", "permute": True}),
    *(
        Case(name, {"sparsity": sparsity})
        for name in (
            "resnet8_cifar10_mlperftiny_bn",
            "resnet20_cifar10_optA_bn",
            "shufflenetv2_x0_5_cifar10_bn",
            "mobilenetv1_0.75_imagenet_bn",
        )
        for sparsity in ("50%", "2:4")
    ),
    *(case for name in _WILD for case in _macs(name, x67=_ANY, x50=_ANY)),
)  # fmt: skip
"""Other budgets and networks that are not committed."""

PUBLIC: tuple[Case, ...] = (
    *(case for n in ("digits_rescnn", "digits_mlp") for case in _macs(n, x50=_ANY, x40=_ANY)),
    *(
        Case(name, {"target": "params=50%"})
        for name in ("digits_encoder", "digits_lstm", "chars_decoder")
    ),
    *(
        Case(name, {"sparsity": sparsity})
        for name in ("digits_rescnn", "digits_encoder", "chars_decoder")
        for sparsity in ("50%", "70%", "2:4")
    ),
)
"""Networks that ship with onnxprune."""

CASES = {"asked": ASKED, "more": MORE, "public": PUBLIC}

SECONDS = {"resnet20": 60, "minilm": 300}
"""From start to end, on two cores, by the beginning of a network's name."""
MEMORY_MIB = 4096
"""Peak of any run."""

RIVAL_RATIOS = ("10%", "25%", "33%", "50%", "60%")
"""Of units: onnxsim has no budget, so its line against MACs is drawn through these."""
RIVAL_METHODS = {
    "units": ("structured-l2+sim", "structured-wanda+sim", "structured-wanda-global+sim"),
    "weights": ("magnitude", "wanda", "sparsegpt"),
}


def rivals(cases: Iterable[Case]) -> Iterator[tuple[str, str, str]]:
    """(graph, method, amount) of every run of onnxsim, at the settings of the cases."""
    made: dict[tuple[str, str, str], None] = {}
    for case in cases:
        kind = "weights" if case.sparsity else "units"
        ratios = RIVAL_RATIOS if "target" in case.asked else ("33%",)
        amounts = (case.sparsity,) if case.sparsity else ratios
        made |= {(case.graph, m, a): None for a in amounts for m in RIVAL_METHODS[kind]}
    yield from made


def path_of(graph: str) -> Path:
    """The file of a network."""
    if graph in zoo.names():
        return zoo.get(graph).model
    places = [FOLDERS[kind] / f"{graph}.onnx" for kind in ("shared", "wild")]
    return next((path for path in places if path.exists()), places[0])


def calibration(graph: str) -> list[Feeds]:
    """The batches of unlabelled inputs that everybody gets."""
    count = next((n for k, n in _SAMPLES.items() if graph.startswith(k)), PICTURES)
    batch = next((n for k, n in _BATCHES.items() if graph.startswith(k)), 64)
    if graph in zoo.names():
        stored = zoo.calibration(zoo.get(graph))
        return [{k: v[i : i + batch] for k, v in stored.items()} for i in range(0, count, batch)]
    size = batch if _free(path_of(graph)) else 1
    task = imagenet("input", scored=1) if graph.startswith("mobilenet") else task_of(graph)
    assert task is not None
    return list(task.calibration(DATA, -(-count // size), size))


def scores(graph: str, run: Run) -> dict[str, float]:
    """Every score of a network: percent of answers that are right, or nats."""
    if graph in zoo.names():
        entry = zoo.get(graph)
        value = zoo.measure(entry, lambda feeds: {zoo.OUTPUT: run(dict(feeds))[0]})
        return {"top-1 %": 100 * value} if entry.metric == "accuracy" else {"nats": value}
    size = 50 if _free(path_of(graph)) else 1
    if graph.startswith("mobilenet"):
        return {"top-1 %": imagenet("input", scored=1).score(run, DATA, size)}
    task = task_of(graph)
    assert task is not None
    found = {task.unit: task.score(run, DATA, size)}
    if graph == _MINI:
        found["SST-2 %"] = sentiment(run, DATA, size)
    return found


def unseen(graph: str, run: Run, count: int) -> list[Feeds]:
    """Some of the batches that are scored, spread over all of them; `run` is the dense network."""
    fed: list[Feeds] = []

    def noted(feeds: Feeds) -> list[Array]:
        fed.append(feeds)
        return run(feeds)

    scores(graph, noted)
    chosen = np.unique(np.linspace(0, len(fed) - 1, count).astype(int))
    return [fed[at] for at in chosen]


def lower_is_better(score: str) -> bool:
    """Whether a score is a loss."""
    return score == "nats"


def _free(path: Path) -> bool:
    """Whether a network takes any number of inputs at once."""
    graph = onnx.load(path, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    first = next(value for value in graph.input if value.name not in held)
    return not first.type.tensor_type.shape.dim[0].dim_value

"""What pruning gains on the clock: realised speed-up beside the ratio of multiplications.

    python -m bench.latency [--case resnet50] [--on cpu,openvino] [--peer OTHER/bin/python]
    python -m bench.latency --table

Each network is pruned to half of its multiplications: by onnxprune with the widths it rounds to,
with any widths (``--round-to 1``), and by onnxsim at the sparsity that comes closest.  The first
two lose the same part of every group, so that nothing but the widths differs.  What the weights are
does not matter for the clock, so units are scored by ``l2`` and nothing is recovered.  Every pruned
model is timed against the dense one by the protocol of ``onnxprune bench``: processes of their own,
in turn, with an interval of the ratio.  `resnet50` and `bert_base` are skeletons with random
weights (models/skeletons); the others are the trained networks of the shared folder.

The figure that counts is *realised*: the speed-up over what the multiplications promise,
(1 / latency ratio) / (1 / MACs ratio).  Results are saved after each case, and a case that is there
is not run again unless it is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from bench.folders import FOLDERS
from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.environment import environment
from onnxprune.evaluate.protocol import Case, Declined, Settings, measure
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import cost
from onnxprune.solve.bootstrap import ratio

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "latency.json"
FILES = HERE / "cache" / "latency"
TARGET = 0.5
THREADS = 1
HOW = Settings(processes=4, rounds=10, slice_s=0.05, warm_s=3.0)
_TRIES = 6
_NEAR = 0.01
LENGTH = 128
"""Tokens of a sentence."""

CASES: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet20_cifar10_proj_fused": {"input": (1, 3, 32, 32)},
    "mobilenetv1_0.75_imagenet_bn": {"input": (1, 3, 224, 224)},
    "minilm_l6_sts_sst2": {"input_ids": (1, LENGTH), "attention_mask": (1, LENGTH)},
    "resnet50": {"image": (1, 3, 224, 224)},
    "bert_base": {"input_ids": (1, LENGTH), "attention_mask": (1, LENGTH)},
}
"""By network, the shapes it is timed with."""


def dense(name: str) -> Path:
    """The file of a network; the skeletons are written on first use."""
    if name not in ("resnet50", "bert_base"):
        return FOLDERS["shared"] / f"{name}.onnx"
    path = FILES / f"{name}.onnx"
    if not path.exists():
        from models import skeletons

        FILES.mkdir(parents=True, exist_ok=True)
        built = skeletons.resnet50(folded=True) if name == "resnet50" else skeletons.bert_base()
        onnx.save(built, path)
    return path


def pruned(name: str, how: str, peer: str) -> Path:
    """The network at half of its multiplications; kept for the next time."""
    path = FILES / f"{name}.{how}.onnx"
    if path.exists():
        return path
    FILES.mkdir(parents=True, exist_ok=True)
    if how == "onnxsim":
        return _by_onnxsim(name, path, peer)
    asked: dict[str, Any] = {"round_to": 1} if how == "plain" else {}
    made = onnxprune.prune(
        dense(name),
        target=f"macs={TARGET}x",
        criterion="l2",
        allocation="uniform",
        recover="none",
        shapes=CASES[name],
        **asked,
    )
    if not made.ok:
        sys.exit(f"{name} {how}: {made.checks}")
    return made.save(path, force=True)


def _by_onnxsim(name: str, path: Path, peer: str) -> Path:
    """The sparsity whose multiplications come closest to those asked for, by bisection."""
    best, low, high = np.inf, 0.0, 0.8
    whole, out = macs(dense(name), CASES[name]), path.with_suffix(".try.onnx")
    for step in range(_TRIES):
        sparsity = (low + high) / 2 if step else 0.3
        command = [peer, str(HERE / "onnxsim_peer.py"), str(dense(name)), str(out)]
        command += ["--method", "l2-cpp", "--ratio", str(sparsity), "--calibration", "none"]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            break
        left = macs(out, CASES[name]) / whole
        low, high = (sparsity, high) if left > TARGET else (low, sparsity)
        if abs(left - TARGET) < best:
            best = abs(left - TARGET)
            out.replace(path)
        if best < _NEAR:
            break
    out.unlink(missing_ok=True)
    if not path.exists():
        raise OnnxpruneError(f"onnxsim makes nothing of {name}")
    return path


def macs(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one run."""
    return cost(analyse(models.load(path), inputs=shapes)).macs


def feeds(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """One input: noise for pictures, words of a small vocabulary, nothing masked."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for key, shape in CASES[name].items():
        if key in ("input", "image"):
            found[key] = rng.standard_normal(shape, np.float32)
        else:
            low = 1 if "mask" in key else 2
            found[key] = rng.integers(low, low if low == 1 else 1000, shape, endpoint=True)
    return found


def case(name: str, backend: str, peer: str) -> Iterator[dict[str, Any]]:
    """One network on one backend: a row for each way of pruning it."""
    paths = {"dense": dense(name)}
    reasons = {}
    for how in ("rounded", "plain", "onnxsim"):
        try:
            paths[how] = pruned(name, how, peer)
        except OnnxpruneError as error:
            reasons[how] = error.message
    one = Case(backend, tuple(paths.values()), feeds(name), THREADS)
    timed = dict(zip(paths, measure(one, HOW), strict=True))
    whole, reference = macs(paths["dense"], CASES[name]), timed["dense"]
    for how, path in paths.items():
        found = timed[how]
        row: dict[str, Any] = {"model": name, "backend": backend, "how": how}
        if isinstance(found, Declined) or isinstance(reference, Declined):
            yield row | {"error": getattr(found, "reason", "")}
            continue
        between = ratio(reference.medians, found.medians)
        part = macs(path, CASES[name]) / whole
        yield row | {
            "precision": found.precision,
            "p50_s": float(np.median(found.every)),
            "macs": part,
            "latency": [between.value, between.low, between.high],
            "realised": part / between.value,
        }
    for how, reason in reasons.items():
        yield {"model": name, "backend": backend, "how": how, "error": reason}


def run(names: list[str], backends: list[str], peer: str, *, again: bool) -> None:
    """Fill the results file, one case at a time."""
    for name in names:
        for backend in backends:
            stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
            rest = [r for r in stored["rows"] if (r["model"], r["backend"]) != (name, backend)]
            if len(rest) < len(stored["rows"]) and not again:
                continue
            before = environment()
            rows = list(case(name, backend, peer))
            load = [*before.load_average, *environment().load_average]
            rest += [row | {"load_average": load} for row in rows]
            head = {
                "schema": 1,
                "environment": asdict(before),
                "protocol": {**asdict(HOW), "threads": THREADS, "target_macs": TARGET},
            }
            RESULTS.write_text(json.dumps(head | {"rows": rest}, indent=1) + "\n")
            show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table in Markdown."""
    for row in rows:
        start = f"| {row['model']} | {row['backend']} | {row['how']} |"
        if "error" in row:
            print(start, row["error"], "|")
            continue
        value, low, high = row["latency"]
        time = f"{row['p50_s'] * 1e3:.3g} ms"
        speed = f"{value:.3f} ({low:.3f} to {high:.3f})"
        print(start, f"{row['macs']:.3f} | {speed} | {row['realised']:.2f} | {time} |", flush=True)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--case", action="append", choices=tuple(CASES))
    parser.add_argument("--on", default="cpu,openvino", help="backends")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has onnxsim 0.8.1")
    parser.add_argument("--prepare", action="store_true", help="only write the pruned files")
    parser.add_argument("--table", action="store_true", help="show what there is")
    options = parser.parse_args()
    if options.table:
        print("| model | backend | pruned | MACs | latency | realised | p50 |")
        print("|---|---|---|---|---|---|---|")
        show(json.loads(RESULTS.read_text())["rows"])
        return
    names = options.case or list(CASES)
    if options.prepare:
        for name in names:
            for how in ("rounded", "plain", "onnxsim"):
                try:
                    path = pruned(name, how, options.peer)
                    part = macs(path, CASES[name]) / macs(dense(name), CASES[name])
                    print(name, how, f"{part:.3f} of the multiplications", flush=True)
                except OnnxpruneError as error:
                    print(name, how, error.message, flush=True)
        return
    run(names, options.on.split(","), options.peer, again=bool(options.case))


if __name__ == "__main__":
    main()

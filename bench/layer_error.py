"""Layer by layer: how far sparse weights move what a layer computes, onnxprune beside SparseGPT.

    python -m bench.layer_error [--only GLOB]     # measure what is missing
    python -m bench.layer_error --table           # results/layer_error.json as a table

For weights W with bias b that became W + D and b + d, on inputs x of the dense network that nothing
was fitted to, the relative squared error of the layer *alone* is

    E |D^T x + d|^2 / E |W^T x|^2

which is tr(D^T G D) / tr(W^T G W) with G = E x x^T where no bias moved. It compares solvers: both
are given the dense network's inputs to each layer, those of the same calibration inputs, and have
no other layer to make up for. Ours is the default method for masks and weights. SparseGPT's are the
files that bench.quality kept (--system onnxsim); its time is that of its process, ours that of
running the network, collecting moments and solving, both as CPU seconds over weights.

*In place* is what the output of a layer really is off by in the network that a whole run of
onnxprune wrote, where layers also make up for each other: |y' - y|^2 / |y|^2.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.quality import kept_at, read
from bench.quality_cases import CASES, calibration, path_of, unseen
from onnxprune import load
from onnxprune import model as models
from onnxprune.backends import open_session
from onnxprune.recover.gram import Accumulator, Moments
from onnxprune.recover.layers import Layer, Merge, find_layers
from onnxprune.recover.obs import Pattern
from onnxprune.recover.patches import sample_positions
from onnxprune.recover.pcg import RIDGES, refit_support
from onnxprune.recover.segments import Segments
from onnxprune.sparse.amount import Sparsity, sparsity
from onnxprune.sparse.rows import Sample, moments_of, steadied
from onnxprune.sparse.select import aim, gram_of, select
from onnxprune.sparse.weights import Weights, find_targets

RESULTS = Path(__file__).parent / "results" / "layer_error.json"
ROWS = 20_000
"""Rows of unseen inputs looked at in each layer."""
BATCHES = 6
SHARE, TIMES = 0.95, 0.2
"""What is asked: the share of layers with a lower error, and the time of the other's."""

Array = np.ndarray[Any, Any]
Affine = tuple[Array, Array]
"""``[g, K, N]`` and ``[g, N]``: a matrix and a bias."""


def affine(model: models.Model) -> dict[str, Affine]:
    """Every linear layer of a model by node."""
    stored = models.constants(model)

    def array(name: str) -> Array:
        tensor = models.constant(stored[name])
        assert tensor is not None
        return tensor.numpy().astype(np.float64)

    found = {}
    for layer in find_layers(model)[0]:
        matrix = layer.matrix(array(layer.weight))
        shape = matrix.shape[0], matrix.shape[2]
        bias = array(layer.bias).reshape(shape) if layer.bias else np.zeros(shape)
        found[layer.node] = matrix, bias
    return found


def alone(moments: Moments, before: Affine, after: Affine) -> float:
    """The relative squared error of a layer on inputs with these moments."""
    change, moved = after[0] - before[0], after[1] - before[1]
    error = _spread(change, moments.xx) + ((_mean(change, moments) + moved) ** 2).sum()
    size = _spread(before[0], moments.xx) + (_mean(before[0], moments) ** 2).sum()
    return float(error / size)


def _spread(matrix: Array, covariance: Array) -> float:
    return float(np.einsum("gkn,gkn->", matrix, covariance @ matrix))


def _mean(matrix: Array, moments: Moments) -> Array:
    mean: Array = np.einsum("gk,gkn->gn", moments.mean_x, matrix)
    return mean


def solved(graph: str, asked: Sparsity) -> tuple[dict[str, Affine], float]:
    """Every layer thinned on its own, on the dense network's inputs, and the CPU seconds of it."""
    batches = calibration(graph)
    start = time.process_time()
    model = load(path_of(graph))
    run, weights, sample = Segments(model, batches), Weights(model), Sample()
    found = {}
    for target in find_targets(model, asked)[0]:
        layer, (groups, _, outputs) = target.layer, target.shape
        run.advance([layer.x, layer.y])
        one = np.ones(groups * outputs)
        here = Merge(layer.y, None, one, 0 * one)
        train, held = moments_of(target, here, run, run, batches, sample)
        weight, bias = weights.read(target)
        train, held = steadied(train, weight), steadied(held, weight)
        free = layer.bias_slot is not None
        pattern = Pattern(asked.share, asked.n, asked.m)
        wanted = aim(train, weight, bias, free_bias=free)
        first, keep = select(target, "admm", wanted, gram_of(train, free_bias=free), pattern)
        refit = refit_support(
            train, held, weight, keep, bias,
            start=first, ridges=RIDGES, free_bias=free, iterations=20,
        )  # fmt: skip
        found[layer.node] = np.where(keep, refit.weight, 0.0), refit.bias
    return found, time.process_time() - start


def measure(graph: str, amount: str) -> dict[str, Any]:
    """A row for each layer that both systems made zeros in, and the seconds of both."""
    dense = load(path_of(graph))
    before = affine(dense)
    files = {s: kept_at(s, graph, _label(s, amount)) for s in ("onnxprune", "onnxsim")}
    opened = {s: load(file) for s, file in files.items() if file is not None and file.exists()}
    theirs = {n: w for n, w in affine(opened["onnxsim"]).items() if (w[0] == 0).mean() > 0.25}
    with threadpool_limits(1, "blas"):
        mine, seconds = solved(graph, sparsity(amount))
    layers = [x for x in find_layers(dense)[0] if x.node in mine and x.node in theirs]
    gathered, off = _run(graph, dense, layers, opened)
    peer = {(r["system"], r["graph"], r["label"]): r["run"] for r in read()["rows"]}
    return {
        "graph": graph,
        "amount": amount,
        "onnxprune": {"cpu_s": round(seconds, 2), "weights": sum(w.size for w, _ in mine.values())},
        "onnxsim": {
            "cpu_s": peer["onnxsim", graph, _label("onnxsim", amount)]["cpu_s"],
            "weights": sum(w.size for w, _ in theirs.values()),
        },
        "not compared": sorted({*mine} ^ {*theirs}),
        "layers": [
            {
                "layer": layer.node,
                "weights": before[layer.node][0].size,
                "onnxprune": alone(gathered[layer.node], before[layer.node], mine[layer.node]),
                "onnxsim": alone(gathered[layer.node], before[layer.node], theirs[layer.node]),
                "in place": {s: off[s, layer.y] for s in opened},
            }
            for layer in layers
        ],
    }


def _run(
    graph: str, dense: models.Model, layers: Sequence[Layer], others: Mapping[str, models.Model]
) -> tuple[dict[str, Moments], dict[tuple[str, str], float]]:
    """Moments of what each layer reads, and what its output is off by in other models."""
    inputs = list(dict.fromkeys(layer.x for layer in layers))
    outputs = list(dict.fromkeys(layer.y for layer in layers))
    run = open_session(dense, outputs=[*inputs, *outputs])
    sessions = {s: open_session(each, outputs=outputs) for s, each in others.items()}
    ends = [value.name or "" for value in dense.ir.graph.outputs]
    batches = unseen(graph, lambda feeds: [*run.run(feeds, only=ends).values()], BATCHES)
    gathered: dict[str, Accumulator] = {}
    off = {(system, name): np.zeros(2) for system in others for name in outputs}
    for number, feeds in enumerate(batches):
        found = run.run(feeds, only=[*inputs, *outputs])
        for layer in layers:
            x = found[layer.x]
            positions = sample_positions(layer.count(x.shape), -(-ROWS // len(batches)), number)
            rows = layer.rows(x, positions)
            at = gathered.setdefault(layer.node, Accumulator(len(rows), rows.shape[2], double=True))
            at.add(rows)
        for system, session in sessions.items():
            seen = session.run(feeds, only=outputs)
            for name in outputs:
                wanted = found[name].astype(np.float64)
                off[system, name] += ((seen[name] - wanted) ** 2).sum(), (wanted**2).sum()
    errors = {key: float(error / size) for key, (error, size) in off.items()}
    return {node: each.moments() for node, each in gathered.items()}, errors


def _label(system: str, amount: str) -> str:
    return f"sparsegpt {amount}" if system == "onnxsim" else amount


def table(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each network and sparsity, and whether what is asked was met."""
    print("| network | sparsity | layers | lower | error | SparseGPT | ns per weight", end="")
    print(" | SparseGPT | time | lower in place |\n" + "|--" * 10 + "|")
    lower, ratios = [], []
    for each in found:
        layers = each["layers"]
        wins = [x["onnxprune"] < x["onnxsim"] for x in layers]
        placed = [x["in place"]["onnxprune"] < x["in place"]["onnxsim"] for x in layers
                  if len(x["in place"]) == 2]  # fmt: skip
        took = [1e9 * each[s]["cpu_s"] / each[s]["weights"] for s in ("onnxprune", "onnxsim")]
        middle = [np.median([x[s] for x in layers]) for s in ("onnxprune", "onnxsim")]
        lower += wins
        ratios.append(took[0] / took[1])
        cells = [each["graph"], each["amount"], str(len(layers)), f"{100 * np.mean(wins):.0f} %"]
        cells += [f"{m:.4f}" for m in middle] + [f"{t:,.0f}" for t in took] + [f"{ratios[-1]:.2f}x"]
        print(
            "| " + " | ".join([*cells, f"{100 * np.mean(placed):.0f} %" if placed else ""]) + " |"
        )
    if lower:
        said = "met" if np.mean(lower) >= SHARE else "missed"
        print(f"\n{sum(lower)} of {len(lower)} layers: {100 * np.mean(lower):.1f} %; ", end="")
        print(f"asked {100 * SHARE:.0f} %, {said}.  Errors are medians over the layers.")
        fast = sum(ratio <= TIMES for ratio in ratios)
        print(f"Time: at most {TIMES:g}x of SparseGPT's in {fast} of {len(ratios)} rows")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.layer_error", description=__doc__)
    parser.add_argument("--only", default="*", help="a glob over networks")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    done = {(row["graph"], row["amount"]) for row in found} if not options.again else set()
    cases = dict.fromkeys((c.graph, c.sparsity) for cases in CASES.values() for c in cases)
    for graph, amount in () if options.table else cases:
        file = kept_at("onnxsim", graph, _label("onnxsim", amount))
        known = fnmatch.fnmatch(graph, options.only) and file is not None and file.exists()
        if known and (graph, amount) not in done:
            row = measure(graph, amount)
            found = [r for r in found if (r["graph"], r["amount"]) != (graph, amount)] + [row]
            lines = ",\n".join(json.dumps(each) for each in found)
            RESULTS.write_text(f'{{"schema": 1, "rows": [\n{lines}\n]}}\n')
            print(graph, amount, flush=True)
    table(found)


if __name__ == "__main__":
    main()

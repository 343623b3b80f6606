"""Layer by layer: how far sparse weights move what a layer computes, onnxprune beside SparseGPT.

    python -m bench.layer_error --peer OTHER/bin/python [--only GLOB] [--again]
    python -m bench.layer_error --table           # results/layer_error.json as a table

For weights W with bias b that became W + D and b + d, on inputs x of the dense network that nothing
was fitted to, the relative squared error of the layer *alone* is

    E |D^T x + d|^2 / E |W^T x|^2

which is tr(D^T G D) / tr(W^T G W) with G = E x x^T where no bias moved. It compares solvers: both
are given the dense network's inputs to each layer, those of the same calibration inputs, and have
no other layer to make up for.

*In place* is what the output of a layer really is off by in the network as it is written, where
layers also make up for each other: |y' - y|^2 / |y|^2. Tokens that are padding count in neither.

SparseGPT is onnxsim 0.8.1's, in a process of its own. Ours is the layer-wise method that it
compares with: default masks, an even share of every layer, conjugate gradients; what the default
does besides (dividing zeros by sensitivity, training) has no counterpart there. Times are CPU
seconds over weights: those of reading the network, running it on all calibration inputs,
collecting moments and solving; *solving* alone is what is left of a run on eight samples.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.quality import kept_at
from bench.quality_cases import Feeds, calibration, path_of, unseen
from bench.structured import HERE, limited, machine
from onnxprune import analyse, load
from onnxprune import model as models
from onnxprune.data.activations.rows import Sample, moments_of
from onnxprune.data.activations.runner import Segments
from onnxprune.data.batches import token_masks, unpadded_rows
from onnxprune.graph.layers.epilogue import Epilogue, Weights
from onnxprune.graph.layers.linear import LinearLayer, find_layers, refittable
from onnxprune.quantities import Sparsity, sparsity
from onnxprune.runtime import open_session
from onnxprune.solve.im2col import sample_positions
from onnxprune.solve.moments import Accumulator, Moments
from onnxprune.solve.obs import Pattern
from onnxprune.solve.support import RIDGES, refit_support
from onnxprune.sparse.layerwise import Settings
from onnxprune.sparse.rows import steadied
from onnxprune.sparse.select import gram_of, refit_dense, select
from onnxprune.sparse.sparsify import sparsify
from onnxprune.sparse.targets import find_targets

RESULTS = HERE / "results" / "layer_error.json"
NETWORKS = {
    "resnet20_cifar10_proj_bn": 1,
    "mobilenetv1_0.75_imagenet_bn": 8,
    "minilm_l6_sts_sst2": 1,
    "stories260k_llama_legacy": 1,
    "digits_rescnn": 1,
    "digits_encoder": 1,
}
"""What is measured; of so many calibration batches one is taken (SparseGPT takes hours for all)."""
AMOUNTS = ("50%", "2:4")
FEW = 8
"""Samples of the run that shows what solving takes."""
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
    for layer in refittable(find_layers(model)):
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


def solved(
    model: models.Model, batches: list[Feeds], amounts: Mapping[str, Sparsity]
) -> dict[str, dict[str, Affine]]:
    """Every layer thinned on its own, on the dense network's inputs, by amount."""
    run, weights, sample = Segments(model, batches), Weights(model), Sample(rows=ROWS)
    found: dict[str, dict[str, Affine]] = {amount: {} for amount in amounts}
    wanted = {amount: find_targets(model, asked)[0] for amount, asked in amounts.items()}
    for layer in next(iter(wanted.values())):
        one = np.ones(layer.outputs)
        here = Epilogue(layer.y, None, one, 0 * one)
        train, held = moments_of(layer, here, run, run, sample)
        weight, bias = weights.read(layer)
        train, held = steadied(train, weight), steadied(held, weight)
        free = layer.bias_slot is not None
        for amount, asked in amounts.items():
            if layer not in wanted[amount]:
                continue
            pattern = Pattern(asked.share, asked.n, asked.m)
            goal = refit_dense(train, weight, bias, free_bias=free)
            first, keep = select(layer, "admm", goal, gram_of(train, free_bias=free), pattern)
            refit = refit_support(
                train, held, weight, keep, bias,
                start=first, ridges=RIDGES, free_bias=free, iterations=Settings.iterations,
            )  # fmt: skip
            found[amount][layer.node] = np.where(keep, refit.weight, 0.0), refit.bias
    return found


def whole(graph: str, asked: Sparsity, batches: list[Feeds]) -> tuple[models.Model, float, int]:
    """The network thinned layer after layer, the CPU seconds of that, and its weights."""
    start = time.process_time()
    model = load(path_of(graph))
    with threadpool_limits(1, "blas"):
        made = sparsify(model, asked, batches, analyse(model).facts, Settings())
    return made.model, time.process_time() - start, sum(t.size for t in made.targets)


@dataclass(frozen=True)
class Rival:
    """Where onnxsim's network is, and what it took."""

    file: Path
    cpu_s: float
    solving_s: float | None


def rival(peer: str, graph: str, amount: str, batches: list[Feeds]) -> Rival | None:
    """SparseGPT's network, from an earlier run where there is one; None if it made none."""
    file = kept_at("onnxsim", graph, f"sparsegpt {amount}")
    assert file is not None
    about = file.with_suffix(".json")
    if not (file.exists() and about.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        took = _rival(peer, graph, amount, batches, file)
        few = [{name: array[:FEW] for name, array in batches[0].items()}]
        took["few"] = _rival(peer, graph, amount, few, file.with_suffix(".few"))
        about.write_text(json.dumps(took))
    took = json.loads(about.read_text())
    return Rival(file, took["cpu_s"], took.get("few", {}).get("cpu_s")) if file.exists() else None


def _rival(peer: str, graph: str, amount: str, batches: list[Feeds], out: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        feeds = Path(folder) / "calibration.npz"
        named = {f"{i:05d}/{n}": a for i, each in enumerate(batches) for n, a in each.items()}
        np.savez(feeds, **named)  # type: ignore[arg-type]  # numpy takes arrays
        command = [peer, str(HERE / "quality_peer.py"), str(path_of(graph)), str(out)]
        command += ["--method", "sparsegpt", "--amount", amount, "--calibration", str(feeds)]
        return limited(command, 3600, os.environ)


def measure(graph: str, amounts: Sequence[str], peer: str) -> list[dict[str, Any]]:
    """For each amount a row with every layer that both systems made zeros in."""
    batches = calibration(graph)[:: NETWORKS[graph]]
    asked = {amount: sparsity(amount) for amount in amounts}
    rivals = {amount: rival(peer, graph, amount, batches) for amount in amounts}
    dense = load(path_of(graph))
    before = affine(dense)
    with threadpool_limits(1, "blas"):
        mine = solved(dense, batches, asked)
    rows = []
    for amount, other in rivals.items():
        if other is None:
            print(f"{graph} {amount}: SparseGPT made no file")
            continue
        thinned, seconds, size = whole(graph, asked[amount], batches)
        few = [{name: array[:FEW] for name, array in batches[0].items()}]
        solving = whole(graph, asked[amount], few)[1]
        opened = {"onnxprune": thinned, "onnxsim": load(other.file)}
        theirs = {n: w for n, w in affine(opened["onnxsim"]).items() if (w[0] == 0).mean() > 0.25}
        layers = [
            x for x in refittable(find_layers(dense)) if x.node in mine[amount] and x.node in theirs
        ]
        gathered, off = _run(graph, dense, layers, opened)
        ours = {"cpu_s": round(seconds, 2), "solving_s": round(solving, 2), "weights": size}
        their_size = sum(w.size for w, _ in theirs.values())
        rows.append(
            {
                "graph": graph,
                "amount": amount,
                "samples": sum(len(next(iter(each.values()))) for each in batches),
                "load": round(os.getloadavg()[0], 1),
                "onnxprune": ours,
                "onnxsim": {
                    "cpu_s": other.cpu_s, "solving_s": other.solving_s, "weights": their_size
                },
                "not compared": sorted({*mine[amount]} ^ {*theirs}),
                "layers": [
                    _layer(x, gathered[x.node], before, mine[amount], theirs, off) for x in layers
                ],
            }
        )  # fmt: skip
    return rows


def _layer(
    layer: LinearLayer,
    moments: Moments,
    before: Mapping[str, Affine],
    mine: Mapping[str, Affine],
    theirs: Mapping[str, Affine],
    off: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """The errors of one layer, alone and in place, of ours and of theirs."""
    pairs = (mine, theirs)
    alone_ = [alone(moments, before[layer.node], each[layer.node]) for each in pairs]
    placed = [off[system, layer.y] for system in ("onnxprune", "onnxsim")]
    return {
        "layer": layer.node,
        "weights": before[layer.node][0].size,
        "alone": [float(f"{x:.4g}") for x in alone_],
        "in place": [float(f"{x:.4g}") for x in placed],
    }


def _run(
    graph: str,
    dense: models.Model,
    layers: Sequence[LinearLayer],
    others: Mapping[str, models.Model],
) -> tuple[dict[str, Moments], dict[tuple[str, str], float]]:
    """Moments of what each layer reads, and what its output is off by in other models."""
    inputs = list(dict.fromkeys(layer.x for layer in layers))
    outputs = list(dict.fromkeys(layer.y for layer in layers))
    run = open_session(dense, outputs=[*inputs, *outputs])
    sessions = {s: open_session(each, outputs=outputs) for s, each in others.items()}
    ends = [value.name or "" for value in dense.ir.graph.outputs]
    batches = unseen(graph, lambda feeds: [*run.run(feeds, ends).values()], BATCHES)
    gathered: dict[str, Accumulator] = {}
    off = {(system, name): np.zeros(2) for system in others for name in outputs}
    for number, feeds in enumerate(batches):
        found = run.run(feeds, [*inputs, *outputs])
        for layer in layers:
            x = found[layer.x]
            masks = {} if layer.window else token_masks(feeds)
            among = unpadded_rows(masks, x.shape, layer.axis)
            share = -(-ROWS // len(batches))
            positions = sample_positions(layer.count(x.shape), share, number, among)
            rows = layer.rows(x, positions)
            at = gathered.setdefault(layer.node, Accumulator(len(rows), rows.shape[2], double=True))
            at.add(rows)
        for system, session in sessions.items():
            seen = session.run(feeds, outputs)
            for name in outputs:
                wanted = found[name].astype(np.float64)
                error = seen[name] - wanted
                rows = unpadded_rows(token_masks(feeds), wanted.shape, -1)
                if rows is not None:
                    wanted, error = (a.reshape(-1, a.shape[-1])[rows] for a in (wanted, error))
                off[system, name] += (error**2).sum(), (wanted**2).sum()
    errors = {key: float(error / size) for key, (error, size) in off.items()}
    return {node: each.moments() for node, each in gathered.items()}, errors


def table(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each network and sparsity, and whether what is asked was met."""
    print(
        "| network | sparsity | samples | layers | lower alone | in place | error | SparseGPT",
        end="",
    )
    print(" | us per weight | SparseGPT | time | solving |\n" + "|--" * 12 + "|")
    lower, ratios = [], []
    for each in found:
        layers = each["layers"]
        wins = [[x[how][0] < x[how][1] for x in layers] for how in ("alone", "in place")]
        took = [1e6 * each[s]["cpu_s"] / each[s]["weights"] for s in ("onnxprune", "onnxsim")]
        solving = [each[s]["solving_s"] for s in ("onnxprune", "onnxsim")]
        lower += wins[0]
        ratios.append(took[0] / took[1])
        cells = [each["graph"], each["amount"], str(each["samples"]), str(len(layers))]
        cells += [f"{100 * np.mean(part):.0f} %" for part in wins]
        cells += [f"{np.median([x['alone'][k] for x in layers]):.4f}" for k in range(2)]
        cells += [f"{t:,.1f}" for t in took] + [f"{ratios[-1]:.2f}x"]
        cells += [f"{solving[0] / solving[1]:.2f}x" if solving[1] else ""]
        print("| " + " | ".join(cells) + " |")
    if lower:
        said = "met" if np.mean(lower) >= SHARE else "missed"
        print(f"\n{sum(lower)} of {len(lower)} layers: {100 * np.mean(lower):.1f} %; ", end="")
        print(f"asked {100 * SHARE:.0f} %, {said}.  Errors are medians over the layers.")
        fast = sum(ratio <= TIMES for ratio in ratios)
        print(f"Time: at most {TIMES:g}x of SparseGPT's in {fast} of {len(ratios)} rows")


def _stored() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.layer_error",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peer", default=sys.executable, help="the Python that has onnxsim 0.8.1")
    parser.add_argument("--only", default="*", help="a glob over networks")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    found = _stored()
    for graph in () if options.table else NETWORKS:
        done = {row["amount"] for row in found if row["graph"] == graph and not options.again}
        todo = [amount for amount in AMOUNTS if amount not in done]
        if todo and fnmatch.fnmatch(graph, options.only) and path_of(graph).exists():
            fresh = measure(graph, todo, options.peer)
            same = {(row["graph"], row["amount"]) for row in fresh}
            kept = _stored()  # now: somebody else may have added to it meanwhile
            found = [r for r in kept if (r["graph"], r["amount"]) not in same] + fresh
            lines = ",\n".join(json.dumps(each) for each in found)
            head = json.dumps(machine())
            RESULTS.write_text(f'{{"schema": 2, "machine": {head}, "rows": [\n{lines}\n]}}\n')
            print(graph, *todo, flush=True)
    table(found)


if __name__ == "__main__":
    main()

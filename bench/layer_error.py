"""Layer by layer: how far sparse weights move what a layer computes, onnxprune beside SparseGPT.

    python -m bench.layer_error              # measure the files that bench.quality kept
    python -m bench.layer_error --table      # results/layer_error.json as a table

For weights W with bias b that became W + D and b + d, on inputs x of the dense network that nothing
was fitted to, the relative squared error of the layer *alone* is

    E |D^T x + d|^2 / E |W^T x|^2

which is tr(D^T G D) / tr(W^T G W) with G = E x x^T where no bias moved. *In place* is what the
layer's output really is off by in the sparse network, where its inputs are those that the sparse
layers before it make: |y' - y|^2 / |y|^2. onnxsim's SparseGPT and onnxprune's default method were
given the same calibration inputs. A layer counts where both made zeros in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality import kept_at, read
from bench.quality_cases import CASES, path_of, unseen
from onnxprune import load
from onnxprune import model as models
from onnxprune.backends import open_session
from onnxprune.recover.gram import Accumulator, Moments
from onnxprune.recover.layers import Layer, find_layers
from onnxprune.recover.patches import sample_positions

RESULTS = Path(__file__).parent / "results" / "layer_error.json"
ROWS = 20_000
"""Rows looked at in each layer."""
BATCHES = 6
SHARE, TIMES = 0.95, 0.2
"""What is asked: the share of layers with a lower error, and the time of the other's."""

Array = np.ndarray[Any, Any]


class Weights:
    """The linear layers of a file by node, and their arrays."""

    def __init__(self, path: Path) -> None:
        self.model = load(path)
        self._stored = models.constants(self.model)
        self.layers: dict[str, Layer] = {each.node: each for each in find_layers(self.model)[0]}

    def matrix(self, node: str) -> Array:
        """``[g, K, N]``."""
        layer = self.layers[node]
        return layer.matrix(self._read(layer.weight))

    def bias(self, node: str, like: Array) -> Array:
        """``[g, N]``; 0 where there is none."""
        layer = self.layers[node]
        shape = (like.shape[0], like.shape[2])
        return self._read(layer.bias).reshape(shape) if layer.bias else np.zeros(shape)

    def _read(self, name: str) -> Array:
        tensor = models.constant(self._stored[name])
        assert tensor is not None
        return tensor.numpy().astype(np.float64)


def alone(moments: Moments, before: tuple[Array, Array], after: tuple[Array, Array]) -> float:
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


def measure(graph: str, amount: str) -> Iterator[dict[str, Any]]:
    """A row for each layer that both systems made zeros in."""
    dense = Weights(path_of(graph))
    places = {s: kept_at(s, graph, _label(s, amount)) for s in ("onnxprune", "onnxsim")}
    sparse = {system: Weights(place) for system, place in places.items() if place is not None}
    known = [n for n in dense.layers if all(n in each.layers for each in sparse.values())]
    zeros = {
        (system, node): float((each.matrix(node) == 0).mean())
        for system, each in sparse.items()
        for node in known
    }
    chosen = [n for n in known if all(zeros[system, n] > 0.25 for system in sparse)]
    layers = [dense.layers[node] for node in chosen]
    inputs = list(dict.fromkeys(layer.x for layer in layers))
    outputs = list(dict.fromkeys(layer.y for layer in layers))
    run = open_session(dense.model, outputs=[*inputs, *outputs])
    ends = [value.name or "" for value in dense.model.ir.graph.outputs]
    batches = unseen(graph, lambda feeds: [*run.run(feeds, only=ends).values()], BATCHES)
    others = {s: open_session(each.model, outputs=outputs) for s, each in sparse.items()}
    gathered = {n: Accumulator(*dense.matrix(n).shape[:2], double=True) for n in chosen}
    off = {(system, name): np.zeros(2) for system in sparse for name in outputs}
    for number, feeds in enumerate(batches):
        found = run.run(feeds, only=[*inputs, *outputs])
        for layer in layers:
            x = found[layer.x]
            positions = sample_positions(layer.count(x.shape), -(-ROWS // len(batches)), number)
            gathered[layer.node].add(layer.rows(x, positions))
        for system, session in others.items():
            seen = session.run(feeds, only=outputs)
            for name in outputs:
                wanted = found[name].astype(np.float64)
                off[system, name] += ((seen[name] - wanted) ** 2).sum(), (wanted**2).sum()
    for layer in layers:
        node = layer.node
        row: dict[str, Any] = {"graph": graph, "amount": amount, "layer": layer.node}
        matrix = dense.matrix(node)
        row["weights"], moments = matrix.size, gathered[node].moments()
        for system, each in sparse.items():
            after = each.matrix(node)
            before = matrix, dense.bias(node, matrix)
            row[f"{system} zeros"] = round(zeros[system, node], 4)
            row[f"{system} alone"] = alone(moments, before, (after, each.bias(node, matrix)))
            error, size = off[system, layer.y]
            row[f"{system} in place"] = float(error / size)
        yield row


def _label(system: str, amount: str) -> str:
    return f"sparsegpt {amount}" if system == "onnxsim" else amount


def table(rows: list[Mapping[str, Any]]) -> None:
    """Print a line for each network and sparsity, and whether what is asked was met."""
    quality = {(r["system"], r["graph"], r["label"]): r["run"] for r in read()["rows"]}
    print(
        "| network | sparsity | layers | lower alone | in place | median error | SparseGPT |",
        end="",
    )
    print(" ns per weight | SparseGPT | time |\n" + "|--" * 10 + "|")
    lower: list[bool] = []
    for graph, amount in dict.fromkeys((r["graph"], r["amount"]) for r in rows):
        mine = [r for r in rows if (r["graph"], r["amount"]) == (graph, amount)]
        wins = [r["onnxprune alone"] < r["onnxsim alone"] for r in mine]
        lower += wins
        placed = [r["onnxprune in place"] < r["onnxsim in place"] for r in mine]
        middle = [np.median([r[f"{s} alone"] for r in mine]) for s in ("onnxprune", "onnxsim")]
        size = sum(r["weights"] for r in mine)
        took = [
            quality[s, graph, _label(s, amount)]["seconds"] / size for s in ("onnxprune", "onnxsim")
        ]
        cells = [
            graph,
            amount,
            str(len(mine)),
            *(f"{100 * np.mean(w):.0f} %" for w in (wins, placed)),
        ]
        cells += [f"{m:.4f}" for m in middle] + [f"{1e9 * t:,.0f}" for t in took]
        print("| " + " | ".join([*cells, f"{took[0] / took[1]:.2f}x"]) + " |")
    if lower:
        said = "met" if np.mean(lower) >= SHARE else "missed"
        print(f"\n{sum(lower)} of {len(lower)} layers have a lower error alone; ", end="")
        print(f"asked {100 * SHARE:.0f} %, {said}; time asked {TIMES:g}x")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.layer_error", description=__doc__)
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        rows = []
        cases = dict.fromkeys((c.graph, c.sparsity) for cases in CASES.values() for c in cases)
        for graph, amount in cases:
            files = [kept_at(s, graph, _label(s, amount)) for s in ("onnxprune", "onnxsim")]
            if amount and all(file is not None and file.exists() for file in files):
                rows += list(measure(graph, amount))
                print(graph, amount, flush=True)
        lines = ",\n".join(json.dumps(row) for row in rows)
        RESULTS.write_text(f'{{"schema": 1, "rows": [\n{lines}\n]}}\n')
    table(json.loads(RESULTS.read_text())["rows"])


if __name__ == "__main__":
    main()

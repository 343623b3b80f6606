"""`python -m bench.quality_score GRAPH [FILE]`: what one file costs and how well it does its task.

Prints one JSON line about FILE, made from GRAPH, or about GRAPH itself; with --calibration it
writes the feeds that everybody is given, or the first --samples of them, and stops.  MACs,
parameters and zeros are counted here, in the files, by the same code for every system.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.judge import open_session
from bench.quality_cases import calibration, path_of, scores
from onnxprune import analyse, load
from onnxprune import model as models
from onnxprune.graph.cost import CostModel
from onnxprune.graph.layers.linear import find_layers, refittable


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality_score", description=__doc__)
    parser.add_argument("graph")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--samples", type=int, default=0, help="of these; 0 for all")
    options = parser.parse_args()
    if options.calibration:
        named, left = {}, options.samples or sys.maxsize
        for i, feeds in enumerate(calibration(options.graph)):
            if left > 0:
                named |= {f"{i:05d}/{name}": array[:left] for name, array in feeds.items()}
            left -= len(next(iter(feeds.values())))
        np.savez(options.calibration, **named)  # type: ignore[arg-type]  # numpy takes arrays
        return
    path: Path = options.file or path_of(options.graph)
    session = open_session(path)
    found = {
        "scores": {
            name: round(value, 4)
            for name, value in scores(options.graph, lambda feeds: session.run(None, feeds)).items()
        }
    }
    print(json.dumps(found | counted(options.graph, path)))


def counted(graph: str, path: Path) -> dict[str, Any]:
    """What the file costs for one input of the size of the data, and its share of zeros."""
    model = load(path)
    one = {name: (1, *array.shape[1:]) for name, array in calibration(graph)[0].items()}
    cost = CostModel(analyse(model, inputs=one))()
    stored = models.constants(model)
    weights = {layer.weight for layer in refittable(find_layers(model))} & {*stored}
    arrays = [models.constant(stored[name]).numpy() for name in sorted(weights)]  # type: ignore[union-attr]
    zeros = sum(int((array == 0).sum()) for array in arrays)
    share = zeros / max(sum(array.size for array in arrays), 1)
    return {"macs": cost.macs, "params": cost.params, "zeros": round(share, 4)}


if __name__ == "__main__":
    main()

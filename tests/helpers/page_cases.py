"""Documents for tests of the page: a real run, what could be measured of it, and bad names."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, get_args

from onnxprune import prune
from onnxprune.data import zoo
from onnxprune.evaluate.environment import environment
from onnxprune.jobs.bench import schema as benches
from onnxprune.jobs.results import gather, schema
from onnxprune.jobs.results.schema import PointRow, Report
from onnxprune.select import sensitivity as sweeps
from onnxprune.select.sensitivity import Cell, Recommendation, Sensitivity, Target
from onnxprune.types import QualityStatus, StructureStatus

ENTRY = zoo.get("digits_mlp")
HOSTILE = '</script><script>window.broken=1</script><img src=x onerror=window.broken=1>"\u2028&amp;'
"""A name that ends a script, starts another, and brings a handler along."""


@cache
def run() -> Report:
    """What a real run reports."""
    calib = str(ENTRY.calibration)
    made = prune(ENTRY.model, ratio=0.3, calib=calib, calib_samples=64, cache=False)
    return gather.result("prune", made, ENTRY.model.parent / "small.onnx")


def searched() -> Report:
    """The same with models that a search could have visited."""
    macs, params = run().model.macs, run().model.params
    rows = [(1.0, 0.97, True, False), (0.7, 0.96, True, True), (0.5, 0.9, False, False)]
    points = tuple(
        PointRow(
            label=f"macs={part:.0%}",
            macs=round(macs * part),
            params=params if part == 1 else round(params * part),
            bytes=round(4 * params * part),
            latency={"cpu": {"p50_s": 1e-4 * part, "low_s": 9e-5 * part, "high_s": 1.1e-4 * part}},
            metric="accuracy",
            value=value,
            drop=0.97 - value,
            drop_error=0.004,
            samples=500,
            ok=ok,
            chosen=chosen,
        )
        for part, value, ok, chosen in rows
    )
    return replace(run(), points=points)


def as_json(report: Report) -> dict[str, Any]:
    """What --json prints of it."""
    return _printed(schema.to_json(report))


def bench(*names: str) -> dict[str, Any]:
    """A benchmark of some models on two backends; each takes less than the one before."""
    rows = tuple(
        _row(backend, names, k) for backend in ("cpu", "openvino") for k in range(len(names))
    )
    made = benches.Bench(
        onnxprune="0.1.0",
        environment=environment(),
        protocol={"processes": 6},
        models=tuple(benches.ModelRow(name, f"out/{name}", 1000, None, None) for name in names),
        rows=rows,
        noise_floor=(benches.NoiseFloor("cpu", "unoptimised", run().outputs),),
        declined=(benches.DeclinedRow("cuda", "", None, None, "no device", "pip install x"),),
        notes=("the clock is not fixed",),
    )
    return _printed(benches.to_json(made))


def _row(backend: str, names: tuple[str, ...], k: int) -> benches.Row:
    part = 1 / (1 + k)
    p50 = 1e-3 * part
    quantiles = tuple(p50 * (0.9 + q / 500) for q in range(101))
    return benches.Row(
        model=names[k],
        backend=backend,
        precision="f32",
        version="1",
        batch=1,
        threads=2,
        load_s=0.1,
        first_run_s=0.01,
        peak_rss_bytes=1 << 26,
        idle_rss_bytes=None,
        latency=benches.Latency(p50, p50 * 1.08, p50 * 1.1, p50, 400, quantiles, stable=True),
        ratio=benches.Ratio(names[0], part, part * 0.98, part * 1.02, "faster") if k else None,
        outputs=run().outputs if k else (),
        score=benches.Score("accuracy", 0.97, 0.97 - 0.01 * k),
    )


def sweep(model: str, targets: list[tuple[str, str]]) -> dict[str, Any]:
    """A sweep in which every target costs more than the one before it, and a block costs all."""
    ratios = (0.25, 0.5)
    cells = [
        Cell(name, ratio, drop=(k + 1) * ratio * 0.012, kl=1 / (k + 1))
        for k, (name, _) in enumerate(targets)
        for ratio in ratios
    ]
    made = Sensitivity(
        structure="abc",
        model=model,
        metric="accuracy",
        higher_is_better=True,
        dense=0.97,
        samples=100,
        inputs="some",
        criterion="l1",
        ratios=ratios,
        targets=tuple(Target(n, k, 4, 1, 1) for n, k in [*targets, ("the block", "block")]),
        cells=(*cells, Cell("the block", 1.0, drop=0.87, kl=3.0)),
        recommended=Recommendation(0.01, {targets[0][0]: 0.25}, 0.002),
        declined={"head": "it reaches the output"},
    )
    return _printed(sweeps.to_json(made))


VERDICTS = (*get_args(QualityStatus), *get_args(StructureStatus))


def hostile_documents() -> list[Any]:
    """All kinds of documents with a hostile name wherever a model or a file can bring one."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoil(each) for key, each in value.items()}
        if isinstance(value, list):
            return [spoil(each) for each in value]
        kept = ("count", "bytes", "fraction", "seconds", "number", "prune", "faster", "labels")
        kept = (*kept, "answers", *VERDICTS)
        known = isinstance(value, str) and (value in kept or value.startswith("onnxprune."))
        return f"{value}{HOSTILE}" if isinstance(value, str) and not known else value

    names = [(f"{row.name}{HOSTILE}", row.kind) for row in run().groups]
    return [
        spoil(as_json(searched())),
        spoil(bench(ENTRY.model.name, "small.onnx")),
        sweep(f"{ENTRY.model.name}{HOSTILE}", names),
    ]


def _printed(plain: dict[str, object]) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(json.dumps(plain))
    return printed

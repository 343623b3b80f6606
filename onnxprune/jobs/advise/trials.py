"""Trials of advice: its commands carried out on few samples, and their results timed.

A plan is chosen as `prune` chooses it: by the same options, widths and error curves. Only the
recovery is cheaper, biases in place of least squares, which leaves the same graph; so sizes are
those of the command, and so are latencies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import AdviseOptions, Options, QuantizeOptions
from onnxprune.data import Calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.protocol import Case, Declined, Settings, Timing, measure
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.advise.evidence import Trial
from onnxprune.jobs.advise.methods import quantize_format
from onnxprune.jobs.apply_plan import cost_of, cut, refit
from onnxprune.jobs.prune import choose_plan
from onnxprune.jobs.quantize import quantize
from onnxprune.jobs.run import Progress, open_run
from onnxprune.jobs.steps import take
from onnxprune.quantities import Budget
from onnxprune.runtime.registry import Backend
from onnxprune.solve.bootstrap import ratio

Feeds = Mapping[str, npt.NDArray[Any]]

SAMPLES = 512
"""Most calibration samples that a trial chooses units by: widths change little with more."""
_RANGES = 32
"""Samples that ranges of activations are taken from: latency does not depend on them."""
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Targets in multiply-accumulates, tried in turn until one can be met."""
PROTOCOL = Settings(processes=4, rounds=6, slice_s=0.03, warm_s=1.0)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A trial before its model is timed; no model where none could be made."""

    trial: Trial
    model: models.Model | None = None


def run_trials(
    path: Path,
    backend: Backend,
    methods: Sequence[str],
    config: AdviseOptions,
    inputs: Calibration,
    feeds: Feeds,
    progress: Progress,
    *,
    busy: bool = False,
) -> tuple[Trial, ...]:
    """Carry out methods on a backend, and time their results beside the original.

    Args:
        path: of the model.
        backend: one that is available.
        methods: ``structured``, ``int8`` or both.
        config: the options of the advice.
        inputs: samples to quantize by: the user's, else synthetic ones.
        feeds: of one timed run.
        progress: called with a line of text at each stage.
        busy: whether the machine does other things, so that the time of the processor tells more
            than a clock on the wall.
    """
    attempts = []
    if "structured" in methods:
        progress(f"trying to prune for {backend.name}")
        attempts.append(_prune(path, backend.name, config, progress))
    if "int8" in methods:
        progress(f"trying to quantize for {backend.name}")
        attempts.append(_quantize(path, backend.name, inputs))
    return _timed(path, backend, attempts, config, feeds, progress, busy=busy)


def _prune(path: Path, backend: str, config: AdviseOptions, progress: Progress) -> _Attempt:
    options = Options(
        target=Budget("macs", SHARES[0], relative=True),
        backend=backend,
        calib=config.calib,
        calib_samples=SAMPLES,
        preprocess=config.preprocess,
        shapes=config.shapes,
    )
    run = open_run(path, options, progress)
    reason = ""
    for share in SHARES:
        target = Budget("macs", share, relative=True)
        asking = replace(run, config=replace(run.config, target=target))
        try:
            choice = choose_plan(asking)  # which looks at how it will be recovered
            cheap = replace(asking, config=replace(asking.config, recover="bias"))
            state = take(cheap, cut(asking, choice), (refit,))
        except OnnxpruneError as error:
            reason = reason or error.message
            continue
        dense, remaining = CostModel(run.analysis)(), cost_of(asking, state)
        trial = Trial(
            "structured",
            backend,
            str(target),
            macs=remaining.macs / max(dense.macs, 1),
            params=remaining.params / max(dense.params, 1),
            bytes=remaining.bytes / max(dense.bytes, 1),
        )
        return _Attempt(trial, state.model)
    return _Attempt(Trial("structured", backend, reason=reason))


def _quantize(path: Path, backend: str, inputs: Calibration) -> _Attempt:
    settings = QuantizeOptions(backend=quantize_format(backend))
    try:
        result = quantize(path, settings, Options(calib=inputs, calib_samples=_RANGES))
    except OnnxpruneError as error:
        return _Attempt(Trial("int8", backend, reason=error.message))
    before, after = result.bytes
    return _Attempt(Trial("int8", backend, bytes=after / max(before, 1)), result.model)


def _timed(
    path: Path,
    backend: Backend,
    attempts: Sequence[_Attempt],
    config: AdviseOptions,
    feeds: Feeds,
    progress: Progress,
    *,
    busy: bool,
) -> tuple[Trial, ...]:
    """The trials with latencies; all models are timed in turns, so that the machine is the same."""
    ready = [each for each in attempts if each.model is not None]
    trials = {each.trial.method: each.trial for each in attempts}
    if not ready:
        return tuple(trials.values())
    with tempfile.TemporaryDirectory(prefix="onnxprune.") as folder:
        paths = [path]
        for each in ready:
            assert each.model is not None
            paths.append(models.save(each.model, Path(folder) / f"{each.trial.method}.onnx"))
        case = Case(backend.name, tuple(paths), feeds, config.threads)
        protocol = replace(PROTOCOL, clock="cpu" if busy else "wall")
        dense, *others = measure(case, protocol, progress=progress)
    for each, timing in zip(ready, others, strict=True):
        trials[each.trial.method] = _with_latency(each.trial, dense, timing, protocol)
    return tuple(trials.values())


def _with_latency(
    trial: Trial, dense: Timing | Declined, other: Timing | Declined, protocol: Settings
) -> Trial:
    for each in (dense, other):
        if isinstance(each, Declined):
            return replace(trial, reason=each.reason)
    assert isinstance(dense, Timing)
    assert isinstance(other, Timing)
    between = ratio(dense.medians, other.medians, level=protocol.level, seed=protocol.seed)
    return replace(
        trial, latency=between.value, low=between.low, high=between.high, clock=protocol.clock
    )

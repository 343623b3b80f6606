"""From evidence to ranked advice: pure, so that it can be checked by its properties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxprune.jobs.advise import methods
from onnxprune.jobs.advise.evidence import Evidence, Spent
from onnxprune.jobs.advise.methods import Advice, family, is_tensorrt


def derive_advice(evidence: Evidence) -> tuple[Advice, ...]:
    """Everything that could be done, the most worthwhile first.

    What pays comes before what may, that before what does not; within these, lower estimates of
    latency come first. ``nothing`` is among what pays, for every backend where no other method
    shortens a run and that is certain.
    """
    advice: list[Advice] = []
    for spent in evidence.spent:
        advice += _on(evidence, spent)
    for backend, reason in evidence.unmeasured:
        advice += _unmeasured(evidence, backend, reason)
    advice.append(methods.zeros(evidence))
    order = ("pays", "may pay", "does not pay")
    return tuple(
        sorted(advice, key=lambda each: (order.index(each.word), _latency(each), each.method))
    )


def _on(evidence: Evidence, spent: Spent) -> Iterator[Advice]:
    advice = [methods.structured(evidence, spent), methods.int8(evidence, spent)]
    if family(spent.backend) == "openvino":
        advice.append(methods.sparse_int8(evidence, spent))
    advice.append(methods.two_four(evidence, spent.backend, spent))
    yield from advice
    unsure = advice[0].word == "may pay"
    if not (unsure or any(each.word == "pays" for each in advice)):
        yield methods.nothing(evidence, spent)


def _unmeasured(evidence: Evidence, backend: str, reason: str) -> Iterator[Advice]:
    """What can be said without a measurement: whether 2:4 is worth trying on TensorRT."""
    if is_tensorrt(backend):
        advice = methods.two_four(evidence, backend, None)
        why = f"{advice.why} (not measured: {reason})"
        yield replace(advice, why=why, estimate=None, low=None, high=None)


def _latency(advice: Advice) -> float:
    return 1.0 if advice.estimate is None else advice.estimate

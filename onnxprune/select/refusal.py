"""Why a budget or a ratio cannot be met, and the options that would help: each of them is tried.

Nothing is run: the least that a model can be made of under other options follows from its groups.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from onnxprune.data.batches import inputs_of
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.graph.analysis import analyse
from onnxprune.quantities import percent, plural
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.units import Importance, Problem

_RATIOS = (0.9, 0.95)
"""Largest ratios of a group that are tried."""
_NAMES = re.compile(r"`[^`]*`")
_REASONS = 3
"""Reasons that are named."""

Least = Callable[[Problem, Importance], float]
"""The least that remains of the quantity that is limited, with every group at its narrowest."""


def advice(
    problem: Problem,
    importance: Importance,
    declined: Mapping[str, str],
    least: Least,
    limit: float,
    dense: float,
) -> str:
    """What keeps a limit from being met, by reason, and which options would change that.

    Args:
        problem: what units are chosen from.
        importance: importance of the units; groups that it declines stay whole under any option.
        declined: why a group stays whole, by group.
        least: the least that remains under the options of a problem.
        limit: what may remain.
        dense: what there is before anything is removed.

    Returns:
        Clauses for a hint; empty where nothing is known that would help.
    """
    helpful = helpful_options(problem, importance, declined, least, limit, dense)
    parts = [helpful] if helpful else []
    if declined:
        whole = f"{len(declined)} of {len(problem.analysis.groups)} groups are left alone"
        parts.append(f"{whole}: {_reasons(declined)}")
    elif not problem.analysis.groups:
        parts.append("the model has no group that could be cut")
    elif not parts:
        parts.append("every group is as narrow as it can be; `onnxprune inspect` says what stays")
    return "; ".join(parts)


def helpful_options(
    problem: Problem,
    importance: Importance,
    declined: Mapping[str, str],
    least: Least,
    limit: float,
    dense: float,
) -> str:
    """The options that lower what remains, in words; empty where none does. Args: as `advice`."""
    flags, part = _options_that_help(
        problem, declined, lambda each: _tried(least, each, importance), limit
    )
    named = " and ".join(map(spelled, flags))
    if flags and part <= limit:
        return f"{named} {'make' if len(flags) > 1 else 'makes'} room for it"
    if flags:
        lowest = percent(part / max(dense, 1))
        return f"{named} would allow {lowest} of the original at the least"
    return ""


def _options_that_help(
    problem: Problem, declined: Mapping[str, str], least: Callable[[Problem], float], limit: float
) -> tuple[list[str], float]:
    """Flags that lower what remains, no more than it takes, and what remains under them."""
    flags: dict[str, str] = {}
    now = least(problem)
    while now > limit:
        tried = {flag: least(_with(problem, flag)) for flag in _options(problem, declined)}
        if not tried or min(tried.values()) >= now:
            break
        enough = [flag for flag, part in tried.items() if part <= limit]
        flag = enough[0] if enough else min(tried, key=lambda each: tried[each])
        problem, now = _with(problem, flag), tried[flag]
        flags[flag.partition(" ")[0]] = flag
    return list(flags.values()), now


def _reasons(declined: Mapping[str, str]) -> str:
    """Reasons, the most frequent first, each with the groups it holds for.

    Reasons that differ in the names of nodes alone count as one; the first is quoted.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, why in declined.items():
        kinds[_NAMES.sub("", why)].append(name)
    frequent = sorted(kinds.values(), key=len, reverse=True)
    clauses = []
    for names in frequent[:_REASONS]:
        more = f" and {len(names) - 1} more" * (len(names) > 1)
        clauses.append(f"{names[0]}{more}: {declined[names[0]]}")
    others = sum(map(len, frequent[_REASONS:]))
    return "; ".join(clauses) + f"; and {plural(others, 'other')}" * bool(others)


def _options(problem: Problem, declined: Mapping[str, str]) -> list[str]:
    """Flags that may lower what remains, the mildest first."""
    limits, flags = problem.limits, []
    if not limits.allow_inexact and any(not group.exact for group in problem.analysis.groups):
        flags.append("--allow-inexact")
    if problem.config.round_to != 1:
        flags.append("--round-to 1")
    flags += [f"--max-ratio {ratio:g}" for ratio in _RATIOS if ratio > limits.max_ratio]
    if limits.skip and any(why.startswith("skipped") for why in declined.values()):
        flags.append("less under --skip")
    if _one_sample(problem) is not None:
        flags.append("--batch 1")
    return flags


def _with(problem: Problem, flag: str) -> Problem:
    """The problem under one more flag."""
    name, _, value = flag.partition(" ")
    if name == "--allow-inexact":
        return replace(problem, limits=replace(problem.limits, allow_inexact=True))
    if name == "--round-to":
        return replace(problem, config=replace(problem.config, round_to=1))
    if name == "--max-ratio":
        ratio = max(float(value), problem.limits.max_ratio)
        return replace(problem, limits=replace(problem.limits, max_ratio=ratio))
    if name == "--batch":
        shapes = _one_sample(problem)
        analysis = analyse(problem.analysis.model, inputs=shapes)
        return replace(problem, analysis=analysis, fit=(), bypassed=())
    return replace(problem, limits=replace(problem.limits, skip=()))


def _one_sample(problem: Problem) -> Mapping[str, tuple[int, ...]] | None:
    """The input shapes of one sample; None where they are no others than those analysed.

    A graph may mix the samples of a batch, or have a batch of one written into it.
    """
    first = next(iter(problem.fit), None)
    inputs = inputs_of(problem.analysis.model)
    if first is None or problem.remaining or inputs.fixed or inputs.count(first) < 2:
        return None
    one = inputs.take(first, slice(0, 1))
    return {name: array.shape for name, array in one.items()}


def _tried(least: Least, problem: Problem, importance: Importance) -> float:
    """What remains under the options of a problem; every unit counts alike."""
    scores = {group.name: np.zeros(len(group)) for group in problem.analysis.groups}
    try:
        return least(problem, replace(importance, scores=scores, curves=Curves({}, {})))
    except OnnxpruneError:  # ratios that were asked for group by group empty an axis
        return float("inf")

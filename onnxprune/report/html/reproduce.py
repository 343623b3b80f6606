"""Reproduce a result: the command line that was run, the recipe, and the environment.

A document holds the command line itself. One that a call from Python made, or an earlier version,
has none; then it is put together from the options, with capitals for what they do not say.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath

import yaml

from onnxprune import quantities as numbers
from onnxprune.errors import MODELS
from onnxprune.jobs.assessed import Assessed
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.recipe import as_flags, placeholder
from onnxprune.jobs.results.schema import Report
from onnxprune.quantities import either
from onnxprune.report import columns
from onnxprune.report.families import Family, stem
from onnxprune.report.html.markup import Markup, code, join, table, tag
from onnxprune.report.tables import tuples
from onnxprune.select.sensitivity import Sensitivity

_PAIRS = tuples("Environment", "", "")


def section(family: Family) -> Markup:
    """Commands and recipes of all runs, and the environment of all measurements."""
    lines = [command(run) for run in family.runs]
    lines += [eval_command(each) for each in family.assessments]
    lines += [bench_command(each) for each in family.benches]
    lines += [sweep_command(each) for each in family.sweeps]
    parts = [_copied("\n".join(dict.fromkeys(lines)))]
    if memory := dict.fromkeys(word for run in family.runs for word in _in_memory(run)):
        words = either(tuple(memory), "and")
        stand = "stands" if len(memory) == 1 else "stand"
        parts.append(tag("p", f"{words} {stand} for what Python code passed in memory."))
    for run in family.runs:
        if run.options and run.command == "prune":
            parts += [tag("h4", _recipe_title(run, several=len(family.runs) > 1))]
            parts += [_copied(recipe(run))]
    made_by = [run.onnxprune for run in family.runs]
    made_by += [each.onnxprune for each in family.assessments]
    made_by += [each.onnxprune for each in family.benches]
    versions = dict.fromkeys(filter(None, made_by))
    parts.append(tag("p", f"Made by onnxprune {', '.join(versions) or 'of unknown version'}."))
    for bench in family.benches:
        parts += [tag("h4", "Measured on"), pairs(asdict(bench.environment))]
        parts += [tag("h4", "Protocol"), pairs(bench.protocol)]
    return join(parts)


def command(run: Report) -> str:
    """The command line of a run; without one, parts that its options do not say in capitals."""
    if run.argv:
        return shlex.join(run.argv)
    words = ["onnxprune", run.command]
    match run.command:
        case "apply":
            words += ["PLAN.json", _model(run)]
        case "recover":
            words += [_model(run), "PRUNED.onnx"]
        case _:
            words += [_model(run)]
    words += [word for flag in flags(run) for word in shlex.split(flag)]
    if run.output:
        words += ["-o", run.output]
    return shlex.join(words)


def _model(run: Report) -> str:
    """The file of the dense model; a graph that was passed in memory has none."""
    name = run.model.name
    return name if PurePath(name).suffix.lower() in MODELS else "MODEL.onnx"


def _in_memory(run: Report) -> list[str]:
    """The words of a command that stand for what was passed in memory."""
    if run.argv:
        return []
    return [str(value) for name, value in run.options.items() if value == placeholder(name)]


def eval_command(document: Assessed) -> str:
    """The command line of an evaluation; without one, the inputs are known in words only."""
    if document.argv:
        return shlex.join(document.argv)
    words = ["onnxprune", "eval", document.model]
    words += ["--against", document.against] if document.against else []
    words += ["--data", "DATA"]
    words += (
        ["--labels", "LABELS", "--metric", document.metric.name] if document.metric.name else []
    )
    return shlex.join(words)


def bench_command(bench: Bench) -> str:
    """The command line of a benchmark."""
    if bench.argv:
        return shlex.join(bench.argv)
    words = ["onnxprune", "bench", *(each.path or each.name for each in bench.models)]
    settings: list[tuple[str, Sequence[object]]] = [
        ("--backend", [row.backend for row in bench.rows]),
        ("--batch", [row.batch for row in bench.rows]),
        ("--threads", [row.threads for row in bench.rows]),
    ]
    for flag, values in settings:
        known = dict.fromkeys(str(each) for each in values if each is not None)
        words += [flag, ",".join(known)] if known else []
    return shlex.join(words)


def sweep_command(sweep: Sensitivity) -> str:
    """The command line of a sweep; without one, the inputs are known in words only."""
    if sweep.argv:
        return shlex.join(sweep.argv)
    ratios = ",".join(f"{ratio:g}" for ratio in sweep.ratios)
    words = ["onnxprune", "sensitivity", sweep.model, "--ratios", ratios, "--calib", "CALIB"]
    return shlex.join(words)


def _recipe_title(run: Report, *, several: bool) -> str:
    """What the recipe of a run is: the contents of its own file, flags included, where it has one.

    Flags override a recipe, so the command line means the same with this recipe in that file.
    """
    words = iter(run.argv)
    files = [each.partition("=")[2] or next(words, "") for each in words if _is_recipe(each)]
    if files:
        return f"{files[-1]}, with the flags above"
    return f"As a recipe, {stem(run.output)}" if several and run.output else "As a recipe"


def _is_recipe(word: str) -> bool:
    return word.partition("=")[0] == "--recipe"


def flags(run: Report, only: Sequence[str] | None = None) -> list[str]:
    """The options of a run as flags, each ready to be pasted into a shell."""
    options = {k: v for k, v in run.options.items() if only is None or k in only}
    return [shlex.join(words) for words in as_flags(options)]


def recipe(run: Report) -> str:
    """The options of a run as a recipe."""
    return yaml.safe_dump(_plain(run.options), sort_keys=False, allow_unicode=True)


def pairs(values: Mapping[str, object]) -> Markup:
    """Names and values; those that are mappings themselves one level deeper."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            for key, inner in value.items():
                rows.append((f"{_words(name)}: {key}", _value(str(key), inner)))
        else:
            rows.append((_words(name), _value(name, value)))
    return table(_PAIRS, rows)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


def _words(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_s").removesuffix("_mhz").replace("_", " ")


def _value(name: str, value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int | float):
        if name.endswith("_bytes"):
            return numbers.size(value)
        if name.endswith("_s"):
            return numbers.measured(float(value), "seconds")
        return columns.clock(value) if name.endswith("_mhz") else f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(name, each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(str(key), each)}" for key, each in value.items())
    return str(value)


def _copied(text: str) -> Markup:
    """Text to copy: a button does so where there are scripts."""
    button = tag("button", "Copy", type="button", class_="copy")
    return tag("div", button, tag("pre", code(text), tabindex="0"), class_="copied")

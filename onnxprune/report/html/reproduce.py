"""Reproduce a result: the command, the recipe, and the environment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import yaml

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.schema import Report
from onnxprune.report import columns
from onnxprune.report.families import Family, stem
from onnxprune.report.html.markup import Markup, code, join, table, tag
from onnxprune.report.tables import tuples
from onnxprune.select.sensitivity import Sensitivity

_OWN = {"cache": "--no-cache"}
"""Options whose flag turns them off."""
_PAIRS = tuples("Environment", "", "")


def section(family: Family) -> Markup:
    """Commands and recipes of all runs, and the environment of all measurements."""
    lines = [command(run) for run in family.runs]
    lines += [bench_command(each) for each in family.benches]
    lines += [sweep_command(each) for each in family.sweeps]
    parts = [_copied("\n".join(dict.fromkeys(lines)))]
    for run in family.runs:
        if run.options and run.command == "prune":
            what = f", {stem(run.output)}" if len(family.runs) > 1 and run.output else ""
            parts += [tag("h4", f"As a recipe{what}"), _copied(recipe(run))]
    made_by = [run.onnxprune for run in family.runs]
    made_by += [each.onnxprune for each in family.benches]
    versions = dict.fromkeys(filter(None, made_by))
    parts.append(tag("p", f"Made by onnxprune {', '.join(versions) or 'of unknown version'}."))
    for bench in family.benches:
        parts += [tag("h4", "Measured on"), pairs(asdict(bench.environment))]
        parts += [tag("h4", "Protocol"), pairs(bench.protocol)]
    return join(parts)


def command(run: Report) -> str:
    """The command line of a run; parts that the report does not hold are in capitals."""
    words = ["onnxprune", run.command]
    match run.command:
        case "apply":
            words += ["PLAN.json", run.model.name]
        case "recover":
            words += [run.model.name, "PRUNED.onnx"]
        case _:
            words += [run.model.name]
    words += [word for flag in flags(run) for word in shlex.split(flag)]
    if run.output:
        words += ["-o", run.output]
    return shlex.join(words)


def bench_command(bench: Bench) -> str:
    """The command line of a benchmark."""
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
    """The command line of a sensitivity sweep; its JSON describes the inputs in words only."""
    ratios = ",".join(f"{ratio:g}" for ratio in sweep.ratios)
    words = ["onnxprune", "sensitivity", sweep.model, "--ratios", ratios, "--calib", "CALIB"]
    return shlex.join(words)


def flags(run: Report, only: Sequence[str] | None = None) -> list[str]:
    """The options of a run as flags, each ready to be pasted into a shell."""
    words: list[str] = []
    for name, value in run.options.items():
        if only is not None and name not in only:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else _OWN.get(name, f"--{name} false"))
        elif isinstance(value, Mapping):
            words += [_flag(name, f"{key}={_text(each)}") for key, each in value.items()]
        elif isinstance(value, list | tuple):
            words += [_flag(name, str(each)) for each in value]
        else:
            words.append(_flag(name, _text(value)))
    return words


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


def _flag(name: str, value: str) -> str:
    return f"--{name} {shlex.quote(value)}"


def _text(value: object) -> str:
    if isinstance(value, list | tuple):  # a shape
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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

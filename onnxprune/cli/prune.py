"""``onnxprune prune``: remove what costs least, check it, and write it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from onnxprune.cli import console, destination
from onnxprune.cli.parser import (
    Commands,
    add_command,
    add_model,
    add_options,
    add_output,
    given_options,
)
from onnxprune.cli.report import PAGE, save
from onnxprune.cli.writing import Written, write_sound
from onnxprune.config import AMOUNTS, NO_AMOUNT, Options, current_name, declared, from_flags
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import recipe
from onnxprune.types import NOTHING_REMOVED

if TYPE_CHECKING:
    from onnxprune.jobs.result import Result
    from onnxprune.jobs.results.schema import Command
    from onnxprune.types import Check, Quality

_EXAMPLE = """examples:
  onnxprune prune model.onnx --ratio 0.3
  onnxprune prune model.onnx --target macs=50% --calib images.npz -o small.onnx
  onnxprune prune model.onnx --target latency=0.5x@cpu --calib images.npz -o fast.onnx
  onnxprune prune model.onnx --sparsity 2:4 --permute --calib images.npz -o sparse.onnx
  onnxprune prune model.onnx --max-drop 1% --calib images.npz --labels images.npz -o small.onnx
  onnxprune prune model.onnx --recipe recipe.yaml -o small.onnx"""

_FILES = (
    ("--recipe", "YAML", "read options from a file; flags override them"),
    ("--save-recipe", "YAML", "write the options of this run"),
    ("--save-plan", "PATH", "write the plan, for `onnxprune apply`"),
    ("--save-mask", "PATH", "write the zeros of OUT, for `onnxprune apply` to its checkpoints"),
    PAGE,
)


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "remove channels, heads and blocks; without -o, show what would be removed"
    parser = add_command(commands, "prune", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add_output(parser, required=False)
    add_options(parser, "prune", _FILES)


def run(args: argparse.Namespace) -> int:
    """Prune, print the report, and write the model if every check passed.

    Raises:
        OnnxpruneError: the options, the model or the data cannot be used.
    """
    config, origins = _options(args)
    files: dict[str, object] = {
        "the model": args.model,
        "--recipe": args.recipe,
        "--calib": config.calib,
        "--labels": config.labels,
        "--eval": config.eval,
        "--eval-labels": config.eval_labels,
        "--sensitivity": config.sensitivity,
        "--tokenizer": config.tokenizer,
        **{f"--vocab {each}": each.value for each in config.vocab},
        **{f"--keep-outputs {each}": each.labels for each in config.keep_outputs},
    }
    files["-o"] = output = destination.check("-o", args.output, files, "model")
    files["--save-plan"] = plan = destination.check("--save-plan", args.save_plan, files, "plan")
    files["--save-mask"] = mask = destination.check("--save-mask", args.save_mask, files, "plan")
    files["--save-recipe"] = flags = destination.check(
        "--save-recipe", args.save_recipe, files, "recipe"
    )
    page = destination.check("--report", args.report, files, "page")
    if config.tokenizer is not None and output is not None and not config.keep_ids:
        from onnxprune.jobs.interface.kept_ids import refuse_same_folder

        place = Path(config.tokenizer)
        if place.exists():  # else it is refused as missing
            refuse_same_folder(place if place.is_dir() else place.parent, output)
    if mask and config.sparsity is None:
        raise OnnxpruneError(
            "--save-mask has nothing to write: no sparsity is requested",
            hint="add --sparsity 50%; what a cut removes is in the plan (--save-plan)",
        )

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.graph.plan import save_plan
    from onnxprune.jobs.mask import of
    from onnxprune.jobs.prune import prune

    with console.progress() as progress:
        with recipe.naming_lines(origins):
            pruned = prune(args.model, config, progress=progress)
        written, ok, keep = write_sound(pruned, output, progress, force=args.force)
        if keep and plan:
            save_plan(pruned.plan, plan)
        if keep and mask:
            save_plan(of(pruned.plan), mask)
        if keep and flags:
            recipe.write(config, flags)
    return conclude(args, "prune", pruned, written, output, page, ok=ok, keep=keep)


def conclude(
    args: argparse.Namespace,
    command: Command,
    run: Result,
    written: Written | None,
    output: Path | None,
    page: Path | None,
    *,
    ok: bool,
    keep: bool,
) -> int:
    """Report on a run of ``prune``, ``apply`` or ``recover``, and turn it into an exit code.

    Args:
        args: the command line.
        command: its command.
        run: the result.
        written: its file, if there is one.
        output: where it was to be.
        page: where the page of ``--report`` goes.
        ok: whether the result and its file are as they should be.
        keep: whether the result is kept.

    Raises:
        OnnxpruneError: a check failed or the result is broken, so nothing was written.
    """
    from onnxprune.jobs.results import gather

    report = gather.result(command, run, output if keep else None)
    if written:
        report = written.add_to(report)
    report = replace(report, argv=args.argv)
    console.report(report, as_json=args.json, verbose=args.verbose)
    save(report, page)
    return finish(
        ok=ok,
        wrote=keep,
        output=output,
        removed=all(check.ok or check.name != NOTHING_REMOVED for check in run.checks),
        quality=run.quality,
        accepted=run.config.max_drop is not None,
        advice=run.advice,
        checks=(*run.checks, *(written.checks if written else ())),
        measure=run.evaluation.measure,
    )


def finish(
    *,
    ok: bool,
    wrote: bool,
    output: Path | None,
    removed: bool = True,
    quality: Quality | None = None,
    accepted: bool = False,
    quantized: bool = False,
    advice: str = "",
    checks: Iterable[Check] = (),
    measure: str = "",
) -> int:
    """Print what was written and why, and turn the verdicts into an exit code.

    Args:
        ok: whether every check passed and the result is not broken.
        wrote: whether the result was kept.
        output: the file, if one was to be written.
        removed: whether anything was removed, where something was to be.
        quality: the verdict on it; None where only its structure matters.
        accepted: whether a limit of the drop was set, which then decides about a degraded result.
        quantized: whether it is an int8 model.
        advice: what helps where nothing was removed, or there is no verdict on quality.
        checks: of the result; the first that failed is named.
        measure: what a limited drop is of.

    Raises:
        OnnxpruneError: a check failed or the result is broken, so nothing was written.
    """
    failure = _first_failure(checks, measure) if removed else "nothing was removed"
    hint = advice or "see the notes on what stays and why"
    if removed and quality is not None:
        from onnxprune.jobs.verdicts import remedy

        hint = remedy(quality, quantized=quantized)
    if removed and quality is not None and quality.broken:
        failure = f"the result is broken ({quality.reasons[0]})"
    elif quality is not None and quality.status == "degraded" and not accepted and wrote:
        console.warning(f"the result is degraded: {quality.reasons[0]}")
    if not wrote:
        raise OnnxpruneError(
            f"{failure}, so nothing was written",
            hint=f"{hint}{'; ' if advice else ', '}or write it all the same with --force",
            exit_code=1,
        )
    if output is None:
        console.done("Dry run: no model was written. Add -o OUT.onnx to write it.")
    else:
        console.wrote(output)
    if not ok:
        console.warning(f"{failure}; the model was written because of --force")
    return 0 if ok else 1


def _first_failure(checks: Iterable[Check], measure: str) -> str:
    """The check that failed, with its value and its limit."""
    from onnxprune.quantities import figure, spread, unit_of

    for check in checks:
        if not check.ok:
            values = [check.value, check.limit]
            if check.name == "drop" and measure:
                value, limit = (spread(each, unit_of(measure)) for each in values)
            else:
                value, limit = map(figure, values)
            return f"a check failed: {check.name} is {value}, and the limit is {limit}"
    return "a check failed"


def _options(args: argparse.Namespace) -> tuple[Options, dict[str, str]]:
    """The options of a run, and where those of a recipe are written."""
    flags = given_options(args, "prune")
    replaced = set(flags)
    if replaced & {"ratio", "target"}:  # one amount replaces the other, not only itself
        replaced |= {"ratio", "target"}
    options = declared(Options)
    replaced = {current_name(options, name, None) for name in replaced}
    base = recipe.Recipe() if args.recipe is None else recipe.read(Path(args.recipe))
    kept = {
        name: value
        for name, value in base.values.items()
        if current_name(options, name, None) not in replaced
    }
    origins = {name: base.origins[name] for name in kept}
    config = from_flags(kept | flags, origins)
    if config.asks_for_nothing and not config.searches:
        refuse_nothing(config, args.recipe)
    return config, origins


def refuse_nothing(config: Options, path: str | None) -> NoReturn:
    """Raise what says that no amount is given.

    Args:
        config: the options, without an amount.
        path: the recipe; None without.

    Raises:
        OnnxpruneError: always.
    """
    message, hint = NO_AMOUNT, AMOUNTS
    zero = [name for name in ("ratio", "heads", "blocks") if name in config.written]
    if zero:
        message = f"{' and '.join(f'--{name} 0' for name in zero)} removes nothing"
    elif path is not None:
        empty = "is empty" if not config.written else "does not say how much to remove"
        message = f"the recipe {path} {empty}"
        hint = "add a line such as `target: macs=50%`, `ratio: 0.3` or `sparsity: 2:4` to it"
    raise OnnxpruneError(message, hint=hint)

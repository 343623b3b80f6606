"""``onnxprune prune``: remove what costs least, check it, and write it."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxprune.cli import console, destination
from onnxprune.cli.parser import (
    Commands,
    Parser,
    add_command,
    add_data,
    add_form,
    add_model,
    add_output,
    given_options,
)
from onnxprune.cli.report import add_page, save
from onnxprune.cli.writing import write
from onnxprune.config import Options, from_flags
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import recipe

_EXAMPLE = """examples:
  onnxprune prune model.onnx --ratio 0.3
  onnxprune prune model.onnx --target macs=50% --calib images.npz -o small.onnx
  onnxprune prune model.onnx --target latency=0.5x@cpu --calib images.npz -o fast.onnx
  onnxprune prune model.onnx --sparsity 2:4 --permute --calib images.npz -o sparse.onnx
  onnxprune prune model.onnx --max-drop 1% --calib images.npz --labels images.npz -o small.onnx
  onnxprune prune model.onnx --recipe recipe.yaml -o small.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "remove channels, heads and blocks; without -o, show what would be removed"
    parser = add_command(commands, "prune", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add_output(parser, required=False)
    _add_amounts(parser)
    _add_choice(parser)
    add_data(parser)
    files = parser.add_argument_group("files")
    files.add_argument("--recipe", metavar="YAML", help="flags from a file; others override it")
    files.add_argument("--save-recipe", metavar="YAML", help="write the flags of this run")
    files.add_argument("--save-plan", metavar="PATH", help="write the plan, for `onnxprune apply`")
    files.add_argument(
        "--save-mask", metavar="PATH", help="write the zeros of OUT, to apply to its checkpoints"
    )
    add_page(files)
    add_form(files)
    files.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="do not keep damage curves for the next run, nor take any",
    )


def run(given: argparse.Namespace) -> int:
    """Prune, print what was done and found, and write the model if it is good.

    Raises:
        OnnxpruneError: the options, the model or the data cannot be used.
    """
    asked = _options(given)
    files: dict[str, object] = {
        "the model": given.model,
        "--recipe": given.recipe,
        "--calib": asked.calib,
        "--labels": asked.labels,
        "--sensitivity": asked.sensitivity,
    }
    files["-o"] = output = destination.check("-o", given.output, files)
    files["--save-plan"] = plan = destination.check("--save-plan", given.save_plan, files)
    files["--save-mask"] = mask = destination.check("--save-mask", given.save_mask, files)
    files["--save-recipe"] = flags = destination.check("--save-recipe", given.save_recipe, files)
    page = destination.check("--report", given.report, files)
    if mask and asked.sparsity is None:
        raise OnnxpruneError(
            "--save-mask has nothing to write: no single weights are asked to be zeroed",
            hint="add --sparsity 50%; what a cut removes is in the plan (--save-plan)",
        )

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.graph.plan import save_plan
    from onnxprune.jobs.mask import of
    from onnxprune.jobs.prune import prune
    from onnxprune.jobs.results import gather

    with console.progress() as tell:
        pruned = prune(given.model, asked, tell=tell)
        wanted = pruned.ok or given.force
        written = write(pruned, output, tell, force=given.force) if wanted and output else None
        ok = pruned.ok and (written is None or written.ok)
        wanted = ok or given.force
        if wanted and plan:
            save_plan(pruned.plan, plan)
        if wanted and mask:
            save_plan(of(pruned.plan), mask)
        if wanted and flags:
            recipe.write(asked, flags)
    made = gather.result("prune", pruned, output if wanted else None)
    told = written.told(made) if written else made
    console.report(told, as_json=given.json, verbose=given.verbose)
    save(told, page)
    return finish(ok=ok, wrote=wanted, output=output)


def finish(*, ok: bool, wrote: bool, output: Path | None) -> int:
    """Say what was written and why, and turn the verdict into an exit code.

    Raises:
        OnnxpruneError: the verdict is bad and so nothing was written.
    """
    if not wrote:
        raise OnnxpruneError(
            "a check is bad, so nothing was written",
            hint="remove less, give --calib, or write it all the same with --force",
            exit_code=1,
        )
    if output is None:
        console.done("Dry run: no model was written. Add -o OUT.onnx to write it.")
    else:
        console.done(f"Wrote {output}")
    if not ok:
        console.warning("a check is bad; this was written because of --force")
    return 0 if ok else 1


def _options(given: argparse.Namespace) -> Options:
    flags = given_options(given)
    told = set(flags)
    if told & {"ratio", "target"}:  # one amount replaces the other, not only itself
        told |= {"ratio", "target"}
    base = recipe.read(Path(given.recipe)) if given.recipe else {}
    kept = {name: value for name, value in base.items() if name.replace("-", "_") not in told}
    asked = from_flags(kept | flags)
    if asked.asks_for_nothing and not asked.searches:
        raise OnnxpruneError(
            "nothing says how much to remove",
            hint="add --ratio 0.3, --target macs=50%, --heads 0.25, --blocks 1 or --sparsity 2:4; "
            "or --max-drop 1%, which finds out",
        )
    return asked


def _add_amounts(parser: Parser) -> None:
    group = parser.add_argument_group("how much to remove")
    add = group.add_argument
    add("--ratio", metavar="R", help="this part of every group, as in 0.3 or 30%%")
    add(
        "--target",
        metavar="BUDGET",
        help="what may be left: macs=50%%, params=1.2M, bytes=4MiB, latency=0.5x@cpu, "
        "latency=5ms@openvino",
    )
    add("--threads", metavar="N", help="that a latency is measured with; the backend's choice")
    add("--heads", metavar="R", help="this part of all attention heads (see --allocation)")
    add("--blocks", metavar="N", help="bypass this many residual blocks")
    add(
        "--max-blocks", metavar="N", help="how many --target may bypass with --calib (any; 0: none)"
    )
    add("--sparsity", metavar="S", help="zero single weights too: 50%%, or 2:4 (2 of 4 stay)")
    add("--ratios", metavar="GLOB=R", action="append", help="this part of what matches")
    add(
        "--smallest",
        metavar="WHAT",
        help="what --max-drop alone makes small: macs, params, bytes, latency@cpu (macs)",
    )
    add("--max-ratio", metavar="R", help="never more than this of one group (0.8)")
    add("--steps", metavar="N", help="in N steps, with recovery and new measurements in between")
    add("--schedule", metavar="HOW", help="of --steps: linear, or cubic (most at first; default)")


def _add_choice(parser: Parser) -> None:
    group = parser.add_argument_group("what to remove")
    add = group.add_argument
    add(
        "--skip",
        metavar="GLOB",
        action="append",
        help="leave what matches alone: groups, blocks, weights",
    )
    add(
        "--skip-small",
        metavar="N",
        nargs="?",
        const="256",
        help="--sparsity leaves layers with fewer inputs or outputs than N (256) alone",
    )
    add("--skip-first", metavar="N", help="--sparsity leaves the first N layers alone")
    add("--skip-last", metavar="N", help="--sparsity leaves the last N layers alone")
    add("--tied", action="store_true", help="N:M thins tables that are looked up too (embeddings)")
    add(
        "--sensitivity",
        metavar="FILE",
        help="meet --target by what `onnxprune sensitivity --json` measured",
    )
    add("--criterion", metavar="NAME", help="how units are scored, as in l1, bn-scale or wanda")
    add(
        "--allocation",
        metavar="HOW",
        help="uniform: the same part of every group; global: where it hurts least, which is the "
        "default of --target, and of --heads and --ratios with --calib",
    )
    add("--sparse-method", metavar="HOW", help="magnitude, wanda, ria, sparsegpt or admm")
    add(
        "--sparse-allocation",
        metavar="HOW",
        help="per-tensor, per-row, global, curves, sensitivity",
    )
    add("--permute", action="store_true", help="reorder channels so that N:M costs less")
    add("--round-to", metavar="N", help="keep multiples of N; auto: what is fast on the provider")
    add(
        "--allow-inexact",
        action="store_true",
        help="also units that normalisations average over: not provable",
    )

"""Kill every job that writes at random moments, and look at what is left.

    python -m bench.kills --count 200

Each job runs in a copy of this process and is killed (SIGKILL; every fourth time SIGTERM) at a
random moment: half of the times anywhere in its run, half while its temporary files are there. The
folder holds the outputs of an earlier run of the same job. Afterwards every output has to be that
of one run, whole; after the next write in the folder, and in the one for temporary files, nothing
else is left. Results go to bench/results/kills.json.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import load
from onnxprune.cli import main as command_line
from onnxprune.data import zoo
from onnxprune.graph.plan import load_plan
from onnxprune.model.files import ScratchFolder, write
from onnxprune.model.seal import document_path, hash_data, read_seal

RESULTS = Path(__file__).parent / "results" / "kills.json"
ENTRY = zoo.get("digits_mlp")
DENSE, CALIB = str(ENTRY.model), str(ENTRY.calibration)
DATA = ["--calib", CALIB, "--calib-samples", "64"]
ENDS = {".html": "</html>", ".svg": "</svg>"}
ENGINES: set[int] = set()
"""Sizes of whole engines, which only a GPU could read."""
LONGEST = 120.0
"""Seconds that a job may take."""


@dataclass(frozen=True)
class Job:
    """A command, and another one that writes the same files.

    Attributes:
        now: arguments; ``{}`` is the folder.
        before: arguments of the earlier run.
    """

    now: Sequence[str]
    before: Sequence[str]


def _pair(command: str, one: str, two: str, rest: str = "") -> Job:
    return Job(*(f"{command} {each} {rest}".split() for each in (one, two)))


DATA_TEXT = " ".join(DATA)
JOBS = {
    "prune": _pair(f"prune {DENSE} -o {{}}/m.onnx", "--ratio 0.5", "--ratio 0.3"),
    "prune with data": _pair(
        f"prune {DENSE} -o {{}}/m.onnx {DATA_TEXT}", "--ratio 0.5", "--ratio 0.3"
    ),
    "prune, weights beside": _pair(
        f"prune {DENSE} -o {{}}/m.onnx --store external", "--ratio 0.5", "--ratio 0.3"
    ),
    "prune, all files": _pair(
        f"prune {DENSE} -o {{}}/m.onnx --save-plan {{}}/plan.json --save-mask {{}}/mask.json "
        "--save-recipe {}/recipe.yaml --report {}/page.html",
        "--sparsity 50%",
        "--sparsity 70%",
    ),
    "apply": _pair("apply", "{}/../a.json", "{}/../b.json", f"{DENSE} -o {{}}/m.onnx"),
    "recover": _pair(
        f"recover {DENSE}", "{}/../a.onnx", "{}/../b.onnx", f"-o {{}}/m.onnx {DATA_TEXT}"
    ),
    "quantize": _pair("quantize", DENSE, "{}/../a.onnx", "--dynamic -o {}/m.onnx"),
    "store, packed": _pair("store", DENSE, "{}/../a.onnx", "--store packed --always -o {}/m.onnx"),
    "store, beside": _pair("store", DENSE, "{}/../a.onnx", "--store external -o {}/m.onnx"),
    "densify, beside": _pair("densify", DENSE, "{}/../a.onnx", "--external -o {}/m.onnx"),
    "mask": _pair("mask", "{}/../c.onnx", "{}/../d.onnx", "-o {}/mask.json"),
    "sensitivity": _pair(
        f"sensitivity {DENSE} -o {{}}/figure.svg {DATA_TEXT}", "--ratios 0.5", "--ratios 0.3"
    ),
    "report": _pair("report", "{}/../a.run.json", "{}/../b.run.json", "-o {}/page.html"),
    "demo": Job("demo --copy {}/copy".split(), "--version".split()),
}
if importlib.util.find_spec("tensorrt_rtx"):
    JOBS["build"] = _pair(
        f"build {DENSE} --engine {{}}/m.engine --keep-onnx {{}}/m.onnx --compute-capability 8.6",
        "--shapes image=1x1x16x16 --precision fp16",
        "--shapes image=4x1x16x16",
    )


def fork(action: Callable[[], int]) -> int:
    """Run in a copy of this process, silently; its process id."""
    child = os.fork()
    if child:
        return child
    with open(os.devnull, "w") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            os._exit(int(action() or 0))
        except BaseException:  # noqa: BLE001
            os._exit(3)


def run(arguments: Sequence[str], folder: Path) -> int:
    """Start a command; its process id."""
    filled = [each.replace("{}", str(folder)) for each in arguments]
    return fork(lambda: command_line(filled))


def finish(child: int) -> int:
    """Wait for a process; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


IMPORTS = (
    *("onnxruntime", "onnxruntime.quantization", "rich.console", "rich.table", "scipy.linalg"),
    *(f"onnxprune.jobs.{name}" for name in ("prune", "recover", "quantize", "store", "mask")),
    *("onnxprune.jobs.results.gather", "onnxprune.jobs.sensitivity.run", "onnxprune.report.plots"),
    *("onnxprune.report.html.page", "onnxprune.report.terminal"),
)
"""What jobs import: once here rather than in every copy of this process."""


def prepare(work: Path) -> None:
    """The files that jobs read."""
    for name in IMPORTS:
        importlib.import_module(name)
    commands = [
        f"prune {DENSE} --ratio 0.5 -o {{}}/a.onnx --save-plan {{}}/a.json",
        f"prune {DENSE} --ratio 0.3 -o {{}}/b.onnx --save-plan {{}}/b.json",
        f"prune {DENSE} --sparsity 50% -o {{}}/c.onnx",
        f"prune {DENSE} --sparsity 70% -o {{}}/d.onnx",
    ]
    children = [run(command.split(), work) for command in commands]
    assert [finish(child) for child in children] == [0] * len(commands)
    for name, ratio in (("a.run", "0.5"), ("b.run", "0.3")):
        place = work / f"{name}.json"

        def document(place: Path = place, ratio: str = ratio) -> int:
            with place.open("w") as file:
                os.dup2(file.fileno(), 1)
                return command_line(["prune", DENSE, "--ratio", ratio, "--json"])

        assert finish(fork(document)) == 0


def faults(folder: Path) -> list[str]:
    """What is damaged or mixed among the files of a folder."""
    wrong = []
    for path in folder.rglob("*"):
        try:
            fault = _fault(path)
        except Exception as error:  # noqa: BLE001
            fault = repr(error)
        if fault:
            wrong.append(f"{path.name}: {fault}")
    return wrong


def _fault(path: Path) -> str:
    if path.name.startswith(".onnxprune-") or path.is_dir():
        return ""
    if path.suffix == ".onnx":
        load(path)
        seal = read_seal(path)
        if seal.text is None:
            return "" if not document_path(path).exists() else "a certificate of another file"
        text = json.loads(seal.text)
        data = hash_data(path, text["data"])
        right = (text["graph"], text["data"]) == (seal.digests.graph, data)
        return "" if right else "not as written"
    if path.name.endswith(".certificate.json"):
        model = path.with_name(path.name.replace(".certificate.json", ".onnx"))
        graph = json.loads(path.read_bytes())["model"]["graph"]
        return "" if read_seal(model).digests.graph == graph else "of another model"
    if path.name in ("plan.json", "mask.json"):
        load_plan(path)
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    else:
        return "" if _is_whole(path) else "cut off"
    return ""


def _is_whole(path: Path) -> bool:
    """Whether a file ends as files of its kind do."""
    match path.suffix:
        case ".html" | ".svg":
            return path.read_text().rstrip().endswith(ENDS[path.suffix])
        case ".engine":
            return path.stat().st_size in ENGINES
        case ".yaml":
            return path.read_text().endswith("\n")
        case ".npz":
            return path.read_bytes()[-22:-18] == b"PK\5\6"
    return True


def strays(folder: Path) -> list[str]:
    """Temporary files, and data that no model or plan names."""
    texts = [
        path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".onnx", ".json") and path.is_file()
    ]
    return [
        path.name
        for path in folder.rglob("*")
        if path.name.startswith(".onnxprune-")
        or (
            path.suffix in (".data", ".safetensors")
            and not any(path.name.encode() in text for text in texts)
        )
    ]


def kill(job: Job, work: Path, earlier: Path, rng: random.Random, length: float) -> dict[str, Any]:
    """Run a job over the files of an earlier one, kill it once, and say what is left."""
    folder = Path(tempfile.mkdtemp(dir=work))
    shutil.copytree(earlier, folder, dirs_exist_ok=True)
    term = rng.random() < 0.25
    child = run(job.now, folder)
    started = time.monotonic()
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 1.1 * length))
    else:  # once it writes
        while time.monotonic() - started < LONGEST:
            if any(each.name.startswith(".onnxprune-") for each in folder.iterdir()):
                break
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.0005)  # the job has the processor
        time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGTERM if term else signal.SIGKILL)
    code = finish(child)
    result: dict[str, Any] = {"exit": code, "damaged": faults(folder)}
    if term:
        result["left by SIGTERM"] = strays(folder)
    write(folder / "next", "a run")
    if (folder / "copy").exists():
        write(folder / "copy" / "next", "a run")
    with ScratchFolder():
        pass
    result["damaged"] += faults(folder)
    result["strays"] = strays(folder) + strays(Path(tempfile.gettempdir()))
    shutil.rmtree(folder)
    return result


def measure(count: int, seed: int) -> dict[str, Any]:
    """Kill jobs ``count`` times, each about as often."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as top:
        scratch = Path(top) / "tmp"
        scratch.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        os.environ["ONNXPRUNE_CACHE"] = str(Path(top) / "cache")
        work = Path(top) / "work"
        work.mkdir()
        prepare(work)
        names = list(JOBS)
        rng.shuffle(names)
        lengths: dict[str, float] = {}
        folders: dict[str, Path] = {}
        for number in range(count):
            name = names[number % len(names)]
            if name not in lengths:
                folder = Path(tempfile.mkdtemp(dir=work))
                started = time.monotonic()
                code = finish(run(JOBS[name].now, folder))
                lengths[name] = time.monotonic() - started
                assert code == 0, f"{name} ends with {code} by itself"
                earlier = work / f"earlier {len(lengths)}"
                earlier.mkdir()
                assert finish(run(JOBS[name].before, earlier)) == 0
                for place in (folder, earlier):
                    ENGINES.update(each.stat().st_size for each in place.glob("*.engine"))
                    assert not faults(place), faults(place)
                folders[name] = earlier
            row = rows.setdefault(
                name, {"kills": 0, "midway": 0, "damaged": [], "strays": [], "left by SIGTERM": []}
            )
            result = kill(JOBS[name], work, folders[name], rng, lengths[name])
            row["kills"] += 1
            row["midway"] += result["exit"] != 0
            row["damaged"] += result["damaged"]
            row["strays"] += result["strays"]
            row["left by SIGTERM"] += result.get("left by SIGTERM", [])
    return {"seed": seed, "kills": count, "jobs": rows}


def main() -> None:
    """Kill, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    report = measure(args.count, args.seed)
    write(args.results, json.dumps(report, indent=1) + "\n")
    bad = sum(len(row["damaged"] + row["strays"]) for row in report["jobs"].values())
    print(f"{args.count} kills, {bad} damaged files or leftovers")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()

"""Command lines with something wrong in each, and the files that they name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import onnxprune
from onnxprune.cli import main
from onnxprune.data import zoo
from onnxprune.graph.plan import save_plan

ENCODINGS = ("utf-8", "ascii", "cp1252")
EVIL = "\x1b[31m\u202eevil\r\x9b"

LINES = r"""
nonsense
prunee model.onnx
--nonsense
prune
prune model.onnx
prune model.onnx extra --ratio 0.3
prune model.onnx --ratio
prune model.onnx --ratio 30
prune model.onnx --ratio -0.1
prune model.onnx --ratio nan
prune model.onnx --ratio 0.3 --ratoi 0.3
prune model.onnx --target
prune model.onnx --target 50%
prune model.onnx --target macs
prune model.onnx --target macs=0%
prune model.onnx --target macs=200%
prune model.onnx --target speed=50%
prune model.onnx --target latency=0.5x@abacus
prune model.onnx --target macs=50% --ratio 0.3
prune model.onnx --ratio 0.3 --heads 50%
prune model.onnx --heads 50%
prune model.onnx --blocks 99
prune model.onnx --blocks -1
prune model.onnx --sparsity 2:1
prune model.onnx --sparsity 120%
prune model.onnx --sparsity 4:2:1
prune model.onnx --sparsity 2:4 --skip-first 99
prune model.onnx --ratio 0.3 --criterion wanda
prune model.onnx --ratio 0.3 --criterion wandda
prune model.onnx --ratio 0.3 --allocation greedy
prune model.onnx --ratio 0.3 --skip nowhere*
prune model.onnx --ratio 0.3 --ratios nowhere*=0.1
prune model.onnx --ratio 0.3 --ratios x
prune model.onnx --ratio 0.3 --steps 0
prune model.onnx --ratio 0.3 --seed x
prune model.onnx --ratio 0.3 --seed 1.5
prune model.onnx --ratio 0.3 --memory lots
prune model.onnx --ratio 0.3 --memory 1KB --calib calib.npz
prune model.onnx --ratio 0.3 --batch 0 --calib calib.npz
prune model.onnx --ratio 0.3 --round-to 0
prune model.onnx --ratio 0.3 --backend abacus
prune model.onnx --ratio 0.3 --backend cpu,openvino
prune model.onnx --ratio 0.3 --shapes image=0x3
prune model.onnx --ratio 0.3 --shapes nowhere=1x16
prune model.onnx --ratio 0.3 --recover magic
prune model.onnx --ratio 0.3 --store nowhere
prune model.onnx --ratio 0.3 --calib missing.npz
prune model.onnx --ratio 0.3 --calib folder
prune model.onnx --ratio 0.3 --calib empty.npz
prune model.onnx --ratio 0.3 --calib text.npz
prune model.onnx --ratio 0.3 --calib array.npz
prune model.onnx --ratio 0.3 --calib archive.npy
prune model.onnx --ratio 0.3 --calib names.npz
prune model.onnx --ratio 0.3 --calib shape.npz
prune model.onnx --ratio 0.3 --calib words.npz
prune model.onnx --ratio 0.3 --calib none.npz
prune model.onnx --ratio 0.3 --calib objects.npz
prune model.onnx --ratio 0.3 --calib model.onnx
prune model.onnx --ratio 0.3 --calib cut.npz
prune model.onnx --ratio 0.3 --calib huge.npy
prune model.onnx --ratio 0.3 --calib bad.json
prune model.onnx --ratio 0.3 --calib deep.json
prune model.onnx --ratio 0.3 --calib functions.py
prune model.onnx --ratio 0.3 --calib functions.py:absent
prune model.onnx --ratio 0.3 --calib functions.py:fails
prune model.onnx --ratio 0.3 --calib functions.py:number
prune model.onnx --ratio 0.3 --calib functions.py:nothing
prune model.onnx --ratio 0.3 --calib nan.npz
prune model.onnx --ratio 0.3 --calib picture.png
prune model.onnx --ratio 0.3 --calib calib.npz --labels short.npy
prune model.onnx --ratio 0.3 --calib calib.npz --labels missing.npy
prune model.onnx --ratio 0.3 --calib calib.npz --labels folder
prune model.onnx --ratio 0.3 --calib calib.npz --labels names.npz
prune model.onnx --ratio 0.3 --calib calib.npz --labels text.txt
prune model.onnx --ratio 0.3 --calib calib.npz --labels large.npy
prune model.onnx --ratio 0.3 --calib calib.npz --labels nul.csv
prune model.onnx --ratio 0.3 --calib calib.npz --labels labels.npy --metric nonsense
prune model.onnx --ratio 0.3 --calib calib.npz --labels labels.npy --metric wer
prune model.onnx --ratio 0.3 --calib calib.npz --preprocess imagenett
prune model.onnx --ratio 0.3 --calib calib.npz --eval missing.npz
prune model.onnx --ratio 0.3 --calib calib.npz --slices short.npy --eval calib.npz
prune model.onnx --max-drop 1%
prune model.onnx --max-drop 200% --calib calib.npz --labels labels.npy
prune model.onnx --ratio 0.3 --sensitivity missing.json
prune model.onnx --target macs=50% --sensitivity deep.json
prune model.onnx --target macs=50% --sensitivity plan.json
prune model.onnx --recipe missing.yaml
prune model.onnx --recipe folder
prune model.onnx --recipe empty.yaml
prune model.onnx --recipe list.yaml
prune model.onnx --recipe typo.yaml
prune model.onnx --recipe twice.yaml
prune model.onnx --recipe wrong.yaml
prune model.onnx --recipe laughs.yaml
prune model.onnx --recipe binary.yaml
prune model.onnx --recipe model.onnx
prune model.onnx --ratio 0.3 -o model.onnx
prune model.onnx --ratio 0.3 -o link.onnx
prune model.onnx --ratio 0.3 -o folder
prune model.onnx --ratio 0.3 -o nowhere/out.onnx
prune model.onnx --ratio 0.3 -o model.onnx/out.onnx
prune model.onnx --ratio 0.3 -o out.txt
prune model.onnx --ratio 0.3 -o out
prune model.onnx --ratio 0.3 -o pipe.onnx
prune model.onnx --ratio 0.3 -o loop.onnx
prune model.onnx --ratio 0.3 -o /proc/out.onnx
prune model.onnx --ratio 0.3 -o /dev/full
prune model.onnx --ratio 0.3 -o LONG.onnx
prune model.onnx --ratio 0.3 -o out.onnx --save-plan out.onnx
prune model.onnx --ratio 0.3 -o out.onnx --save-plan plan.onnx
prune model.onnx --ratio 0.3 --save-plan model.onnx
prune model.onnx --ratio 0.3 --save-plan LONG.json
prune model.onnx --ratio 0.3 --save-recipe folder
prune model.onnx --ratio 0.3 --save-mask mask.json
prune model.onnx --ratio 0.3 --report page.png
prune model.onnx --ratio 0.3 --report nowhere/page.html
prune model.onnx --ratio 0.3 --report LONG.html
prune '' --ratio 0.3
prune EVIL.onnx --ratio 0.3
prune ünïcödé中.onnx --ratio 0.3
prune missing.onnx --ratio 0.3
prune folder --ratio 0.3
prune folder.onnx --ratio 0.3
prune empty.onnx --ratio 0.3
prune text.onnx --ratio 0.3
prune noise.onnx --ratio 0.3
prune cut.onnx --ratio 0.3
prune alone.onnx --ratio 0.3
prune loop.onnx --ratio 0.3
prune dangling.onnx --ratio 0.3
prune pipe.onnx --ratio 0.3
prune calib.npz --ratio 0.3
prune LONG.onnx --ratio 0.3
prune int8.onnx --sparsity 2:4 --calib missing.npz
inspect
inspect missing.onnx
inspect model.onnx --shapes image=3x3
inspect model.onnx -o out.onnx
inspect plan.json
apply plan.json
apply model.onnx plan.json -o out.onnx
apply plan.json other.onnx -o out.onnx
apply plan.json model.onnx -o plan.json
apply plan.json model.onnx -o model.onnx
apply missing.json model.onnx -o out.onnx
apply bad.json model.onnx -o out.onnx
apply deep.json model.onnx -o out.onnx
apply list.json model.onnx -o out.onnx
apply version.json model.onnx -o out.onnx
apply units.json model.onnx -o out.onnx
apply folder model.onnx -o out.onnx
recover model.onnx
recover model.onnx small.onnx
recover small.onnx model.onnx --calib calib.npz -o out.onnx
recover model.onnx other.onnx --calib calib.npz -o out.onnx
recover model.onnx calib.npz --calib small.onnx -o out.onnx
recover model.onnx small.onnx --calib labels.npy -o out.onnx
recover model.onnx small.onnx --calib calib.npz --labels calib.npz -o out.onnx
recover model.onnx small.onnx --calib calib.npz --labels images.npz -o out.onnx
recover model.onnx small.onnx --calib calib.npz -o small.onnx
recover model.onnx small.onnx --calib random -o out.onnx
recover model.onnx small.onnx --calib none.npz -o out.onnx
verify small.onnx
verify small.onnx --dense missing.onnx
verify missing.onnx --dense model.onnx
verify small.onnx --dense model.onnx --data missing.npz
verify small.onnx --dense model.onnx --plan missing.json
verify text.onnx --dense model.onnx
sensitivity model.onnx
sensitivity model.onnx --calib missing.npz
sensitivity model.onnx --calib calib.npz --ratios x
sensitivity model.onnx --calib calib.npz -o figure.txt
sensitivity model.onnx --calib calib.npz -o nowhere/figure.svg
quantize model.onnx
quantize model.onnx --calib missing.npz
quantize model.onnx --dynamic --skip nowhere*
quantize model.onnx --dynamic -o model.onnx
quantize model.onnx --dynamic -o out.txt
quantize model.onnx --dynamic --prune missing.yaml
quantize model.onnx --dynamic --prune empty.yaml
quantize model.onnx --dynamic --max-drop 1%
quantize int8.onnx --dynamic
quantize text.onnx --dynamic -o out.onnx
store model.onnx
store model.onnx -o model.onnx
store model.onnx -o out.onnx --store nowhere
store model.onnx -o out.onnx --values fp12
store model.onnx -o out.onnx --ram-limit much
store model.onnx -o out.onnx --shapes image=3x3
store model.onnx -o pipe.onnx
store missing.onnx -o out.onnx
densify model.onnx
densify model.onnx -o folder
densify noise.onnx -o out.onnx
densify model.onnx -o LONG.onnx
mask model.onnx -o mask.json
mask model.onnx -o mask.onnx
mask missing.onnx -o mask.json
mask model.onnx -o mask.json --skip nowhere*
eligible missing.onnx
eligible model.onnx --log missing.log
eligible model.onnx --layers missing.json
eligible model.onnx --layers deep.json
eligible model.onnx --layers list.json
eligible model.onnx --layers folder
build model.onnx
build model.onnx --engine model.onnx
build model.onnx --engine nowhere/out.engine
build model.onnx --engine out.engine --precision fp4
build model.onnx --engine out.engine --compute-capability x
build model.onnx --engine out.engine --min-shapes nowhere=1x2
build missing.onnx --engine out.engine
bench
bench missing.onnx
bench model.onnx --backend abacus
bench model.onnx --batch 0
bench model.onnx --calib missing.npz
bench model.onnx --preprocess clip
bench model.onnx -o figure.txt
eval model.onnx
eval model.onnx --data missing.npz
eval model.onnx --data calib.npz --labels short.npy
eval model.onnx --data calib.npz --labels images.npz
eval model.onnx --data labels.npy --labels calib.npz
eval model.onnx --data calib.npz --labels deep.json --metric map
eval missing.onnx --data calib.npz --labels labels.npy
eval model.onnx --against missing.onnx --data calib.npz
eval model.onnx --against other.onnx --data names.npz
advise missing.onnx
advise model.onnx --backend abacus
advise model.onnx --calib missing.npz
report
report missing.json -o page.html
report deep.json -o page.html
report list.json -o page.html
report plan.json -o page.html
report bad.json -o page.html
report folder -o page.html
report plan.json -o page.png
demo --copy model.onnx
demo --copy model.onnx/copy
demo nonsense
help nonsense
help EVIL
completion fishy
"""

ONES = {"verify text.onnx --dense model.onnx"}
"""Lines whose exit code may be 1 as well: a check failed."""
HELP = ("prune model.onnx --ratio", "prune model.onnx --target")


def lines() -> list[str]:
    """Every command line, in words of a shell."""
    return [line for line in LINES.splitlines() if line]


def words(line: str) -> list[str]:
    """The arguments of a line."""
    import shlex

    return [word.replace("EVIL", EVIL).replace("LONG", "n" * 300) for word in shlex.split(line)]


def make_files(folder: Path) -> None:
    """Write the files that the lines name."""
    entry = zoo.get("digits_mlp")
    content = entry.model.read_bytes()
    rng = np.random.default_rng(0)
    (folder / "model.onnx").write_bytes(content)
    (folder / "other.onnx").write_bytes(zoo.get("digits_rescnn").model.read_bytes())
    small = onnxprune.prune(entry.model, ratio=0.3)
    small.save(folder / "small.onnx")
    save_plan(small.plan, folder / "plan.json")
    onnxprune.quantize(entry.model, dynamic=True, certificate=False).save(folder / "int8.onnx")
    for name, data in {
        "empty.onnx": b"", "text.onnx": b"ratio: 0.3\n", "noise.onnx": rng.bytes(3000),
        "cut.onnx": content[: len(content) // 2], "empty.npz": b"", "text.npz": b"no archive",
        "bad.json": b"not json", "deep.json": b"[" * 5000 + b"]" * 5000, "list.json": b"[]",
        "empty.yaml": b"", "list.yaml": b"- a\n", "typo.yaml": b"ratoi: 0.3\n",
        "twice.yaml": b"ratio: 0.3\nratio: 0.4\n", "wrong.yaml": b"ratio: 2024-99-99\n",
        "binary.yaml": b"\xff\xfe\0\1", "text.txt": b"cat\ndog\n",
        "nul.csv": b"label\n\0\n" + b'"' + b"x" * 200_000,
        "functions.py": b"def fails():\n    raise ValueError('on purpose\\nthere')\n\n"
        b"def number():\n    return 3\n\ndef nothing():\n    return []\n",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    laughs = ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [{f'*a{k - 1}, ' * 9}]" for k in range(1, 10))]
    (folder / "laughs.yaml").write_text("\n".join(laughs))
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "version.json").write_text(json.dumps(plan | {"version": 99}))
    (folder / "units.json").write_text(json.dumps(plan | {"removed": {"nowhere": [10**9, "x"]}}))
    images = zoo.calibration(entry)["image"][:64]
    np.savez(folder / "calib.npz", image=images)
    np.savez(folder / "images.npz", image=images, more=images)
    np.savez(folder / "names.npz", pixels=images, more=images)
    np.savez(folder / "shape.npz", image=np.zeros((4, 3, 7), np.float32))
    np.savez(folder / "words.npz", image=np.array(["a", "b"]))
    np.savez(folder / "none.npz", image=images[:0])
    np.savez(folder / "objects.npz", image=np.array([{}, None], object))
    np.savez(folder / "nan.npz", image=np.full_like(images, np.nan))
    np.save(folder / "labels.npy", np.arange(64) % 10)
    np.save(folder / "short.npy", np.arange(3))
    np.save(folder / "large.npy", np.full(64, 77))
    (folder / "array.npz").write_bytes((folder / "labels.npy").read_bytes())
    packed = (folder / "calib.npz").read_bytes()
    (folder / "archive.npy").write_bytes(packed)
    (folder / "cut.npz").write_bytes(packed[: len(packed) // 2])
    with (folder / "huge.npy").open("wb") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1, 16, 16)}
        np.lib.format.write_array_header_1_0(file, head)  # type: ignore[arg-type]
    Image.new("RGB", (4, 4)).save(folder / "picture.png")
    alone = onnx.load(entry.model)
    onnx.save(
        alone, folder / "alone.onnx", save_as_external_data=True, location="gone", size_threshold=0
    )
    (folder / "gone").unlink()
    (folder / "folder").mkdir()
    (folder / "folder.onnx").mkdir()
    (folder / "link.onnx").symlink_to("model.onnx")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "dangling.onnx").symlink_to("nowhere.onnx")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.onnx")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, by its size and time."""
    result = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        result[str(path)] = status.st_size, 0 if path.is_dir() else status.st_mtime_ns
    return result


@contextlib.contextmanager
def _terminal(encoding: str) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Streams as Python opens them for a process."""
    former = sys.stdout, sys.stderr
    raw = io.BytesIO(), io.BytesIO()
    sys.stdout = io.TextIOWrapper(raw[0], encoding, errors="strict", write_through=True)
    sys.stderr = io.TextIOWrapper(raw[1], encoding, errors="strict", write_through=True)
    try:
        yield raw
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.detach()
        sys.stdout, sys.stderr = former


def faults(line: str, encoding: str, folder: Path) -> list[str]:
    """Run a line in a folder of `make_files`; what is not as it should be."""
    before = state(folder)
    with _terminal(encoding) as (out, err):
        code: object = None
        try:
            code = main(words(line))
        except BaseException as error:  # noqa: BLE001  whatever it is, it is a fault
            return [f"raises {error!r}"]
    said, shown = err.getvalue().decode(encoding), out.getvalue().decode(encoding)
    heads = [each.partition(":")[0] for each in said.splitlines()]
    found = []
    if code != 2 and not (code == 1 and line in ONES):
        found.append(f"ends with {code}")
    if heads.count("error") != 1 or heads.count("hint") != 1:
        found.append("says other than one error and one hint")
    if "Traceback" in said or "bug in onnxprune" in said:
        found.append("shows its insides")
    if shown:
        found.append("prints something")
    if set(said) & set("\x1b\r\x9b\u202e"):
        found.append("shows control characters")
    if state(folder) != before:
        found.append("leaves files")
    return [f"{each}: {said}" for each in found]

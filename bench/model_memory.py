"""What loading and saving large models costs: peak memory and time, beside onnx and onnx-ir.

    python bench/model_memory.py [--gib 1.0] [--json results.json]

Makes a model of 64 MiB weights inside one file and one with external data (four times as large),
then loads and saves each, every way in a fresh process. Reported per way, in MiB above what the
process held before it started: peak private memory (sampled RssAnon: what the machine must have)
and peak resident memory (VmHWM: includes pages of mapped files, which the system may drop);
and CPU seconds. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROWS, COLUMNS = 4096, 4096
WEIGHT = ROWS * COLUMNS * 4


def make(path: Path, count: int, *, external: bool) -> None:
    """A chain of ``count`` MatMuls, written without ever holding more than the weights it needs."""
    nodes = [helper.make_node("MatMul", [f"h{i}", f"W{i}"], [f"h{i + 1}"]) for i in range(count)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["n", ROWS])],
        [helper.make_tensor_value_info(f"h{count}", TensorProto.FLOAT, ["n", COLUMNS])],
    )
    rng = np.random.default_rng(0)
    one = rng.standard_normal((ROWS, COLUMNS), np.float32).tobytes()
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:
        for index in range(count):
            tensor = graph.initializer.add(name=f"W{index}", data_type=TensorProto.FLOAT)
            tensor.dims.extend([ROWS, COLUMNS])
            if external:
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value=data.name)
                tensor.external_data.add(key="offset", value=str(index * WEIGHT))
                tensor.external_data.add(key="length", value=str(WEIGHT))
                file.write(one)
            else:
                tensor.raw_data = one
    if not external:
        data.unlink()
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


def ours(source: str, target: str, *, external: bool) -> None:
    from onnxprune.model import load, save

    save(load(source), target, external=external)


def ours_edited(source: str, target: str, *, external: bool) -> None:
    """Every weight halved along its rows, lazily, as pruning does."""
    import onnx_ir as ir

    from onnxprune.model import clone, constant, load, save, set_constant

    model = clone(load(source))
    for value in model.ir.graph.initializers.values():
        held = constant(value)
        assert held is not None

        def cut(held: ir.TensorProtocol = held) -> ir.TensorProtocol:
            return ir.Tensor(held.numpy()[::2].copy())

        set_constant(value, ir.LazyTensor(cut, held.dtype, ir.Shape([ROWS // 2, COLUMNS])))
    save(model, target, external=external)


def ours_load(source: str, target: str, *, external: bool) -> None:  # noqa: ARG001
    from onnxprune.model import load

    load(source)


def with_onnx(source: str, target: str, *, external: bool) -> None:
    location = f"{Path(target).name}.data" if external else None
    onnx.save(onnx.load(source), target, save_as_external_data=external, location=location)


def with_onnx_ir(source: str, target: str, *, external: bool) -> None:
    import onnx_ir as ir

    ir.save(
        ir.load(source), target, external_data=f"{Path(target).name}.data" if external else None
    )


WAYS = {
    "onnxprune: load": ours_load,
    "onnxprune: load, save": ours,
    "onnxprune: load, cut every weight, save": ours_edited,
    "onnx: load, save": with_onnx,
    "onnx-ir: load, save": with_onnx_ir,
}


def status(field: str) -> float:
    """A figure of this process from /proc, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(way: str, source: str, target: str, *, external: bool) -> dict[str, float]:
    """Run one way in this process and report what it took."""
    folder = Path(source).parent
    WAYS[way](str(folder / "small.onnx"), str(folder / "target.onnx.small"), external=external)
    before, private, done = status("VmRSS"), status("RssAnon"), threading.Event()
    peak = [private]

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=sample)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        WAYS[way](source, target, external=external)
    finally:
        done.set()
        watcher.join()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "private MiB": round(peak[0] - private),
        "resident MiB": round(status("VmHWM") - before),
        "CPU s": round(cpu, 2),
        "wall s": round(wall, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="size of the inline model")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        way, source, target, external = args.run
        print(json.dumps(measure(way, source, target, external=external == "True")))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "small.onnx", 1, external=False)
        for external in (False, True):
            count = round(args.gib * (1 << 30) / WEIGHT) * (4 if external else 1)
            source = Path(folder) / "source.onnx"
            make(source, count, external=external)
            for way in WAYS:
                target = Path(folder) / "target.onnx"
                command = [sys.executable, __file__, "--run", way, str(source), str(target)]
                done = subprocess.run(
                    [*command, str(external)],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=folder,
                )
                for path in Path(folder).glob("target.onnx*"):
                    path.unlink()
                form = "external" if external else "inline"
                row = {"model": f"{count * WEIGHT >> 20} MiB {form}", "way": way}
                results.append(row | json.loads(done.stdout))
                print(results[-1], flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

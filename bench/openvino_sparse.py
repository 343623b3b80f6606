"""What zeros are worth in OpenVINO's INT8: one command, from a float model to latencies.

    python -m bench.openvino_sparse [--size 4096] [--layers 8] [--zeros 0.8] [--rows 1 16]

Makes a chain of square linear layers with that share of zeros, quantizes it with
``onnxprune quantize --backend openvino-sparse`` (checked: every zero stays one), and runs it in
OpenVINO on one thread with ``CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE`` off (1.0) and on (0.5). The
same weights as plain MatMul ``[K,N]`` are run too, with the property on: there it does nothing.
Reported: process CPU time of one inference, milliseconds, least of ``--runs`` interleaved ones, and
the name of the kernel. Needs `pip install '.[cpu,openvino]'` and a CPU with AMX-INT8: rows are kept
only where the sparse kernel ran.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.config import Options, QuantizeOptions
from onnxprune.evaluate.environment import environment
from onnxprune.jobs.quantize import quantize
from onnxprune.jobs.quantize.rows import by_rows

RESULTS = Path(__file__).parent / "results" / "openvino_sparse.json"
_KEY = ("size", "layers", "zeros", "rows")
RATE = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"


def chain(size: int, layers: int, zeros: float) -> onnx.ModelProto:
    """Linear layers with Relu between, weights normal with zeros at random."""
    rng = np.random.default_rng(0)
    nodes, weights, now = [], [], "x"
    for k in range(layers):
        array = rng.standard_normal((size, size), np.float32) * np.sqrt(2 / size / (1 - zeros))
        array *= rng.random((size, size), np.float32) >= zeros
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{k}"))
        last = k == layers - 1
        nodes.append(helper.make_node("MatMul", [now, f"w{k}"], ["y" if last else f"p{k}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"p{k}"], [f"r{k}"]))
            now = f"r{k}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compiled(proto: onnx.ModelProto, rows: int, rate: float) -> tuple[Any, set[str]]:
    """A compiled model on one thread, and the kernels of its linear layers."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(proto.SerializeToString())
    model.reshape([rows, model.inputs[0].partial_shape[1]])
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", RATE: str(rate)}
    made = core.compile_model(model, "CPU", settings)
    kinds = {
        node.get_rt_info()["primitiveType"].astype(str)
        for node in made.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    }
    return made.create_infer_request(), kinds


def measure(requests: dict[str, Any], x: np.ndarray[Any, Any], runs: int) -> dict[str, float]:
    """CPU milliseconds of one run, the least of many, taken in turn."""
    best = dict.fromkeys(requests, float("inf"))
    for turn in range(runs):
        for name, request in requests.items():
            started = time.process_time()
            request.infer({0: x})
            if turn:
                best[name] = min(best[name], (time.process_time() - started) * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.8])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    here = f"and this CPU has {', '.join(environment().features)}"
    for zeros in asked.zeros:
        float_model = chain(asked.size, asked.layers, zeros)
        calib = [{"x": rng.standard_normal((8, asked.size), np.float32)} for _ in range(2)]
        made = quantize(float_model, QuantizeOptions(backend="openvino"), Options(calib=calib))
        assert made.ok, "a zero was lost"
        turned, names = by_rows(made.model)  # all that --backend openvino-sparse does beyond this
        assert len(names) == asked.layers
        protos = {"[K,N]": models.to_proto(made.model), "[N,K]": models.to_proto(turned)}
        del float_model, made, turned
        for count in asked.rows:
            x = rng.standard_normal((count, asked.size), np.float32)
            ways = {
                "[N,K], off": compiled(protos["[N,K]"], count, 1.0),
                "[N,K], on": compiled(protos["[N,K]"], count, 0.5),
                "[K,N], on": compiled(protos["[K,N]"], count, 0.5),
            }
            best = measure({name: way[0] for name, way in ways.items()}, x, asked.runs)
            outputs = [way[0].infer({0: x})[0] for way in ways.values()]
            row = {
                "size": asked.size,
                "layers": asked.layers,
                "zeros": zeros,
                "rows": count,
                "cpu_ms": {name: round(ms, 3) for name, ms in best.items()},
                "kernels": {name: sorted(way[1]) for name, way in ways.items()},
                "speed_up": round(best["[N,K], off"] / best["[N,K], on"], 3),
                "sparse_equals_dense": bool((outputs[0] == outputs[1]).all()),
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(row))
            if any("sparse" in kernel for kernel in row["kernels"]["[N,K], on"]):
                _keep(asked.json, row, asked.runs - 1)
            else:
                print(f"not kept: OpenVINO took no sparse kernel; it needs amx_int8, {here}")


def _keep(path: Path, row: dict[str, Any], runs: int) -> None:
    """Put a row among the results, in place of the one of the same size, zeros and rows."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {tuple(each[k] for k in _KEY): each for each in (*known, row)}
    report = {
        "what": "INT8 linear layers size x size, 1 thread, process CPU ms, least of interleaved",
        "runs": runs,
        "versions": {p: version(p) for p in ("onnxprune", "onnxruntime", "openvino", "numpy")},
        "machine": {"processor": environment().cpu, "cores": os.cpu_count()},
        "rows": [merged[key] for key in sorted(merged)],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`python -m bench.judge NAME [PRUNED]`: what can be said of one graph, in a process of its own.

Prints one JSON line about PRUNED next to the dense graph NAME (or about the dense graph itself),
or, with --calibration, writes feeds for a peer that runs in another environment.  The judge trusts
nobody: it counts parameters and heads itself and runs both files in onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bench.folders import SHARED
from bench.subjects import Feeds, Subject, subjects

_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}


def weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every floating-point constant of a graph and its bodies, initializers and Constant nodes."""
    yield from ((t.name, t) for t in graph.initializer if t.data_type in _FLOATS)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in _FLOATS:
                yield node.output[0] if node.output else node.name, attribute.t
            if attribute.HasField("g"):
                yield from weights(attribute.g)


def counts(model: onnx.ModelProto, dense: onnx.ModelProto) -> dict[str, int]:
    """Parameters before and after, and how many lie in tensors that changed shape or went."""
    before, after = dict(weights(dense.graph)), dict(weights(model.graph))
    shapes = {name: tuple(t.dims) for name, t in after.items()}
    return {
        "params_dense": sum(_size(t) for t in before.values()),
        "params": sum(_size(t) for t in after.values()),
        "params_touched": sum(
            _size(t) for name, t in before.items() if shapes.get(name) != tuple(t.dims)
        ),
    }


def _size(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def open_session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A quiet single-threaded CPU session."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def heads(model: onnx.ModelProto, feeds: Feeds) -> int:
    """Attention heads, summed over the graph: axis -3 of the probabilities that weigh the values.

    Measured by running the graph, so that it means the same for every exporter and pruner; fused
    attention operators say it in an attribute or in the shape of their output.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    total, watched = 0, []
    for node in model.graph.node:
        attributes = {a.name: a.i for a in node.attribute}
        if "num_heads" in attributes or "q_num_heads" in attributes:
            total += attributes.get("num_heads", 0) or attributes["q_num_heads"]
        elif node.op_type == "Attention" or (
            node.op_type == "Softmax" and _weighs_values(node, readers)
        ):
            watched.append(node.output[0])
    if not watched:
        return total
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in watched if name not in outputs
    )
    shapes = [a.shape for a in open_session(probe).run(watched, feeds)]
    return total + sum(int(shape[-3]) for shape in shapes if len(shape) >= 4)


def _weighs_values(softmax: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether a Softmax reaches a MatMul, at most through the guards exporters put behind it."""
    front = [softmax]
    for _ in range(4):
        front = [
            reader for node in front for name in node.output for reader in readers.get(name, ())
        ]
        if any(node.op_type == "MatMul" for node in front):
            return True
        front = [n for n in front if n.op_type in {"Cast", "Dropout", "Identity", "IsNaN", "Where"}]
    return False


def judge(subject: Subject, pruned: Path | None, *, score: bool) -> dict[str, Any]:
    """Everything measured about one file; `error` says why it cannot be used, where it cannot.

    Parameters are counted against PRUNED.base where a peer rewrote the graph before pruning it.
    """
    batches = list(subject.batches(2, seed=7))
    dense = onnx.load(subject.path)
    model = onnx.load(pruned) if pruned else dense
    rewritten = pruned.with_suffix(".base") if pruned else subject.path
    found: dict[str, Any] = counts(model, onnx.load(rewritten) if rewritten.exists() else dense)
    try:
        onnx.checker.check_model(str(pruned or subject.path), full_check=True)
    except Exception as error:  # noqa: BLE001 - the verdict is the point
        found["checker"] = _first_line(error)
    try:
        session = open_session(pruned or subject.path)
        results = [session.run(None, feeds) for feeds in batches]
        found["heads"] = heads(model, batches[0])
    except Exception as error:  # noqa: BLE001 - the same
        return {**found, "valid": False, "error": _first_line(error)}
    if pruned:
        reference = open_session(subject.path)
        expected = [reference.run(None, feeds) for feeds in batches]
        pairs = [p for a, b in zip(results, expected, strict=True) for p in zip(a, b, strict=True)]
        wrong = next((f"{a.shape} for {b.shape}" for a, b in pairs if a.shape != b.shape), None)
        if wrong:
            return {**found, "valid": False, "error": f"an output has shape {wrong}"}
        found["drift"] = max(_distance(a, b) for a, b in pairs)
    found["valid"] = all(np.isfinite(a).all() for row in results for a in row)
    if score and subject.task is not None:
        fixed = not session.get_inputs()[0].shape or isinstance(
            session.get_inputs()[0].shape[0], int
        )
        run = lambda feeds: session.run(None, feeds)  # noqa: E731
        found["score"] = subject.task.score(run, SHARED / "data", 1 if fixed else 50)
        found["unit"] = subject.task.unit
    return found


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Norm of the difference over the norm of the reference."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"(?<![\w/])/[^\s'\":]*/", "", lines[0] if lines else "")  # files, not folders
    return f"{type(error).__name__}: {said}"[:300]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("pruned", nargs="?", type=Path)
    parser.add_argument("--kind", default="zoo")
    parser.add_argument("--score", action="store_true", help="measure the task, where there is one")
    parser.add_argument("--calibration", type=Path, help="write feeds to this .npz and stop")
    parser.add_argument("--batches", type=int, default=32)
    options = parser.parse_args()
    subject = next(s for s in subjects((options.kind,)) if s.name == options.name)
    if options.calibration:
        batches = enumerate(subject.batches(options.batches, seed=3))
        named: dict[str, Any] = {
            f"{i:04d}/{name}": a for i, feeds in batches for name, a in feeds.items()
        }
        np.savez(options.calibration, **named)
        return
    print(json.dumps(judge(subject, options.pruned, score=options.score)))


if __name__ == "__main__":
    main()

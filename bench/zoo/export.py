"""Exporting a network as users do, and checking that the file is fit to be a test."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from bench.zoo.inputs import METADATA, Input, dumps, sample
from bench.zoo.network import Called, Entry, Network
from bench.zoo.weights import randomise

_TRACED = {"batch": 2, "sequence": 12, "encoder_sequence": 10, "past": 5}
_OTHER = {"batch": 3, "sequence": 9, "encoder_sequence": 7, "past": 8}
_FIXED = {"batch": 1, "sequence": 16, "encoder_sequence": 14, "past": 6}
_LONGER = 112  # what the full size adds to every sequence


@dataclass(frozen=True)
class Variant:
    """How a network is exported.

    `exporter` is "ts" (TorchScript, `dynamo=False`) or "dynamo" (torch.export); `dynamic` leaves
    batch and sequence symbolic; `batchnorm` keeps BatchNormalization nodes apart from the Convs.
    """

    exporter: str
    opset: int
    dynamic: bool
    batchnorm: bool

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read "ts17-dynamic-bn" and the like."""
        match = re.fullmatch(r"(ts|dynamo)(\d+)-(fixed|dynamic)(-bn)?", text)
        if match is None:
            raise ValueError(f"not a variant: {text!r}")
        exporter, opset, axes, bn = match.groups()
        return cls(exporter, int(opset), axes == "dynamic", bn is not None)

    def file_name(self, network: str) -> str:
        """What the exported file is called."""
        axes = "dynamic" if self.dynamic else "fixed"
        bn = "__bn" if self.batchnorm else ""
        return f"{network}__{self.exporter}{self.opset}__{axes}{bn}.onnx"


class UnfitError(Exception):
    """The exported file would not be a fair test: it fails, or its outputs are degenerate."""


def build(entry: Entry, size: str) -> Network:
    """The network of an entry in size "small" or "full", with its random weights."""
    torch.manual_seed(0)
    network = entry.build(**(entry.small if size == "small" else entry.full))
    sizes = {**_sizes(_TRACED, size), "batch": 8}
    batches = [tensors(network.inputs, sizes, seed) for seed in (1, 2)]
    randomise(network.module, batches)
    return network


def tensors(
    inputs: Sequence[Input], sizes: Mapping[str, int], seed: int
) -> tuple[torch.Tensor, ...]:
    """One sampled batch in the order of the module's arguments."""
    return tuple(torch.from_numpy(a) for a in sample(inputs, sizes, seed).values())


def export(network: Network, variant: Variant, path: Path, size: str) -> None:
    """Write `network` to `path`; dynamo writes a full-size one's weights to `path`.data."""
    sizes = _sizes(_TRACED if variant.dynamic else _FIXED, size)
    arguments = tensors(network.inputs, sizes, seed=3)
    names = [i.name for i in network.inputs]
    common: dict[str, Any] = {
        "opset_version": variant.opset,
        "input_names": names,
        "output_names": list(network.outputs),
    }
    with warnings.catch_warnings():  # tracer warnings about constants are the exporters' business
        warnings.simplefilter("ignore")
        if variant.exporter == "ts":
            torch.onnx.export(
                network.module,
                arguments,
                str(path),
                dynamo=False,
                dynamic_axes=_dynamic_axes(network) if variant.dynamic else None,
                do_constant_folding=not variant.batchnorm,
                training=(
                    torch.onnx.TrainingMode.PRESERVE
                    if variant.batchnorm
                    else torch.onnx.TrainingMode.EVAL
                ),
                **common,
            )
        else:
            torch.onnx.export(
                network.module,
                arguments,
                str(path),
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(network) if variant.dynamic else None,
                optimize=not variant.batchnorm,  # the optimizer is what folds BatchNorm
                external_data=size == "full",
                verbose=False,
                **common,
            )
    model = onnx.load(path, load_external_data=False)
    model.metadata_props.add(key=METADATA, value=dumps(network.inputs))
    onnx.save(model, path)


def check(path: Path, network: Network, variant: Variant, size: str) -> str:
    """Run the file in onnxruntime and say how alive it is.

    Raises:
        UnfitError: an output's root mean square difference from torch exceeds 1e-3 of its spread,
            it is not finite, its standard deviation is outside [0.01, 100], or it hardly depends
            on the input; or a BatchNorm was folded that should have been kept.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    notes = []
    results = []
    for sizes, seed in _probes(variant, size):
        batch = sample(network.inputs, sizes, seed)
        feeds = {i.name: batch[i.name] for i in session.get_inputs()}
        results.append(session.run(None, feeds))
        with torch.no_grad():
            expected = network.module(*(torch.from_numpy(a) for a in batch.values()))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for name, got, want in zip(network.outputs, results[-1], expected, strict=True):
            error = float(np.sqrt(np.square(got - want.numpy()).mean())) / float(want.std())
            if not error < 1e-3:
                raise UnfitError(f"{name} differs from torch by {error:.1e} of its spread")
    for name, one, two in zip(network.outputs, *results[:2], strict=True):
        spread, moved = float(one.std()), float((one - two).std())
        if not (np.isfinite(one).all() and 0.01 < spread < 100 and moved > 0.1 * spread):
            raise UnfitError(f"{name} is degenerate: std {spread:.3g}, moves by {moved:.3g}")
        notes.append(f"{name} std {spread:.2f} moves {moved / spread:.2f}")
    ops = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    if variant.batchnorm and "BatchNormalization" not in ops:
        raise UnfitError("BatchNormalization was folded away")
    return "; ".join(notes)


def _sizes(sizes: Mapping[str, int], size: str) -> dict[str, int]:
    """The sizes of every symbolic axis; `total` is what a cached step attends to."""
    more = 0 if size == "small" else _LONGER
    longer = {k: v if k == "batch" else v + more for k, v in sizes.items()}
    return {**longer, "total": longer["past"] + longer["sequence"]}


def _probes(variant: Variant, size: str) -> list[tuple[dict[str, int], int]]:
    """Two batches of the traced sizes and, for symbolic axes, one of others."""
    first = _sizes(_TRACED if variant.dynamic else _FIXED, size)
    probes = [(first, 10), (first, 11)]
    return [*probes, (_sizes(_OTHER, size), 12)] if variant.dynamic else probes


def _dynamic_axes(network: Network) -> dict[str, dict[int, str]]:
    axes = {
        i.name: {k: d for k, d in enumerate(i.dims) if isinstance(d, str)} for i in network.inputs
    }
    return {**axes, **{name: {0: "batch"} for name in network.outputs}}


def _dynamic_shapes(network: Network) -> tuple[Any, ...] | dict[str, Any]:
    dims = {d for i in network.inputs for d in i.dims if isinstance(d, str)}
    symbols = {d: torch.export.Dim(d, min=2, max=4096) for d in dims}
    shapes = tuple(
        {k: symbols[d] for k, d in enumerate(i.dims) if isinstance(d, str)} for i in network.inputs
    )
    return {"values": shapes} if isinstance(network.module, Called) else shapes  # *values

"""Trains and exports the zoo: ``python -m models.train NAME ...`` (or ``data``, or ``all``).

One core, fixed seeds; each model takes one to five minutes. ``data`` writes the data files, the
name of a model its .onnx file and the metric that onnxruntime measures on that file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from models import chars, digits, nets
from models.decoder import Decoder, Size
from models.export import export
from onnxprune.data import zoo

VARIANTS = Path(__file__).parent / "variants"  # models that only tests need

Batch = tuple[Tensor, Tensor]


def fit(
    net: nn.Module, batches: Iterator[Batch], *, steps: int, rate: float, smoothing: float
) -> None:
    """Minimise the cross entropy with AdamW under a one-cycle schedule, clipping gradients at 1."""
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=0.2
    )
    net.train()
    began = time.perf_counter()
    for step in range(steps):
        inputs, labels = next(batches)
        logits = net(inputs).flatten(0, -2)
        loss = nn.functional.cross_entropy(logits, labels.flatten(), label_smoothing=smoothing)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % (steps // 10) == 0 or step == steps - 1:
            print(f"  step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - began:.0f} s")
    net.eval()


def digit_batches(size: int = 64) -> Iterator[Batch]:
    """Endless training batches; every epoch shows each training scan once, in a new pose."""
    split, rng = digits.splits()["train"], np.random.default_rng(0)
    labels = torch.from_numpy(split.labels)
    while True:
        pictures = torch.from_numpy(digits.posed(split.raw, rng))
        order = torch.from_numpy(rng.permutation(len(labels)))
        for rows in torch.split(order, size)[: len(order) // size]:
            yield pictures[rows], labels[rows]


def train_digits(build: Callable[[], nn.Module], epochs: int, rate: float) -> nn.Module:
    """One trained digit classifier, in evaluation mode."""
    torch.manual_seed(0)
    net = build()
    fit(net, digit_batches(), steps=epochs * (digits.TRAIN // 64), rate=rate, smoothing=0.05)
    return net


def train_rescnn(path: Path) -> None:
    """BatchNormalization nodes are kept: pruners must cope with them, and use them."""
    net = train_digits(nets.ResCnn, 60, 4e-3)
    export(net, path, "image", fold=False)


def train_mlp(path: Path) -> None:
    """The plainest case."""
    export(train_digits(nets.Mlp, 300, 2e-3), path, "image")


def train_encoder(path: Path) -> None:
    """Fused QKV survives the export as one MatMul, a Reshape, a Transpose and a Split."""
    export(train_digits(nets.Encoder, 250, 1.5e-3), path, "image")


def train_lstm(path: Path) -> None:
    """Exports as two bidirectional LSTM nodes."""
    export(train_digits(nets.RowLstm, 150, 4e-3), path, "image")


def char_batches(size: int = 32) -> Iterator[Batch]:
    """Endless training batches: windows at random places of the training text."""
    codes, rng = torch.from_numpy(chars.encode(chars.splits()["train"])), np.random.default_rng(0)
    while True:
        starts = torch.from_numpy(rng.integers(0, len(codes) - chars.CONTEXT, size))
        window = codes[starts[:, None] + torch.arange(chars.CONTEXT + 1)]
        yield window[:, :-1], window[:, 1:]


def export_decoder(path: Path, size: Size, steps: int, *, dynamo: bool) -> None:
    """Train one decoder and export it with dynamic batch and length."""
    torch.manual_seed(0)
    net = Decoder(size)
    fit(net, char_batches(), steps=steps, rate=4e-3, smoothing=0.0)
    example = torch.arange(48).reshape(2, 24)
    axes = ("batch", "length")
    if dynamo:
        export(net, path, "tokens", example=example, axes=axes, dynamo=True, opset=20)
    else:  # without constant folding, so that embedding and output keep sharing one initializer
        export(net, path, "tokens", example=example, axes=axes, fold=False)


def train_decoder(path: Path) -> None:
    """Weights stay as torch holds them: a Transpose node before most MatMuls."""
    export_decoder(path, Size(), 1600, dynamo=False)


def train_decoder_dynamo(path: Path) -> None:
    """Half the width and the other exporter, for tests."""
    export_decoder(path, Size(layers=2, width=32, head=8, hidden=80), 1600, dynamo=True)


def train_encoder_dynamo(path: Path) -> None:
    """Half the width and the other exporter, for tests."""
    net = train_digits(partial(nets.Encoder, width=32, hidden=64, layers=2), 200, 4e-3)
    export(net, path, "image", dynamo=True, opset=20)


TRAIN: dict[str, Callable[[Path], None]] = {
    "digits_rescnn": train_rescnn,
    "digits_mlp": train_mlp,
    "digits_encoder": train_encoder,
    "digits_lstm": train_lstm,
    "chars_decoder": train_decoder,
    "digits_encoder_dynamo": train_encoder_dynamo,
    "chars_decoder_dynamo": train_decoder_dynamo,
}


def write_data() -> None:
    """Write the calibration and evaluation files of every task."""
    image, _ = digits.arrays("calibration")
    np.savez_compressed(zoo.FOLDER / "digits_calibration.npz", image=image)
    image, label = digits.arrays("evaluation")
    np.savez_compressed(zoo.FOLDER / "digits_evaluation.npz", image=image, label=label)
    tokens, _ = chars.windows("calibration")
    np.savez_compressed(zoo.FOLDER / "chars_calibration.npz", tokens=tokens)
    tokens, label = chars.windows("evaluation")
    np.savez_compressed(zoo.FOLDER / "chars_evaluation.npz", tokens=tokens, label=label)


def record(path: Path) -> str:
    """Measure one model's file with onnxruntime, note the result beside it, and describe it."""
    entry = replace(zoo.get(path.stem.removesuffix("_dynamo")), model=path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    value = zoo.measure(entry, lambda feeds: {zoo.OUTPUT: session.run(None, dict(feeds))[0]})
    notes = path.parent / "measured.json"
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    known[path.stem] = round(value, 6)
    notes.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return f"{value:.4f} {entry.metric}, {path.stat().st_size / 1000:.0f} kB"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=["all", "data", *TRAIN])
    chosen = set(parser.parse_args().names)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    if {"all", "data"} & chosen:
        write_data()
    for name, train in TRAIN.items():
        if {"all", name} & chosen:
            print(name)
            path = (zoo.FOLDER if name in zoo.names() else VARIANTS) / f"{name}.onnx"
            train(path)
            print(f"  {record(path)}")


if __name__ == "__main__":
    main()

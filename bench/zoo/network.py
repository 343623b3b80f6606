"""What an entry of the zoo is: a module with named inputs and outputs, and how to build it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.zoo.inputs import Input

# The compiled half of PyPI's torchvision (nms and friends) does not load beside a CPU build of
# torch 2.13; the model definitions are pure Python and need none of it.  timm imports it too.
sys.modules.setdefault(
    "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
)

TORCHSCRIPT = ("ts17-fixed", "ts17-dynamic")
TRANSFORMER = (*TORCHSCRIPT, "dynamo18-fixed", "dynamo20-dynamic")
CONVOLUTIONAL = (*TRANSFORMER, "ts17-dynamic-bn", "dynamo18-dynamic-bn")


@dataclass(frozen=True)
class Network:
    """A module in evaluation mode, with what its graph inputs and outputs are called."""

    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    `build(**small)` gives it narrow and shallow (the same code path, a file of at most a few MB),
    `build(**full)` in its published size.  `variants` are the exports that make sense for it,
    spelt exporter and opset, axes, and `bn` where BatchNorm is left unfolded
    (`bench.zoo.export.Variant.parse`).
    """

    name: str
    build: Callable[..., Network]
    small: Mapping[str, Any]
    full: Mapping[str, Any]
    variants: tuple[str, ...] = TRANSFORMER


class Called(nn.Module):
    """A transformers model called by keyword, reduced to the tensors named in `outputs`."""

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str], **fixed: Any
    ) -> None:
        super().__init__()
        self.model, self.names, self.fields, self.fixed = model, inputs, outputs, fixed

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in order; `values` are the inputs, in order."""
        result = self.model(**dict(zip(self.names, values, strict=True)), **self.fixed)
        return tuple(result[name] for name in self.fields)


def called(model: nn.Module, inputs: tuple[Input, ...], *outputs: str, **fixed: Any) -> Network:
    """A network around a transformers model; `fixed` are further keywords of its forward."""
    module = Called(model, [i.name for i in inputs], outputs, **fixed)
    return Network(module.eval(), inputs, outputs)


def image(size: int, name: str = "input") -> tuple[Input, ...]:
    """The one input of a network that takes square RGB pictures."""
    return (Input(name, "image", ("batch", 3, size, size)),)


def vision(module: nn.Module, size: int) -> Network:
    """A network from a classifier of square RGB pictures."""
    return Network(module.eval(), image(size), ("logits",))

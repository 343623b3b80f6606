"""Random weights under which no activation dies or explodes.

A pruner is only tested by a network whose every channel matters.  Fresh initialisations fail that:
all-zero biases (which exporters then merge into one tensor), BatchNorm at mean 0 and variance 1,
attention that ignores its input because weights are drawn at 0.02, layer scales of 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def randomise(module: nn.Module, batches: Sequence[Sequence[torch.Tensor]], seed: int = 0) -> None:
    """Draw every parameter anew, then set BatchNorm statistics from `batches`, jittered.

    Weights are N(0, 1/fan-in), biases N(0, 0.1^2), normalisation scales U(0.6, 1.4) with offsets
    N(0, 0.2^2), other vectors (class tokens, positions, layer scales) of order 0.5.  Running
    means and variances are those of `batches` moved by a tenth of a standard deviation and a
    quarter: close enough to keep the signal at unit scale, and never the identity.
    """
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                _draw(part, name, parameter, g)
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        if norms:
            _set_running_statistics(module, norms, batches, g)


def _draw(part: nn.Module, name: str, p: torch.Tensor, g: torch.Generator) -> None:
    if type(part).__name__.endswith(("Norm", "Norm2d")):
        if "bias" in name:
            p.normal_(0.0, 0.2, generator=g)
        else:
            p.uniform_(0.6, 1.4, generator=g)
    elif isinstance(part, nn.Embedding):  # a tied language-model head reads it as [outputs, inputs]
        p.normal_(0.0, 1.0 / math.sqrt(p.shape[1]), generator=g)
    elif "scale" in name or "gamma" in name:
        p.uniform_(0.3, 0.9, generator=g)
    elif "bias" in name and "table" not in name:
        p.normal_(0.0, 0.1, generator=g)
    elif "weight" in name and p.ndim >= 2:
        # transformers' Conv1D stores [inputs, outputs]; everything else [outputs, inputs, ...].
        fan_in = p.shape[0] if type(part).__name__ == "Conv1D" else p[0].numel()
        p.normal_(0.0, 1.0 / math.sqrt(fan_in), generator=g)
    else:
        p.normal_(0.0, 0.5, generator=g)


def _set_running_statistics(
    module: nn.Module,
    norms: Sequence[_BatchNorm],
    batches: Sequence[Sequence[torch.Tensor]],
    g: torch.Generator,
) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        module(*batch)
    module.eval()
    for norm in norms:
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None  # no zoo network switches the running statistics off
        assert var is not None
        mean += 0.1 * var.sqrt() * torch.randn(mean.shape, generator=g)
        var *= torch.empty(var.shape).uniform_(0.8, 1.25, generator=g)

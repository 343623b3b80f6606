"""The memory budget of work on calibration data, and how it is divided.

A budget is one number, ``--memory``. Everything that grows with data or with the width of layers
takes its limit from here: samples, values inside the network, rows of pairs, second moments and
the batch of a run. Results depend on that number alone, never on what happens to be free.
"""

from __future__ import annotations

import ctypes
import functools
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.facts import Fact
from onnxprune.graph.shapes import propagate
from onnxprune.model import Model, constants
from onnxprune.quantities import size
from onnxprune.runtime.process import free_bytes

Array = npt.NDArray[Any]

DEFAULT = 4_000_000_000
"""Bytes of a budget that nobody set."""
_STEP = 100_000_000
"""Where less than the default is free, a budget is a multiple of this."""
_SPARED = 0.8
"""Share of free memory that a budget takes."""
_BASE = 180_000_000
"""Bytes of the interpreter, of libraries and of what depends on neither model nor data."""
_LOOKED_AT = 0.25
"""Share of all values that are observed or wait for their readers together."""
_COPIES = 5
"""Copies of a model's weights: two models, their sessions and one that is being changed."""
_WORKING = 3
"""Matrices of second moments that an elimination holds of every layer: the moments, those with a
ridge, and their inverse."""
_GRADIENT = 3
"""Copies of all values of a run that its gradient takes: the values, gradients, and what an arena
has left over."""
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE_SHARE, _LARGE, _LARGEST = 128, 4 << 20, 32 << 20
"""Blocks of this share of a budget, but of no less and no more, are given back at once."""
_REFITTING = 8
"""The same of a layer that is refitted: two sets of rows and of dense inputs, their sums, and the
matrix that is solved."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that work on calibration data may take, by purpose.

    Attributes:
        total: the whole budget, process included.
    """

    total: int = DEFAULT

    @property
    def samples(self) -> int:
        """Inputs that are fitted to, mixtures of them included."""
        return self.total // 10

    @property
    def values(self) -> int:
        """Values inside one of the two models that run side by side, over all batches."""
        return self.total // 12

    @property
    def rows(self) -> int:
        """Rows of two layers that are refitted together."""
        return self.total // 10

    @property
    def moments(self) -> int:
        """Second moments in memory while an order of removal is found."""
        return self.total // 10 * 3

    @property
    def activations(self) -> int:
        """Values of one batch while a model runs."""
        return self.total // 40

    @property
    def observed(self) -> int:
        """Values of one feed that are observed together."""
        return self.total // 8

    @property
    def gradients(self) -> int:
        """Values that are kept for a gradient, and the gradient itself."""
        return self.total // 2

    def fits(self, groups: int, inputs: int) -> bool:
        """Whether a layer of so many inputs in each of its groups can be refitted."""
        return _REFITTING * gram_bytes(groups, inputs) <= self.moments + self.rows

    def too_wide(self, layers: Mapping[str, tuple[int, int]]) -> frozenset[str]:
        """The layers whose covariances are left out of an elimination, widest first.

        Args:
            layers: groups and inputs of each layer that reads the same units, by name.
        """
        wide, names = dict(layers), set[str]()
        while wide and _WORKING * sum(gram_bytes(*each) for each in wide.values()) > self.moments:
            widest = max(wide, key=lambda name: gram_bytes(*wide[name]))
            names.add(widest)
            del wide[widest]
        return frozenset(names)

    def why(self, inputs: int) -> str:
        """Why a layer is too wide, and the option that changes that."""
        return f"second moments of its {inputs:,} inputs do not fit in --memory {written(self)}"


_POINTER = 64
"""Bits that a string takes at least."""


def gram_bytes(groups: int, inputs: int) -> int:
    """Bytes of the second moments of a layer."""
    return 8 * groups * inputs * inputs


def budget_of(config: Options) -> MemoryBudget:
    """The budget that options name, else the default."""
    return MemoryBudget(config.memory or DEFAULT)


def written(budget: MemoryBudget) -> str:
    """A budget as a user writes it: ``4GB``, ``512MB``."""
    amount = budget.total
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if amount % (factor // 10) == 0 and amount >= factor:
            return f"{amount / factor:g}{unit}"
    return str(amount)


def settle(config: Options) -> Options:
    """The options with the budget that is in force: the default, or less where less is free."""
    if config.memory is not None or config.calib is None:
        return config
    available = free_bytes()
    if available is None or available * _SPARED >= DEFAULT:
        return replace(config, memory=DEFAULT)
    memory = max(int(available * _SPARED) // _STEP * _STEP, 5 * _STEP)
    return replace(config, memory=min(memory, DEFAULT), scarce=True)


def scarce_note(config: Options) -> tuple[str, ...]:
    """A sentence on a budget below the default that nobody asked for."""
    if not config.scarce:
        return ()
    amount = written(budget_of(config))
    usual = written(MemoryBudget())
    why = f"--memory was {amount} instead of {usual}, because no more is free"
    return (f"{why}; the result is that of --memory {amount}",)


def needed(weights: int, values: int) -> int:
    """The smallest budget for a model.

    Args:
        weights: bytes of its weights.
        values: bytes of the values of one sample that are alive at a time.
    """
    return _BASE + _COPIES * weights + 12 * values


def check(budget: MemoryBudget, weights: int, values: int) -> None:
    """Refuse a budget in which the dense model cannot run one sample.

    Raises:
        OnnxpruneError: it is too small.
    """
    least = needed(weights, values)
    if budget.total < least:
        step = 10_000_000
        raise OnnxpruneError(
            f"--memory {written(budget)} is too little for this model, whose weights take "
            f"{size(weights)} and whose values take {size(values)} for one sample",
            hint=f"give at least --memory {-(-least // step) * step // 10**6}MB",
        )


def run_bytes(model: Model, facts: Mapping[str, Fact]) -> int:
    """Bytes of values in memory during a run at the sizes of some facts.

    The most that are alive at a time; or a share of all, where many are looked at together. Weights
    that are computed from what is stored (see `decoded_bytes`) are none of them.
    """
    graph, decoded = model.ir.graph, _decoded(model)
    last = {value: at for at, node in enumerate(graph) for value in node.inputs if value}
    alive: dict[ir.Value, int] = {}
    most = total = 0
    for at, node in enumerate(graph):
        sizes = {v: _bytes_of(v, facts) for v in node.outputs if v not in decoded}
        total += sum(sizes.values())
        alive |= sizes
        most = max(most, sum(alive.values()))
        done = [v for v in alive if last.get(v, -1) <= at and not v.is_graph_output()]
        for value in done:
            del alive[value]
    return max(most, int(total * _LOOKED_AT))


def decoded_bytes(model: Model, facts: Mapping[str, Fact]) -> int:
    """Bytes of what is computed from stored tensors alone, such as weights in 8 bits as floats."""
    return sum(_bytes_of(value, facts) for value in _decoded(model))


def _decoded(model: Model) -> set[ir.Value]:
    stored = set(constants(model).values())
    decoded: set[ir.Value] = set()
    for node in model.ir.graph:
        inputs = [value for value in node.inputs if value is not None]
        if inputs and all(value in stored or value in decoded for value in inputs):
            decoded |= {*node.outputs}
    return decoded


def gradient_samples(
    budget: MemoryBudget, model: Model, feeds: Mapping[str, Array], count: int
) -> int:
    """Samples that the gradient of a model fits in memory for; 0 where not even one does.

    Args:
        budget: the memory budget.
        model: all values of its main graph are kept for the gradient.
        feeds: inputs of the largest size.
        count: samples in them.
    """
    facts = propagate(model, {name: array.shape for name, array in feeds.items()})
    every = sum(_bytes_of(value, facts) for node in model.ir.graph for value in node.outputs)
    return budget.gradients // max(_GRADIENT * every // max(count, 1), 1)


def _bytes_of(value: ir.Value, facts: Mapping[str, Fact]) -> int:
    fact = facts.get(value.name or "")
    if fact is None or fact.sizes is None or fact.dtype is None:
        return 0
    bits = _POINTER if fact.dtype == ir.DataType.STRING else fact.dtype.bitwidth
    return math.prod(fact.sizes) * bits // 8


@functools.cache
def _allocator(name: str, *types: type) -> Callable[..., int] | None:
    """A function of the C library's allocator; None in other libraries than that of GNU."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = list(types)
    return cast("Callable[..., int]", function)


def bound_free_memory(budget: MemoryBudget) -> None:
    """Have the C library give large blocks back to the system as soon as they are freed.

    It raises the size from which it does so to that of the largest block that was freed, up to
    32 MiB; values of runtimes and their copies then leave gaps, which can take more than they did.
    The size holds for the process. Under the default budget it stays at most what the library
    takes itself, as every block that comes anew from the system costs time.

    Args:
        budget: the memory budget.
    """
    mallopt = _allocator("mallopt", ctypes.c_int, ctypes.c_int)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, min(max(budget.total // _LARGE_SHARE, _LARGE), _LARGEST))


def give_back() -> None:
    """Give memory that was freed back to the system.

    The C library keeps what is freed between blocks that are in use, and large arrays of changing
    sizes leave many such gaps.
    """
    trim = _allocator("malloc_trim", ctypes.c_size_t)
    if trim is not None:
        trim(0)


def set_aside(array: Array) -> Array:
    """The same array in a temporary file that is mapped, so that its memory can be reclaimed."""
    file = tempfile.TemporaryFile(prefix="onnxprune.")  # noqa: SIM115 it lives as long as the map
    mapped = np.memmap(file, dtype=array.dtype, mode="w+", shape=array.shape)
    mapped[...] = array
    mapped.flush()
    return mapped.view(np.ndarray)

"""What a pruning run is asked to do: every choice a user has, checked, in one value."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.quantities import (
    COST_KINDS,
    Budget,
    Method,
    Sparsity,
    Spread,
    budget,
    count,
    fraction,
    shapes,
    sparsity,
)

INPUTS = ("calib", "calib_samples", "batch", "preprocess", "seed", "provider")
"""Options that say where inputs come from and what runs the model."""

Store = Literal["auto", "dense", "sparse", "packed", "external"]
"""What is asked for: one form for all (``packed`` is three), or the best for each weight."""
Allocation = Literal["uniform", "global"]
Schedule = Literal["linear", "cubic"]
Recover = Literal["auto", "none", "bias", "lstsq", "pcg"]


@dataclass(frozen=True)
class Options:
    """Everything ``prune`` can be asked for. Names are those of the flags, with underscores.

    What is removed (at least one is needed; ``ratio`` and ``target`` exclude each other):

    Attributes:
        ratio: fraction of the units of every group that is removed.
        target: what may be left of the model.
        heads: fraction of the units of groups of kind ``head`` or ``kv-group`` that is removed: of
            all the model has, wherever it hurts least, if ``allocation`` is ``global``.
        blocks: how many residual blocks are bypassed.
        max_blocks: how many more a target may bypass where calibration data say that this costs
            clearly less than narrower layers; None sets no limit.
        sparsity: single weights that become zero in what is left: a share, or N of every M kept.
        ratios: (glob over group names, fraction removed), the last match wins, over the above. With
            ``global`` it is a fraction of the units of all groups of one kind that a glob matches.
        skip: globs over names of groups, blocks and weights that are left alone.
        skip_small: single weights stay where a layer has fewer inputs (times kernel positions) or
            outputs than this; None leaves none out.
        skip_first: in how many layers at the front of the graph single weights stay.
        skip_last: in how many at its end.
        tied: N:M also thins tables that are looked up too, as a tied embedding; what is found in
            them has the zeros then.
        sparse_method: how single weights are chosen; None takes the best the given data allow.
        sparse_allocation: what single weights compete with: ``per-tensor``, ``per-row``,
            ``global``, ``curves`` (layers by their damage) or ``sensitivity`` (by what that does
            to the outputs); no meaning under N:M; None is ``sensitivity`` with data and
            ``per-tensor`` without.
        permute: reorder units so that N:M costs less.
        criterion: how units are scored; None takes the best that the given data allows.
        allocation: ``uniform`` (the same fraction everywhere) or ``global`` (where it hurts
            least); None is ``uniform`` for a ratio, ``global`` for a target, and for ``heads`` and
            ``ratios`` ``global`` where calibration data tell what it costs, else ``uniform``.
        max_ratio: the largest fraction of one group that may go.
        steps: into how many steps the removal of units is cut; between them what is left is
            refitted and damage is measured anew.
        schedule: how much is gone after each step: ``linear``, or ``cubic``: most at first.
        round_to: counts kept are multiples of this; ``auto`` asks for what is fast on `provider`.
        provider: what the model will run on, by short name: rounding and checks are for it.
        threads: that a latency is measured with; None leaves them to the backend.
        calib: calibration inputs: a path, ``module.py:function``, or batches of arrays by name.
        calib_samples: the most samples of it that are used.
        batch: how many samples are run at once.
        labels: labels of the calibration inputs, or None.
        metric: a name that `task.find_metric` knows, or a function of outputs and labels.
        preprocess: what turns raw pictures into inputs, or None.
        recover: how what is left is made to compute what the original did, from calibration inputs
            and only where held-out ones agree that it helps. ``none``: not at all; ``bias``: only
            biases, BatchNormalization statistics, and gains of normalisations that lost channels;
            ``lstsq``: every layer by least squares too, single weights output by output in small
            layers; ``pcg``: the same, single weights by conjugate gradients; ``auto``: layers also
            together with the ones before them, single weights by conjugate gradients and, after
            all layers, as a whole by gradients of the outputs.
        allow_inexact: also remove units whose removal changes a normalisation.
        seed: of everything random.
        cache: whether damage curves are kept for the next run on the same model and inputs, and
            taken from there; ``$ONNXPRUNE_CACHE`` says where.
        max_drop: the largest loss of the metric (without labels: of agreement with the original)
            that is still a success; None sets no limit. Where nothing says how much is removed,
            the smallest model within it is looked for.
        shapes: concrete shapes of inputs whose sizes the model leaves open, by input name.
        sensitivity: a file of ``onnxprune sensitivity``: a target is met by what was measured there
            instead of by damage curves.
        smallest: what is made as small as ``max_drop`` allows, where no amount is given.
        store: the form weights are written in; what is computed with is the same in all of them.

    Raises:
        OnnxpruneError: a value is out of range or two of them contradict each other.
    """

    ratio: float | None = None
    target: Budget | None = None
    heads: float | None = None
    blocks: int = 0
    max_blocks: int | None = None
    sparsity: Sparsity | None = None
    ratios: tuple[tuple[str, float], ...] = ()
    skip: tuple[str, ...] = ()
    skip_small: int | None = None
    skip_first: int = 0
    skip_last: int = 0
    tied: bool = False
    sparse_method: Method | None = None
    sparse_allocation: Spread | None = None
    permute: bool = False
    criterion: str | None = None
    allocation: Allocation | None = None
    max_ratio: float = 0.8
    steps: int = 1
    schedule: Schedule = "cubic"
    round_to: int | Literal["auto"] = "auto"
    provider: str = "cpu"
    threads: int | None = None
    calib: object | None = None
    calib_samples: int = 2048
    batch: int = 32
    labels: object | None = None
    metric: str | Callable[..., float] = "accuracy"
    preprocess: object | None = None
    recover: Recover = "auto"
    allow_inexact: bool = False
    seed: int = 0
    cache: bool = True
    max_drop: float | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    store: Store = "dense"
    sensitivity: str | os.PathLike[str] | None = None
    smallest: str = "macs"

    def __post_init__(self) -> None:
        if self.ratio is not None and self.target is not None:
            raise OnnxpruneError(
                "--ratio and --target both say how much to remove", hint="give one of them"
            )
        if self.max_ratio >= 1:
            raise OnnxpruneError(
                f"--max-ratio {self.max_ratio:g} would let a group lose all its units",
                hint="choose less than 1, or drop whole branches with --blocks",
            )
        asked = [("--ratio", self.ratio), ("--heads", self.heads)]
        asked += [(f"--ratios {glob}=", ratio) for glob, ratio in self.ratios]
        for name, ratio in asked:
            if ratio is not None and ratio > self.max_ratio:
                raise OnnxpruneError(
                    f"{name} {ratio:g} is above --max-ratio {self.max_ratio:g}",
                    hint="ask for less, or raise --max-ratio",
                )
        self._check_measured()
        if self.tied and not (self.sparsity is not None and self.sparsity.m):
            raise OnnxpruneError(
                "--tied is about N:M in tables that are looked up too",
                hint="ask for a pattern with it, as in --sparsity 2:4",
            )
        if self.permute and not (self.sparsity is not None and self.sparsity.m):
            raise OnnxpruneError(
                "--permute has nothing to gain without groups of weights",
                hint="ask for a pattern with it, as in --sparsity 2:4",
            )
        if self.sparsity is None and (self.skip_small or self.skip_first or self.skip_last):
            raise OnnxpruneError(
                "--skip-small, --skip-first and --skip-last are about single weights",
                hint="ask for some to go, as in --sparsity 2:4, or leave units with --skip",
            )
        if self.sparse_method not in (None, "magnitude") and self.calib is None:
            raise OnnxpruneError(
                f"--sparse-method {self.sparse_method} looks at what the layers read",
                hint="give inputs with --calib, or take --sparse-method magnitude",
            )
        if self.sparse_allocation in ("curves", "sensitivity") and self.calib is None:
            raise OnnxpruneError(
                f"--sparse-allocation {self.sparse_allocation} measures what each layer loses",
                hint="give inputs with --calib, or take --sparse-allocation global",
            )
        if self.labels is not None and self.calib is None:
            raise OnnxpruneError(
                "--labels needs the inputs they belong to", hint="give those with --calib"
            )
        self._check_search()
        self._check_latency()

    def _check_latency(self) -> None:
        """Refuse what cannot be timed."""
        timed = self.searches and COST_KINDS[self.smallest.partition("@")[0]].timed
        timed = timed or (self.target is not None and self.target.timed)
        if self.threads is not None and not timed:
            raise OnnxpruneError(
                "--threads is about how a latency is measured, and none is asked for",
                hint="ask for one with it, as in --target latency=0.5x@cpu",
            )

    def _check_measured(self) -> None:
        """What decides by measured damage needs something to measure on."""
        if self.steps > 1 and (self.calib is None or self.criterion is not None):
            raise OnnxpruneError(
                f"--steps {self.steps} measures what is lost after each step",
                hint="give inputs with --calib and no --criterion",
            )
        if self.steps > 1 and not (self.ratio or self.target or self.heads or self.ratios):
            raise OnnxpruneError(
                f"--steps {self.steps} has no units to remove little by little",
                hint="say how many go, as in --target macs=50%",
            )
        if self.steps > 1 and self.target is not None and self.target.timed:
            raise OnnxpruneError(
                f"--steps {self.steps} cannot go to a latency: that is measured on whole plans",
                hint="ask for the latency alone, or for steps to macs, params or bytes",
            )
        if self.max_blocks and (self.calib is None or not (self.target or self.searches)):
            raise OnnxpruneError(
                f"--max-blocks {self.max_blocks} limits what a target takes by measured damage",
                hint="give --target and --calib too, or bypass blocks yourself with --blocks",
            )

    def _check_search(self) -> None:
        """Refuse what only makes sense where a budget is met or searched for."""
        if self.sensitivity is not None and self.target is None and not self.searches:
            raise OnnxpruneError(
                "--sensitivity says what groups cost, which only a budget asks for",
                hint="give --target macs=50% with it",
            )
        if self.sensitivity is not None and self.criterion is not None:
            raise OnnxpruneError(
                "--sensitivity and --criterion both say which units go", hint="give one of them"
            )
        if self.smallest != "macs" and not self.searches:
            raise OnnxpruneError(
                "--smallest says what is made small where --max-drop decides how far",
                hint="leave it out, or give --max-drop 1% and no amount",
            )
        if self.searches and self.calib is None:
            raise OnnxpruneError(
                "--max-drop without an amount finds one by trying, which takes inputs to judge by",
                hint="give inputs with --calib, or say how much goes, as in --target macs=50%",
            )

    @property
    def asks_for_nothing(self) -> bool:
        """Whether no amount to remove is given at all."""
        return not (self.removes_units or self.sparsity)

    @property
    def searches(self) -> bool:
        """Whether the amount is to be found: as much as ``max_drop`` allows."""
        return self.asks_for_nothing and self.max_drop is not None

    @property
    def removes_units(self) -> bool:
        """Whether units or blocks are to go, not only single weights."""
        return bool(self.ratio or self.target or self.heads or self.blocks or self.ratios)


def from_flags(given: Mapping[str, object]) -> Options:
    """Read options as a user writes them, on the command line, in a recipe or as keywords.

    Args:
        given: values by flag name (``max-ratio`` or ``max_ratio``): text or the final type.

    Raises:
        OnnxpruneError: a name is unknown (the message suggests one) or a value cannot be read.
    """
    read: dict[str, object] = {}
    for name, value in given.items():
        key = name.replace("-", "_")
        if key not in _READERS:
            known = [flag(each) for each in _READERS]
            raise OnnxpruneError(f"there is no option {name!r}", hint=suggest(name, known))
        read[key] = None if value is None else _READERS[key](value, f"--{flag(key)}")
    return Options(**cast(dict[str, Any], read))


def flag(name: str) -> str:
    """The name of an option as users write it: ``max_ratio`` is ``max-ratio``."""
    return name.replace("_", "-")


def _text(value: object, of: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise OnnxpruneError(f"{of} {value} is not text", hint=f"write a word after {of}")


def _texts(value: object, of: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence):
        raise OnnxpruneError(f"{of} {value} is not a list", hint="write one text or a list")
    return tuple(_text(each, of) for each in given)


def _anything(value: object, _of: str) -> object:
    return value


def _switch(value: object, of: str) -> bool:
    if isinstance(value, bool):
        return value
    raise OnnxpruneError(f"{of} {value} is neither true nor false", hint="write true or false")


def _ratios(value: object, of: str) -> tuple[tuple[str, float], ...]:
    pairs: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        pairs += [(str(glob), ratio) for glob, ratio in value.items()]
    else:
        for text in _texts(value, of):
            glob, equals, amount = text.rpartition("=")
            if not (glob and equals):
                raise OnnxpruneError(
                    f"{of} {text} does not say how much",
                    hint=f"write it as in {of} 'layer1*=0.3'",
                )
            pairs.append((glob, amount))
    read: dict[str, float] = {}
    for glob, ratio in pairs:
        read.pop(glob, None)  # said again, it is the last word: also over globs in between
        read[glob] = fraction(ratio, of=f"{of} {glob}=")
    return tuple(read.items())


def _one_of(known: tuple[str, ...]) -> Callable[[object, str], str]:
    def read(value: object, of: str) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise OnnxpruneError(f"{of} {value} is not known", hint=suggest(str(value), known))

    return read


def _round_to(value: object, of: str) -> int | Literal["auto"]:
    return "auto" if value == "auto" else count(value, of=of, least=1)


def _path(value: object, of: str) -> object:
    return value if isinstance(value, os.PathLike) else _text(value, of)


def _smallest(value: object, of: str) -> str:
    """A kind of budget, as in ``macs``, ``bytes`` or ``latency@cpu``."""
    kind, at, backend = _text(value, of).partition("@")
    if kind not in COST_KINDS or bool(at) != COST_KINDS[kind].timed or (at and not backend):
        known = [f"{name}@cpu" if each.timed else name for name, each in COST_KINDS.items()]
        raise OnnxpruneError(f"{of} {value} is not known", hint=suggest(kind, known))
    return f"{kind}{at}{backend}"


def _metric(value: object, of: str) -> object:
    return value if callable(value) else _text(value, of)


def _ratio(value: object, of: str) -> float:
    return fraction(value, of=of)


def _count(value: object, of: str) -> int:
    return count(value, of=of)


def _positive(value: object, of: str) -> int:
    return count(value, of=of, least=1)


_READERS: dict[str, Callable[[object, str], object]] = {
    "ratio": _ratio,
    "target": lambda value, of: budget(value, of=of),
    "heads": _ratio,
    "blocks": _count,
    "max_blocks": _count,
    "sparsity": lambda value, of: sparsity(value, of=of),
    "ratios": _ratios,
    "skip": _texts,
    "skip_small": _positive,
    "skip_first": _count,
    "skip_last": _count,
    "tied": _switch,
    "sparse_method": _one_of(get_args(Method)),
    "sparse_allocation": _one_of(get_args(Spread)),
    "permute": _switch,
    "criterion": _text,
    "allocation": _one_of(get_args(Allocation)),
    "max_ratio": _ratio,
    "steps": _positive,
    "schedule": _one_of(get_args(Schedule)),
    "round_to": _round_to,
    "provider": _text,
    "threads": _positive,
    "calib": _anything,
    "calib_samples": _positive,
    "batch": _positive,
    "labels": _anything,
    "metric": _metric,
    "preprocess": _anything,
    "recover": _one_of(get_args(Recover)),
    "allow_inexact": _switch,
    "seed": _count,
    "cache": _switch,
    "max_drop": _ratio,
    "shapes": lambda value, of: shapes(value, of=of),
    "store": _one_of(get_args(Store)),
    "sensitivity": _path,
    "smallest": _smallest,
}
"""How each option is read; its keys are exactly the fields of `Options`."""

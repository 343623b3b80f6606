"""Every option of every command, declared once.

The command line, recipes, the Python functions with their stub, ``onnxprune help``, the JSON schema
of recipes and the reference in ``docs`` are made from the fields of the classes below.
"""

from __future__ import annotations

import functools
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, cast, get_args

from onnxprune.errors import (
    OnnxpruneError,
    as_keywords,
    declare_keyword,
    in_python,
    stated,
    suggest,
    warn_caller,
)
from onnxprune.quantities import (
    ANYTHING,
    BACKEND,
    BLANK,
    BUDGET,
    BYTES,
    CAPABILITIES,
    COST_KINDS,
    COUNT,
    COUNTS,
    DETECTOR,
    FRACTION,
    FRACTIONS,
    GLOBS,
    KEPT_IDS,
    KEPT_INDICES,
    METRIC,
    NAMES,
    PATH,
    POSITIVE,
    RATIOS,
    ROUND_TO,
    RUNTIME,
    SHAPES,
    SMALLEST,
    SPARSITY,
    SWITCH,
    TARGET,
    TEXT,
    TOKEN,
    WORKERS,
    Budget,
    KeptIds,
    KeptIndices,
    Method,
    Reader,
    Sparsity,
    Spread,
    one_of,
    some_of,
)
from onnxprune.types import FORMATS, METRICS, PREPROCESSING, RUNTIMES, provider_of

Config = TypeVar("Config")

Store = Literal["auto", "dense", "sparse", "packed", "external"]
Values = Literal["exact", "fp32", "fp16", "int8"]
Allocation = Literal["uniform", "global"]
Schedule = Literal["linear", "cubic"]
Recover = Literal["auto", "none", "bias", "lstsq", "pcg"]
Ranges = Literal["minmax", "percentile", "entropy"]
Kind = Literal["groups", "blocks", "weights"]
Precision = Literal["asis", "fp16", "bf16"]
Runtime = Literal["tensorrt", "tensorrt_rtx"]
FilePath = str | os.PathLike[str]


DEFAULTS: Mapping[str, Mapping[str, object]] = {"sensitivity": {"calib_samples": 512, "workers": 1}}
"""Defaults of a Python function that are not those of the class."""


# --- how options are declared ----------------------------------------------------------------

DOC_WIDTH = 96
"""Columns of docstrings, which the stub indents by four more."""

_WORDS = {
    "preprocess": tuple(PREPROCESSING),
    "metric": tuple(METRICS),
    "vocab": ("calib", "top=8000", "ids:keep.txt"),
    "unknown": ("100",),
    "keep_outputs": ("logits=0,2,7",),
}
"""Values that messages name as examples, where the reader takes others too."""


@dataclass(frozen=True)
class Option:
    """What there is to know about an option beside its name, its default and its type.

    Attributes:
        reader: how its value is written.
        help: one line; a noun phrase, or a verb phrase for a switch.
        details: more sentences, for ``onnxprune help`` and the reference.
        group: the heading it stands under.
        everyday: whether the short help shows it.
        unset: the default in words, where the value itself says little.
        absent: the flag's value where nothing follows it; None demands a value.
        switches: flags that stand for one of the values each.
        former: names it had before; they work for one version.
        ends: what the help of a command adds to the line, by command.
    """

    reader: Reader
    help: str
    details: str = ""
    group: str = ""
    everyday: bool = False
    unset: str = ""
    absent: str | None = None
    switches: tuple[str, ...] = ()
    former: tuple[str, ...] = ()
    ends: Mapping[str, str] = field(default_factory=dict)


class _Group:
    """Declares the options of one heading."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        default: object,
        reader: Reader,
        help: str,  # noqa: A002 the name that argparse gives it
        details: str = "",
        **settings: Any,  # noqa: ANN401 fields of Option
    ) -> Any:  # noqa: ANN401 a field of any type
        declared = Option(reader, help, details, self.name, **settings)
        if isinstance(default, dict):
            return field(default_factory=dict, metadata={"option": declared})
        return field(default=default, metadata={"option": declared})


_amount = _Group("how much to remove")
_choice = _Group("what to remove")
_check = _Group("recovery and checks")
_data = _Group("data")
_files = _Group("files")
_int8 = _Group("quantization")
_sweep = _Group("what is measured")
_work = _Group("where it runs")
_storage = _Group("storage")
_timing = _Group("measurement")
_engine = _Group("engine")


def flag(name: str) -> str:
    """The name of an option as users write it: ``max_ratio`` is ``max-ratio``."""
    return name.replace("_", "-")


def declared(config: type) -> dict[str, Field[Any]]:
    """The options of a class, by name."""
    return {each.name: each for each in fields(config) if "option" in each.metadata}


def option_of(each: Field[Any]) -> Option:
    """How an option is declared."""
    return cast(Option, each.metadata["option"])


def spelling(each: Field[Any]) -> str:
    """The flag of an option; that of a switch which is on by default turns it off."""
    return f"--no-{flag(each.name)}" if each.default is True else f"--{flag(each.name)}"


def default_of(each: Field[Any]) -> object:
    """The value of an option that is not given."""
    return {} if each.default is MISSING else each.default  # a dictionary has a factory


def default_text(each: Field[Any], command: str = "") -> str:
    """The default as help says it, for one command; empty where there is nothing to say."""
    value = DEFAULTS.get(command, {}).get(each.name, default_of(each))
    told = option_of(each).unset
    if told or value is None or isinstance(value, bool | Mapping) or value in ((), ""):
        return told
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def help_of(each: Field[Any], command: str) -> str:
    """One line on an option, for one command."""
    option = option_of(each)
    return option.help + option.ends.get(command, "")


def sentence(text: str, words: Iterable[str] = ()) -> str:
    """A line of help as a sentence; a value at its start stays as it is written.

    Args:
        text: of the help.
        words: values of the option.
    """
    first = re.split(r"[\s:,]", text, maxsplit=1)[0]
    start = text[:1] if first in tuple(words) else text[:1].upper()
    return f"{start}{text[1:].rstrip('.')}."


def about(each: Field[Any], command: str) -> str:
    """What the flag of an option does, for one command: sentences."""
    option = option_of(each)
    line = help_of(each, command)
    first = sentence(f"do not {line}" if each.default is True else line, option.reader.words)
    return " ".join(filter(None, (first, option.details)))


def describe_option(each: Field[Any], command: str = "") -> list[str]:
    """An option in the list of a docstring."""
    option = option_of(each)
    default = f" (default: {text})" if (text := default_text(each, command)) else ""
    details = f" {option.details}" if option.details else ""
    text = f"{each.name}: {help_of(each, command)}{default}.{details}"
    return textwrap.wrap(
        as_keywords(text), DOC_WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _declares(config: type[Config]) -> type[Config]:
    """Describe the options of a class in its docstring, and read their values where it is made.

    Values that Python code gives are then read as those of the command line and of recipes are.
    """
    options = declared(config)
    for name, each in options.items():
        option = option_of(each)
        switch = str(not each.default) if not option.reader.metavar else ""
        words = (*option.reader.words, *_WORDS.get(name, ()))
        declare_keyword(spelling(each), name, value=switch, words=words)
        for former in option.former:
            declare_keyword(f"--{former}", former, words=words)
    config.__doc__ = "\n".join([config.__doc__ or "", "", "Attributes:"])
    command = "prune" if config.__name__ == "Options" else ""
    for each in options.values():
        config.__doc__ += "\n" + "\n".join(describe_option(each, command))
    names = [each.name for each in fields(config)]  # type: ignore[arg-type]
    plain = config.__init__

    @functools.wraps(plain)
    def read_values(self: Config, *values: object, **more: object) -> None:
        known = dict(zip(names, values, strict=False)) | more
        if len(known) < len(values) + len(more) and len(values) <= len(names):
            twice = next(name for name in names[: len(values)] if name in more)
            raise OnnxpruneError(f"{twice} is given twice", hint="give it by name only")
        if len(values) > len(names) or (unknown := set(known) - set(names)):
            word = min(unknown) if len(values) <= len(names) else repr(values[-1])
            raise OnnxpruneError(
                f"{config.__name__} have no option {word!r}", hint=suggest(word, options)
            )
        plain(self, **{name: _value(options.get(name), each) for name, each in known.items()})

    config.__init__ = read_values  # type: ignore[method-assign, assignment]
    return config


def _value(each: Field[Any] | None, value: object, of: str = "") -> object:
    """The final value of an option, of one that a user gave; None stands for the default."""
    if each is None:
        return value
    default = default_of(each)
    if value is None or (type(value) is type(default) and value == default):
        return default
    return option_of(each).reader.parse(value, of or f"--{flag(each.name)}")


# --- the options of the inputs, which most commands share -------------------------------------

_CALIB = "calibration inputs: .npz, .npy, a folder or module.py:function"
_CALIB_MORE = (
    "An .npz has one array per input, with the samples along the first axis. A folder holds "
    "arrays, pictures or ONNX test data. In Python, batches: mappings from input names to arrays. "
    "Labels are not needed."
)
_PREPROCESS = "preprocessing of pictures: imagenet, cifar10, clip or module.py:function"
_LABELS = "labels of the calibration inputs: .npy, .npz, .txt or .csv"
_METRIC = "metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function"
_METRIC_MORE = (
    "`onnxprune help metric` lists all; several outputs need a name, as in accuracy@logits."
)
_DETECTOR = "layout of a detector's outputs, for --metric map: yolov5, yolov8, yolox, ssd, detr"
_VOCABULARY = "text of the tokens, for --metric cer and wer: one per line, or JSON"
_BLANK = "number of the token of CTC outputs that stands for nothing, or last"
_THRESHOLD = "least probability of a class that is present, for --metric f1 of sigmoids"
_EVAL = "inputs that judge the result, in any form that --calib takes; nothing is fitted to them"
_EVAL_MORE = (
    "All of --calib is then fitted to; without --eval, a tenth of it is held out to judge. It may "
    "be given alone: then nothing is fitted, and the result is judged all the same."
)
_EVAL_LABELS = "labels of the --eval inputs, in any form that --labels takes"
_SLICES = "group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv"
_SLICES_MORE = (
    "One name or number per sample: of --eval where that is given, else of --calib. A group that "
    "collapses makes the result degraded."
)
_SEED = "random seed"
_SHAPES = "sizes of inputs that the model leaves open, e.g. input=1x3x224x224"
_SKIP = "names to leave alone: groups, blocks, weights"
_CERTIFICATE = "write NAME.certificate.json beside the model, for `onnxprune verify`"
_CERTIFICATE_MORE = (
    "It holds the plan, the verdicts, and digests of the model, the dense model and the samples; "
    "the metadata of the model hold the digests."
)
_FORMER_BACKEND = ("provider", "on", "for")

_JUDGES = ("eval", "eval_labels", "slices")
INPUTS = (
    *("calib", "calib_samples", "batch", "memory", "preprocess", "eval", "eval_labels", "seed"),
    "backend",
)
"""Options that say where inputs come from and what runs the model."""


# --- prune, apply, recover -------------------------------------------------------------------


@_declares
@dataclass(frozen=True)
class Options:
    """Everything that `prune` can be asked for; `apply`, `recover` and others take some of it.

    At least one amount is needed; ``ratio`` and ``target`` exclude each other. Names are those of
    the flags, with underscores.

    Raises:
        OnnxpruneError: a value is out of range or two of them contradict each other.
    """

    ratio: float | None = _amount(
        None, FRACTION, "share of the units of every group to remove, e.g. 0.3 or 30%",
        everyday=True,
    )  # fmt: skip
    target: Budget | None = _amount(
        None, BUDGET, "size of the result: macs=50%, params=1.2M, bytes=4MiB, latency=0.5x@cpu",
        "Amounts are absolute (1.2M, 4MiB, 5ms) or relative to the dense model (50%, 0.5x). A "
        "latency names the backend it is measured on, as in latency=5ms@openvino.",
        everyday=True,
    )  # fmt: skip
    heads: float | None = _amount(
        None, FRACTION, "share of all attention heads to remove, e.g. 25%",
        "With allocation global, the heads whose removal costs least go, wherever they are.",
        everyday=True,
    )  # fmt: skip
    blocks: int = _amount(0, COUNT, "number of residual blocks to bypass")
    sparsity: Sparsity | None = _amount(
        None, SPARSITY, "zeros among the remaining weights: 50%, or 2:4 (2 of every 4 are kept)",
        everyday=True,
    )  # fmt: skip
    ratios: tuple[tuple[str, float], ...] = _amount(
        (), RATIOS, "share for the groups that match a name, e.g. 'layer1*=0.3'",
        "The last match wins, over all other amounts. With allocation global it is a share of "
        "the units of all groups of one kind that match.",
    )  # fmt: skip
    vocab: tuple[KeptIds, ...] = _amount(
        (), KEPT_IDS, "token ids to keep: ids:FILE, tokens:FILE, calib or top=N",
        "calib keeps the ids that occur in --calib, top=N the N most frequent of them; several "
        "are joined. The input with the largest vocabulary is meant; others are named in front, "
        "as in segment_ids=calib. Special tokens of --tokenizer stay. The result takes new ids, "
        "which NAME.interface.json maps.",
        everyday=True,
    )  # fmt: skip
    keep_outputs: tuple[KeptIndices, ...] = _amount(
        (), KEPT_INDICES, "classes to keep of an output, e.g. logits=0,2,5-7 or labels",
        "Labels are those in the metadata of the model, or of a file: logits=@labels.txt:cat,dog. "
        "Of detectors, classes are counted without coordinates and background (--detector names "
        "the layout). The other outputs stay.",
        everyday=True,
    )  # fmt: skip
    keep_ids: bool = _amount(
        False, SWITCH, "let a model with a smaller --vocab take the old ids",
        "The file then maps ids itself: removed ones are read as the unknown token, and outputs "
        "over the vocabulary keep their size, with the lowest value where an id is removed.",
    )  # fmt: skip
    unknown: int | str | None = _amount(
        None, TOKEN, "id or token that removed ids are read as", unset="that of --tokenizer"
    )
    smallest: str = _amount(
        "macs", SMALLEST, "cost that --max-drop alone minimises: macs, params, bytes, latency@cpu"
    )
    max_ratio: float = _amount(0.8, FRACTION, "largest share of any one group to remove")
    max_blocks: int | None = _amount(
        None, COUNT, "most blocks that --target may bypass, given --calib; 0 forbids it",
        "Blocks go only where calibration data say that this costs clearly less than narrower "
        "layers.",
        unset="any number",
    )  # fmt: skip
    steps: int = _amount(
        1, POSITIVE, "number of steps; the model is recovered and measured anew after each"
    )
    schedule: Schedule = _amount(
        "cubic", one_of(Schedule), "pace of --steps: linear, or cubic (most at first)"
    )
    threads: int | None = _amount(
        None, POSITIVE, "threads that a latency is measured with", unset="the backend's choice"
    )
    skip: tuple[str, ...] = _choice((), GLOBS, _SKIP, everyday=True)
    skip_small: int | None = _choice(
        None, POSITIVE, "--sparsity skips layers with fewer inputs or outputs than N (256)",
        "Inputs count once per kernel position.",
        absent="256",
    )  # fmt: skip
    skip_first: int = _choice(0, COUNT, "--sparsity skips the first N layers")
    skip_last: int = _choice(0, COUNT, "--sparsity skips the last N layers")
    tied: bool = _choice(
        False, SWITCH, "apply N:M to tables that are looked up too (tied embeddings)"
    )
    sensitivity: FilePath | None = _choice(
        None, PATH, "meet --target by a file of `onnxprune sensitivity --json`",
        "What was measured there stands in for error curves.",
    )  # fmt: skip
    criterion: str | None = _choice(
        None, TEXT, "importance of units, as `onnxprune help criterion` lists it",
        unset="the best that the data allow",
    )  # fmt: skip
    allocation: Allocation | None = _choice(
        None, one_of(Allocation), "uniform: the same share of every group; global: by importance",
        "The default is global for a target, and for heads and ratios with calibration data; "
        "uniform for a ratio.",
    )  # fmt: skip
    sparse_method: Method | None = _choice(
        None, one_of(Method), "choice of weights: magnitude, wanda, ria, sparsegpt or admm",
        unset="the best that the data allow",
    )  # fmt: skip
    sparse_allocation: Spread | None = _choice(
        None, one_of(Spread),
        "sparsity of each layer: per-tensor, per-row, global, curves, sensitivity",
        "curves: by the error of each layer; sensitivity: by its effect on the outputs, the "
        "default with calibration data; per-tensor is the default without. No effect with N:M.",
    )  # fmt: skip
    permute: bool = _choice(False, SWITCH, "reorder channels so that N:M costs less")
    round_to: int | Literal["auto"] = _choice(
        "auto", ROUND_TO, "keep multiples of N units; auto: what is fast on the backend"
    )
    allow_inexact: bool = _choice(
        False, SWITCH, "also remove units that a normalisation averages over",
        "The result then differs from the masked original, so the check cannot hold it to that.",
    )  # fmt: skip
    interface: bool = _choice(
        False, SWITCH, "also offer what changes graph inputs and outputs",
        "Widths of embeddings and heads with a cache, say; the result comes with a map of what "
        "changed. Vocabularies and classes are removed by --vocab and --keep-outputs.",
        ends={"inspect": ", and what that adds"},
    )  # fmt: skip
    recover: Recover = _check(
        "auto", one_of(Recover), "recovery by calibration data: auto, lstsq, pcg, bias, none",
        "bias: biases, BatchNormalization statistics, and gains of normalisations that lost "
        "channels. lstsq: every layer by least squares too. pcg: the same, single weights by "
        "conjugate gradients. auto: layers also together with the ones before them, single "
        "weights by conjugate gradients and then as a whole by gradients of the outputs. Changes "
        "stay only where held-out inputs agree that they help.",
        everyday=True,
    )  # fmt: skip
    max_drop: float | None = _check(
        None, FRACTION, "maximum accepted metric drop, e.g. 1%",
        "Without labels it is a drop of agreement with the original.",
        everyday=True, ends={"prune": "; alone, prune as far as it allows"},
    )  # fmt: skip
    calib: object | None = _data(None, ANYTHING, _CALIB, _CALIB_MORE, everyday=True)
    calib_samples: int = _data(2048, POSITIVE, "most calibration samples used")
    batch: int = _data(32, POSITIVE, "samples per run")
    memory: int | None = _data(
        None, BYTES, "most memory for work on calibration data, e.g. 2GB",
        "It bounds samples, values inside the network and second moments together. Layers that "
        "are too wide for it are priced by the variances of their inputs and keep their weights; "
        "notes name them. Results depend on this amount, never on the memory that is free.",
        unset="4GB, or less where less is free",
    )  # fmt: skip
    preprocess: object | None = _data(None, ANYTHING, _PREPROCESS, everyday=True)
    labels: object | None = _data(None, ANYTHING, _LABELS, everyday=True)
    metric: str | Callable[..., float] = _data("accuracy", METRIC, _METRIC, _METRIC_MORE)
    detector: str | None = _data(None, DETECTOR, _DETECTOR, unset="told from the outputs")
    vocabulary: object | None = _data(None, ANYTHING, _VOCABULARY)
    blank: int | Literal["last"] = _data(0, BLANK, _BLANK)
    threshold: float = _data(0.5, FRACTION, _THRESHOLD)
    eval: object | None = _data(None, ANYTHING, _EVAL, _EVAL_MORE, everyday=True)
    eval_labels: object | None = _data(None, ANYTHING, _EVAL_LABELS, everyday=True)
    slices: object | None = _data(None, ANYTHING, _SLICES, _SLICES_MORE)
    tokenizer: FilePath | None = _data(
        None, PATH, "tokenizer of the model, written anew for --vocab: a file or folder",
        "tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece .model. What "
        "is written lies beside the output; the files that are given stay as they are.",
        everyday=True,
    )  # fmt: skip
    backend: str = _data(
        "cpu", BACKEND, "backend to run on, as `onnxprune bench --list` names them",
        everyday=True, former=_FORMER_BACKEND,
    )  # fmt: skip
    seed: int = _data(0, COUNT, _SEED)
    shapes: Mapping[str, tuple[int, ...]] = _data({}, SHAPES, _SHAPES)
    store: Store = _files(
        "dense", one_of(Store, "FORM"), "form of weights: dense, sparse, packed, external, auto",
        "sparse is sparse_initializer; packed is decoded by standard operators at load; external "
        "is dense, beside the model; auto is the smallest for each weight. The outputs are the "
        "same in all of them.",
    )  # fmt: skip
    cache: bool = _files(
        True, SWITCH, "keep error curves for later runs on the same model and inputs",
        "$ONNXPRUNE_CACHE says where.",
    )  # fmt: skip
    certificate: bool = _files(True, SWITCH, _CERTIFICATE, _CERTIFICATE_MORE)
    written: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    """What a user gave, as it was written, for recipes."""
    stand_in: str = field(default="", repr=False, compare=False)
    """The execution provider that runs models here, where the backend itself is none."""
    scarce: bool = field(default=False, repr=False, compare=False)
    """Whether ``memory`` is what was free, which is less than the default."""

    def __post_init__(self) -> None:
        _refuse_if(
            self.ratio is not None and self.target is not None,
            "--ratio and --target both say how much to remove",
            "give one of them",
        )
        _refuse_if(
            self.max_ratio >= 1,
            f"--max-ratio {self.max_ratio:g} would let a group lose all its units",
            "choose less than 1, or drop whole branches with --blocks",
        )
        amounts = [("--ratio ", self.ratio, ""), ("--heads ", self.heads, "")]
        amounts += [(f"--ratios '{glob}=", ratio, "'") for glob, ratio in self.ratios]
        for start, ratio, end in amounts:
            _refuse_if(
                ratio is not None and ratio > self.max_ratio,
                f"{start}{ratio or 0:g}{end} is above --max-ratio {self.max_ratio:g}",
                "ask for less, or raise --max-ratio",
            )
        self._check_interface()
        self._check_measured()
        self._check_sparsity()
        _refuse_without_inputs(self)
        self._check_search()
        timed = self.searches and COST_KINDS[self.smallest.partition("@")[0]].timed
        timed = timed or (self.target is not None and self.target.timed)
        _refuse_if(
            self.threads is not None and not timed,
            "--threads is about how a latency is measured, and none is asked for",
            "ask for one with it, as in --target latency=0.5x@cpu",
        )

    def _check_interface(self) -> None:
        """Refuse options about vocabularies that lack one, or what they are read from."""
        timed = self.target is not None and self.target.timed
        _refuse_if(
            self.interface and (self.narrows or self.steps > 1 or timed or self.searches),
            "--interface chooses units once, by a share or a size",
            "leave --vocab, --keep-outputs, --steps and latencies to a run of their own",
        )
        own = {
            "--keep-ids": self.keep_ids,
            "--unknown": self.unknown is not None,
            "--tokenizer": self.tokenizer is not None,
        }
        lonely = next((name for name, is_given in own.items() if is_given), "")
        _refuse_if(
            bool(lonely) and not self.vocab,
            f"{lonely} is about a smaller vocabulary, and none is asked for",
            "say which ids stay, as in --vocab calib",
        )
        for each in self.vocab:
            name = stated("--vocab", str(each))
            _refuse_if(
                each.form in ("calib", "top") and self.calib is None,
                f"{name} counts the ids of calibration inputs, and there are none",
                "give some with --calib, or name the ids, as in --vocab ids:keep.txt",
            )
            _refuse_if(
                each.form == "tokens" and self.tokenizer is None,
                f"{name} names tokens, and nothing says which ids they have",
                "give the tokenizer with --tokenizer, or ids, as in --vocab ids:keep.txt",
            )
        _refuse_if(
            isinstance(self.unknown, str) and self.tokenizer is None,
            f"{stated('--unknown', self.unknown)} is a token, and nothing says which id it has",
            "give the tokenizer with --tokenizer, or the id, as in --unknown 100",
        )

    def _check_sparsity(self) -> None:
        """Refuse options about single weights that have none to act on."""
        pattern = self.sparsity is not None and bool(self.sparsity.m)
        _refuse_if(
            self.tied and not pattern,
            "--tied is about N:M in tables that are looked up too",
            "ask for a pattern with it, as in --sparsity 2:4",
        )
        _refuse_if(
            self.permute and not pattern,
            "--permute has nothing to gain without groups of weights",
            "ask for a pattern with it, as in --sparsity 2:4",
        )
        _refuse_if(
            self.sparsity is None and bool(self.skip_small or self.skip_first or self.skip_last),
            "--skip-small, --skip-first and --skip-last are about single weights",
            "ask for some to go, as in --sparsity 2:4, or leave units with --skip",
        )
        _refuse_if(
            self.sparse_method not in (None, "magnitude") and self.calib is None,
            f"--sparse-method {self.sparse_method} looks at what the layers read",
            "give inputs with --calib, or take --sparse-method magnitude",
        )
        _refuse_if(
            self.sparse_allocation in ("curves", "sensitivity") and self.calib is None,
            f"--sparse-allocation {self.sparse_allocation} measures what each layer loses",
            "give inputs with --calib, or take --sparse-allocation global",
        )

    def _check_measured(self) -> None:
        """Refuse decisions by measured error that have nothing to measure on."""
        several = self.steps > 1
        _refuse_if(
            several and (self.calib is None or self.criterion is not None),
            f"--steps {self.steps} measures what is lost after each step",
            "give inputs with --calib and no --criterion",
        )
        _refuse_if(
            several and not (self.ratio or self.target or self.heads or self.ratios),
            f"--steps {self.steps} has no units to remove little by little",
            "say how many go, as in --target macs=50%",
        )
        _refuse_if(
            several and self.target is not None and self.target.timed,
            f"--steps {self.steps} cannot go to a latency: that is measured on whole plans",
            "ask for the latency alone, or for steps to macs, params or bytes",
        )
        _refuse_if(
            bool(self.max_blocks) and (self.calib is None or not (self.target or self.searches)),
            f"--max-blocks {self.max_blocks} limits what a target takes by measured error",
            "give --target and --calib too, or bypass blocks yourself with --blocks",
        )

    def _check_search(self) -> None:
        """Refuse what only makes sense where a budget is met or searched for."""
        _refuse_if(
            self.sensitivity is not None and self.target is None and not self.searches,
            "--sensitivity says what groups cost, which only a budget asks for",
            "give --target macs=50% with it",
        )
        _refuse_if(
            self.sensitivity is not None and self.criterion is not None,
            "--sensitivity and --criterion both say which units go",
            "give one of them",
        )
        _refuse_if(
            self.smallest != "macs" and not self.searches,
            "--smallest says what is made small where --max-drop decides how far",
            "leave it out, or give --max-drop 1% and no amount",
        )
        _refuse_if(
            self.searches and self.calib is None and self.eval is None,
            "--max-drop is judged on inputs, and there are none",
            "give inputs with --calib or --eval; `onnxprune prune` can also be told how much to "
            "remove",
        )

    @property
    def provider(self) -> str:
        """The execution provider of onnxruntime that runs models while they are pruned."""
        return self.stand_in or self.platform

    @property
    def platform(self) -> str:
        """The backend without a precision: what `openvino:f16` and `ort-openvino` share."""
        return self.backend.lower().partition(":")[0].removeprefix("ort-")

    @property
    def asks_for_nothing(self) -> bool:
        """Whether no amount to remove is given at all."""
        return not (self.removes_units or self.sparsity or self.narrows)

    @property
    def narrows(self) -> bool:
        """Whether ids or classes are to leave the interface, by name."""
        return bool(self.vocab or self.keep_outputs)

    @property
    def fits(self) -> bool:
        """Whether weights may be fitted to data."""
        return self.calib is not None

    @property
    def searches(self) -> bool:
        """Whether the amount is to be found: as much as ``max_drop`` allows."""
        return self.asks_for_nothing and self.max_drop is not None

    @property
    def removes_units(self) -> bool:
        """Whether units or blocks are to go, not only single weights."""
        return bool(self.ratio or self.target or self.heads or self.blocks or self.ratios)


NO_AMOUNT = "nothing says how much to remove"
AMOUNTS = (
    "add --ratio 0.3, --target macs=50%, --heads 0.25, --blocks 1 or --sparsity 2:4; or "
    "--max-drop 1%, which finds out"
)


def _refuse_if(wrong: bool, message: str, hint: str) -> None:  # noqa: FBT001
    if wrong:
        raise OnnxpruneError(message, hint=hint)


def _refuse_without_inputs(config: Options | BenchOptions | AdviseOptions) -> None:
    """Refuse options about inputs where there are none."""
    labels, judges = (getattr(config, name, None) for name in ("labels", "eval"))
    _refuse_if(
        labels is not None and judges is not None and getattr(config, "eval_labels", None) is None,
        "--labels belong to --calib, and --eval judges",
        "give the labels of the --eval inputs with --eval-labels",
    )
    _refuse_if(
        labels is not None and config.calib is None,
        "--labels needs the inputs they belong to",
        "give those with --calib",
    )
    _refuse_if(
        config.preprocess is not None and config.calib is None and judges is None,
        "--preprocess needs the inputs that it prepares",
        "give those with --calib",
    )
    _refuse_if(
        getattr(config, "eval_labels", None) is not None and judges is None,
        "--eval-labels needs the inputs they belong to",
        "give those with --eval; labels of --calib are --labels",
    )
    _refuse_if(
        getattr(config, "slices", None) is not None and config.calib is None and judges is None,
        "--slices groups the samples that judge, and there are none",
        "give some with --eval or --calib",
    )


# --- the other commands ----------------------------------------------------------------------


@_declares
@dataclass(frozen=True)
class QuantizeOptions:
    """How `quantize` makes a model INT8."""

    backend: str = _int8(
        "cpu", TARGET, "backend to quantize for, e.g. cpu, openvino, openvino-sparse, tensorrt",
        "openvino-sparse lays weights out as [N,K]. An execution provider, as in cuda, also runs "
        "the model while ranges are measured and outputs compared; the CPU does so otherwise.",
        everyday=True, former=_FORMER_BACKEND,
    )  # fmt: skip
    dynamic: bool = _int8(
        False, SWITCH, "quantize activations at run time; needs no --calib", everyday=True
    )
    per_tensor: bool = _int8(False, SWITCH, "one scale per weight instead of one per output")
    reduce_range: bool = _int8(
        False, SWITCH, "7-bit weights, for x86 without VNNI, whose 16-bit sums saturate"
    )
    ranges: Ranges = _int8(
        "minmax", one_of(Ranges), "ranges of activations: minmax, percentile or entropy"
    )
    ops: Literal["linear", "all"] | None = _int8(
        None, one_of(Literal["linear", "all"]),
        "linear: products and convolutions only; all: what lies between too",
        unset="all for networks of convolutions",
    )  # fmt: skip
    skip: tuple[str, ...] = _int8((), GLOBS, "names of nodes and weights that stay float")

    @property
    def format(self) -> str:
        """Whose habits the model is written for."""
        own = self.backend == "trtexec" or self.backend.partition(":")[0] in RUNTIMES
        base = provider_of(self.backend).removesuffix("-rtx") if own else self.backend
        return base if base in FORMATS else "cpu"


@_declares
@dataclass(frozen=True)
class SensitivityOptions:
    """What `sensitivity` measures, and where it runs."""

    ratios: tuple[float, ...] = _sweep(
        (0.1, 0.25, 0.5, 0.75, 0.9), FRACTIONS, "shares to remove", everyday=True
    )
    kinds: tuple[Kind, ...] = _sweep(
        get_args(Kind),
        some_of(Kind, "KINDS", "groups,blocks"),
        "what is pruned: some of groups, blocks, weights",
        everyday=True,
    )
    drop: float | None = _sweep(
        None, FRACTION, "metric drop that recommended ratios may cost together, e.g. 1%",
        everyday=True,
    )  # fmt: skip
    workers: int | None = _work(
        None, WORKERS, "number of processes", unset="all cores where it is worth it; 1 in Python"
    )
    dask: str = _work("", TEXT, "address of a Dask scheduler, e.g. tcp://host:8786")

    def __post_init__(self) -> None:
        _refuse_if(not self.ratios, "--ratios is empty", "write some, as in 0.1,0.5,0.9")
        for ratio in self.ratios:
            _refuse_if(
                not 0 <= ratio < 1,
                f"--ratios {ratio:g} would leave nothing",
                "write ratios below 1",
            )
        _refuse_if(
            bool(self.dask) and self.workers not in (None, 1),
            "--workers and --dask both say who does the work",
            "give one of them",
        )


@_declares
@dataclass(frozen=True)
class BenchOptions:
    """What `bench` measures."""

    backend: tuple[str, ...] = _timing(
        ("cpu",), NAMES, "backends, e.g. cpu,openvino", everyday=True, former=_FORMER_BACKEND
    )
    batch: tuple[int, ...] = _timing(
        (), COUNTS, "samples per run, e.g. 1,8", unset="1, or what the model fixes", everyday=True
    )
    threads: tuple[int, ...] = _timing(
        (), COUNTS, "threads of the runtime, e.g. 1,2", unset="its own choice", everyday=True
    )
    skip_missing: bool = _timing(
        False, SWITCH, "measure on the other backends where some cannot be used here",
        "Without it, a backend that cannot be used is an error before anything is measured.",
    )  # fmt: skip
    processes: int = _timing(
        6, POSITIVE, "fresh processes of each model, one after another",
        "A process can be a few percent faster than the next for its whole life, so intervals "
        "take several; with one they are too narrow, and a note says so.",
    )  # fmt: skip
    rounds: int = _timing(
        10, POSITIVE, "interleaved rounds in each process",
        "In a round every model runs for 30 ms (once, if a run takes longer), in random order.",
    )  # fmt: skip
    seed: int = _timing(0, COUNT, _SEED)
    calib: object | None = _data(None, ANYTHING, _CALIB, _CALIB_MORE, everyday=True)
    calib_samples: int | None = _data(
        None, POSITIVE, "most samples that outputs are compared and tasks scored on",
        unset="all with --labels, else 256",
    )  # fmt: skip
    preprocess: object | None = _data(None, ANYTHING, _PREPROCESS, everyday=True)
    labels: object | None = _data(None, ANYTHING, _LABELS, everyday=True)
    metric: str | Callable[..., float] = _data("accuracy", METRIC, _METRIC, _METRIC_MORE)
    detector: str | None = _data(None, DETECTOR, _DETECTOR, unset="told from the outputs")
    vocabulary: object | None = _data(None, ANYTHING, _VOCABULARY)
    blank: int | Literal["last"] = _data(0, BLANK, _BLANK)
    threshold: float = _data(0.5, FRACTION, _THRESHOLD)
    shapes: Mapping[str, tuple[int, ...]] = _data({}, SHAPES, _SHAPES)

    def __post_init__(self) -> None:
        _refuse_without_inputs(self)


@_declares
@dataclass(frozen=True)
class EvalOptions:
    """What `eval` measures a model on, and what it is compared with."""

    data: object | None = _data(
        None, ANYTHING, "inputs: .npz, .npy, a folder or module.py:function",
        "In any form that --calib takes elsewhere.", everyday=True,
    )  # fmt: skip
    labels: object | None = _data(
        None, ANYTHING, "labels of the inputs: .npy, .npz, .txt, .csv; boxes: .json or a folder",
        everyday=True,
    )  # fmt: skip
    metric: str | Callable[..., float] = _data(
        "accuracy", METRIC, _METRIC, _METRIC_MORE, everyday=True
    )
    detector: str | None = _data(
        None, DETECTOR, _DETECTOR, unset="told from the outputs", everyday=True
    )
    vocabulary: object | None = _data(None, ANYTHING, _VOCABULARY, everyday=True)
    blank: int | Literal["last"] = _data(0, BLANK, _BLANK)
    threshold: float = _data(0.5, FRACTION, _THRESHOLD)
    preprocess: object | None = _data(None, ANYTHING, _PREPROCESS, everyday=True)
    slices: object | None = _data(
        None, ANYTHING, _SLICES, "One name or number per sample of --data.", everyday=True
    )
    samples: int | None = _data(None, POSITIVE, "most samples used", unset="all", everyday=True)
    batch: int = _data(32, POSITIVE, "samples per run")
    max_drop: float | None = _check(
        None, FRACTION, "maximum accepted drop against the dense model, e.g. 1%",
        "Without labels it is a drop of agreement with the dense model.", everyday=True,
    )  # fmt: skip
    backend: str = _data(
        "cpu", BACKEND, "backend to run on, as `onnxprune bench --list` names them", everyday=True
    )
    seed: int = _data(0, COUNT, _SEED)
    shapes: Mapping[str, tuple[int, ...]] = _data({}, SHAPES, _SHAPES)


@_declares
@dataclass(frozen=True)
class AdviseOptions:
    """What `advise` looks at."""

    backend: tuple[str, ...] = _timing(
        ("cpu",), NAMES, "backends, e.g. cpu,openvino", everyday=True, former=_FORMER_BACKEND
    )
    batch: int | None = _timing(
        None, POSITIVE, "samples per run", unset="1, or what the model fixes", everyday=True
    )
    threads: int | None = _timing(
        None, POSITIVE, "threads of the runtimes", unset="their own choice", everyday=True
    )
    calib: object | None = _data(None, ANYTHING, _CALIB, _CALIB_MORE, everyday=True)
    preprocess: object | None = _data(None, ANYTHING, _PREPROCESS, everyday=True)
    shapes: Mapping[str, tuple[int, ...]] = _data({}, SHAPES, _SHAPES, everyday=True)

    def __post_init__(self) -> None:
        _refuse_without_inputs(self)


@_declares
@dataclass(frozen=True)
class StoreOptions:
    """How `store` writes weights.

    Raises:
        OnnxpruneError: narrowed values in a form that has no room for a decoder.
    """

    store: Store = _storage(
        "auto", one_of(Store, "FORM"), "form of weights: auto, dense, sparse, packed, external",
        "auto takes the smallest for each weight that all backends read.",
        everyday=True,
    )  # fmt: skip
    values: Values = _storage(
        "exact", one_of(Values), "values of packed floats: exact, fp32, fp16 or int8", everyday=True
    )
    backend: tuple[str, ...] = _storage(
        ("cpu",), NAMES, "backends that have to read it, e.g. cpu,openvino",
        everyday=True, former=_FORMER_BACKEND,
    )  # fmt: skip
    ram_limit: int | None = _storage(
        None, BYTES, "memory for decoding at load", unset="a quarter of this machine's",
        everyday=True,
    )  # fmt: skip
    always: bool = _storage(
        False, SWITCH, "take the form even where it is larger", everyday=True
    )  # fmt: skip
    shapes: Mapping[str, tuple[int, ...]] = _storage({}, SHAPES, _SHAPES, everyday=True)
    certificate: bool = _storage(True, SWITCH, _CERTIFICATE, _CERTIFICATE_MORE)

    def __post_init__(self) -> None:
        _refuse_if(
            self.values != "exact" and self.store not in ("auto", "packed"),
            f"--values {self.values} cannot be had with --store {self.store}: only decoders of "
            "packed weights convert values",
            "take --store packed or auto, or leave --values out",
        )


@_declares
@dataclass(frozen=True)
class BuildOptions:
    """The TensorRT engine that `build` makes."""

    sparse_weights: bool = _engine(
        False, SWITCH, "let TensorRT try 2:4 sparse kernels", everyday=True
    )
    precision: Precision = _engine(
        "asis", one_of(Precision), "convert the graph first: fp16 or bf16",
        "Networks are strongly typed: TensorRT computes in the types that it is given.",
        switches=("fp16", "bf16"), everyday=True,
    )  # fmt: skip
    compute_capability: tuple[tuple[int, int], ...] = _engine(
        (), CAPABILITIES, "GPUs that TensorRT-RTX builds for, e.g. 8.6,8.9,12.0", everyday=True
    )
    shapes: Mapping[str, tuple[int, ...]] = _engine(
        {}, SHAPES, "input sizes to tune for, e.g. input=8x3x224x224", everyday=True
    )
    min_shapes: Mapping[str, tuple[int, ...]] = _engine(
        {}, SHAPES, "smallest input sizes that must work", everyday=True
    )
    max_shapes: Mapping[str, tuple[int, ...]] = _engine(
        {}, SHAPES, "largest input sizes that must work", everyday=True
    )
    runtime: Runtime | None = _engine(
        None, RUNTIME, "tensorrt or tensorrt-rtx", unset="whichever is installed",
        everyday=True,
    )  # fmt: skip


# --- which command takes which ---------------------------------------------------------------

READING = ("detector", "vocabulary", "blank", "threshold")
"""Options that say how outputs are read, for some metrics."""
_RUN = (
    *("calib", "calib_samples", "batch", "memory", "preprocess", "labels", "metric", *READING),
    *("seed", "shapes"),
)

COMMANDS: Mapping[str, Mapping[type, tuple[str, ...]]] = {
    "prune": {Options: tuple(declared(Options))},
    "apply": {Options: ("recover", "max_drop", *_RUN, *_JUDGES, "backend", "store", "certificate")},
    "recover": {Options: ("recover", "max_drop", *_RUN, *_JUDGES, "backend", "certificate")},
    "sensitivity": {
        SensitivityOptions: tuple(declared(SensitivityOptions)),
        Options: (
            *("criterion", "sparse_method", "skip", "allow_inexact", "max_ratio"),
            *(*_RUN, "backend", "cache"),
        ),
    },
    "quantize": {
        QuantizeOptions: tuple(declared(QuantizeOptions)),
        Options: ("max_drop", *_RUN, *_JUDGES, "certificate"),
    },
    "verify": {Options: (*_RUN, "backend")},
    "store": {StoreOptions: tuple(declared(StoreOptions))},
    "densify": {StoreOptions: ("certificate",)},
    "build": {BuildOptions: tuple(declared(BuildOptions)), StoreOptions: ("certificate",)},
    "bench": {BenchOptions: tuple(declared(BenchOptions))},
    "advise": {AdviseOptions: tuple(declared(AdviseOptions))},
    "eval": {EvalOptions: tuple(declared(EvalOptions))},
    "inspect": {Options: ("interface", "shapes")},
    "mask": {Options: ("skip",)},
}
"""The options of each command, by the class that declares them."""


def options_of(command: str) -> Iterator[tuple[str, Field[Any]]]:
    """The options of a command, in the order of help."""
    for config, names in COMMANDS[command].items():
        for name, each in declared(config).items():
            if name in names:
                yield name, each


_COMMAND_LINE = {
    "model": "onnxprune prune MODEL --recipe FILE",
    "output": "-o OUT",
    "o": "-o OUT",
    **{
        name: f"--{flag(name)}"
        for name in ("force", "json", "report", "save_plan", "save_mask", "save_recipe")
    },
}
"""What a recipe cannot say: files and forms of one run."""


def read(
    config: type[Config],
    values: Mapping[str, object],
    origins: Mapping[str, str] | None = None,
    known: Sequence[str] = (),
) -> Config:
    """Options as a user writes them: on the command line, in a recipe or as keywords.

    Args:
        config: the class that declares them.
        values: by flag name (``max-ratio`` or ``max_ratio``): text or the final type.
        origins: where an option was written, for messages, as in ``recipe.yaml, line 3: ratio``.
        known: the options that may be given; all by default.

    Raises:
        OnnxpruneError: a name is unknown (the message suggests one) or a value cannot be read.
    """
    options = declared(config)
    origins = origins or {}
    places: dict[str, str] = {}
    final: dict[str, object] = {}
    sources: dict[str, str] = {}
    for name, value in values.items():
        origin = origins.get(name, "")
        key = current_name(options, name, origin)
        if key not in options or (known and key not in known):
            raise _unknown(name, known or options, origin)
        source = origin or f"--{flag(name)}"
        if not in_python():  # also where the default is empty
            option_of(options[key]).reader.refuse_empty(value, source)
        final_value = _value(options[key], value, source)
        if key in sources and final_value != final[key]:
            raise OnnxpruneError(
                f"{sources[key]} and {source} are one option with two values",
                hint=f"give --{flag(key)} alone",
            )
        sources[key], final[key] = source, final_value
        if origin:
            places[spelling(options[key])] = origin
    if config is Options:
        final["written"] = {flag(name): value for name, value in values.items()}
    try:
        return config(**final)
    except OnnxpruneError as error:
        raise error.at(places) from None


def _unknown(
    name: str, known: Iterable[str], origin: str = "", command: str = "prune"
) -> OnnxpruneError:
    where = origin.rpartition(": ")[0]
    dashes = origin or "-" in name or not in_python()
    names = [flag(each) if dashes else each for each in known]
    list_all = f"onnxprune {command} --help-all" if dashes else f"help(onnxprune.{command})"
    hint = suggest(name, names, f"`{list_all}` lists all")
    key = name.replace("-", "_")
    if where and key in _COMMAND_LINE:
        hint = f"write it on the command line: {_COMMAND_LINE[key]}"
    return OnnxpruneError(
        f"{where}: there is no option {name!r}" if where else f"there is no option {name!r}",
        hint=hint,
    )


def from_flags(values: Mapping[str, object], origins: Mapping[str, str] | None = None) -> Options:
    """The `Options` of a run, as `read` reads them.

    Example:
        >>> from_flags({"max-ratio": "50%"}).max_ratio
        0.5
    """
    return read(Options, values, origins)


def split(command: str, values: Mapping[str, object], *known: object | None) -> list[Any]:
    """The options of a command, one object for each class that declares some of them.

    Args:
        command: as in `COMMANDS`.
        values: options by name, as a user writes them.
        known: objects, in the order of `COMMANDS`, that stand for the options of their class; None
            where there is none.

    Raises:
        OnnxpruneError: a name is unknown, a value cannot be read, or an option is given although
            there is an object of its class.
    """
    declares = {config: declared(config) for config in COMMANDS[command]}
    parts: dict[type, dict[str, object]] = {config: {} for config in declares}
    for name, value in values.items():
        owners = (
            config
            for config, names in COMMANDS[command].items()
            if current_name(declares[config], name, None) in names
        )
        owner = next(owners, None)
        if owner is None:
            raise _unknown(name, [each for each, _ in options_of(command)], command=command)
        parts[owner][name] = value
    defaults, objects = DEFAULTS.get(command, {}), []
    for k, (config, names) in enumerate(COMMANDS[command].items()):
        ready = known[k] if k < len(known) else None
        if ready is not None and parts[config]:
            raise OnnxpruneError(
                f"{next(iter(parts[config]))} is given by name, and {config.__name__} beside it",
                hint="give either the object or the single options",
            )
        usual = {name: value for name, value in defaults.items() if name in names}
        objects.append(ready or read(config, usual | parts[config], known=names))
    return objects


def current_name(options: Mapping[str, Field[Any]], name: str, where: str | None = "") -> str:
    """The name that an option has today; a former name is said to be one.

    Args:
        options: of a class.
        name: that a user wrote.
        where: it was written, for the note; None leaves the note out.
    """
    key = name.replace("-", "_")
    if key in options:
        return key
    for current, each in options.items():
        if key in option_of(each).former:
            if where is not None:
                prefix = where.rpartition(": ")[0]
                message = f"--{flag(key)} is called --{flag(current)} now"
                warn_caller(f"{prefix}: {message}" if prefix else message)
            return current
    return key

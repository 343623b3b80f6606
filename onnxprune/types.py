"""The names users type, checks, verdicts, and outcomes of layers: the vocabulary of all rooms.

The names are here, below their meanings, so that help and options can list and check them without
importing onnx or a runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, TypeAlias

from onnxprune.errors import OnnxpruneError, suggest

PROVIDERS: Mapping[str, str] = {
    name: f"{stem}ExecutionProvider"
    for name, stem in {
        "cpu": "CPU",
        "cuda": "CUDA",
        "tensorrt": "Tensorrt",
        "tensorrt-rtx": "NvTensorRTRTX",
        "openvino": "OpenVINO",
        "dml": "Dml",
        "coreml": "CoreML",
        "rocm": "ROCM",
        "migraphx": "MIGraphX",
        "qnn": "QNN",
        "webgpu": "WebGpu",
        "xnnpack": "Xnnpack",
        "dnnl": "Dnnl",
        "acl": "ACL",
        "cann": "CANN",
        "vitisai": "VitisAI",
    }.items()
}
"""The execution providers of onnxruntime: short names, and onnxruntime's own."""

RUNTIMES = ("openvino", "tensorrt", "tensorrt-rtx")
"""Runtimes with backends of their own; the providers of these names are called ``ort-NAME``."""

_PRECISIONS = {
    "ort-openvino": ("f16", "bf16", "default"),
    "openvino": ("f16", "bf16", "default"),
    "tensorrt": ("f16", "bf16"),
    "tensorrt-rtx": ("f16", "bf16"),
}
_BASES = (*(f"ort-{n}" if n in RUNTIMES else n for n in PROVIDERS), *RUNTIMES, "trtexec")

BACKENDS: tuple[str, ...] = tuple(
    name for base in _BASES for name in (base, *(f"{base}:{p}" for p in _PRECISIONS.get(base, ())))
)
"""The backends that come with onnxprune."""

BACKEND_PLUGINS = "onnxprune.backends"
"""The entry point group by which other packages add theirs."""

_SYNONYMS = {
    "ort-cpu": "cpu",
    "onnxruntime": "cpu",
    "openvino:f32": "openvino",
    "ort-openvino:f32": "ort-openvino",
}

METRICS: Mapping[str, str] = {
    "accuracy": "share of labels that are the best class; class numbers start at 0",
    "top5": "share of labels among the 5 best classes; any number may stand for the 5",
    "mse": "mean squared error, for labels of the shape of an output",
    "nats": "cross-entropy: mean negative natural logarithm of the probability of the label",
    "cross-entropy": "the same as nats",
    "perplexity": "the exponential of nats",
    "f1": "F1 of class 1 of two, or of one sigmoid",
    "f1-macro": "mean of the F1 of all classes",
    "f1-micro": "F1 of the hits and misses of all classes together",
    "spearman": "rank correlation of one number per sample with its label",
    "spearman-pairs": "rank correlation of the cosine of samples 2k and 2k + 1 with their label",
    "cer": "edits per character (or token) of the label; lower is better",
    "wer": "edits per word of the label; lower is better",
    "map": "mean average precision of boxes at overlaps of 50 to 95 %, as COCO has it",
    "map50": "the same at an overlap of 50 %; any number may stand for the 50",
}
"""Built-in metrics, and what they measure."""

DETECTORS: Mapping[str, str] = {
    "yolov5": "yolov5",
    "yolov6": "yolov5",
    "yolov7": "yolov5",
    "yolov8": "yolov8",
    "yolov9": "yolov8",
    "yolov10": "yolov8",
    "yolov11": "yolov8",
    "yolo11": "yolov8",
    "yolov12": "yolov8",
    "yolox": "yolox",
    "ssd": "ssd",
    "detr": "detr",
}
"""Families of detectors, and the one whose outputs have the same layout."""

FORMATS: Mapping[str, str] = {
    "cpu": "unsigned activations, as onnxruntime's x86 kernels like them",
    "openvino": "unsigned activations, as for cpu",
    "openvino-sparse": "large linear weights as [N,K] too, for its sparse INT8 kernel",
    "tensorrt": "symmetric activations, biases left floating point",
}
"""What `quantize` writes for each runtime."""


@dataclass(frozen=True)
class Preset:
    """Preprocessing under a name.

    Attributes:
        spec: what it stands for, as `onnxprune.data.images.parse_preprocess` reads it.
        size: height and width of the image where the model leaves them open.
        summary: whose preprocessing it is.
    """

    spec: str
    size: int
    summary: str


PREPROCESSING: Mapping[str, Preset] = {
    "imagenet": Preset(
        "crop=0.875,scale=255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225",
        224,
        "torchvision's for ImageNet: shorter side 256, centre 224",
    ),
    "cifar10": Preset(
        "scale=255,mean=0.4914:0.4822:0.4465,std=0.2023:0.1994:0.2010",
        32,
        "the usual CIFAR-10 mean and standard deviation, whole image",
    ),
    "clip": Preset(
        "crop=1,interpolation=bicubic,scale=255,"
        "mean=0.48145466:0.4578275:0.40821073,std=0.26862954:0.26130258:0.27577711",
        224,
        "OpenAI CLIP's: shorter side 224 (bicubic), centre 224",
    ),
}
"""Presets of preprocessing by name."""


def provider_name(text: str) -> str:
    """The short name of an execution provider; case does not matter.

    Args:
        text: that name, onnxruntime's own, or the name of the backend (``ort-openvino``).

    Raises:
        OnnxpruneError: no such provider.
    """
    wanted = text.lower().removeprefix("ort-")
    for name, full in PROVIDERS.items():
        if wanted in (name, full.lower(), full.lower().removesuffix("executionprovider")):
            return name
    raise OnnxpruneError(f"'{text}' is not an execution provider", hint=suggest(wanted, PROVIDERS))


def backend_plugins() -> dict[str, EntryPoint]:
    """The entry points of backends that other packages bring, by name."""
    return {point.name.lower(): point for point in entry_points(group=BACKEND_PLUGINS)}


def backend_name(text: str) -> str:
    """The name of a backend as the registry has it; case does not matter.

    Args:
        text: that name, or onnxruntime's own name of an execution provider.

    Raises:
        OnnxpruneError: there is none (the nearest name is suggested).

    Example:
        >>> backend_name("ORT-CPU")
        'cpu'
    """
    wanted = _SYNONYMS.get(text.lower(), text.lower())
    if wanted in BACKENDS or wanted in (plugins := backend_plugins()):
        return wanted
    for name, full in PROVIDERS.items():
        if wanted in (full.lower(), f"ort-{name}"):
            return f"ort-{name}" if name in RUNTIMES else name
    raise OnnxpruneError(
        f"there is no backend '{text}'",
        hint=suggest(wanted, [*BACKENDS, *plugins], "`onnxprune bench --list` lists all"),
    )


def provider_of(backend: str) -> str:
    """The execution provider that a backend is, or that stands for it.

    Example:
        >>> provider_of("openvino:f16"), provider_of("ort-tensorrt"), provider_of("trtexec")
        ('openvino', 'tensorrt', 'tensorrt')
    """
    base = backend.lower().partition(":")[0].removeprefix("ort-")
    return "tensorrt" if base == "trtexec" else base


def metric_name(text: str) -> str:
    """``text``, if it is a built-in metric (``top3``, ``mse@output``) or ``file.py:function``.

    A user's function is not imported.

    Raises:
        OnnxpruneError: there is no such metric.
    """
    name = text.partition("@")[0]
    if ":" in text or name in METRICS or re.fullmatch(r"top[1-9]\d*|map[1-9]\d", name):
        return text
    raise OnnxpruneError(
        f"there is no metric '{text}'",
        hint=suggest(name, [*METRICS, "file.py:function"], "`onnxprune help metric` lists all"),
    )


def is_fraction(metric: str) -> bool:
    """Whether a built-in metric is a share, shown in percent."""
    return re.fullmatch(r"(accuracy|top\d+|f1(-\w+)?|cer|wer|map\d*)(@.*)?", metric) is not None


def is_of_boxes(metric: str) -> bool:
    """Whether a metric compares boxes.

    Most of what a detector computes, where there are no objects, then counts for nothing.
    """
    return re.fullmatch(r"map(\d\d)?(@.*)?", metric) is not None


@dataclass(frozen=True)
class Check:
    """One check; it passes when ``value`` is within ``limit``."""

    name: str
    ok: bool
    value: float
    limit: float


NOTHING_REMOVED = "requests that removed nothing"
"""The check that fails where options ask for a removal and the model stays as it is: how many."""


QualityStatus: TypeAlias = Literal["good", "degraded", "broken", "not measured"]
StructureStatus: TypeAlias = Literal["verified", "failed", "nothing cut", "not checked"]
_ORDER: tuple[QualityStatus, ...] = ("not measured", "good", "degraded", "broken")


@dataclass(frozen=True)
class Structure:
    """Whether a model is what its plan says.

    Attributes:
        status: ``verified`` if every check of the structure passed, ``failed`` if one did not,
            ``nothing cut`` where no unit, block or weight was removed, ``not checked`` where the
            removal changes a normalisation, so that there is nothing equal to compare with.
        reasons: sentences; of a failed check its value and limit.
        checks: how many were made.
    """

    status: StructureStatus
    reasons: tuple[str, ...] = ()
    checks: int = 0


@dataclass(frozen=True)
class Quality:
    """Whether a model still does what the dense one does.

    Attributes:
        status: ``good``, ``degraded``, ``broken`` or ``not measured``.
        reasons: sentences that name what decided, the worst first; empty for ``good``.
        samples: number of samples of the measurement.
        data: which samples, as in ``51 held-out of 512 samples of calib.npz``.
        measure: the task metric; without labels ``agreement`` with the dense model's answers, or
            ``relative squared error`` of the output furthest off; empty if nothing was measured.
        before, after: values of the dense model and of this one.
        drop: what was lost, positive if worse.
        error: standard error of ``drop``; None if unknown.
    """

    status: QualityStatus
    reasons: tuple[str, ...] = ()
    samples: int = 0
    data: str = ""
    measure: str = ""
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    error: float | None = None

    @property
    def broken(self) -> bool:
        """Whether the model is broken."""
        return self.status == "broken"

    def with_findings(self, findings: Iterable[tuple[QualityStatus, str]]) -> Quality:
        """The verdict with further reasons; the worst status counts.

        Example:
            >>> Quality("good").with_findings([("degraded", "class 7 is never found")]).status
            'degraded'
        """
        ranked = sorted(findings, key=lambda each: -_ORDER.index(each[0]))
        if not ranked:
            return self
        worst, reasons = ranked[0][0], tuple(reason for _, reason in ranked)
        if _ORDER.index(worst) <= _ORDER.index(self.status):
            return replace(self, reasons=(*self.reasons, *reasons))
        earlier = () if self.status == "not measured" else self.reasons
        return replace(self, status=worst, reasons=(*reasons, *earlier))

    def __str__(self) -> str:
        return ": ".join((self.status, *self.reasons[:1]))


@dataclass(frozen=True)
class LayerOutcome:
    """The outcome of one layer.

    Attributes:
        layer: its node; of a normalisation too.
        method: of its change. Refits after a cut: ``none`` (nothing was better), ``bias``,
            ``scale``, ``lstsq`` or ``pair``, of a normalisation ``bias``, ``scale``, ``affine`` or
            ``statistics``. Zeros: the method of the mask, ``given`` where it came with the model;
            empty without a mask.
        before: relative squared error of its output on held-out samples, as cut or masked; None
            if not measured.
        after: the same after the change.
        reason: why nothing was tried; empty if it was.
        weight: name of the weight that has zeros; empty for a refit after a cut, and where a node
            was declined before its weight was looked at.
        shape: of that weight, as stored.
        sparsity: share of its entries that is masked.
        refit: method for the remaining weights: ``none``, ``bias``, ``lstsq`` or ``pcg``.
    """

    layer: str
    method: str = ""
    before: float | None = None
    after: float | None = None
    reason: str = ""
    weight: str = ""
    shape: tuple[int, ...] = ()
    sparsity: float = 0.0
    refit: str = "none"


@dataclass(frozen=True)
class TailPart:
    """A part of the samples: a class, a group, or the worst ones.

    Attributes:
        name: of the class or group.
        samples: number of samples; rows, of classes of tokens; labelled boxes, of detectors.
        before: the measure of the dense model; None where it follows (an error of 0) or there is
            no dense model.
        after: the measure of the pruned model.
        error: standard error of the change; None if unknown.
        collapsed: whether it lost far more than the rest.
    """

    name: str
    samples: int
    before: float | None
    after: float
    error: float | None = None
    collapsed: bool = False


@dataclass(frozen=True)
class Tails:
    """Parts of the samples that a mean over all hides.

    Attributes:
        by: what the classes are: ``labels`` or the dense model's ``answers``; empty without any.
        measure: of the classes: ``accuracy`` (or ``top5``, ...), or ``agreement`` with the dense
            model's answers.
        classes: all that have samples, the largest loss first.
        error_measure: of the samples: the metric if it is a loss, else ``divergence`` from the
            dense model's probabilities in nats, or ``relative squared error``.
        all: of all samples; None where they are too few.
        worst: the 5 % whose error rose most.
        group_measure: of the groups.
        groups: of ``--slices``, in the order of their names.
        sizes: labelled boxes by area, ``small``, ``medium`` and ``large`` as COCO has them, by the
            same measure as the classes; empty for other metrics.
    """

    by: Literal["labels", "answers", ""] = ""
    measure: str = ""
    classes: tuple[TailPart, ...] = ()
    error_measure: str = ""
    all: TailPart | None = None
    worst: TailPart | None = None
    group_measure: str = ""
    groups: tuple[TailPart, ...] = ()
    sizes: tuple[TailPart, ...] = ()

"""The networks that every job is tried on: the zoo, and the real ones where they are at hand.

Real networks come with inputs of their task where the data folder has some. All others are fed
random arrays of their shapes, which are handed over as arrays and not as ``--calib random``: what
is made up is not fitted to, and fitting is what has to be tried.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import Subject
from bench.tasks import task_of
from conftest import SHARED
from onnxprune.data import zoo

Feeds = dict[str, npt.NDArray[Any]]

_BATCH = 16


@dataclass(frozen=True)
class Family:
    """Networks that one export, or one kind of layer, has in common.

    Attributes:
        name: of the family.
        stems: file names without suffix, or names of the zoo.
        most: samples at hand; of random pictures no more than a hundred megabytes or so.
        quick: whether every job takes a few seconds with a dozen samples.
        slow: stems of those on which none does.
    """

    name: str
    stems: tuple[str, ...]
    most: int = 1000
    quick: bool = False
    slow: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family("digits_rescnn", ("digits_rescnn",), most=512),
    Family("digits_mlp", ("digits_mlp",), most=512, quick=True),
    Family("digits_encoder", ("digits_encoder",), most=512, quick=True),
    Family("digits_lstm", ("digits_lstm",), most=512, quick=True),
    Family("chars_decoder", ("chars_decoder",), most=256),
    Family("resnet20_optA", ("resnet20_cifar10_optA_bn", "resnet20_cifar10_optA_fused")),
    Family(
        "resnet20_proj",
        (
            "resnet20_cifar10_proj_bn",
            "resnet20_cifar10_proj_dynamo",
            "resnet20_cifar10_proj_fused",
        ),
    ),
    Family("resnet8", ("resnet8_cifar10_mlperftiny_bn", "resnet8_cifar10_mlperftiny_fused")),
    Family(
        "shufflenet",
        (
            "shufflenetv2_x0_5_cifar10_bn",
            "shufflenetv2_x0_5_cifar10_dynamo",
            "shufflenetv2_x0_5_cifar10_fused",
        ),
    ),
    Family("mobilenet", ("mobilenetv1_0.75_imagenet_bn",), most=500),
    Family("minilm", ("minilm_l6_sts_sst2",)),
    Family(
        "stories",
        ("stories260k_llama_dynamo", "stories260k_llama_legacy"),
        most=40,
    ),
    Family("mnist_cntk", ("cntk_mnist", "wonnx_opt_mnist"), quick=True),
    Family("vnn_kw", ("vnn_oval_cifar_deep_kw",), quick=True),
    Family("vnn_large", ("vnn_marabou_cifar10_large",)),
    Family("vnn_pool", ("vnn_verivital_convnet_maxpool",), quick=True),
    Family("vnn_resnet", ("vnn_cifar10_resnet_2b",), quick=True),
    Family("vnn_sigmoid", ("vnn_eran_ffnn_sigmoid",), quick=True),
    Family("traffic_sign", ("marabou_german_traffic_sign",)),
    Family(
        "spectrograms",
        ("basic_pitch_nmp", "dnsmos_sig_bak_ovr"),
        most=200,
        slow=("dnsmos_sig_bak_ovr",),
    ),
    Family("bytes", ("magika_standard_v3_3",)),
    Family("voice_activity", ("silero_vad", "silero_vad_half")),
    Family("tracker_backbone", ("nanotrack1_backbone",), most=200),
    Family("tracker_head", ("nanotrack2_head", "nanotrack3_head")),
    Family("landmarks", ("openseeface_lm0",), most=200),
    Family("faces", ("ultraface_rfb320", "ultraface_slim320_sim", "yunet_s_320"), most=200),
    Family("detector", ("fastestdet",), most=200),
    Family("faces_640", ("openseeface_retinaface640",), most=12),
    Family(
        "computed_weights",
        ("onnx_light_densenet121", "onnx_light_inception_v1", "onnx_light_resnet50"),
        most=200,
    ),
)

HEADS = frozenset(
    (
        "digits_encoder",
        "chars_decoder",
        "minilm_l6_sts_sst2",
        "stories260k_llama_dynamo",
        "stories260k_llama_legacy",
    )
)
"""Networks with attention heads that can be removed."""

FFN = HEADS | {
    "digits_mlp",
    "dnsmos_sig_bak_ovr",
    "magika_standard_v3_3",
    "marabou_german_traffic_sign",
    "nanotrack1_backbone",
    "vnn_cifar10_resnet_2b",
    "vnn_eran_ffnn_sigmoid",
    "vnn_marabou_cifar10_large",
    "vnn_oval_cifar_deep_kw",
}
"""Networks with hidden units of feed-forward layers that can be."""

UNREADABLE: Mapping[str, str] = {
    "onnx_tutorial_super_resolution": "names no operator set",
    "superres_prepost_op18": "needs operators of another package",
}
"""Files of the shared folder that onnxruntime does not load, and why."""


def path_of(stem: str) -> Path | None:
    """The file of a network; None where it is not at hand."""
    if stem in zoo.names():
        return zoo.get(stem).model
    places = [SHARED / folder / f"{stem}.onnx" for folder in ("models", "wild")]
    return next((path for path in places if path.is_file()), None)


@functools.lru_cache(maxsize=1)
def feeds_of(stem: str, samples: int) -> tuple[Feeds, ...]:
    """Inputs of a network: so many samples, in batches where it takes any number of them."""
    path = path_of(stem)
    assert path is not None
    if stem in zoo.names():
        data = zoo.calibration(zoo.get(stem))
        samples = min(samples, *map(len, data.values()))
        cuts = [slice(at, min(at + _BATCH, samples)) for at in range(0, samples, _BATCH)]
        return tuple({name: array[cut] for name, array in data.items()} for cut in cuts)
    task = task_of(stem)
    if task is None:
        return tuple(Subject(stem, "wild", path, None).batches(samples))
    least = 1 if _fixed(path) else min(_BATCH, -(-samples // 2))
    batches = task.calibration(SHARED / "data", -(-samples // least), least)
    return tuple(itertools.islice(_trimmed(batches, samples), samples))


def _trimmed(batches: Any, samples: int) -> Any:
    """The first so many samples."""
    left = samples
    for each in batches:
        size = len(next(iter(each.values())))
        if left > 0:
            yield each if size <= left else {n: np.asarray(a)[:left] for n, a in each.items()}
        left -= size


def _fixed(path: Path) -> bool:
    """Whether a network takes batches of one size only."""
    from onnxprune import model as models
    from onnxprune.model.signature import signature_of

    return isinstance(signature_of(models.load(path))[0].shape[0], int)

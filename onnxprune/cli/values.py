"""The values that options take, and what each means: for ``onnxprune help``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnxprune.config import COMMANDS, flag, option_of, options_of
from onnxprune.types import BACKENDS, FORMATS, METRICS, PREPROCESSING

Rows = tuple[tuple[str, str], ...]

FORMS: Mapping[str, Rows] = {
    "calib": (
        ("FILE.npz", "one array per input, samples along the first axis"),
        ("FILE.npy", "samples of a model with one input"),
        ("FOLDER", "arrays (.npy, .npz), pictures, or ONNX test data (test_data_set_*)"),
        ("FILE.py:FUNCTION", "a function that returns or yields batches: input name to array"),
        ("random", "synthetic inputs; nothing is fitted to them"),
    ),
    "labels": (
        ("FILE.npy", "one label per sample"),
        ("FILE.npz", "its only array, or the one called y, label, labels, target or targets"),
        ("FILE.txt", "one number per line"),
        ("FILE.csv", "a column of one of these names, else the last one"),
        ("FILE.json", "boxes of pictures, as COCO has them, for --metric map"),
        ("FOLDER", "boxes as YOLO has them: a .txt per picture, for --metric map"),
    ),
    "detector": (
        ("yolov5", "anchors x (4 + objectness + classes), in pixels: YOLOv5 to YOLOv7"),
        ("yolov6", "the same as yolov5"),
        ("yolov7", "the same as yolov5"),
        ("yolov8", "(4 + classes) x anchors, in pixels, or lists of six: YOLOv8 to YOLO11"),
        ("yolov9", "the same as yolov8"),
        ("yolov10", "the same as yolov8"),
        ("yolov11", "the same as yolov8"),
        ("yolo11", "the same as yolov8"),
        ("yolov12", "the same as yolov8"),
        ("yolox", "anchors x (4 + objectness + classes), offsets in grids of 8, 16, 32 pixels"),
        ("ssd", "boxes and class scores apart, the first class is nothing; or lists of detections"),
        ("detr", "boxes and class scores of queries, the last class is nothing; no suppression"),
    ),
    "blank": (("N", "the number of a token, from 0"), ("last", "the last token")),
    "vocabulary": (
        ("FILE.txt", "a token per line, with or without the blank"),
        ("FILE.json", "a list of tokens, or tokens with their numbers"),
    ),
    "eval": (
        ("FILE.npz, ...", "whatever --calib takes, but random"),
        ("with --calib", "all of --calib is fitted to, and nothing is held out"),
        ("without --calib", "nothing is fitted; the result is judged all the same"),
    ),
    "eval-labels": (("FILE.npz, ...", "whatever --labels takes, one label per --eval sample"),),
    "slices": (
        ("FILE.npy", "one name or whole number per sample"),
        ("FILE.npz", "its only array, or the one called slice, slices, group or groups"),
        ("FILE.txt", "one name per line"),
        ("FILE.csv", "a column of one of these names, else its only column"),
    ),
    "target": (
        ("macs=50%", "multiply-accumulates of one run, relative"),
        ("macs=300M", "multiply-accumulates of one run, absolute"),
        ("params=1.2M", "stored weight elements"),
        ("bytes=4MiB", "stored weight bytes"),
        ("latency=0.5x@cpu", "measured time of one run, relative, on a backend"),
        ("latency=5ms@openvino", "measured time of one run, absolute, on a backend"),
    ),
    "vocab": (
        ("calib", "ids that occur in --calib"),
        ("top=N", "the N ids that are most frequent in --calib"),
        ("ids:FILE", "ids in .txt (one per line), .json, .npy or .npz"),
        ("tokens:FILE", "tokens in .txt (one per line) or .json, of --tokenizer"),
        ("INPUT=...", "any of these, for the ids of one input; give the flag again for more"),
    ),
    "keep-outputs": (
        ("OUTPUT=0,2,5-7", "classes by number; OUTPUT= may be left out where there is only one"),
        ("OUTPUT=cat,dog", "classes by label, as the metadata of the model name them"),
        ("OUTPUT=@FILE:cat,dog", "classes by label, as a file names them, one per line"),
    ),
    "tokenizer": (
        ("FILE", "tokenizer.json, vocab.txt, vocab.json (with merges.txt), SentencePiece .model"),
        ("FOLDER", "a folder with such files"),
    ),
    "unknown": (("N", "an id"), ("TOKEN", "a token of --tokenizer")),
    "smallest": (
        ("macs", "multiply-accumulates of one run"),
        ("params", "stored weight elements"),
        ("bytes", "stored weight bytes"),
        ("latency@cpu", "measured time of one run, on a backend"),
    ),
    "sparsity": (
        ("50%", "share of the weights that become zero"),
        ("2:4", "2 of every 4 along the inputs are kept; any N:M"),
    ),
    "shapes": (("input=1x3x224x224", "one input; give the flag again, or commas, for more"),),
    "schedule": (
        ("linear", "the same share in every step"),
        ("cubic", "most in the first steps, while there is much to spare"),
    ),
    "allocation": (
        ("uniform", "the same share of every group"),
        ("global", "least important units first, wherever they are"),
    ),
    "sparse-method": (
        ("magnitude", "the smallest weights become zero; needs no data"),
        ("wanda", "the smallest products of a weight and the size of its input"),
        ("ria", "weights as shares of their row and column, times the size of their input"),
        ("sparsegpt", "least squares, one column after the other; the others make up for it"),
        ("admm", "least squares; zeros and values are found together by alternating steps"),
    ),
    "sparse-allocation": (
        ("per-tensor", "the same sparsity in every weight"),
        ("per-row", "the same sparsity in every output of every weight"),
        ("global", "scores compete over the whole model"),
        ("curves", "by the error of each layer"),
        ("sensitivity", "by the effect of each layer on the outputs"),
    ),
    "recover": (
        ("auto", "all of these, layers also together, and gradients of the outputs"),
        ("none", "weights stay as they are cut"),
        ("bias", "biases, BatchNormalization statistics, gains of normalisations"),
        ("lstsq", "every layer by least squares too"),
        ("pcg", "as lstsq; single weights by conjugate gradients"),
    ),
    "store": (
        ("auto", "the smallest form of each weight that all backends read"),
        ("dense", "ordinary weights"),
        ("sparse", "sparse_initializer of ONNX: values and places"),
        ("packed", "values and a bit mask or the like; standard operators decode them at load"),
        ("external", "dense, in a file beside the model"),
    ),
    "values": (
        ("exact", "as they are"),
        ("fp32", "32-bit floats"),
        ("fp16", "16-bit floats"),
        ("int8", "8-bit integers and scales"),
    ),
    "kinds": (
        ("groups", "channels, heads and other units that are removed together"),
        ("blocks", "residual branches that can be bypassed"),
        ("weights", "zeros inside single weights"),
    ),
    "ranges": (
        ("minmax", "the smallest and the largest value that was seen"),
        ("percentile", "all but the rarest values"),
        ("entropy", "what loses least information (Kullback-Leibler divergence)"),
    ),
    "ops": (
        ("linear", "matrix products and convolutions"),
        ("all", "what lies between them too"),
    ),
    "precision": (
        ("asis", "the types of the model"),
        ("fp16", "16-bit floats"),
        ("bf16", "bfloat16: the range of 32-bit floats, fewer digits"),
    ),
    "runtime": (
        ("tensorrt", "TensorRT, for the GPU of this machine"),
        ("tensorrt-rtx", "TensorRT-RTX, for RTX GPUs, on any machine"),
    ),
    "round-to": (
        ("auto", "multiples that are fast on the backend"),
        ("N", "multiples of N units; 1 for any number"),
    ),
    "workers": (("auto", "all cores, where it is worth it"), ("N", "this many processes")),
}
"""What values look like, by option."""


@dataclass(frozen=True)
class Use:
    """A value that an option takes.

    Attributes:
        option: the option, without dashes.
        value: as it is written.
        meaning: of the value.
        commands: that have the option.
    """

    option: str
    value: str
    meaning: str
    commands: tuple[str, ...]


def values_of(option: str) -> Rows:
    """What an option takes, and what that means."""
    if option == "criterion":
        from onnxprune.select.criteria import registry

        return tuple((name, registry.get(name).summary) for name in registry.names())
    if option == "metric":
        own = ("FILE.py:FUNCTION", "a function of outputs and labels; higher is better")
        at = ("NAME@OUTPUT", "any of these, of one of several outputs")
        return (*METRICS.items(), at, own)
    if option == "preprocess":
        own = ("FILE.py:FUNCTION", "a function from the array of a picture to an input")
        spec = ("KEY=VALUE,...", "steps one by one, or changes to a preset that comes first")
        return (*((name, each.summary) for name, each in PREPROCESSING.items()), spec, own)
    if option == "backend":
        from onnxprune.runtime.registry import backends

        rows = {each.name: each.summary for each in backends()}
        for name, about in FORMATS.items():
            start = f"{rows[name]}; " if name in rows else ""
            rows[name] = f"{start}for quantize: {about}"
        return tuple(rows.items())
    return FORMS.get(option, ())


def option_names() -> dict[str, tuple[str, ...]]:
    """Every option, and the commands that have it."""
    names: dict[str, list[str]] = {}
    for command in COMMANDS:
        for name, _ in options_of(command):
            names.setdefault(flag(name), []).append(command)
    return {name: tuple(commands) for name, commands in names.items()}


def declared_words(option: str, command: str) -> tuple[str, ...]:
    """The values of an option of one command, where they can be listed."""
    fields = {flag(name): each for name, each in options_of(command)}
    return option_of(fields[option]).reader.words


def words() -> list[str]:
    """Every value that can be listed without looking for plug-ins."""
    listed = [value for rows in FORMS.values() for value, _ in rows if value.islower()]
    return list(dict.fromkeys([*listed, *BACKENDS, *METRICS, *PREPROCESSING]))


def uses(word: str) -> Iterator[Use]:
    """The options that take a value, as in ``wanda``, ``1:4``, ``top3`` or ``latency``."""
    likeness = _likeness(word)
    for option, commands in option_names().items():
        for value, meaning in values_of(option):
            if _likeness(value) == likeness or (
                option == "target" and value.partition("=")[0] == word.partition("=")[0].lower()
            ):
                users = tuple(c for c in commands if value in declared_words(option, c))
                yield Use(option, value, meaning, users or commands)


def _likeness(value: str) -> str:
    """A value without its numbers, where any number may stand for them."""
    if re.fullmatch(r"\d+:\d+|top\d+|\d+(\.\d*)?%", value):
        return re.sub(r"[\d.]+", "0", value)
    return value.lower()

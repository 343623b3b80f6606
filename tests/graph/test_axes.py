"""The algebra is sound: what must leave together does, whatever was asked in whatever order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.axes import Axis, Space, concat, take


def removal(space: Space, axes: list[Axis], seed: int) -> np.ndarray:
    """A random set of atoms that may go."""
    atoms = {int(a) for x in axes for c in space.columns(x) for a in space.labels(c) if a > 0}
    gone = np.zeros(len(space), np.bool_)
    rng = np.random.default_rng(seed)
    for atom in atoms:
        gone[atom] = rng.random() < 0.5
    return gone


def test_a_free_axis_loses_any_index() -> None:
    space = Space()
    axis = space.fresh(5)
    gone = np.zeros(len(space), np.bool_)
    gone[space.columns(axis)[0][3]] = True
    assert space.removed(axis, gone).tolist() == [False, False, False, True, False]


def test_unified_axes_lose_the_same_indices() -> None:
    space = Space()
    a, b = space.fresh(6), space.fresh(6)
    space.unify(a, b)
    gone = removal(space, [a], 0)
    assert gone.any()
    assert np.array_equal(space.removed(a, gone), space.removed(b, gone))


def test_an_axis_without_columns_pins_what_it_meets_and_says_why() -> None:
    space = Space()
    a = space.fresh(4)
    space.unify(a, Axis(4, why="graph input `x`"))
    assert space.columns(a) == []
    assert space.why_pinned(a) == "graph input `x`"


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 99))
def test_splitting_then_merging_loses_the_same_indices(h: int, d: int, seed: int) -> None:
    space = Space()
    axis = space.fresh(h * d)
    parts = space.split(axis, (h, d))
    again = space.merge(parts)
    gone = removal(space, parts, seed)
    assert len(space.columns(parts[0])) == len(space.columns(parts[1])) == 1
    assert np.array_equal(space.removed(axis, gone), space.removed(again, gone))
    rows = space.removed(axis, gone).reshape(h, d)
    first, second = (space.removed(p, gone) for p in parts)
    assert np.array_equal(rows, first[:, None] | second[None, :])


@given(st.integers(2, 4), st.integers(2, 3), st.integers(2, 4), st.integers(0, 99))
def test_grouped_queries_share_keys(k: int, r: int, d: int, seed: int) -> None:
    """A free axis meeting (k, replicas) becomes their product: queries leave with their keys."""
    space = Space()
    queries, keys = space.fresh(k * r * d), space.fresh(k * d)
    q, qd = space.split(queries, (k * r, d))
    kv, kd = space.split(keys, (k, d))
    space.unify(q, space.merge([kv, space.fresh(r)]))
    space.unify(qd, kd)
    assert len(space.columns(queries)) == 3
    gone = removal(space, [queries, keys], seed)
    by_head = space.removed(queries, gone).reshape(k, r, d)
    for head, row in zip(space.removed(kv, gone), by_head, strict=True):
        assert not head or row.all()


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    step = st.tuples(
        st.sampled_from(["unify", "shuffle", "split", "pin", "concat"]),
        st.integers(0, 9),
        st.integers(0, 9),
    )
    return draw(st.lists(step, min_size=1, max_size=12))


@given(programs(), st.integers(0, 999))
def test_constraints_hold_after_any_sequence_of_operations(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Every operation states an equation between masks; all of them hold at the end."""
    space = Space()
    axes = [space.fresh(12) for _ in range(3)]
    equations = []
    rng = np.random.default_rng(seed)
    for kind, i, j in steps:
        a, b = axes[i % len(axes)], axes[j % len(axes)]
        if kind == "unify":
            space.unify(a, b)
            equations.append(
                lambda g, a=a, b=b: np.array_equal(space.removed(a, g), space.removed(b, g))
            )
        elif kind == "shuffle":
            order = rng.permutation(12)
            axes.append(take(a, order))
            equations.append(
                lambda g, a=a, c=axes[-1], o=order: np.array_equal(
                    space.removed(a, g)[o], space.removed(c, g)
                )
            )
        elif kind == "split":
            sizes = [(3, 4), (2, 6), (2, 3, 2)][j % 3]
            parts = space.split(a, sizes)

            def product(g: np.ndarray, a: Axis = a, parts: list[Axis] = parts) -> bool:
                out = np.zeros((), np.bool_)
                for part in parts:
                    out = out[..., None] | space.removed(part, g)
                return np.array_equal(out.ravel(), space.removed(a, g))

            equations.append(product)
            axes.append(space.merge(parts))
        elif kind == "pin":
            row = take(a, np.array([j]))
            space.pin(row, "test")
            equations.append(lambda g, r=row: not space.removed(r, g).any())
        else:
            both = concat(space, [a, b])
            axes.append(take(both, np.arange(6, 18)))
            equations.append(
                lambda g, a=a, b=b, c=axes[-1]: np.array_equal(
                    np.r_[space.removed(a, g), space.removed(b, g)][6:18], space.removed(c, g)
                )
            )
    gone = removal(space, axes, seed)
    assert all(equation(gone) for equation in equations)


def test_an_inexact_atom_says_why_also_after_it_was_refined() -> None:
    space = Space()
    axis = space.fresh(6)
    space.inexact(axis, "LayerNormalization normalises over it")
    first, _ = space.split(axis, (2, 3))
    (column,) = space.columns(first)
    assert space.why_inexact(int(column[0])) == "LayerNormalization normalises over it"


def test_an_axis_held_by_one_atom_keeps_it() -> None:
    space = Space()
    axis = space.fresh(3)
    one = take(axis, np.array([1]))
    space.repair_widths([one])
    gone = np.ones(len(space), np.bool_)
    gone[space.columns(one)[0][0] if space.columns(one) else 0] = False
    assert space.columns(one) == []

"""Costs of removals: what is priced by its change is what all is when it is counted anew."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import zoo
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.surgery import cut

NAMES = ("digits_mlp", "digits_rescnn", "digits_encoder", "chars_decoder", "digits_lstm")


@cache
def analysed(name: str) -> Analysis:
    return analyse(zoo.get(name).model)


@cache
def priced(name: str) -> CostModel:
    """One for all removals of a test: each is priced from the one before."""
    return CostModel(analysed(name))


def counted(analysis: Analysis, removed: dict[str, tuple[int, ...]]) -> Cost:
    """The cost of the model that is left, from its own sizes."""
    return CostModel(analyse(cut(analysis, removed), inputs=analysis.inputs[0]))()


@settings(deadline=None, max_examples=15)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**20), most=st.integers(0, 3))
def test_the_change_of_a_removal_is_that_of_the_model_counted_anew(
    name: str, seed: int, most: int
) -> None:
    analysis, rng = analysed(name), np.random.default_rng(seed)
    chosen = rng.permutation(len(analysis.groups))[:most]
    removed = {}
    for group in (analysis.groups[int(k)] for k in chosen):
        count = int(rng.integers(1, max(len(group) // 2, 2)))
        units = rng.permutation(len(group))[: min(count, len(group) - 1)]
        if len(units):
            removed[group.name] = tuple(sorted(units.tolist()))
    assert priced(name)(removed) == counted(analysis, removed)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_saves_what_its_nodes_cost(name: str) -> None:
    analysis, costs = analysed(name), priced(name)
    assert costs() == counted(analysis, {})
    for block in analysis.blocks:
        saving = costs().macs - costs({}, (block.name,)).macs
        assert saving == block.macs

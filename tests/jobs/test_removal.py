"""What is removed of what options ask for: as near as widths allow, and why where it is nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from conftest import Ran
from onnxprune import model as models
from onnxprune import prune
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.plan import Plan, pack
from onnxprune.jobs.prune import apply
from onnxprune.jobs.removal import check_removal, is_empty, removed_shares, requests
from onnxprune.jobs.result import Result
from onnxprune.quantities import Budget, Sparsity
from onnxprune.select.allocate import CandidateWidths, repair_widths, uniform
from onnxprune.select.importance.units import Problem, score_groups
from onnxprune.select.selection import Selection, allowed_widths, select
from onnxprune.types import NOTHING_REMOVED

MLP = zoo.get("digits_mlp")
WHOLE = Cost(macs=1000, params=100, bytes=400)


def linear(units: int = 16, *, after: str = "Relu") -> onnx.ModelProto:
    """Two matrix products with ``units`` between them."""
    rng = np.random.default_rng(0)
    weights = [("w", (4, units)), ("v", (units, 3))]
    nodes = [("MatMul", ["x", "w"], ["a"]), (after, ["a"], ["b"]), ("MatMul", ["b", "v"], ["y"])]
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def failed(result: Result) -> list[str]:
    return [check.name for check in result.checks if not check.ok]


@given(
    ratio=st.none() | st.floats(0, 0.8),
    share=st.none() | st.floats(0.01, 1),
    sparsity=st.none() | st.floats(0.01, 0.9),
    own=st.lists(st.floats(0, 0.5), max_size=2),
    units=st.lists(st.integers(0, 9), max_size=3, unique=True),
    zeros=st.integers(0, 3),
)
def test_the_check_fails_exactly_where_something_was_to_go_and_nothing_went(
    ratio: float | None,
    share: float | None,
    sparsity: float | None,
    own: list[float],
    units: list[int],
    zeros: int,
) -> None:
    ratio = None if share is not None else ratio
    config = Options(
        ratio=ratio,
        target=None if share is None else Budget("params", share, relative=True),
        sparsity=None if sparsity is None else Sparsity(sparsity),
        ratios=tuple(("*", each) for each in own),
    )
    mask = np.arange(4) >= zeros
    plan = Plan(removed={"g": tuple(units)} if units else {}, zeroed={"w": pack(mask)})
    asks = bool(ratio) or (share is not None and share < 1) or sparsity is not None or any(own)
    assert bool(requests(config, WHOLE)) == asks
    assert is_empty(plan) == (not units and not zeros)
    checks = check_removal(config, WHOLE, plan)
    assert bool(checks) == (asks and is_empty(plan))
    assert all(not check.ok and check.value > check.limit for check in checks)


@given(st.integers(2, 16), st.floats(0.001, 0.6))
def test_a_ratio_removes_something_or_says_why_not(units: int, ratio: float) -> None:
    result = prune(linear(units), ratio=ratio, round_to=1)
    if result.plan.removed:
        assert result.ok
        assert not any("no unit was removed" in note for note in result.notes)
    else:
        assert failed(result) == [NOTHING_REMOVED]
        assert any(f"of {units} units" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ratio": 0.01}, "1 % of 16 units is 0.16 units"),
        ({"ratio": 0.3, "skip": ("*:ffn",)}, "skipped, as '*:ffn' asks"),
        ({"ratios": {"*": 0.01}}, "1 % of 16 units is 0.16 units, less than half a unit"),
        ({"ratio": 0.2, "round_to": 16}, "3.2 units, nearer to none than to 8"),
        ({"ratio": 0.01, "steps": 2, "calib": "data"}, "1 % of 16 units is 0.16 units"),
        ({"sparsity": 0.001, "sparse_allocation": "per-tensor"}, ""),
    ],
)
def test_whatever_removes_nothing_is_not_verified(options: dict[str, object], reason: str) -> None:
    if "calib" in options:
        rng = np.random.default_rng(0)
        options |= {"calib": [{"x": rng.standard_normal((16, 4)).astype(np.float32)}] * 2}
    result = prune(linear(), **{"round_to": 1, **options})
    assert not result.ok
    assert NOTHING_REMOVED in failed(result)
    assert any(reason in note for note in result.notes)


def test_axes_that_stay_say_why() -> None:
    result = prune(linear(after="Softmax"), ratio=0.3)
    assert failed(result) == [NOTHING_REMOVED]
    assert any("Softmax" in note for note in result.notes)


def test_one_request_of_several_is_enough() -> None:
    both = prune(linear(), ratio=0.01, sparsity=0.5, round_to=1)
    assert both.ok
    assert both.plan.zeroed
    assert any("no unit was removed: 1 % of 16 units" in note for note in both.notes)
    early = prune(linear(), ratio=0.4, sparsity=0.001, round_to=1)
    assert early.plan.removed
    assert NOTHING_REMOVED not in failed(early)


def test_what_asks_for_nothing_is_no_failure() -> None:
    assert prune(linear(), target="params=100%").ok
    assert prune(linear(), Options(ratio=0.0)).ok
    assert apply(linear(), Plan()).ok
    with pytest.raises(OnnxpruneError, match="nothing says how much"):
        prune(linear(), ratio=0.0)


def test_a_budget_whose_cost_cannot_be_counted_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(OnnxpruneError, match="no macs that can be counted"):
        prune(model, target="macs=50%")


def test_the_command_says_so_and_writes_nothing(cli: Callable[..., Ran], tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(linear(), path)
    ran = cli("prune", path, "--ratio", "1%", "-o", out)
    assert ran.code == 1
    assert ran.out.startswith("Structure: nothing cut")
    assert "1 % of 16 units" in ran.out
    assert "nothing was removed, so nothing was written" in ran.err
    assert not out.exists()
    assert cli("prune", path, "--ratio", "1%").code == 1
    (enough,) = re.findall(r"hint: --ratio (\S+) removes units", ran.err)
    assert cli("prune", path, "--ratio", enough).code == 0
    skipped = cli("prune", path, "--ratio", enough, "--skip", "*")
    assert "hint: less under --skip makes room for it" in skipped.err
    forced = cli("prune", path, "--ratio", "1%", "-o", out, "--force")
    assert forced.code == 1
    assert out.exists()
    assert "nothing was removed; the model was written because of --force" in forced.err


# --- the shares of a ratio ----------------------------------------------------------------------

SHARED = (
    "resnet20_cifar10_proj_fused",
    "shufflenetv2_x0_5_cifar10_bn",
    "resnet8_cifar10_mlperftiny_fused",
    "minilm_l6_sts_sst2",
)
RATIOS = (0.1, 0.3, 0.55)


def chosen(analysis: Analysis, config: Options) -> tuple[CandidateWidths, Selection, int]:
    """The widths allowed, what a ratio removes, and what rounding each group alone would keep."""
    problem = Problem(analysis, config)
    importance = score_groups(problem)
    widths = allowed_widths(problem, importance)
    alone = widths.dense() | {
        g: widths.nearest(g, widths.units[g] * (1 - (config.ratio or 0))) for g in widths.free
    }
    kept = repair_widths(widths, uniform(importance.scores), alone)
    return widths, select(problem), sum(kept[g] for g in widths.free)


def check(analysis: Analysis, config: Options) -> None:
    """The ratio is met at least as well as by rounding each group alone, and said in full."""
    widths, selection, alone = chosen(analysis, config)
    ratio = config.ratio or 0
    units = sum(widths.units[g] for g in widths.free)
    removed = sum(len(selection.removed.get(g, ())) for g in widths.free)
    assert abs(removed - ratio * units) <= abs(units - alone - ratio * units) + 1e-9
    (note,) = removed_shares(analysis, config, selection)
    shares = [float(each) / 100 for each in re.findall(r"([\d.]+) % of the", note)]
    dense, rest = CostModel(analysis)(), CostModel(analysis)(selection.removed)
    expected = [removed / units, 1 - rest.params / dense.params, 1 - rest.macs / dense.macs]
    assert shares == pytest.approx(expected, abs=0.00051)
    assert f"of {len(widths.free)} group" in note
    if (multiple := re.search(r"multiples of (\d+)", note)) is not None:
        for group, gone in selection.removed.items():
            assert (widths.units[group] - len(gone)) % int(multiple[1]) == 0
    far = abs(removed / units - ratio) >= 0.005
    assert ("come nearer" in note) == far


@pytest.mark.parametrize("name", ["digits_mlp", "digits_rescnn"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("round_to", ["auto", 1])
def test_a_ratio_is_met_as_nearly_as_widths_allow(
    name: str, ratio: float, round_to: object
) -> None:
    analysis = analyse(models.load(zoo.get(name).model))
    check(analysis, Options(ratio=ratio, round_to=round_to))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SHARED)
def test_a_ratio_is_met_on_real_networks(name: str, shared: Path) -> None:
    analysis = analyse(models.load(shared / "models" / f"{name}.onnx"))
    for ratio in RATIOS:
        check(analysis, Options(ratio=ratio))


def test_any_width_comes_within_half_a_unit_of_the_ratio() -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    widths, selection, _ = chosen(analysis, Options(ratio=0.3, round_to=1))
    units = sum(widths.units[g] for g in widths.free)
    assert abs(sum(map(len, selection.removed.values())) - 0.3 * units) <= 0.5 + 1e-9


def test_nothing_is_said_without_a_ratio() -> None:
    analysis = analyse(models.load(zoo.get("digits_mlp").model))
    assert (
        removed_shares(analysis, Options(target="macs=50%"), Selection({}, "", "global", {})) == ()
    )

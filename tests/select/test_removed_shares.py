"""What a ratio removes: as near as widths allow, and said of what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import CostModel
from onnxprune.select.allocate import CandidateWidths, repair_widths, uniform
from onnxprune.select.importance.units import Problem, score_groups
from onnxprune.select.removed_shares import removed_shares
from onnxprune.select.selection import Selection, allowed_widths, select

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

"""One way to recover: a cut, a plan and a model pruned elsewhere get the same out of the same data.

What jobs have in common is a list of steps; these tests are about that they are the same steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune import model as models
from onnxprune.config import Recover, from_flags
from onnxprune.data import zoo
from onnxprune.jobs import recover as recover_job
from onnxprune.jobs.apply_plan import APPLY, PRUNE, RECOVER
from onnxprune.jobs.mask import extract
from onnxprune.jobs.prune import apply, prune
from onnxprune.jobs.result import Result
from onnxprune.jobs.run import open_run
from onnxprune.jobs.steps import State, step, take


def asked(name: str, recover: Recover, samples: int, **flags: Any) -> Any:
    """Options with a few samples, which are enlarged by mixtures where recovery does that."""
    calib = {key: array[:samples] for key, array in zoo.calibration(zoo.get(name)).items()}
    return from_flags({"calib": calib, "recover": recover, "batch": 16, **flags})


def error(result: Result) -> float:
    found = result.evaluation.main.relative_error
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "recover", "samples"),
    [
        ("digits_mlp", "auto", 96),
        ("digits_mlp", "bias", 96),
        ("digits_lstm", "auto", 64),
        pytest.param("digits_encoder", "lstsq", 48, marks=pytest.mark.heavy),
        ("digits_rescnn", "lstsq", 32),
        pytest.param("chars_decoder", "lstsq", 12, marks=pytest.mark.heavy),
    ],
)
def test_recovering_an_own_cut_is_as_good_as_pruning_with_recovery(
    name: str, recover: Recover, samples: int
) -> None:
    entry = zoo.get(name)
    cut = prune(entry.model, ratio=0.3, criterion="l1", recover="none")
    config = asked(name, recover, samples)
    own, elsewhere = (
        apply(entry.model, cut.plan, config),
        recover_job.recover(entry.model, cut.model, config),
    )
    assert elsewhere.better
    assert elsewhere.plan.removed == cut.plan.removed
    assert elsewhere.as_given is not None
    assert error(own) < (elsewhere.as_given.main.relative_error or 0.0)
    assert error(elsewhere) == pytest.approx(error(own), rel=1e-3)
    methods = [{o.layer: o.method for o in r.outcomes["refit"]} for r in (own, elsewhere)]
    assert methods[0] == methods[1]


@pytest.mark.parametrize("recover", ["pcg", "auto"])
def test_a_mask_and_a_masked_model_are_recovered_alike(recover: Recover) -> None:
    entry = zoo.get("digits_mlp")
    masked = prune(entry.model, sparsity="80%", recover="none").model
    config = asked("digits_mlp", recover, 96)
    applied = apply(entry.model, extract(masked), config)
    elsewhere = recover_job.recover(entry.model, masked, config)
    assert applied.ok
    assert elsewhere.ok
    assert elsewhere.as_given is not None
    assert error(elsewhere) < (elsewhere.as_given.main.relative_error or 0.0)
    assert error(applied) == pytest.approx(error(elsewhere), rel=1e-3)
    assert {o.method for o in applied.outcomes["zeros"] if not o.reason} == {"given"}
    for result in (applied, elsewhere):
        kept = {name: mask.unpack() for name, mask in result.plan.zeroed.items()}
        stored = models.constants(result.model)
        for name, mask in kept.items():
            tensor = models.constant(stored[name])
            assert tensor is not None
            assert not tensor.numpy()[~mask].any()
        trained = any(
            "trained as a whole" in n or "training the remaining weights" in n for n in result.notes
        )
        assert trained == (recover == "auto")


def test_masks_of_a_plan_are_left_as_they_are_without_data_or_without_recovery() -> None:
    entry = zoo.get("digits_mlp")
    plan = prune(entry.model, sparsity="80%", recover="none").plan
    for config in (None, asked("digits_mlp", "none", 32)):
        result = apply(entry.model, plan, config)
        assert not result.outcomes.get("zeros")
        dense = models.constants(result.analysis.model)
        for name, value in models.constants(result.model).items():
            before, after = (models.constant(each) for each in (dense[name], value))
            assert before is not None
            assert after is not None
            wanted = before.numpy()
            if name in plan.zeroed:
                wanted = np.where(plan.zeroed[name].unpack(), wanted, 0)
            np.testing.assert_array_equal(after.numpy(), wanted)


def test_every_job_takes_the_same_steps_in_the_same_order() -> None:
    assert PRUNE[1:2] == APPLY[1:2] == RECOVER[:1]
    assert PRUNE[-1] is APPLY[-1] is RECOVER[-1]
    assert PRUNE[0] is APPLY[0]
    scopes = [each.scope for each in PRUNE]
    assert scopes == ["model", "layer", "layer", "model"]


def test_a_step_is_one_function_that_makes_the_next_state() -> None:
    @step("model")
    def note(run: Any, state: State) -> State:
        return state.then(notes=[f"a note on {run.config.ratio}"])

    run = open_run(zoo.get("digits_mlp").model, from_flags({"ratio": 0.5}))
    model = run.analysis.model
    plan = prune(model, ratio=0.5).plan
    state = State(model, plan, model, notes=("first",))
    after = take(run, state, [note, note])
    assert state.notes == ("first",)
    assert after.notes == ("first", "a note on 0.5", "a note on 0.5")
    assert (after.model, after.plan) == (model, plan)
    assert after.cut

"""A run of a job: its options, the analysed model and its data, opened once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data import Calibration, memory
from onnxprune.data.dataset import (
    Dataset,
    open_dataset,
    open_source,
    synthetic_choices,
    synthetic_dataset,
    with_checks,
)
from onnxprune.data.ranks import with_ranks
from onnxprune.errors import OnnxpruneError, blame
from onnxprune.evaluate.evaluation import check_task, metric_of
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.facts import Fact
from onnxprune.graph.interface import Interface
from onnxprune.jobs.interface.mapped_data import without_lost_labels
from onnxprune.jobs.interface.narrowing import Narrowing, narrow_by_map, narrow_by_options
from onnxprune.jobs.observe import analyse_by_runs
from onnxprune.model.decode import densify
from onnxprune.runtime.providers import available, named, require
from onnxprune.select.criteria import registry
from onnxprune.types import RUNTIMES, backend_name, provider_name

Progress = Callable[[str], None]
"""Called with a line of text at each stage."""

BLAS = 1
"""Threads of a matrix product: the many small ones of elimination only get slower on more."""


F = TypeVar("F", bound=Callable[..., Any])


def reproducible(job: F) -> F:
    """Run a job on a fixed number of threads of BLAS, which the last bits of products hang on."""
    return cast("F", threadpool_limits.wrap(limits=BLAS, user_api="blas")(job))


@dataclass(frozen=True, eq=False)
class Run:
    """What every step of a job knows.

    Attributes:
        config: the options.
        analysis: of the dense model, the reference of all comparisons.
        data: its samples.
        progress: called with a line of text at each stage.
        narrowing: what left the interface first, where options say so; ``analysis`` is then of the
            narrowed model, and ``config`` has an absolute target.
    """

    config: Options
    analysis: Analysis
    data: Dataset
    progress: Progress = lambda _: None
    narrowing: Narrowing | None = None

    @property
    def reference(self) -> models.Model:
        """The model that quality is judged beside."""
        return self.analysis.model if self.narrowing is None else self.narrowing.reference


def open_run(
    source: models.ModelLike,
    config: Options,
    progress: Progress = lambda _: None,
    *,
    chooses: bool = False,
    interface: Interface | None = None,
) -> Run:
    """Read and analyse a model, and open its samples.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        config: the options.
        progress: called with a line of text at each stage.
        chooses: whether samples are to be put aside to choose one of several models by.
        interface: what of the interface remains, where a plan says so; by default what options
            say.

    Raises:
        OnnxpruneError: the model or the data cannot be used.
    """
    config = place(config)
    progress("reading the model")
    model, _ = densify(models.load(source))
    model = with_ranks(model, config)
    samples, shapes = open_source(model, config)
    progress("finding what can be removed")
    with blame("--shapes", when=bool(config.shapes)):
        feeds = None if samples is None or config.shapes else next(iter(samples))
        narrows = bool(config.narrows or interface)
        opened = narrows or config.interface
        analysis = analyse_by_runs(model, shapes, feeds, config.provider, interface=opened)
    narrowing = None
    if narrows:
        progress("removing ids and classes from the interface")
        narrowing = (
            narrow_by_map(analysis, interface, config, samples)
            if interface
            else narrow_by_options(analysis, config, samples)
        )
        config, model = narrowing.absolute(config), narrowing.model
        analysis = analyse(model, inputs=analysis.inputs[0] if shapes is None else shapes)
    if samples is None:
        data = synthetic_dataset(analysis, config)
    else:
        count = analysis.batch if config.shapes else None
        samples = within_memory(samples, config, model, analysis.facts, count)
        data = open_dataset(samples, config, chooses=chooses)
        if narrowing is not None:  # before anything is scored by labels
            data = without_lost_labels(data, config, narrowing)
        data = with_checks(data, analysis.model, config)
        check_task(model, data.eval, config)
        if not chooses:  # what is judged in parts may choose by one of them
            data = synthetic_choices(data, analysis, config)
    return Run(config, analysis, data, progress, narrowing)


def place(config: Options) -> Options:
    """The options with the execution provider that runs models here, before any work starts.

    OpenVINO and TensorRT are no providers of every onnxruntime; the CPU stands in for them while a
    model is pruned.

    Raises:
        OnnxpruneError: the criterion, the metric or a backend is unknown, or the vocabulary cannot
            be read.
    """
    if config.criterion is not None:
        with blame("--criterion"):
            registry.get(config.criterion)
    metric_of(config)
    if config.target is not None and config.target.backend:
        with blame("--target"):
            backend_name(config.target.backend)
    try:
        provider = provider_name(config.platform)
    except OnnxpruneError:
        with blame("--backend"):
            backend_name(config.backend)
        provider = "cpu"
    own = config.backend.lower().partition(":")[0] in RUNTIMES
    if not own:
        require(named(provider))
    config = memory.settle(config)
    return replace(config, stand_in="cpu" if own and provider not in available() else provider)


def within_memory(
    samples: Calibration,
    config: Options,
    model: models.Model,
    facts: Mapping[str, Fact],
    count: int | None = None,
) -> Calibration:
    """Samples in batches that the memory budget has room for.

    Args:
        samples: any.
        config: the options.
        model: what runs on them.
        facts: shapes of its values.
        count: samples in these shapes; by default those of the first feed.

    Raises:
        OnnxpruneError: the budget has no room for one sample.
    """
    budget, batch = memory.budget_of(config), samples.batch
    count = samples.inputs.count(next(iter(samples))) if count is None else count
    each = memory.run_bytes(model, facts) // max(count, 1)
    weights = models.size_bytes(model) + memory.decoded_bytes(model, facts)
    memory.check(budget, weights, each)
    memory.bound_free_memory(budget)
    most = max(budget.activations // max(each, 1), 1)
    if batch is None or batch <= most:
        return samples
    return replace(samples, batch=most)


def stand_in_note(config: Options) -> tuple[str, ...]:
    """Sentences on the provider, where it is not that of the backend, and on scarce memory."""
    note = memory.scarce_note(config)
    if config.provider == config.platform or config.provider != "cpu":
        return note
    what = f"checks ran in onnxruntime on the CPU, which has no provider for {config.platform}"
    return (what, *note)

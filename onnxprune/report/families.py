"""Which documents are about the same model: a dense model with all that was made and measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.assessed import Assessed
from onnxprune.jobs.bench.schema import Bench, ModelRow
from onnxprune.jobs.results.schema import Report
from onnxprune.report.documents import Document
from onnxprune.select.sensitivity import Sensitivity


@dataclass
class Family:
    """A dense model, the runs that pruned it, and what was measured of it and of them.

    Attributes:
        name: the dense model's file.
        members: names of all its models without their endings, as documents are matched by.
    """

    name: str
    runs: list[Report] = field(default_factory=list)
    assessments: list[Assessed] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    sweeps: list[Sensitivity] = field(default_factory=list)
    members: set[str] = field(default_factory=set)
    _source: str = ""

    def take_run(self, run: Report, source: str) -> None:
        """Add a run.

        Raises:
            OnnxpruneError: it is of another model that has the same name.
        """
        if self.runs and _size(run) != _size(self.runs[0]):
            one, other = self._source or "one report", source or "another"
            raise OnnxpruneError(
                f"{one} and {other} are about different models that are both called {self.name}",
                hint="make a page for each",
            )
        self.runs.append(run)
        self._source = self._source or source
        self.members |= {stem(run.model.name), *([stem(run.output)] if run.output else [])}


def families(documents: Iterable[Document]) -> list[Family]:
    """Families in the order their first document was given.

    A run belongs to the model it pruned; an evaluation to the dense model, else to the model; a
    benchmark to the family of the first of its models that
    is known, or else to its first model; a sweep to its model.
    """
    contents = list(documents)
    result: list[Family] = []
    for each in contents:
        if isinstance(each.content, Report):
            name = each.content.model.name
            own = next((f for f in result if stem(f.name) == stem(name)), None)
            if own is None:
                own = _new(result, name)
            own.take_run(each.content, each.source)
    for each in contents:
        if isinstance(each.content, Assessed):
            pair = (each.content.against, each.content.model)
            names = [PurePath(name).name for name in pair if name is not None]
            own = _of(result, names) or _new(result, names[0])
            own.assessments.append(each.content)
            own.members |= set(map(stem, names))
    for each in contents:
        if isinstance(each.content, Bench):
            names = [file_name(model) for model in each.content.models] or ["model"]
            own = _of(result, names) or _new(result, names[0])
            own.benches.append(each.content)
            own.members |= set(map(stem, names))
    for each in contents:
        if isinstance(each.content, Sensitivity):
            name = PurePath(each.content.model).name
            own = _of(result, [name]) or _new(result, name)
            own.sweeps.append(each.content)
    return result


def file_name(model: ModelRow) -> str:
    """The file of a benchmarked model, without its folder."""
    return PurePath(model.path or model.name).name


def stem(path: str) -> str:
    """The name of a model's file without folder and ending."""
    return PurePath(path).name.removesuffix(".onnx")


def _of(families: list[Family], names: list[str]) -> Family | None:
    for name in names:
        for family in families:
            if stem(name) in family.members:
                return family
    return None


def _new(families: list[Family], name: str) -> Family:
    families.append(Family(name, members={stem(name)}))
    return families[-1]


def _size(run: Report) -> tuple[int, int]:
    return run.model.params, run.model.nodes

"""What pruning cost: outputs, and the task metric, against the dense model on unseen inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.backends import open_session
from onnxprune.fidelity import Comparison, Fidelity
from onnxprune.inputs import Feeds, Inputs
from onnxprune.labels import open_labels
from onnxprune.model import Model
from onnxprune.options import Options
from onnxprune.task import evaluate, find_metric


@dataclass(frozen=True)
class Judgement:
    """How a pruned model compares with the dense one.

    Attributes:
        outputs: by output name, how close it is.
        metric: name of the task metric; empty without labels.
        before, after: its value for the dense and for the pruned model.
        higher_is_better: which way is up.
        samples: how many inputs it was judged on; none of them was fitted to.
    """

    outputs: Mapping[str, Fidelity] = field(default_factory=dict)
    metric: str = ""
    before: float | None = None
    after: float | None = None
    higher_is_better: bool = True
    samples: int = 0

    @property
    def main(self) -> Fidelity:
        """The output that says most: class scores if there are any, else the first comparable."""
        comparable = [f for f in self.outputs.values() if f.cosine is not None]
        scores = [f for f in comparable if f.top1 is not None]
        return (scores or comparable or [Fidelity("")])[0]

    @property
    def drop(self) -> float:
        """What was lost: of the metric, or, without labels, of agreement with the original."""
        if self.before is not None and self.after is not None:
            gain = self.after - self.before
            return -gain if self.higher_is_better else gain
        main = self.main
        agreement = main.top1 if main.top1 is not None else main.cosine
        return 1.0 - (agreement if agreement is not None else 1.0)

    @property
    def broken(self) -> bool:
        """Whether an output is finite in one model only."""
        return any(f.broken for f in self.outputs.values())


def judge(
    dense: Model, pruned: Model, inputs: Inputs, feeds: Sequence[Feeds], asked: Options
) -> Judgement:
    """Run both models over ``feeds``, one batch at a time, keeping no outputs.

    Args:
        dense: the original.
        pruned: what is compared with it.
        inputs: where the feeds come from; says which labels are theirs.
        feeds: the inputs to judge by.
        asked: provider, labels and metric.

    Raises:
        OnnxpruneError: a model does not run on the provider, or the labels do not fit.
    """
    sessions = [open_session(m, provider=asked.provider) for m in (dense, pruned)]
    compared = Comparison()
    for each in feeds:
        compared.add(*(s.run(each) for s in sessions))
    samples = sum(len(next(iter(f.values()))) for f in feeds)
    if asked.labels is None:
        return Judgement(compared.result(), samples=samples)
    labels = open_labels(asked.labels, inputs.held_indices)
    metric = find_metric(asked.metric)
    before, after = (evaluate(metric, (s.run(f) for f in feeds), labels) for s in sessions)
    return Judgement(
        compared.result(), metric.name, before, after, metric.higher_is_better, samples
    )

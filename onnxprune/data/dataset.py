"""What a run feeds the model: the user's data, or made-up inputs that fit the graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data import Calibration, open_calibration, split
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.model import Model
from onnxprune.model.signature import signature_of
from onnxprune.runtime import Signature, open_session

Feeds = Mapping[str, npt.NDArray[Any]]

HELD_OUT = 0.1
"""The part of the calibration data that nothing is fitted to."""
MOST_BYTES = 384 << 20
"""Bytes of inputs that are fitted to: what they cause inside a network is several times larger."""
_PROVED = 2
"""Batches the proof is run on: rounding differs little between them, and masked runs are slow."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Where feeds come from.

    Attributes:
        signature: what the model takes.
        calibration: the user's data, or None.
        shapes: concrete input shapes to analyse at: those of the data, or those the user gave.
        seed: of made-up inputs.
        made: made-up inputs that the model is known to run on.
        divided: the two parts that :meth:`parts` gives, where they are not its own choice.
    """

    signature: Signature
    calibration: Calibration | None
    shapes: Mapping[str, tuple[int, ...]] | None
    seed: int
    made: tuple[Feeds, ...] = ()
    divided: tuple[Calibration, Calibration] | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the inputs are made up: good for a proof, not for judging quality."""
        return self.calibration is None or self.calibration.synthetic

    @property
    def description(self) -> str:
        """Where they come from, for reports."""
        if self.calibration is None:
            return f"random inputs, seed {self.seed}"
        return self.calibration.description

    def proof(self, analysis: Analysis) -> list[Feeds]:
        """A few feeds to prove a cut with; made-up ones come in both analysed sets of shapes."""
        if self.calibration is not None:
            return list(itertools.islice(self.calibration, _PROVED))
        return list(self.made) or self._guesses(analysis)

    def _guesses(self, analysis: Analysis) -> list[Feeds]:
        return [self._made_up(shapes, k) for k, shapes in enumerate(analysis.inputs)]

    def that_run(self, analysis: Analysis, provider: str) -> Inputs:
        """The same, with made-up inputs that the model really runs on.

        Sizes that fit the graph on paper may still not fit each other (the length of a mask and
        that of a cache, say); then sizes that exporters' names suggest are tried.

        Raises:
            OnnxpruneError: no made-up inputs run.
        """
        if self.calibration is not None:
            return self
        session = open_session(analysis.model, provider=provider, prepack=False)
        problem: OnnxpruneError | None = None
        for guess in (self._guesses, self._by_names):
            made = tuple(guess(analysis))
            try:
                for feeds in made:
                    session.run(feeds)
            except OnnxpruneError as error:
                problem = problem or error
            else:
                return replace(self, made=made)
        assert problem is not None
        raise OnnxpruneError(
            f"made-up inputs do not fit this model: {problem.message}",
            hint="give real inputs with --calib, or sizes that fit with --shapes",
        )

    def _by_names(self, _: Analysis) -> list[Feeds]:
        random = open_calibration("random", self.signature, samples=2, seed=self.seed)
        return list(itertools.islice(random, _PROVED))

    def parts(self, analysis: Analysis) -> tuple[list[Feeds], list[Feeds]]:
        """Feeds that may be fitted to, and others to judge by; the same at every call.

        Made-up inputs are not worth fitting to: then the first part is empty.
        """
        if self.calibration is None or self.calibration.synthetic:
            return [], list(self.calibration or self.proof(analysis))
        if self.calibration.steps == 1:
            return list(self.calibration), list(self.calibration)
        fit, held = self.divided or split(self.calibration, HELD_OUT, self.seed)
        return list(_within(fit, MOST_BYTES)), list(held)

    @property
    def held_indices(self) -> npt.NDArray[np.int64] | None:
        """Which samples of the source the second part of :meth:`parts` holds; None for all."""
        if self.calibration is None or self.calibration.steps == 1:
            return None
        if self.calibration.synthetic:
            return self.calibration.indices
        return (self.divided or split(self.calibration, HELD_OUT, self.seed))[1].indices

    def _made_up(self, shapes: Mapping[str, tuple[int, ...]], which: int) -> Feeds:
        """Standard normal floats; integers 0 or 1, which most vocabularies have; masks of ones."""
        rng = np.random.default_rng([self.seed, which])
        feeds = {}
        for spec in self.signature:
            shape = shapes[spec.name]
            if spec.dtype.kind == "O":
                raise OnnxpruneError(
                    f"the input '{spec.name}' takes strings, which cannot be made up",
                    hint="give real inputs with --calib",
                )
            if np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_:
                whole = "mask" in spec.name.lower()
                feeds[spec.name] = (np.ones(shape) if whole else rng.integers(0, 2, shape)).astype(
                    spec.dtype
                )
            else:
                feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        return feeds


def _within(feeds: Iterable[Feeds], most: int) -> Iterator[Feeds]:
    """Feeds until they hold so many bytes; at least one."""
    held = 0
    for each in feeds:
        if held and held + sum(a.nbytes for a in each.values()) > most:
            return
        held += sum(a.nbytes for a in each.values())
        yield each


def open_inputs(model: Model, asked: Options) -> Inputs:
    """The inputs of a run.

    Raises:
        OnnxpruneError: the data cannot be read or do not fit the model.
    """
    signature = signature_of(model)
    shapes = dict(asked.shapes) or None
    if asked.calib is None:
        return Inputs(signature, None, shapes, asked.seed)
    calibration = open_calibration(
        asked.calib,
        signature,
        preprocess=asked.preprocess,  # type: ignore[arg-type]  # checked where it is parsed
        samples=asked.calib_samples,
        batch=asked.batch,
        seed=asked.seed,
    )
    first = next(iter(calibration), None)
    if first is None:
        raise OnnxpruneError("the calibration data hold no samples")
    return Inputs(
        signature, calibration, shapes or {k: v.shape for k, v in first.items()}, asked.seed
    )

"""Names for criteria: the built-in ones, and those other packages bring.

A package registers its own by an entry point of the group ``onnxprune.criteria`` that names a
function decorated with :func:`criterion`:

    [project.entry-points."onnxprune.criteria"]
    my-criterion = "my_package.scores:my_criterion"

``onnxprune.testing.check_criterion`` checks that it keeps the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, cast, get_args

from onnxprune.errors import OnnxpruneError, suggest

ENTRY_POINTS = "onnxprune.criteria"
Need = Literal["weights", "uses", "inputs", "covariance", "seed"]
"""What a criterion looks at: stored weights, what each tensor is to its node, statistics of the
consumers' inputs, their full covariance, or the ``seed`` keyword."""
Claim = Literal["comparable", "pruning error", "monotone"]
"""*comparable*: scores of different groups share a currency, so they may be ranked together;
*pruning error*: they also add up, to the share of all outputs that is lost, so they may be weighed
against what a unit costs; *monotone*: scaling all the weights of a unit up never lowers its rank in
its group."""
Function = TypeVar("Function", bound=Callable[..., Any])


class Inapplicable(Exception):  # noqa: N818  not an error: the reason a group is left alone
    """A criterion cannot score this group; the message says why, as data for the report."""


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        name: what users type.
        function: ``(Sequence[UnitSlice]) -> float64 [units]``, higher = keep; called with
            ``seed=`` as well if it needs one; may raise :class:`Inapplicable`.
        needs: what it looks at.
        claims: what it promises beyond the contract.
    """

    name: str
    function: Callable[..., Any]
    needs: frozenset[Need]
    claims: frozenset[Claim]

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration data."""
        return bool(self.needs & {"inputs", "covariance"})

    @property
    def summary(self) -> str:
        """The first line of the function's documentation."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


_FORMER: Mapping[str, Claim] = {"damage": "pruning error"}
"""Claims under their names of before, which plug-ins may use for one more version."""
_REGISTERED: dict[str, Criterion] = {}


def criterion(
    name: str,
    *,
    needs: Iterable[Need] = ("weights",),
    claims: Iterable[str] = ("comparable",),
) -> Callable[[Function], Function]:
    """Register a function as the criterion ``name`` and return it unchanged.

    Raises:
        OnnxpruneError: another function already has that name, a claim is unknown, or it claims to
            measure a pruning error without claiming that its scores are comparable.
    """
    promised = {_FORMER.get(each, each) for each in claims}
    if unknown := promised - set(get_args(Claim)):
        raise OnnxpruneError(
            f"the criterion {name!r} claims {min(unknown)!r}, which means nothing",
            hint=f"a criterion may claim {', '.join(get_args(Claim))}",
        )
    if "pruning error" in promised and "comparable" not in promised:
        raise OnnxpruneError(
            f"the criterion {name!r} claims a pruning error, which adds up over groups, but not "
            "that its scores are comparable",
            hint='claim both: claims=("comparable", "pruning error")',
        )

    known_claims = frozenset(cast(set[Claim], promised))

    def register(function: Function) -> Function:
        known = _REGISTERED.get(name)
        if known is not None and known.function is not function:
            raise OnnxpruneError(
                f"two criteria are called {name!r}: one in {known.function.__module__}, "
                f"one in {function.__module__}",
                hint="rename the plug-in's",
            )
        _REGISTERED[name] = Criterion(name, function, frozenset(needs), known_claims)
        return function

    return register


def names() -> tuple[str, ...]:
    """Every criterion that can be asked for, installed plug-ins included (but not imported)."""
    return tuple(sorted({*_REGISTERED, *_plugins()}))


def get(name: str) -> Criterion:
    """The criterion of that name; a plug-in is imported when it is first asked for.

    Raises:
        OnnxpruneError: there is none (the nearest name is suggested), or its plug-in is broken.
    """
    if name not in _REGISTERED and name in (plugins := _plugins()):
        _load(plugins[name])
    entry = _REGISTERED.get(name)
    if entry is None:
        hint = suggest(name, names(), "`onnxprune help criterion` lists all")
        raise OnnxpruneError(f"there is no criterion {name!r}", hint=hint)
    return entry


def registered(function: Callable[..., Any]) -> Criterion | None:
    """The criterion a decorated function is registered as, or None."""
    return next((c for c in _REGISTERED.values() if c.function is function), None)


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load(point: EntryPoint) -> None:
    """Import a plug-in, which registers it."""
    owner = point.dist.name if point.dist else point.value
    try:
        point.load()
    except OnnxpruneError:
        raise
    except Exception as error:
        raise OnnxpruneError(
            f"the criterion {point.name!r} of {owner} cannot be imported: {error}",
            hint=f"repair or uninstall {owner}",
        ) from error
    if point.name not in _REGISTERED:
        raise OnnxpruneError(
            f"{owner} offers a criterion {point.name!r} but registers none of that name",
            hint=f"decorate {point.value} with @select.criteria.criterion({point.name!r})",
        )

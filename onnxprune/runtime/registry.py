"""Backends by name: the built-in ones and those of other packages.

A package adds its own by an entry point of the group ``onnxprune.backends`` that names a
:class:`Backend`, or a function without arguments that makes one:

    [project.entry-points."onnxprune.backends"]
    my-device = "my_package.device:BACKEND"

``onnxprune.testing.check_backend`` checks that it keeps the contract.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint

from onnxprune.errors import OnnxpruneError, example
from onnxprune.runtime.interface import Availability, Backend, Feeds, Loaded, Session, Shapes, Timed
from onnxprune.types import backend_name, backend_plugins

__all__ = [
    "Availability",
    "Backend",
    "Feeds",
    "Loaded",
    "Session",
    "Shapes",
    "Timed",
    "backend",
    "backends",
    "of_provider",
    "parse",
]


def backends() -> tuple[Backend, ...]:
    """Every known backend, available here or not; plug-ins last.

    Raises:
        OnnxpruneError: a plug-in is broken.
    """
    mine, others = _built_in(), backend_plugins()
    return (*mine.values(), *(_load(others[name]) for name in others if name not in mine))


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        OnnxpruneError: there is none (the nearest name is suggested), or its plug-in is broken.
    """
    wanted, mine = backend_name(name), _built_in()
    return mine[wanted] if wanted in mine else _load(backend_plugins()[wanted])


def of_provider(name: str) -> Backend:
    """The backend that is onnxruntime with the execution provider of that name.

    Raises:
        OnnxpruneError: there is no such provider.
    """
    from onnxprune.runtime.ort_backends import name_of
    from onnxprune.runtime.providers import named

    return backend(name_of(named(name)))


def parse(text: str, *, of: str = "--backend") -> tuple[Backend, ...]:
    """Backends written as in ``cpu,openvino``, each once.

    Raises:
        OnnxpruneError: none is named, or one is unknown.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise OnnxpruneError(
            f"{of} names no backend", hint=f"write it as in {example(of, 'cpu,openvino')}"
        )
    return tuple(backend(name) for name in names)


@functools.cache
def _built_in() -> Mapping[str, Backend]:
    # Here rather than above: these rooms import this one's contract, and none of them a runtime.
    from onnxprune.runtime import openvino, ort_backends, tensorrt, trtexec

    rooms = (ort_backends, openvino, tensorrt, trtexec)
    return {each.name: each for room in rooms for each in room.BACKENDS}


def _load(point: EntryPoint) -> Backend:
    """Import a plug-in."""
    owner = point.dist.name if point.dist else point.value
    try:
        target = point.load()
        result = target() if callable(target) and not isinstance(target, Backend) else target
    except OnnxpruneError:
        raise
    except Exception as error:
        raise OnnxpruneError(
            f"the backend {point.name!r} of {owner} cannot be imported: {error}",
            hint=f"repair or uninstall {owner}",
        ) from error
    if not isinstance(result, Backend) or result.name != point.name:
        raise OnnxpruneError(
            f"{owner} offers a backend {point.name!r}, but {point.value} is none of that name",
            hint="name an onnxprune.runtime.registry.Backend, or a function that makes one",
        )
    return result

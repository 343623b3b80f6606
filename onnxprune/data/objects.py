"""Samples from Python: arrays, iterables, functions and onnxruntime's calibration readers."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.data.arrays import from_columns
from onnxprune.data.casting import as_array
from onnxprune.data.intake import Intake, admit, match_names
from onnxprune.data.layout import Chunk, steps_in
from onnxprune.data.stream import Source, Steps, concatenate, keep
from onnxprune.errors import OnnxpruneError

_KEEP = 4 << 30  # bytes of a one-way stream that may be kept in memory


def from_object(given: Any, intake: Intake, where: str) -> Source:  # noqa: ANN401
    """A source from a Python object.

    Args:
        given: an array or a dict of arrays (samples along the batch axis); a list or another
            iterable of feeds; a function or class that makes one of these; an object with
            ``get_next`` (onnxruntime's ``CalibrationDataReader``). A feed is a dict of arrays, one
            array per input in order, or one array; one more element at the end of a tuple or list
            is taken for a label and left out.
        intake: what the data must become.
        where: for messages.

    Raises:
        OnnxpruneError: ``given`` is none of these, or its first feed does not fit the model.
    """
    if hasattr(given, "get_next") and not inspect.isclass(given):
        if hasattr(given, "rewind"):
            return _stream(lambda: _rewound(given), intake, where)
        return _kept(_reader(given), intake, where)
    if isinstance(given, Mapping):
        columns = {str(name): as_array(array) for name, array in given.items()}
        return from_columns(columns, intake, where, lone=False)
    if hasattr(given, "__array__"):
        return from_columns({"x": as_array(given)}, intake, where, lone=True)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return _listed(given, intake, where)
    if callable(given):
        return _called(given, intake, where)
    if isinstance(given, Iterator):
        return _kept(given, intake, where)
    if isinstance(given, Iterable):
        return _stream(lambda: iter(given), intake, where)
    raise OnnxpruneError(
        f"a {type(given).__name__} cannot give calibration data",
        hint="pass a path, an array, a dict of arrays, an iterable of them, or a function",
    )


def load_object(spec: str) -> Any:  # noqa: ANN401
    """What ``path/to/file.py:name`` or ``package.module:name`` names.

    Raises:
        OnnxpruneError: the module or the name does not exist, or the module does not import.
    """
    module_name, _, name = spec.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = _load_file(Path(module_name))
        else:
            module = importlib.import_module(module_name)
    except OnnxpruneError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise OnnxpruneError(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        raise OnnxpruneError(f"{module_name} defines no '{name}'")
    return getattr(module, name)


def _load_file(path: Path) -> Any:  # noqa: ANN401
    if not path.is_file():
        raise OnnxpruneError(f"there is no file {path}", hint="write file.py:function")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.parent.resolve()))  # its neighbours, as if it were run
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _called(function: Callable[[], Any], intake: Intake, where: str) -> Source:
    made = _call(function, where)
    if isinstance(made, Mapping) or hasattr(made, "__array__") or isinstance(made, Sequence):
        return from_object(made, intake, where)
    if not (isinstance(made, Iterable) or hasattr(made, "get_next")):
        raise OnnxpruneError(
            f"{where} returned a {type(made).__name__}",
            hint="it must return or yield feeds: dicts of arrays, or arrays",
        )
    waiting = [made]  # the first result is used once, every further pass calls again

    def restart() -> Iterator[Any]:
        result = waiting.pop() if waiting else _call(function, where)
        return _reader(result) if hasattr(result, "get_next") else iter(result)

    return _stream(restart, intake, where)


def _call(function: Callable[[], Any], where: str) -> Any:  # noqa: ANN401
    try:
        return function()
    except OnnxpruneError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise OnnxpruneError(f"{where} failed: {type(error).__name__}: {error}") from error


def _reader(reader: Any) -> Iterator[Any]:  # noqa: ANN401
    while (feeds := reader.get_next()) is not None:
        yield feeds


def _rewound(reader: Any) -> Iterator[Any]:  # noqa: ANN401
    reader.rewind()
    return _reader(reader)


def _stream(restart: Callable[[], Iterator[Any]], intake: Intake, where: str) -> Source:
    layout = intake.layout

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        return keep(_admitted(restart(), intake, where), layout, wanted)

    if next(read(None), None) is None:
        raise OnnxpruneError(f"{where} holds no samples", hint=layout.hint)
    return Source(where, read, per_step=layout.batch, batched=True)


def _admitted(feeds: Iterator[Any], intake: Intake, where: str) -> Iterator[Chunk]:
    index = 0
    while True:
        try:
            given = next(feeds)
        except StopIteration:
            return
        except OnnxpruneError:
            raise
        except Exception as error:  # the user's generator may raise anything
            raise OnnxpruneError(
                f"{where} failed after {index} feeds: {type(error).__name__}: {error}"
            ) from error
        yield _admit_feed(given, intake, f"{where}, feed {index}")
        index += 1


def _admit_feed(given: Any, intake: Intake, where: str) -> Chunk:  # noqa: ANN401
    signature = intake.layout.signature
    if isinstance(given, Mapping):
        named = {str(name): array for name, array in given.items()}
        keys = match_names(named, intake.layout, where, lone=False)
        return admit({name: named[key] for name, key in keys.items()}, intake, where, loose=True)
    parts = list(given) if isinstance(given, tuple | list) else [given]
    if len(parts) not in (len(signature), len(signature) + 1):
        raise OnnxpruneError(
            f"{where} holds {len(parts)} arrays for {len(signature)} inputs",
            hint=f"yield a dict of arrays. {intake.layout.hint}",
        )
    named = {spec.name: part for spec, part in zip(signature, parts, strict=False)}
    return admit(named, intake, where, loose=True)


def _listed(given: Sequence[Any], intake: Intake, where: str) -> Source:
    """A list of feeds; they are cheap to look at, so their number of steps is known."""
    if not given:
        raise OnnxpruneError(f"{where} holds no samples", hint=intake.layout.hint)
    sources = []
    for index, feed in enumerate(given):
        name = f"{where}, feed {index}"
        steps = steps_in(_admit_feed(feed, intake, name), intake.layout)
        read = _one_feed(feed, intake, name)
        sources.append(Source(name, read, steps, intake.layout.batch, batched=True))
    return concatenate(sources, where)


def _one_feed(feed: Any, intake: Intake, where: str) -> Callable[[Steps | None], Iterator[Chunk]]:  # noqa: ANN401
    def read(wanted: Steps | None) -> Iterator[Chunk]:
        return keep(iter([_admit_feed(feed, intake, where)]), intake.layout, wanted)

    return read


def _kept(feeds: Iterator[Any], intake: Intake, where: str) -> Source:
    """A stream that can only be gone through once, kept in memory for further passes."""
    chunks: list[Chunk] = []
    size = 0
    for chunk in _admitted(feeds, intake, where):
        chunks.append(chunk)
        size += sum(array.nbytes for array in chunk.values())
        if size > _KEEP:
            raise OnnxpruneError(
                f"{where} can only be read once and is too large to be kept in memory",
                hint="pass a function that returns a new iterator, so that it can be read again",
            )
    if not chunks:
        raise OnnxpruneError(f"{where} holds no samples", hint=intake.layout.hint)
    steps = sum(steps_in(chunk, intake.layout) for chunk in chunks)

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        return keep(chunks, intake.layout, wanted)

    return Source(where, read, steps, intake.layout.batch, batched=True)

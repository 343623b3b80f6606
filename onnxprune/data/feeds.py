"""Samples from Python: arrays, iterables, functions and onnxruntime's calibration readers."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune.data.arrays import read_columns
from onnxprune.data.batches import Batch, Index, InputFormat, Reader, chain, choose
from onnxprune.data.validation import as_array, conform, match_names
from onnxprune.errors import OnnxpruneError, kind_of

_KEEP = 4 << 30  # bytes of a one-way stream that may be kept in memory


def read_object(value: Any, inputs: InputFormat) -> Reader:  # noqa: ANN401
    """A reader of the samples that a Python object holds.

    Args:
        value: an array or a dict of arrays (samples along the batch axis); a list or another
            iterable of feeds; a function or class that makes one of these; an object with
            ``get_next`` (onnxruntime's ``CalibrationDataReader``). A feed is a dict of arrays, one
            array per input in order, or one array; one more element at the end of a tuple or list
            counts as a label and is left out.
        inputs: of the model.

    Raises:
        OnnxpruneError: ``value`` is none of these, or its first feed does not fit the model.
    """
    if hasattr(value, "get_next") and not inspect.isclass(value):
        if hasattr(value, "rewind"):
            return _stream(lambda: _iterate(value, rewind=True), inputs)
        return _kept(_iterate(value), inputs)
    if isinstance(value, Mapping):
        columns = {str(name): as_array(array) for name, array in value.items()}
        return read_columns(columns, inputs, lone=False)
    if hasattr(value, "__array__"):
        return read_columns({"x": as_array(value)}, inputs, lone=True)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _listed(value, inputs)
    if callable(value):
        return _called(value, inputs)
    if isinstance(value, Iterator):
        return _kept(value, inputs)
    if isinstance(value, Iterable):
        return _stream(lambda: iter(value), inputs)
    raise OnnxpruneError(
        f"{kind_of(value)} cannot give {inputs.noun}",
        hint="pass a path, an array, a dict of arrays, an iterable of them, or a function",
    )


def load_object(spec: str) -> Any:  # noqa: ANN401
    """The object called ``path/to/file.py:name`` or ``package.module:name``.

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
            f"{module_name} cannot be imported: {type(error).__name__}: {error}",
            hint="write file.py:name, or package.module:name of an installed package",
        ) from error
    if not hasattr(module, name):
        raise OnnxpruneError(
            f"{module_name} defines no '{name}'", hint="name a function that it defines"
        )
    return getattr(module, name)


def _load_file(path: Path) -> Any:  # noqa: ANN401
    if not path.is_file():
        raise OnnxpruneError(f"there is no file {path}", hint="write file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # its neighbours, as if it were run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _called(function: Callable[[], Any], inputs: InputFormat) -> Reader:
    result = _call(function, inputs)
    if isinstance(result, Mapping | Sequence) or hasattr(result, "__array__"):
        return read_object(result, inputs)
    if not (isinstance(result, Iterable) or hasattr(result, "get_next")):
        raise inputs.error(
            f"returned {kind_of(result)}",
            hint="it must return or yield feeds: dicts of arrays, or arrays",
        )
    waiting = [result]  # the first result is used once, every further pass calls again
    return _stream(lambda: _iterate(waiting.pop() if waiting else _call(function, inputs)), inputs)


def _call(function: Callable[[], Any], inputs: InputFormat) -> Any:  # noqa: ANN401
    try:
        return function()
    except OnnxpruneError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise OnnxpruneError(
            f"{inputs.origin} failed: {type(error).__name__}: {error}",
            hint="it is called without arguments, and must return or yield feeds",
        ) from error


def _iterate(value: Any, *, rewind: bool = False) -> Iterator[Any]:  # noqa: ANN401
    """The feeds of an iterable or a calibration reader."""
    if not hasattr(value, "get_next"):
        yield from value
        return
    if rewind:
        value.rewind()
    while (feed := value.get_next()) is not None:
        yield feed


def _stream(restart: Callable[[], Iterator[Any]], inputs: InputFormat) -> Reader:
    def read(wanted: Index | None) -> Iterator[Batch]:
        return choose(_conformed(restart(), inputs), inputs, wanted)

    if next(read(None), None) is None:
        raise inputs.error("holds no samples")
    return Reader(inputs.origin, inputs, read, group=inputs.group, batched=True)


def _conformed(feeds: Iterator[Any], inputs: InputFormat) -> Iterator[Batch]:
    index = 0
    while True:
        try:
            feed = next(feeds)
        except StopIteration:
            return
        except OnnxpruneError:
            raise
        except Exception as error:  # the user's generator may raise anything
            raise OnnxpruneError(
                f"{inputs.origin} failed after {index} feeds: {type(error).__name__}: {error}"
            ) from error
        yield from _conform(feed, inputs, index)
        index += 1


def _conform(feed: Any, inputs: InputFormat, index: int) -> list[Batch]:  # noqa: ANN401
    inputs = inputs.of(f"{inputs.origin}, feed {index}", loose=True)
    if isinstance(feed, Mapping):
        named = {str(name): array for name, array in feed.items()}
        keys = match_names(named, inputs, lone=False)
        return conform({name: named[key] for name, key in keys.items()}, inputs)
    parts, count = list(feed) if isinstance(feed, tuple | list) else [feed], len(inputs.signature)
    if len(parts) not in (count, count + 1):
        raise inputs.error(
            f"holds {len(parts)} arrays for {count} inputs",
            hint=f"yield a dict of arrays; {inputs.hint}",
        )
    return conform(dict(zip(inputs.axes, parts, strict=False)), inputs)


def _listed(feeds: Sequence[Any], inputs: InputFormat) -> Reader:
    """A list of feeds; they are cheap to look at, so their number of samples is known."""
    if not feeds:
        raise inputs.error("holds no samples")
    readers = [_again(partial(_conform, feed, inputs, k), inputs) for k, feed in enumerate(feeds)]
    return chain(readers, inputs.origin)


def _kept(feeds: Iterator[Any], inputs: InputFormat) -> Reader:
    """A stream that can be read only once, kept in memory for further passes."""
    batches: list[Batch] = []
    size = 0
    for batch in _conformed(feeds, inputs):
        batches.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if size > _KEEP:
            raise inputs.error(
                "can only be read once and is too large to be kept in memory",
                hint="pass a function that returns a new iterator, so that it can be read again",
            )
    if not batches:
        raise inputs.error("holds no samples")
    return _again(lambda: batches, inputs)


def _again(batches: Callable[[], Iterable[Batch]], inputs: InputFormat) -> Reader:
    """A reader of batches in memory."""

    def read(wanted: Index | None) -> Iterator[Batch]:
        return choose(batches(), inputs, wanted)

    samples = sum(map(inputs.count, batches()))
    return Reader(inputs.origin, inputs, read, samples, inputs.group, batched=True)

"""Polygraphy's JSON: inputs saved by ``polygraphy run --save-inputs``, and outputs to be fed on.

The format is that of ``polygraphy.json.save_json``: objects marked ``polygraphy_class`` (formerly
by a key ``__polygraphy_encoded_NAME``), of which arrays hold a base64 .npy file.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError

_MARK = "polygraphy_class"
_OLD_MARK = "__polygraphy_encoded_"


def read_inputs(path: Path) -> list[dict[str, npt.NDArray[Any]]]:
    """The feeds in a Polygraphy file, one dict of arrays per iteration.

    Inputs are a list of such dicts. From saved results of runs, the outputs of the first runner
    are taken.

    Raises:
        OnnxpruneError: it is no such file.
    """
    try:
        loaded = json.loads(path.read_text(), object_hook=_decode)
    except (ValueError, OSError, KeyError) as error:
        raise OnnxpruneError(f"{path} cannot be read: {error}", hint=_HINT) from error
    feeds = [loaded] if isinstance(loaded, dict) else loaded
    if not isinstance(feeds, list) or not feeds or not all(_is_feed(feed) for feed in feeds):
        raise OnnxpruneError(f"{path} holds no inputs saved by Polygraphy", hint=_HINT)
    return feeds


_HINT = "Save inputs with polygraphy run --save-inputs FILE.json."


def _is_feed(feed: object) -> bool:
    return isinstance(feed, dict) and all(isinstance(one, np.ndarray) for one in feed.values())


def _decode(marked: dict[str, Any]) -> Any:  # noqa: ANN401
    old = next((key for key in marked if key.startswith(_OLD_MARK)), None)
    kind = marked.get(_MARK) or (old or "").removeprefix(_OLD_MARK)
    if kind == "ndarray":
        return _array(marked["array"])
    if kind in ("LazyArray", "LazyNumpyArray"):
        return marked["values"]
    if kind == "IterationResult":
        return marked["outputs"]
    if kind == "RunResults":
        return marked["lst"][0][1]
    if kind:
        raise ValueError(f"a {kind} is no array (save numpy arrays, not torch tensors)")
    return marked


def _array(text: str) -> npt.NDArray[Any]:
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = text.encode("latin-1")  # what old versions wrote
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    first: npt.NDArray[Any] = next(iter(loaded.values()))  # an .npz archive
    return first

"""JSON is read within limits of size and depth, wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data.labels import read_vocabulary
from onnxprune.data.readers import read_polygraphy
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan import load_plan
from onnxprune.model.limits import DEEPEST, DepthError, parse_json, read_bytes, read_json
from onnxprune.model.seal import is_document
from onnxprune.report.documents import read_documents
from onnxprune.select.sensitivity import load_sensitivity

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_not_deep_is_read_as_the_library_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST, DEEPEST + 1, 900, 200_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_depth_has_a_limit(depth: int, brackets: str) -> None:
    text = brackets[:-1] * depth + "0" + brackets[-1] * depth
    if depth <= DEEPEST:
        parse_json(text)
        return
    with pytest.raises(DepthError):
        parse_json(text)


def test_size_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    assert read_json(path, largest=6) == [1, 2]
    for call in (read_json, read_bytes):
        with pytest.raises(OnnxpruneError, match=r"list\.json has more than 5 bytes"):
            call(path, largest=5)
    with pytest.raises(OnnxpruneError, match="/dev/zero has more than 1000 bytes"):
        read_json(Path("/dev/zero"), largest=1000)


def _documents(path: Path) -> object:
    return read_documents([path])


@pytest.mark.parametrize(
    "read",
    [load_plan, load_sensitivity, read_polygraphy, read_vocabulary, _documents],
)
def test_whatever_reads_json_refuses_a_deep_one(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "deep.json"
    for depth in (100, 100_000):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(OnnxpruneError, match=r"deep\.json") as caught:
            read(path)
        assert caught.value.exit_code == 2


def test_a_deep_file_is_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / "small.certificate.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert not is_document(path)

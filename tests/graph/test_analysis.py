"""What an analysis takes."""

from __future__ import annotations

import onnx

from onnxprune import analyse, load
from onnxprune.data import zoo


def test_an_analysis_takes_what_load_takes() -> None:
    path = zoo.get("digits_rescnn").model
    model = load(path)
    want = analyse(model).groups
    assert want
    for source in (path, str(path), onnx.load(path), model.to_graphsurgeon(), model.ir):
        assert [one.name for one in analyse(source).groups] == [one.name for one in want]
    assert analyse(model).model is model

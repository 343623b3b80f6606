import json
from pathlib import Path

import pytest

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.interface.class_labels import (
    label_file,
    read_labels,
    relabel,
    relabel_characters,
)

ANIMALS = ("cat", "dog", "cow", "owl")
FORMS = {
    "python": {"names": repr(dict(enumerate(ANIMALS)))},
    "list": {"class_names": json.dumps(ANIMALS)},
    "object": {"id2label": json.dumps(dict(enumerate(ANIMALS)))},
    "inverse": {"label2id": json.dumps({name: k for k, name in enumerate(ANIMALS)})},
    "commas": {"labels": ", ".join(ANIMALS)},
    "lines": {"character": "\n".join(ANIMALS)},
    "lines with an end": {"classes": "\n".join([*ANIMALS, ""])},
    "inside": {"config": json.dumps({"id2label": dict(enumerate(ANIMALS)), "hidden": 4})},
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_in_every_form_are_read_and_rewritten_in_it(form: str) -> None:
    metadata = {"author": "anyone", "stride": "4", **FORMS[form]}
    assert read_labels(metadata) == ANIMALS
    new = relabel(metadata, 4, [1, 3])
    assert set(new) == set(FORMS[form])
    assert read_labels(new) == ("dog", "owl")


def test_numbers_of_classes_follow_and_nothing_else_does() -> None:
    metadata = {"nc": "4", "imgsz": "[4, 4]", "config": '{"num_labels": 4, "num_layers": 4}'}
    new = relabel(metadata, 4, [0])
    assert new == {"nc": "1", "config": '{"num_labels": 1, "num_layers": 4}'}


@pytest.mark.parametrize(("size", "kept"), [(5, [0, 2, 4]), (6, [0, 2, 4, 5])])
def test_characters_stand_behind_the_blank_and_before_a_space(size: int, kept: list[int]) -> None:
    metadata = {"character": "\n".join(ANIMALS), "names": json.dumps(ANIMALS)}
    assert relabel_characters(metadata, size, kept) == {"character": "dog\nowl"}
    assert relabel_characters(metadata, 4, [0, 1]) == {}


@pytest.mark.parametrize("text", ["{0: 'a', 1:", "[" * 5000, "{'a': {1}}", "", "\x00"])
def test_entries_that_are_no_labels_are_left_alone(text: str) -> None:
    assert read_labels({"names": text}) == ()
    assert relabel({"names": text}, 2, [0]) == {}


def test_a_file_of_labels_is_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\r\ndog\n\n")
    assert label_file(str(path)) == ("cat", "dog")
    path.write_text("\n")
    for bad in (path, tmp_path / "none.txt", tmp_path):
        with pytest.raises(OnnxpruneError, match="keep_outputs"):
            label_file(str(bad))

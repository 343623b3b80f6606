"""Files appear complete or not at all, nothing being read is replaced, and nothing is copied."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from crashes import dies_at
from onnxprune.errors import OnnxpruneError
from onnxprune.model import (
    Model,
    clone,
    constant,
    constants,
    graphs,
    load,
    save,
    set_constant,
    to_proto,
    write,
)
from onnxprune.model import files as files_module
from onnxprune.model.origin import origin_of
from onnxprune.model.seal import KEY, Digests, entry, hash_data, read_seal
from onnxprune.model.writing import DeclinedError

Array = npt.NDArray[Any]
SIDE = 64  # 16 KiB weights: large enough to be streamed


def chain(count: int = 3, side: int = SIDE) -> onnx.ModelProto:
    """y = x W0 W1 ..., one of the weights in a Constant node."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((side, side), np.float32), f"W{i}")
        for i in range(count)
    ]
    names = ["x", *(f"h{i}" for i in range(count - 1)), "y"]
    nodes = [helper.make_node("Constant", [], ["W0"], value=weights[0])]
    nodes += [helper.make_node("MatMul", [names[i], f"W{i}"], [names[i + 1]]) for i in range(count)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", T.FLOAT, ["n", side])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["n", side])],
        weights[1:],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def run(path: Path, side: int = SIDE) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    runner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    result: Array = runner.run(None, {"x": np.eye(side, dtype=np.float32)[:4]})[0]
    return result


@pytest.fixture
def inline(tmp_path: Path) -> Path:
    path = tmp_path / "inline.onnx"
    path.write_bytes(chain().SerializeToString())
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def data_of(path: Path) -> Path:
    """The file of data that a model names."""
    (data,) = {file for file in origin_of(load(path).ir).files if file != path}
    assert re.fullmatch(rf"{path.name}\.[0-9a-f]{{12}}\.data", data.name)
    return data


# Layout ---------------------------------------------------------------------------------------


def test_weights_go_where_they_are_asked_to_go(inline: Path, tmp_path: Path) -> None:
    expected = run(inline)
    model = load(inline)
    inside = save(model, tmp_path / "a.onnx")
    beside = save(model, tmp_path / "b.onnx", external=True)
    again = save(load(beside), tmp_path / "c.onnx")  # as the source had it
    back = save(load(beside), tmp_path / "d.onnx", external=False)
    data = data_of(beside)
    assert hashlib.sha256(data.read_bytes()).hexdigest()[:12] in data.name
    names = {"inline.onnx", "a.onnx", "b.onnx", "c.onnx", "d.onnx"}
    assert files(tmp_path) == {*names, data.name, data_of(again).name}
    for path in (inside, beside, again, back):
        onnx.checker.check_model(path, full_check=True)
        assert np.array_equal(run(path), expected), path
    assert inside.read_bytes() == back.read_bytes()
    assert beside.stat().st_size < 2000
    assert data.stat().st_size == 3 * SIDE * SIDE * 4


def test_external_weights_start_on_pages(tmp_path: Path) -> None:
    save(load(chain(side=50)), tmp_path / "m.onnx", external=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == data_of(tmp_path / "m.onnx").name
        assert int(entries["offset"]) % 4096 == 0
        assert int(entries["length"]) == 50 * 50 * 4


def test_a_model_without_large_weights_needs_no_second_file(tmp_path: Path) -> None:
    save(load(chain(side=4)), tmp_path / "m.onnx", external=True)
    assert files(tmp_path) == {"m.onnx"}
    run(tmp_path / "m.onnx", side=4)


def test_bodies_keep_their_weights(tmp_path: Path) -> None:
    held = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (bool c, float[3000] x) => (float[3000] y) {
          y = If (c) <then_branch = a () => (float[3000] r) { r = Mul(x, x) },
                      else_branch = b () => (float[3000] r) { r = Neg(x) }>
        }
    """)
    body = proto.graph.node[0].attribute[0].g
    body.initializer.append(numpy_helper.from_array(held, "W"))
    body.node[0].input[1] = "W"
    x = np.ones(3000, np.float32)
    for external in (False, True):
        path = save(load(proto), tmp_path / "m.onnx", external=external)
        runner = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert np.array_equal(runner.run(None, {"c": np.array(True), "x": x})[0], held)


def test_the_bytes_of_a_saved_model_are_those_onnx_would_write(tmp_path: Path) -> None:
    """Streaming takes the message apart; what is written parses to the very same message."""
    model = load(chain())
    path = save(model, tmp_path / "m.onnx")
    assert onnx.load(path) == to_proto(model)


def test_lazy_weights_are_computed_while_saving(inline: Path, tmp_path: Path) -> None:
    model = clone(load(inline))
    calls = []

    def double(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        calls.append(tensor.name)
        return ir.Tensor(tensor.numpy() * 2)

    for graph in graphs(model):
        for value in (*graph.initializers.values(), graph[0].outputs[0]):
            old = constant(value)
            assert old is not None
            shape = ir.Shape(old.shape.numpy())
            set_constant(value, ir.LazyTensor(partial(double, old), old.dtype, shape))
    assert not calls
    path = save(model, tmp_path / "m.onnx")
    assert sorted(map(str, calls)) == ["W0", "W1", "W2"]  # each once
    assert np.array_equal(run(path), run(inline) * 8)


# Safety ---------------------------------------------------------------------------------------


def test_what_is_being_read_is_not_replaced(inline: Path, tmp_path: Path) -> None:
    beside = save(load(inline), tmp_path / "b.onnx", external=True)
    (tmp_path / "soft.onnx").symlink_to(inline)
    os.link(inline, tmp_path / "hard.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for source, target in (
        (inline, inline),
        (inline, tmp_path / "soft.onnx"),
        (inline, tmp_path / "hard.onnx"),
        (inline, tmp_path / ".." / tmp_path.name / "inline.onnx"),
        (beside, beside),
        (beside, data_of(beside)),
    ):
        model = clone(load(source))  # a clone reads the same files
        with pytest.raises(OnnxpruneError, match="being read"):
            save(model, target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_being_read_can_be_replaced_on_request(inline: Path, tmp_path: Path) -> None:
    expected = run(inline)
    model = load(inline)
    save(model, inline, overwrite=[inline], external=True)
    assert np.array_equal(run(inline), expected)
    save(model, tmp_path / "other.onnx")  # the old bytes are still there to be read
    assert np.array_equal(run(tmp_path / "other.onnx"), expected)


def test_an_unrelated_file_is_replaced(inline: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.onnx"
    target.write_text("old")
    save(load(inline), target)
    run(target)


def test_places_that_cannot_be_written_are_refused(inline: Path, tmp_path: Path) -> None:
    model = load(inline)
    (tmp_path / "folder.onnx").mkdir()
    for target, message in (
        (tmp_path / "none" / "m.onnx", "there is no folder"),
        (inline / "m.onnx", "there is no folder"),
        (tmp_path / "folder.onnx", "is a folder"),
        (tmp_path / ("n" * 300), "cannot be written"),
        (Path("/proc/m.onnx"), "cannot be written"),
    ):
        with pytest.raises(OnnxpruneError, match=message) as caught:
            save(model, target)
        assert caught.value.hint
    assert files(tmp_path) == {"inline.onnx", "folder.onnx"}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("fails", [True, False])
def test_a_failure_leaves_no_trace(
    external: bool, fails: bool, inline: Path, tmp_path: Path
) -> None:
    """A weight that cannot be computed, or is not as large as it says."""
    target = tmp_path / "m.onnx"
    target.write_text("precious")
    model = clone(load(inline))
    value = model.ir.graph.initializers["W2"]

    def compute() -> ir.TensorProtocol:
        if fails:
            raise RuntimeError("no such weight")
        return ir.Tensor(np.zeros(3, np.float32))

    set_constant(value, ir.LazyTensor(compute, ir.DataType.FLOAT, ir.Shape([SIDE, SIDE])))
    with pytest.raises((RuntimeError, ValueError), match=r"no such weight|gave 12 bytes"):
        save(model, target, external=external)
    assert target.read_text() == "precious"
    assert files(tmp_path) == {"inline.onnx", "m.onnx"}


@pytest.mark.parametrize("external", [False, True])
def test_a_full_device_leaves_no_trace(external: bool, inline: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit on file sizes")
    model = load(inline)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIDE * SIDE * 4 + 1000, hard))  # one weight fits
    try:
        with pytest.raises(OnnxpruneError, match="cannot be written"):
            save(model, tmp_path / "m.onnx", external=external)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == {"inline.onnx"}


def test_saved_files_have_ordinary_permissions(inline: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    reference.touch()
    saved = save(load(inline), tmp_path / "m.onnx")
    assert saved.stat().st_mode == reference.stat().st_mode


def test_a_deleted_or_replaced_file_can_still_be_saved_from(inline: Path, tmp_path: Path) -> None:
    expected = run(inline)
    model = load(inline)
    inline.unlink()
    inline.write_bytes(bytes(100_000))
    assert np.array_equal(run(save(model, tmp_path / "m.onnx")), expected)


# Whenever it dies -------------------------------------------------------------------------------


def filled(number: float) -> onnx.ModelProto:
    """A chain whose weights all hold one number, which its name says too."""
    proto = chain(2)
    proto.graph.name = str(number)
    array = np.full((SIDE, SIDE), number, np.float32)
    proto.graph.node[0].attribute[0].t.raw_data = array.tobytes()
    proto.graph.initializer[0].raw_data = array.tobytes()
    return proto


def whose(path: Path) -> str:
    """The name of a saved graph, all of whose weights must be its own."""
    model = load(path)
    for value in constants(model).values():
        tensor = constant(value)
        assert tensor is not None
        assert (tensor.numpy() == float(model.ir.graph.name or "")).all()
    return model.ir.graph.name or ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be copied")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("external", [False, True])
def test_whenever_a_save_dies_the_graph_has_its_own_weights(
    external: bool, before: bool | None, tmp_path: Path
) -> None:
    def certify(digests: Digests) -> tuple[str, bytes]:
        return digests.graph, json.dumps({"format": KEY, "graph": digests.graph}).encode()

    old, new = load(filled(1.0)), load(filled(2.0))
    step, seen = 0, set()
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        path = folder / "m.onnx"
        if before is not None:
            write(old, path, external=before, certify=certify)
        died = dies_at(step, lambda: write(new, path, external=external, certify=certify))  # noqa: B023
        for settled in (False, True):
            if settled:
                files_module.settle(folder)
            if not path.exists():
                assert before is None
                assert not settled or files(folder) == set()
                continue
            seen.add(whose(path))
            seal, document = read_seal(path), folder / "m.certificate.json"
            assert seal.text == seal.digests.graph
            if settled or document.exists():
                assert json.loads(document.read_bytes())["graph"] == seal.text
            if settled:
                data = {each.name for each in origin_of(load(path).ir).files if each != path}
                expected = {"m.onnx", "m.certificate.json", *data}
                assert files(folder) == expected
        if not died:
            break
        step += 1
    assert seen == ({"2.0"} if before is None else {"1.0", "2.0"})


def test_replaced_data_go_unless_another_model_names_them(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(load(filled(1.0)), path, external=True)
    first = data_of(path)
    save(load(filled(2.0)), path, external=True)
    data = data_of(path)
    assert not first.exists()
    (tmp_path / "copy.onnx").write_bytes(path.read_bytes())
    save(load(filled(3.0)), path, external=True)
    assert files(tmp_path) == {"m.onnx", data_of(path).name, "copy.onnx", data.name}
    assert (whose(path), whose(tmp_path / "copy.onnx")) == ("3.0", "2.0")
    save(load(filled(4.0)), path)
    assert files(tmp_path) == {"m.onnx", "copy.onnx", data.name}


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("present", [True, False])
def test_data_that_no_model_names_go_with_the_next_write(
    external: bool, present: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    if present:
        save(load(filled(1.0)), path, external=True)
    for name in ("m.onnx.0123456789ab.data", "m.onnx.ba9876543210.data"):
        (tmp_path / name).write_text("of a dead writer")
    kept = {
        "m.onnx.aaaaaaaaaaaa.data": "other.onnx",
        "m.onnx.bbbbbbbbbbbb.data": "m.onnx.bak",
        "m.onnx.cccccccccccc.data": "other.onnx.pb",
    }
    for name, model in kept.items():
        (tmp_path / name).write_text("in use")
        (tmp_path / model).write_text(f"names {name}")
    others = {"n.onnx.0123456789ab.data", "m.onnx.0123.data", "m.onnx.0123456789ab.data.bak"}
    for name in others:
        (tmp_path / name).write_text("of somebody else")
    (tmp_path / "m.onnx.dddddddddddd.data").mkdir()
    save(load(filled(2.0)), path, external=external)
    expected = {"m.onnx", *kept, *kept.values(), *others, "m.onnx.dddddddddddd.data"}
    names = files(tmp_path) - expected
    assert len(names) == external
    assert whose(path) == "2.0"


def test_data_of_a_writer_that_lives_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def write_meanwhile(_: Path) -> bool:
        save(load(filled(2.0)), path, external=True)
        assert whose(path) == "2.0"
        return True

    for start in (None, 3.0):
        if start is not None:
            save(load(filled(start)), path, external=True)
        write(load(filled(1.0)), path, external=True, accept=write_meanwhile)
        assert whose(path) == "1.0"
        save(load(filled(4.0)), path, external=True)  # nothing of either is left
        assert whose(path) == "4.0"
        assert len(files(tmp_path)) == 2


def test_data_of_a_faster_writer_go_with_his_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def write_meanwhile(_: Path) -> bool:
        save(load(filled(2.0)), path, external=True)
        data = data_of(path)
        save(load(filled(2.0)), path, external=True)  # nothing changes
        assert data_of(path) == data
        return True

    write(load(filled(1.0)), path, external=True, accept=write_meanwhile)
    assert whose(path) == "1.0"
    assert files(tmp_path) == {"m.onnx", data_of(path).name}


@pytest.mark.parametrize("place", ["before", "after", "beside"])
def test_two_writers_that_spare_one_another_leave_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes to its rename right before, or after, that of another who has seen its claim."""
    path = tmp_path / "m.onnx"
    rename = files_module.Change.commit
    others = [load(filled(2.0)), load(filled(3.0))]

    def commit(change: files_module.Change) -> None:
        if place == "after":
            rename(change)
        if others:
            save(others.pop(), path, external=True)
        if place != "after":
            rename(change)
        if place == "beside" and others:
            save(others.pop(), path, external=True)

    monkeypatch.setattr(files_module.Change, "commit", commit)
    save(load(filled(1.0)), path, external=True)
    assert whose(path) in ("1.0", "2.0", "3.0")
    assert files(tmp_path) == {"m.onnx", data_of(path).name}


def test_data_of_the_same_content_are_shared(tmp_path: Path) -> None:
    """A rewrite gives the same bytes, and one that is declined or dies takes nothing away."""
    path = save(load(filled(1.0)), tmp_path / "m.onnx", external=True)
    names, content = files(tmp_path), path.read_bytes()
    with pytest.raises(DeclinedError):
        write(load(filled(1.0)), path, external=True, accept=lambda _: False)
    assert (whose(path), files(tmp_path)) == ("1.0", names)
    save(load(filled(1.0)), path, external=True)
    assert (path.read_bytes(), files(tmp_path)) == (content, names)
    data = data_of(path)
    data.write_bytes(bytes(data.stat().st_size))  # damaged: no longer what its name says
    save(load(filled(1.0)), path, external=True)
    assert (whose(path), data.exists()) == ("1.0", False)
    save(load(filled(1.0)), path, external=True)
    assert (path.read_bytes(), files(tmp_path)) == (content, names)


def test_data_that_are_removed_before_the_rename_come_back(tmp_path: Path) -> None:
    """By a writer who looked for claims before this one had made his."""
    path = tmp_path / "m.onnx"

    def remove(_: Path) -> bool:
        (data,) = tmp_path.glob("m.onnx.*.data")
        data.unlink()
        return True

    write(load(filled(1.0)), path, external=True, accept=remove)
    assert whose(path) == "1.0"
    assert files(tmp_path) == {"m.onnx", data_of(path).name}


def test_data_named_as_other_writers_name_them_go_with_their_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(filled(1.0), path, save_as_external_data=True, location="m.onnx.data")
    save(load(filled(2.0)), path, external=True)
    assert files(tmp_path) == {"m.onnx", data_of(path).name}
    assert whose(path) == "2.0"


def test_data_of_others_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_text("of somebody else")
    save(load(filled(1.0)), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx.data").read_text() == "of somebody else"
    assert whose(tmp_path / "m.onnx") == "1.0"


def test_a_model_that_is_not_accepted_does_not_appear(tmp_path: Path) -> None:
    path = save(load(filled(1.0)), tmp_path / "m.onnx", external=True)
    names = files(tmp_path)
    looked = []

    def accept(place: Path) -> bool:
        looked.append(whose(place))
        run(place)
        return False

    with pytest.raises(DeclinedError, match="was not written"):
        write(load(filled(2.0)), path, external=True, accept=accept)
    assert looked == ["2.0"]
    assert (whose(path), files(tmp_path)) == ("1.0", names)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "m.onnx").symlink_to(tmp_path / "store" / "real.onnx")
    save(load(filled(1.0)), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").is_symlink()
    assert whose(tmp_path / "store" / "real.onnx") == "1.0"
    with pytest.raises(OnnxpruneError, match="a link into another folder"):
        save(load(filled(2.0)), tmp_path / "m.onnx", external=True)
    assert files(tmp_path / "store") == {"real.onnx"}


def test_a_certificate_does_not_outlive_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    document = json.dumps({"format": KEY}).encode()
    write(load(filled(1.0)), path, certify=lambda digests: (digests.graph, document))
    seal = read_seal(path)
    assert (seal.text, len(files(tmp_path))) == (seal.digests.graph, 2)
    copy = save(load(path), tmp_path / "copy.onnx")
    assert read_seal(copy).text is None
    save(load(filled(2.0)), path)
    assert files(tmp_path) == {"m.onnx", "copy.onnx"}
    (tmp_path / "m.certificate.json").write_text("{}")
    with pytest.raises(OnnxpruneError, match="is no certificate"):
        write(load(filled(1.0)), path, certify=lambda digests: (digests.graph, document))
    save(load(filled(1.0)), path)
    assert (tmp_path / "m.certificate.json").read_text() == "{}"


def test_a_seal_sees_every_bit(tmp_path: Path) -> None:
    path = write(
        load(filled(1.0)), tmp_path / "m.onnx", external=True, certify=lambda _: ("x", b"{}")
    )
    content = path.read_bytes()
    content = content.removesuffix(entry("x"))
    assert hashlib.sha256(content).hexdigest() == read_seal(path).digests.graph
    data = data_of(path)
    digests = hash_data(path, [data.name])
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    assert hash_data(path, [data.name]) != digests


def test_a_file_that_loses_bytes_while_it_is_read_is_an_error(inline: Path, tmp_path: Path) -> None:
    model = load(inline)
    with inline.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(OnnxpruneError, match="has lost"):
        save(model, tmp_path / "m.onnx")
    assert files(tmp_path) == {"inline.onnx"}


# Size -----------------------------------------------------------------------------------------


LIMITED = """
import resource, sys
from pathlib import Path
import onnx
from onnxprune.model import load, save

source, target, external, allowed = sys.argv[1:]
save(load("small.onnx"), target)  # everything is imported now
held = next(
    int(line.split()[1]) * 1024
    for line in Path("/proc/self/status").read_text().splitlines()
    if line.startswith("VmData")
)
resource.setrlimit(resource.RLIMIT_DATA, (held + int(allowed),) * 2)
try:
    onnx.load(source)
except MemoryError:
    save(load(source), target, external=external == "True")
else:
    sys.exit("the limit does not bite: onnx.load stayed within it")
"""
"""Mapped files are no burden, private memory is: run with only so much more of it."""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="private memory is a Linux figure"
)
@pytest.mark.parametrize("external", [False, True])
def test_loading_and_saving_holds_one_weight_at_a_time(external: bool, tmp_path: Path) -> None:
    side, count = 1448, 16
    weight = side * side * 4  # 8 MiB; 128 MiB together
    (tmp_path / "large.onnx").write_bytes(chain(count, side).SerializeToString())
    (tmp_path / "small.onnx").write_bytes(chain().SerializeToString())
    command = ["-c", LIMITED, "large.onnx", "out.onnx", str(external), str(2 * weight)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = data_of(tmp_path / "out.onnx") if external else tmp_path / "out.onnx"
    assert data.stat().st_size >= count * weight


def _huge(tmp_path: Path) -> Model:
    """17 external weights of 128 MiB in a file of holes: 2.1 GiB that take no room."""
    rows = 1 << 15
    proto = chain(2, 4)
    del proto.graph.initializer[:]
    del proto.graph.node[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for index in range(17):
        tensor = proto.graph.initializer.add(name=f"W{index}", data_type=T.FLOAT)
        tensor.dims.extend([rows, 1024])
        tensor.data_location = T.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", str(index * rows * 4096))):
            tensor.external_data.add(key=key, value=value)
    proto.graph.node.add(op_type="Gather", input=["W16", "i"], output=["y"])
    proto.graph.input[0].name = "i"
    proto.graph.input[0].type.tensor_type.elem_type = T.INT64
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(17 * rows * 4096)
        file.seek(16 * rows * 4096)
        file.write(np.arange(1024, dtype=np.float32).tobytes())
    (tmp_path / "huge.onnx").write_bytes(proto.SerializeToString())
    return load(tmp_path / "huge.onnx")


def test_more_than_two_gigabytes_cannot_go_inside(tmp_path: Path) -> None:
    model = _huge(tmp_path)
    with pytest.raises(OnnxpruneError, match="2 GiB"):
        save(model, tmp_path / "m.onnx", external=False)
    with pytest.raises(OnnxpruneError, match="more than one message can"):
        to_proto(model)
    assert files(tmp_path) == {"huge.onnx", "w.bin"}


@pytest.mark.heavy
def test_more_than_two_gigabytes_go_beside(tmp_path: Path) -> None:
    path = save(load(_huge(tmp_path).ir), tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    assert data_of(path).stat().st_size == 17 << 27
    runner = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (row,) = runner.run(None, {"i": np.zeros((1, 4), np.int64)})
    assert np.array_equal(row[0, 0], np.arange(1024))

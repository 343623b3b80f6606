"""Every form of any weight decodes to the weight, bit by bit, in numpy and in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.jobs.store import same
from onnxprune.model.decode import MARK, densify
from onnxprune.runtime import open_session
from onnxprune.solve.masks import keep_n_of_m
from onnxprune.sparse.encodings import sparsity_stats
from onnxprune.sparse.encodings.sparsity_stats import count
from onnxprune.sparse.encodings.table import DENSE, ENCODINGS, PACKED
from onnxprune.sparse.encodings.weights import Coding, Values, Weight, choose_coding
from onnxprune.sparse.encodings.write import write

Array = npt.NDArray[Any]

DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8")


def made(shape: Sequence[int], density: float, dtype: str, seed: int) -> Array:
    """A weight with about as many values that are not zero."""
    rng = np.random.default_rng(seed)
    kept = rng.random(shape) < density
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    whole = rng.integers(1, 120, shape).astype(kind)
    if kind.kind in "iu":
        return np.where(kept, whole, kind.type(0))
    return np.where(kept, rng.standard_normal(shape).astype(kind) + whole, kind.type(0))


def two_of_four(array: Array, axis: int) -> Array:
    keep = keep_n_of_m(np.abs(array.astype(np.float64)), 2, 4, axis)
    return np.where(keep, array, array.dtype.type(0))


def holding(arrays: Sequence[Array], opset: int = 17, ir_version: int = 9) -> models.Model:
    """A model whose outputs are its weights."""
    graph = ir.Graph([], [], nodes=[], name="g", opset_imports={"": opset})
    for k, array in enumerate(arrays):
        tensor = ir.Tensor(array, name=f"w{k}")
        value = ir.Value(
            name=f"w{k}", shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )  # fmt: skip
        graph.register_initializer(value)
        node = ir.Node("", "Identity", [value], name=f"n{k}")
        node.outputs[0].name = f"y{k}"
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return models.load(ir.Model(graph, ir_version=ir_version))


def in_form(model: models.Model, form: str, codings: Sequence[Coding] = ()) -> models.Model:
    """A copy in which every weight has this form, if it can have it, whatever its size."""
    copy = models.clone(model)
    chosen = []
    for k, value in enumerate(list(copy.ir.graph.initializers.values())):
        tensor = value.const_value
        assert tensor is not None
        coding = codings[k] if codings else Coding(tensor.dtype)
        stats = count(coding.encode(tensor.numpy()))
        encoding = ENCODINGS[form]
        fits = encoding.size(stats, 1) is not None
        chosen.append(Weight(value, tensor, coding, stats, encoding if fits else DENSE))
    write(copy, chosen)
    return copy


def weights_of(model: models.Model) -> dict[str, Array]:
    found = {}
    for name, value in models.constants(model).items():
        tensor = models.constant(value)
        assert tensor is not None
        found[name] = tensor.numpy()
    return found


def outputs_of(path: Path | bytes, *, optimise: bool = True) -> list[Array]:
    return list(open_session(path, threads=1, optimise=optimise).run({}).values())


def check_all(arrays: Sequence[Array], form: str, tmp_path: Path, **graph: int) -> models.Model:
    """Store, read and run; what comes back must be what was there."""
    dense = holding(arrays, **graph)
    stored = in_form(dense, form)
    path = models.save(stored, tmp_path / "stored.onnx")
    onnx.checker.check_model(path, full_check=form != "sparse")
    back, names = densify(models.load(path))
    if form in PACKED and form != "nibble":
        assert set(names) == {f"w{k}" for k in range(len(arrays))}
    found = weights_of(back)
    assert found.keys() == weights_of(dense).keys()
    for k, (array, output) in enumerate(zip(arrays, outputs_of(path), strict=True)):
        assert same(found[f"w{k}"], array)
        assert same(output, array)
    return stored


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0]),
    dtype=st.sampled_from(DTYPES),
    form=st.sampled_from(["sparse", "bitmask", "delta", "delta4"]),
    seed=st.integers(0, 99),
)
@example(shape=[1], density=0.0, dtype="float32", form="delta", seed=0)
@example(shape=[700, 3], density=0.001, dtype="float32", form="delta", seed=0)  # long distances
@example(shape=[1], density=0.0, dtype="float32", form="delta4", seed=0)
@example(shape=[700, 3], density=0.001, dtype="float16", form="delta4", seed=0)
@example(shape=[29], density=1.0, dtype="int8", form="delta4", seed=0)
@example(shape=[9, 9, 9, 9], density=0.5, dtype="bfloat16", form="bitmask", seed=0)
def test_any_weight_in_any_form(
    shape: list[int], density: float, dtype: str, form: str, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    array = made(shape, density, dtype, seed)
    check_all([array], form, tmp_path_factory.mktemp("stored"))


@given(
    shape=st.sampled_from(
        [(8,), (4, 6), (3, 8), (5, 8, 3, 3), (2, 3, 4), (16, 16, 1, 1), (8, 4, 3)]
    ),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_two_of_four_along_any_axis(
    shape: tuple[int, ...], density: float, dtype: str, data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    axis = data.draw(st.sampled_from([a for a, size in enumerate(shape) if size % 4 == 0]))
    array = two_of_four(made(shape, density, dtype, 1), axis)
    stored = check_all([array], "nibble", tmp_path_factory.mktemp("stored"))
    assert (MARK in stored.ir.metadata_props) == (array.size % 8 == 0)


@given(
    shapes=st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=3), min_size=2, max_size=6),
    form=st.sampled_from(["sparse", "bitmask", "delta", "delta4"]),
    dtypes=st.lists(st.sampled_from(["float32", "float16", "int8"]), min_size=6, max_size=6),
    opset=st.sampled_from([11, 13, 18, 21]),
)
def test_weights_that_share_a_decoder(
    shapes: list[list[int]], form: str, dtypes: list[str], opset: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    kinds = dtypes[: len(shapes)]
    arrays = [made(s, 0.3, d, k) for k, (s, d) in enumerate(zip(shapes, kinds, strict=True))]
    check_all(arrays, form, tmp_path_factory.mktemp("stored"), opset=opset)


@pytest.mark.parametrize("form", sorted(PACKED))
def test_slabs_of_any_length_are_encoded_alike(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = two_of_four(made((24, 40), 1.0, "float32", 3), 1)
    stored = []
    for slab in (1 << 22, 64):
        monkeypatch.setattr(sparsity_stats, "_SLAB", slab)
        model = holding([array])
        value = models.constants(model)["w0"]
        tensor = models.constant(value)
        assert tensor is not None
        coding = Coding(tensor.dtype)
        write(model, [Weight(value, tensor, coding, count(array), encoding=ENCODINGS[form])])
        stored.append({
            name: tensor.numpy().tobytes()
            for name, each in models.constants(model).items()
            if (tensor := models.constant(each)) is not None
        })  # fmt: skip
    assert stored[0] == stored[1]


def test_weights_of_one_kind_share_one_decoder(tmp_path: Path) -> None:
    arrays = [made((40, 8), 0.4, "float32", k) for k in range(5)]
    stored = check_all([*arrays, two_of_four(arrays[0], 1)], "bitmask", tmp_path)
    counted = [node.op_type for node in stored.ir.graph]
    assert counted.count("CumSum") == 1
    assert counted.count("Split") == 1


def test_nibbles_of_several_layouts_share_one_decoder(tmp_path: Path) -> None:
    arrays = [
        two_of_four(made((8, 16, 3, 3), 1.0, "float32", 0), 1),
        two_of_four(made((16, 8), 1.0, "float32", 1), 0),
        two_of_four(made((16, 8), 1.0, "float32", 2), 1),
    ]
    stored = check_all(arrays, "nibble", tmp_path)
    assert [node.op_type for node in stored.ir.graph].count("GatherElements") == 1


@pytest.mark.parametrize("form", ["bitmask", "delta", "delta4", "nibble"])
def test_onnxruntime_folds_every_decoder(form: str, tmp_path: Path) -> None:
    """What is left of the graph is what was there before: nothing is decoded at run time."""
    import onnxruntime as ort

    arrays = [
        two_of_four(made((64, 16), 1.0, dtype, 0), 1) for dtype in ("float32", "float16", "int8")
    ]
    path = models.save(in_form(holding(arrays), form), tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert left <= {"Identity"}


@pytest.mark.parametrize("form", ["bitmask", "delta", "delta4", "nibble"])
def test_decoders_are_right_without_folding_too(form: str, tmp_path: Path) -> None:
    array = two_of_four(made((64, 16), 1.0, "float32", 0), 1)
    path = models.save(in_form(holding([array]), form), tmp_path / "m.onnx")
    (output,) = outputs_of(path, optimise=False)
    assert same(output, array)


@pytest.mark.parametrize("form", ["sparse", "bitmask", "delta", "delta4", "nibble"])
def test_zeros_lose_their_sign_and_nothing_else_does(form: str, tmp_path: Path) -> None:
    array = made((16, 16), 1.0, "float32", 0)
    array[:, ::2] = -0.0
    array[0, 1], array[1, 1], array[2, 1] = np.nan, -np.inf, 1e-45
    assert count(array).negative == 128
    path = models.save(in_form(holding([array]), form), tmp_path / "m.onnx")
    found = weights_of(densify(models.load(path))[0])["w0"]
    assert not np.signbit(found[:, ::2]).any()
    assert same(found, np.where(array == 0, np.float32(0), array))
    assert same(outputs_of(path)[0], found)


@given(
    shape=st.sampled_from([(64, 8), (8, 3, 3, 3), (4, 5, 6)]),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
    asked=st.sampled_from(["fp32", "fp16", "int8"]),
    form=st.sampled_from(["dense", "bitmask", "delta", "delta4"]),
    seed=st.integers(0, 9),
)
def test_narrowed_values_are_what_was_announced(
    shape: tuple[int, ...], dtype: str, asked: Values, form: str, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    array = made(shape, 0.4, dtype, seed)
    dense = holding([array])
    kind = ir.DataType.from_numpy(array.dtype)
    coding, why = choose_coding(array, kind, asked)
    assert why == ""
    expected = coding.decode(coding.encode(array), kind)
    exact, given_ = expected.astype(np.float64), array.astype(np.float64)
    assert np.array_equal(exact[given_ == 0], given_[given_ == 0])
    step = 1 / 127 if asked == "int8" else 2**-8
    assert np.abs(exact - given_).max() <= step * np.abs(given_).max()
    folder = tmp_path_factory.mktemp("stored")
    path = models.save(in_form(dense, form, [coding]), folder / "m.onnx")
    found = weights_of(densify(models.load(path))[0])
    assert found.keys() == {"w0"}
    assert same(found["w0"], expected)
    assert same(outputs_of(path)[0], expected)


@given(
    shapes=st.lists(
        st.sampled_from([(16,), (40,), (300,), (4, 6), (3, 8, 2), (1, 24), (24, 1)]),
        min_size=1,
        max_size=6,
    ),
    dtypes=st.lists(st.sampled_from(["float32", "float64"]), min_size=6, max_size=6),
    values=st.sampled_from(["fp16", "int8"]),
    form=st.sampled_from(["dense", "bitmask", "delta", "delta4"]),
    opset=st.sampled_from([11, 13, 21]),
)
@example(
    shapes=[(40,), (40,)], dtypes=["float32"] * 6, values="fp16", form="dense", opset=17
)  # parts of one tensor, as they are
@example(
    shapes=[(4, 6), (40,)], dtypes=["float32"] * 6, values="fp16", form="dense", opset=17
)  # the first is reshaped
def test_narrowed_weights_that_share_a_decoder(
    shapes: list[tuple[int, ...]], dtypes: list[str], values: Values, form: str, opset: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    arrays = [made(s, 0.6, d, k) for k, (s, d) in enumerate(zip(shapes, dtypes, strict=False))]
    kinds = [ir.DataType.from_numpy(array.dtype) for array in arrays]
    codings = [choose_coding(a, kind, values)[0] for a, kind in zip(arrays, kinds, strict=True)]
    dense = holding(arrays, opset=opset)
    path = models.save(in_form(dense, form, codings), tmp_path_factory.mktemp("stored") / "m.onnx")
    back = densify(models.load(path))[0]
    decoded = weights_of(back)
    assert decoded.keys() == weights_of(dense).keys()
    assert {node.op_type for node in back.ir.graph} == {"Identity"}
    for k, (array, coding, kind) in enumerate(zip(arrays, codings, kinds, strict=True)):
        expected = coding.decode(coding.encode(array), kind)
        assert same(decoded[f"w{k}"], expected)
        assert same(outputs_of(path)[k], expected)


def test_values_stay_exact_where_narrowing_would_break_them() -> None:
    large = np.full((16, 16), 1e5, np.float32)
    wild = np.full((16, 16), np.nan, np.float32)
    kind = ir.DataType.FLOAT
    for array, asked, word in ((large, "fp16", "range"), (wild, "int8", "finite")):
        coding, why = choose_coding(array, kind, asked)  # type: ignore[arg-type]
        assert coding.dtype == kind
        assert word in why
    ones = np.ones(512, np.float32)
    assert choose_coding(ones, kind, "fp16")[0].dtype == ir.DataType.FLOAT16
    assert choose_coding(ones, kind, "int8")[0].dtype == kind
    tiny = np.where(np.arange(512) == 7, np.float32(1e-6), ones)  # a variance that is nearly zero
    coding, why = choose_coding(tiny, kind, "fp16")
    assert (coding.dtype, why) == (kind, "it has values too small for fp16")
    assert choose_coding(0 * ones, kind, "fp16")[0].dtype == ir.DataType.FLOAT16


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.005, 0.1, 0.5, 1.0]),
    itemsize=st.sampled_from([(1, "int8"), (2, "float16"), (4, "float32")]),
    seed=st.integers(0, 9),
)
def test_sizes_are_those_of_the_formulas(
    shape: list[int], density: float, itemsize: tuple[int, str], seed: int
) -> None:
    """The bytes a weight is chosen by are the bytes its parts take."""
    size, dtype = itemsize
    array = made(shape, density, dtype, seed)
    stats = count(array)
    for form, extra in (("bitmask", size), ("delta", 0), ("sparse", 0)):
        stored = in_form(holding([array]), form)
        if form == "sparse":
            held = stored.ir.graph.initializers["w0"].const_value
            assert isinstance(held, models.coo.SparseTensor)
            parts = [held.values, held.indices]
        else:
            ours = [v for n, v in stored.ir.graph.initializers.items() if n.startswith("packed/")]
            parts = [v.const_value for v in ours if v.name and v.name[-2:] in ("k0", "s0")]  # type: ignore[misc]
        expected = ENCODINGS[form].size(stats, size)
        assert expected is not None
        assert sum(len(part.tobytes()) for part in parts) == expected + extra  # type: ignore[union-attr]


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(PACKED)),
    st.sampled_from([0.0, 0.01, 0.1, 0.4]),
    st.sampled_from([8, 24, 64, 1 << 20]),
)
def test_slabs_make_the_bytes_of_the_whole(seed: int, form: str, density: float, size: int) -> None:
    array = made((8, 60), density, "float32", seed)
    if form == "nibble":
        array = two_of_four(array, 1)
    parts = {}
    for slab in (size, array.size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sparsity_stats, "_SLAB", slab)
            packed = in_form(holding([array]), form)
            parts[slab] = {
                k: models.array_of(v).tobytes() for k, v in models.constants(packed).items()
            }
    assert parts[size] == parts[array.size]

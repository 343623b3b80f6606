"""Probes: two sets of input shapes that run, and differ wherever they can."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.shapes import probe_shapes
from onnxprune.model import Model, load
from shape_oracle import Oracle


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')


def probes_that_run(text: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    proto = parse(text)
    oracle = Oracle(proto)
    probes = probe_shapes(load(proto))
    for shapes in probes:
        oracle.run(oracle.feeds(shapes))
    return probes


def test_a_name_has_one_size_and_every_name_two() -> None:
    first, second = probes_that_run("""
        g (float[b, s, 8] x, float[b, t, 8] w) => (float[b, s, t] y) {
            turned = Transpose<perm = [0, 2, 1]>(w)
            y = MatMul(x, turned)
        }""")
    for shapes in (first, second):
        assert shapes["x"][0] == shapes["w"][0]
        assert len({shapes["x"][0], shapes["x"][1], shapes["w"][1], 8}) == 4
    assert all(first[n][a] != second[n][a] for n in ("x", "w") for a in (0, 1))


def test_sizes_of_stored_tensors_are_avoided() -> None:
    first, second = probes_that_run("""
        g (float[b, s, 4] x) => (float[b, s, 7] y) <float[4, 7] w = {
            1,1,1,1,1,1,1, 1,1,1,1,1,1,1, 1,1,1,1,1,1,1, 1,1,1,1,1,1,1}> {
            y = MatMul(x, w)
        }""")
    assert 7 not in (first["x"][1], second["x"][1])


def test_an_image_is_large_enough_for_its_network() -> None:
    pools = "\n".join(
        f"h{i + 1} = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(h{i})" for i in range(5)
    )
    first, second = probes_that_run(f"""
        g (float[b, 3, h, w] x) => (float[b, 3, p, q] y) {{
            h0 = Relu(x)
            {pools}
            y = Relu(h5)
        }}""")
    assert all(size >= 32 for shapes in (first, second) for size in shapes["x"][2:])
    assert all(a != b for a, b in zip(first["x"][2:], second["x"][2:], strict=True))


def test_skips_that_only_fit_multiples_get_multiples() -> None:
    # Halve twice, double twice, add: what a U-Net does. Odd sizes do not come back.
    first, second = probes_that_run("""
        g (float[b, 3, h, w] x) => (float[b, 3, p, q] y)
        <float[4] scales = {1, 1, 4, 4}, float[0] roi = {}> {
            half = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
            quarter = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(half)
            back = Resize<mode = "nearest">(quarter, roi, scales)
            y = Add(back, x)
        }""")
    assert all(size % 4 == 0 for shapes in (first, second) for size in shapes["x"][2:])


def test_a_cache_is_as_long_as_the_mask_says() -> None:
    first, second = probes_that_run("""
        g (float[b, s, 8] x, float[b, past, 8] cache, float[b, total] mask) => (float[b, t, 8] y) {
            axis = Constant<value = int64[1] {2}>()
            all = Concat<axis = 1>(cache, x)
            wide = Unsqueeze(mask, axis)
            y = Mul(all, wide)
        }""")
    for shapes in (first, second):
        assert shapes["mask"][1] == shapes["x"][1] + shapes["cache"][1]
    assert all(first[n][1] != second[n][1] for n in ("x", "cache", "mask"))


def test_a_size_that_is_spelled_as_a_sum_is_one() -> None:
    proto = parse("g (float[b, s, 8] x, float[b, s, 8] z) => (float[b, t, 8] y) { y = Add(x, z) }")
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "past + 2*s"
    proto.graph.node[0].op_type = "Concat"
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("axis", 1))
    for shapes in probe_shapes(load(proto)):
        assert shapes["z"][1] > 2 * shapes["x"][1]


@pytest.mark.parametrize("name", ["batch-size", "?", "", "images.0", "a b", "1x", "-1"])
def test_a_name_that_is_no_expression_is_a_name(name: str) -> None:
    proto = parse("g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    first, second = probe_shapes(load(proto))
    assert first["x"][0] != second["x"][0]
    assert min(first["x"][0], second["x"][0]) >= 2


def test_a_question_mark_is_a_new_size_each_time() -> None:
    proto = parse("g (float[n, m, 4] x) => (float[n, m, 4] y) { y = Relu(x) }")
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[:2]:
        dim.dim_param = "?"
    for shapes in probe_shapes(load(proto)):
        assert shapes["x"][0] != shapes["x"][1]


def test_a_branch_for_special_sizes_does_not_choose_them() -> None:
    # Exporters write squeeze() as an If on the size: the branch that does not run never fits.
    first, second = probes_that_run("""
        g (float[b, n, 4] x) => (float[p, q] y) {
            axis = Constant<value = int64[1] {1}>()
            one = Constant<value = int64[1] {1}>()
            shape = Shape(x)
            size = Gather(shape, axis)
            alone = Equal(size, one)
            y = If (alone) <
                then_branch = t () => (float[d, e] yt) { yt = Squeeze(x, axis) },
                else_branch = f () => (float[g, h] ye) { ye = Flatten(x) }>
        }""")
    assert min(first["x"][1], second["x"][1]) > 1
    assert first["x"][1] != second["x"][1]


def test_outputs_of_a_fixed_size_choose_the_size_that_gives_it() -> None:
    first, second = probe_shapes(
        load(parse("g (float[n, s] x) => (float[6, s] y) { y = Relu(x) }"))
    )
    assert first["x"][0] == second["x"][0] == 6
    assert first["x"][1] != second["x"][1]


def test_inputs_without_names_for_their_batch_get_one_that_fits() -> None:
    proto = parse("g (float[n, 4] x, float[m, 4] z) => (float[k, 4] y) { y = Add(x, z) }")
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
    first, second = probe_shapes(load(proto))
    assert first["x"] == first["z"]
    assert second["x"] == second["z"]
    assert first["x"] != second["x"]


def test_a_batch_that_the_graph_has_fixed_stays_in_both() -> None:
    first, second = probes_that_run("""
        g (float[b, s, 4] x) => (float[q, 4] y) <int64[3] shape = {1, -1, 4}> {
            flat = Reshape(x, shape)
            zero = Constant<value = int64[1] {0}>()
            y = Squeeze(flat, zero)
        }""")
    assert first["x"][1] != second["x"][1]
    first, second = probes_that_run("""
        g (float[b, s, 4] x) => (float[s, 4] y) {
            zero = Constant<value = int64[1] {0}>()
            y = Squeeze(x, zero)
        }""")
    assert first["x"][0] == second["x"][0] == 1
    assert first["x"][1] != second["x"][1]


def model() -> Model:
    return load(parse("g (float[b, s, 4] x, float[b, 4] z) => (float[b, s, 4] y) { y = Relu(x) }"))


def test_real_shapes_are_the_first_probe_and_the_second_differs() -> None:
    real = {"x": (16, 100, 4), "z": (16, 4)}
    first, second = probe_shapes(model(), real)
    assert first == real
    assert second["x"][0] == second["z"][0] != 16
    assert second["x"][1] != 100


def test_inputs_that_real_shapes_leave_out_follow_them() -> None:
    first, _ = probe_shapes(model(), {"z": (16, 4)})
    assert first["x"][0] == 16


def test_real_shapes_that_contradict_the_model_are_refused() -> None:
    with pytest.raises(OnnxpruneError, match="cannot have shape"):
        probe_shapes(model(), {"x": (2, 3, 5)})


def test_a_model_without_symbols_has_one_probe() -> None:
    fixed = load(parse("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"))
    assert probe_shapes(fixed) == ({"x": (2, 3)}, {"x": (2, 3)})


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_half"])
def test_a_recurrent_network_gets_states_for_its_batch(shared: Path, name: str) -> None:
    for shapes in probe_shapes(load(shared / "wild" / f"{name}.onnx")):
        assert shapes["state"][1] == shapes["input"][0]


def test_a_size_that_an_exporter_left_in_a_reshape() -> None:
    """TorchScript's MultiheadAttention: the length is open, and one traced length all that runs."""
    first, second = probes_that_run("""
        g (float[b, t, 8] x) => (float[6, n, 4] y)
        <int64[3] target = {6, -1, 4}, int64[3] back = {5, -1, 8}>
        {
            turned = Transpose<perm = [1, 0, 2]>(x)
            same = Reshape(turned, back)
            whole = Add(same, turned)
            z = Concat<axis = 0>(whole, whole)
            rows = Reshape(z, target)
            y = Relu(rows)
        }""")
    assert first["x"][1] == second["x"][1] == 5

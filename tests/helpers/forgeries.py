"""Seeded forgeries of certified models: damaged, exchanged, or edited with all hashes right."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.jobs import certificate as certificates
from onnxprune.model.seal import KEY, Digests, document_path, hash_data, read_seal
from onnxprune.model.seal import entry as seal_entry

Rng: TypeAlias = random.Random
Document: TypeAlias = dict[str, Any]


class Unfit(Exception):  # noqa: N818  not an error: another kind is taken
    """A forgery that this model has nothing for."""


@dataclass
class Case:
    """A certified model in a folder of its own, about to be forged.

    Attributes:
        path: of the model; its files lie beside it.
        dense: the model it was made from.
        others: other certified models.
        strangers: dense models that it was not made from.
        plan: file of the plan that was applied; None where there is none.
    """

    path: Path
    dense: Path
    others: list[Path] = field(default_factory=list)
    strangers: list[Path] = field(default_factory=list)
    plan: Path | None = None

    @property
    def document(self) -> Document:
        """The certificate as it is."""
        content: Document = json.loads(document_path(self.path).read_bytes())
        return content


Forgery: TypeAlias = Callable[[Case, Rng], None]
KINDS: dict[str, Forgery] = {}


def kind(function: Forgery) -> Forgery:
    """Put a forgery into the list, under its own name."""
    KINDS[function.__name__.strip("_").replace("_", " ")] = function
    return function


def forge(
    path: Path,
    graph: Callable[[onnx.ModelProto], None] = lambda _: None,
    document: Callable[[Document], None] = lambda _: None,
) -> None:
    """Edit a model and its certificate, and make all digests right again."""
    proto = onnx.load(path, load_external_data=False)
    kept = [each for each in proto.metadata_props if each.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    graph(proto)
    path.write_bytes(proto.SerializeToString())
    content = json.loads(document_path(path).read_bytes())
    names = [each.name for each in path.parent.glob("*.data")]
    digests = Digests(read_seal(path).digests.graph, hash_data(path, names))
    content["model"] = {"graph": digests.graph, "data": dict(digests.data)}
    before = json.loads(json.dumps(content))
    document(content)
    text = certificates._lines(content).encode()
    document_path(path).write_bytes(text)
    try:
        seal = certificates._text(content, digests, text)
    except (AttributeError, KeyError, TypeError):  # the seal has what the document has lost
        seal = certificates._text(before, digests, text)
    with path.open("ab") as file:
        file.write(seal_entry(seal))


# --- files, without new hashes -------------------------------------------------------------------


def _files(case: Case) -> list[Path]:
    return sorted(each for each in case.path.parent.iterdir() if each.is_file())


def _flip(file: Path, rng: Rng) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


@kind
def bit_of_the_model(case: Case, rng: Rng) -> None:
    _flip(case.path, rng)


@kind
def bit_near_the_seal(case: Case, rng: Rng) -> None:
    content = bytearray(case.path.read_bytes())
    content[-1 - rng.randrange(min(1200, len(content)))] ^= 1 << rng.randrange(8)
    case.path.write_bytes(content)


@kind
def bit_of_the_certificate(case: Case, rng: Rng) -> None:
    _flip(document_path(case.path), rng)


@kind
def bit_of_the_data(case: Case, rng: Rng) -> None:
    data = [each for each in _files(case) if each.suffix == ".data"]
    if not data:
        raise Unfit
    _flip(rng.choice(data), rng)


@kind
def bit_of_the_plan(case: Case, rng: Rng) -> None:
    if case.plan is None:
        raise Unfit
    _flip(case.plan, rng)


@kind
def a_file_cut_short(case: Case, rng: Rng) -> None:
    file = rng.choice(_files(case))
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


@kind
def bytes_put_in(case: Case, rng: Rng) -> None:
    file = rng.choice([each for each in _files(case) if each != case.plan])
    content = file.read_bytes()
    at = rng.randrange(len(content) + 1)
    file.write_bytes(content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:])


@kind
def another_certificate(case: Case, rng: Rng) -> None:
    other = rng.choice(case.others)
    shutil.copy(document_path(other), document_path(case.path))


@kind
def another_model(case: Case, rng: Rng) -> None:
    other = rng.choice(case.others)
    shutil.copy(other, case.path)


@kind
def another_dense_model(case: Case, rng: Rng) -> None:
    case.dense = rng.choice(case.strangers)


@kind
def a_dense_model_with_another_weight(case: Case, rng: Rng) -> None:
    proto = onnx.load(case.dense)
    floats = [t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims]
    _store(rng.choice(floats), _nudged(rng))
    case.dense = case.path.with_name("dense_of_another.pb")
    onnx.save(proto, case.dense)


@kind
def the_seal_alone_of_another(case: Case, rng: Rng) -> None:
    other = rng.choice(case.others)
    text = read_seal(other).text
    assert text is not None
    _unsealed(case.path)
    with case.path.open("ab") as file:
        file.write(seal_entry(text))


@kind
def no_seal(case: Case, rng: Rng) -> None:
    del rng
    _unsealed(case.path)


def _unsealed(path: Path) -> None:
    proto = onnx.load(path, load_external_data=False)
    kept = [each for each in proto.metadata_props if each.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    path.write_bytes(proto.SerializeToString())


@kind
def another_file_of_weights(case: Case, rng: Rng) -> None:
    """The graph names another data file, which has no digest."""
    data = [each for each in _files(case) if each.suffix == ".data"]
    if not data:
        raise Unfit
    data[0].rename(data[0].with_name("weights.bin"))

    def point(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            for each in tensor.external_data:
                if each.key == "location":
                    each.value = "weights.bin"

    del rng
    forge(case.path, point)


# --- weights, with all hashes right --------------------------------------------------------------


def _tensors(proto: onnx.ModelProto, case: Case) -> list[TensorProto]:
    """Stored tensors that the certificate does not list as changed."""
    weights = case.document["weights"]
    if weights["changed"] is None:
        raise Unfit
    free = {*weights["changed"], *weights["narrowed"]}
    result = [
        tensor
        for tensor in proto.graph.initializer
        if tensor.name not in free
        and not any(tensor.name.removesuffix(s).endswith(tuple(free)) for s in _INTEGERS if free)
        and not tensor.external_data
        and np.prod(tensor.dims) > 1
    ]
    if not result:
        raise Unfit
    return result


_INTEGERS = ("_quantized", "_scale", "_zero_point", "_quantized_scale")


def _store(tensor: TensorProto, change: Callable[[Any], Any]) -> None:
    """Change what a tensor holds.

    Raises:
        Unfit: it holds the same as before.
    """
    old = numpy_helper.to_array(tensor)
    new = np.ascontiguousarray(np.asarray(change(old.copy())).astype(old.dtype))
    if new.shape == old.shape and np.array_equal(new, old):
        raise Unfit
    tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))


def _nudged(rng: Rng) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        at = rng.randrange(array.size)
        step = max(abs(float(array.flat[at])), 1.0) * 0.1 if array.dtype.kind == "f" else 9
        with np.errstate(over="ignore"):  # integers wrap around
            array.flat[at] += step
        return array

    return change


def _floats(proto: onnx.ModelProto, case: Case, least: int = 1) -> list[TensorProto]:
    result = [
        tensor
        for tensor in _tensors(proto, case)
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) >= least
        and not tensor.name.endswith("_scale")
    ]
    if not result:
        raise Unfit
    return result


def _of_weights(name: str, least: int, change: Callable[[Any, Rng], Any]) -> None:
    """A forgery that changes one stored tensor."""

    def run(case: Case, rng: Rng) -> None:
        def edit(proto: onnx.ModelProto) -> None:
            _store(rng.choice(_floats(proto, case, least)), lambda array: change(array, rng))

        forge(case.path, edit)

    KINDS[name] = run


def _one(array: Any, rng: Rng) -> Any:
    return _nudged(rng)(array)


def _row(array: Any, rng: Rng) -> Any:
    array[rng.randrange(len(array))] = 0
    return array


def _exchanged(array: Any, rng: Rng) -> Any:
    axis = rng.choice([0, 1])
    if array.shape[axis] < 2:
        raise Unfit
    one, two = rng.sample(range(array.shape[axis]), 2)
    order = [*range(array.shape[axis])]
    order[one], order[two] = order[two], order[one]
    return array.take(order, axis)


def _damped(array: Any, rng: Rng) -> Any:
    if not array.any():
        raise Unfit
    return array * rng.choice([0.5, 0.98, 1.5, 0.0])


_of_weights("one weight", 1, _one)
_of_weights("weights times 1.02", 1, lambda array, _: array * 1.02)
_of_weights("weights of another scale", 2, _damped)
_of_weights("weights of the other sign", 1, lambda array, _: -array)
_of_weights("a row of zeros", 2, _row)
_of_weights("two rows exchanged", 2, _exchanged)
_of_weights("weights upside down", 2, lambda array, _: array[::-1])
_of_weights("the last place", 1, lambda array, _: np.nextafter(array, np.float32(9)))
_of_weights("not a number", 1, lambda array, _: np.full_like(array, np.nan))


@kind
def weights_of_two_layers_exchanged(case: Case, rng: Rng) -> None:
    def edit(proto: onnx.ModelProto) -> None:
        tensors = _tensors(proto, case)
        rng.shuffle(tensors)
        for k, one in enumerate(tensors):
            for two in tensors[k + 1 :]:
                if (one.data_type, one.dims) != (two.data_type, two.dims):
                    continue
                if numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(two).tobytes():
                    continue
                one.name, two.name = two.name, one.name
                return
        raise Unfit

    forge(case.path, edit)


@kind
def bias_of_a_layer(case: Case, rng: Rng) -> None:
    def edit(proto: onnx.ModelProto) -> None:
        names = {n.input[2] for n in proto.graph.node if len(n.input) == 3 and n.op_type in _LINEAR}
        biases = [t for t in _floats(proto, case) if t.name in names]
        if not biases:
            raise Unfit
        _store(rng.choice(biases), lambda array: array + np.float32(0.1))

    forge(case.path, edit)


_LINEAR = ("Conv", "Gemm", "ConvTranspose")


# --- graphs, with all hashes right ---------------------------------------------------------------


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from proto.graph.node


Edit: TypeAlias = Callable[[onnx.ModelProto, Rng], None]


def _of_graph(function: Edit) -> Edit:
    """A forgery that edits the graph."""

    def run(case: Case, rng: Rng) -> None:
        if function in _WITHOUT_EFFECT and case.document["command"] == "recover":
            raise Unfit  # the tool that pruned it may have called and arranged things so
        forge(case.path, lambda proto: function(proto, rng))

    KINDS[function.__name__.strip("_").replace("_", " ")] = run
    return function


_LIKE: Mapping[str, tuple[str, ...]] = {
    "Relu": ("Sigmoid", "Tanh", "Abs", "Neg"),
    "Add": ("Sub", "Mul", "Max"),
    "Sub": ("Add",),
    "Mul": ("Div", "Add"),
    "Div": ("Mul",),
    "Sigmoid": ("Tanh",),
    "Tanh": ("Sigmoid",),
    "MaxPool": ("AveragePool",),
    "GlobalAveragePool": ("GlobalMaxPool",),
    "ReduceMean": ("ReduceMax", "ReduceSum"),
    "Sqrt": ("Abs", "Exp"),
    "Erf": ("Tanh",),
    "Softmax": ("LogSoftmax",),
    "HardSigmoid": ("Sigmoid",),
    "Clip": ("Relu",),
}


@_of_graph
def _a_like_operator(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = [node for node in _nodes(proto) if node.op_type in _LIKE]
    if not nodes:
        raise Unfit
    node = rng.choice(nodes)
    node.op_type = rng.choice(_LIKE[node.op_type])
    if node.op_type in ("Relu", "Sigmoid"):
        del node.attribute[:], node.input[1:]


@_of_graph
def _an_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    places = [
        each
        for node in _nodes(proto)
        if node.op_type != "Constant"
        for each in node.attribute
        if each.type in (1, 2, 6, 7)
    ]
    if not places:
        raise Unfit
    attribute = rng.choice(places)
    match attribute.type:
        case 1:
            attribute.f = attribute.f * 2 + 0.5
        case 2:
            flag = attribute.i in (0, 1)
            attribute.i = 1 - attribute.i if flag else attribute.i + rng.choice([1, -1])
        case 6:
            attribute.floats[0] += 1
        case _ if not attribute.ints:
            raise Unfit
        case _:
            at = rng.randrange(len(attribute.ints))
            attribute.ints[at] += rng.choice([1, -1, 2])


@_of_graph
def _an_attribute_less(proto: onnx.ModelProto, rng: Rng) -> None:
    version = proto.opset_import[0].version
    places = [
        (node, at)
        for node in _nodes(proto)
        if node.op_type not in ("Constant", "Cast")
        for at, each in enumerate(node.attribute)
        if not _is_implied(node, each, version)
    ]
    if not places:
        raise Unfit
    node, at = rng.choice(places)
    del node.attribute[at]


def _is_implied(node: onnx.NodeProto, attribute: onnx.AttributeProto, version: int) -> bool:
    """Whether an attribute says what holds without it."""
    with contextlib.suppress(onnx.defs.SchemaError):
        known = onnx.defs.get_schema(node.op_type, version, node.domain).attributes
        default = known[attribute.name].default_value
        if default.name == attribute.name:
            return bool(
                helper.get_attribute_value(attribute) == helper.get_attribute_value(default)
            )
    return False


@_of_graph
def _inputs_exchanged(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = [n for n in _nodes(proto) if len(n.input) >= 2 and n.input[0] != n.input[1]]
    if not nodes:
        raise Unfit
    node = rng.choice(nodes)
    node.input[0], node.input[1] = node.input[1], node.input[0]


@_of_graph
def _another_input(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node reads what another node reads, as where a skip is wired elsewhere."""
    seen = [proto.graph.input[0].name]
    places = []
    for node in _nodes(proto):
        places += [(node, k, list(seen)) for k, v in enumerate(node.input) if v in seen]
        seen += node.output
    places = [(node, k, [v for v in known if v != node.input[k]]) for node, k, known in places]
    places = [each for each in places if each[2]]
    if not places:
        raise Unfit
    node, k, known = rng.choice(places)
    node.input[k] = rng.choice(known)


@_of_graph
def _a_node_left_out(proto: onnx.ModelProto, rng: Rng) -> None:
    kinds = ("Relu", "Identity", "Clip", "Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Erf")
    outputs = {value.name for value in proto.graph.output}
    nodes = [n for n in _nodes(proto) if n.op_type in kinds and n.output[0] not in outputs]
    if not nodes:
        raise Unfit
    node = rng.choice(nodes)
    old, new = node.output[0], node.input[0]
    proto.graph.node.remove(node)
    for each in _nodes(proto):
        for k, value in enumerate(each.input):
            if value == old:
                each.input[k] = new


@_of_graph
def _a_node_more(proto: onnx.ModelProto, rng: Rng) -> None:
    outputs = {value.name for value in proto.graph.output}
    nodes = [n for n in _nodes(proto) if n.op_type != "Constant" and n.output[0] not in outputs]
    if not nodes:
        raise Unfit
    node = rng.choice(nodes)
    name = node.output[0]
    new = helper.make_node(rng.choice(["Abs", "Neg", "Identity"]), [name], [f"{name}/more"])
    for each in _nodes(proto):
        for k, value in enumerate(each.input):
            if value == name:
                each.input[k] = f"{name}/more"
    proto.graph.node.insert(list(proto.graph.node).index(node) + 1, new)


@_of_graph
def _a_node_without_effect(proto: onnx.ModelProto, rng: Rng) -> None:
    name = rng.choice(list(proto.graph.input)).name
    proto.graph.node.add(op_type="Identity", input=[name], output=["idle"])


@_of_graph
def _a_tensor_more(proto: onnx.ModelProto, rng: Rng) -> None:
    array = np.full(rng.randrange(2, 99), 1, np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(array, "more"))


@_of_graph
def _another_operator_set(proto: onnx.ModelProto, rng: Rng) -> None:
    each = next(each for each in proto.opset_import if not each.domain)
    each.version += rng.choice([1, -1])


@_of_graph
def _another_output(proto: onnx.ModelProto, rng: Rng) -> None:
    known = [n.output[0] for n in _nodes(proto) if n.output[0] != proto.graph.output[0].name]
    proto.graph.output[0].name = rng.choice(known)


@_of_graph
def _an_output_of_another_name(proto: onnx.ModelProto, rng: Rng) -> None:
    old, new = proto.graph.output[0].name, f"output_{rng.randrange(99)}"
    proto.graph.output[0].name = new
    for node in _nodes(proto):
        for k, value in enumerate(node.output):
            if value == old:
                node.output[k] = new


# --- int8, with all hashes right -----------------------------------------------------------------


def _of_integers(name: str, suffix: str, least: int, change: Callable[[Any, Rng], Any]) -> None:
    def run(case: Case, rng: Rng) -> None:
        def edit(proto: onnx.ModelProto) -> None:
            tensors = [
                tensor
                for tensor in proto.graph.initializer
                if tensor.name.endswith(suffix)
                and np.prod(tensor.dims) >= least
                and case.document["weights"]["changed"] == []
                and case.document["command"] == "quantize"
            ]
            if not tensors:
                raise Unfit
            _store(rng.choice(tensors), lambda array: change(array, rng))

        forge(case.path, edit)

    KINDS[name] = run


_of_integers("integers of a weight", "_quantized", 2, lambda a, _: np.flip(a))
_of_integers("one integer", "_quantized", 2, lambda a, rng: _nudged(rng)(a))
_of_integers("scales of a weight", "_scale", 2, lambda a, rng: a * rng.choice([1.1, 10, 0.1, -1]))
_of_integers("a scale of zero", "_scale", 1, lambda a, _: a * 0)
_of_integers("zero points of a weight", "_zero_point", 2, lambda a, rng: a + rng.choice([1, 5, 9]))


# --- certificates, with all hashes right ---------------------------------------------------------


def _of_document(function: Callable[[Document, Rng], None]) -> None:
    """A forgery that edits the certificate."""

    def run(case: Case, rng: Rng) -> None:
        before = case.document

        def edit(document: Document) -> None:
            function(document, rng)
            if document == before:
                raise Unfit

        forge(case.path, document=edit)

    KINDS[function.__name__.strip("_").replace("_", " ")] = run


def _group(document: Document, rng: Rng) -> list[int]:
    removed = document["plan"]["removed"]
    if not removed:
        raise Unfit
    units: list[int] = removed[rng.choice(sorted(removed))]
    return units


@_of_document
def _another_unit(document: Document, rng: Rng) -> None:
    if document["weights"]["changed"] != []:
        raise Unfit  # a refitted layer may have kept any unit
    units = _group(document, rng)
    free = [k for k in range(max(units) + 2) if k not in units]
    units[rng.randrange(len(units))] = rng.choice(free)
    units.sort()


@_of_document
def _a_unit_less(document: Document, rng: Rng) -> None:
    units = _group(document, rng)
    del units[rng.randrange(len(units))]


@_of_document
def _no_group(document: Document, rng: Rng) -> None:
    removed = document["plan"]["removed"]
    if not removed:
        raise Unfit
    del removed[rng.choice(sorted(removed))]


@_of_document
def _a_group_of_another_name(document: Document, rng: Rng) -> None:
    removed = document["plan"]["removed"]
    if not removed:
        raise Unfit
    removed["nobody:channel"] = removed.pop(rng.choice(sorted(removed)))


@_of_document
def _a_block_that_is_said_to_be_gone(document: Document, rng: Rng) -> None:
    document["plan"]["bypassed"].append(f"block{rng.randrange(99)}")


@_of_document
def _fewer_weights_kept(document: Document, rng: Rng) -> None:
    zeroed = document["plan"]["zeroed"]
    if not zeroed:
        raise Unfit
    zeroed[rng.choice(sorted(zeroed))]["kept"] = 1


@_of_document
def _a_refit_kept_quiet(document: Document, rng: Rng) -> None:
    changed = document["weights"]["changed"]
    if not changed:
        raise Unfit
    changed.remove(rng.choice(changed))


@_of_document
def _a_verdict_without_figures(document: Document, rng: Rng) -> None:
    if document.get("evaluation") is not None or not isinstance(document.get("quality"), dict):
        raise Unfit
    document["quality"]["status"] = rng.choice(["good", "degraded"])


@_of_document
def _a_better_verdict(document: Document, rng: Rng) -> None:
    figures = document.get("evaluation")
    if not figures or not figures["outputs"]:
        raise Unfit
    for each in figures["outputs"].values():
        for name in ("unexplained", "scaled"):
            each[name], each[f"{name}_interval"] = rng.choice([1.1, 3.0]), [1.05, 4.0]
        each["top1"] = 0.1
    document["quality"]["status"] = "good"


@_of_document
def _a_failed_check(document: Document, rng: Rng) -> None:
    checks = [each for each in document.get("checks", []) if each["name"] != "drop"]
    if not checks or (document.get("structure") or {}).get("status") != "verified":
        raise Unfit
    each = rng.choice(checks)
    each["ok"], each["value"] = False, 1e9


@_of_document
def _another_structure(document: Document, rng: Rng) -> None:
    structure = document.get("structure")
    del rng
    if not isinstance(structure, dict):
        raise Unfit
    structure["status"] = "nothing cut" if structure["status"] == "verified" else "verified"


@_of_document
def _another_hash_of_the_dense_model(document: Document, rng: Rng) -> None:
    document["dense"]["content"] = f"{rng.getrandbits(256):064x}"


@_of_document
def _a_key_less(document: Document, rng: Rng) -> None:
    del document[rng.choice(["plan", "weights", "dense", "sparsity", "data", "model"])]


@_of_document
def _a_value_of_another_type(document: Document, rng: Rng) -> None:
    key = rng.choice(["plan", "weights", "dense", "model", "format", "version"])
    document[key] = rng.choice([None, 7, "text", [1], {}])


@_of_document
def _another_version(document: Document, rng: Rng) -> None:
    document["version"] = rng.choice([0, 2, 99, -1])


@_of_document
def _a_pattern_that_is_none(document: Document, rng: Rng) -> None:
    if document["sparsity"] != "2:4":
        raise Unfit
    document["sparsity"] = rng.choice(["1:4", "1:8", "2:8"])


_WITHOUT_EFFECT: tuple[Edit, ...] = (
    _a_node_more,
    _a_node_without_effect,
    _a_tensor_more,
    _an_attribute_less,
    _an_output_of_another_name,
    _another_operator_set,
)


def forge_as(name: str, case: Case, seed: int) -> bool:
    """Forge a model in one way; whether it has what that takes.

    Args:
        name: of the kind.
        case: copied files; changed in place, unless they stay as they are.
        seed: of all choices.
    """
    files = {each: each.read_bytes() for each in _files(case)}
    try:
        KINDS[name](case, random.Random(seed))
    except Unfit:
        for each, content in files.items():
            each.write_bytes(content)
        return False
    return True

"""Damaged models: bytes and protobuf fields of real ones changed at random, and bombs."""

from __future__ import annotations

import faulthandler
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message
from onnx import helper

_SECONDS = 20
"""Seconds of CPU that looking at one mutant may take."""
_MEMORY = 3 << 30
"""Bytes of address space beyond those of the process before it looks at any."""
_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, -2, 1 << 31, (1 << 31) - 1, 1 << 34, 1 << 40, -(1 << 63))
_TEXTS = ("", "x", "ai.onnx", "com.microsoft", "\x1b[31mred", "a\nb", "é", "n" * 5000, "../../x")
_OPERATORS = tuple({schema.name for schema in onnx.defs.get_all_schemas()})


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One mutant: of bytes every third time, else of fields."""
    if rng.random() < 1 / 3:
        return _bytes(bytearray(data), rng, others)
    proto = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        _change(proto, rng)
    try:
        return proto.SerializeToString()
    except (ValueError, UnicodeError):
        return data


def _bytes(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data))
    # Most bytes are weights; what is not stands at the start and the end.
    if rng.random() < 0.7:
        place = rng.choice((place % 2000, len(data) - 1 - place % 2000)) % len(data)
    length = rng.choice((1, 1, 2, 4, 16, 300))
    kind = rng.randrange(6)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place : place + length] = rng.randbytes(length)
    elif kind == 2:
        del data[place : place + length]
    elif kind == 3:
        data[place:place] = rng.choice((rng.randbytes(length), b"\xff" * length, data[:length]))
    elif kind == 4:
        del data[place:]
    elif others:
        other = rng.choice(others)
        data[place:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def _change(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Change one field of one message, all messages alike."""
    messages = [proto, *_inside(proto)]
    for _ in range(20):
        message = rng.choice(messages)
        fields = list(message.DESCRIPTOR.fields)
        filled = [field for field, _ in message.ListFields()]
        field = rng.choice(filled if filled and rng.random() < 0.8 else fields)
        if _edit(message, field, rng, messages):
            return


def _inside(message: Message) -> Iterator[Message]:
    for field, value in message.ListFields():
        if field.type == Kind.TYPE_MESSAGE:
            for each in value if _repeats(field) else (value,):
                yield each
                yield from _inside(each)


def _copy(message: Message) -> Message:
    """A message of its own: protobuf does not survive one that is put into itself."""
    result = type(message)()
    result.ParseFromString(message.SerializeToString())
    return result


def _repeats(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == 3


def _edit(message: Any, field: Any, rng: random.Random, messages: Sequence[Message]) -> bool:
    value = getattr(message, field.name)
    if _repeats(field):
        return _edit_list(value, field, rng, messages)
    if field.type == Kind.TYPE_MESSAGE:
        alike = [each for each in messages if each.DESCRIPTOR is field.message_type]
        if alike and rng.random() < 0.5:
            value.CopyFrom(_copy(rng.choice(alike)))
        else:
            message.ClearField(field.name)
        return True
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return True
    return _set(lambda new: setattr(message, field.name, new), field, rng, messages)


def _edit_list(value: Any, field: Any, rng: random.Random, messages: Sequence[Message]) -> bool:
    kind = rng.randrange(4)
    if field.type == Kind.TYPE_MESSAGE:
        alike = [each for each in messages if each.DESCRIPTOR is field.message_type]
        if kind == 0 and len(value):
            del value[rng.randrange(len(value))]
        elif kind == 1 and alike:
            value.add().CopyFrom(_copy(rng.choice(alike)))
        elif kind == 2 and len(value) > 1:
            value.append(_copy(value[0]))
            del value[0]
        elif len(value):
            value.append(_copy(value[rng.randrange(len(value))]))
        else:
            value.add()
        return True
    if len(value) > 5000:  # weights, one by one
        return False
    if kind == 0 and len(value):
        del value[rng.randrange(len(value))]
    elif kind == 1 and len(value):
        value.append(value[rng.randrange(len(value))])
    elif kind == 2 and len(value):
        place = rng.randrange(len(value))
        return _set(lambda new: value.__setitem__(place, new), field, rng, messages)
    else:
        return _set(value.append, field, rng, messages)
    return True


def _set(
    put: Callable[[Any], object], field: Any, rng: random.Random, messages: Sequence[Message]
) -> bool:
    new: Any
    if field.type == Kind.TYPE_STRING:
        names = [
            each.name
            for each in rng.sample(messages, min(len(messages), 5))
            if hasattr(each, "name")
        ]
        new = rng.choice((rng.choice(_TEXTS), rng.choice(_OPERATORS), *names))
    elif field.type == Kind.TYPE_BYTES:
        new = rng.choice((b"", b"\xff", rng.randbytes(rng.choice((1, 4, 64)))))
    elif field.type in (Kind.TYPE_FLOAT, Kind.TYPE_DOUBLE):
        new = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, rng.random()))
    elif field.type == Kind.TYPE_ENUM:
        new = rng.choice(field.enum_type.values).number
    else:
        new = rng.choice((*_NUMBERS, rng.randrange(40)))
    try:
        put(new)
    except (ValueError, TypeError):
        return False
    return True


# --- bombs ------------------------------------------------------------------------------------


def bombs() -> dict[str, onnx.ModelProto]:
    """Small files that ask for a lot."""
    return {
        "functions that call the next twice": _functions(30),
        "a chain of functions": _functions(200, calls=1),
        "a shape of 2^40 x 0": _tensor([1 << 40, 0]),
        "a shape of 2^40": _tensor([1 << 40]),
        "many dimensions": _tensor([1] * 5000),
        "a negative dimension": _tensor([-5]),
        "Tile by 2^34": _constant("Tile", [1 << 34]),
        "Expand to 2^40": _constant("Expand", [1 << 40]),
        "ConstantOfShape 2^40": _chain("ConstantOfShape", [1 << 40]),
        "Pad by 2^40": _constant("Pad", [0, 1 << 40]),
        "Resize to 2^40": _constant("Resize", [1 << 40]),
        "Range to 2^40": _range(1 << 40),
        "OneHot of 2^40": _one_hot(1 << 40),
        "squared again and again": _squares(40),
        "doubled again and again": _doubles(60),
        "a loop without end": _loop(1 << 62),
        "bodies in bodies": _bodies(60),
        "a sparse tensor of 2^40": _sparse([1 << 40]),
    }


def _model(nodes: list[onnx.NodeProto], **parts: Any) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    functions = parts.pop("functions", [])
    graph = helper.make_graph(nodes, "g", [x], [y], **parts)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("loc", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def _ints(name: str, values: list[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values)


def _functions(count: int, calls: int = 2) -> onnx.ModelProto:
    functions = []
    for k in range(count):
        last = k + 1 == count
        op, domain = ("Neg", "") if last else (f"f{k + 1}", "loc")
        names = ["a", *(f"v{i}" for i in range(calls - 1)), "b"]
        nodes = [helper.make_node(op, [one], [two], domain=domain) for one, two in pairwise(names)]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("loc", 1)]
        functions.append(helper.make_function("loc", f"f{k}", ["a"], ["b"], nodes, imports))
    return _model([helper.make_node("f0", ["x"], ["y"], domain="loc")], functions=functions)


def _tensor(dims: list[int]) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=dims)
    if dims[-1] != 0:
        tensor.raw_data = bytes(4)
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], initializer=[tensor])


def _constant(op: str, sizes: list[int]) -> onnx.ModelProto:
    one = helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    inputs = ["one", "", "", "sizes"] if op == "Resize" else ["one", "sizes"]
    return _model(
        [helper.make_node(op, inputs, ["big"]), helper.make_node("Add", ["x", "big"], ["y"])],
        initializer=[one, _ints("sizes", sizes)],
    )


def _chain(op: str, sizes: list[int]) -> onnx.ModelProto:
    return _model(
        [helper.make_node(op, ["sizes"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])],
        initializer=[_ints("sizes", sizes)],
    )


def _range(limit: int) -> onnx.ModelProto:
    numbers = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [], [value])
        for name, value in (("start", 0), ("limit", limit), ("delta", 1))
    ]
    nodes = [
        helper.make_node("Range", ["start", "limit", "delta"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    return _model(nodes, initializer=numbers)


def _one_hot(depth: int) -> onnx.ModelProto:
    values = helper.make_tensor("values", onnx.TensorProto.FLOAT, [2], [0.0, 1.0])
    nodes = [
        helper.make_node("OneHot", ["index", "depth", "values"], ["h"]),
        helper.make_node("Add", ["x", "h"], ["y"]),
    ]
    return _model(nodes, initializer=[_ints("index", [1]), _ints("depth", [depth]), values])


def _squares(count: int) -> onnx.ModelProto:
    """Outer products: each value has as many entries as the last one squared."""
    nodes, initializer = [], [_ints("column", [-1, 1]), _ints("flat", [-1])]
    last = "start"
    initializer.append(helper.make_tensor("start", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]))
    for k in range(count):
        nodes.append(helper.make_node("Reshape", [last, "column"], [f"c{k}"]))
        nodes.append(helper.make_node("Mul", [f"c{k}", last], [f"m{k}"]))
        nodes.append(helper.make_node("Reshape", [f"m{k}", "flat"], [f"s{k}"]))
        last = f"s{k}"
    nodes.append(helper.make_node("ReduceSum", [last], ["sum"]))
    nodes.append(helper.make_node("Add", ["x", "sum"], ["y"]))
    return _model(nodes, initializer=initializer)


def _doubles(count: int) -> onnx.ModelProto:
    """Shapes that double: integers computed from constants alone."""
    nodes, last = [], "start"
    for k in range(count):
        nodes.append(helper.make_node("Concat", [last, last], [f"d{k}"], axis=0))
        last = f"d{k}"
    nodes.append(helper.make_node("Shape", [last], ["shape"]))
    nodes.append(helper.make_node("Cast", ["shape"], ["f"], to=onnx.TensorProto.FLOAT))
    nodes.append(helper.make_node("Add", ["x", "f"], ["y"]))
    return _model(nodes, initializer=[_ints("start", [1, 2])])


def _loop(trips: int) -> onnx.ModelProto:
    scalar = helper.make_tensor("trips", onnx.TensorProto.INT64, [], [trips])
    true = helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node("Add", ["s", "s"], ["t"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("d", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [1]),
        ],
    )
    start = helper.make_tensor("start", onnx.TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Loop", ["trips", "true", "start"], ["l"], body=body),
        helper.make_node("Add", ["x", "l"], ["y"]),
    ]
    return _model(nodes, initializer=[scalar, true, start])


def _bodies(depth: int) -> onnx.ModelProto:
    def body(k: int) -> onnx.GraphProto:
        nodes = [helper.make_node("Identity", ["x"], [f"y{k}"])]
        if k < depth:
            inner = body(k + 1)
            nodes = [
                helper.make_node("If", ["true"], [f"y{k}"], then_branch=inner, else_branch=inner)
            ]
        output = helper.make_tensor_value_info(f"y{k}", onnx.TensorProto.FLOAT, None)
        return helper.make_graph(nodes, f"b{k}", [], [output])

    true = helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
    depth = min(depth, 10)  # what doubles on every level
    inner = body(0)
    node = helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
    return _model([node], initializer=[true])


def _sparse(dims: list[int]) -> onnx.ModelProto:
    values = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
    tensor = helper.make_sparse_tensor(values, indices, dims)
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], sparse_initializer=[tensor])


# --- looking at them --------------------------------------------------------------------------


def look(path: Path) -> None:
    """What ``onnxprune inspect`` does, all of its output included.

    Raises:
        OnnxpruneError: the model is refused.
    """
    from rich.console import Console

    from onnxprune.graph.analysis import analyse
    from onnxprune.jobs.results import gather
    from onnxprune.jobs.results.schema import to_json
    from onnxprune.model import load
    from onnxprune.model.decode import densify
    from onnxprune.report import terminal

    model, _ = densify(load(path))
    report = gather.inspection(analyse(model))
    to_json(report)
    with open(os.devnull, "w") as null:  # noqa: PTH123
        terminal.show(report, Console(file=null, width=100), verbose=True)


def faults(mutants: Sequence[tuple[str, bytes]]) -> list[str]:
    """Look at mutants in a copy of this process; what ends otherwise than well or in a refusal.

    Each has limits of time and memory; one that ends the process is named, and others follow.
    """
    from onnxprune.errors import OnnxpruneError

    result: list[str] = []
    number = 0
    for name in ("onnxprune.jobs.results.gather", "onnxprune.report.terminal", "rich.console"):
        importlib.import_module(name)  # so that no copy has to
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "mutant.onnx", Path(folder) / "log"
        while number < len(mutants):
            child = os.fork()
            if child == 0:
                _limit()
                with log.open("w") as file:
                    for k in range(number, len(mutants)):
                        file.write(f"@{k}\n")
                        file.flush()
                        path.write_bytes(mutants[k][1])
                        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
                        try:
                            look(path)
                        except OnnxpruneError as error:
                            if not error.message or "\n" in error.message:
                                file.write(f"!{error.message!r} is no line\n")
                        except BaseException:  # noqa: BLE001
                            file.write(f"!{traceback.format_exc()}\n")
                        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            number = _read(log.read_text(), mutants, result, status)
    return result


def _limit() -> None:
    faulthandler.disable()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def late(*_: object) -> None:
        message = f"more than {_SECONDS} s"
        raise TimeoutError(message)

    signal.signal(signal.SIGVTALRM, late)
    sys.setrecursionlimit(1000)


def _read(log: str, mutants: Sequence[tuple[str, bytes]], result: list[str], status: int) -> int:
    """Add the faults of a log, and say where to go on."""
    last = 0
    for part in log.split("@")[1:] if log.startswith("@") else []:
        head, _, rest = part.partition("\n")
        if head.isdecimal():
            last = int(head)
        if rest.startswith("!"):
            result.append(f"{mutants[last][0]}: {rest[1:]}")
    if status:
        result.append(f"{mutants[last][0]}: the process ended with status {status}")
    return last + 1

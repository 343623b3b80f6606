"""Local functions, written out where they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxprune.errors import OnnxpruneError
from onnxprune.model.protos import bodies_in

_MOST_NODES = 1_000_000
_HINT = "export without functions, or try onnx.inliner.inline_local_functions(model, True) on it"


def prepare(proto: onnx.ModelProto) -> None:
    """Make the functions of ``proto`` safe for `inline`.

    An output that is also an input, or is listed twice, gets an Identity of its own (the inliner of
    onnx-ir would rename the caller's value). A function written for another opset than the model
    is accepted when all its operators mean the same in both.

    Raises:
        OnnxpruneError: a function needs another opset than the model has.
    """
    imports = {_plain(opset.domain): opset.version for opset in proto.opset_import}
    local = {(_plain(one.domain), one.name) for one in proto.functions}
    for function in proto.functions:
        taken = set(function.input)
        for index, name in enumerate(function.output):
            if name in taken:
                own = f"{name}/output.{index}"
                function.node.add(op_type="Identity", input=[name], output=[own])
                function.output[index] = own
            taken.add(function.output[index])
        for opset in function.opset_import:
            domain = _plain(opset.domain)
            wanted = imports.setdefault(domain, opset.version)
            bodies = (graph.node for graph in bodies_in(function.node))
            for node in chain(function.node, *bodies):
                if _plain(node.domain) != domain or (domain, node.op_type) in local:
                    continue
                if not _same(node.op_type, domain, opset.version, wanted):
                    raise OnnxpruneError(
                        f"function '{function.name}' uses {node.op_type} of opset {opset.version} "
                        f"of '{domain or 'ai.onnx'}', but the model uses opset {wanted}",
                        hint=_HINT,
                    )
            opset.version = wanted


def check_size(proto: onnx.ModelProto) -> None:
    """Refuse functions that, written out, make more nodes than any network has.

    Raises:
        OnnxpruneError: they do.
    """
    functions = {(_plain(one.domain), one.name): one for one in proto.functions}
    calls = {key: _calls(one.node) for key, one in functions.items()}
    sizes = dict.fromkeys(functions, 1)
    # Each round knows one more level of calls; a circle grows without end, and is refused too.
    for _ in range(len(functions) + 1):
        sizes = {key: _size(each, sizes) for key, each in calls.items()}
        largest = max(sizes, key=lambda key: sizes[key], default=None)
        if largest is not None and sizes[largest] > _MOST_NODES:
            raise OnnxpruneError(
                f"the local function '{largest[1]}' makes more than {_MOST_NODES} nodes when it "
                "is written out",
                hint=_HINT,
            )
    total = _size(_calls(proto.graph.node), sizes)
    if functions and total > _MOST_NODES:
        raise OnnxpruneError(
            f"the local functions make {total} nodes when they are written out", hint=_HINT
        )


def _calls(nodes: Iterable[onnx.NodeProto]) -> dict[tuple[str, str], int]:
    """How often each operator is called, bodies included."""
    every = chain(nodes, *(graph.node for graph in bodies_in(nodes)))
    return Counter((_plain(node.domain), node.op_type) for node in every)


def _size(calls: Mapping[tuple[str, str], int], sizes: Mapping[tuple[str, str], int]) -> int:
    return sum(count * sizes.get(key, 1) for key, count in calls.items())


def inline(model: ir.Model) -> None:
    """Replace every call of a local function by its body, and drop the functions.

    Raises:
        OnnxpruneError: functions call each other in a circle, or a call does not fit its function.
    """
    if not model.functions:
        return
    try:
        InlinePass()(model)
    except (ir.passes.PassError, ir.passes.PreconditionError, ValueError) as error:
        raise OnnxpruneError(
            f"a local function cannot be written out: {error.__cause__ or error}", hint=_HINT
        ) from error
    model.functions.clear()


def _same(operator: str, domain: str, one: int, other: int) -> bool:
    """Whether ``operator`` is the same in two versions of its opset."""
    if one == other:
        return True
    try:
        first, second = (onnx.defs.get_schema(operator, v, domain) for v in (one, other))
    except onnx.defs.SchemaError:
        return False
    return bool(first.since_version == second.since_version)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain

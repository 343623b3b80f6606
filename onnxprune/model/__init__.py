"""Models: loading, saving, copying, and the constants they hold.

The only room that knows where a model comes from and how it is written. Inside, a model is an
onnx-ir graph whose weights stay mapped in their files until they are read.
"""

# ruff: noqa: E402  onnx-ir is imported here first, without what it hardly needs

from onnxprune.model.deferred import import_without

import_without("onnx_ir", "sympy")

from onnxprune.model.constants import (
    add_constant,
    array_of,
    constant,
    constants,
    fresh_name,
    set_constant,
    size_bytes,
)
from onnxprune.model.core import Model, clone, graphs
from onnxprune.model.origin import bodies, values
from onnxprune.model.parts import part_names, parts, shared_parts
from onnxprune.model.reading import ModelLike, load
from onnxprune.model.structure import structure_hash
from onnxprune.model.writing import save, write

__all__ = [
    "Model",
    "ModelLike",
    "add_constant",
    "array_of",
    "bodies",
    "clone",
    "constant",
    "constants",
    "fresh_name",
    "graphs",
    "load",
    "part_names",
    "parts",
    "save",
    "set_constant",
    "shared_parts",
    "size_bytes",
    "structure_hash",
    "to_graphsurgeon",
    "to_proto",
    "values",
    "write",
]

to_proto = Model.to_proto
to_graphsurgeon = Model.to_graphsurgeon

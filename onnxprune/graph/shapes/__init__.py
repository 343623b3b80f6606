"""The shape, type and content of every value, once the inputs have concrete shapes.

:func:`propagate` walks the graph forward; :func:`probe_shapes` finds two sets of input shapes it
can be walked with. No runtime is involved: shapes come from the operators' schemas, and small known
values (the arithmetic exporters write between Shape and Reshape) are evaluated on the way.
"""

from onnxprune.graph.facts import Fact, Shape
from onnxprune.graph.shapes.probe import probe_shapes
from onnxprune.graph.shapes.walk import facts_of_graph, propagate

__all__ = ["Fact", "Shape", "facts_of_graph", "probe_shapes", "propagate"]

"""TensorRT engines: building them, and reading what TensorRT says about sparse weights.

* ``runtime``: ``tensorrt`` or ``tensorrt_rtx``, whichever is installed.
* ``precision``: a strongly typed fp16 or bf16 graph from a float one.
* ``build``: parser, profile, builder; errors named by node.
* ``commands``: the same with ``trtexec`` and ``polygraphy``.
* ``sparsity``: the ``(Sparsity)`` lines of a log and the engine inspector's JSON, by node.
"""

from onnxprune.runtime.engines.build import Built, build

__all__ = ["Built", "build"]

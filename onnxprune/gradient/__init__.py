"""Gradients of a model's outputs, as more nodes of the same graph.

Reverse-mode differentiation by rules per operator, written in ONNX operators: whatever runs the
model runs its gradient too, and no training framework is needed.

* ``emit``: adding nodes.
* ``rules``: what every operator passes back; ``elementwise``, ``linear``,
  ``convolution``, ``movement`` and ``norms`` hold them.
* ``backward``: the walk from losses to the values whose gradients are wanted.
* ``student``: a model whose weights can be changed between runs, and their gradients.
* ``distil``: what is left of a network trained to answer as the dense one does, on ``variants`` of
  inputs, by ``descent``.
"""

from onnxprune.gradient.backward import Backward, Loss, backward

__all__ = ["Backward", "Loss", "backward"]

"""What can run a model.

``registry`` knows every backend by name: each opens a model and gives back something with
``inputs`` and ``outputs`` (signatures), ``precision`` and ``run``. Pruning itself needs
onnxruntime, whose sessions (`open_session`) can do more: tap values, and take weights of any size
by reference.
"""

from onnxprune.model.signature import Signature, TensorSpec
from onnxprune.runtime.ort import Session, available, open_session

__all__ = ["Session", "Signature", "TensorSpec", "available", "open_session"]

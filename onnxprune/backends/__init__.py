"""What can run a model.

A backend opens a model and gives back something with ``inputs`` (a signature) and ``run``.
"""

from onnxprune.backends.ort import Session, available, open_session
from onnxprune.backends.signature import Signature, TensorSpec

__all__ = ["Session", "Signature", "TensorSpec", "available", "open_session"]

"""Backends that run models.

``registry`` knows every backend by name: each opens a model as a `Session`, which has ``inputs``
and ``outputs`` (signatures), ``precision`` and ``run``, and declares abilities that others may lack
(`Capability`). Pruning itself needs onnxruntime, which has all of them; `open_session` opens its
sessions, with settings that only onnxruntime has.
"""

from onnxprune.model.signature import Signature, TensorSpec
from onnxprune.runtime.interface import Capability, Session
from onnxprune.runtime.ort import FIXED_THREADS, OrtSession, available, open_session

__all__ = [
    "FIXED_THREADS",
    "Capability",
    "OrtSession",
    "Session",
    "Signature",
    "TensorSpec",
    "available",
    "open_session",
]

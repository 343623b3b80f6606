"""What can run a model.

``registry`` knows every backend by name: each opens a model as a `Session`, which has ``inputs``
and ``outputs`` (signatures), ``precision`` and ``run``, and says what it can that others cannot
(`Capability`). Pruning itself needs onnxruntime, which has all capabilities; `open_session` opens
its sessions with what backends do not share.
"""

from onnxprune.model.signature import Signature, TensorSpec
from onnxprune.runtime.interface import Capability, Session
from onnxprune.runtime.ort import OrtSession, available, open_session

__all__ = [
    "Capability",
    "OrtSession",
    "Session",
    "Signature",
    "TensorSpec",
    "available",
    "open_session",
]

"""The import of onnx-ir without sympy, which it needs for arithmetic on symbolic sizes alone.

sympy is two thirds of what onnx-ir takes to import, and a third of the memory of a small job;
nothing here computes with symbolic sizes. It is imported when something does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Deferred:
    """A function of a module that is imported when the function is called."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: object, **settings: object) -> object:
        return getattr(importlib.import_module(self._module), self._name)(*args, **settings)


class _StandIn(ModuleType):
    """A module in the place of one that is imported when it is used.

    Attributes:
        importing: whether its user is still being imported: attributes are then only kept.
    """

    importing = True

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 whatever the module has
        if name.startswith("__"):
            raise AttributeError(name)
        if self.importing:
            return _Deferred(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


def import_without(user: str, heavy: str) -> None:
    """Import ``user``, but not ``heavy``, which it imports, until it is needed.

    Others that import ``heavy`` get the real module. Nothing happens where either is there already.

    Example:
        >>> import_without("onnx_ir", "sympy")
        >>> import onnx_ir
        >>> onnx_ir.Shape(["n", 3]).rank()
        2
    """
    if user in sys.modules or heavy in sys.modules:
        return
    stand_in = _StandIn(heavy)
    sys.modules[heavy] = stand_in
    try:
        importlib.import_module(user)
    finally:
        stand_in.importing = False
        if sys.modules.get(heavy) is stand_in:
            del sys.modules[heavy]

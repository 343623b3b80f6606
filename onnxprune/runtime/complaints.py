"""onnxruntime's refusals, in words a user can act on."""

from __future__ import annotations

import importlib
import importlib.util
import re

from onnxprune.errors import OnnxpruneError

_EXTENSIONS = ("ai.onnx.contrib", "com.microsoft.extensions")

_UNREGISTERED = re.compile(r"Fatal error: (?P<domain>[\w.\-]*):(?P<op>\w+)\(-?\d+\) is not a reg")
_NO_OP = re.compile(
    r'In Node, \("(?P<node>[^"]*)", (?P<op>\w+), "(?P<domain>[^"]*)".*No Op registered'
)
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?:(?P<domain>[\w.]+)[.:])?(?P<op>\w+)\(\d+\) node with "
    r"name '(?P<node>[^']*)'"
)


def extensions_library(complaint: str) -> str:
    """Path of onnxruntime-extensions, if one of its operators is missing and it is installed."""
    if not any(domain in complaint for domain in _EXTENSIONS):
        return ""
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        return ""
    return str(importlib.import_module("onnxruntime_extensions").get_library_path())


def load_error(where: str, complaint: str) -> OnnxpruneError:
    """Turn onnxruntime's complaint about loading ``where`` into one that names the operator."""
    for pattern, verb in ((_UNREGISTERED, "knows"), (_NO_OP, "knows"), (_NO_KERNEL, "implements")):
        match = pattern.search(complaint.replace("\n", " "))
        if match is None:
            continue
        parts = match.groupdict()
        domain = parts.get("domain") or "ai.onnx"
        at = f" (node '{parts['node']}')" if parts.get("node") else ""
        hint = "pass the library that implements it as a custom operator library"
        if domain in _EXTENSIONS:
            hint = "pip install onnxruntime-extensions: it is then used automatically"
        elif verb == "implements":
            hint = "no kernel of this backend takes these element types; try another backend"
        return OnnxpruneError(
            f"onnxruntime cannot run {where}: it {verb} no operator {domain}.{parts['op']}{at}",
            hint=hint,
        )
    return OnnxpruneError(f"onnxruntime cannot load {where}: {plain(complaint)}")


_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING = re.compile(r"Load model (?:from )?.+? failed[:.] ?")
_SOURCE = re.compile(
    r"\S+\.(?:cc|cpp|h):\d+ [\w:~<>]+"  # file, line and function
    r"(?:\((?:[^()]|\([^()]*\))*\))?(?: const)?(?: \[with [^\]]*\])? ?"  # and its arguments
)


def plain(error: object) -> str:
    """A message of onnxruntime without codes, source lines and repetitions."""
    text = str(error)
    for noise in (_CODE, _LOADING, _SOURCE):
        text = noise.sub("", text)
    return " ".join(text.split())

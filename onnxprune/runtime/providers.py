"""The execution providers of onnxruntime under short names.

A provider is either built into the installed onnxruntime wheel or comes as a plug-in package
(`onnxruntime-ep-openvino` and its like, onnxruntime 1.23 and later), which is found by itself.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune import types
from onnxprune.errors import OnnxpruneError

INSTALL = "install one of: pip install 'onnxprune[cpu]' or pip install 'onnxprune[gpu]'"


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: short name, as on our command line.
        plugin: importable module of the plug-in package, if there is one.
        wheel: package that brings it.
    """

    name: str
    wheel: str
    plugin: str = ""

    @property
    def full(self) -> str:
        """The name that onnxruntime has for it."""
        return types.PROVIDERS[self.name]

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.name == "cpu":
            return "pip install 'onnxprune[cpu]'"
        if self.wheel.startswith("an onnxruntime built"):
            return f"build onnxruntime from source with --use_{self.name}"
        line = f"pip install {self.wheel}"
        if not self.plugin and self.wheel != "onnxruntime":  # they write over each other's files
            line = f"pip uninstall -y onnxruntime && {line}"
        where = _PLATFORMS.get(self.name, "")
        return line + (f"  # on {where}" if where else "")


_PLATFORMS = {"coreml": "macOS", "dml": "Windows", "qnn": "Snapdragon"}

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

PROVIDERS = (
    Provider("cpu", "onnxruntime"),
    Provider("cuda", "onnxruntime-gpu"),
    Provider("tensorrt", "onnxruntime-gpu"),
    Provider("tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx"),
    Provider("openvino", "onnxruntime-ep-openvino", "onnxruntime_ep_openvino"),
    Provider("dml", "onnxruntime-directml"),
    Provider("coreml", "onnxruntime"),
    Provider("rocm", "onnxruntime-rocm"),
    Provider("migraphx", "onnxruntime-migraphx"),
    Provider("qnn", "onnxruntime-qnn", "onnxruntime_qnn"),
    Provider("webgpu", "onnxruntime-ep-webgpu", "onnxruntime_ep_webgpu"),
    Provider("xnnpack", "an onnxruntime built with XNNPACK"),
    Provider("dnnl", "an onnxruntime built with oneDNN"),
    Provider("acl", "an onnxruntime built with ACL"),
    Provider("cann", "onnxruntime-cann"),
    Provider("vitisai", "onnxruntime-vitisai"),
)


def runtime() -> Any:  # noqa: ANN401 -- onnxruntime ships no types
    """The onnxruntime module.

    Raises:
        OnnxpruneError: it is not installed, or its installation is broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxpruneError(f"onnxruntime cannot be imported: {error}", hint=INSTALL) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise OnnxpruneError(
            "onnxruntime is installed but broken: another onnxruntime wheel was removed over it",
            hint="uninstall every onnxruntime wheel, then install exactly one of them",
        )
    return onnxruntime


def available() -> tuple[str, ...]:
    """Short names of the providers available here; empty without onnxruntime."""
    try:
        built_in = runtime().get_available_providers()
    except OnnxpruneError:
        return ()
    return tuple(one.name for one in PROVIDERS if one.full in built_in or _installed(one))


def named(name: str) -> Provider:
    """Look a provider up by short name or by onnxruntime's name; case does not matter.

    Raises:
        OnnxpruneError: no such provider.
    """
    short = types.provider_name(name)
    return next(one for one in PROVIDERS if one.name == short)


def device_problem(one: Provider) -> str:
    """Why a provider is not available here; empty if it is.

    A plug-in is registered to find out whether it has a device; a provider that is built in only
    says so when a model is opened.

    Raises:
        OnnxpruneError: onnxruntime itself is not there.
    """
    ort = runtime()
    if one.full in ort.get_available_providers() and not _registered(one):
        return ""
    if not _installed(one):
        comes = f"; {one.wheel} is not installed" if one.plugin else ""
        return f"this onnxruntime is built without {one.full}{comes}"
    try:
        return "" if _devices(one, {}) else "it finds no device here"
    except Exception as error:  # noqa: BLE001  # libraries of any vendor
        return f"its library does not load: {' '.join(str(error).split())}"


def require(one: Provider) -> None:
    """Refuse a provider that is not installed here, before anything is done with it.

    Raises:
        OnnxpruneError: it is not.
    """
    if one.full not in runtime().get_available_providers() and not _installed(one):
        raise OnnxpruneError(
            f"--backend: the execution provider '{one.name}' is not available here",
            hint=f"it comes with {one.wheel}; available here: {', '.join(available()) or 'none'}",
        )


def use(options: Any, one: Provider, settings: Mapping[str, str]) -> dict[str, Any]:  # noqa: ANN401
    """Make session options use a provider; returns the keyword arguments of ``InferenceSession``.

    The CPU provider always follows, for the nodes that ``one`` does not take.

    Raises:
        OnnxpruneError: the provider is not installed here.
    """
    ort = runtime()
    if one.full in ort.get_available_providers() and not _registered(one):
        if one.name in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        order: list[tuple[str, dict[str, str]]] = [(one.full, dict(settings))]
        if one.name != "cpu":
            order.append(("CPUExecutionProvider", {}))
        return {"providers": order}
    require(one)
    devices = _devices(one, settings)
    if not devices:
        wanted = settings.get("device_type", "")
        where = f" of type {wanted.upper()}" if wanted else ""
        raise OnnxpruneError(
            f"--backend: the execution provider '{one.name}' finds no device{where} here",
            hint="`onnxprune bench --list` says which backends run here",
        )
    rest = {key: value for key, value in settings.items() if key != "device_type"}
    options.add_provider_for_devices(devices[:1], rest)
    return {}


def _devices(one: Provider, settings: Mapping[str, str]) -> list[Any]:
    """Devices of a plug-in, which is registered first; of the type wanted, if one is."""
    ort = runtime()
    if not _registered(one):
        library = importlib.import_module(one.plugin).get_library_path()
        ort.register_execution_provider_library(one.name, str(library))
    wanted = settings.get("device_type", "").upper()
    devices = [device for device in ort.get_ep_devices() if device.ep_name == one.full]
    return [device for device in devices if wanted in ("", device.device.type.name)]


def _installed(one: Provider) -> bool:
    return bool(one.plugin) and importlib.util.find_spec(one.plugin) is not None


def _registered(one: Provider) -> bool:
    """Whether a plug-in was registered before: it is then listed as if it were built in."""
    ort = runtime()
    if not one.plugin or not hasattr(ort, "get_ep_devices"):
        return False
    return any(device.ep_name == one.full for device in ort.get_ep_devices())


def gpu_problem() -> str:
    """Why no NVIDIA GPU is usable here, by its driver; empty if one is."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver is installed ({_DRIVER} is not found)"
    code = int(driver.cuInit(0))
    if code == _NO_DEVICE:
        return "the NVIDIA driver finds no GPU"
    if code:
        return f"the NVIDIA driver does not start (cuInit says {code})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU"
    return ""

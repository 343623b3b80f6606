"""Whether there is an NVIDIA GPU to run on, asked of the driver itself."""

from __future__ import annotations

import ctypes
import sys

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def gpu_problem() -> str:
    """Why nothing can run on an NVIDIA GPU here; empty if something can."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return f"no NVIDIA driver is installed ({_LIBRARY} is not found)"
    code = int(driver.cuInit(0))
    if code == _NO_DEVICE:
        return "the NVIDIA driver finds no GPU"
    if code:
        return f"the NVIDIA driver does not start (cuInit says {code})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU"
    return ""

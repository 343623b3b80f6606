"""The machine that measurements are made on."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from onnxprune.graph.plan import versions

_PACKAGES = """
onnxprune numpy onnx onnxruntime onnxruntime-gpu onnxruntime-ep-openvino openvino tensorrt
tensorrt-rtx
""".split()
_BUSY = 0.25
_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Environment:
    """A machine, as far as it matters for latencies.

    Attributes:
        cpu: its model.
        cores: that the system has.
        affinity: those this process may use.
        memory_bytes: physical memory; None if unknown.
        features: of the CPU, as far as kernels are chosen by them.
        clock_mhz: of each core, now; empty if unknown.
        governor: of the clock; empty if unknown.
        load_average: of the last minute, before and after measuring.
        os, python: versions.
        versions: of packages that are installed.
    """

    cpu: str
    cores: int
    affinity: tuple[int, ...]
    memory_bytes: int | None
    features: tuple[str, ...]
    clock_mhz: tuple[float, ...]
    governor: str
    load_average: tuple[float, ...]
    os: str
    python: str
    versions: dict[str, str]


_FEATURES = """
avx2 avx512f avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16
asimd asimddp sve i8mm bf16
""".split()


def environment() -> Environment:
    """The machine this process runs on, now."""
    info = _read(Path("/proc/cpuinfo"))
    flags = set(re.sub(r"(?m)^(?!flags|Features).*$", "", info).split())
    clocks = tuple(float(each) for each in re.findall(r"(?m)^cpu MHz\s*: ([\d.]+)", info))
    if not clocks:
        scaling = sorted(_CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        clocks = tuple(int(_read(path) or 0) / 1000 for path in scaling)
    named = re.search(r"(?m)^model name\s*: (.*)$", info)
    return Environment(
        cpu=named[1].strip() if named else platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        memory_bytes=_memory(),
        features=tuple(each for each in _FEATURES if each in flags),
        clock_mhz=clocks,
        governor=_read(_CPU / "cpu0/cpufreq/scaling_governor").strip(),
        load_average=(round(load(), 2),),
        os=platform.platform(),
        python=platform.python_version(),
        versions=versions(_PACKAGES),
    )


def load() -> float:
    """The load average of the last minute; 0 if unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def is_busy() -> bool:
    """Whether the load is above a quarter of the cores."""
    return load() > _BUSY * (os.cpu_count() or 1)


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

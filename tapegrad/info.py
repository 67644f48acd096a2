"""What ``tapegrad info`` prints: the facts to put into a report of a bug or of a speed."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import llvmlite.binding as llvm

from tapegrad.native.stamp import machine_stamp
from tapegrad.native.store import cache_dir, cache_size
from tapegrad.version import __version__

_PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "safetensors")
# Widest first: the first feature that the CPU has gives the bits of a vector register.
_VECTOR_BITS = {"avx512f": 512, "avx": 256, "neon": 128, "sse2": 128}
_TELLING = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512bf16", "neon", "sve")


def lines() -> list[str]:
    """Return the lines of ``tapegrad info``."""
    features = llvm.get_host_cpu_features()
    return [
        f"tapegrad     {__version__}",
        f"python       {platform.python_version()} on {platform.platform()}",
        *(f"{name:12} {_version(name)}" for name in _PACKAGES),
        f"cpu          {llvm.get_host_cpu_name()}: {' '.join(name for name in _TELLING if features.get(name))}",
        f"vectors      {vector_bits(features)} bits",
        f"threads      {usable_cores()} usable of {os.cpu_count()} cores",
        f"cache        {cache_line()}",
        f"stamp        {machine_stamp()[:16]}",
    ]


def vector_bits(features: dict[str, bool]) -> int:
    """Return the width of a vector register of a CPU with ``features``; 64, a scalar's, if it has none.

    Examples:
        >>> vector_bits({"sse2": True, "avx": True, "avx512f": False})
        256
    """
    return next((bits for name, bits in _VECTOR_BITS.items() if features.get(name)), 64)


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_line() -> str:
    """Return the cache's place, how many compiled functions it has and how large they are."""
    count, size = cache_size()
    return f"{cache_dir()}: {count} compiled functions, {megabytes(size)}"


def megabytes(size: int) -> str:
    """Return ``size`` in bytes as people read it.

    Examples:
        >>> megabytes(1_234_567)
        '1.2 MB'
    """
    return f"{size / 1e6:.1f} MB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

"""What all machine code depends on beside its sources: the processor, and the versions of what compiles it."""

import functools
import hashlib
import platform

import llvmlite
import numba
from numba.core.registry import cpu_target

from tapegrad.version import __version__


@functools.cache
def machine_stamp() -> str:
    """Return a hash of the CPU, its features and the versions of Python, Numba and llvmlite."""
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__)
    return hashlib.sha256(repr((_processor(), versions)).encode()).hexdigest()


def machine_text() -> str:
    """Return in words what compiled functions are for: two machines whose stamps differ have different texts."""
    _, cpu, features = _processor()
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    versions = f"Python {platform.python_version()}, Numba {numba.__version__}, llvmlite {llvmlite.__version__}"
    return f"tapegrad {__version__}, {versions}, processor {cpu or 'unknown'} (features {digest})"


def is_known_processor() -> bool:
    """Return whether LLVM can tell what this processor is; it compiles for any, but for a generic one less well."""
    _, cpu, features = _processor()
    return cpu not in ("", "generic") and bool(features)


def _processor() -> tuple[str, str, str]:
    """Return LLVM's triple, the processor's name and its features: what Numba generates code for."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, cpu, features

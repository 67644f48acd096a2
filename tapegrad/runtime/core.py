"""The compiled functions of the machine itself, and their first compilation with the help of a second process.

Compiling them takes some seconds, once on each machine, nearly all of it in Numba's own Python code, which one process
runs on one core. So when the cache has none of them a second process compiles the sweep while this one does the rest;
they meet in the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapegrad.native.cache import compile_function, is_cached
from tapegrad.native.fastcall import SIGNATURE
from tapegrad.runtime.emit import emit
from tapegrad.runtime.entry_points import ENTRY_POINTS
from tapegrad.runtime.python_entries import PYTHON_ENTRY_POINTS
from tapegrad.runtime.sweep import sweep
from tapegrad.runtime.sweep_entries import SWEEP_ENTRY_POINTS

_ALL = ENTRY_POINTS | PYTHON_ENTRY_POINTS | SWEEP_ENTRY_POINTS
_FOUR_INTS = "int64(int64, int64, int64, int64)"

CORE: dict[str, tuple[Callable[..., Any], str]] = {
    "emit": (emit, _FOUR_INTS),
    **{f"entry.{name}": (function, SIGNATURE) for name, function in _ALL.items()},
    "sweep": (sweep, _FOUR_INTS),
}
_FOR_THE_HELPER = "sweep"

# The package's own __init__ would start a machine, which would start a helper: the helper has a bare package instead.
_HELPER = f"""
import sys, types
package = types.ModuleType("tapegrad")
package.__path__ = [sys.argv[1]]
sys.modules["tapegrad"] = package
from tapegrad.runtime.core import compile_one
compile_one({_FOR_THE_HELPER!r})
"""


def compile_one(name: str) -> int:
    """Return the address of a function of the core."""
    function, signature = CORE[name]
    return compile_function(function, name, signature)


def compile_core() -> dict[str, int]:
    """Return the address of every function of the core, by name."""
    helper = None if is_cached(*_key(_FOR_THE_HELPER)) else _start_helper()
    addresses = {name: compile_one(name) for name in CORE if name != _FOR_THE_HELPER}
    if helper is not None:
        helper.wait()
    addresses[_FOR_THE_HELPER] = compile_one(_FOR_THE_HELPER)
    return addresses


def _key(name: str) -> tuple[Callable[..., Any], str, str]:
    function, signature = CORE[name]
    return function, name, signature


def _start_helper() -> subprocess.Popen[bytes] | None:
    """Start the second process; None where there is no second core, no interpreter to run, or no cache to meet in."""
    if sys.stderr is not None and sys.stderr.isatty():
        print("tapegrad: compiling for this machine, once: about 10 seconds ...", file=sys.stderr, flush=True)
    if (os.cpu_count() or 1) < 2 or not sys.executable:
        return None
    command = [sys.executable, "-c", _HELPER, str(Path(__file__).parent.parent)]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        return None

"""The compiled functions of the machine itself, and their first compilation with the help of a second process.

Compiling takes some seconds, once on each machine, nearly all of it in Numba's own Python code, which a process runs on
one core. So at the very first start a second process compiles what comes later (the sweep, then the kernels of a usual
training step, last ones first) while this one goes on; they meet in the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapegrad.native.cache import can_be_cached, compile_function, is_cached
from tapegrad.native.fastcall import SIGNATURE
from tapegrad.native.parallel import run_tasks
from tapegrad.native.stamp import is_known_processor
from tapegrad.native.store import say, say_of_other_machines
from tapegrad.runtime.emit import emit
from tapegrad.runtime.entry_points import ENTRY_POINTS
from tapegrad.runtime.guard_entries import GUARD_ENTRY_POINTS
from tapegrad.runtime.native_calls import call_program, call_scalar
from tapegrad.runtime.python_entries import PYTHON_ENTRY_POINTS
from tapegrad.runtime.replay import run_program, run_steps
from tapegrad.runtime.replay_calls import REPLAY_ENTRY_POINTS
from tapegrad.runtime.sweep import sweep
from tapegrad.runtime.sweep_entries import SWEEP_ENTRY_POINTS
from tapegrad.runtime.value_entries import VALUE_ENTRY_POINTS

_FOUR_INTS = "int64(int64, int64, int64, int64)"

_ENTRY_POINTS = (
    ENTRY_POINTS
    | PYTHON_ENTRY_POINTS
    | SWEEP_ENTRY_POINTS
    | VALUE_ENTRY_POINTS
    | REPLAY_ENTRY_POINTS
    | GUARD_ENTRY_POINTS
)
ENTRY_NAMES = tuple(_ENTRY_POINTS)

CORE: dict[str, tuple[Callable[..., Any], str]] = {
    "emit": (emit, _FOUR_INTS),
    "sweep": (sweep, _FOUR_INTS),
    "run_tasks": (run_tasks, _FOUR_INTS),
    "run_program": (run_program, "int64(int64, int64)"),
    "run_steps": (run_steps, "int64(int64, int64)"),
    "call_program": (call_program, "int64(int64, int64, int64)"),
    "call_scalar": (call_scalar, "float64(int32, int64, int64)"),
    **{f"entry.{name}": (function, SIGNATURE) for name, function in _ENTRY_POINTS.items()},
}
_FOR_THE_HELPER = ("sweep", "entry.give", "entry.begin_sweep", "entry.end_sweep", "entry.sweep", "entry.abandon")

# The package's own __init__ would need emit, which the first process is compiling: at first a bare package will do.
_HELPER = """
import sys, types
package = types.ModuleType("tapegrad")
package.__path__ = [sys.argv[1]]
sys.modules["tapegrad"] = package
from tapegrad.runtime import core
if core.help_to_compile():
    for name in [name for name in sys.modules if name.split(".")[0] == "tapegrad"]:
        del sys.modules[name]
    sys.path.insert(0, sys.argv[2])
    __import__("tapegrad.warmup").warmup.compile_training_kernels()
"""
_helper: subprocess.Popen[bytes] | None = None


def compile_one(name: str) -> int:
    """Return the address of a function of the core; wait for it if the second process is at it."""
    function, signature = CORE[name]
    while _helper is not None and name in _FOR_THE_HELPER and not _is_cached(name) and _helper.poll() is None:
        time.sleep(0.01)
    return compile_function(function, name, signature)


def start_helper() -> None:
    """Start the second process if this is the first start on the machine, there is a second core, and it can be run."""
    global _helper
    if _is_cached("emit") or os.environ.get("TAPEGRAD_HELPER") == "0":
        return
    if sys.stderr is not None and sys.stderr.isatty():
        print("tapegrad: compiling for this machine, once: about 10 seconds ...", file=sys.stderr, flush=True)
    say_of_other_machines()
    if not is_known_processor():
        say("processor", "LLVM does not know this processor: code for a generic one is right, but may be slow")
    if not can_be_cached(emit, "emit", _FOUR_INTS):  # there would be no place to meet in
        return
    if (os.cpu_count() or 1) < 2 or not sys.executable:
        return
    package = Path(__file__).parent.parent
    command = [sys.executable, "-c", _HELPER, str(package), str(package.parent)]
    quiet = subprocess.DEVNULL
    try:
        _helper = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, env={**os.environ, "TAPEGRAD_HELPER": "0"}
        )
    except OSError:
        return


def help_to_compile() -> bool:
    """Compile the second process's share; return whether the first one has finished its own within a minute."""
    for name in _FOR_THE_HELPER:
        compile_one(name)
        if not _is_cached(name):  # a full disk, a folder that is gone: the first process waits for nothing
            return False
    deadline = time.monotonic() + 60
    while not _is_cached("entry.emit") and time.monotonic() < deadline:
        time.sleep(0.05)
    return _is_cached("entry.emit")


def _is_cached(name: str) -> bool:
    function, signature = CORE[name]
    return is_cached(function, name, signature)

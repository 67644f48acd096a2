"""Compiles functions to native code once per machine: a disk cache keyed by everything that the code depends on.

Numba's own cache looks only at the file that defines a function, so an edit in a helper's file goes on serving the old
answer, and it never hits for functions built by closure. Here one file holds one function, and its name is a hash of
the function's key, its signature, the sources it comes from, the CPU and the versions of Python, Numba and llvmlite.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.dispatcher import _FunctionCompiler
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.sigutils import normalize_signature

from tapegrad.native.pipeline import Pipeline, quick_compilation
from tapegrad.native.sources import sources_digest
from tapegrad.native.stamp import machine_stamp
from tapegrad.native.store import cache_dir, can_write, read_code, write_code

# Division by zero gives inf or nan instead of a check that would keep a loop from vectorising (Adam: 12 us -> 1.3 us).
# 'contract' allows fused multiply-add; without 'nnan' and 'ninf', nan and inf propagate as IEEE 754 says.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract", "nsz"}, "_nrt": False}

_alive: list[Any] = []  # libraries and object files: their code goes when they do
_counts = {"compiled": 0, "loaded": 0}


def cache_counts() -> dict[str, int]:
    """Return how many functions this process has compiled and how many it has loaded from the disk."""
    return dict(_counts)


def compile_function(function: Callable[..., Any], key: str, signature: str, *, on_disk: bool = True) -> int:
    """Return the address of ``function`` compiled for ``signature``, from the disk cache where it is there.

    Args:
        function: a Python function that Numba compiles in nopython mode, which neither raises nor allocates.
        key: a name that tells apart every function of this package, closures' parameters included.
        signature: a Numba signature such as ``"int64(int64, int64)"``.
        on_disk: whether the disk cache is used: not where the key cannot tell the function from others.
    """
    path = _path(function, key, signature) if on_disk else None
    if path is None:
        return _compile(function, key, signature, None)
    address = _load(path)
    return _compile(function, key, signature, path) if address is None else address


def is_cached(function: Callable[..., Any], key: str, signature: str) -> bool:
    """Return whether the disk has a file for the function; see compile_function."""
    path = _path(function, key, signature)
    return path is not None and os.path.exists(path)  # which is False, not an error, in a folder closed to this user


def can_be_cached(function: Callable[..., Any], key: str, signature: str) -> bool:
    """Return whether the function's code would be kept on the disk now."""
    return _path(function, key, signature) is not None and can_write()


def _path(function: Callable[..., Any], key: str, signature: str) -> Path | None:
    """Return the function's file; None if the cache must not be used for it, see sources_digest."""
    sources = sources_digest(function)
    if sources is None:
        return None
    name = hashlib.sha256(f"{key}|{signature}|{sources}|{machine_stamp()}".encode()).hexdigest()
    return cache_dir() / f"{name[:40]}.bin"


def _compile(function: Callable[..., Any], key: str, signature: str, path: Path | None) -> int:
    name = hashlib.sha256(f"{key}|{signature}|{os.getpid()}".encode()).hexdigest()[:40] if path is None else path.stem
    named = FunctionType(function.__code__, function.__globals__, name, None, function.__closure__)
    named.__module__, named.__qualname__ = function.__module__, f"tapegrad_{name}"
    callback = _Function(named, normalize_signature(signature), {}, OPTIONS, pipeline_class=Pipeline)
    with quick_compilation():
        callback.compile()
    _counts["compiled"] += 1
    _alive.append(callback)
    if path is not None:
        write_code(path, callback.native_name.encode() + b"\0" + callback._library._get_compiled_object())
    return int(callback.address)


def _load(path: Path) -> int | None:
    stored = read_code(path)
    if stored is None:
        return None
    symbol, machine_code = stored.split(b"\0", 1)
    engine = cpu_target.target_context.codegen()._engine._ee
    code = llvm.ObjectFileRef.from_data(machine_code)
    engine.add_object_file(code)
    engine.finalize_object()
    _alive.append(code)
    _counts["loaded"] += 1
    return int(engine.get_function_address(symbol.decode()))


class _Program(JITCodeLibrary):  # type: ignore[misc]
    """The code of a function with an address, and of all that it calls.

    Only the function itself is visible from outside. Numba numbers its symbols anew in each process, so code that two
    processes have put into the cache would otherwise meet under one name and call each other's helpers.
    """

    def finalize(self) -> None:
        self._linking_libraries = _all_linked(self)
        super().finalize()

    def _optimize_final_module(self) -> None:
        for value in (*self._final_module.functions, *self._final_module.global_variables):
            if not value.is_declaration and not value.name.startswith("cfunc."):
                value.linkage = "internal"
        super()._optimize_final_module()


def _all_linked(library: Any) -> list[Any]:
    """Return what a library calls, directly or through helpers, each library once and after all that call it.

    The order matters: LLVM's linker leaves out a helper that nothing refers to yet, and a later caller would miss it.
    """
    found: dict[Any, None] = {}

    def visit(caller: Any) -> None:
        for linked in caller._linking_libraries:
            if linked not in found:
                if isinstance(linked, _HelperLibrary):
                    visit(linked)
                found[linked] = None

    visit(library)
    return list(reversed(found))


class _Function(CFunc):  # type: ignore[misc]
    """A compiled function with an address."""

    def _compile_uncached(self) -> Any:
        result = super()._compile_uncached()
        result.library.__class__ = _Program
        return result


class _HelperLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a helper: linked into its callers as it is, and optimised there, once, with all they call."""

    def finalize(self) -> None:
        self._finalized = True


class _HelperCompiler(_FunctionCompiler):  # type: ignore[misc]
    """Compiles a function that only compiled code calls: no wrappers for Python or C, no machine code of its own."""

    def _customize_flags(self, flags: Any) -> Any:
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True
        return flags

    def compile(self, args: Any, return_type: Any) -> Any:
        name = _HelperName()  # stands for the address of the code, by which Numba knows a function
        result = super().compile(args, return_type)._replace(entry_point=name)
        result.library.__class__ = _HelperLibrary
        self.targetdescr.target_context.insert_user_function(name, result.fndesc, [result.library])
        return result


class _HelperName:
    pass


class _Helper(CPUDispatcher):  # type: ignore[misc]
    """A function that only compiled code calls."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any] = OPTIONS) -> None:
        super().__init__(function, targetoptions=options, pipeline_class=Pipeline)
        self._compiler.__class__ = _HelperCompiler

    def get_call_template(self, arguments: Any, keywords: Any) -> Any:
        """Compile for integers, not anew for each literal integer: the optimiser sees their values anyway."""
        return super().get_call_template([_plain(argument) for argument in arguments], keywords)

    def add_overload(self, result: Any) -> None:
        self.overloads[tuple(result.signature.args)] = result


def _plain(argument: Any) -> Any:
    return argument.literal_type if isinstance(argument, types.IntegerLiteral) else argument


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a helper that compiled functions call or inline, with the same options as they have.

    It cannot be called from Python: leaving out the wrappers and the machine code halves the time to compile.
    """
    helper = _Helper(function)
    functools.update_wrapper(helper, function)
    return helper


def jit_inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a helper as `jit` does that becomes a part of its callers, however long it is: where a loop over it must be
    vectorised.
    """
    helper = _Helper(function, {**OPTIONS, "forceinline": True})
    functools.update_wrapper(helper, function)
    return helper


def jit_exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a helper as `jit_inlined` does whose operations stay as they are written, whatever surrounds them."""
    helper = _Helper(function, {**OPTIONS, "fastmath": False, "forceinline": True})
    functools.update_wrapper(helper, function)
    return helper


def jit_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a helper as `jit` does whose sums over a loop LLVM may take in the order of the vectors' lanes.

    Without 'reassoc' it does not vectorise a sum of floats. The order depends on the loop's length and the processor
    alone, and several partial sums round less than one.
    """
    helper = _Helper(function, {**OPTIONS, "fastmath": {"contract", "nsz", "reassoc"}})
    functools.update_wrapper(helper, function)
    return helper

"""The one tape machine of a process: its tables in memory, its compiled functions, and what it asks of Python.

``machine.emit`` and the other entry points are attributes; they are compiled when this module is imported, or loaded
from the disk cache in about 0.3 ms each.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.native.dtypes import DTYPE_COUNT, FLOAT32
from tapegrad.native.fastcall import fast_function
from tapegrad.native.pages import PAGE, make_usable, reserve_addresses
from tapegrad.runtime.core import CORE, compile_one, start_helper
from tapegrad.runtime.layout import (
    ENTRY,
    HANDLE,
    OP,
    PYTHON_ERROR,
    ROW_LIMIT,
    SLOT,
    STATE,
    STORAGE,
    THREAD_LIMIT,
    WORD_LIMIT,
)
from tapegrad.runtime.pool import ThreadPool, usable_cores

OP_LIMIT = 1024
CONSTANT_LIMIT = 256
ADDRESS_LIMIT = 256  # of functions that kernels of several ops call (GEMM, LAPACK); see ops/addresses.py
WORKSPACE_BYTES = 1 << 22
_FIRST_ROWS = 4096

_NEEDS = {"sweep": ("sweep",)}  # what an entry point calls by its address in the state block
_GUARDED_ADDRESSES = 1 << 44  # where the bounds-checking mode has its blocks, each at addresses of its own


class Machine:
    """The state block, the tables behind it, and the functions that work on them."""

    def __init__(self) -> None:
        self.block = np.zeros(1, STATE)
        self.state = self.block[0]
        self.address = self.block.ctypes.data
        self._errors = threading.local()
        self.resolve: Callable[[int, int, int], int] = _no_resolver
        self.python_callbacks: Callable[[int, int, int], int] = _no_resolver
        self.owners: dict[int, Any] = {}
        self.capturing = 0  # the thread that captures a function, if one does: it must not read values
        self.made_of_data: list[int] = []  # in a capture: the storages of tensors that were made of Python's data
        self.refreshers: dict[int, Callable[[], None]] = {}  # in a capture: what brings numbers in memory up to date
        self.deferred: list[tuple[Callable[[], Any], int]] = []  # Python's part of a captured call, and when it came
        self._next_owner = 0
        self._make_tables()
        self._make_callbacks()
        start_helper()
        self.state["emit_function"] = compile_one("emit")
        self.pool = ThreadPool(compile_one("run_tasks"), usable_cores())
        self.state["pool"] = self.pool.address

    def _make_tables(self) -> None:
        for name, dtype in (("handles", HANDLE), ("slots", SLOT), ("storages", STORAGE), ("entries", ENTRY)):
            self.state[name] = reserve_addresses(ROW_LIMIT * dtype.itemsize)
            make_usable(int(self.state[name]), _FIRST_ROWS * dtype.itemsize)
            self.state[f"{name}_capacity"] = _FIRST_ROWS
        self.state["words"] = reserve_addresses(WORD_LIMIT * 8)
        make_usable(int(self.state["words"]), 32 * _FIRST_ROWS * 8)
        self.state["words_capacity"] = 32 * _FIRST_ROWS
        for name in (
            "handles_free",
            "slots_free",
            "storages_free",
            "release_head",
            "leaf_head",
            "slots_aside",
            "storages_aside",
        ):
            self.state[name] = -1
        self.ops = np.zeros(OP_LIMIT, OP)
        self.kernels = np.zeros((OP_LIMIT, DTYPE_COUNT, DTYPE_COUNT), np.int64)
        self.constants = np.zeros((CONSTANT_LIMIT, 2), np.int64)
        self.addresses = np.zeros(ADDRESS_LIMIT, np.int64)
        self.thread_modes = np.zeros((THREAD_LIMIT, 2), np.int64)
        for name in ("ops", "kernels", "constants", "addresses", "thread_modes"):
            self.state[name] = getattr(self, name).ctypes.data
        self.state["workspace"] = reserve_addresses(WORKSPACE_BYTES + PAGE)
        make_usable(int(self.state["workspace"]), WORKSPACE_BYTES)
        self.state["grad_enabled"] = 1
        self.state["thread"] = -1
        self.state["default_dtype"] = FLOAT32
        if os.environ.get("TAPEGRAD_CHECK_BOUNDS") == "1":
            self.state["check_bounds"] = 1
            self.state["guarded"] = reserve_addresses(_GUARDED_ADDRESSES)

    def _make_callbacks(self) -> None:
        function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self._callbacks = (
            function(self._resolve_safely),
            function(self._call_python_safely),
            ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self._drop_owner),
        )
        for name, callback in zip(("resolve", "python", "drop"), self._callbacks, strict=True):
            self.state[f"{name}_callback"] = ctypes.cast(callback, ctypes.c_void_p).value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Compile, or load, an entry point that is used for the first time."""
        if f"entry.{name}" not in CORE:
            raise AttributeError(f"the tape machine has no entry point {name!r}")
        for needed in _NEEDS.get(name, ()):
            self.state[f"{needed}_function"] = compile_one(needed)
        function = fast_function(name, compile_one(f"entry.{name}"), self.address)
        setattr(self, name, function)
        return function

    @property
    def error(self) -> BaseException | None:
        """What Python code that the machine has called in this thread has raised."""
        return getattr(self._errors, "error", None)

    @error.setter
    def error(self, error: BaseException | None) -> None:
        self._errors.error = error

    def _resolve_safely(self, op: int, dtype: int, result_dtype: int) -> int:
        try:
            return self.resolve(op, dtype, result_dtype)
        except BaseException as error:
            self.error = error
            return 0

    def _call_python_safely(self, kind: int, a: int, b: int) -> int:
        try:
            return self.python_callbacks(kind, a, b)
        except BaseException as error:
            self.error = error
            return PYTHON_ERROR

    def _drop_owner(self, owner: int) -> int:
        self.owners.pop(owner, None)
        return 0

    def keep(self, owner: object) -> int:
        """Keep a Python object alive for a storage or an entry; return the number by which it is dropped."""
        self._next_owner += 1
        self.owners[self._next_owner] = owner
        return self._next_owner

    def table(self, name: str) -> npt.NDArray[Any]:
        """Return a table's rows in use as a structured array over the machine's own memory."""
        dtype = {"handles": HANDLE, "slots": SLOT, "storages": STORAGE, "entries": ENTRY, "words": np.dtype("i8")}[name]
        top = int(self.state[f"{name}_top"])
        buffer = (ctypes.c_char * (top * dtype.itemsize)).from_address(int(self.state[name]))
        return np.frombuffer(memoryview(buffer), dtype)


def _no_resolver(a: int, b: int, c: int) -> int:
    raise RuntimeError("the tape machine was used before tapegrad.ops was imported")


machine = Machine()

"""Which source files a function's machine code depends on: its own, and those of all that it reaches by name."""

import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


def sources_digest(function: FunctionType) -> str:
    """Return a hash of the source files that the code of ``function`` comes from.

    Followed are closure variables and the globals that the code names: functions, Numba's dispatchers and intrinsics,
    and modules. A function with overloads elsewhere in its module brings in the modules that this one imports.
    """
    modules: set[str] = set()
    seen: set[int] = set()
    pending: list[Any] = [function]
    while pending:
        value = _python_function(pending.pop())
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, ModuleType):
            modules.add(value.__name__)
            continue
        modules.add(value.__module__ or "")
        pending += _reached(value)
    return _digest(tuple(sorted(_with_imports(modules))))


def _python_function(value: Any) -> FunctionType | ModuleType | None:
    value = getattr(value, "py_func", getattr(value, "_defn", value))
    return value if isinstance(value, FunctionType | ModuleType) else None


def _reached(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        contents = cell.cell_contents
        yield from contents if isinstance(contents, tuple | list) else (contents,)
    for name in _names(function.__code__):
        yield function.__globals__.get(name)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _with_imports(modules: set[str]) -> set[str]:
    """Add what the kernels' modules import: an overload may call more than the function that it overloads names."""
    found = set(modules)
    pending = [name for name in modules if name.startswith("tapegrad.kernels")]
    while pending:
        for value in vars(sys.modules[pending.pop()]).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith("tapegrad.kernels") and name not in found:
                found.add(name)
                pending.append(name)
    return found


@functools.cache
def _digest(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in modules:
        digest.update(name.encode() + b"\0" + _source(name))
    return digest.hexdigest()


@functools.cache
def _source(module: str) -> bytes:
    """Return the source of a module of this package or of a user's; what is installed beside it goes by its version."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or (not module.startswith("tapegrad") and "site-packages" in file):
        return b""
    return Path(file).read_bytes()

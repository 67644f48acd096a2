"""Tells whether two functions are the same code with the same values, for the disk cache's keys.

The cache knows code by its source file. A function from a notebook has none, and one that a script defines may close
over numbers that its text does not show. So the key of a user's kernel has this fingerprint too.
"""

import hashlib
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


class _UnknownError(Exception):
    """A value whose effect on machine code cannot be told."""


def fingerprint(function: Callable[..., Any]) -> str | None:
    """Return a hash of a function's code and of the values that it reaches; None if one of these cannot be told."""
    digest = hashlib.sha256()
    try:
        for part in _function(_plain_function(function), set()):
            digest.update(part.encode() + b"\0")
    except _UnknownError:
        return None
    return digest.hexdigest()[:32]


def _plain_function(value: Any) -> Any:
    return getattr(value, "py_func", value)


def _function(function: Any, seen: set[int]) -> Iterator[str]:
    if not isinstance(function, FunctionType):
        raise _UnknownError(function)
    if id(function) in seen:
        yield "again"
        return
    seen.add(id(function))
    yield from _code(function.__code__)
    for cell in function.__closure__ or ():
        yield from _value(cell.cell_contents, seen)
    yield from _value(function.__defaults__, seen)
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield name
            yield from _value(function.__globals__[name], seen)


def _global_names(code: CodeType) -> list[str]:
    nested = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _global_names(constant)]
    return sorted({*code.co_names, *nested})


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)


def _value(value: Any, seen: set[int]) -> Iterator[str]:
    value = _plain_function(value)
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, tuple):
        yield f"tuple {len(value)}"
        for item in value:
            yield from _value(item, seen)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, type | BuiltinFunctionType | np.ufunc):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    else:
        raise _UnknownError(value)

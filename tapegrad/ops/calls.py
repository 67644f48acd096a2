"""How Python calls an op: operands and attributes in, tensors or exceptions out; how functions become public."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tapegrad.native.dtypes import BOOL, FLOAT32
from tapegrad.ops.parameters import complete
from tapegrad.ops.registry import Op
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import MAX_NDIM, RESULT_DTYPE
from tapegrad.runtime.machine import machine

_emit, _emit_in_place, _shape_of = machine.emit, machine.emit_in_place, machine.shape_of
_new = object.__new__
PYTHON_NUMBERS = (bool, int, float)
TORCH_NAMES = ("Bool", "Byte", "Int", "Long", "Float", "Double")  # of the dtypes, in messages

functions: dict[str, Callable[..., Any]] = {}  # what `tg.` gets from the ops, by name
F = TypeVar("F", bound=Callable[..., Any])


def operand(value: Any, op: str = "an op") -> Any:
    """Return what the machine takes as an operand: a handle, a Python number in a tuple, or None for an absent one."""
    if isinstance(value, Tensor):
        return value._handle
    if type(value) in PYTHON_NUMBERS:
        return (value,)
    if value is None:
        return None
    if isinstance(value, np.generic):
        return (value.item(),)
    if isinstance(value, PYTHON_NUMBERS):
        return (value + 0,)
    raise TypeError(f"{op}: expected a Tensor or a number, got {type(value).__name__}")


def call(op: Op, *operands: Any, attributes: Sequence[int | float] = ()) -> Tensor:
    """Emit an op on tensors and numbers; return its first result."""
    handle = _emit(
        op.code,
        len(operands),
        *[value._handle if value.__class__ is Tensor else operand(value, op.name) for value in operands],
        *attributes,
    )
    if handle < 0:
        raise_status(handle)
    tensor: Tensor = _new(Tensor)  # what wrap does: a call less
    tensor._handle = handle
    return tensor


def call_several(op: Op, *operands: Any, attributes: Sequence[int | float] = ()) -> tuple[Tensor, ...]:
    """Emit an op of several results; return all of them."""
    handles = machine.emit_several(
        op.code, len(operands), *[operand(value, op.name) for value in operands], *attributes
    )
    if not isinstance(handles, tuple):
        raise_status(handles)
    return tuple([wrap(handle) for handle in handles])


def call_in_place(op: Op, target: Tensor, *operands: Any, attributes: Sequence[int | float] = ()) -> Tensor:
    """Emit an elementwise op that writes its result into ``target``; return ``target``."""
    words = [operand(value, op.name) for value in operands]
    status = _emit_in_place(op.code, target._handle, len(words), *words, *attributes)
    if status == RESULT_DTYPE:
        return write_back(target, call(op, *operands, attributes=attributes), op.name)
    if status < 0:
        raise_status(status)
    if status == 1:
        functions["_rebase"](target)
    return target


def check_castable(result: Tensor, target: Tensor, where: str = "") -> None:
    """Raise torch's RuntimeError where a result may not be written into a tensor of a lower category of dtype."""
    source, goal = machine.dtype_of(result._handle), machine.dtype_of(target._handle)
    if (source >= FLOAT32 > goal) or (goal == BOOL and source != BOOL):
        raise RuntimeError(
            f"{where}result type {TORCH_NAMES[source]} can't be cast to the desired output type {TORCH_NAMES[goal]}"
        )


def write_back(target: Tensor, result: Tensor, name: str) -> Tensor:
    """Copy the result of an op, computed in the promoted dtype, into ``target`` where torch allows the cast."""
    check_castable(result, target, f"{name}: ")
    functions["copy_"](target, result)
    return target


def function(*, method: bool = True, aliases: Sequence[str] = (), extends: bool = False) -> Callable[[F], F]:
    """Make a Python function public as ``tg.name``, under its aliases too, and as a method of tensors.

    Args:
        extends: whether it takes the place of the function that an elementwise op of that name has got.

    Raises:
        ValueError: there is a function of that name, and this one does not extend it.
    """

    def enter(body: F) -> F:
        complete(body)
        for name in (body.__name__, *aliases):
            if name in functions and not extends:
                raise ValueError(f"the function {name!r} is defined twice")
            functions[name] = body
            if method:
                setattr(Tensor, name, body)
        return body

    return enter


def honours_out(body: F) -> F:
    """Make a function, whose body ignores its argument ``out``, write its results there and return that."""

    @functools.wraps(body)
    def with_out(*args: Any, out: Any = None, **named: Any) -> Any:
        result = body(*args, **named)
        if out is None:
            return result
        if not isinstance(result, tuple):
            return functions["_write_out"](out, result)
        for goal, part in zip(out, result, strict=True):
            functions["_write_out"](goal, part)
        return type(result)(*out) if hasattr(result, "_fields") else tuple(out)

    return with_out  # type: ignore[return-value]


def tensor_method(*names: str) -> Callable[[F], F]:
    """Make a Python function a method of tensors only, under its own name or the given ones."""

    def enter(body: F) -> F:
        complete(body)
        for name in names or (body.__name__,):
            setattr(Tensor, name, body)
        return body

    return enter


def ndim_of(tensor: Tensor) -> int:
    return len(_shape_of(tensor._handle))


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    return _shape_of(tensor._handle)


def normal_dim(dim: int, ndim: int) -> int:
    """Return a dimension counted from the front; IndexError, in torch's words, when there is no such dimension."""
    bound = max(ndim, 1)
    if not -bound <= dim < bound:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], but got {dim})")
    return dim % bound


def normal_dims(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Return the dimensions that an argument ``dim`` names, sorted; all of them for None or an empty sequence."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(ndim))
    dims = [normal_dim(d, ndim) for d in ([dim] if isinstance(dim, int) else dim)]
    if len(set(dims)) != len(dims):
        raise RuntimeError(f"dim {dims[0]} appears multiple times in the list of dims")
    return tuple(sorted(dims))


def check_ndim(ndim: int, name: str) -> None:
    if ndim > MAX_NDIM:
        raise RuntimeError(f"{name}: a tensor has at most {MAX_NDIM} dimensions, got {ndim}")


def expect_tensor(value: Any, name: str, argument: str = "input", position: int = 1) -> Tensor:
    """Return ``value`` if it is a tensor; TypeError in torch's words if not."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}(): argument '{argument}' (position {position}) must be Tensor, not {type(value).__name__}"
        )
    return value

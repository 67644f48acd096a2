"""Writes into tensors: copy_, fill_, zero_, results for ``out=``, and what follows from a write through a view."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.native.dtypes import BOOL, FLOAT32, UINT8
from tapegrad.ops.calls import call, check_castable, expect_tensor, function, functions, shape_of, tensor_method
from tapegrad.ops.registry import registry
from tapegrad.ops.views import expand
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD, SHAPE_MISMATCH
from tapegrad.runtime.machine import machine

_COPY, _CAST = registry["copy"], registry["cast"]


def rebase(target: Tensor) -> None:
    """Let every tensor over the same memory see a write through ``target`` that was recorded; see runtime/rebase.py."""
    status = machine.rebase(target._handle)
    if status < 0:
        raise_status(status)


functions["_rebase"] = rebase


def number_for(value: float, dtype: int) -> int | float:
    """Return a Python number as torch stores it in a dtype: cut to an integer, or to True and False."""
    if dtype >= FLOAT32:
        return float(value)
    if dtype == BOOL:
        return bool(value)
    if not math.isfinite(value):
        raise RuntimeError(f"value cannot be converted to type {DTYPES[dtype].name} without overflow")
    whole = int(value)
    limits = np.iinfo(DTYPES[dtype].numpy)
    if not (limits.min if dtype != UINT8 else -255) <= whole <= limits.max:
        raise RuntimeError(f"value cannot be converted to type {DTYPES[dtype].name} without overflow")
    return whole % 256 if dtype == UINT8 else whole


def in_dtype_of(target: Tensor, value: Any) -> Any:
    """Return a number or tensor in the dtype of another tensor, differentiably."""
    dtype = machine.dtype_of(target._handle)
    if isinstance(value, Tensor):
        return value if machine.dtype_of(value._handle) == dtype else call(_CAST, value, attributes=(dtype,))
    return number_for(value, dtype)


def write(target: Tensor, value: Any) -> Tensor:
    """Copy a tensor or a number of the target's dtype into it; return the target."""
    word = value._handle if isinstance(value, Tensor) else (value,)
    status = machine.emit_in_place(_COPY.code, target._handle, 2, target._handle, word)
    if status == SHAPE_MISMATCH and isinstance(value, Tensor):
        expand(value, shape_of(target))
    if status < 0:
        raise_status(status)
    if status == 1:
        rebase(target)
    return target


@tensor_method("copy_")
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Copy a tensor, broadcast and cast, into this one; gradients flow back to it.

    Args:
        src: a tensor (or a number) that broadcasts to this one's shape.
        non_blocking: accepted for torch's sake.

    Raises:
        RuntimeError: the shapes do not fit, or this is a leaf that requires a gradient.
    """
    if not isinstance(src, Tensor | bool | int | float):
        raise TypeError(f"copy_(): argument 'other' (position 1) must be Tensor, not {type(src).__name__}")
    return write(self, in_dtype_of(self, src))


functions["copy_"] = copy_


@tensor_method("fill_")
def fill_(self: Tensor, value: Any) -> Tensor:
    """Write a number, or a 0-d tensor, into every element.

    Args:
        value: the number.
    """
    if isinstance(value, Tensor) and shape_of(value) != ():
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {len(shape_of(value))} dimensions."
        )
    return write(self, in_dtype_of(self, value))


functions["fill_"] = fill_


@function()
def fill(input: Tensor, value: Any) -> Tensor:
    """Return a tensor like ``input`` with every element ``value``."""
    return fill_(call(registry["clone"], expect_tensor(input, "fill")), value)


@tensor_method("zero_")
def zero_(self: Tensor) -> Tensor:
    """Write 0 into every element."""
    return write(self, number_for(0, machine.dtype_of(self._handle)))


functions["zero_"] = zero_


def write_out(out: Tensor, result: Tensor) -> Tensor:
    """Put an op's result into the tensor given as ``out=`` and return that; an empty one takes the result's shape.

    Raises:
        RuntimeError: a gradient is wanted, the shape differs, or the dtype cannot be cast.
    """
    flags = machine.flags_of(result._handle) | machine.flags_of(out._handle)
    if machine.modes() & 1 and flags & REQUIRES_GRAD:
        raise RuntimeError(
            "functions with out=... arguments don't support automatic differentiation, but one of the arguments "
            "requires grad."
        )
    check_castable(result, out)
    if shape_of(out) == shape_of(result):
        return copy_(out, result)
    if math.prod(shape_of(out)) != 0:
        raise RuntimeError(
            f"out= has the shape {list(shape_of(out))}, but the result's shape is {list(shape_of(result))}: pass an "
            "empty tensor, which is resized, or one of the result's shape"
        )
    converted = in_dtype_of(out, result)  # a name, so that it lives until the handle is bound
    machine.rebind(out._handle, converted._handle)
    return out


functions["_write_out"] = write_out

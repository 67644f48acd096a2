"""The constructors that older programs use: ``Tensor(2, 3)``, ``FloatTensor([1.0])``, ``LongTensor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.runtime.dtype import bool_, float32, float64, get_default_dtype, int32, int64, uint8
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import empty, tensor


def _is_length(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _construct(args: tuple[Any, ...], dtype: DType) -> Tensor:
    """Return what ``FloatTensor(*args)`` is: of lengths a tensor that is not set, of data a copy."""
    if not args:
        return empty((0,), dtype)
    if all(_is_length(arg) for arg in args):
        return empty(tuple(int(arg) for arg in args), dtype)
    if len(args) > 1:
        raise TypeError(f"new(): expected lengths, or one sequence of data, got {len(args)} arguments")
    (data,) = args
    if isinstance(data, Tensor):
        if data.dtype is not dtype:
            raise TypeError(f"new(): expected a tensor of dtype {dtype}, got {data.dtype}")
        return wrap(machine.detach_slot(data._handle, 0))
    if type(data).__name__ == "Size":
        return empty(tuple(data), dtype)
    if isinstance(data, str):
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'")
    if not isinstance(data, Sequence | np.ndarray | range):
        raise TypeError(f"new(): data must be a sequence (got {type(data).__name__})")
    return tensor(data, dtype=dtype)


class TensorType:
    """A constructor of tensors of one dtype, and the type that ``isinstance`` finds them to be of.

    Args:
        *args: the lengths, for a tensor whose numbers are not set; or data, of which the tensor has a copy.
    """

    def __init__(self, name: str, dtype: DType) -> None:
        self.__name__ = name
        self.dtype = dtype

    def __call__(self, *args: Any) -> Tensor:
        """Return a tensor of the given lengths, whose numbers are not set, or one with a copy of the given data."""
        return _construct(args, self.dtype)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype is self.dtype

    def __repr__(self) -> str:
        return f"<class 'tapegrad.{self.__name__}'>"


FloatTensor, DoubleTensor = TensorType("FloatTensor", float32), TensorType("DoubleTensor", float64)
LongTensor, IntTensor = TensorType("LongTensor", int64), TensorType("IntTensor", int32)
ByteTensor, BoolTensor = TensorType("ByteTensor", uint8), TensorType("BoolTensor", bool_)


def _new(cls: type[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Make ``Tensor(...)`` what it is in torch; subclasses make themselves."""
    if cls is not Tensor:
        return object.__new__(cls)
    return _construct(args, get_default_dtype())


Tensor.__new__ = _new  # type: ignore[assignment]

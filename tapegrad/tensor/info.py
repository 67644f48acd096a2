"""Questions about dtypes, memory and threads that scripts written for torch ask."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.native.dtypes import BOOL
from tapegrad.runtime.dtype import DTYPES, dtype_of, get_default_dtype
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


class finfo:  # noqa: N801 (torch's name)
    """The limits of a floating-point dtype: ``bits``, ``eps``, ``max``, ``min``, ``tiny``, ``resolution``.

    Args:
        type: float32 or float64; by default the default dtype.
    """

    def __init__(self, type: Any = None) -> None:
        dtype = get_default_dtype() if type is None else dtype_of(type)
        if not dtype.is_floating_point:
            raise TypeError(f"tapegrad.finfo() requires a floating point input type. Got {dtype}")
        limits = np.finfo(dtype.numpy)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.eps, self.max, self.min = float(limits.eps), float(limits.max), float(limits.min)
        self.tiny = self.smallest_normal = float(limits.tiny)
        self.resolution = float(limits.resolution)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution}, min={self.min}, max={self.max}, eps={self.eps}, dtype={self.dtype})"
        )


class iinfo:  # noqa: N801 (torch's name)
    """The limits of an integer dtype: ``bits``, ``max``, ``min``.

    Args:
        type: uint8, int32 or int64.
    """

    def __init__(self, type: Any) -> None:
        dtype = dtype_of(type)
        if dtype.is_floating_point or dtype.code == BOOL:
            raise TypeError(f"tapegrad.iinfo() requires an integer input type. Got {dtype}")
        limits = np.iinfo(dtype.numpy)
        self.dtype = dtype.name
        self.bits, self.max, self.min = int(limits.bits), int(limits.max), int(limits.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


def promote_types(type1: Any, type2: Any) -> DType:
    """Return the smallest dtype of the higher category that holds the values of both dtypes.

    Args:
        type1: a dtype.
        type2: another.
    """
    return DTYPES[max(dtype_of(type1).code, dtype_of(type2).code)]


def can_cast(from_: Any, to: Any) -> bool:
    """Return whether an in-place operation may cast a result from one dtype to another.

    Args:
        from_: the result's dtype.
        to: the dtype of the tensor that is written.
    """
    return _category(dtype_of(from_)) <= _category(dtype_of(to))


def _category(dtype: DType) -> int:
    return 2 if dtype.is_floating_point else int(dtype.code != BOOL)


def numel(input: Tensor) -> int:
    """Return the number of elements of a tensor.

    Args:
        input: the tensor.
    """
    return input.numel()


def get_num_threads() -> int:
    """Return how many threads an operation may use."""
    return machine.pool.threads


def set_num_threads(int: int) -> None:
    """Set how many threads an operation may use; results are the same bits with any number.

    Args:
        int: the number, at least 1.

    Raises:
        RuntimeError: the number is not positive.
    """
    if int < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {int}")
    machine.pool.resize(int)


def memory_stats() -> dict[str, int]:
    """Return bytes in use, bytes kept for later, and the most that was in use at one time."""
    names = {"in_use": "bytes_live", "cached": "bytes_cached", "peak": "bytes_peak"}
    return {name: int(machine.state[field]) for name, field in names.items()}


def empty_cache() -> int:
    """Give the large blocks that are kept for later back to the system; return how many bytes that were."""
    return machine.trim()

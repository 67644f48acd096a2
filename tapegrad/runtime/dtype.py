"""The dtypes as users see them: ``tg.float32`` and its siblings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.runtime.machine import machine


class dtype:
    """A tensor's type of element.

    Attributes:
        name: the name in NumPy and torch.
        code: the number by which compiled code knows it, in order of promotion.
        numpy: the NumPy dtype.
        itemsize: bytes of an element.
        is_floating_point: whether it is float32 or float64.
    """

    __slots__ = ("code", "is_floating_point", "itemsize", "name", "numpy")

    is_complex = False

    def __init__(self, code: int) -> None:
        self.code = code
        self.name = DTYPE_NAMES[code]
        self.numpy = NUMPY_DTYPES[code]
        self.itemsize = self.numpy.itemsize
        self.is_floating_point = code >= FLOAT32

    def __repr__(self) -> str:
        return f"tapegrad.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype_of, (self.name,)


DTYPES = tuple(dtype(code) for code in range(len(DTYPE_NAMES)))
bool_, uint8, int32, int64, float32, float64 = DTYPES
_BY_NUMPY = {item.numpy: item for item in DTYPES}


def dtype_of(value: Any) -> dtype:
    """Return the dtype that a dtype, a NumPy dtype, a Python type or a name stands for; TypeError if none does."""
    if isinstance(value, dtype):
        return value
    if value is bool:
        return bool_
    if value is int:
        return int64
    if value is float:
        return get_default_dtype()
    try:
        return _BY_NUMPY[np.dtype(value).newbyteorder("=")]
    except (KeyError, TypeError):
        names = ", ".join(DTYPE_NAMES)
        raise TypeError(f"{value!r} is not a dtype of tapegrad: it has {names}") from None


def native_dtype(numpy_dtype: np.dtype[Any]) -> dtype | None:
    """Return the dtype of NumPy's, which must have the native byte order; None if there is none."""
    return _BY_NUMPY.get(numpy_dtype)


def dtype_of_array(array: npt.NDArray[Any]) -> dtype:
    """Return the dtype of a NumPy array; TypeError, with what to do, if tapegrad has none for it."""
    found = _BY_NUMPY.get(array.dtype.newbyteorder("="))
    if found is None:
        raise TypeError(
            f"can't convert np.ndarray of type {array.dtype}. The only supported types are: {', '.join(DTYPE_NAMES)}. "
            "Convert it first, as by array.astype(np.float32)."
        )
    return found


def set_default_dtype(d: Any) -> None:
    """Make ``d`` (float32 or float64) the dtype of Python floats and of integer division."""
    code = dtype_of(d).code
    if code not in (FLOAT32, FLOAT64):
        raise TypeError("only floating-point types are supported as the default type")
    machine.state["default_dtype"] = code


def get_default_dtype() -> dtype:
    """Return the dtype of Python floats: float32 unless it was set."""
    return DTYPES[int(machine.state["default_dtype"])]

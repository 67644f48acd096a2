"""How layers make their parameters."""

from __future__ import annotations

from typing import Any

from tapegrad.nn.parameter import Parameter
from tapegrad.runtime.dtype import dtype_of, get_default_dtype
from tapegrad.tensor.construct import check_device, empty


def new_parameter(shape: tuple[int, ...], device: Any, dtype: Any) -> Parameter:
    """Return a parameter whose numbers are not set."""
    check_device(device)
    return Parameter(empty(shape, get_default_dtype() if dtype is None else dtype_of(dtype)))

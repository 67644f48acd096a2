"""What loss functions share: how the losses of the elements become the result, and checks of operands."""

from __future__ import annotations

import warnings
from typing import Any

from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import TORCH_NAMES, functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def chosen_reduction(reduction: str, size_average: Any = None, reduce: Any = None) -> str:
    """Return the reduction that a function is asked for, in the old way or the new one; ValueError for another."""
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def legacy_reduction(size_average: Any, reduce: Any) -> str:
    """Return what the old arguments stand for, with torch's warning."""
    chosen = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{chosen}' instead.", stacklevel=4
    )
    return chosen


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the losses, their mean or their sum; the reduction is a valid one."""
    return loss if reduction == "none" else functions["mean" if reduction == "mean" else "sum"](loss)


def weighted(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Return the losses times their weights."""
    return loss if weight is None else loss * weight


def dtype_name(tensor: Tensor) -> str:
    """Return a tensor's dtype in torch's old words: "Float", "Long"."""
    return TORCH_NAMES[machine.dtype_of(tensor._handle)]


def is_float(tensor: Tensor) -> bool:
    """Return whether a tensor is of a floating-point dtype."""
    return bool(machine.dtype_of(tensor._handle) >= FLOAT32)


def warn_of_sizes(input: Tensor, target: Tensor) -> None:
    """Warn where shapes differ, so that broadcasting is probably not meant."""
    if shape_of(input) != shape_of(target):
        warnings.warn(
            f"Using a target size ({shape_of(target)}) that is different to the input size ({shape_of(input)}). This "
            "will likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=4,
        )

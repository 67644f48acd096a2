"""Jacobians of a function at given inputs: by central differences and by backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.autograd.engine import grad
from tapegrad.autograd.modes import no_grad
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

Array = npt.NDArray[np.float64]


class GradcheckError(RuntimeError):
    """A gradient is not what finite differences give."""


def requires_grad(value: Any) -> bool:
    """Return whether a value is a tensor that a gradient can reach."""
    return isinstance(value, Tensor) and bool(machine.flags_of(value._handle) & REQUIRES_GRAD)


def memory_of(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a NumPy array over a tensor's memory."""
    return functions["_array_of"](tensor)


def differentiable(outputs: Any) -> list[Tensor]:
    """Return the floating point tensors among the outputs."""
    items = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return [y for y in items if isinstance(y, Tensor) and machine.dtype_of(y._handle) >= FLOAT32]


def values_of(func: Callable[..., Any], inputs: Sequence[Any]) -> list[Array]:
    """Return the outputs' elements as flat arrays."""
    with no_grad():
        return [memory_of(y).astype(np.float64).ravel() for y in differentiable(func(*inputs))]


def numerical_of(func: Callable[..., Any], inputs: Sequence[Any], x: Tensor, eps: float) -> list[Array]:
    """Return for each output the matrix of central differences by the elements of one input."""
    memory = memory_of(x)
    columns = []
    for place in np.ndindex(memory.shape):
        before = memory[place].copy()
        memory[place] = before + eps
        above = values_of(func, inputs)
        memory[place] = before - eps
        below = values_of(func, inputs)
        memory[place] = before
        columns.append([(a - b) / (2 * eps) for a, b in zip(above, below, strict=True)])
    if not columns:
        return [np.zeros((0, value.size)) for value in values_of(func, inputs)]
    return [np.stack(column) for column in zip(*columns, strict=True)]


def analytical_of(output: Tensor, x: Tensor) -> Array:
    """Return the matrix of one output's gradients by one input, computed row by row."""
    shape, count = shape_of(output), int(np.prod(shape_of(output)))
    rows = np.zeros((int(np.prod(shape_of(x))), count))
    if not requires_grad(output):
        return rows
    for k in range(count):
        unit = np.zeros(count)
        unit[k] = 1
        cotangent = functions["_from_array"](unit.reshape(shape)).to(output.dtype)
        (gradient,) = grad(output, x, cotangent, retain_graph=True, allow_unused=True)
        if gradient is not None:
            _check_gradient(gradient, x)
            rows[:, k] = memory_of(gradient).ravel()
    return rows


def _check_gradient(gradient: Tensor, x: Tensor) -> None:
    if shape_of(gradient) != shape_of(x) or machine.dtype_of(gradient._handle) != machine.dtype_of(x._handle):
        raise GradcheckError("backward not multiplied by grad_output: grad is of incorrect size or type")

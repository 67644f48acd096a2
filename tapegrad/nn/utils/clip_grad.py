"""Limits on gradients: clip_grad_norm_ and clip_grad_value_."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor


def _gradients(parameters: Any) -> list[Any]:
    params: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [param.grad for param in params if param.grad is not None]


def get_total_norm(tensors: Iterable[Any], norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """Return the norm of all numbers of the tensors together.

    Raises:
        RuntimeError: the norm is nan or infinite and ``error_if_nonfinite`` is set.
    """
    norms = [functions["norm"](tensor, float(norm_type)) for tensor in tensors]
    if not norms:
        return functions["zeros"](())
    total: Tensor = functions["norm"](functions["stack"](norms), float(norm_type))
    if error_if_nonfinite and not abs(total.item()) < float("inf"):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale gradients down, all by one factor, where their norm together is above ``max_norm``.

    Args:
        parameters: a tensor or several whose ``.grad`` is changed.
        max_norm: the largest norm left alone.
        norm_type: the order of the norm; ``inf`` for the largest absolute value.
        error_if_nonfinite: raise a RuntimeError where the norm is nan or infinite.
        foreach: accepted for torch's sake.

    Returns:
        The norm before.
    """
    gradients = _gradients(parameters)
    with no_grad():
        total = get_total_norm(gradients, norm_type, error_if_nonfinite)
        factor = functions["clamp"](max_norm / (total + 1e-6), max=1.0)
        for gradient in gradients:
            gradient *= factor
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Bring every number of the gradients into -clip_value .. clip_value."""
    with no_grad():
        for gradient in _gradients(parameters):
            gradient.clamp_(-clip_value, clip_value)

"""Limits on gradients: clip_grad_norm_ and clip_grad_value_, each one compiled pass over all of them."""

from __future__ import annotations

import math
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.ops.calls import call, functions
from tapegrad.ops.registry import Op
from tapegrad.ops.total_norms import LIMIT_NORM, LIMIT_VALUES, TOTAL_NORM_P, TOTAL_NORMS
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


def _list(tensors: Any) -> list[Any]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _gradients(parameters: Any) -> list[Any]:
    return [grad for param in _list(parameters) if (grad := param.grad) is not None]


def _by_dtype(tensors: list[Any]) -> list[list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


_NO_RESULT = -1  # what an op without results returns when all went well


def _limit(op: Op, tensors: list[Any], *attributes: float) -> None:
    """Emit an op that writes into tensors of one dtype."""
    status = machine.emit(op.code, len(tensors), *[tensor._handle for tensor in tensors], *attributes)
    if status != _NO_RESULT:
        raise_status(status)


def get_total_norm(
    tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """Return the norm of all numbers of the tensors together.

    Args:
        tensors: a tensor or several.
        norm_type: the order of the norm; ``inf`` for the largest absolute value.
        error_if_nonfinite: raise where the norm is nan or infinite.
        foreach: accepted for torch's sake.

    Raises:
        RuntimeError: the norm is nan or infinite and ``error_if_nonfinite`` is set.
    """
    p = float(norm_type)
    with no_grad():
        given = _list(tensors)
        if not given:
            return functions["zeros"](())
        total = call(TOTAL_NORMS.get(p, TOTAL_NORM_P), *given, attributes=(p,)) if p > 0 else _norm_of_norms(given, p)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def _norm_of_norms(tensors: list[Any], p: float) -> Tensor:
    """Return what torch makes of an order that is not positive."""
    return functions["norm"](functions["stack"]([functions["norm"](tensor, p) for tensor in tensors]), p)


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Tensor, foreach: bool | None = None) -> None:
    """Scale gradients by ``max_norm / (total_norm + 1e-6)`` where that is below 1.

    Args:
        parameters: a tensor or several whose ``.grad`` is changed.
        max_norm: the largest norm left alone.
        total_norm: their norm, a tensor of one element.
        foreach: accepted for torch's sake.
    """
    with no_grad():
        for group in _by_dtype(_gradients(parameters)):
            _limit(LIMIT_NORM, [*group, total_norm.to(group[0].dtype)], float(max_norm))


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

    Example:
        >>> import tapegrad as tg
        >>> w = tg.zeros(2, requires_grad=True)
        >>> w.grad = tg.tensor([3.0, 4.0])
        >>> tg.nn.utils.clip_grad_norm_(w, 1.0), w.grad
        (tensor(5.), tensor([0.6000, 0.8000]))
    """
    parameters = _list(parameters)
    total = get_total_norm(_gradients(parameters), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total)
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Bring every number of the gradients into -clip_value .. clip_value.

    Args:
        parameters: a tensor or several whose ``.grad`` is changed.
        clip_value: the largest absolute value.
        foreach: accepted for torch's sake.
    """
    limit = float(clip_value)
    with no_grad():
        for group in _by_dtype(_gradients(parameters)):
            _limit(LIMIT_VALUES, group, -limit, limit)


__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

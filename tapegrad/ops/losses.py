"""Losses between numbers: mse_loss, l1_loss, huber_loss, smooth_l1_loss, poisson_nll_loss, gaussian_nll_loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import copysign, select
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.loss_parts import chosen_reduction, dtype_name, is_float, reduced, warn_of_sizes
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

SQUARED_DIFFERENCE = elementwise(
    "squared_difference",
    lambda x, w: (x - w) * (x - w),
    inputs=("input", "target"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, w: (g.squared_difference_backward(x, w), -g.squared_difference_backward(x, w)),
    public=False,
    reference=lambda x, w: (x - w) ** 2,
    math="(x - w)^2",
)
elementwise(
    "squared_difference_backward",
    lambda g, x, w: like(2, x) * g * (x - w),
    inputs=("g", "input", "target"),
    dtypes=FLOATS,
    vjp=lambda gg, y, g, x, w: (gg.squared_difference_backward(x, w), 2.0 * (gg * g), -2.0 * (gg * g)),
    public=False,
    reference=lambda g, x, w: 2 * g * (x - w),
    math="2 g (x - w)",
)


def _huber_of(x: Any, w: Any, d: Any) -> Any:
    a = np.abs(x - w)
    return np.where(a > d, d * (a - d / 2), a * a / 2)


_NEAR_AND_FAR = [(-2.0, 2.0, -0.7, 0.7), 0.0, 0.7]
_HUBER = elementwise(
    "huber",
    lambda x, w, d: select(abs(x - w) > d, d * (abs(x - w) - like(0.5, x) * d), like(0.5, x) * (x - w) * (x - w)),
    inputs=("input", "target"),
    scalars={"delta": None},
    dtypes=FLOATS,
    vjp=lambda g, y, x, w, d: (g.huber_backward(x, w, d), -g.huber_backward(x, w, d), None),
    public=False,
    reference=_huber_of,
    samples=_NEAR_AND_FAR,
    math="(x - w)^2 / 2, where |x - w| > d d (|x - w| - d / 2)",
)
elementwise(
    "huber_backward",
    lambda g, x, w, d: g * select(abs(x - w) > d, copysign(d, x - w), x - w),
    inputs=("g", "input", "target"),
    scalars={"delta": None},
    dtypes=FLOATS,
    vjp=lambda h, y, g, x, w, d: (
        h.huber_backward(x, w, d),
        (h * g).huber_curvature(x, w, d),
        -(h * g).huber_curvature(x, w, d),
        None,
    ),
    public=False,
    reference=lambda g, x, w, d: g * np.clip(x - w, -d, d),
    samples=["gradient", *_NEAR_AND_FAR],
    math="g (x - w), its second factor within -d .. d",
)
elementwise(
    "huber_curvature",
    lambda g, x, w, d: select(abs(x - w) > d, like(0, g), g),
    inputs=("g", "input", "target"),
    scalars={"delta": None},
    dtypes=FLOATS,
    vjp=lambda h, y, g, x, w, d: (h.huber_curvature(x, w, d), None, None, None),
    public=False,
    reference=lambda g, x, w, d: np.where(np.abs(x - w) > d, 0, g),
    samples=["gradient", *_NEAR_AND_FAR],
    math="g, where |x - w| > d 0",
)


def _check(input: Tensor, target: Tensor, name: str) -> None:
    expect_tensor(input, name)
    expect_tensor(target, name, "target", 2)
    warn_of_sizes(input, target)


@function(method=False)
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the (mean) squared difference.

    Args:
        input: float, of any shape.
        target: of the same shape; another one is broadcast, with a warning.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".
        weight: multiplies each number's loss; the mean is over the weights.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.mse_loss(tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
        tensor(2.5000)
    """
    _check(input, target, "mse_loss")
    reduction = chosen_reduction(reduction, size_average, reduce)
    if not is_float(input) and not is_float(target):
        raise NotImplementedError(f'"mse_cpu" not implemented for {dtype_name(input)!r}')
    return _weighted_result(call(SQUARED_DIFFERENCE, input, target), weight, input, reduction)


def _weighted_result(loss: Tensor, weight: Tensor | None, input: Tensor, reduction: str) -> Tensor:
    """Return the losses reduced; a weighted mean is divided by the sum of the weights."""
    if weight is None:
        return reduced(loss, reduction)
    if shape_of(weight) != shape_of(input):
        raise ValueError("Weights and input must have the same size.")
    loss = loss * weight
    return functions["sum"](loss) / functions["sum"](weight) if reduction == "mean" else reduced(loss, reduction)


@function(method=False)
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the (mean) absolute difference; arguments as for ``mse_loss``."""
    _check(input, target, "l1_loss")
    reduction = chosen_reduction(reduction, size_average, reduce)
    return _weighted_result(functions["abs"](input - target), weight, input, reduction)


@function(method=False)
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Return d**2 / 2 for differences d up to ``delta``, delta (|d| - delta / 2) beyond (Huber 1964)."""
    reduction = chosen_reduction(reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    _check(input, target, "huber_loss")
    return _weighted_result(call(_HUBER, input, target, float(delta)), weight, input, reduction)


@function(method=False)
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return d**2 / (2 beta) for differences d up to ``beta``, |d| - beta / 2 beyond."""
    reduction = chosen_reduction(reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    _check(input, target, "smooth_l1_loss")
    if beta == 0:
        return reduced(functions["abs"](input - target), reduction)
    return reduced(call(_HUBER, input, target, float(beta)), reduction) / beta


@function(method=False)
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of counts under Poisson distributions.

    Args:
        input: logarithms of the rates, or rates.
        target: counts.
        log_input: whether the input is logarithms.
        full: whether to add Stirling's approximation of log(target!) for targets above 1.
        size_average: old form of ``reduction``.
        eps: added to rates before their logarithm is taken.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".
    """
    expect_tensor(input, "poisson_nll_loss")
    expect_tensor(target, "poisson_nll_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    loss = functions["exp"](input) - target * input if log_input else input - target * functions["log"](input + eps)
    if full:
        stirling = target * functions["log"](target) - target + 0.5 * functions["log"](2 * math.pi * target)
        loss = loss + functions["masked_fill"](stirling, target <= 1, 0)
    return reduced(loss, reduction)


@function(method=False)
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of numbers under normal distributions (Nix and Weigend 1994).

    Args:
        input: means.
        target: numbers.
        var: variances: of the input's shape, or without its last dimension, or with one dimension of length 1; or one
            number.
        full: whether to add log(2 pi) / 2.
        eps: the least variance; the gradient does not see this bound.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: a variance is negative, or the shape does not fit.
    """
    expect_tensor(input, "gaussian_nll_loss")
    expect_tensor(target, "gaussian_nll_loss", "target", 2)
    variances = _variances(input, var)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")
    now = variances.detach()
    variances = variances + (functions["clamp"](now, min=eps) - now)  # the gradient passes where the bound is taken
    loss = 0.5 * (functions["log"](variances) + functions["square"](input - target) / variances)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


def _variances(input: Tensor, var: Any) -> Any:
    """Return the variances, of a shape that broadcasts to the input's as torch allows."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        return functions["full_like"](input, var)
    expect_tensor(var, "gaussian_nll_loss", "var", 3)
    if not machine.capturing and functions["any"](var < 0).item():
        raise ValueError("var has negative entry/entries")
    given, shape = shape_of(var), shape_of(input)
    if given == shape:
        return var
    if given == shape[:-1]:
        return functions["unsqueeze"](var, -1)
    if len(given) == len(shape) and sum(b for a, b in zip(shape, given, strict=True) if a != b) == 1:
        return var
    raise ValueError("var is of incorrect size")

"""Losses between probabilities, or scores of them: binary cross entropies, soft margins, kl_div."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import log, log_sigmoid, sigmoid
from tapegrad.native.cache import jit
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.loss_parts import chosen_reduction, dtype_name, is_float, legacy_reduction, reduced, weighted
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


@jit
def _bounded_log(x):
    """Return log(x), at least -100."""
    y = log(x)
    return y if y > like(-100, y) else like(-100, y)


_BERNOULLI_ENTROPY = elementwise(
    "bernoulli_entropy",
    lambda x, t: (t - like(1, t)) * _bounded_log(like(1, x) - x) - t * _bounded_log(x),
    inputs=("input", "target"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, t: (g * ((x - t) / x.bernoulli_variance()), g * x.negative_logit()),
    public=False,
    samples=[(0.1, 0.9), (0.1, 0.9)],
    reference=lambda x, t: -(t * np.log(x) + (1 - t) * np.log1p(-x)),
    math="-(w log x + (1 - w) log(1 - x))",
)
elementwise(
    "bernoulli_variance",
    lambda x: max((like(1, x) - x) * x, like(1e-12, x)),  # torch's bound on the divisor of the gradient
    dtypes=FLOATS,
    vjp=lambda g, y, x: g * (1.0 - 2.0 * x),
    public=False,
    samples=[(0.1, 0.9)],
    reference=lambda x: x * (1 - x),
    math="x (1 - x)",
)
elementwise(
    "negative_logit",
    lambda x: log(like(1, x) - x) - log(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: -(g / x.bernoulli_variance()),
    public=False,
    samples=[(0.1, 0.9)],
    reference=lambda x: np.log1p(-x) - np.log(x),
    math="log(1 - x) - log x",
)


_SCORE_ENTROPY = elementwise(
    "score_entropy",
    lambda x, t: (like(1, t) - t) * x - log_sigmoid(x),
    inputs=("input", "target"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, t: (g.score_entropy_backward(x, t), -(g * x)),
    public=False,
    samples=[(-2, 2), (0.1, 0.9)],
    reference=lambda x, t: (1 - t) * x + np.log1p(np.exp(-x)),
    math="(1 - w) x - log sigmoid(x)",
)
elementwise(
    "score_entropy_backward",
    lambda g, x, t: g * (sigmoid(x) - t),
    inputs=("g", "input", "target"),
    dtypes=FLOATS,
    vjp=lambda h, y, g, x, t: (h.score_entropy_backward(x, t), (h * g).sigmoid_backward(x.sigmoid()), -(h * g)),
    public=False,
    samples=["gradient", (-2, 2), (0.1, 0.9)],
    reference=lambda g, x, t: g * (1 / (1 + np.exp(-x)) - t),
    math="g (sigmoid(x) - w)",
)


@function(method=False)
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return -(t log p + (1 - t) log(1 - p)) of probabilities p, logarithms being at least -100.

    Args:
        input: probabilities p.
        target: probabilities t, of the same shape and dtype.
        weight: multiplies each number's loss; broadcast.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: the sizes differ.
        RuntimeError: dtypes differ, or a number is not in 0 to 1.
    """
    expect_tensor(input, "binary_cross_entropy")
    expect_tensor(target, "binary_cross_entropy", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    if shape_of(input) != shape_of(target):
        raise ValueError(
            f"Using a target size ({shape_of(target)}) that is different to the input size "
            f"({shape_of(input)}) is deprecated. Please ensure they have the same size."
        )
    if target.dtype is not input.dtype:
        raise RuntimeError(f"Found dtype {dtype_name(target)} but expected {dtype_name(input)}")
    for name, tensor in (("input", input), ("target", target)):
        if not machine.capturing and not functions["all"]((tensor >= 0) & (tensor <= 1)).item():
            raise RuntimeError(f"all elements of {name} should be between 0 and 1")
    if weight is not None:
        weight = functions["broadcast_to"](weight, shape_of(input))
    return reduced(weighted(call(_BERNOULLI_ENTROPY, input, target), weight), reduction)


@function(method=False)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of sigmoid(input), without overflow; ``pos_weight`` weighs the targets of one.

    Args:
        input: scores.
        target: probabilities, of the same shape.
        weight: multiplies each number's loss; broadcast.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".
        pos_weight: multiplies the part of the positive class; broadcast.

    Raises:
        ValueError: the sizes differ.
        RuntimeError: the targets are not floating point.
    """
    expect_tensor(input, "binary_cross_entropy_with_logits")
    expect_tensor(target, "binary_cross_entropy_with_logits", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    if shape_of(input) != shape_of(target):
        raise ValueError(f"Target size ({shape_of(target)}) must be the same as input size ({shape_of(input)})")
    if not is_float(target):
        raise RuntimeError(
            f"result type {dtype_name(input)} can't be cast to the desired output type {dtype_name(target)}"
        )
    if pos_weight is None:
        loss = call(_SCORE_ENTROPY, input, target)
    else:
        factor = 1.0 + (pos_weight - 1.0) * target
        loss = (1.0 - target) * input - factor * functions["logsigmoid"](input)
    return reduced(weighted(loss, weight), reduction)


@function(method=False)
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Return log(1 + exp(-t x)) for targets t of 1 and -1."""
    expect_tensor(input, "soft_margin_loss")
    expect_tensor(target, "soft_margin_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    return reduced(-functions["logsigmoid"](target * input), reduction)


@function(method=False)
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the binary cross entropy of scores [..., C] and labels, averaged over the classes.

    Args:
        input: scores.
        target: 0 or 1 for each class.
        weight: a weight for each class.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum", of the losses of the rows.
    """
    expect_tensor(input, "multilabel_soft_margin_loss")
    expect_tensor(target, "multilabel_soft_margin_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    loss = call(_SCORE_ENTROPY, input, target)
    loss = functions["sum"](weighted(loss, weight), -1) / shape_of(input)[-1]
    return reduced(loss, reduction)


@function(method=False)
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return t (log t - x), the divergence of probabilities t from log probabilities x (Kullback and Leibler 1951).

    Args:
        input: log probabilities.
        target: probabilities, or their logarithms.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" (over all numbers), "batchmean" (the sum by the first dimension's length) or "sum".
        log_target: whether the target is logarithms.
    """
    expect_tensor(input, "kl_div")
    expect_tensor(target, "kl_div", "target", 2)
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    elif reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size.'batchmean' divides "
            "only by the batch size, and aligns with the KL div math definition.'mean' will be changed to behave the "
            "same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    kind = chosen_reduction("sum" if reduction == "batchmean" else reduction)
    if log_target:
        loss = functions["exp"](target) * (target - input)
    else:
        loss = functions["xlogy"](target, target) - target * input
    loss = reduced(loss, kind)
    return loss / shape_of(input)[0] if reduction == "batchmean" and shape_of(input) else loss

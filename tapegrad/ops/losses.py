"""Loss functions of torch.nn.functional, on tensors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import log
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, INT64, UINT8
from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, shape_of
from tapegrad.ops.cross_entropy import CROSS_ENTROPY, NLL
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS, Op
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def _reduction(name: str) -> int:
    if name not in _REDUCTIONS:
        raise ValueError(f"{name} is not a valid value for reduction")
    return _REDUCTIONS[name]


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if _reduction(reduction) == 0:
        return loss
    return functions["mean" if reduction == "mean" else "sum"](loss)


def _rows(input: Tensor) -> Tensor:
    """Return [N, C, d1, ...] as rows [N d1 ..., C], and [C] as one row."""
    shape = shape_of(input)
    if len(shape) == 2:
        return input
    if len(shape) > 2:
        input = functions["movedim"](input, 1, -1)
    return functions["reshape"](input, (-1, shape[0] if len(shape) == 1 else shape[1]))


def _check_classes(input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the targets as int64; torch's errors for shapes and dtypes that do not fit."""
    shape, t_shape = shape_of(input), shape_of(target)
    code = machine.dtype_of(target._handle)
    if code not in (INT64, UINT8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {TORCH_NAMES[code]}")
    if not shape:
        raise ValueError("Expected input to have at least one dimension, got a 0-d tensor")
    if len(shape) > 1 and (not t_shape or shape[0] != t_shape[0]):
        batch = t_shape[0] if t_shape else 0
        raise ValueError(f"Expected input batch_size ({shape[0]}) to match target batch_size ({batch}).")
    expected = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if t_shape != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(t_shape)}")
    classes = shape[1] if len(shape) > 1 else shape[0]
    if weight is not None and shape_of(weight) != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of "
            f"shape: {list(shape_of(weight))}"
        )
    return target if code == INT64 else functions["to_dtype"](target, dtype_of(int))


def _classes_loss(
    op: Op, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    choice = _reduction(reduction)
    target = _check_classes(input, target, weight)
    code = machine.dtype_of(input._handle)
    if code < FLOAT32:
        raise NotImplementedError(f'"{op.name}" not implemented for {TORCH_NAMES[code]!r}')
    if weight is not None and machine.dtype_of(weight._handle) != code:
        raise RuntimeError(f"expected scalar type {TORCH_NAMES[code]} for weight")
    shape = shape_of(target)
    if len(shape) != 1:
        target = functions["reshape"](target, (-1,))
    attributes = (code, 2, 1, 0, choice, ignore_index, float(smoothing))
    loss = call(op, _rows(input), target, weight, attributes=attributes)
    return functions["reshape"](loss, shape) if choice == 0 and len(shape) != 1 else loss


def _probabilities_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    _reduction(reduction)
    shape = shape_of(input)
    dim = 1 if len(shape) > 1 else 0
    if smoothing > 0:
        target = target * (1 - smoothing) + smoothing / shape[dim]
    terms = functions["log_softmax"](input, dim) * target
    if weight is not None:
        terms = terms * functions["reshape"](weight, (-1, *(1,) * max(len(shape) - 2, 0)))
    if reduction == "none":
        return -functions["sum"](terms, dim)
    total = -functions["sum"](terms)
    rows = 1
    for d, length in enumerate(shape):
        rows *= length if d != dim else 1
    return total / rows if reduction == "mean" else total


@function(method=False)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy between logits and classes, or probabilities of classes.

    Args:
        input: logits, float [C], [N, C] or [N, C, d1, ...].
        target: int64 (or uint8) classes, of the input's shape without C; or probabilities of the input's shape.
        weight: a weight for each class, [C].
        ignore_index: targets of this value count as if they were not there.
        reduction: "none", "mean" (over the weights of the targets) or "sum".
        label_smoothing: 0 to 1, how much of each target is spread over all classes.

    Returns:
        The loss: 0-d, or of the target's shape without reduction.

    Raises:
        IndexError: a target is neither a class nor ``ignore_index``.
        ValueError, RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.ops.functions["cross_entropy"](tg.tensor([[0.0, 0.0]]), tg.tensor([1]))
        tensor(0.6931)
    """
    expect_tensor(input, "cross_entropy_loss")
    expect_tensor(target, "cross_entropy_loss", "target", 2)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if shape_of(input) == shape_of(target) and machine.dtype_of(target._handle) >= FLOAT32:
        return _probabilities_loss(input, target, weight, reduction, label_smoothing)
    return _classes_loss(CROSS_ENTROPY, input, target, weight, ignore_index, reduction, label_smoothing)


@function(method=False)
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of classes under log probabilities; arguments as for ``cross_entropy``."""
    expect_tensor(input, "nll_loss")
    return _classes_loss(
        NLL, input, expect_tensor(target, "nll_loss", "target", 2), weight, ignore_index, reduction, 0.0
    )


def _check_sizes(input: Tensor, target: Tensor, name: str) -> None:
    expect_tensor(input, name)
    expect_tensor(target, name, "target", 2)
    if shape_of(input) != shape_of(target):
        warnings.warn(
            f"Using a target size ({list(shape_of(target))}) that is different to the input size "
            f"({list(shape_of(input))}). This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )


@jit
def _bounded_log(x):
    """Return log(x), at least -100."""
    y = log(x)
    return y if y > like(-100, y) else like(-100, y)


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


def _weighted(loss: Tensor, weight: Tensor | None) -> Tensor:
    return loss if weight is None else loss * weight


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

    Example:
        >>> import tapegrad as tg
        >>> tg.ops.functions["mse_loss"](tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
        tensor(2.5000)
    """
    _check_sizes(input, target, "mse_loss")
    return _reduced(_weighted(call(SQUARED_DIFFERENCE, input, target), weight), reduction)


@function(method=False)
def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Return the (mean) absolute difference."""
    _check_sizes(input, target, "l1_loss")
    return _reduced(functions["abs"](input - target), reduction)


@function(method=False)
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d**2 / 2 for differences d up to ``delta``, delta (|d| - delta / 2) beyond."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    _check_sizes(input, target, "huber_loss")
    size = functions["abs"](input - target)
    near = functions["clamp"](size, max=delta)
    return _reduced(near * (size - 0.5 * near), reduction)


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
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return huber_loss(input, target, reduction, beta) / beta


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

    Raises:
        ValueError: the sizes differ.
        RuntimeError: a probability is not in 0 to 1.
    """
    if shape_of(input) != shape_of(target):
        raise ValueError(
            f"Using a target size ({list(shape_of(target))}) that is different to the input size "
            f"({list(shape_of(input))}) is deprecated. Please ensure they have the same size."
        )
    if not functions["all"]((input >= 0) & (input <= 1)).item():
        raise RuntimeError("all elements of input should be between 0 and 1")
    return _reduced(_weighted(call(_BERNOULLI_ENTROPY, input, target), weight), reduction)


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
    """Return the binary cross entropy of sigmoid(input), without overflow; ``pos_weight`` weighs the targets of one."""
    if shape_of(input) != shape_of(target):
        raise ValueError(
            f"Target size ({list(shape_of(target))}) must be the same as input size ({list(shape_of(input))})"
        )
    logs = functions["logsigmoid"](input)  # log(1 - sigmoid(x)) = logsigmoid(x) - x
    if pos_weight is None:
        loss = (1.0 - target) * input - logs
    else:
        factor = 1.0 + (pos_weight - 1.0) * target
        loss = (1.0 - target) * input - factor * logs
    return _reduced(_weighted(loss, weight), reduction)


@function(method=False)
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return t (log t - x) for log probabilities x; "batchmean" divides the sum by the batch's size."""
    if log_target:
        loss = functions["exp"](target) * (target - input)
    else:
        loss = functions["xlogy"](target, target) - target * input
    if reduction == "batchmean":
        return functions["sum"](loss) / shape_of(input)[0]
    return _reduced(loss, reduction)

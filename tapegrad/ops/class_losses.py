"""Losses between classes and scores: cross_entropy, nll_loss."""

from __future__ import annotations

from typing import Any

from tapegrad.native.dtypes import FLOAT32, INT64, UINT8
from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, shape_of
from tapegrad.ops.cross_entropy import CROSS_ENTROPY, NLL
from tapegrad.ops.loss_parts import REDUCTIONS, chosen_reduction, is_float
from tapegrad.ops.registry import Op
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


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
    choice = REDUCTIONS[reduction]
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


def _check_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> None:
    if not is_float(target):
        raise RuntimeError(
            "Expected floating point type for target with class probabilities, got "
            f"{TORCH_NAMES[machine.dtype_of(target._handle)]}"
        )
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    classes = shape_of(input)[1 if len(shape_of(input)) > 1 else 0]
    if weight is not None and shape_of(weight) != (classes,):
        raise RuntimeError(
            f"cross_entropy: weight tensor should be defined either for all {classes} classes or no classes but got "
            f"weight tensor of shape: {list(shape_of(weight))}"
        )


def _probabilities_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
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
        >>> tg.nn.functional.cross_entropy(tg.tensor([[0.0, 0.0]]), tg.tensor([1]))
        tensor(0.6931)
    """
    expect_tensor(input, "cross_entropy_loss")
    expect_tensor(target, "cross_entropy_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if shape_of(input) == shape_of(target) and len(shape_of(input)) > 0:
        _check_probabilities(input, target, weight, ignore_index)
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
    """Return the negative log likelihood of classes under log probabilities; arguments as for ``cross_entropy``.

    Args:
        input: log probabilities, float [C], [N, C] or [N, C, d1, ...].
        target: int64 (or uint8) classes, of the input's shape without C.
    """
    expect_tensor(input, "nll_loss")
    reduction = chosen_reduction(reduction, size_average, reduce)
    return _classes_loss(
        NLL, input, expect_tensor(target, "nll_loss", "target", 2), weight, ignore_index, reduction, 0.0
    )

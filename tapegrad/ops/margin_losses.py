"""Losses with a margin, between scores, pairs, triplets and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.native.dtypes import INT64
from tapegrad.ops.calls import expect_tensor, function, functions, shape_of
from tapegrad.ops.loss_parts import chosen_reduction, dtype_name, reduced
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_NORM_EPS = 1e-12  # torch's addend to the squared norms of cosine_embedding_loss


def _positive(x: Tensor) -> Tensor:
    return functions["clamp"](x, min=0)


@function(method=False)
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return x for targets of 1, max(0, margin - x) for targets of -1."""
    expect_tensor(input, "hinge_embedding_loss")
    expect_tensor(target, "hinge_embedding_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    far = functions["where"](target != 1, _positive(margin - input), 0.0)
    return reduced(far + functions["where"](target != -1, input, 0.0), reduction)


@function(method=False)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin - t (x1 - x2)) for targets t of 1 and -1.

    Args:
        input1: x1, a tensor of scores.
        input2: x2, of the same shape.

    Raises:
        RuntimeError: the tensors differ in their number of dimensions.
    """
    for name, tensor in (("input1", input1), ("input2", input2), ("target", target)):
        expect_tensor(tensor, "margin_ranking_loss", name)
    reduction = chosen_reduction(reduction, size_average, reduce)
    if len({len(shape_of(tensor)) for tensor in (input1, input2, target)}) > 1:
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: input1: "
            f"{shape_of(input1)}, input2: {shape_of(input2)}, target: {shape_of(target)} "
        )
    return reduced(_positive(-target * (input1 - input2) + margin), reduction)


@function(method=False)
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return 1 - cos(x1, x2) for targets of 1, max(0, cos(x1, x2) - margin) for targets of -1.

    Args:
        input1: vectors [N, D], or one vector [D].
        input2: vectors of the same shape.
        target: [N], or 0-d.
        margin: -1 to 1.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".

    Raises:
        RuntimeError: shapes do not fit.
    """
    for name, tensor in (("input1", input1), ("input2", input2), ("target", target)):
        expect_tensor(tensor, "cosine_embedding_loss", name)
    reduction = chosen_reduction(reduction, size_average, reduce)
    dims = len(shape_of(target))
    if dims > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if {len(shape_of(input1)), len(shape_of(input2))} != {dims + 1}:
        raise RuntimeError(
            f"{dims}D target tensor expects {dims + 1}D input tensors, but found inputs with sizes "
            f"{list(shape_of(input1))} and {list(shape_of(input2))}."
        )
    product = functions["sum"](input1 * input2, dims)
    squares = [functions["sum"](x * x, dims) + _NORM_EPS for x in (input1, input2)]
    cosine = product / functions["sqrt"](squares[0] * squares[1])
    near = functions["where"](target == 1, 1 - cosine, 0.0)
    return reduced(near + functions["where"](target == -1, _positive(cosine - margin), 0.0), reduction)


def _distance(x: Tensor, y: Tensor, p: float = 2, eps: float = 1e-6) -> Tensor:
    """Return the p-norm of x - y + eps along the last dimension."""
    return functions["norm"](x - y + eps, p, -1)


def _check_triplet(anchor: Tensor, positive: Tensor, negative: Tensor, name: str, margin: float) -> None:
    for argument, tensor in (("anchor", anchor), ("positive", positive), ("negative", negative)):
        expect_tensor(tensor, name, argument)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    a, p, n = (len(shape_of(tensor)) for tensor in (anchor, positive, negative))
    if not a == p == n:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {a}D, positive {p}D, and negative {n}D inputs"
        )


def _triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, distance: Callable[..., Any], margin: float, swap: bool
) -> Tensor:
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = functions["minimum"](far, distance(positive, negative))
    return _positive(margin + near - far)


@function(method=False)
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin + |anchor - positive| - |anchor - negative|).

    Args:
        anchor: vectors [..., D].
        positive: vectors that should be near.
        negative: vectors that should be far.
        margin: by how much farther.
        p: the order of the norm.
        eps: added to the differences.
        swap: whether the negative's distance is that to the positive where this is less (Balntas et al. 2016,
            doi:10.5244/C.30.119).
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: the margin is not positive.
        RuntimeError: numbers of dimensions differ.
    """
    reduction = chosen_reduction(reduction, size_average, reduce)
    _check_triplet(anchor, positive, negative, "triplet_margin_loss", margin)
    return reduced(_triplet(anchor, positive, negative, lambda x, y: _distance(x, y, p, eps), margin, swap), reduction)


@function(method=False)
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[..., Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return max(0, margin + d(anchor, positive) - d(anchor, negative)) for a distance d; see triplet_margin_loss.

    Args:
        distance_function: d, a function of two tensors; by default pairwise_distance.
    """
    reduction = chosen_reduction(reduction)
    _check_triplet(anchor, positive, negative, "triplet_margin_with_distance_loss", margin)
    return reduced(_triplet(anchor, positive, negative, distance_function or _distance, margin, swap), reduction)


def _rows(input: Tensor, target: Tensor) -> Tensor:
    """Return scores [N, C] or [C] as rows; RuntimeError for other shapes, and for targets that are no int64."""
    shape = shape_of(input)
    if len(shape) not in (1, 2) or 0 in shape[-1:]:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(shape)}"
        )
    if machine.dtype_of(target._handle) != INT64:
        raise RuntimeError(f"expected scalar type Long but found {dtype_name(target)}")
    return functions["reshape"](input, (-1, shape[-1])) if len(shape) == 1 else input


@function(method=False)
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return, for scores x and the right class t, the sum over others c of max(0, margin - x_t + x_c)^p, by C.

    Args:
        input: scores [N, C] or [C].
        target: int64 classes [N] or 0-d.
        p: 1 or 2.
        margin: by how much the right class is to be ahead.
        weight: of the right class, [C].
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: another ``p``, or weights that are no vector.
        RuntimeError: shapes or dtypes do not fit, or a target is no class.
    """
    expect_tensor(input, "multi_margin_loss")
    expect_tensor(target, "multi_margin_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and len(shape_of(weight)) != 1:
        raise ValueError("weight must be one-dimensional")
    rows = _rows(input, target)
    count, classes = shape_of(rows)
    if shape_of(target) != (count,) and (len(shape_of(input)) == 2 or shape_of(target) != ()):
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{count}], but got {list(shape_of(target))}. Input has shape "
            f"{list(shape_of(input))}."
        )
    if weight is not None and shape_of(weight) != (classes,):
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(shape_of(weight))}")
    target = functions["reshape"](target, (-1, 1))
    if count and functions["any"]((target < 0) | (target >= classes)).item():
        raise RuntimeError("target out of range")
    terms = _positive(margin - functions["gather"](rows, 1, target) + rows)
    terms = terms * terms if p == 2 else terms
    if weight is not None:
        terms = terms * functions["reshape"](weight[functions["reshape"](target, (-1,))], (-1, 1))
    terms = functions["where"](functions["arange"](classes) != target, terms, 0.0)
    loss = functions["sum"](terms, 1) / classes
    if len(shape_of(input)) == 1:
        loss = functions["reshape"](loss, ())
    return reduced(loss, reduction)


@function(method=False)
def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Return the sum over right classes t and other classes c of max(0, 1 - x_t + x_c), by C.

    Args:
        input: scores [N, C] or [C].
        target: int64, of the same shape: the right classes, up to the first -1.
        size_average: old form of ``reduction``.
        reduce: old form of ``reduction``.
        reduction: "none", "mean" or "sum".

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a target is no class.
    """
    expect_tensor(input, "multilabel_margin_loss")
    expect_tensor(target, "multilabel_margin_loss", "target", 2)
    reduction = chosen_reduction(reduction, size_average, reduce)
    rows = _rows(input, target)
    if shape_of(input) != shape_of(target):
        raise RuntimeError(
            f"inconsistent target size: {list(shape_of(target))} for input of size: {list(shape_of(input))}"
        )
    count, classes = shape_of(rows)
    target = functions["reshape"](target, (count, classes))
    if functions["any"]((target < -1) | (target >= classes)).item():
        raise RuntimeError("argument #2 'target' is out of range")
    ended = functions["cumsum"]((target < 0).long(), 1) > 0
    right = functions["where"](ended, 0, target)
    # a place beyond the classes takes what is behind the end
    marks = functions["zeros"]((count, classes + 1), dtype=target.dtype)
    marks = functions["scatter"](marks, 1, functions["where"](ended, classes, target), 1)[:, :classes]
    ahead = functions["unsqueeze"](functions["gather"](rows, 1, right), 2)
    terms = _positive(1 - ahead + functions["unsqueeze"](rows, 1))
    counted = functions["unsqueeze"](~ended, 2) & functions["unsqueeze"](marks == 0, 1)
    loss = functions["sum"](functions["where"](counted, terms, 0.0), (1, 2)) / classes
    return reduced(functions["reshape"](loss, ()) if len(shape_of(input)) == 1 else loss, reduction)

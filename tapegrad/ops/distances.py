"""Distances, similarities and norms of rows: normalize, cosine_similarity, pairwise_distance, cdist, pdist."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.calls import expect_tensor, function, functions, shape_of
from tapegrad.runtime.handle import Tensor


def _norm(x: Tensor, p: float, dim: int, keepdim: bool = False) -> Tensor:
    return functions["_vector_norm"](x, float(p), dim, keepdim)


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    """Return ``input / max(norm, eps)`` with the p-norm along a dimension.

    Args:
        input: any shape, float.
        p: the order of the norm.
        dim: the dimension.
        eps: the least divisor.
        out: where the result is written, if given.
    """
    result = input / functions["clamp_min"](_norm(input, p, dim, True), eps)
    return result if out is None else functions["_write_out"](out, result)


functions["_normalize"] = _normalize


@function(method=False)
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return ``x1 . x2 / (max(|x1|, eps) max(|x2|, eps))`` along a dimension of operands that broadcast.

    Example:
        >>> import tapegrad as tg
        >>> tg.cosine_similarity(tg.tensor([[3.0, 4.0]]), tg.tensor([[4.0, 3.0]])).item()
        0.9599999785423279
    """
    expect_tensor(x1, "cosine_similarity", "x1"), expect_tensor(x2, "cosine_similarity", "x2", 2)
    norms = functions["clamp_min"](_norm(x1, 2, dim), eps) * functions["clamp_min"](_norm(x2, 2, dim), eps)
    return functions["sum"](x1 * x2, dim) / norms


@function(method=False)
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """Return the p-norm of ``x1 - x2 + eps`` along the last dimension.

    Args:
        p: the p of the norm.
    """
    return _norm(x1 - x2 + eps, p, -1, keepdim)


@function(method=False)
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """Return the p-norms of the differences of all rows: [..., n, m] of [..., n, d] and [..., m, d].

    Args:
        x1: [..., n, d], floats.
        x2: [..., m, d].
        compute_mode: accepted for torch's sake.

    Raises:
        RuntimeError: the rows are not of one length, or ``p`` is negative.
    """
    a, b = shape_of(expect_tensor(x1, "cdist", "x1")), shape_of(expect_tensor(x2, "cdist", "x2", 2))
    for name, shape in (("X1", a), ("X2", b)):
        if len(shape) < 2:
            raise RuntimeError(f"cdist only supports at least 2D tensors, {name} got: {len(shape)}D")
    if a[-1] != b[-1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {a[-1]} X2: {b[-1]}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    return _norm(functions["unsqueeze"](x1, -2) - functions["unsqueeze"](x2, -3), p, -1)


@function(method=False)
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norms of the differences of each pair of rows: [n (n - 1) / 2] of [n, d].

    Raises:
        RuntimeError: ``input`` is no matrix, or ``p`` is negative.
    """
    shape = shape_of(expect_tensor(input, "pdist"))
    if len(shape) != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {len(shape)}D")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    first, second = functions["triu_indices"](shape[0], shape[0], 1)
    return _norm(functions["index_select"](input, 0, first) - functions["index_select"](input, 0, second), p, -1)

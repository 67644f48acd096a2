"""Embeddings as functions: embedding, embedding_bag, one_hot."""

from __future__ import annotations

from typing import Any

from tapegrad.native.dtypes import INT32, INT64
from tapegrad.ops.calls import TORCH_NAMES, expect_tensor, functions, shape_of
from tapegrad.ops.embedding_ops import EMBEDDING, LARGEST, MOVE_ROWS
from tapegrad.ops.lookups import as_int64, call_at
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_GRAD_BIT = 1


def _indices(index: Any, name: str) -> Tensor:
    code = machine.dtype_of(expect_tensor(index, name)._handle)
    if code not in (INT32, INT64):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got "
            f"{TORCH_NAMES[code]} instead (while checking arguments for {name})"
        )
    return as_int64(index)


def normal_padding(padding_idx: int | None, rows: int) -> int | None:
    """Return a padding index counted from the front; AssertionError, as torch's, where there is no such row."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx % rows


def _counted(index: Tensor, padding_idx: int | None) -> Tensor:
    """Return the indices, with -1 in the place of those that do not count."""
    return index if padding_idx is None else functions["masked_fill"](index, index == padding_idx, -1)


def _shares(index: Tensor, counted: Tensor, rows: int, weight: Tensor) -> Tensor:
    """Return, for each index, 1 over how often it is there."""
    counts = functions["bincount"](functions["reshape"](index, (-1,)), minlength=rows)
    found = functions["index_select"](counts, 0, functions["reshape"](index, (-1,)))
    return functions["reshape"](1.0 / functions["to_dtype"](found, weight.dtype), shape_of(index))


def _renormalise(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows at the indices, in place, down to a norm of ``max_norm``."""
    modes = machine.modes()
    machine.set_modes(modes & ~_GRAD_BIT)
    try:
        used = functions["unique"](index)
        rows = functions["index_select"](weight, 0, used)
        norms = functions["_vector_norm"](rows, float(norm_type), 1, True)
        scaled = functions["where"](norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)
        functions["index_copy_"](weight, 0, used, scaled)
    finally:
        machine.set_modes(modes)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return the rows of a table at indices.

    Args:
        input: the indices, int64 or int32, of any shape.
        weight: the table, [rows, columns], float.
        padding_idx: an index whose row gets no gradient.
        max_norm: rows of a larger norm are scaled down to it, in place, before they are taken.
        norm_type: the order of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often its index is in ``input``.
        sparse: accepted; gradients are dense.

    Returns:
        The shape of ``input`` with the columns behind it.

    Raises:
        IndexError: an index is out of range.
        RuntimeError: ``weight`` is no matrix, or the indices are of another dtype.
        AssertionError: ``padding_idx`` is no row.
    """
    index = _indices(input, "embedding")
    shape = shape_of(expect_tensor(weight, "embedding", "weight", 2))
    if len(shape) != 2:
        raise RuntimeError("'weight' must be 2-D")
    padding_idx = normal_padding(padding_idx, shape[0])
    if max_norm is not None:
        _renormalise(weight, index, max_norm, norm_type)
    counted = _counted(index, padding_idx)
    shares = _shares(index, counted, shape[0], weight) if scale_grad_by_freq else None
    return call_at(EMBEDDING, weight, index, counted, shares)


functions["_embedding"] = _embedding


def _bag_starts(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Tensor, Tensor]:
    """Return the flat indices and where the bags begin among them; ValueError, in torch's words, for other shapes."""
    shape = shape_of(input)
    if len(shape) == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
                f"sequences. However, found offsets of type {type(offsets)}"
            )
        starts = functions["arange"](shape[0]) * shape[1]
        return functions["reshape"](input, (-1,)), starts
    if len(shape) != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {len(shape)}")
    if offsets is None:
        raise ValueError("offsets has to be a 1D Tensor but got None")
    if len(shape_of(offsets)) != 1:
        raise ValueError("offsets has to be a 1D Tensor")
    return input, _checked_offsets(_indices(offsets, "embedding_bag"), shape[0], include_last_offset)


def _checked_offsets(offsets: Tensor, count: int, include_last_offset: bool) -> Tensor:
    values = offsets.numpy()
    if include_last_offset and not len(values):
        raise RuntimeError("include_last_offset: number of offsets should be at least 1")
    if len(values) and values[0] != 0:
        raise RuntimeError(
            f"offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0. "
            f"However, got {values[0]}"
        )
    if len(values) and values[-1] > count:
        raise RuntimeError(
            f"offsets[-1] can not be greater than input's length({count}), but got offsets[-1] of {values[-1]}"
        )
    if (values[1:] < values[:-1]).any():
        raise RuntimeError("embedding_bag: offsets have to be in increasing order")
    return offsets[:-1] if include_last_offset else offsets


def _bags_of(starts: Tensor, count: int, end: int) -> Tensor:
    """Return the number of the bag that each place is in, -1 for those behind the last."""
    places = functions["arange"](count)
    bags = functions["searchsorted"](starts, places, right=True) - 1
    return bags if end == count else functions["masked_fill"](bags, places >= end, -1)


def _bags_of_rows(shape: tuple[int, ...]) -> Tensor:
    """Return the number of the row that each place of a matrix is in."""
    rows = functions["unsqueeze"](functions["arange"](shape[0]), 1)
    return functions["reshape"](functions["broadcast_to"](rows, shape), (-1,))


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the sum, mean or maximum of the rows of a table at each bag of indices.

    Args:
        input: int64 or int32 indices, [bags, n], or [n] with ``offsets``.
        weight: the table, [rows, columns], float.
        offsets: where in ``input`` each bag begins, [bags].
        max_norm: rows of a larger norm are scaled down to it, in place, before they are taken.
        norm_type: the order of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often its index is in ``input``; not for ``"max"``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: accepted; gradients are dense.
        per_sample_weights: factors of the rows, of the shape of ``input``; only for ``"sum"``.
        include_last_offset: whether ``offsets`` ends with where the last bag ends.
        padding_idx: an index that does not count.

    Returns:
        [bags, columns]; zeros for an empty bag.
    """
    flat, starts = _bag_starts(_indices(input, "embedding_bag"), offsets, include_last_offset)
    shape = shape_of(expect_tensor(weight, "embedding_bag", "weight", 2))
    if len(shape) != 2:
        raise RuntimeError("'weight' must be 2-D")
    factors = _bag_weights(input, weight, per_sample_weights, mode, scale_grad_by_freq)
    padding_idx = normal_padding(padding_idx, shape[0])
    count = shape_of(flat)[0]
    end = int(offsets[-1]) if include_last_offset and offsets is not None else count
    bags = _bags_of(starts, count, end) if offsets is not None else _bags_of_rows(shape_of(input))
    counted = _counted(flat, padding_idx)
    if max_norm is not None:
        _renormalise(weight, flat, max_norm, norm_type)
    if mode == "max":
        return _largest(weight, counted, bags, starts)
    if mode == "mean":
        inside = functions["to_dtype"]((counted >= 0) & (bags >= 0), weight.dtype)
        ones = call_at(MOVE_ROWS, functions["reshape"](inside, (-1, 1)), functions["arange"](count), bags, None, starts)
        shares = 1.0 / functions["clamp_min"](functions["reshape"](ones, (-1,)), 1.0)
        factors = functions["index_select"](shares, 0, functions["clamp_min"](bags, 0)) if count else None
    if scale_grad_by_freq:
        return _scaled_bags(weight, flat, counted, bags, factors, starts)
    return call_at(MOVE_ROWS, weight, counted, bags, factors, starts)


def _scaled_bags(
    weight: Tensor, flat: Tensor, counted: Tensor, bags: Tensor, factors: Tensor | None, starts: Tensor
) -> Tensor:
    """Return sums over bags whose gradient is divided by how often an index is there."""
    shares = _shares(flat, counted, shape_of(weight)[0], weight)
    rows = call_at(EMBEDDING, weight, functions["clamp_min"](counted, 0), counted, shares)
    places = functions["masked_fill"](functions["arange"](shape_of(flat)[0]), counted < 0, -1)
    return call_at(MOVE_ROWS, rows, places, bags, factors, starts)


def _bag_weights(
    input: Tensor, weight: Tensor, per_sample_weights: Tensor | None, mode: str, scale_grad_by_freq: bool
) -> Tensor | None:
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if per_sample_weights is None:
        return None
    if shape_of(per_sample_weights) != shape_of(input):
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({list(shape_of(per_sample_weights))}) is not None, then it must "
            f"have the same shape as the input ({list(shape_of(input))})"
        )
    if mode != "sum":
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' (got "
            f"mode='{mode}'). Please open a feature request on GitHub."
        )
    if machine.dtype_of(per_sample_weights._handle) != machine.dtype_of(weight._handle):
        raise RuntimeError("expected weight and per_sample_weights to have the same dtype")
    return functions["reshape"](per_sample_weights, (-1,))


def _largest(weight: Tensor, counted: Tensor, bags: Tensor, starts: Tensor) -> Tensor:
    rows = call_at(LARGEST, weight, counted, bags, starts)
    found = functions["gather"](weight, 0, functions["clamp_min"](rows, 0))
    return functions["masked_fill"](found, rows < 0, 0.0)


functions["_embedding_bag"] = _embedding_bag


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return int64 zeros with a one at each index, in a new last dimension.

    Args:
        tensor: classes, int64, any shape.
        num_classes: how many classes there are; one more than the largest by default.

    Raises:
        RuntimeError: classes below 0 or not below ``num_classes``, another dtype, or nothing to count classes in.
    """
    if machine.dtype_of(expect_tensor(tensor, "one_hot", "tensor")._handle) != INT64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    shape = shape_of(tensor)
    if 0 in shape:
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        return functions["zeros"]((*shape, num_classes), dtype=dtype_of(int))
    smallest, largest = int(tensor.min()), int(tensor.max())
    if smallest < 0:
        raise RuntimeError("Class values must be non-negative.")
    if num_classes == -1:
        num_classes = largest + 1
    elif num_classes < 1:
        raise RuntimeError("num_classes should be positive")
    elif largest >= num_classes:
        raise RuntimeError("Class values must be smaller than num_classes.")
    zeros = functions["zeros"]((*shape, num_classes), dtype=dtype_of(int))
    return functions["scatter"](zeros, -1, functions["unsqueeze"](tensor, -1), 1)


functions["_one_hot"] = _one_hot

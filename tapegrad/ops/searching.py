"""Searching sorted sequences and counting values: searchsorted, bucketize, bincount, histc."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.native.dtypes import FLOAT32, INT64, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at
from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, shape_of
from tapegrad.ops.reductions import max as max_of
from tapegrad.ops.reductions import min as min_of
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.validity import Attributes, Operands, every, int64, is_few, needed, same_shape
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    TO_INT64,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
)
from tapegrad.runtime.machine import machine


def like_values_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    values = slot_of(st, input_slot(frame, 1))
    y.ndim = values.ndim
    for d in range(values.ndim):
        shape_in(y)[d] = shape_in(values)[d]
    return 0


def _search_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        row = slot_of(st, input_slot(frame, 0))
        values = slot_of(st, input_slot(frame, 1))
        n = shape_in(row)[row.ndim - 1]
        rows = row.numel // max(n, 1)
        block = values.numel // max(rows, 1)
        x, v = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, input_slot(frame, 1)))
        y = int64_at(data_address(st, output_slot(frame, 0)))
        right = attribute(frame, 0)
        for i in range(values.numel):
            start = (i // block * n) if rows > 1 else 0
            low, high = 0, n
            while low < high:
                middle = (low + high) // 2
                at = x[start + middle]
                goes_on = not (at > v[i]) if right else not (at >= v[i])
                if v[i] != v[i]:
                    goes_on = True if right else at == at
                if goes_on:
                    low = middle + 1
                else:
                    high = middle
            y[i] = low
        return 0

    return kernel


def _search_reference(sequence: Any, values: Any, right: bool = False) -> Any:
    below = np.less_equal if right else np.less
    return below(sequence[..., None, :], values[..., None]).sum(-1)


def _leads_agree(x: Operands, a: Attributes) -> bool:
    sequence, values = needed(x, 0).shape, needed(x, 1).shape
    return len(a) >= 1 and (len(sequence) == 1 or (len(sequence) > 1 and sequence[:-1] == values[:-1]))


_SEARCH = declare(
    Op(
        name="searchsorted",
        valid=_leads_agree,
        inputs=("sorted_sequence", "values"),
        kind=GENERAL,
        result=TO_INT64,
        infer=like_values_infer,
        kernel=_search_kernel,
        contiguous=("sorted_sequence", "values"),
        reference=_search_reference,
        samples=lambda make: [
            ((np.sort(make(9, low=0.1)), make(3, 4, low=0)),),
            ((np.sort(make(2, 7, low=0.1)), make(2, 3, low=0)), {"right": True}),
        ],
        math="where w would go into the sorted x",
    )
)


@function(method=False)
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
) -> Tensor:
    """Return the places at which values would go into a sorted sequence, the first ones (or, ``right``, the last).

    Args:
        sorted_sequence: [n], or [..., n] with the leading dimensions of the values.
        input: a tensor of any shape (with the leading dimensions of the sequence, where it has any), or a number.
        out_int32: whether the result is int32 instead of int64.
        side: ``left`` or ``right``, another way to say ``right``.

    Raises:
        RuntimeError: the leading dimensions differ.
    """
    sequence = expect_tensor(sorted_sequence, "searchsorted", "sorted_sequence")
    right = right or side == "right"
    values = (
        input
        if isinstance(input, Tensor)
        else functions["to_dtype"](functions["sum"](sequence) * 0 + input, sequence.dtype)
    )
    if len(shape_of(sequence)) > 1 and shape_of(sequence)[:-1] != shape_of(values)[:-1]:
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
            f"tensor and input value tensor must match, but we got boundaries tensor {list(shape_of(sequence))} and "
            f"input value tensor {list(shape_of(values))}"
        )
    places = call(_SEARCH, sequence, values, attributes=(int(right),))
    return functions["to_dtype"](places, "int32") if out_int32 else places


@function(method=False)
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Return the index of the bucket, between sorted boundaries, that each value falls into.

    Args:
        input: a tensor or a number.
        boundaries: [n], rising.
        out_int32: whether the result is int32 instead of int64.
        right: whether values equal to a boundary belong to the bucket above it.
    """
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def counts_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 1
    shape_in(y)[0] = attribute(frame, 1)
    return 0


def _count_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[result_dtype], SCALARS[result_dtype]

    def kernel(st, frame):
        index = int64_at(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(attribute(frame, 1))):
            y[i] = scalar(0)
        for i in range(slot_of(st, input_slot(frame, 0)).numel):
            if index[i] >= 0 and index[i] < attribute(frame, 1):
                y[index[i]] += scalar(1)
        return 0

    return kernel


def _has_bins(x: Operands, a: Attributes) -> bool:
    return len(a) >= 2 and is_few(a[1])


def _counts_integers(x: Operands, a: Attributes) -> bool:
    return needed(x, 0).dtype == a[0] == INT64


COUNTS = declare(
    Op(
        name="count_indices",
        valid=every(_has_bins, _counts_integers),
        inputs=("input",),
        kind=GENERAL,
        result=FROM_ATTRIBUTE,
        infer=counts_infer,
        kernel=_count_kernel,
        contiguous=("input",),
        public=False,
        reference=lambda index, attributes: np.bincount(index, minlength=attributes[1])[: attributes[1]],
        samples=lambda make: [((make.integers(20, high=7),), {"attributes": (INT64, bins)}) for bins in (9, 4)],
        math="how often each index occurs",
    )
)


def _weighted_counts_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        w = pointer(data_address(st, input_slot(frame, 0)))
        index = int64_at(data_address(st, input_slot(frame, 1)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(attribute(frame, 1))):
            y[i] = scalar(0)
        for i in range(slot_of(st, input_slot(frame, 1)).numel):
            if index[i] >= 0 and index[i] < attribute(frame, 1):
                y[index[i]] += w[i]
        return 0

    return kernel


_WEIGHTED_COUNTS = declare(
    Op(
        name="sum_by_index",
        valid=every(_has_bins, int64(1), same_shape(0, 1)),
        inputs=("weights", "index"),
        kind=GENERAL,
        infer=counts_infer,
        kernel=_weighted_counts_kernel,
        unpromoted=("index",),
        contiguous=("weights", "index"),
        public=False,
        reference=lambda w, index, attributes: np.bincount(index, w, minlength=attributes[1]),
        samples=lambda make: [
            ((make(20), make.integers(20, high=7)), {"attributes": (0, 9)}, {"dtypes": ("float32", "float64")})
        ],
        math="the sum of the weights of each index",
    )
)


@function()
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Return how often each of 0, 1, ..., max(input) occurs in a 1-d integer tensor, or the sums of their weights.

    Args:
        weights: a tensor of the input's shape, added up in place of ones.
        minlength: the least length of the result.

    Raises:
        RuntimeError: the input is not 1-d, has negative elements or is not integral.
    """
    code = machine.dtype_of(expect_tensor(input, "bincount")._handle)
    size = shape_of(input)
    if code >= FLOAT32 or len(size) != 1 or (size[0] and min_of(input).item() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is not None and shape_of(weights) != size:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    bins = max(int(max_of(input).item()) + 1 if size[0] else 0, minlength)
    index = functions["to_dtype"](input, int)
    if weights is None:
        return call(COUNTS, index, attributes=(machine.dtype_of(index._handle), bins))
    if machine.dtype_of(weights._handle) < FLOAT32:
        weights = functions["to_dtype"](weights, "float64")
    return call(_WEIGHTED_COUNTS, weights.detach(), index, attributes=(0, bins))


def _histogram_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        bins = attribute(frame, 1)
        low, high = float64_from_bits(attribute(frame, 2)), float64_from_bits(attribute(frame, 3))
        for i in range(np.uintp(bins)):
            y[i] = 0
        for i in range(slot_of(st, input_slot(frame, 0)).numel):
            value = np.float64(x[i])
            if value >= low and value <= high:
                place = min(np.int64((value - low) / (high - low) * bins), bins - 1)
                y[place] += like(1, x[i])
        return 0

    return kernel


def _has_range(x: Operands, a: Attributes) -> bool:
    low, high = np.array(a[2:4], np.int64).view(np.float64).tolist()
    return a[1] > 0 and low < high and math.isfinite(high - low)


_HISTOGRAM = declare(
    Op(
        name="histc",
        valid=every(_has_bins, _has_range),
        inputs=("input",),
        kind=GENERAL,
        infer=counts_infer,
        kernel=_histogram_kernel,
        dtypes=FLOATS,
        contiguous=("input",),
        reference=lambda x, bins, min, max: np.histogram(x, bins, (min, max) if min < max else None)[0],
        samples=lambda make: [((make(50), 7, -1.5, 1.0),), ((make(4, 5), 4, 0, 0),)],
        math="how many elements fall into each of equal bins",
    )
)


@function()
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Return how many elements fall into each of ``bins`` equal bins from ``min`` to ``max`` (both 0: the input's)."""
    code = machine.dtype_of(expect_tensor(input, "histc")._handle)
    if code < FLOAT32:
        raise NotImplementedError(f'"histogram_cpu" not implemented for {TORCH_NAMES[code]!r}')
    if bins <= 0:
        raise RuntimeError("torch.histogramdd(): bins must be > 0")
    low, high = float(min), float(max)
    if low == high and 0 not in shape_of(input):
        low, high = float(min_of(input).item()), float(max_of(input).item())
    if low == high:
        low, high = low - 1, high + 1
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise RuntimeError(f"torch.histc: range of [{low}, {high}] is not finite")
    return call(_HISTOGRAM, input, attributes=(code, bins, low, high))

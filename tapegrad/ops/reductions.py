"""Reductions over any dimensions: sums, means, products, extrema, norms, any and all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.kernels.reduce_arguments import make_argument
from tapegrad.kernels.reduce_folds import (
    all_parts,
    any_parts,
    maximum_parts,
    minimum_parts,
    product_parts,
)
from tapegrad.kernels.reduce_loops import Reduction
from tapegrad.kernels.reduce_sum import count_parts, euclidean_parts, mean_parts, sum_parts
from tapegrad.native.dtypes import BOOL, FLOAT32, INT64, UINT8
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import (
    TORCH_NAMES,
    call,
    call_several,
    expect_tensor,
    function,
    functions,
    normal_dim,
    normal_dims,
    shape_of,
)
from tapegrad.ops.reduction_rules import (
    KEEPDIM,
    MASK,
    extents,
    mask_of,
    reduced_infer,
    reduced_shape,
    reduction_kernel,
)
from tapegrad.ops.references import (
    along_samples,
    axes_of,
    axis_of,
    calls_along,
    empty_samples,
    reduced_samples,
    reducing,
)
from tapegrad.ops.registry import ALL_DTYPES, FLOATS, OF_ENTRY, Op, declare, registry
from tapegrad.ops.validity import own, reduces, scans, summed
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    FROM_ATTRIBUTE,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import machine

_emit = machine.emit
Dims = int | Sequence[int] | None


class ValuesIndices(NamedTuple):
    """What reductions along one dimension return: the values and where they were."""

    values: Tensor
    indices: Tensor


def _declare(
    name: str,
    parts: Callable[[int, int], Reduction],
    math: str,
    vjp: Callable[..., Any] | None = None,
    dtypes: int = ALL_DTYPES,
    public: bool = True,
    result: Callable[[int], int] = own,
    **tests: Any,
) -> Op:
    """Declare a reduction whose result has the dtype ``result(dtype)``."""
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            result=FROM_ATTRIBUTE,
            infer=reduced_infer,
            valid=reduces(result),
            kernel=reduction_kernel(parts),
            dtypes=dtypes,
            vjp=vjp,
            public=public,
            math=math,
            **tests,
        )
    )


def _spread_ties(g: Any, y: Any, x: Any) -> Any:
    weights = x.tie_weights(y, attributes=OF_ENTRY)
    return g.expand_reduced(x, attributes=OF_ENTRY) * weights


def _product_rule(g: Any, y: Any, x: Any) -> Any:
    # the product is the last of the running products, whose gradient is exact where elements are zero
    running = x.cumprod(attributes=OF_ENTRY).shift_one(attributes=OF_ENTRY)
    return g.place_last(x, attributes=OF_ENTRY).recur_back(x, attributes=OF_ENTRY) * running


def _norm_rule(g: Any, y: Any, x: Any) -> Any:
    return g.ratio_or_zero(y).expand_reduced(x, attributes=OF_ENTRY) * x


def _euclidean(x: Any, *, attributes: tuple[int, ...]) -> Any:
    return np.sqrt(np.sum(x * x, axes_of(attributes[MASK]), keepdims=attributes[KEEPDIM] != 0))


_SUM = _declare(
    "sum",
    sum_parts,
    "the sum of x",
    lambda g, y, x: g.expand_reduced(x, attributes=OF_ENTRY),
    result=summed,
    reference=reducing(np.sum),
    samples=empty_samples,
)
_MEAN = _declare(
    "mean",
    mean_parts,
    "the mean of x",
    lambda g, y, x: g.per_count(x, attributes=OF_ENTRY).expand_reduced(x, attributes=OF_ENTRY),
    dtypes=FLOATS,
    reference=reducing(np.mean),
    samples=reduced_samples,
)
_PROD = _declare(
    "prod",
    product_parts,
    "the product of x",
    _product_rule,
    result=summed,
    reference=reducing(np.prod),
    samples=lambda make: [*along_samples(make), ((make(3, 4),),), ((make(0, 3),), {"dim": 0, "keepdim": True})],
)
_AMAX = _declare(
    "amax", maximum_parts, "the maximum of x", _spread_ties, reference=reducing(np.max), samples=reduced_samples
)
_AMIN = _declare(
    "amin", minimum_parts, "the minimum of x", _spread_ties, reference=reducing(np.min), samples=reduced_samples
)
_NORM = _declare(
    "euclidean_norm",
    euclidean_parts,
    "the root of the sum of x**2",
    _norm_rule,
    FLOATS,
    public=False,
    reference=_euclidean,
    samples=lambda make: [*calls_along([make(2, 3, 4)], 0b101), *calls_along([make(3, 4)], 0b10, keepdim=0)],
)
_ANY = _declare(
    "any",
    any_parts,
    "whether any x is not 0",
    result=lambda dtype: BOOL,
    reference=reducing(np.any),
    samples=empty_samples,
)
_ALL = _declare(
    "all",
    all_parts,
    "whether all x are not 0",
    result=lambda dtype: BOOL,
    reference=reducing(np.all),
    samples=empty_samples,
)
_COUNT = _declare(
    "count_nonzero",
    count_parts,
    "how many x are not 0",
    result=lambda dtype: INT64,
    reference=lambda x, dim=None: np.count_nonzero(x, dim),
    samples=lambda make: [*along_samples(make), ((make(3, 4),),), ((make(2, 3, 4),), {"dim": (0, 2)})],
)


def argument_infer(st, frame):
    """The results have the reduced shape; a second one has int64, and the first one then the operand's dtype."""
    x = slot_of(st, input_slot(frame, 0))
    for k in range(2):
        if output_slot(frame, k) >= 0:
            y = slot_of(st, output_slot(frame, k))
            reduced_shape(x, y, attribute(frame, MASK), attribute(frame, 2))
            if k == 1:
                y.dtype = INT64
                if slot_of(st, output_slot(frame, 0)).dtype != x.dtype:
                    return BAD_ARGUMENT
    return 0


def _argument_kernel(largest: bool, with_values: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        find = make_argument(dtype, largest)

        def kernel(st, frame):
            words = stack_words(3)
            x = slot_of(st, input_slot(frame, 0))
            extents(x, attribute(frame, MASK), words)
            if x.numel == 0:
                return 0
            values = data_address(st, output_slot(frame, 0)) if with_values else 0
            indices = data_address(st, output_slot(frame, 1 if with_values else 0))
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            return find(
                data_address(st, input_slot(frame, 0)), values, indices, outer, n, inner, state_of(st).workspace
            )

        return kernel

    return make


def _declare_argument(name: str, largest: bool, with_values: bool, math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            result=FROM_ATTRIBUTE,
            outputs=2 if with_values else 1,
            infer=argument_infer,
            valid=scans(own if with_values else lambda dtype: INT64),
            kernel=_argument_kernel(largest, with_values),
            vjp=(lambda g, y, x: g[0].put_at(y[1], x, attributes=OF_ENTRY)) if with_values else None,
            contiguous=("input",),
            public=False,
            reference=_extremum_reference(largest) if with_values else _argument_reference(largest),
            samples=_extremum_samples if with_values else _argument_samples,
            math=math,
        )
    )


def _extremum_reference(largest: bool) -> Callable[..., Any]:
    values, place = (np.max, np.argmax) if largest else (np.min, np.argmin)

    def reference(x: Any, *, attributes: tuple[int, ...]) -> Any:
        axis, keepdims = axis_of(attributes), attributes[KEEPDIM] != 0
        return values(x, axis, keepdims=keepdims), place(x, axis, keepdims=keepdims)

    return reference


def _extremum_samples(make: Any) -> Any:
    every = "float64 float32 int64"
    return [
        *calls_along([make(2, 3, 4)], 0b10, dtypes=every),
        *calls_along([make(3, 4)], 0b10, keepdim=0, dtypes=every),
    ]


def _argument_reference(largest: bool) -> Callable[..., Any]:
    place = np.argmax if largest else np.argmin
    return lambda x, dim=None, keepdim=False: place(x, dim, keepdims=keepdim)


def _argument_samples(make: Any) -> Any:
    numbers = {"dtypes": ("uint8", "int32", "int64", "float32", "float64")}
    return [
        (*call, numbers)
        for call in (((make(2, 3, 4),), {"dim": 1}), ((make(3, 4),), {"dim": -1, "keepdim": True}), ((make(37),), {}))
    ]


_MAX = _declare_argument("max_along", True, True, "the maximum of x along a dimension, and where it is")
_MIN = _declare_argument("min_along", False, True, "the minimum of x along a dimension, and where it is")
_ARGMAX = _declare_argument("argmax", True, False, "where the maximum of x is")
_ARGMIN = _declare_argument("argmin", False, False, "where the minimum of x is")


def _ndim(input: Tensor) -> int:
    return len(machine.shape_of(input._handle))


def _in_dtype(input: Tensor, dtype: Any) -> Tensor:
    return input if dtype is None else functions["to_dtype"](input, dtype)


def reduce(op: Op, input: Tensor, dim: Dims, keepdim: bool, result: int, parameter: float = 0) -> Tensor:
    """Emit a reduction over the dimensions that ``dim`` names."""
    mask = mask_of(dim, _ndim(input))
    handle = _emit(op.code, 1, input._handle, result, mask, int(keepdim), parameter)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


def _summed(op: Op, input: Tensor, dim: Dims, keepdim: bool, dtype: Any) -> Tensor:
    """Emit a sum or product, of which integers' result is int64."""
    input = _in_dtype(expect_tensor(input, op.name), dtype)
    code = machine.dtype_of(input._handle)
    if code >= FLOAT32:
        return reduce(op, input, dim, keepdim, code)
    result = reduce(op, input, dim, keepdim, INT64)
    return _in_dtype(result, dtype)


@function()
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum of the elements over the given dimensions.

    Args:
        input: of any shape and dtype.
        dim: the dimension or dimensions to sum; all for None.
        keepdim: whether the summed dimensions stay, with length 1.
        dtype: the dtype to convert the input to first; integers are summed in int64.

    Returns:
        The sums; 0 where there is nothing to sum.

    Example:
        >>> import tapegrad as tg
        >>> tg.sum(tg.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1)
        tensor([3., 7.])
    """
    return _summed(_SUM, input, dim, keepdim, dtype)


@function()
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum of the elements that are not nan."""
    return sum(call(registry["zero_where_nan"], input, input), dim, keepdim, dtype=dtype)


@function()
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean of the elements over the given dimensions; nan where there are none.

    Raises:
        RuntimeError: the input is not floating point, and no ``dtype`` is given.
    """
    input = _in_dtype(expect_tensor(input, "mean"), dtype)
    code = machine.dtype_of(input._handle)
    if code < FLOAT32:
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
            f"Got: {TORCH_NAMES[code]}"
        )
    return reduce(_MEAN, input, dim, keepdim, code)


@function()
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean of the elements that are not nan."""
    total = nansum(input, dim, keepdim, dtype=dtype)
    return total / count(call(registry["is_number"], input), dim, keepdim)


@function()
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the product of the elements, along one dimension or all; its gradient is exact where some are zero."""
    if dim is None:
        input = functions["reshape"](input, (-1,))
        dim, keepdim = 0, False
    return _summed(_PROD, input, dim, keepdim, dtype)


def _check_not_empty(input: Tensor, name: str, dims: Sequence[int] | None) -> None:
    """Raise torch's error where an extremum of nothing is asked for."""
    shape = shape_of(input)
    if 0 not in shape:
        return
    for d in dims or ():
        if shape and shape[d] == 0:
            raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")
    if dims is None:
        raise RuntimeError(
            f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
            "Specify the reduction dim with the 'dim' argument."
        )


def _extremum(op: Op, input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    ndim = _ndim(expect_tensor(input, op.name))
    given = None if dim is None or (not isinstance(dim, int) and len(dim) == 0) else normal_dims(dim, ndim)
    _check_not_empty(input, op.name, given)
    return reduce(op, input, given, keepdim, machine.dtype_of(input._handle))


@function()
def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Return the maximum over the given dimensions; its gradient is shared evenly among equal elements."""
    return _extremum(_AMAX, input, dim, keepdim)


@function()
def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """Return the minimum over the given dimensions; its gradient is shared evenly among equal elements."""
    return _extremum(_AMIN, input, dim, keepdim)


class MinMax(NamedTuple):
    """What aminmax returns."""

    min: Tensor
    max: Tensor


@function()
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """Return the minimum and the maximum, along one dimension or of all elements, as ``(min, max)``."""
    if dim is not None and shape_of(input) and shape_of(input)[normal_dim(dim, _ndim(input))] == 0:
        raise IndexError(f"aminmax: Expected reduction dim {dim} to have non-zero size.")
    if dim is None and 0 in shape_of(input):
        raise RuntimeError(
            "aminmax(): cannot compute aminmax over an empty dimension as the operation has no identity."
        )
    return MinMax(_extremum(_AMIN, input, dim, keepdim), _extremum(_AMAX, input, dim, keepdim))


def _along(op: Op, name: str, input: Tensor, dim: int, keepdim: bool) -> ValuesIndices:
    dim = normal_dim(dim, _ndim(input))
    _check_not_empty(input, name, (dim,))
    mask = 1 << dim if _ndim(input) else 0
    return ValuesIndices(*call_several(op, input, attributes=(machine.dtype_of(input._handle), mask, int(keepdim), 0)))


def _min_or_max(name: str, whole: Op, along: Op, input: Tensor, dim: Any, keepdim: bool) -> Any:
    expect_tensor(input, name)
    if isinstance(dim, Tensor):
        return functions[f"{name}imum"](input, dim)
    if dim is not None:
        return _along(along, name, input, dim, keepdim)
    _check_not_empty(input, name, None)
    return reduce(whole, input, None, False, machine.dtype_of(input._handle))


@function()
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """Return the maximum of all elements; along ``dim`` the maxima and their indices; or, given a tensor, ``maximum``.

    Returns:
        A 0-d tensor; or, with ``dim``, a named tuple ``(values, indices)``, the index being that of the first maximum.

    Raises:
        RuntimeError, IndexError: there is no element to choose from.

    Example:
        >>> import tapegrad as tg
        >>> tg.max(tg.tensor([[1.0, 3.0], [4.0, 2.0]]), dim=1).indices
        tensor([1, 0])
    """
    return _min_or_max("max", _AMAX, _MAX, input, dim if other is None else other, keepdim)


@function()
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """Return the minimum of all elements; along ``dim`` minima and their indices; or, given a tensor, ``minimum``."""
    return _min_or_max("min", _AMIN, _MIN, input, dim if other is None else other, keepdim)


def _argument(op: Op, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    name = op.name
    if machine.dtype_of(expect_tensor(input, name)._handle) == BOOL:
        raise RuntimeError(f"{name}(): does not support bool input")
    ndim = _ndim(input)
    if dim is None:
        if 0 in shape_of(input):
            raise IndexError(f"{name}(): Expected reduction dim to be specified for input.numel() == 0.")
        flat = call(op, functions["reshape"](input, (-1,)), attributes=(INT64, 1, 0, 0))
        return functions["reshape"](flat, (1,) * ndim) if keepdim else flat
    dim = normal_dim(dim, ndim)
    _check_not_empty(input, name, (dim,))
    return call(op, input, attributes=(INT64, 1 << dim if ndim else 0, int(keepdim), 0))


@function()
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the first maximum, along a dimension or of the flattened input; nan counts as the largest."""
    return _argument(_ARGMAX, input, dim, keepdim)


@function()
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the first minimum, along a dimension or of the flattened input; nan counts as the least."""
    return _argument(_ARGMIN, input, dim, keepdim)


def _logical(op: Op, input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    code = machine.dtype_of(expect_tensor(input, op.name)._handle)
    mask = 0 if dim is not None and not isinstance(dim, int) and len(dim) == 0 else mask_of(dim, _ndim(input))
    result = call(op, input, attributes=(BOOL, mask, int(keepdim), 0))
    return _in_dtype(result, dtype_of(np.uint8)) if code == UINT8 else result


@function()
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Return whether any element is not zero."""
    return _logical(_ANY, input, dim, keepdim)


@function()
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Return whether all elements are not zero."""
    return _logical(_ALL, input, dim, keepdim)


def count(input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    return reduce(_COUNT, expect_tensor(input, "count_nonzero"), dim, keepdim, INT64)


@function()
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """Return how many elements are not zero."""
    return count(input, dim, False)


def vector_norm(x: Tensor, ord: float = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the vector norm (sum |x|**ord)**(1/ord) over the given dimensions; ``ord`` may be inf, -inf and 0.

    Args:
        x: a tensor of floats.

    Raises:
        RuntimeError: the input is not floating point.
    """
    x = _in_dtype(expect_tensor(x, "vector_norm", "x"), dtype)
    code = machine.dtype_of(x._handle)
    if code < FLOAT32:
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {TORCH_NAMES[code]}"
        )
    if ord == 2:
        return reduce(_NORM, x, dim, keepdim, code)
    if ord == 0:
        return _in_dtype(count(x, dim, keepdim), dtype_of(x.dtype))
    size = functions["abs"](x)
    if math.isinf(ord):
        return (amax if ord > 0 else amin)(size, () if dim is None else dim, keepdim)
    total = sum(size if ord == 1 else functions["pow"](size, ord), dim, keepdim)
    return total if ord == 1 else functions["pow"](total, 1.0 / ord)


functions["_vector_norm"] = vector_norm


@function()
def norm(input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Return the norm of order ``p``: a number, inf, -inf, "fro" (the same as 2), or "nuc" of matrices."""
    if p == "nuc":
        return functions["_matrix_norm"](input, "nuc", (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


__all__ = ["ValuesIndices", "count", "reduce", "vector_norm"]

"""gather, scatter and their kin, as users call them."""

from __future__ import annotations

from typing import Any

from tapegrad.native.dtypes import FLOAT32, INT32
from tapegrad.ops.calls import call, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.index_functions import _publish
from tapegrad.ops.lookups import call_at, check_index_dtype, look_up, write_at
from tapegrad.ops.registry import Op, registry
from tapegrad.ops.scatter_ops import (
    GATHER,
    SCATTER,
    SCATTER_ADD,
    SCATTER_MAXIMUM,
    SCATTER_MINIMUM,
    SCATTER_MULTIPLY,
)
from tapegrad.ops.view_ops import INDEX, SLICE
from tapegrad.ops.views import broadcast_shape, expand, reshape
from tapegrad.ops.writing import in_dtype_of
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_INTEGER = {1, 2, 3}


def _check_gather(input: Tensor, dim: int, index: Any, name: str) -> tuple[int, Tensor]:
    """Return the dimension and the indices as int64; errors, in torch's words, where shapes do not fit."""
    shape = shape_of(expect_tensor(input, name))
    index = expect_tensor(index, name, "index", 3)
    if machine.dtype_of(index._handle) < INT32 or machine.dtype_of(index._handle) >= FLOAT32:
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    dim = normal_dim(dim, len(shape))
    sizes = shape_of(index)
    if max(len(sizes), 1) != max(len(shape), 1):
        what = "input tensor" if name == "gather" else "self tensor"
        raise RuntimeError(f"Index tensor must have the same number of dimensions as {what}")
    for d, (length, have) in enumerate(zip(sizes, shape, strict=False)):
        if d != dim and length > have:
            raise RuntimeError(
                f"Size does not match at dimension {d} expected index {list(sizes)} to be no larger than self "
                f"{list(shape)} apart from dimension {dim}"
            )
    return dim, check_index_dtype(index, name)


@function()
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, out: Tensor | None = None) -> Tensor:
    """Return, for each index, the element at that index of ``dim`` and at its own place in the other dimensions.

    Args:
        input: a tensor.
        dim: the dimension.
        index: int64 or int32, of as many dimensions as ``input`` and no larger but along ``dim``.
        sparse_grad: accepted for torch's sake.
        out: where to write the result.

    Returns:
        A tensor of the shape of ``index``.

    Raises:
        IndexError: an index is out of range.
        RuntimeError: the shapes do not fit, or ``index`` has another dtype.

    Example:
        >>> import tapegrad as tg
        >>> tg.gather(tg.tensor([[1, 2], [3, 4]]), 1, tg.tensor([[1], [0]]))
        tensor([[2],
                [3]])
    """
    dim, index = _check_gather(input, dim, index, "gather")
    result = call_at(GATHER, input, index, attributes=(dim,))
    return result if out is None else functions["_write_out"](out, result)


@function()
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return the elements at indices along a dimension, broadcast in the others; of the flat tensor for None."""
    indices = check_index_dtype(expect_tensor(indices, "take_along_dim", "indices", 2), "take_along_dim")
    if dim is None:
        return look_up(input, reshape(indices, -1), 0, len(shape_of(input)))
    shape, sizes = shape_of(input), shape_of(indices)
    if len(shape) != len(sizes):
        raise RuntimeError(
            f"torch.take_along_dim(): input and indices should have the same number of dimensions, but got "
            f"{len(shape)} dimensions for input, and {len(sizes)} dimensions for indices"
        )
    dim = normal_dim(dim, len(shape))
    common = broadcast_shape((*shape[:dim], 1, *shape[dim + 1 :]), (*sizes[:dim], 1, *sizes[dim + 1 :]))
    wide = expand(input, (*common[:dim], shape[dim], *common[dim + 1 :]))
    return gather(wide, dim, expand(indices, (*common[:dim], sizes[dim], *common[dim + 1 :])))


def _values(input: Tensor, index: Tensor, src: Any, name: str) -> Any:
    """Return what is scattered: a number in the tensor's dtype, or the part of a tensor that the indices cover."""
    if not isinstance(src, Tensor):
        return in_dtype_of(input, src)
    if machine.dtype_of(src._handle) != machine.dtype_of(input._handle):
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    sizes, have = shape_of(index), shape_of(src)
    if sizes == have:
        return src
    if len(sizes) != len(have) or any(n > m for n, m in zip(sizes, have, strict=True)):
        raise RuntimeError(f"Expected index {list(sizes)} to be no larger than src {list(have)} in every dimension")
    words = [word for n in sizes for word in (SLICE, 0, n, 1)]
    return call_at(INDEX, src, attributes=words)


def _apply(op: Op, in_place: bool, input: Tensor, dim: int, index: Tensor, values: Any) -> Tensor:
    if in_place:
        return write_at(op, input, index, values, attributes=(dim,))
    return call_at(op, input, index, values, attributes=(dim,))


def _scatter(
    in_place: bool,
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    dim, index = _check_gather(input, dim, index, "scatter")
    values = _values(input, index, value if src is None else src, "scatter")
    op = {None: SCATTER, "add": SCATTER_ADD, "multiply": SCATTER_MULTIPLY}[reduce]
    return _apply(op, in_place, input, dim, index, values)


def _scatter_add(in_place: bool, input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    dim, index = _check_gather(input, dim, index, "scatter_add")
    values = _values(input, index, expect_tensor(src, "scatter_add", "src", 4), "scatter_add")
    return _apply(SCATTER_ADD, in_place, input, dim, index, values)


def _lowest(tensor: Tensor) -> float:
    dtype = DTYPES[machine.dtype_of(tensor._handle)]
    if dtype.is_floating_point:
        return float("-inf")
    return {"bool": 0, "uint8": 0, "int32": -(2**31), "int64": -(2**63)}[dtype.name]


def _highest(tensor: Tensor) -> float:
    dtype = DTYPES[machine.dtype_of(tensor._handle)]
    if dtype.is_floating_point:
        return float("inf")
    return {"bool": 1, "uint8": 255, "int32": 2**31 - 1, "int64": 2**63 - 1}[dtype.name]


_REDUCTIONS = {
    "sum": (SCATTER_ADD, lambda x: 0),
    "prod": (SCATTER_MULTIPLY, lambda x: 1),
    "mean": (SCATTER_ADD, lambda x: 0),
    "amax": (SCATTER_MAXIMUM, _lowest),
    "amin": (SCATTER_MINIMUM, _highest),
}


def _scatter_reduce(
    in_place: bool, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    if reduce not in _REDUCTIONS:
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    dim, index = _check_gather(input, dim, index, "scatter_reduce")
    values = _values(input, index, expect_tensor(src, "scatter_reduce", "src", 4), "scatter_reduce")
    op, neutral = _REDUCTIONS[reduce]
    start = input
    if not include_self:
        start = call_at(SCATTER, input, index, in_dtype_of(input, neutral(input)), attributes=(dim,))
    result = call_at(op, start, index, values, attributes=(dim,))
    if reduce == "mean":
        result = _divide_by_counts(result, input, dim, index, include_self)
    return functions["copy_"](input, result) if in_place else result


def _divide_by_counts(total: Tensor, input: Tensor, dim: int, index: Tensor, include_self: bool) -> Tensor:
    counts = functions["fill_"](call(registry["zeros_like"], input), 1)
    if not include_self:
        counts = call_at(SCATTER, counts, index, in_dtype_of(input, 0), attributes=(dim,))
    counts = call_at(SCATTER_ADD, counts, index, in_dtype_of(input, 1), attributes=(dim,))
    counts = functions["clamp"](counts, min=1)
    if machine.dtype_of(input._handle) in _INTEGER:
        return functions["div"](total, counts, rounding_mode="floor")
    return functions["div"](total, counts)


_publish(
    "scatter", _scatter, "Return ``input`` with values (``src`` or a number ``value``) at the indices of a dimension."
)
_publish("scatter_add", _scatter_add, "Return ``input`` with ``src`` added at the indices of a dimension.")
_publish(
    "scatter_reduce",
    _scatter_reduce,
    "Return ``input`` with ``src`` reduced into it (sum, prod, mean, amax, amin) at the indices of a dimension.",
)

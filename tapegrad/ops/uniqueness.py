"""unique and unique_consecutive: the different elements, or the different slices along a dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS
from tapegrad.native.pointers import int64_at
from tapegrad.ops.calls import call, call_several, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.registry import Op, declare
from tapegrad.ops.searching import COUNTS
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
    TO_INT64,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
)
from tapegrad.runtime.machine import machine


def row_order_infer(st, frame):
    """Two results of one number for each row: the order, and room to merge in."""
    for k in range(2):
        y = slot_of(st, output_slot(frame, k))
        y.ndim = 1
        shape_in(y)[0] = shape_in(slot_of(st, input_slot(frame, 0)))[0]
    return 0


def _row_order_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    @jit
    def precedes(x, a, b, m):
        """Return whether row ``a`` comes before row ``b``: at the first place where they differ it is less."""
        for j in range(m):
            if x[a * m + j] != x[b * m + j]:
                return x[a * m + j] < x[b * m + j]
        return False

    @jit
    def merge(x, m, source, low, middle, high, goal):
        i, j = low, middle
        for k in range(low, high):
            if i < middle and (j >= high or not precedes(x, source[j], source[i], m)):
                goal[k] = source[i]
                i += 1
            else:
                goal[k] = source[j]
                j += 1

    def kernel(st, frame):
        """A stable merge sort, from runs of one row up."""
        rows = slot_of(st, input_slot(frame, 0))
        n, m = shape_in(rows)[0], shape_in(rows)[1]
        x = pointer(data_address(st, input_slot(frame, 0)))
        order = int64_at(data_address(st, output_slot(frame, 0)))
        room = int64_at(data_address(st, output_slot(frame, 1)))
        for i in range(n):
            order[i] = i
        width = 1
        while width < n:
            for low in range(0, n, 2 * width):
                merge(x, m, order, low, min(low + width, n), min(low + 2 * width, n), room)
            for i in range(n):
                order[i] = room[i]
            width *= 2
        return 0

    return kernel


_ROW_ORDER = declare(
    Op(
        name="row_order",
        inputs=("rows",),
        kind=GENERAL,
        result=TO_INT64,
        outputs=2,
        infer=row_order_infer,
        kernel=_row_order_kernel,
        contiguous=("rows",),
        public=False,
        samples="its second result is scratch: tests/test_sorting.py",
        math="the stable order of the rows of a matrix, compared from left to right",
    )
)


def _starts_of_runs(rows: Tensor) -> Tensor:
    """Return, for each row of a matrix or element of a vector, whether it differs from the one before; one at least."""
    n = shape_of(rows)[0]
    narrow = functions["narrow"]
    differs = narrow(rows, 0, 1, n - 1) != narrow(rows, 0, 0, n - 1)
    if len(shape_of(rows)) > 1:
        differs = functions["any"](differs, 1)
    first = functions["ones"](1, dtype="bool")
    return functions["cat"]([first, differs])


def _numbered(starts: Tensor, order: Tensor | None, inverse: bool, counts: bool, shape: tuple[int, ...]) -> list[Any]:
    """Return, as asked for, the run of each element or slice, and the runs' lengths."""
    runs = functions["cumsum"](starts, 0) - 1
    more = []
    if inverse:
        places = runs if order is None else functions["take"](runs, functions["argsort"](order))
        more.append(functions["reshape"](places, shape))
    if counts:
        length = int(functions["sum"](starts).item())
        more.append(call(COUNTS, runs, attributes=(machine.dtype_of(runs._handle), length)))
    return more


def _different(input: Tensor, ordered: bool, inverse: bool, counts: bool) -> Any:
    flat = functions["reshape"](input.detach(), (-1,))
    values, order = functions["sort"](flat) if ordered else (flat, None)
    starts = _starts_of_runs(values) if shape_of(values)[0] else functions["zeros"](0, dtype="bool")
    kept = functions["masked_select"](values, starts)
    more = _numbered(starts, order, inverse, counts, shape_of(input))
    return (kept, *more) if more else kept


def _different_slices(name: str, input: Tensor, dim: int, ordered: bool, inverse: bool, counts: bool) -> Any:
    """The slices along ``dim``, each laid out as a row of a matrix, in order; those that begin a run are kept."""
    shape = shape_of(input)
    dim = normal_dim(dim, len(shape))
    x = input.detach()
    if not shape:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    if 0 in shape:
        if shape[dim] == 0 and shape.count(0) == 1:
            empty = functions["zeros"](0, dtype="int64")
            more = [empty] * (inverse + counts)
            return (x, *more) if more else x
        raise RuntimeError(
            f"{name}: There are 0 sized dimensions, and they aren't selected, so unique cannot be applied"
        )
    rows = functions["reshape"](functions["movedim"](x, dim, 0), (shape[dim], -1))
    order = call_several(_ROW_ORDER, rows)[0] if ordered else None
    rows = rows if order is None else functions["index_select"](rows, 0, order)
    starts = _starts_of_runs(rows)
    firsts = functions["reshape"](functions["nonzero"](starts), (-1,))
    if order is not None:
        firsts = functions["take"](order, firsts)
    kept = functions["index_select"](x, dim, firsts)
    more = _numbered(starts, order, inverse, counts, (shape[dim],))
    return (kept, *more) if more else kept


@function()
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the different elements in order; if asked for, each element's place among them and how often each occurs.

    Args:
        input: of any shape and dtype.
        sorted: accepted for torch's sake: the result always is.
        return_inverse: whether to return, for each element (or slice), its place in the result.
        return_counts: whether to return how often each of the result occurs.
        dim: compare the slices along this dimension, from their first element on, instead of elements.

    Example:
        >>> import tapegrad as tg
        >>> tg.unique(tg.tensor([[1, 0], [0, 2], [1, 0]]), dim=0).tolist()
        [[0, 2], [1, 0]]
    """
    expect_tensor(input, "unique")
    if dim is None:
        return _different(input, True, return_inverse, return_counts)
    return _different_slices("unique", input, dim, True, return_inverse, return_counts)


@function()
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Return the first of each run of equal elements (or slices); the other arguments are those of ``unique``."""
    expect_tensor(input, "unique_consecutive")
    if dim is None:
        return _different(input, False, return_inverse, return_counts)
    return _different_slices("unique_consecutive", input, dim, False, return_inverse, return_counts)

"""Ops with one index for each element: gather, scatter, and what their gradients are made of.

Along ``dim`` (the attribute) the element's place in x is its index; along the other dimensions it is its own. Indices
are checked before anything is written.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.strided import next_row
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.index_ops import check_indices, like_third
from tapegrad.ops.references import adding_back, combining, elements_at
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.reshaping_ops import like_first
from tapegrad.ops.validity import Attributes, Operands, Rule, every, int64, is_dim, needed
from tapegrad.runtime.layout import (
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)


@jit
def _check(st, frame, index_slot, row):
    dim = attribute(frame, 0)
    n = shape_in(row)[dim] if row.ndim > 0 else 1
    return check_indices(st, int64_at(data_address(st, index_slot)), slot_of(st, index_slot).numel, 0, n, dim)


def _walker(body: Callable[..., Any], dtype: int) -> Callable[..., Any]:
    """Return ``walk(x, y, index, row, index_row, values_row, dim)``: ``body(x, at, y, k)`` for each index.

    ``x`` is the address of the tensor that is indexed, of layout ``row``; ``y`` that of the other one, of layout
    ``values_row``, which has an element for each index, or one in all.
    """
    pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

    @jit
    def walk(x_address, y_address, index_address, row, index_row, values_row, dim):
        ndim = index_row.ndim
        shape = int64_at(stack_words(8))
        xs = int64_at(stack_words(8))
        ys = int64_at(stack_words(8))
        at = int64_at(stack_words(8))
        shape[0] = 1
        xs[0] = 0
        ys[0] = 0
        rows = 1
        for d in range(ndim):
            shape[d] = shape_in(index_row)[d]
            xs[d] = 0 if d == dim else strides_in(row)[d]
            ys[d] = strides_in(values_row)[d] if values_row.numel > 1 else 0
            at[d] = 0
            rows *= shape[d] if d < ndim - 1 else 1
        last = max(ndim - 1, 0)
        n = shape[last]
        step = strides_in(row)[dim] if row.ndim > 0 else 0
        index = int64_at(index_address)
        x_offset = 0
        y_offset = 0
        for r in range(rows):
            x = pointer(x_address + x_offset * itemsize)
            y = pointer(y_address + y_offset * itemsize)
            for i in range(n):
                body(x, i * xs[last] + index[r * n + i] * step, y, i * ys[last])
            x_offset, y_offset = next_row(ndim, shape, at, xs, ys, x_offset, y_offset)

    return walk


def gather_infer(st, frame):
    result = slot_of(st, output_slot(frame, 0))
    index = slot_of(st, input_slot(frame, 1))
    result.ndim = index.ndim
    for d in range(index.ndim):
        shape_in(result)[d] = shape_in(index)[d]
    return 0


@jit
def _read(x, at, y, k):
    y[k] = x[at]


@jit
def _set(x, at, y, k):
    x[at] = y[k]


@jit
def _add(x, at, y, k):
    x[at] += y[k]


@jit
def _multiply(x, at, y, k):
    x[at] *= y[k]


@jit
def _maximum(x, at, y, k):
    if y[k] > x[at] or y[k] != y[k]:
        x[at] = y[k]


@jit
def _minimum(x, at, y, k):
    if y[k] < x[at] or y[k] != y[k]:
        x[at] = y[k]


@jit
def _erase(x, at, y, k):
    x[at] = 0


def _gather_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    walk = _walker(_read, dtype)

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        index = slot_of(st, input_slot(frame, 1))
        result = slot_of(st, output_slot(frame, 0))
        status = _check(st, frame, input_slot(frame, 1), source)
        if status < 0 or index.numel == 0:
            return status
        x = data_address(st, input_slot(frame, 0))
        y = data_address(st, output_slot(frame, 0))
        walk(x, y, data_address(st, input_slot(frame, 1)), source, index, result, attribute(frame, 0))
        return 0

    return kernel


def _fits(whole: int, values: int | None) -> Rule:
    """The indices reach no further than the operand that is indexed, and than values that are more than one."""

    def rule(x: Operands, a: Attributes) -> bool:
        shape, index = needed(x, whole).shape, needed(x, 1).shape
        if len(a) < 1 or len(index) != len(shape) or not is_dim(a[0], shape or (1,)):
            return False
        inside = all(n <= shape[d] for d, n in enumerate(index) if d != a[0])
        other = None if values is None else needed(x, values)
        if other is None or other.numel == 1:
            return inside
        return inside and len(other.shape) == len(index) and all(map(operator.le, index, other.shape))

    return rule


GATHER = declare(
    Op(
        name="gather",
        valid=every(int64(1), _fits(0, None)),
        inputs=("input", "index"),
        kind=GENERAL,
        infer=gather_infer,
        kernel=_gather_kernel,
        vjp=lambda g, y, x, index: (g.gather_backward(index, x, attributes=OF_ENTRY), None),
        unpromoted=("index",),
        contiguous=("index",),
        public=False,
        reference=lambda x, dim, index: elements_at(x, index, (dim,)),
        samples=lambda make: [
            ((make(3, 4), 0, make.integers(5, 3, high=3)),),
            ((make(2, 3, 4), 1, make.integers(2, 5, 3, high=3)),),
            ((make(5), 0, make.integers(7)),),
            ((make(3, 4), 1, make.integers(3, 0)),),
        ],
        math="y_ij = x_{i_ij j}",
    )
)


def _backward_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    walk, pointer = _walker(_add, dtype), POINTERS[dtype]

    def kernel(st, frame):
        values = slot_of(st, input_slot(frame, 0))
        index = slot_of(st, input_slot(frame, 1))
        result = slot_of(st, output_slot(frame, 0))
        status = _check(st, frame, input_slot(frame, 1), result)
        if status < 0:
            return status
        x = data_address(st, output_slot(frame, 0))
        if output_slot(frame, 0) != input_slot(frame, 2):
            y = pointer(x)
            for i in range(np.uintp(result.numel)):
                y[i] = 0
        if index.numel > 0:
            g = data_address(st, input_slot(frame, 0))
            walk(x, g, data_address(st, input_slot(frame, 1)), result, index, values, attribute(frame, 0))
        return 0

    return kernel


declare(
    Op(
        name="gather_backward",
        valid=every(int64(1), _fits(2, 0)),
        inputs=("input", "index", "like"),
        kind=GENERAL,
        infer=like_third,
        kernel=_backward_kernel,
        vjp=lambda g, y, x, index, like: (g.gather(index, attributes=OF_ENTRY), None, None),
        shape_only=("like",),
        unpromoted=("index", "like"),
        accumulates=True,
        contiguous=("index",),
        public=False,
        reference=adding_back(elements_at),
        samples=lambda make: [
            ((make(5, 3), make.integers(5, 3, high=3), make(3, 4)), {"attributes": (0,)}),
            ((make(2, 5, 3), make.integers(2, 5, 3, high=3), make(2, 3, 4)), {"attributes": (1,)}),
        ],
        math="zeros like `like`, with x added at the indices",
    )
)


def _scatter_kernel(body: Callable[..., Any]) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        walk, pointer = _walker(body, dtype), POINTERS[dtype]

        def kernel(st, frame):
            index = slot_of(st, input_slot(frame, 1))
            values = slot_of(st, input_slot(frame, 2))
            result = slot_of(st, output_slot(frame, 0))
            status = _check(st, frame, input_slot(frame, 1), result)
            if status < 0:
                return status
            to = data_address(st, output_slot(frame, 0))
            source = data_address(st, input_slot(frame, 0))
            if to != source:  # else it is the target of an in-place write
                y = pointer(to)
                x = pointer(source)
                for i in range(np.uintp(result.numel)):
                    y[i] = x[i]
            if index.numel > 0:
                v = data_address(st, input_slot(frame, 2))
                walk(to, v, data_address(st, input_slot(frame, 1)), result, index, values, attribute(frame, 0))
            return 0

        return kernel

    return make


_ONCE = np.array([[2, 0, 1], [0, 3, 2]])  # along dimension 0 of 4 x 3 no place is written twice
_OFTEN = np.array([[2, 0, 1], [2, 3, 1], [2, 0, 3]])
_NUMBERS = {"dtypes": ("uint8", "int32", "int64", "float32", "float64")}


def _public_samples(*indices: Any) -> Callable[..., Any]:
    return lambda make: (
        [((make(4, 3), 0, index, make(*index.shape)), {}, _NUMBERS) for index in indices]
        + [((make(2, 4, 3), 1, np.array([[[1, 0, 3]], [[2, 2, 0]]]), make(2, 1, 3)), {}, _NUMBERS)]
    )


def _private_samples(*indices: Any) -> Callable[..., Any]:
    def samples(make: Any) -> Any:
        for index in indices:
            yield (make(4, 3, kinks=(0,)), index, make(*index.shape, kinks=(0,))), {"attributes": (0,)}, _NUMBERS

    return samples


def _public_reference(combine: Any) -> Callable[..., Any]:
    return lambda x, dim, index, v: combining(combine, elements_at)(x, index, v, (dim,))


def _scatter(
    name: str,
    body: Callable[..., Any],
    vjp: Callable[..., Any] | None,
    math: str,
    reference: Callable[..., Any],
    samples: Callable[..., Any],
) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input", "index", "values"),
            kind=GENERAL,
            infer=like_first,
            valid=every(int64(1), _fits(0, 2)),
            kernel=_scatter_kernel(body),
            vjp=vjp,
            unpromoted=("index",),
            contiguous=("input", "index"),
            public=False,
            reference=reference,
            samples=samples,
            math=math,
        )
    )


SCATTER = _scatter(
    "scatter",
    _set,
    lambda g, y, x, index, v: (
        g.scatter_erase(index, g, attributes=OF_ENTRY),
        None,
        g.gather(index, attributes=OF_ENTRY),
    ),
    "x with y_{i_ij j} = v_ij",
    _public_reference(None),
    _public_samples(_ONCE),
)
SCATTER_ADD = _scatter(
    "scatter_add",
    _add,
    lambda g, y, x, index, v: (g, None, g.gather(index, attributes=OF_ENTRY)),
    "x with y_{i_ij j} += v_ij",
    _public_reference(np.add),
    _public_samples(_ONCE, _OFTEN),
)
_scatter(
    "scatter_erase",
    _erase,
    lambda g, y, x, index, v: (g.scatter_erase(index, g, attributes=OF_ENTRY), None, None),
    "x with y_{i_ij j} = 0",
    lambda x, index, v, attributes: combining(None, elements_at)(x, index, 0 * v, attributes),
    _private_samples(_OFTEN),
)


def _extreme_rule(g: Any, y: Any, x: Any, index: Any, v: Any) -> Any:
    """Ties share the gradient equally."""
    own, others = x.indicator(y), v.indicator(y.gather(index, attributes=OF_ENTRY))
    share = g / own.scatter_add(index, others, attributes=OF_ENTRY)
    return share * own, None, share.gather(index, attributes=OF_ENTRY) * others


def _product_rule(g: Any, y: Any, x: Any, index: Any, v: Any) -> Any:
    """The product of the other factors: y / v where v is not 0; where it is the only 0, the product without it."""
    filled = x + x.indicator(0.0)
    zero = v.indicator(0.0)
    zeros = x.zeros_like().scatter_add(index, zero, attributes=OF_ENTRY).gather(index, attributes=OF_ENTRY)
    single = zero * zeros.indicator(1.0)
    rest = (g * x.scatter_multiply(index, v + single, attributes=OF_ENTRY)).gather(index, attributes=OF_ENTRY)
    others = (g * y).gather(index, attributes=OF_ENTRY) / (v + zero)
    gx = g * filled.scatter_multiply(index, v, attributes=OF_ENTRY) / filled
    return gx, None, single * rest + (1.0 - single) * others


SCATTER_MULTIPLY = _scatter(
    "scatter_multiply",
    _multiply,
    _product_rule,
    "x with y_{i_ij j} *= v_ij",
    combining(np.multiply, elements_at),
    _private_samples(_ONCE, _OFTEN),
)
SCATTER_MAXIMUM = _scatter(
    "scatter_maximum",
    _maximum,
    _extreme_rule,
    "x with y_{i_ij j} = max(y_{i_ij j}, v_ij)",
    combining(np.maximum, elements_at),
    _private_samples(_ONCE, _OFTEN),
)
SCATTER_MINIMUM = _scatter(
    "scatter_minimum",
    _minimum,
    _extreme_rule,
    "x with y_{i_ij j} = min(y_{i_ij j}, v_ij)",
    combining(np.minimum, elements_at),
    _private_samples(_ONCE, _OFTEN),
)

elementwise(
    "indicator",
    lambda x, w: like(1, x) if x == w else like(0, x),
    inputs=("input", "other"),
    public=False,
    reference=lambda x, w: (x == w).astype(x.dtype),
    math="1 where x = w, else 0",
)

"""The matrix products as ops: closed under differentiation, any strides, no transposed copies and no views.

``mm`` multiplies by a matrix, ``linear`` by a transposed one, and ``mm_tn`` sums x^T w over all leading dimensions; the
derivatives of each are the other two. The ``bmm`` family does the same for batches, which broadcast.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.addresses import threaded_gemm
from tapegrad.ops.registry import NUMBERS, Op, declare
from tapegrad.ops.validity import Rule, Shape, broadcast, is_few, needed
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    attribute,
    attribute_count,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

# words of a GEMM; see kernels/gemm.py
_M, _N, _K, _A, _RSA, _CSA, _B, _RSB, _CSB, _C, _RSC, _ACCUMULATE, _BATCH, _BSA, _BSB, _BSC, _WORKSPACE = range(17)


@jit
def _size(row, back):
    """Return the length of a dimension counted from the end (1 is the last), 1 if there is none."""
    return shape_in(row)[row.ndim - back] if row.ndim >= back else 1


@jit
def _stride(row, back):
    return strides_in(row)[row.ndim - back] if row.ndim >= back and shape_in(row)[row.ndim - back] != 1 else 0


# ---- the leading dimensions of two operands, merged where both walk them as one ----


@jit
def _lead(lead, a, b, skip, skip_b):
    """Write lengths and strides of the broadcast leading dimensions, innermost first; return how many are left.

    ``lead`` has three times 8 words: lengths, strides of a, strides of b. The last ``skip`` dimensions are no leading
    ones. A ``skip_b`` < 0 says that b has none.
    """
    words = int64_at(lead)
    count = 0
    depth = max(a.ndim - skip, b.ndim - skip_b if skip_b >= 0 else 0)
    for d in range(1, depth + 1):
        other = _size(b, d + skip_b) if skip_b >= 0 else 1
        length = _size(a, d + skip) if other == 1 else other
        if length == 1:
            continue
        sa = _stride(a, d + skip)
        sb = _stride(b, d + skip_b) if skip_b >= 0 else 0
        if (
            count > 0
            and sa == words[8 + count - 1] * words[count - 1]
            and sb == words[16 + count - 1] * words[count - 1]
        ):
            words[count - 1] *= length
            continue
        words[count] = length
        words[8 + count] = sa
        words[16 + count] = sb
        count += 1
    if count == 0:
        words[0] = 1
        words[8] = 0
        words[16] = 0
        count = 1
    return count


@jit
def _offset(lead, count, index, first):
    """Return the offset of place ``index`` of the leading dimensions beyond the innermost; ``first`` is 8 or 16."""
    words = int64_at(lead)
    offset = 0
    for d in range(1, count):
        offset += index % words[d] * words[first + d]
        index //= words[d]
    return offset


@jit
def _outer_count(lead, count):
    total = 1
    for d in range(1, count):
        total *= int64_at(lead)[d]
    return total


def _prefill(dtype: int) -> Callable[..., Any]:
    """Return the helper that writes a row, column or matrix, broadcast, to all of a contiguous result."""
    pointer, item = POINTERS[dtype], ITEM_BYTES[dtype]

    @jit
    def prefill(to, rows, columns, source, row_stride, column_stride):
        for i in range(rows):
            x, y = pointer(source + i * row_stride * item), pointer(to + i * columns * item)
            if column_stride == 1:
                for j in range(np.uintp(columns)):
                    y[j] = x[j]
            else:
                for j in range(columns):
                    y[j] = x[j * column_stride]

    return prefill


# ---- x w, x w^T: any leading dimensions of x, one matrix w; an addend is broadcast to the result ----


def _folded_kernel(transposed: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        multiply = threaded_gemm(dtype)
        prefill, item = _prefill(dtype), ITEM_BYTES[dtype]

        def kernel(st, frame):
            x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
            y_address = data_address(st, output_slot(frame, 0))
            words = stack_words(17)
            p = int64_at(words)
            n, k = shape_in(w)[0 if transposed else 1], shape_in(w)[1 if transposed else 0]
            numel = slot_of(st, output_slot(frame, 0)).numel
            if numel == 0:
                return 0
            p[_ACCUMULATE] = 0
            if input_count(frame) > 2:
                c = slot_of(st, input_slot(frame, 2))
                prefill(y_address, numel // n, n, data_address(st, input_slot(frame, 2)), _stride(c, 2), _stride(c, 1))
                p[_ACCUMULATE] = 1
            lead = stack_words(24)
            count = _lead(lead, x, w, 1, -1)
            rows = int64_at(lead)[0]
            p[_M], p[_N], p[_K] = rows, n, k
            p[_RSA], p[_CSA] = int64_at(lead)[8], strides_in(x)[x.ndim - 1]
            p[_B] = data_address(st, input_slot(frame, 1))
            p[_RSB], p[_CSB] = strides_in(w)[1 if transposed else 0], strides_in(w)[0 if transposed else 1]
            p[_RSC], p[_BATCH], p[_BSA], p[_BSB], p[_BSC] = n, 1, 0, 0, 0
            p[_WORKSPACE] = state_of(st).workspace
            start = data_address(st, input_slot(frame, 0))
            for index in range(numel // (rows * n)):
                p[_A] = start + _offset(lead, count, index, 8) * item
                p[_C] = y_address + index * rows * n * item
                multiply(st, words)
            return 0

        return kernel

    return make


@jit
def _folded_shape(st, frame, n, k):
    """Set the shape [..., n] of a product of x[..., k]; an attribute says how many dimensions x must have."""
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    w = slot_of(st, input_slot(frame, 1))
    if x.ndim < 1 or w.ndim != 2 or x.dtype != w.dtype or shape_in(x)[x.ndim - 1] != shape_in(w)[k]:
        return BAD_ARGUMENT
    if attribute_count(frame) > 0 and x.ndim != attribute(frame, 0):
        return BAD_ARGUMENT
    y.ndim = x.ndim
    for d in range(x.ndim - 1):
        shape_in(y)[d] = shape_in(x)[d]
    shape_in(y)[x.ndim - 1] = shape_in(w)[n]
    if input_count(frame) > 2:
        c = slot_of(st, input_slot(frame, 2))
        if c.dtype != x.dtype or c.ndim > y.ndim or c.ndim > 2 or (c.ndim == 2 and y.ndim != 2):
            return BAD_ARGUMENT
        for d in range(1, c.ndim + 1):
            if _size(c, d) != 1 and _size(c, d) != _size(y, d):
                return BAD_ARGUMENT
    return 0


def mm_infer(st, frame):
    return _folded_shape(st, frame, 1, 0)


def linear_infer(st, frame):
    return _folded_shape(st, frame, 0, 1)


# ---- x^T w, summed over the leading dimensions ----


def mm_tn_infer(st, frame):
    x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    y = slot_of(st, output_slot(frame, 0))
    if x.ndim < 1 or x.ndim != w.ndim or x.dtype != w.dtype:
        return BAD_ARGUMENT
    for d in range(x.ndim - 1):
        if shape_in(x)[d] != shape_in(w)[d]:
            return BAD_ARGUMENT
    y.ndim = 2
    shape_in(y)[0] = shape_in(x)[x.ndim - 1]
    shape_in(y)[1] = shape_in(w)[w.ndim - 1]
    return 0


def _mm_tn_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    multiply = threaded_gemm(dtype)
    item = ITEM_BYTES[dtype]

    def kernel(st, frame):
        x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
        words, lead = stack_words(17), stack_words(24)
        p = int64_at(words)
        count = _lead(lead, x, w, 1, 1)
        outer = _outer_count(lead, count)
        p[_M], p[_N] = shape_in(x)[x.ndim - 1], shape_in(w)[w.ndim - 1]
        p[_K] = int64_at(lead)[0] if outer > 0 else 0
        p[_RSA], p[_CSA] = strides_in(x)[x.ndim - 1], int64_at(lead)[8]
        p[_RSB], p[_CSB] = int64_at(lead)[16], strides_in(w)[w.ndim - 1]
        p[_C], p[_RSC], p[_ACCUMULATE] = data_address(st, output_slot(frame, 0)), p[_N], 0
        p[_BATCH], p[_BSA], p[_BSB], p[_BSC] = 1, 0, 0, 0
        p[_WORKSPACE] = state_of(st).workspace
        for index in range(max(outer, 1)):
            p[_A] = data_address(st, input_slot(frame, 0)) + _offset(lead, count, index, 8) * item
            p[_B] = data_address(st, input_slot(frame, 1)) + _offset(lead, count, index, 16) * item
            multiply(st, words)
            p[_ACCUMULATE] = 1
        return 0

    return kernel


# ---- batches of matrices, whose leading dimensions broadcast ----


@jit
def _batch_shape(st, frame, transposed_x, transposed_w):
    x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    y = slot_of(st, output_slot(frame, 0))
    if x.ndim < 2 or w.ndim < 2 or x.dtype != w.dtype:
        return BAD_ARGUMENT
    if _size(x, 2 if transposed_x else 1) != _size(w, 1 if transposed_w else 2):
        return BAD_ARGUMENT
    y.ndim = max(x.ndim, w.ndim)
    for back in range(3, y.ndim + 1):
        a, b = _size(x, back), _size(w, back)
        if a != b and a != 1 and b != 1:
            return BAD_ARGUMENT
        shape_in(y)[y.ndim - back] = b if a == 1 else a
    shape_in(y)[y.ndim - 2] = _size(x, 1 if transposed_x else 2)
    shape_in(y)[y.ndim - 1] = _size(w, 2 if transposed_w else 1)
    return 0


def bmm_infer(st, frame):
    return _batch_shape(st, frame, False, False)


def bmm_nt_infer(st, frame):
    return _batch_shape(st, frame, False, True)


def bmm_tn_infer(st, frame):
    return _batch_shape(st, frame, True, False)


def _batch_kernel(transposed_x: bool, transposed_w: bool) -> Callable[[int, int], Callable[..., int]]:
    """Return the maker of the kernel that walks the merged batch dimensions; GEMM itself walks the innermost."""
    row_x, column_x = (1, 2) if transposed_x else (2, 1)
    row_w, column_w = (1, 2) if transposed_w else (2, 1)

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        multiply = threaded_gemm(dtype)
        item = ITEM_BYTES[dtype]

        def kernel(st, frame):
            x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
            y = slot_of(st, output_slot(frame, 0))
            if y.numel == 0:
                return 0
            words, lead = stack_words(17), stack_words(24)
            p = int64_at(words)
            count = _lead(lead, x, w, 2, 2)
            p[_M], p[_N], p[_K] = _size(y, 2), _size(y, 1), _size(x, column_x)
            p[_RSA], p[_CSA] = strides_in(x)[x.ndim - row_x], strides_in(x)[x.ndim - column_x]
            p[_RSB], p[_CSB] = strides_in(w)[w.ndim - row_w], strides_in(w)[w.ndim - column_w]
            p[_RSC], p[_ACCUMULATE], p[_WORKSPACE] = p[_N], 0, state_of(st).workspace
            p[_BATCH], p[_BSA], p[_BSB] = int64_at(lead)[0], int64_at(lead)[8], int64_at(lead)[16]
            p[_BSC] = p[_M] * p[_N]
            for index in range(_outer_count(lead, count)):
                p[_A] = data_address(st, input_slot(frame, 0)) + _offset(lead, count, index, 8) * item
                p[_B] = data_address(st, input_slot(frame, 1)) + _offset(lead, count, index, 16) * item
                p[_C] = data_address(st, output_slot(frame, 0)) + index * p[_BATCH] * p[_BSC] * item
                multiply(st, words)
            return 0

        return kernel

    return make


# ---- two vectors ----


def dot_infer(st, frame):
    x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    if x.ndim != 1 or w.ndim != 1 or x.dtype != w.dtype or shape_in(x)[0] != shape_in(w)[0]:
        return BAD_ARGUMENT
    slot_of(st, output_slot(frame, 0)).ndim = 0
    return 0


def _dot_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    multiply = threaded_gemm(dtype)

    def kernel(st, frame):
        x, w = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
        words = stack_words(17)
        p = int64_at(words)
        p[_M], p[_N], p[_K] = 1, 1, shape_in(x)[0]
        p[_A], p[_RSA], p[_CSA] = data_address(st, input_slot(frame, 0)), p[_K], strides_in(x)[0]
        p[_B], p[_RSB], p[_CSB] = data_address(st, input_slot(frame, 1)), strides_in(w)[0], 1
        p[_C], p[_RSC], p[_ACCUMULATE] = data_address(st, output_slot(frame, 0)), 1, 0
        p[_BATCH], p[_BSA], p[_BSB], p[_BSC], p[_WORKSPACE] = 1, 0, 0, 0, state_of(st).workspace
        multiply(st, words)
        return 0

    return kernel


def _makes(shape: Callable[[Shape, Shape], Shape]) -> Rule:
    """No operand is absent but those at the end, and the result, of a shape by those of two, is not too large."""
    return lambda x, a: None not in x and is_few(*shape(needed(x, 0).shape, needed(x, 1).shape))


def _product(
    name: str,
    infer: Callable[..., int],
    kernel: Any,
    vjp: Any,
    reference: Any,
    math: str,
    shape: Callable[[Shape, Shape], Shape],
    **more: Any,
) -> Op:
    """Declare a product of two operands (and an addend) whose dtypes are one: it compares them itself."""
    inputs = more.pop("inputs", ("input", "mat2"))
    return declare(
        Op(
            name=name,
            inputs=inputs,
            fewest=2 if "bias" in inputs else None,
            kind=GENERAL,
            dtypes=NUMBERS,
            infer=infer,
            valid=_makes(shape),
            kernel=kernel,
            vjp=vjp,
            unpromoted=inputs[1:],
            reference=reference,
            math=math,
            public=more.pop("public", False),
            **more,
        )
    )


def _fold_tn(x: Any, w: Any) -> Any:
    return x.reshape(-1, x.shape[-1]).T @ w.reshape(-1, w.shape[-1])


MM = _product(
    "mm",
    mm_infer,
    _folded_kernel(False),
    lambda g, y, x, w: (g.linear(w), x.mm_tn(g)),
    lambda x, w: x @ w,
    "x w",
    lambda x, w: (*x[:-1], w[-1]),
    samples=lambda make: [((make(3, 4), make(4, 2)),), ((make(1, 3), make(3, 1)),), ((make(0, 3), make(3, 2)),)],
)
ADDMM = _product(
    "addmm",
    mm_infer,
    _folded_kernel(False),
    lambda g, y, x, w, c: (g.linear(w), x.mm_tn(g), g),
    lambda c, x, w: c + x @ w,
    "c + x w",
    lambda x, w: (*x[:-1], w[-1]),
    inputs=("mat1", "mat2", "input"),
    samples=lambda make: [((make(3, 2), make(3, 4), make(4, 2)),), ((make(3, 1), make(3, 4), make(4, 2)),)],
)
LINEAR = _product(
    "linear",
    linear_infer,
    _folded_kernel(True),
    lambda g, y, x, w, c: (g.mm(w), g.mm_tn(x), g),
    lambda x, w, c=0: x @ w.T + c,
    "x w^T + c",
    lambda x, w: (*x[:-1], w[0]),
    inputs=("input", "weight", "bias"),
    samples=lambda make: [
        ((make(3, 4), make(2, 4), make(2)),),
        ((make(2, 3, 4), make(2, 4)),),
        ((make(4), make(2, 4)),),
    ],
)
MM_TN = _product(
    "mm_tn",
    mm_tn_infer,
    _mm_tn_kernel,
    lambda g, y, x, w: (w.linear(g), x.mm(g)),
    _fold_tn,
    "x^T w, summed over the leading dimensions",
    lambda x, w: (x[-1], w[-1]),
    samples=lambda make: [((make(3, 4), make(3, 2)),), ((make(2, 3, 4), make(2, 3, 5)),), ((make(4), make(2)),)],
)
BMM = _product(
    "bmm",
    bmm_infer,
    _batch_kernel(False, False),
    lambda g, y, x, w: (g.bmm_nt(w), x.bmm_tn(g)),
    lambda x, w: x @ w,
    "x w, by batches",
    lambda x, w: (*broadcast(x[:-2], w[:-2]), x[-2], w[-1]),
    samples=lambda make: [((make(2, 3, 4), make(2, 4, 2)),)],
)
BMM_NT = _product(
    "bmm_nt",
    bmm_nt_infer,
    _batch_kernel(False, True),
    lambda g, y, x, w: (g.bmm(w), g.bmm_tn(x)),
    lambda x, w: x @ np.swapaxes(w, -1, -2),
    "x w^T, by batches",
    lambda x, w: (*broadcast(x[:-2], w[:-2]), x[-2], w[-2]),
    samples=lambda make: [((make(2, 3, 4), make(2, 2, 4)),), ((make(2, 3, 4), make(2, 4)),)],
)
BMM_TN = _product(
    "bmm_tn",
    bmm_tn_infer,
    _batch_kernel(True, False),
    lambda g, y, x, w: (w.bmm_nt(g), x.bmm(g)),
    lambda x, w: np.swapaxes(x, -1, -2) @ w,
    "x^T w, by batches",
    lambda x, w: (*broadcast(x[:-2], w[:-2]), x[-1], w[-1]),
    samples=lambda make: [((make(2, 4, 3), make(2, 4, 2)),), ((make(5, 1, 4, 3), make(2, 4, 2)),)],
)
DOT = _product(
    "dot",
    dot_infer,
    _dot_kernel,
    lambda g, y, x, w: (g * w, g * x),
    np.dot,
    "sum of x w",
    lambda x, w: (),
    inputs=("input", "tensor"),
    samples=lambda make: [((make(5), make(5)),), ((make(0), make(0)),)],
)

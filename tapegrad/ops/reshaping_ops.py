"""Ops that move elements into new memory: flip, roll, triangles, diagonals into matrices."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.strided import make_strided_copy
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, at_least, attributes, every, is_dim, is_few, needed
from tapegrad.ops.view_ops import diagonal_geometry
from tapegrad.runtime.layout import (
    GENERAL,
    MAX_NDIM,
    TOO_MANY_DIMS,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    slot_row,
    strides_in,
)


@jit
def take_shape(st, frame, k):
    """Give the result the shape of operand ``k``."""
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, k))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]


def like_first(st, frame):
    """The result has the shape of the first operand."""
    take_shape(st, frame, 0)
    return 0


@jit
def product(row, first, last):
    """Return the product of the lengths of the dimensions from ``first`` to before ``last``."""
    total = 1
    for d in range(first, last):
        total *= shape_in(row)[d]
    return total


def _flip_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    copy, itemsize = make_strided_copy(dtype), ITEM_BYTES[dtype]

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        if source.numel == 0:
            return 0
        result = slot_of(st, output_slot(frame, 0))
        scratch = stack_words(32)
        offset = 0
        for d in range(source.ndim):
            stride = strides_in(source)[d]
            if (attribute(frame, 0) >> d) & 1:
                offset += stride * (shape_in(source)[d] - 1)
                stride = -stride
            int64_at(scratch)[d] = shape_in(source)[d]
            int64_at(scratch)[8 + d] = strides_in(result)[d]
            int64_at(scratch)[16 + d] = stride
        x = data_address(st, input_slot(frame, 0)) + offset * itemsize
        copy(data_address(st, output_slot(frame, 0)), x, source.ndim, scratch)
        return 0

    return kernel


FLIP = declare(
    Op(
        name="flip",
        valid=attributes(1),
        inputs=("input",),
        kind=GENERAL,
        infer=like_first,
        kernel=_flip_kernel,
        vjp=lambda g, y, x: g.flip(attributes=OF_ENTRY),
        reference=lambda x, dims: np.flip(x, dims),
        samples=lambda make: [
            ((make(3, 4), [0]),),
            ((make(2, 3, 4), [-1, 0]),),
            ((make(5), [0]),),
            ((make(0, 3), [1]),),
        ],
        math="x in reverse order along dimensions",
    )
)


def _roll_kernel(direction: int) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

        @jit
        def copy_block(to, source, n):
            y = pointer(to)
            x = pointer(source)
            for i in range(np.uintp(n)):
                y[i] = x[i]

        def kernel(st, frame):
            source = slot_of(st, input_slot(frame, 0))
            if source.numel == 0:
                return 0
            dim = attribute(frame, 1)
            block = product(source, dim, source.ndim) * itemsize
            shift = (direction * attribute(frame, 0)) % shape_in(source)[dim] * (block // shape_in(source)[dim])
            x = data_address(st, input_slot(frame, 0))
            y = data_address(st, output_slot(frame, 0))
            for _ in range(product(source, 0, dim)):
                copy_block(y, x + block - shift, shift // itemsize)
                copy_block(y + shift, x, (block - shift) // itemsize)
                x += block
                y += block
            return 0

        return kernel

    return make


def _along(x: Operands, a: Attributes) -> bool:
    return len(a) >= 2 and is_dim(a[1], needed(x, 0).shape)


ROLL = declare(
    Op(
        name="roll",
        valid=_along,
        inputs=("input",),
        kind=GENERAL,
        infer=like_first,
        kernel=_roll_kernel(1),
        vjp=lambda g, y, x: g.roll_back(attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=np.roll,
        samples=lambda make: [
            ((make(3, 4), 1, 0),),
            ((make(2, 5, 3), -7, 1),),
            ((make(5), 2, 0),),
            ((make(0, 3), 1, 0),),
        ],
        math="x moved along a dimension, the end coming in at the front; attributes: shift, dimension",
    )
)
declare(
    Op(
        name="roll_back",
        valid=_along,
        inputs=("input",),
        kind=GENERAL,
        infer=like_first,
        kernel=_roll_kernel(-1),
        vjp=lambda g, y, x: g.roll(attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=lambda x, attributes: np.roll(x, -attributes[0], attributes[1]),
        samples=lambda make: [((make(2, 5, 3),), {"attributes": (shift, 1)}) for shift in (2, -1)],
        math="x moved the other way",
    )
)


def _triangle_kernel(lower: int) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

        def kernel(st, frame):
            source = slot_of(st, input_slot(frame, 0))
            if source.numel == 0:
                return 0
            columns = shape_in(source)[source.ndim - 1]
            rows = shape_in(source)[source.ndim - 2]
            for r in range(source.numel // columns):
                x = pointer(data_address(st, input_slot(frame, 0)) + r * columns * itemsize)
                y = pointer(data_address(st, output_slot(frame, 0)) + r * columns * itemsize)
                edge = r % rows + attribute(frame, 0) + lower  # tril keeps what is left of it, triu the rest
                edge = min(max(edge, 0), columns)
                first, last = (0, edge) if lower else (edge, columns)
                for i in range(np.uintp(first)):
                    y[i] = 0
                for i in range(np.uintp(first), np.uintp(last)):
                    y[i] = x[i]
                for i in range(np.uintp(last), np.uintp(columns)):
                    y[i] = 0
            return 0

        return kernel

    return make


def _declare_triangle(name: str, lower: int) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            infer=like_first,
            valid=every(attributes(1), at_least(2)),
            kernel=_triangle_kernel(lower),
            vjp=lambda g, y, x: getattr(g, name)(attributes=OF_ENTRY),
            contiguous=("input",),
            reference=getattr(np, name),
            samples=lambda make: [((make(3, 4), -1),), ((make(2, 4, 3), 1),), ((make(0, 3),),)],
            math="x with zeros above a diagonal" if lower else "x with zeros below a diagonal",
        )
    )


TRIL, TRIU = _declare_triangle("tril", 1), _declare_triangle("triu", 0)


def diag_embed_infer(st, frame):
    """Attributes: offset, the two dimensions of the matrices in the result."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    offset, a, b = attribute(frame, 0), attribute(frame, 1), attribute(frame, 2)
    if source.ndim >= MAX_NDIM:
        return TOO_MANY_DIMS
    result.ndim = source.ndim + 1
    length = shape_in(source)[source.ndim - 1] + (offset if offset > 0 else -offset)
    batch = 0
    for d in range(result.ndim):
        if d == a or d == b:
            shape_in(result)[d] = length
        else:
            shape_in(result)[d] = shape_in(source)[batch]
            batch += 1
    return 0


def _diag_embed_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    copy, pointer, itemsize = make_strided_copy(dtype), POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        result = slot_of(st, output_slot(frame, 0))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(result.numel)):
            y[i] = 0
        if source.numel == 0:
            return 0
        part = slot_row(stack_words(32), 0)
        part.offset = 0
        diagonal_geometry(st, frame, result, part)
        scratch = stack_words(32)
        for d in range(part.ndim):
            int64_at(scratch)[d] = shape_in(part)[d]
            int64_at(scratch)[8 + d] = strides_in(part)[d]
            int64_at(scratch)[16 + d] = strides_in(source)[d]
        start = data_address(st, output_slot(frame, 0)) + part.offset * itemsize
        copy(start, data_address(st, input_slot(frame, 0)), part.ndim, scratch)
        return 0

    return kernel


def _diagonal_matrices(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    length = x.shape[-1] + abs(offset)
    y = np.zeros((*x.shape[:-1], length, length), x.dtype)
    rows = np.arange(x.shape[-1])
    y[..., rows + max(-offset, 0), rows + max(offset, 0)] = x
    return np.moveaxis(y, (-2, -1), (dim1, dim2))


def _makes_diagonals(x: Operands, a: Attributes) -> bool:
    shape = needed(x, 0).shape
    if len(a) < 3 or not shape or a[1] == a[2] or not (is_dim(a[1], (1, *shape)) and is_dim(a[2], (1, *shape))):
        return False
    length = shape[-1] + abs(a[0])
    return is_few(*shape[:-1], length, length)


DIAG_EMBED = declare(
    Op(
        name="diag_embed",
        valid=_makes_diagonals,
        inputs=("input",),
        kind=GENERAL,
        infer=diag_embed_infer,
        kernel=_diag_embed_kernel,
        vjp=lambda g, y, x: g.diagonal(attributes=OF_ENTRY),
        reference=_diagonal_matrices,
        samples=lambda make: [((make(3),),), ((make(2, 3), 1),), ((make(2, 3), -2, 0, 2),), ((make(0),),)],
        public=False,
        math="matrices with x on a diagonal",
    )
)

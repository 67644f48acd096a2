"""Ops that read and write blocks at indices: advanced indexing, index_select, embeddings, index_add are made of them.

x is seen as [outer, n, block]: ``count`` dimensions from ``dim`` on are walked by one index, and what follows them is a
block that is copied as a whole. Attributes of all these ops: dim, count, whether negative indices count from the end.
Indices are checked before anything is written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT64, ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, pointer_to
from tapegrad.ops.references import adding_back, blocks_at, combining
from tapegrad.ops.registry import BOOLEAN, OF_ENTRY, Op, declare
from tapegrad.ops.reshaping_ops import like_first, product, take_shape
from tapegrad.ops.validity import Attributes, Operands, Rule, every, int64, is_few, needed
from tapegrad.runtime.layout import (
    BAD_INDEX,
    GENERAL,
    MAX_NDIM,
    SHAPE_MISMATCH,
    TO_INT64,
    TOO_MANY_DIMS,
    attribute,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

_byte_at = pointer_to(np.uint8)


@jit
def check_indices(st, indices, count, low, high, dim):
    """Return 0 if every index is in low .. high - 1; else note the first that is not and return BAD_INDEX."""
    smallest = low
    largest = low
    for i in range(np.uintp(count)):
        smallest = min(smallest, indices[i])
        largest = max(largest, indices[i])
    if smallest >= low and (largest < high or count == 0):
        return 0
    for i in range(count):
        if indices[i] < low or indices[i] >= high:
            state_of(st).error_value0 = indices[i]
            break
    state_of(st).error_value1 = high
    state_of(st).error_slot0 = dim
    return BAD_INDEX


@jit
def _extents(st, frame, slot):
    """Return outer, n and block of a slot: see the head of this file."""
    row = slot_of(st, slot)
    dim = attribute(frame, 0)
    last = dim + attribute(frame, 1)
    return product(row, 0, dim), product(row, dim, last), product(row, last, row.ndim)


@jit
def _check(st, frame, index_slot, n):
    index = int64_at(data_address(st, index_slot))
    low = -n if attribute(frame, 2) != 0 else 0
    return check_indices(st, index, slot_of(st, index_slot).numel, low, n, attribute(frame, 0))


def _block_copier(dtype: int) -> Callable[..., Any]:
    pointer = POINTERS[dtype]

    @jit
    def copy_block(to, source, n):
        y = pointer(to)
        x = pointer(source)
        for i in range(np.uintp(n)):
            y[i] = x[i]

    return copy_block


def _block_adder(dtype: int) -> Callable[..., Any]:
    pointer = POINTERS[dtype]

    @jit
    def add_block(to, source, n):
        y = pointer(to)
        x = pointer(source)
        for i in range(np.uintp(n)):
            y[i] += x[i]

    return add_block


def lookup_infer(st, frame):
    source = slot_of(st, input_slot(frame, 0))
    index = slot_of(st, input_slot(frame, 1))
    result = slot_of(st, output_slot(frame, 0))
    dim, count = attribute(frame, 0), attribute(frame, 1)
    if source.ndim - count + index.ndim > MAX_NDIM:
        return TOO_MANY_DIMS
    result.ndim = source.ndim - count + index.ndim
    for d in range(dim):
        shape_in(result)[d] = shape_in(source)[d]
    for d in range(index.ndim):
        shape_in(result)[dim + d] = shape_in(index)[d]
    for d in range(dim + count, source.ndim):
        shape_in(result)[d - count + index.ndim] = shape_in(source)[d]
    return 0


def _lookup_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    copy_block, pointer, itemsize = _block_copier(dtype), POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        outer, n, block = _extents(st, frame, input_slot(frame, 0))
        status = _check(st, frame, input_slot(frame, 1), n)
        if status < 0:
            return status
        index = int64_at(data_address(st, input_slot(frame, 1)))
        count = slot_of(st, input_slot(frame, 1)).numel
        source = data_address(st, input_slot(frame, 0))
        to = data_address(st, output_slot(frame, 0))
        for r in range(outer):
            x = pointer(source + r * n * block * itemsize)
            y = pointer(to + r * count * block * itemsize)
            if block == 1:
                for i in range(np.uintp(count)):
                    at = index[i]
                    y[i] = x[at + n if at < 0 else at]
                continue
            for i in range(count):
                at = index[i]
                at += n if at < 0 else 0
                copy_block(to + (r * count + i) * block * itemsize, source + (r * n + at) * block * itemsize, block)
        return 0

    return kernel


def _blocks(at: int) -> Rule:
    """The attributes name dimensions of an operand, and what lies at the indices is not too much."""

    def rule(x: Operands, a: Attributes) -> bool:
        if len(a) < 3 or min(a[:2]) < 0 or a[0] + a[1] > len(needed(x, at).shape):
            return False
        return is_few(*_block_shape(x, a, at))

    return rule


def _block_shape(x: Operands, a: Attributes, at: int) -> tuple[int, ...]:
    shape = needed(x, at).shape
    return (*shape[: a[0]], *needed(x, 1).shape, *shape[a[0] + a[1] :])


LOOKUP = declare(
    Op(
        name="lookup",
        valid=every(_blocks(0), int64(1)),
        inputs=("input", "index"),
        kind=GENERAL,
        infer=lookup_infer,
        kernel=_lookup_kernel,
        vjp=lambda g, y, x, index: (g.lookup_backward(index, x, attributes=OF_ENTRY), None),
        unpromoted=("index",),
        contiguous=("input", "index"),
        samples=lambda make: [
            ((make(4, 3), make.integers(5, high=4)), {"attributes": (0, 1, 1)}),
            ((make(2, 3, 2), make.integers(2, 2, high=6)), {"attributes": (0, 2, 1)}),
            ((make(2, 5), make.integers(0)), {"attributes": (1, 1, 0)}),
        ],
        reference=blocks_at,
        public=False,
        math="the blocks of x at indices",
    )
)


def like_third(st, frame):
    """The result has the shape of the third operand."""
    take_shape(st, frame, 2)
    return 0


def _writer(add: bool) -> Callable[..., Callable[..., Any]]:
    """Return what makes ``write(st, frame, index_slot, values_slot)``: put or add values at indices of the result."""

    def make(dtype: int) -> Callable[..., Any]:
        write_block = _block_adder(dtype) if add else _block_copier(dtype)
        pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

        @jit
        def spread(to, source, n):
            y = pointer(to)
            x = pointer(source)[0]
            for i in range(np.uintp(n)):
                if add:
                    y[i] += x
                else:
                    y[i] = x

        @jit
        def write(st, frame, index_slot, values_slot):
            outer, n, block = _extents(st, frame, output_slot(frame, 0))
            index = int64_at(data_address(st, index_slot))
            count = slot_of(st, index_slot).numel
            to = data_address(st, output_slot(frame, 0))
            source = data_address(st, values_slot)
            single = slot_of(st, values_slot).numel == 1
            for r in range(outer):
                for i in range(count):
                    at = index[i]
                    at += n if at < 0 else 0
                    place = to + (r * n + at) * block * itemsize
                    if single:
                        spread(place, source, block)
                    else:
                        write_block(place, source + (r * count + i) * block * itemsize, block)

        return write

    return make


def _lookup_backward_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    write, pointer = _writer(True)(dtype), POINTERS[dtype]

    def kernel(st, frame):
        _, n, _ = _extents(st, frame, output_slot(frame, 0))
        status = _check(st, frame, input_slot(frame, 1), n)
        if status < 0:
            return status
        if output_slot(frame, 0) != input_slot(frame, 2):
            y = pointer(data_address(st, output_slot(frame, 0)))
            for i in range(np.uintp(slot_of(st, output_slot(frame, 0)).numel)):
                y[i] = 0
        if slot_of(st, input_slot(frame, 0)).numel > 0:
            write(st, frame, input_slot(frame, 1), input_slot(frame, 0))
        return 0

    return kernel


def _has_blocks(x: Operands, a: Attributes) -> bool:
    return needed(x, 0).shape == _block_shape(x, a, 2)


declare(
    Op(
        name="lookup_backward",
        valid=every(_blocks(2), int64(1), _has_blocks),
        inputs=("input", "index", "like"),
        kind=GENERAL,
        infer=like_third,
        kernel=_lookup_backward_kernel,
        vjp=lambda g, y, x, index, like: (g.lookup(index, attributes=OF_ENTRY), None, None),
        shape_only=("like",),
        unpromoted=("index", "like"),
        accumulates=True,
        contiguous=("input", "index"),
        public=False,
        reference=adding_back(blocks_at),
        samples=lambda make: [
            ((make(5, 3), make.integers(5, high=4), make(4, 3)), {"attributes": (0, 1, 1)}),
            ((make(2, 2, 2), make.integers(2, 2, low=-6, high=6), make(2, 3, 2)), {"attributes": (0, 2, 1)}),
            ((make(2, 0), make.integers(0), make(2, 5)), {"attributes": (1, 1, 0)}),
        ],
        math="zeros like `like`, with x added at the indices",
    )
)


def _put_kernel(add: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        write, copy_block = _writer(add)(dtype), _block_copier(dtype)

        def kernel(st, frame):
            _, n, _ = _extents(st, frame, output_slot(frame, 0))
            status = _check(st, frame, input_slot(frame, 1), n)
            if status < 0:
                return status
            y = data_address(st, output_slot(frame, 0))
            x = data_address(st, input_slot(frame, 0))
            if x != y:  # else it is the target of an in-place write
                copy_block(y, x, slot_of(st, input_slot(frame, 0)).numel)
            if slot_of(st, input_slot(frame, 2)).numel > 0:
                write(st, frame, input_slot(frame, 1), input_slot(frame, 2))
            return 0

        return kernel

    return make


def put_infer(st, frame):
    """The values are one number, or as many as the indices reach."""
    outer, _, block = _extents(st, frame, input_slot(frame, 0))
    reached = outer * block * slot_of(st, input_slot(frame, 1)).numel
    values = slot_of(st, input_slot(frame, 2)).numel
    if values != reached and values != 1:
        return SHAPE_MISMATCH
    take_shape(st, frame, 0)
    return 0


def _putting_samples(make: Any) -> Any:
    """Each place is written once: the gradient of one that is written twice would go to both values."""
    return [
        ((make(6, 3), np.array([4, -6, 2]), make(3, 3)), {"attributes": (0, 1, 1)}),
        ((make(2, 5), np.array([[1, 0], [3, 4]]), make(2, 2, 2)), {"attributes": (1, 1, 0)}),
        ((make(2, 3, 2), np.array([5, 0]), make(1)), {"attributes": (0, 2, 0)}),
    ]


def _adding_samples(make: Any) -> Any:
    repeated = (make(4, 3), np.array([1, -1, 1, 3]), make(4, 3)), {"attributes": (0, 1, 1)}, {"dtypes": _NUMBERS}
    return [*((*call, {"dtypes": _NUMBERS}) for call in _putting_samples(make)), repeated]


_NUMBERS = ("uint8", "int32", "int64", "float32", "float64")


def _declare_put(name: str, add: bool, vjp: Callable[..., Any], math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input", "index", "values"),
            kind=GENERAL,
            infer=put_infer,
            valid=every(_blocks(0), int64(1)),
            kernel=_put_kernel(add),
            vjp=vjp,
            unpromoted=("index",),
            contiguous=("input", "index", "values"),
            public=False,
            reference=combining(np.add if add else None, blocks_at),
            samples=_adding_samples if add else _putting_samples,
            math=math,
        )
    )


PUT = _declare_put(
    "put_blocks",
    False,
    lambda g, y, x, index, v: (g.erase_blocks(index, attributes=OF_ENTRY), None, g.lookup(index, attributes=OF_ENTRY)),
    "x with values in the places of indices",
)
PUT_ADD = _declare_put(
    "add_blocks",
    True,
    lambda g, y, x, index, v: (g, None, g.lookup(index, attributes=OF_ENTRY)),
    "x with values added in the places of indices",
)


def _erase_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    copy_block, pointer, itemsize = _block_copier(dtype), POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        outer, n, block = _extents(st, frame, output_slot(frame, 0))
        status = _check(st, frame, input_slot(frame, 1), n)
        if status < 0:
            return status
        to = data_address(st, output_slot(frame, 0))
        copy_block(to, data_address(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 0)).numel)
        index = int64_at(data_address(st, input_slot(frame, 1)))
        for r in range(outer):
            for i in range(slot_of(st, input_slot(frame, 1)).numel):
                at = index[i]
                at += n if at < 0 else 0
                y = pointer(to + (r * n + at) * block * itemsize)
                for j in range(np.uintp(block)):
                    y[j] = 0
        return 0

    return kernel


declare(
    Op(
        name="erase_blocks",
        valid=every(_blocks(0), int64(1)),
        inputs=("input", "index"),
        kind=GENERAL,
        infer=like_first,
        kernel=_erase_kernel,
        vjp=lambda g, y, x, index: (g.erase_blocks(index, attributes=OF_ENTRY), None),
        unpromoted=("index",),
        contiguous=("input", "index"),
        public=False,
        reference=lambda x, index, attributes: combining(None, blocks_at)(x, index, np.zeros(1), attributes),
        samples=lambda make: [
            ((make(6, 3), np.array([4, -6, 4])), {"attributes": (0, 1, 1)}),
            ((make(2, 5), np.array([1, 0])), {"attributes": (1, 1, 0)}),
        ],
        math="x with zeros in the places of indices",
    )
)


# ---- indices from masks, and one index from several ----


@jit
def _count_true(st, slot):
    x = _byte_at(data_address(st, slot))
    total = 0
    for i in range(np.uintp(slot_of(st, slot).numel)):
        total += x[i]
    return total


def nonzero_infer(st, frame):
    """Attribute: 1 for indices in each dimension (a matrix), 0 for indices into the flat tensor."""
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = 2 if attribute(frame, 0) else 1
    shape_in(result)[0] = _count_true(st, input_slot(frame, 0))
    shape_in(result)[1] = slot_of(st, input_slot(frame, 0)).ndim
    return 0


def _nonzero_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        x = _byte_at(data_address(st, input_slot(frame, 0)))
        y = int64_at(data_address(st, output_slot(frame, 0)))
        count = shape_in(slot_of(st, output_slot(frame, 0)))[0]
        ndim = source.ndim if attribute(frame, 0) else 1
        found = 0
        i = 0
        if ndim == 1:
            while found < count:  # without a branch: the next index found overwrites one that was none
                y[found] = i
                found += x[i]
                i += 1
            return 0
        while found < count:
            if x[i] != 0:
                rest = i
                for k in range(ndim):
                    d = ndim - 1 - k
                    y[found * ndim + d] = rest % shape_in(source)[d]
                    rest //= shape_in(source)[d]
                found += 1
            i += 1
        return 0

    return kernel


NONZERO = declare(
    Op(
        name="nonzero_of",
        inputs=("input",),
        kind=GENERAL,
        dtypes=BOOLEAN,
        result=TO_INT64,
        infer=nonzero_infer,
        shape_from_values=True,
        kernel=_nonzero_kernel,
        contiguous=("input",),
        public=False,
        reference=lambda x, attributes: np.argwhere(x) if attributes[0] else np.flatnonzero(x),
        samples=lambda make: [
            *(
                ((make.booleans(*shape),), {"attributes": (way,)})
                for shape in ((37,), (2, 3, 4), (0, 3))
                for way in (0, 1)
            )
        ],
        math="where x is true",
    )
)


def _flat_index_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Attributes: the first dimension, then the length that each operand indexes."""

    def kernel(st, frame):
        y = int64_at(data_address(st, output_slot(frame, 0)))
        count = slot_of(st, output_slot(frame, 0)).numel
        for i in range(np.uintp(count)):
            y[i] = 0
        for k in range(input_count(frame)):
            index = int64_at(data_address(st, input_slot(frame, k)))
            n = attribute(frame, 1 + k)
            status = check_indices(st, index, count, -n, n, attribute(frame, 0) + k)
            if status < 0:
                return status
            for i in range(np.uintp(count)):
                at = index[i]
                y[i] = y[i] * n + (at + n if at < 0 else at)
        return 0

    return kernel


def _has_lengths(x: Operands, a: Attributes) -> bool:
    shapes = {None if found is None else found.shape for found in x}
    return len(shapes) == 1 and None not in shapes and len(a) > len(x)


FLAT_INDEX = declare(
    Op(
        name="flat_index",
        valid=_has_lengths,
        inputs=("*indices",),
        kind=GENERAL,
        dtypes=1 << INT64,
        infer=like_first,
        kernel=_flat_index_kernel,
        contiguous=("*indices",),
        public=False,
        reference=lambda *indices, attributes: np.ravel_multi_index(indices, attributes[1:], mode="wrap"),
        samples=lambda make: [
            ((make.integers(7, low=-3, high=3), make.integers(7, low=-4, high=4)), {"attributes": (0, 3, 4)}),
            (tuple(make.integers(2, 2, high=n) for n in (2, 3, 4)), {"attributes": (1, 2, 3, 4)}),
        ],
        math="i1 n2 n3 + i2 n3 + i3: one index into several dimensions",
    )
)

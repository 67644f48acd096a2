"""A slot's strides: row-major ones for a new result, and whether those of a view are."""

from tapegrad.native.cache import jit
from tapegrad.runtime.layout import CONTIGUOUS, shape_in, strides_in

MAX_ELEMENTS = 1 << 58  # so that no size in bytes overflows


@jit
def set_contiguous(row):
    """Give a slot of known shape its row-major strides and its number of elements; return False on overflow."""
    stride = 1
    product = 1.0  # tells overflow without a division, which would take longer than all the rest
    empty = False
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        strides_in(row)[d] = stride
        length = shape_in(row)[d]
        if length == 0:
            empty = True
            length = 1
        stride *= length
        product *= length
    row.numel = 0 if empty else stride
    row.flags |= CONTIGUOUS
    return product < MAX_ELEMENTS


@jit
def mark_layout(row):
    """Set the number of elements and the contiguity flag of a slot whose shape and strides are known."""
    row.numel = 1
    for d in range(row.ndim):
        row.numel *= shape_in(row)[d]
    expected = 1
    row.flags |= CONTIGUOUS
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        if shape_in(row)[d] != 1 and strides_in(row)[d] != expected and row.numel > 0:
            row.flags &= ~CONTIGUOUS
        expected *= shape_in(row)[d]


@jit
def copy_geometry(row, source):
    """Give a row the shape and the strides of another."""
    row.ndim = source.ndim
    row.numel = source.numel
    for d in range(source.ndim):
        shape_in(row)[d] = shape_in(source)[d]
        strides_in(row)[d] = strides_in(source)[d]


@jit
def last_offset(row):
    """Return where in its storage the last element of a row that is not empty lies."""
    last = row.offset
    for d in range(row.ndim):
        last += (shape_in(row)[d] - 1) * strides_in(row)[d]
    return last

"""Views by offset, shape and strides, writes through views, and their gradients, for bases of any geometry.

The attributes of these ops describe a view of a storage: ndim, offset, shape, strides. Their gradients are written into
an image of the part of the storage that the view and the base have. Where the base's elements lie in row-major order
and the view has no others, the gradient of the base is that image itself; else the image is the op's second result.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.strided import make_strided_add, make_strided_copy
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.references import adding_back, strided_elements
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, is_few, needed
from tapegrad.runtime.layout import (
    CONTIGUOUS,
    GENERAL,
    IS_VIEW,
    MAX_NDIM,
    VIEW,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    slot_row,
    strides_in,
)
from tapegrad.runtime.strides import last_offset, mark_layout


@jit
def _read_geometry(frame, row):
    """Write the attributes into a row: offset, shape and strides."""
    row.ndim = attribute(frame, 0)
    row.offset = attribute(frame, 1)
    for d in range(row.ndim):
        shape_in(row)[d] = attribute(frame, 2 + d)
        strides_in(row)[d] = attribute(frame, 2 + row.ndim + d)


@jit
def _view_row(frame, memory):
    """Return a row, in 32 words of memory, that has the geometry of the attributes."""
    row = slot_row(memory, 0)
    row.flags = 0
    _read_geometry(frame, row)
    mark_layout(row)
    return row


@jit
def _is_inside(view, base):
    """Return whether the base's elements are in row-major order and all of the view's are among them."""
    if not base.flags & CONTIGUOUS:
        return False
    return view.numel == 0 or (view.offset >= base.offset and last_offset(view) < base.offset + base.numel)


@jit
def _image_range(view, base):
    """Return the first offset that the view or the base has, and how many there are from it to the last."""
    if view.numel == 0 or base.numel == 0:
        row = base if view.numel == 0 else view
        return row.offset, (last_offset(row) + 1 - row.offset if row.numel > 0 else 0)
    low = min(view.offset, base.offset)
    return low, max(last_offset(view), last_offset(base)) + 1 - low


@jit
def _may_coincide(row):
    """Return whether several elements may lie at one place; true for some geometries where none do."""
    if row.flags & CONTIGUOUS:
        return False
    place = row.offset
    walked = 0
    for _ in range(row.ndim):  # each dimension, in the order of the strides, must step over all those before
        best = -1
        for d in range(row.ndim):
            if (walked >> d) & 1 == 0 and (best < 0 or strides_in(row)[d] < strides_in(row)[best]):
                best = d
        walked |= 1 << best
        if shape_in(row)[best] == 1:
            continue
        if strides_in(row)[best] <= place - row.offset:
            return True
        place += (shape_in(row)[best] - 1) * strides_in(row)[best]
    return False


@jit
def _set_image(st, frame, view, base):
    """Give the second result the length of the image: nothing where none is needed, twice where places are counted."""
    image = slot_of(st, output_slot(frame, 1))
    image.ndim = 1
    shape_in(image)[0] = 0
    if not _is_inside(view, base):
        _, length = _image_range(view, base)
        shape_in(image)[0] = 2 * length if _may_coincide(base) else length


@jit
def _shape_like(st, frame, source):
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[d]


def like_base_infer(st, frame):
    """The result has the shape of the base, the second operand."""
    base = slot_of(st, input_slot(frame, 1))
    _shape_like(st, frame, base)
    _set_image(st, frame, _view_row(frame, stack_words(32)), base)
    return 0


def like_view_infer(st, frame):
    """The result has the shape of the view."""
    view = _view_row(frame, stack_words(32))
    _shape_like(st, frame, view)
    _set_image(st, frame, view, slot_of(st, input_slot(frame, 1)))
    return 0


# ---- kernels ----


class _Walks:
    """The loops of one dtype that the kernels are made of, between an image and row-major arrays."""

    def __init__(self, dtype: int) -> None:
        copy, add = make_strided_copy(dtype), make_strided_add(dtype)
        pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

        @jit
        def prepare(row, image_first, scratch):
            """Write what a walk needs: the row's shape, and its strides on one side, row-major ones on the other."""
            words = int64_at(scratch)
            step = 1
            for k in range(row.ndim):
                d = row.ndim - 1 - k
                words[d] = shape_in(row)[d]
                words[(8 if image_first else 16) + d] = strides_in(row)[d]
                words[(16 if image_first else 8) + d] = step
                step *= shape_in(row)[d]
            return scratch

        @jit
        def add_to_image(image, row, x):
            if row.numel > 0:
                add(image + row.offset * itemsize, x, row.ndim, prepare(row, True, stack_words(32)))

        @jit
        def copy_to_image(image, row, x):
            if row.numel > 0:
                copy(image + row.offset * itemsize, x, row.ndim, prepare(row, True, stack_words(32)))

        @jit
        def copy_from_image(y, row, image):
            if row.numel > 0:
                copy(y, image + row.offset * itemsize, row.ndim, prepare(row, False, stack_words(32)))

        @jit
        def fill_image(image, row, x):
            """Write one element, at the address ``x``, to all places of the row."""
            if row.numel == 0:
                return
            scratch = prepare(row, True, stack_words(32))
            for d in range(row.ndim):
                int64_at(scratch)[16 + d] = 0
            copy(image + row.offset * itemsize, x, row.ndim, scratch)

        @jit
        def clear(address, count):
            words = pointer(address)
            for i in range(np.uintp(count)):
                words[i] = 0

        @jit
        def average(image, low, length, base):
            """Divide what was added up in an image by how many elements of the base lie at each place."""
            if not _may_coincide(base):
                return
            sums = pointer(image + low * itemsize)
            counts = pointer(image + (low + length) * itemsize)
            clear(image + (low + length) * itemsize, length)
            one = stack_words(1)
            pointer(one)[0] = 1
            scratch = prepare(base, True, stack_words(32))
            for d in range(base.ndim):
                int64_at(scratch)[16 + d] = 0
            if base.numel > 0:
                add(image + (length + base.offset) * itemsize, one, base.ndim, scratch)
            for i in range(length):
                if counts[i] > 1:
                    sums[i] /= counts[i]

        @jit
        def image_of(st, frame, direct, low):
            """Return the address that the place 0 of the image would have: in an array, or in the second result."""
            if direct >= 0:
                return data_address(st, direct) - slot_of(st, input_slot(frame, 1)).offset * itemsize
            return data_address(st, output_slot(frame, 1)) - low * itemsize

        self.add_to_image, self.copy_to_image, self.copy_from_image = add_to_image, copy_to_image, copy_from_image
        self.fill_image, self.clear, self.average, self.image_of = fill_image, clear, average, image_of


def _scatter_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    walks = _Walks(dtype)
    add_to_image, copy_from_image, image_of = walks.add_to_image, walks.copy_from_image, walks.image_of
    clear, average, itemsize = walks.clear, walks.average, ITEM_BYTES[dtype]

    def kernel(st, frame):
        base = slot_of(st, input_slot(frame, 1))
        view = _view_row(frame, stack_words(32))
        x = data_address(st, input_slot(frame, 0))
        y = output_slot(frame, 0)
        if _is_inside(view, base):
            clear(data_address(st, y), base.numel)
            add_to_image(image_of(st, frame, y, 0), view, x)
            return 0
        low, length = _image_range(view, base)
        image = image_of(st, frame, -1, low)
        clear(image + low * itemsize, length)
        add_to_image(image, view, x)
        average(image, low, length, base)
        copy_from_image(data_address(st, y), base, image)
        return 0

    return kernel


def _gather_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    walks = _Walks(dtype)
    add_to_image, copy_from_image, image_of = walks.add_to_image, walks.copy_from_image, walks.image_of
    clear, average, itemsize = walks.clear, walks.average, ITEM_BYTES[dtype]

    def kernel(st, frame):
        base = slot_of(st, input_slot(frame, 1))
        view = _view_row(frame, stack_words(32))
        y = data_address(st, output_slot(frame, 0))
        if _is_inside(view, base):
            copy_from_image(y, view, image_of(st, frame, input_slot(frame, 0), 0))
            return 0
        low, length = _image_range(view, base)
        image = image_of(st, frame, -1, low)
        clear(image + low * itemsize, length)
        add_to_image(image, base, data_address(st, input_slot(frame, 0)))
        average(image, low, length, base)
        copy_from_image(y, view, image)
        return 0

    return kernel


def _erase_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    walks = _Walks(dtype)
    copy_to_image, copy_from_image, image_of = walks.copy_to_image, walks.copy_from_image, walks.image_of
    fill_image, pointer = walks.fill_image, POINTERS[dtype]

    def kernel(st, frame):
        base = slot_of(st, input_slot(frame, 1))
        view = _view_row(frame, stack_words(32))
        zero = stack_words(1)
        int64_at(zero)[0] = 0
        if _is_inside(view, base):
            x = pointer(data_address(st, input_slot(frame, 0)))
            y = pointer(data_address(st, output_slot(frame, 0)))
            for i in range(np.uintp(base.numel)):
                y[i] = x[i]
            fill_image(image_of(st, frame, output_slot(frame, 0), 0), view, zero)
            return 0
        low, _ = _image_range(view, base)
        image = image_of(st, frame, -1, low)
        copy_to_image(image, base, data_address(st, input_slot(frame, 0)))
        fill_image(image, view, zero)
        copy_from_image(data_address(st, output_slot(frame, 0)), base, image)
        return 0

    return kernel


# ---- the ops ----


def _has_geometry(of_view: bool) -> Rule:
    """The attributes are a view's geometry; the first operand has the view's shape, or else the base's."""

    def rule(x: Operands, a: Attributes) -> bool:
        ndim = a[0] if a else -1
        if not 0 <= ndim <= MAX_NDIM or len(a) < 2 + 2 * ndim or min(a) < 0:
            return False
        shape, strides = tuple(a[2 : 2 + ndim]), a[2 + ndim : 2 + 2 * ndim]
        last = a[1] + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True) if n > 0)
        wanted = shape if of_view else needed(x, 1).shape
        return is_few(*shape) and is_few(last + 1) and needed(x, 0).shape == wanted

    return rule


def as_strided_infer(st, frame):
    _read_geometry(frame, slot_of(st, output_slot(frame, 0)))
    return 0


declare(
    Op(
        name="as_strided",
        inputs=("input",),
        kind=VIEW,
        infer=as_strided_infer,
        vjp=lambda g, y, x: g.as_strided_scatter(x, attributes=OF_ENTRY),
        public=False,
        math="a view by offset, shape and strides",
    )
)


def overlay_infer(st, frame):
    """The result is the base's memory as it is after the write, no view of anything, the head of the same family."""
    result = slot_of(st, output_slot(frame, 0))
    source = slot_of(st, input_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[d]
        strides_in(result)[d] = strides_in(source)[d]
    result.flags &= ~IS_VIEW
    slot_of(st, result.base).refs -= 1
    result.base = -1
    return 0


declare(
    Op(
        name="overlay",
        inputs=("input", "written"),
        kind=VIEW,
        infer=overlay_infer,
        vjp=lambda g, y, x, w: (
            g.overlay_erase(y, attributes=OF_ENTRY),
            g.as_strided_gather(y, attributes=OF_ENTRY),
        ),
        public=False,
        math="x after the write of w through a view of x",
    )
)


def _erased(x: Any, like: Any, *, attributes: tuple[int, ...]) -> Any:
    y = np.array(x, order="C")
    strided_elements(y, attributes)[...] = 0
    return y


_ROW_MAJOR = {
    "layouts": ("offset",)
}  # where NumPy's reference has its elements; tests/test_strided_views.py has others
_CASES = (((2, 4), (1, 1, 3, 2)), ((3, 4), (2, 1, 2, 2, 4, 1)))


def _gradient_op(
    name: str, infer: Callable[..., int], kernel: Callable[..., Any], back: str, reference: Any, **more: Any
) -> None:
    """Declare an op on a gradient and the base; ``back`` is the op that is its own gradient."""
    declare(
        Op(
            name=name,
            inputs=("input", "like"),
            kind=GENERAL,
            outputs=2,
            infer=infer,
            valid=_has_geometry(of_view=name == "as_strided_scatter"),
            kernel=kernel,
            vjp=lambda g, y, x, like: (getattr(g[0], back)(like, attributes=OF_ENTRY), None),
            shape_only=("like",),
            unpromoted=("like",),
            contiguous=("input",),
            public=False,
            reference=lambda *operands, **options: (reference(*operands, **options), np.empty(0)),
            **more,
        )
    )


_gradient_op(
    "as_strided_scatter",
    like_base_infer,
    _scatter_kernel,
    "as_strided_gather",
    reference=adding_back(strided_elements),
    samples=lambda make: [
        ((make(3), make(2, 4)), {"attributes": (1, 1, 3, 2)}, _ROW_MAJOR),
        ((make(2, 2), make(3, 4)), {"attributes": (2, 1, 2, 2, 4, 1)}, _ROW_MAJOR),
        ((make(2, 3), make(4)), {"attributes": (2, 0, 2, 3, 1, 1)}, _ROW_MAJOR),
    ],
    math="zeros like `like`, with x added where as_strided has its elements",
)
_gradient_op(
    "as_strided_gather",
    like_view_infer,
    _gather_kernel,
    "as_strided_scatter",
    reference=lambda x, like, attributes: strided_elements(x, attributes).copy(),
    samples=lambda make: [((make(*shape), make(*shape)), {"attributes": words}, _ROW_MAJOR) for shape, words in _CASES],
    math="the elements of x where as_strided has those of `like`",
)
_gradient_op(
    "overlay_erase",
    like_base_infer,
    _erase_kernel,
    "overlay_erase",
    reference=_erased,
    samples=lambda make: [((make(*shape), make(*shape)), {"attributes": words}, _ROW_MAJOR) for shape, words in _CASES],
    math="x with zeros where as_strided has its elements",
)

"""The ops whose results share their operand's memory: how each finds its shape and strides, and its gradient.

A view that keeps every element (reshape, permute) has another view as its gradient. One that keeps a part (an index, a
diagonal, windows) has an op that writes zeros and adds the gradient where the view has its elements; it uses the view's
own geometry, on a row-major array.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.strided import make_strided_add
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.references import adding_back
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.structural import like_second
from tapegrad.ops.validity import Attributes, Operands, Rule, every, is_dim, needed
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    BAD_DIM,
    BAD_INDEX,
    CONTIGUOUS,
    GENERAL,
    MAX_NDIM,
    TOO_MANY_DIMS,
    VIEW,
    VIEW_IMPOSSIBLE,
    attribute,
    attribute_count,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    slot_row,
    state_of,
    strides_in,
)

SELECT, SLICE, NEW_DIM, ELLIPSIS, SKIP = range(5)  # commands of the op `index`
END = (1 << 63) - 1  # the end of a slice that has none


def _view(name: str, infer: Callable[..., int], vjp: Callable[..., Any], math: str, **more: Any) -> Op:
    options: dict[str, Any] = {"inputs": ("input",), "public": False} | more
    return declare(Op(name=name, kind=VIEW, infer=infer, vjp=vjp, math=math, **options))


# ---- views that keep every element ----


@jit
def _resolve_shape(st, frame, source, result):
    """Write the wanted shape, with the length that -1 stands for; return whether the numbers of elements agree."""
    result.ndim = attribute_count(frame)
    known = 1
    open_dim = -1
    for d in range(result.ndim):
        length = attribute(frame, d)
        shape_in(result)[d] = length
        if length == -1 and open_dim < 0:
            open_dim = d
        elif length < 0:
            return False
        else:
            known *= length
    if open_dim >= 0:
        if known == 0 or source.numel % known != 0:
            return False
        shape_in(result)[open_dim] = source.numel // known
        return True
    return known == source.numel


@jit
def row_major(row):
    """Give a row of known shape its row-major strides."""
    stride = 1
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        strides_in(row)[d] = stride
        stride *= max(shape_in(row)[d], 1)


@jit
def _split_strides(source, result):
    """Find strides with which the result's shape walks the source's elements in order; return whether there are any.

    Each run of the source's dimensions that is walked with one stride must be a product of the result's dimensions.
    """
    goal = result.ndim - 1
    run = 1
    made = 1
    stride = strides_in(source)[source.ndim - 1]
    for k in range(source.ndim):
        d = source.ndim - 1 - k
        run *= shape_in(source)[d]
        if d > 0 and (shape_in(source)[d - 1] == 1 or strides_in(source)[d - 1] == run * stride):
            continue
        while goal >= 0 and (made < run or shape_in(result)[goal] == 1):
            strides_in(result)[goal] = made * stride
            made *= shape_in(result)[goal]
            goal -= 1
        if made != run:
            return False
        if d > 0:
            stride = strides_in(source)[d - 1]
            run = 1
            made = 1
    return goal < 0


def view_infer(st, frame):
    """Attributes: the shape, with at most one -1."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    if attribute_count(frame) > MAX_NDIM:
        return TOO_MANY_DIMS
    if not _resolve_shape(st, frame, source, result):
        return BAD_ARGUMENT
    if source.flags & CONTIGUOUS or source.numel == 0:
        row_major(result)
    elif not _split_strides(source, result):
        return VIEW_IMPOSSIBLE
    return 0


def view_like_infer(st, frame):
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
    row_major(result)
    return 0


VIEW_OP = _view(
    "view",
    view_infer,
    lambda g, y, x: g.view_like(x),
    "x in another shape",
    reference=lambda x, attributes: x.reshape(attributes),
    samples=lambda make: [
        ((make(2, 6),), {"attributes": (2, 3, -1)}),
        ((make(12),), {"attributes": (1, 3, 4, 1)}),
        ((make(2, 3, 4),), {"attributes": (6, 4)}, {"layouts": ("strided", "offset")}),
        ((make(),), {"attributes": (1, 1)}),
        ((make(0, 3),), {"attributes": (3, 0)}),
    ],
)
_view(
    "view_like",
    view_like_infer,
    lambda g, y, x, like: (g.view_like(x), None),
    "x in the shape of `like`",
    inputs=("input", "like"),
    shape_only=("like",),
    unpromoted=("like",),
    contiguous=("input",),
    reference=lambda x, like: x.reshape(like.shape),
    samples=lambda make: [((make(2, 6), make(3, 4)),), ((make(4), make(2, 2)),)],
)


@jit
def _dim(frame, k, ndim):
    """Return attribute ``k``, a dimension that may be counted from the end."""
    dim = attribute(frame, k)
    return dim + ndim if dim < 0 else dim


@jit
def _is_permutation(frame, ndim):
    if attribute_count(frame) != ndim:
        return False
    seen = 0
    for d in range(ndim):
        dim = _dim(frame, d, ndim)
        if dim < 0 or dim >= ndim or (seen >> dim) & 1:
            return False
        seen |= 1 << dim
    return True


def permute_infer(st, frame):
    """Attributes: the source's dimension for each of the result."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = source.ndim
    if not _is_permutation(frame, source.ndim):
        return BAD_ARGUMENT
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[_dim(frame, d, source.ndim)]
        strides_in(result)[d] = strides_in(source)[_dim(frame, d, source.ndim)]
    return 0


def permute_back_infer(st, frame):
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[_dim(frame, d, source.ndim)] = shape_in(source)[d]
        strides_in(result)[_dim(frame, d, source.ndim)] = strides_in(source)[d]
    return 0


PERMUTE = _view(
    "permute",
    permute_infer,
    lambda g, y, x: g.permute_back(attributes=OF_ENTRY),
    "x with its dimensions reordered",
    reference=np.transpose,
    samples=lambda make: [((make(2, 3, 4), (1, -1, 0)),), ((make(5), (0,)),), ((make(2, 0), (1, 0)),)],
)
_view(
    "permute_back",
    permute_back_infer,
    lambda g, y, x: g.permute(attributes=OF_ENTRY),
    "x with its dimensions in their former order",
    reference=lambda x, attributes: np.transpose(x, np.argsort(attributes)),
    samples=lambda make: [((make(2, 3, 4),), {"attributes": (1, 2, 0)}), ((make(3, 4),), {"attributes": (1, 0)})],
)


def transpose_infer(st, frame):
    """Attributes: two dimensions, which may be counted from the end."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    n = max(source.ndim, 1)
    a = attribute(frame, 0)
    b = attribute(frame, 1)
    if a < -n or a >= n or b < -n or b >= n:
        return BAD_DIM
    a += n if a < 0 else 0
    b += n if b < 0 else 0
    result.ndim = source.ndim
    for d in range(source.ndim):
        from_dim = b if d == a else (a if d == b else d)
        shape_in(result)[d] = shape_in(source)[from_dim]
        strides_in(result)[d] = strides_in(source)[from_dim]
    return 0


TRANSPOSE = _view(
    "transpose",
    transpose_infer,
    lambda g, y, x: g.transpose(attributes=OF_ENTRY),
    "x with two dimensions swapped",
    reference=np.swapaxes,
    samples=lambda make: [((make(2, 3, 4), 0, -1),), ((make(3, 3), 1, 0),), ((make(4), 0, 0),)],
)


def squeeze_infer(st, frame):
    """Attribute: the mask of the dimensions, all of length 1, that are left out."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    ndim = 0
    for d in range(source.ndim):
        if (attribute(frame, 0) >> d) & 1:
            continue
        shape_in(result)[ndim] = shape_in(source)[d]
        strides_in(result)[ndim] = strides_in(source)[d]
        ndim += 1
    result.ndim = ndim
    return 0


def unsqueeze_infer(st, frame):
    """Attribute: the mask of the result's dimensions that are new."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    mask = attribute(frame, 0)
    added = 0
    for d in range(MAX_NDIM + 1):
        added += (mask >> d) & 1
    ndim = source.ndim + added
    if ndim > MAX_NDIM:
        return TOO_MANY_DIMS
    result.ndim = ndim
    d = source.ndim
    stride = 1
    for k in range(ndim):
        goal = ndim - 1 - k
        if (mask >> goal) & 1:
            shape_in(result)[goal] = 1
            strides_in(result)[goal] = stride
            continue
        d -= 1
        shape_in(result)[goal] = shape_in(source)[d]
        strides_in(result)[goal] = strides_in(source)[d]
        stride = strides_in(source)[d] * shape_in(source)[d]
    return 0


SQUEEZE = _view(
    "squeeze",
    squeeze_infer,
    lambda g, y, x: g.unsqueeze(attributes=OF_ENTRY),
    "x without dimensions of length 1",
    reference=np.squeeze,
    samples=lambda make: [((make(2, 1, 3, 1),),), ((make(1, 3, 1), -1),), ((make(1, 2, 1), (0, 2)),), ((make(1),),)],
)
UNSQUEEZE = _view(
    "unsqueeze",
    unsqueeze_infer,
    lambda g, y, x: g.squeeze(attributes=OF_ENTRY),
    "x with new dimensions of length 1",
    reference=np.expand_dims,
    samples=lambda make: [((make(2, 3), 1),), ((make(2, 3), -1),), ((make(), 0),)],
)


def expand_infer(st, frame):
    """Attributes: the shape; -1 keeps a length."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    ndim = attribute_count(frame)
    lead = ndim - source.ndim
    if ndim > MAX_NDIM:
        return TOO_MANY_DIMS
    if lead < 0:
        return BAD_ARGUMENT
    result.ndim = ndim
    for d in range(ndim):
        length = attribute(frame, d)
        have = shape_in(source)[d - lead] if d >= lead else 1
        if length == -1 and d >= lead:
            length = have
        if length < 0 or (have != 1 and have != length):
            return BAD_ARGUMENT
        shape_in(result)[d] = length
        strides_in(result)[d] = strides_in(source)[d - lead] if d >= lead and have == length else 0
    return 0


EXPAND = _view(
    "expand",
    expand_infer,
    lambda g, y, x: g,
    "x broadcast to a shape",
    reference=lambda x, attributes: np.broadcast_to(x, attributes),
    samples=lambda make: [
        ((make(3, 1),), {"attributes": (2, 3, 4)}),
        ((make(),), {"attributes": (2, 3)}),
        ((make(1, 3),), {"attributes": (0, 3)}),
    ],
)


# ---- views that keep a part ----


def _partial_view(
    name: str,
    geometry: Callable[..., int],
    math: str,
    pick: Callable[..., Any],
    cases: list[tuple[tuple[int, ...], tuple[int, ...]]],
    sane: Rule,
    positional: bool = False,
) -> Op:
    """Declare a view by ``geometry(st, frame, source, result)`` on rows of slots, and the op that is its gradient.

    ``pick(x, attributes)`` is the view in NumPy, which is tested on cases of shapes and attributes; ``positional``:
    those are the arguments of the public function of that name.
    """

    def infer(st, frame):
        return geometry(st, frame, slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0)))

    def kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
        add, pointer, itemsize = make_strided_add(dtype), POINTERS[dtype], ITEM_BYTES[dtype]

        @jit
        def add_through(st, frame, source, result):
            """Add the source where the view of the result has its elements."""
            part = slot_row(stack_words(32), 0)
            part.offset = 0
            status = geometry(st, frame, result, part)
            if status < 0 or source.numel == 0:
                return status
            y = data_address(st, output_slot(frame, 0)) + part.offset * itemsize
            scratch = stack_words(32)
            for d in range(part.ndim):
                int64_at(scratch)[d] = shape_in(part)[d]
                int64_at(scratch)[8 + d] = strides_in(part)[d]
                int64_at(scratch)[16 + d] = strides_in(source)[d]
            add(y, data_address(st, input_slot(frame, 0)), part.ndim, scratch)
            return 0

        def backward(st, frame):
            source = slot_of(st, input_slot(frame, 0))
            result = slot_of(st, output_slot(frame, 0))
            y = pointer(data_address(st, output_slot(frame, 0)))
            if output_slot(frame, 0) != input_slot(frame, 1):
                for i in range(np.uintp(result.numel)):
                    y[i] = 0
            return add_through(st, frame, source, result)

        return backward

    def picked(x: Operands, a: Attributes) -> bool:
        """The first operand has the shape of what is picked of the second one."""
        picked_shape: tuple[int, ...] = pick(np.broadcast_to(np.int8(0), needed(x, 1).shape), tuple(a)).shape
        return picked_shape == needed(x, 0).shape

    infer.__qualname__ = f"{name}_infer"
    back = f"{name}_backward"
    op = _view(
        name,
        infer,
        lambda g, y, x: getattr(g, back)(x, attributes=OF_ENTRY),
        math,
        reference=(lambda x, *attributes: pick(x, attributes)) if positional else pick,
        samples=lambda make: [
            ((make(*shape), *attributes),) if positional else ((make(*shape),), {"attributes": attributes})
            for shape, attributes in cases
        ],
    )
    declare(
        Op(
            name=back,
            inputs=("input", "like"),
            kind=GENERAL,
            infer=like_second,
            valid=every(sane, picked),
            kernel=kernel,
            vjp=lambda g, y, x, like: (getattr(g, name)(attributes=OF_ENTRY), None),
            shape_only=("like",),
            unpromoted=("like",),
            accumulates=True,
            public=False,
            reference=adding_back(pick),
            samples=lambda make: [
                ((make(*np.shape(pick(np.empty(shape), attributes))), make(*shape)), {"attributes": attributes})
                for shape, attributes in cases
            ],
            math=f"zeros like `like`, with x added where `{name}` has its elements",
        )
    )
    return op


@jit
def _command_words(kind):
    """Return the words of a command of `index`: SELECT at, SLICE start stop step, NEW_DIM, ELLIPSIS, SKIP count."""
    if kind == SLICE:
        return 4
    return 2 if kind == SELECT or kind == SKIP else 1


@jit
def _scan_commands(frame, source):
    """Return how many dimensions the commands use up and how many the result has."""
    used = 0
    ndim = 0 + source.ndim
    k = 0
    while k < attribute_count(frame):
        kind = attribute(frame, k)
        if kind == SKIP:
            used += attribute(frame, k + 1)
        elif kind == SELECT:
            used += 1
            ndim -= 1
        elif kind == SLICE:
            used += 1
        elif kind == NEW_DIM:
            ndim += 1
        k += _command_words(kind)
    return used, ndim


@jit
def _slice_bound(value, length):
    value += length if value < 0 else 0
    return 0 if value < 0 else (length if value > length else value)


@jit
def _copy_dims(source, first, count, result, to):
    for k in range(count):
        shape_in(result)[to + k] = shape_in(source)[first + k]
        strides_in(result)[to + k] = strides_in(source)[first + k]


@jit
def index_geometry(st, frame, source, result):
    """Attributes: commands, for the source's dimensions in order."""
    used, ndim = _scan_commands(frame, source)
    if used > source.ndim:
        state_of(st).error_value0 = used
        return BAD_DIM
    if ndim > MAX_NDIM:
        return TOO_MANY_DIMS
    rest = source.ndim - used
    d = 0
    to = 0
    k = 0
    while k < attribute_count(frame):
        kind = attribute(frame, k)
        if kind == SELECT:
            at = attribute(frame, k + 1)
            n = shape_in(source)[d]
            if at < -n or at >= n:
                state_of(st).error_value0 = at
                state_of(st).error_value1 = n
                state_of(st).error_slot0 = d
                return BAD_INDEX
            result.offset += (at + n if at < 0 else at) * strides_in(source)[d]
            d += 1
        elif kind == SLICE:
            start = _slice_bound(attribute(frame, k + 1), shape_in(source)[d])
            stop = _slice_bound(attribute(frame, k + 2), shape_in(source)[d])
            step = attribute(frame, k + 3)
            shape_in(result)[to] = (stop - start + step - 1) // step if stop > start else 0
            strides_in(result)[to] = strides_in(source)[d] * step
            result.offset += start * strides_in(source)[d]
            d += 1
            to += 1
        elif kind == NEW_DIM:
            shape_in(result)[to] = 1
            strides_in(result)[to] = strides_in(source)[d] * shape_in(source)[d] if d < source.ndim else 1
            to += 1
        else:
            count = rest if kind == ELLIPSIS else attribute(frame, k + 1)
            _copy_dims(source, d, count, result, to)
            d += count
            to += count
        k += _command_words(kind)
    _copy_dims(source, d, source.ndim - d, result, to)
    result.ndim = to + source.ndim - d
    return 0


@jit
def diagonal_geometry(st, frame, source, result):
    """Attributes: offset, and two different dimensions counted from the front."""
    offset, a, b = attribute(frame, 0), attribute(frame, 1), attribute(frame, 2)
    rows = shape_in(source)[a] + (offset if offset < 0 else 0)
    columns = shape_in(source)[b] - (offset if offset > 0 else 0)
    length = rows if rows < columns else columns
    stride = strides_in(source)[a] + strides_in(source)[b]
    if length > 0:
        result.offset += offset * strides_in(source)[b] if offset > 0 else -offset * strides_in(source)[a]
    to = 0
    for d in range(source.ndim):
        if d != a and d != b:
            _copy_dims(source, d, 1, result, to)
            to += 1
    shape_in(result)[to] = length if length > 0 else 0
    strides_in(result)[to] = stride
    result.ndim = to + 1
    return 0


@jit
def unfold_geometry(st, frame, source, result):
    """Attributes: dimension, size of a window, step between windows."""
    dim, size, step = attribute(frame, 0), attribute(frame, 1), attribute(frame, 2)
    if source.ndim >= MAX_NDIM:
        return TOO_MANY_DIMS
    _copy_dims(source, 0, source.ndim, result, 0)
    shape_in(result)[source.ndim] = size
    strides_in(result)[source.ndim] = strides_in(source)[dim] if source.ndim > 0 else 1
    result.ndim = source.ndim + 1
    if source.ndim > 0:
        shape_in(result)[dim] = (shape_in(source)[dim] - size) // step + 1
        strides_in(result)[dim] = strides_in(source)[dim] * step
    return 0


def _index(x: Any, attributes: tuple[int, ...]) -> Any:
    key: list[Any] = []
    words = iter(attributes)
    for command in words:
        if command == SELECT:
            key.append(next(words))
        elif command == SLICE:
            key.append(slice(next(words), next(words), next(words)))
        elif command == SKIP:
            key += [slice(None)] * next(words)
        else:
            key.append(None if command == NEW_DIM else ...)
    return x[tuple(key)]


def _windows(x: Any, attributes: tuple[int, ...]) -> Any:
    dim, size, step = attributes
    windows = np.lib.stride_tricks.sliding_window_view(x, size, dim)
    return np.moveaxis(np.moveaxis(windows, dim, 0)[::step], 0, dim)


def _are_commands(x: Operands, a: Attributes) -> bool:
    """The attributes are whole commands, no more dimensions are left out than there are, and steps are forwards."""
    words, skipped = list(a), 0
    while words:
        kind, size = words[0], {SELECT: 2, SLICE: 4, SKIP: 2}.get(words[0], 1)
        if kind not in (SELECT, SLICE, SKIP, NEW_DIM, ELLIPSIS) or len(words) < size:
            return False
        if (kind == SLICE and words[3] < 1) or (kind == SKIP and not 0 <= words[1] <= MAX_NDIM):
            return False
        skipped += kind == ELLIPSIS
        words = words[size:]
    return skipped <= 1


INDEX = _partial_view(
    "index",
    index_geometry,
    "x at integers and slices",
    _index,
    [
        ((3, 4), (SELECT, 1)),
        ((3, 6, 2), (SLICE, 0, 2, 1, SLICE, 1, END, 2, NEW_DIM)),
        ((3, 4, 2), (ELLIPSIS, SELECT, -1)),
        ((2, 3, 4), (SKIP, 2, SLICE, 3, 1, 1)),
        ((3,), (NEW_DIM, SELECT, 2)),
    ],
    _are_commands,
)
DIAGONAL = _partial_view(
    "diagonal",
    diagonal_geometry,
    "the elements where two indices are the same, but for an offset",
    lambda x, attributes: np.diagonal(x, *attributes),
    [((3, 4), (0, 0, 1)), ((3, 4), (-1, 1, 0)), ((2, 4, 3), (1, 1, 2)), ((2, 2), (5, 0, 1))],
    lambda x, a: len(a) == 3 and a[1] != a[2] and all(is_dim(d, needed(x, 1).shape) for d in a[1:]),
    positional=True,
)
UNFOLD = _partial_view(
    "unfold",
    unfold_geometry,
    "windows of x along a dimension",
    _windows,
    [((7,), (0, 3, 2)), ((2, 5), (1, 2, 1)), ((5, 2), (0, 3, 1))],
    lambda x, a: len(a) == 3 and is_dim(a[0], needed(x, 1).shape) and a[1] >= 0 and a[2] > 0,
)

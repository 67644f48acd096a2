"""Small ops that linear algebra's gradient rules are made of: transposes, rows, columns, triangles, identities."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.lapack import TRANSPOSED, UNIT, UPPER
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits
from tapegrad.ops.registry import ALL_DTYPES, FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import at_least, attributes, every, matrices
from tapegrad.runtime.layout import (
    GENERAL,
    VIEW,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)


@jit
def rows_of(row):
    return shape_in(row)[row.ndim - 2]


@jit
def columns_of(row):
    return shape_in(row)[row.ndim - 1]


@jit
def copy_lead(source, result, dropped):
    """Give the result the dimensions of the source but the last ``dropped``; return how many those are."""
    for d in range(source.ndim - dropped):
        shape_in(result)[d] = shape_in(source)[d]
    return source.ndim - dropped


# ---- views ----


@jit
def _copy_geometry(source, result):
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[d]
        strides_in(result)[d] = strides_in(source)[d]


def matrix_transpose_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    _copy_geometry(x, y)
    i, j = x.ndim - 2, x.ndim - 1
    shape_in(y)[i], shape_in(y)[j] = shape_in(x)[j], shape_in(x)[i]
    strides_in(y)[i], strides_in(y)[j] = strides_in(x)[j], strides_in(x)[i]
    return 0


@jit
def _insert_one(st, frame, place):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim + 1
    for d in range(y.ndim):
        source = d if d < place else d - 1
        shape_in(y)[d] = 1 if d == place else shape_in(x)[source]
        strides_in(y)[d] = 1 if d == place else strides_in(x)[source]
    return 0


def as_column_infer(st, frame):
    return _insert_one(st, frame, slot_of(st, input_slot(frame, 0)).ndim)


def as_row_infer(st, frame):
    return _insert_one(st, frame, slot_of(st, input_slot(frame, 0)).ndim - 1)


@jit
def _remove_one(st, frame, place):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim - 1
    for d in range(y.ndim):
        source = d if d < place else d + 1
        shape_in(y)[d] = shape_in(x)[source]
        strides_in(y)[d] = strides_in(x)[source]
    return 0


def from_column_infer(st, frame):
    return _remove_one(st, frame, slot_of(st, input_slot(frame, 0)).ndim - 1)


def from_row_infer(st, frame):
    return _remove_one(st, frame, slot_of(st, input_slot(frame, 0)).ndim - 2)


def _view(name: str, infer: Callable[..., int], vjp: Callable[..., Any], math: str, reference: Any, samples: Any) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=VIEW,
            infer=infer,
            vjp=vjp,
            public=False,
            math=math,
            reference=reference,
            samples=samples,
        )
    )


MT = _view(
    "matrix_transpose",
    matrix_transpose_infer,
    lambda g, y, x: g.matrix_transpose(),
    "x^T, of each matrix",
    lambda x: np.swapaxes(x, -1, -2),
    lambda make: [((make(3, 4),),), ((make(2, 3, 4),),)],
)
_view(
    "as_column",
    as_column_infer,
    lambda g, y, x: g.from_column(),
    "x[..., None]",
    lambda x: x[..., None],
    lambda make: [((make(3),),), ((make(2, 3),),)],
)
_view(
    "as_row",
    as_row_infer,
    lambda g, y, x: g.from_row(),
    "x[..., None, :]",
    lambda x: x[..., None, :],
    lambda make: [((make(3),),), ((make(2, 3),),)],
)
_view(
    "from_column",
    from_column_infer,
    lambda g, y, x: g.as_column(),
    "x[..., 0]",
    lambda x: x[..., 0],
    lambda make: [((make(3, 1),),)],
)
_view(
    "from_row",
    from_row_infer,
    lambda g, y, x: g.as_row(),
    "x[..., 0, :]",
    lambda x: x[..., 0, :],
    lambda make: [((make(1, 3),),)],
)


# ---- triangles ----


def same_shape_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = copy_lead(x, y, 0)
    return 0


def _weigh_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Attributes: the weights of the elements below, on and above the diagonal."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        row = slot_of(st, input_slot(frame, 0))
        x, y = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, output_slot(frame, 0)))
        m, n = rows_of(row), columns_of(row)
        below, on = scalar(float64_from_bits(attribute(frame, 0))), scalar(float64_from_bits(attribute(frame, 1)))
        above, zero = scalar(float64_from_bits(attribute(frame, 2))), scalar(0)
        for line in range(row.numel // max(n, 1)):
            i = line % m
            for j in range(n):
                weight = below if j < i else on if j == i else above
                y[line * n + j] = x[line * n + j] * weight if weight != zero else zero
        return 0

    return kernel


def _weigh(x: Any, *, attributes: tuple[float, float, float]) -> Any:
    below, on, above = attributes
    m, n = x.shape[-2:]
    return x * (below * np.tri(m, n, -1) + on * np.eye(m, n) + above * (1 - np.tri(m, n)))


declare(
    Op(
        name="weigh_triangles",
        valid=every(attributes(3), at_least(2)),
        inputs=("input",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=same_shape_infer,
        kernel=_weigh_kernel,
        vjp=lambda g, y, x: g.weigh_triangles(attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=_weigh,
        samples=lambda make: [
            ((make(3, 3),), {"attributes": (1.0, 0.5, 0.0)}),
            ((make(2, 2, 3),), {"attributes": (1.0, 0.0, -1.0)}),
        ],
        math="x with its lower triangle, diagonal and upper triangle weighed",
    )
)


def _triangle_kernel(back: bool) -> Callable[[int, int], Callable[..., int]]:
    """Attribute: flags of solve_triangular. A's triangle of x, or of x^T if A is TRANSPOSED; ``back``: its adjoint."""

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        pointer, zero = POINTERS[dtype], SCALARS[dtype](0)

        def kernel(st, frame):
            row, flags = slot_of(st, input_slot(frame, 0)), attribute(frame, 0)
            x, y = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, output_slot(frame, 0)))
            n = columns_of(row)
            turned = flags & TRANSPOSED != 0
            for index in range(row.numel // max(n * n, 1)):
                start = index * n * n
                for i in range(n):
                    for j in range(n):
                        inside = i <= j if (flags & UPPER != 0) != (turned and back) else i >= j
                        inside = inside and not (i == j and flags & UNIT != 0)
                        at = j * n + i if turned else i * n + j
                        y[start + i * n + j] = x[start + at] if inside else zero
            return 0

        return kernel

    return make


def _triangle(back: bool) -> Callable[..., Any]:
    def reference(x: Any, *, attributes: tuple[int]) -> Any:
        flags = attributes[0]
        n = x.shape[-1]
        mask = np.tri(n) - (np.eye(n) if flags & UNIT else 0)
        mask = mask.T if flags & UPPER else mask
        turn = (lambda a: np.swapaxes(a, -1, -2)) if flags & TRANSPOSED else (lambda a: a)
        return turn(mask * x) if back else mask * turn(x)

    return reference


for _name, _other, _back in (
    ("triangle_of", "triangle_of_adjoint", False),
    ("triangle_of_adjoint", "triangle_of", True),
):
    declare(
        Op(
            name=_name,
            inputs=("input",),
            kind=GENERAL,
            dtypes=FLOATS,
            infer=same_shape_infer,
            valid=matrices(square=True, flags=range(16)),
            kernel=_triangle_kernel(_back),
            vjp=lambda g, y, x, name=_other: getattr(g, name)(attributes=OF_ENTRY),
            contiguous=("input",),
            public=False,
            reference=_triangle(_back),
            samples=lambda make: [((make(3, 3),), {"attributes": (flags,)}) for flags in (0, 1, 2, 8, 9, 11)],
            math="the triangle that a triangular system reads",
        )
    )


def _eye_like_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        row = slot_of(st, output_slot(frame, 0))
        y, n = pointer(data_address(st, output_slot(frame, 0))), columns_of(row)
        for i in range(row.numel):
            y[i] = scalar(1 if i % n == i // n % rows_of(row) else 0)
        return 0

    return kernel


declare(
    Op(
        name="eye_like",
        valid=at_least(2),
        inputs=("like",),
        kind=GENERAL,
        dtypes=ALL_DTYPES,
        infer=same_shape_infer,
        kernel=_eye_like_kernel,
        shape_only=("like",),
        public=False,
        reference=lambda x: np.broadcast_to(np.eye(*x.shape[-2:]), x.shape),
        samples=lambda make: [((make(2, 3, 3),), {}, {"gradient": False})],
        math="identities of the shape of `like`",
    )
)

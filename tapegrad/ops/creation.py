"""Makes tensors without data: empty, zeros, ones, full, arange, linspace, logspace, eye, the indices of triangles."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.dtypes import BOOL, FLOAT32, INT64, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits
from tapegrad.ops.calls import TORCH_NAMES, check_ndim, function, functions, shape_of, tensor_method
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.validity import Rule, is_few
from tapegrad.runtime.dtype import DTYPES, dtype_of
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.entry_points import FIELDS
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    MAX_NDIM,
    REQUIRES_GRAD,
    STATE,
    attribute,
    attribute_count,
    data_address,
    output_slot,
    shape_in,
    slot_of,
)
from tapegrad.runtime.machine import machine

_emit, _new_tensor = machine.emit, machine.new_tensor
_ADDRESS = FIELDS.index("address")
_default_dtype = ctypes.c_int64.from_address(machine.address + STATE.fields["default_dtype"][1])  # type: ignore[index]


# ---- ops without operands; attribute 0 is the result's dtype ----


def full_infer(st, frame):
    """Attributes: dtype, number, the shape."""
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = attribute_count(frame) - 2
    for d in range(y.ndim):
        shape_in(y)[d] = attribute(frame, 2 + d)
    return 0


def _full_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[result_dtype], SCALARS[result_dtype]
    is_float = bool(1 << result_dtype & FLOATS)

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        value = scalar(float64_from_bits(attribute(frame, 1))) if is_float else scalar(attribute(frame, 1))
        for i in range(np.uintp(slot_of(st, output_slot(frame, 0)).numel)):
            y[i] = value
        return 0

    return kernel


def row_infer(st, frame):
    """Attributes: dtype, length, two numbers."""
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 1
    shape_in(y)[0] = attribute(frame, 1)
    return 0


def _arange_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """y[i] = start + i step, in float64 or int64."""
    pointer, scalar = POINTERS[result_dtype], SCALARS[result_dtype]
    is_float = bool(1 << result_dtype & FLOATS)

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        n = slot_of(st, output_slot(frame, 0)).numel
        if is_float:
            start, step = float64_from_bits(attribute(frame, 2)), float64_from_bits(attribute(frame, 3))
            for i in range(n):
                y[i] = scalar(start + i * step)
        else:
            first, stride = attribute(frame, 2), attribute(frame, 3)
            for i in range(n):
                y[i] = scalar(first + i * stride)
        return 0

    return kernel


def _linspace_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """From both ends to the middle, so that both ends are exact; integers are cut."""
    pointer, scalar = POINTERS[result_dtype], SCALARS[result_dtype]

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        n = slot_of(st, output_slot(frame, 0)).numel
        start, end = float64_from_bits(attribute(frame, 2)), float64_from_bits(attribute(frame, 3))
        step = (end - start) / max(n - 1, 1)
        for i in range(n):
            y[i] = scalar(start + i * step if i < n // 2 or n == 1 else end - (n - 1 - i) * step)
        return 0

    return kernel


def eye_infer(st, frame):
    """Attributes: dtype, rows, columns."""
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 2
    shape_in(y)[0] = attribute(frame, 1)
    shape_in(y)[1] = attribute(frame, 2)
    return 0


def _eye_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[result_dtype], SCALARS[result_dtype]

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        n, m = attribute(frame, 1), attribute(frame, 2)
        for i in range(np.uintp(n * m)):
            y[i] = scalar(0)
        for i in range(min(n, m)):
            y[i * m + i] = scalar(1)
        return 0

    return kernel


def _source(
    name: str,
    infer: Callable[..., int],
    kernel: Callable[[int, int], Callable[..., int]],
    math: str,
    reference: Any,
    samples: list[Any],
    valid: Rule,
) -> Op:
    return declare(
        Op(
            name=name,
            inputs=(),
            kind=GENERAL,
            result=FROM_ATTRIBUTE,
            infer=infer,
            valid=valid,
            kernel=kernel,
            public=False,
            reference=reference,
            samples=lambda make: samples,
            math=math,
        )
    )


FULL = _source(
    "full",
    full_infer,
    _full_kernel,
    "a number everywhere",
    np.full,
    [(((2, 3), 1.5),), (((0,), 2),), (((), True),)],
    lambda x, a: len(a) >= 2 and len(a) <= 2 + MAX_NDIM and is_few(*a[2:]),
)
ARANGE = _source(
    "arange",
    row_infer,
    _arange_kernel,
    "start + i step",
    np.arange,
    [((5,),), ((1, 2, 0.25),), ((7, -2, -3),)],
    lambda x, a: len(a) >= 4 and is_few(a[1]),
)
LINSPACE = _source(
    "linspace",
    row_infer,
    _linspace_kernel,
    "start + i (end - start) / (n - 1)",
    np.linspace,
    [((-1.0, 2.0, 7),), ((3.0, 1.0, 1),)],
    lambda x, a: len(a) >= 4 and is_few(a[1]),
)
EYE = _source(
    "eye",
    eye_infer,
    _eye_kernel,
    "1 on the diagonal, 0 elsewhere",
    np.eye,
    [((3,),), ((2, 4),), ((0,),)],
    lambda x, a: len(a) >= 3 and is_few(*a[1:3]),
)


# ---- arguments ----


def shape_argument(size: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the shape that ``*size`` names: lengths, or one sequence of them; RuntimeError for a negative length."""
    if len(size) == 1 and type(size[0]) is int and size[0] >= 0:
        return size
    if len(size) == 1 and type(size[0]) is not int and not isinstance(size[0], int | Tensor):
        size = tuple(size[0])
    for length in size:
        if type(length) is not int and not isinstance(length, int):
            return shape_argument(tuple(length.__index__() for length in size))
        if length < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {length}: {list(size)}")
    check_ndim(len(size), "empty")
    return size


def check_device(device: Any) -> None:
    """Accept the CPU under any of its names; RuntimeError for other devices."""
    if device is not None and str(device).split(":")[0] != "cpu":
        raise RuntimeError(f"tapegrad computes on the CPU only, got device {str(device)!r}")


def code_of(dtype: Any, out: Any = None) -> int:
    """Return the code of a dtype; for None that of ``out``, or the default one."""
    if dtype is None:
        return _default_dtype.value if out is None else machine.dtype_of(out._handle)
    if out is not None and dtype_of(dtype).code != machine.dtype_of(out._handle):
        names = (TORCH_NAMES[dtype_of(dtype).code], TORCH_NAMES[machine.dtype_of(out._handle)])
        raise RuntimeError(f"dtype {names[0]} does not match dtype of out parameter ({names[1]})")
    return dtype.code if type(dtype) is DType else dtype_of(dtype).code


def finish(handle: int, requires_grad: bool = False, out: Any = None) -> Tensor:
    """Return the tensor of a handle, or ``out`` with its numbers, or raise what a status stands for."""
    if handle < 0:
        raise_status(handle)
    if out is not None:
        return functions["_write_out"](out, wrap(handle))
    if requires_grad:
        if machine.dtype_of(handle) < FLOAT32:
            machine.release(handle)
            raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
        machine.set_flags(handle, REQUIRES_GRAD, 0)
    return wrap(handle)


def _filled(shape: tuple[Any, ...], value: Any, code: int, requires_grad: bool = False, out: Any = None) -> Tensor:
    word = float(value) if code >= FLOAT32 else int(bool(value)) if code == BOOL else int(value)
    return finish(_emit(FULL.code, 0, code, word, *shape), requires_grad, out)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor | np.generic) else value


def _code_of_numbers(dtype: Any, *values: Any) -> int:
    """Return the code of a dtype; for None int64 if all the numbers are ints, else the default dtype."""
    if dtype is None and all(isinstance(value, int) for value in values):
        return BOOL if len(values) == 1 and isinstance(values[0], bool) else INT64
    return code_of(dtype)


# ---- public ----


@function(method=False)
def empty(
    *size: Any,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Return a tensor of the given shape whose numbers are not set.

    Args:
        *size: the shape, as ints or as one sequence of them.
        dtype: by default the default float dtype.
        device: only ``"cpu"``.
        requires_grad: whether operations on the result are to be recorded.
        out: a tensor to write the result into, of the result's shape, or empty.
        layout, pin_memory, memory_format: accepted for torch's sake.
    """
    if device is not None:
        check_device(device)
    return finish(_new_tensor(code_of(dtype, out), *shape_argument(size)), requires_grad, out)


@function(method=False)
def zeros(
    *size: Any, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of zeros; the arguments are those of ``empty``.

    Example:
        >>> import tapegrad as tg
        >>> tg.zeros(2, 3).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if device is not None:
        check_device(device)
    return _filled(shape_argument(size), 0, code_of(dtype, out), requires_grad, out)


@function(method=False)
def ones(
    *size: Any, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of ones; the arguments are those of ``empty``."""
    if device is not None:
        check_device(device)
    return _filled(shape_argument(size), 1, code_of(dtype, out), requires_grad, out)


@function(method=False)
def full(
    size: Any,
    fill_value: Any,
    *,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of the shape ``size`` with one number everywhere, by default of the number's dtype.

    Args:
        fill_value: the number.
    """
    check_device(device)
    value = _number(fill_value)
    shape = shape_argument((size,) if isinstance(size, int) else tuple(size))
    code = _code_of_numbers(dtype, value) if out is None else code_of(dtype, out)
    return _filled(shape, value, code, requires_grad, out)


def _like(make: Callable[[tuple[int, ...], int, bool], Tensor]) -> Callable[..., Tensor]:
    def like(
        input: Tensor,
        *,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        check_device(device)
        code = machine.dtype_of(input._handle) if dtype is None else code_of(dtype)
        return make(shape_of(input), code, requires_grad)

    return like


for _name, _make in (
    ("empty", lambda shape, code, grad: finish(_new_tensor(code, *shape), grad)),
    ("zeros", lambda shape, code, grad: _filled(shape, 0, code, grad)),
    ("ones", lambda shape, code, grad: _filled(shape, 1, code, grad)),
):
    _function = _like(_make)
    _function.__name__ = _function.__qualname__ = f"{_name}_like"
    _function.__doc__ = f"Return ``{_name}`` of the shape and, by default, the dtype of ``input``."
    function(method=False)(_function)


@function(method=False)
def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Return a tensor of the shape and, by default, the dtype of ``input`` with one number everywhere.

    Args:
        fill_value: the number.
    """
    return full(shape_of(input), fill_value, dtype=_dtype(input, dtype), device=device, requires_grad=requires_grad)


def _dtype(input: Tensor, dtype: Any) -> Any:
    return DTYPES[machine.dtype_of(input._handle)] if dtype is None else dtype


def _new(make: Callable[..., Tensor]) -> None:
    """Make a method ``new_...``: the function with the dtype of the tensor by default."""
    name = f"new_{make.__name__}"

    def method(self: Tensor, *size: Any, dtype: Any = None, **named: Any) -> Tensor:
        return make(*size, dtype=_dtype(self, dtype), **named)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Return ``{make.__name__}`` of the given shape and, by default, this tensor's dtype."
    tensor_method(name)(method)


for _maker in (empty, zeros, ones, full):
    _new(_maker)


@function(method=False)
def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return ``start``, ``start + step``, ... up to ``end``, which is left out; one number alone is the end.

    Returns:
        [ceil((end - start) / step)]; int64 if all the numbers are ints, else the default dtype.

    Raises:
        RuntimeError: ``step`` is 0 or leads away from ``end``.

    Example:
        >>> import tapegrad as tg
        >>> tg.arange(1, 2.5, 0.5).tolist()
        [1.0, 1.5, 2.0]
    """
    check_device(device)
    if end is None:
        start, end = 0, start
    start, end, step = _number(start), _number(end), _number(step)
    code = _code_of_numbers(dtype, start, end, step) if out is None else code_of(dtype, out)
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    if code < FLOAT32:
        whole = all(isinstance(value, int) for value in (start, end, step))
        count = -((start - end) // step) if whole else math.ceil((end - start) / step)
        return finish(_emit(ARANGE.code, 0, code, count, int(start), int(step)), requires_grad, out)
    count = math.ceil((end - start) / step)
    return finish(_emit(ARANGE.code, 0, code, count, float(start), float(step)), requires_grad, out)


@function(method=False)
def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return ``steps`` numbers at equal distances from ``start`` to ``end``, both included.

    Raises:
        RuntimeError: ``steps`` is negative.
    """
    check_device(device)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    words = (float(_number(start)), float(_number(end)))
    return finish(_emit(LINSPACE.code, 0, code_of(dtype, out), int(steps), *words), requires_grad, out)


@function(method=False)
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return ``base ** x`` for ``steps`` numbers x at equal distances from ``start`` to ``end``, both included."""
    check_device(device)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    exponents = np.linspace(float(_number(start)), float(_number(end)), int(steps))
    result = from_array(np.power(float(base), exponents).astype(DTYPES[code_of(dtype, out)].numpy), requires_grad)
    return result if out is None else functions["_write_out"](out, result)


def from_array(array: Any, requires_grad: bool = False) -> Tensor:
    """Return a tensor with a copy of a contiguous array, whose dtype must be one of tapegrad's."""
    result = finish(_new_tensor(dtype_of(array.dtype).code, *array.shape), requires_grad)
    ctypes.memmove(machine.fields_of(result._handle)[_ADDRESS], array.ctypes.data, array.nbytes)
    return result


@function(method=False)
def eye(
    n: int,
    m: int | None = None,
    *,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a matrix [n, m] (by default [n, n]) of ones on the diagonal and zeros elsewhere.

    Args:
        n: the number of rows.
        m: the number of columns; by default ``n``.
    """
    check_device(device)
    m = n if m is None else m
    for name, length in (("n", n), ("m", m)):
        if length < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {length}")
    return finish(_emit(EYE.code, 0, code_of(dtype, out), n, m), requires_grad, out)


def _triangle(make: Callable[..., Any], row: int, col: int, offset: int, dtype: Any, device: Any) -> Tensor:
    check_device(device)
    wanted = DTYPES[INT64 if dtype is None else code_of(dtype)].numpy
    return from_array(np.ascontiguousarray(np.stack(make(row, offset, col)).astype(wanted)))


@function(method=False)
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """Return the rows and columns [2, count] of the lower triangle of a matrix [row, col], row by row.

    Args:
        row: the number of rows.
        col: the number of columns.
        offset: which diagonal bounds the triangle: 0 is the main one, k is k above it.
    """
    return _triangle(np.tril_indices, row, col, offset, dtype, device)


@function(method=False)
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """Return the rows and columns [2, count] of the upper triangle of a matrix [row, col], row by row.

    Args:
        row: the number of rows.
        col: the number of columns.
        offset: which diagonal bounds the triangle: 0 is the main one, k is k above it.
    """
    return _triangle(np.triu_indices, row, col, offset, dtype, device)


__all__ = [
    "check_device",
    "code_of",
    "empty",
    "finish",
    "from_array",
    "full",
    "functions",
    "ones",
    "shape_argument",
    "zeros",
]

"""Scans along one dimension: running sums, products, extrema, log-sums of exponentials; differences and trapezoids.

The gradients are scans too. With g the gradient of running products y, R_k = g_k + x_(k+1) R_(k+1) (``recur_back``)
gives gx_k = R_k y_(k-1) without a division, so zeros do no harm; recur_back and its mirror image are each other's
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.scan import (
    add_step,
    log_add_step,
    make_decay,
    make_running_extremum,
    make_scan,
    make_shift,
    multiply_step,
    recurrence_step,
)
from tapegrad.native.dtypes import FLOAT32, INT64, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call, call_several, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.reduction_rules import MASK, extents, same_infer, set_same_shapes
from tapegrad.ops.reductions import ValuesIndices
from tapegrad.ops.references import adding_back, along_samples, axis_of, calls_along
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.structural import like_second
from tapegrad.ops.validity import (
    Attributes,
    Operands,
    Rule,
    along_one,
    every,
    needed,
    own,
    reduced,
    same_shape,
    scans,
    summed,
)
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import machine

Make = Callable[[int, int], Callable[..., int]]


def _scan_kernel(start: float, step: Callable[..., Any], backward: bool = False, late: bool = False) -> Make:
    """Return what makes the kernel of a scan of one operand, or two (a recurrence)."""

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        scan = make_scan(dtype, result_dtype, start, step, backward, late)
        second = 1 if step is recurrence_step else 0

        def kernel(st, frame):
            words = stack_words(3)
            extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            a, b = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, second))
            return scan(a, b, data_address(st, output_slot(frame, 0)), outer, n, inner, state_of(st).workspace)

        return kernel

    return make


def _declare(name: str, kernel: Make, vjp: Any, math: str, inputs: tuple[str, ...] = ("input",), **more: Any) -> Op:
    options: dict[str, Any] = {"infer": same_infer, "contiguous": inputs, "result": FROM_ATTRIBUTE}
    options |= {"valid": every(scans(own), same_shape(*range(len(inputs))))} | more
    return declare(Op(name=name, inputs=inputs, kind=GENERAL, kernel=kernel, vjp=vjp, math=math, **options))


def _reversed_sums(x: Any, *, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    return np.flip(np.cumsum(np.flip(x, axis), axis), axis)


_CUMSUM = _declare(
    "cumsum",
    _scan_kernel(0, add_step),
    lambda g, y, x: g.cumsum_back(attributes=OF_ENTRY),
    "x_0 + ... + x_i",
    valid=scans(summed),
    reference=lambda x, dim: np.cumsum(x, dim),
    samples=along_samples,
)
_declare(
    "cumsum_back",
    _scan_kernel(0, add_step, backward=True),
    lambda g, y, x: g.cumsum(attributes=OF_ENTRY),
    "x_i + ... + x_(n-1)",
    valid=scans(summed),
    public=False,
    reference=_reversed_sums,
    samples=lambda make: calls_along([make(2, 3, 4)], 0b10, dtypes="float64 float32 int64"),
)
_CUMPROD = _declare(
    "cumprod",
    _scan_kernel(1, multiply_step),
    lambda g, y, x: g.recur_back(x, attributes=OF_ENTRY) * y.shift_one(attributes=OF_ENTRY),
    "x_0 ... x_i",
    valid=scans(summed),
    reference=lambda x, dim: np.cumprod(x, dim),
    samples=lambda make: [((make(2, 3, 4),), {"dim": 1}), ((make(3, 4),), {"dim": -1}), ((make(7),), {"dim": 0})],
)


def _recurrence(x: Any, w: Any, *, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    y, factors = np.moveaxis(x, axis, 0).copy(), np.moveaxis(w, axis, 0)
    for k in range(1, len(y)):
        y[k] += factors[k] * y[k - 1]
    return np.moveaxis(y, 0, axis)


def _recurrence_back(x: Any, w: Any, *, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    y, factors = np.moveaxis(x, axis, 0).copy(), np.moveaxis(w, axis, 0)
    for k in reversed(range(len(y) - 1)):
        y[k] += factors[k + 1] * y[k + 1]
    return np.moveaxis(y, 0, axis)


def _recurrence_rules() -> None:
    """R_k = g_k + x_(k+1) R_(k+1) and F_k = h_k + x_k F_(k-1): each is the other's transpose in its first operand."""
    pair = ("input", "factor")
    _declare(
        "recur_back",
        _scan_kernel(0, recurrence_step, backward=True, late=True),
        lambda h, y, g, x: (
            h.recur(x, attributes=OF_ENTRY),
            h.recur(x, attributes=OF_ENTRY).shift_zero(attributes=OF_ENTRY) * y,
        ),
        "y_k = x_k + w_(k+1) y_(k+1)",
        pair,
        dtypes=FLOATS,
        public=False,
        reference=_recurrence_back,
        samples=lambda make: calls_along([make(2, 3, 4), make(2, 3, 4)], 0b10),
    )
    _declare(
        "recur",
        _scan_kernel(0, recurrence_step),
        lambda g, y, h, x: (
            g.recur_back(x, attributes=OF_ENTRY),
            g.recur_back(x, attributes=OF_ENTRY) * y.shift_zero(attributes=OF_ENTRY),
        ),
        "y_k = x_k + w_k y_(k-1)",
        pair,
        dtypes=FLOATS,
        public=False,
        reference=_recurrence,
        samples=lambda make: calls_along([make(2, 3, 4), make(2, 3, 4)], 0b10),
    )


_recurrence_rules()


def _shifted(places: int, fill: int) -> dict[str, Any]:
    """Return the reference and samples of a shift."""

    def reference(x: Any, *, attributes: tuple[int, ...]) -> Any:
        axis = axis_of(attributes)
        y = np.roll(x, places, axis)
        np.moveaxis(y, axis, 0)[0 if places > 0 else -1] = fill
        return y

    return {"reference": reference, "samples": lambda make: calls_along([make(2, 3, 4)], 0b10)}


def _shift_kernel(back: bool, fill: int) -> Make:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        shift = make_shift(dtype)

        def kernel(st, frame):
            words = stack_words(3)
            extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            x, y = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
            return shift(x, y, outer, n, inner, back, fill)

        return kernel

    return make


_declare(
    "shift_one",
    _shift_kernel(False, 1),
    lambda g, y, x: g.shift_back(attributes=OF_ENTRY),
    "x_(i-1), 1 first",
    public=False,
    **_shifted(1, 1),
)
_declare(
    "shift_zero",
    _shift_kernel(False, 0),
    lambda g, y, x: g.shift_back(attributes=OF_ENTRY),
    "x_(i-1), 0 first",
    public=False,
    **_shifted(1, 0),
)
_declare(
    "shift_back",
    _shift_kernel(True, 0),
    lambda g, y, x: g.shift_zero(attributes=OF_ENTRY),
    "x_(i+1), 0 last",
    public=False,
    **_shifted(-1, 0),
)


def _place_last_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, output_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        g = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for r in range(outer):
            for i in range((n - 1) * inner):
                y[r * n * inner + i] = scalar(0)
            for i in range(inner if n > 0 else 0):
                y[(r * n + n - 1) * inner + i] = g[r * inner + i]
        return 0

    return kernel


def _take_last_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for r in range(outer):
            for i in range(inner):
                y[r * inner + i] = x[(r * n + n - 1) * inner + i] if n > 0 else scalar(0)
        return 0

    return kernel


def _last(x: Any, like: Any, *, attributes: tuple[int, ...]) -> Any:
    return np.take(x, -1, axis_of(attributes)).reshape(like.shape)


def _is_last(whole: int, part: int) -> Rule:
    """One operand has the shape of the reduced other one, with or without the dimension, and the result's dtype."""

    def rule(x: Operands, a: Attributes) -> bool:
        if not scans(own)([x[whole]], a) or a[0] != needed(x, 0).dtype:
            return False
        return needed(x, part).shape in [reduced(needed(x, whole).shape, a[MASK], keepdim) for keepdim in (0, 1)]

    return rule


_declare(
    "place_last",
    _place_last_kernel,
    lambda g, y, x, like: (g.take_last(x, attributes=OF_ENTRY), None),
    "zeros like `like`, with x at the last place of a dimension",
    ("input", "like"),
    valid=_is_last(1, 0),
    infer=like_second,
    shape_only=("like",),
    unpromoted=("like",),
    contiguous=("input",),
    public=False,
    reference=adding_back(lambda x, attributes: np.take(x, [-1], axis_of(attributes))),
    samples=lambda make: calls_along([make(2, 1, 4), make(2, 3, 4)], 0b10),
)
_declare(
    "take_last",
    _take_last_kernel,
    lambda g, y, x, like: (g.place_last(x, attributes=OF_ENTRY), None),
    "x at the last place of a dimension, in the shape of `like`",
    ("input", "like"),
    valid=_is_last(0, 1),
    infer=like_second,
    shape_only=("like",),
    unpromoted=("like",),
    contiguous=("input",),
    public=False,
    reference=_last,
    samples=lambda make: calls_along([make(2, 3, 4), make(2, 4)], 0b10),
)


def _decay(x: Any, *, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    y = np.exp(np.roll(x, 1, axis) - x)
    np.moveaxis(y, axis, 0)[0] = 0
    return y


def _decay_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    decay = make_decay(dtype)

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        return decay(data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0)), outer, n, inner)

    return kernel


_declare(
    "decay",
    _decay_kernel,
    lambda g, y, x: (g * y).shift_back(attributes=OF_ENTRY) - g * y,
    "exp(x_(i-1) - x_i), 0 first",
    dtypes=FLOATS,
    public=False,
    reference=_decay,
    samples=lambda make: calls_along([make(2, 3, 4)], 0b10),
)
# gx_k = sum over i >= k of g_i exp(x_k - y_i), as a recurrence whose factors exp(y_k - y_(k+1)) are at most 1
_LOGCUMSUMEXP = _declare(
    "logcumsumexp",
    _scan_kernel(-np.inf, log_add_step),
    lambda g, y, x: g.recur_back(y.decay(attributes=OF_ENTRY), attributes=OF_ENTRY) * x.exp_difference(y),
    "log(e**x_0 + ... + e**x_i)",
    dtypes=FLOATS,
    reference=lambda x, dim: np.logaddexp.accumulate(x, dim),
    samples=along_samples,
)


def _extremum_kernel(largest: bool) -> Make:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        run = make_running_extremum(dtype, largest)

        def kernel(st, frame):
            words = stack_words(3)
            extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            if n == 0:
                return 0
            x, y = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
            return run(x, y, data_address(st, output_slot(frame, 1)), outer, n, inner)

        return kernel

    return make


def _running_infer(st, frame):
    status = set_same_shapes(st, frame)
    slot_of(st, output_slot(frame, 1)).dtype = INT64
    return status


def _running_reference(extremum: Any) -> Callable[..., Any]:
    def reference(x: Any, dim: int) -> Any:
        values = extremum.accumulate(x, dim)
        places = np.moveaxis(np.broadcast_to(np.arange(x.shape[dim]), np.moveaxis(x, dim, -1).shape), -1, dim)
        return values, np.maximum.accumulate(np.where(x == values, places, 0), dim)

    return reference


def _declare_running(name: str, largest: bool) -> Op:
    word = "maximum" if largest else "minimum"
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            outputs=2,
            infer=_running_infer,
            valid=along_one,
            kernel=_extremum_kernel(largest),
            vjp=lambda g, y, x: g[0].put_at(y[1], x, attributes=OF_ENTRY),
            contiguous=("input",),
            reference=_running_reference(np.maximum if largest else np.minimum),
            samples=along_samples,
            math=f"the {word} of x_0 ... x_i, and where it is",
        )
    )


_CUMMAX = _declare_running("cummax", True)
_CUMMIN = _declare_running("cummin", False)


def _attributes(input: Tensor, dim: int, result: int) -> tuple[int, ...]:
    ndim = len(shape_of(input))
    dim = normal_dim(dim, ndim)
    return result, 1 << dim if ndim else 0, 1, 0


def _scanned(op: Op, input: Tensor, dim: int, dtype: Any) -> Tensor:
    input = expect_tensor(input, op.name)
    if dtype is not None:
        input = functions["to_dtype"](input, dtype)
    code = machine.dtype_of(input._handle)
    result = call(op, input, attributes=_attributes(input, dim, code if code >= FLOAT32 else INT64))
    return result if dtype is None else functions["to_dtype"](result, dtype)


@function()
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return the running sums along a dimension, of the input's shape; integers are summed in int64.

    Example:
        >>> import tapegrad as tg
        >>> tg.cumsum(tg.tensor([1.0, 2.0, 3.0]), dim=0)
        tensor([1., 3., 6.])
    """
    return _scanned(_CUMSUM, input, dim, dtype)


@function()
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return the running products along a dimension; the gradient is exact where elements are zero."""
    return _scanned(_CUMPROD, input, dim, dtype)


@function()
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """Return the logarithms of the running sums of exponentials along a dimension."""
    return call(_LOGCUMSUMEXP, input, attributes=_attributes(input, dim, machine.dtype_of(input._handle)))


def _running(op: Op, input: Tensor, dim: int) -> ValuesIndices:
    code = machine.dtype_of(expect_tensor(input, op.name)._handle)
    return ValuesIndices(*call_several(op, input, attributes=_attributes(input, dim, code)))


@function()
def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """Return the running maxima along a dimension and the index of the last element that equals each."""
    return _running(_CUMMAX, input, dim)


@function()
def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """Return the running minima along a dimension and the index of the last element that equals each."""
    return _running(_CUMMIN, input, dim)


@function()
def diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """Return the differences of neighbours along a dimension, taken ``n`` times."""
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    parts = [part for part in (prepend, input, append) if part is not None]
    result = parts[0] if len(parts) == 1 else functions["cat"](parts, dim)
    narrow = functions["narrow"]
    for _ in range(n):
        length = max(shape_of(result)[dim] - 1, 0)
        start = min(1, shape_of(result)[dim])
        result = narrow(result, dim, start, length) - narrow(result, dim, 0, length)
    return result


def _areas(y: Tensor, x: Tensor | None, dx: float, dim: int) -> Any:
    """Return the areas between neighbouring samples."""
    narrow = functions["narrow"]
    length = max(shape_of(y)[dim] - 1, 0)
    pairs = narrow(y, dim, min(1, shape_of(y)[dim]), length) + narrow(y, dim, 0, length)
    if x is None:
        return pairs * (dx / 2.0)
    steps = diff(x, dim=dim if len(shape_of(x)) > 1 else 0)
    if len(shape_of(x)) == 1:
        steps = functions["reshape"](steps, (-1, *(1,) * (len(shape_of(y)) - 1 - dim % len(shape_of(y)))))
    return pairs * steps / 2.0


@function(aliases=("trapz",), method=False)
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """Return the integral of samples along a dimension by the trapezoidal rule, at places ``x`` or ``dx`` apart."""
    return functions["sum"](_areas(y, x, dx, dim), dim)


@function(method=False)
def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """Return the integrals of samples from the first to each later one; the arguments are those of ``trapezoid``."""
    return functions["cumsum"](_areas(y, x, dx, dim), dim)

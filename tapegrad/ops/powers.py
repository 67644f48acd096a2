"""Powers and roots."""

import math

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import log, rsqrt, sqrt
from tapegrad.kernels.vector_math import pow as power
from tapegrad.kernels.vector_primitives import absolute, select
from tapegrad.native.dtypes import FLOAT32, FLOAT64
from tapegrad.ops.calls import call, call_in_place, function, functions, tensor_method, write_back
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS, NUMBERS, Op, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import FLOATING
from tapegrad.runtime.machine import machine

BASE_AND_EXPONENT = ("input", "exponent")
POSITIVE = (0.2, 2)

elementwise(
    "square",
    lambda x: x * x,
    dtypes=NUMBERS,
    vjp=lambda g, y, x: g * (x + x),
    reference=np.square,
    math="x^2",
    doc="Return the square of each element.",
)
elementwise(
    "cube",
    lambda x: x * x * x,
    dtypes=NUMBERS,
    vjp=lambda g, y, x: g * (3.0 * (x * x)),
    public=False,
    reference=lambda x: x * x * x,
    math="x^3",
)
elementwise(
    "sqrt",
    lambda x: sqrt(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (y + y),
    reference=np.sqrt,
    samples=[POSITIVE],
    math="x^(1/2)",
    doc="Return the square root of each element.",
)
elementwise(
    "rsqrt",
    lambda x: rsqrt(x),
    result=FLOATING,
    vjp=lambda g, y, x: -0.5 * (g * (y * y * y)),
    reference=lambda x: 1 / np.sqrt(x),
    samples=[POSITIVE],
    math="x^(-1/2)",
    doc="Return ``1 / sqrt(input)``.",
)


def _hypot(x, w):
    """Scaled by the larger, so that no square overflows; the quotient is nan only where the result is inf or nan."""
    a, b = absolute(x), absolute(w)
    high, low = select(a > b, a, b), select(a > b, b, a)
    q = select(high == 0, like(0, x), low / high)
    y = high * sqrt(like(1, x) + q * q)
    infinite = (a == like(math.inf, x)) | (b == like(math.inf, x))
    return select(infinite, like(math.inf, x), select((x != x) | (w != w), like(math.nan, x), y))


elementwise(
    "hypot",
    _hypot,
    inputs=("input", "other"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, w: (g * (x / y), g * (w / y)),
    reference=np.hypot,
    samples=[(-2, 2, 0), (-2, 2, 0)],
    math="(x^2 + w^2)^(1/2)",
    doc="Return ``sqrt(input**2 + other**2)`` without overflow.",
)


def _integer_power(x, w):
    """By squaring, wrapping around; a negative power is 0, but of 1 and -1."""
    base, exponent = np.int64(x), np.int64(w)
    if exponent < 0:
        if base == 1:
            return np.int64(1)
        if base == -1:
            return np.int64(1) - ((-exponent) & np.int64(1)) * np.int64(2)
        return np.int64(0)
    y = np.int64(1)
    while exponent > 0:
        if exponent & 1:
            y *= base
        base *= base
        exponent >>= 1
    return y


def _integer_reference(x, w):
    if np.issubdtype(np.result_type(x, w), np.integer):
        exact = np.vectorize(lambda a, b: int(a) ** int(b) if b >= 0 else int(float(a) ** int(b)), otypes=[object])
        whole = (
            exact(x, w) if np.size(x) and np.size(w) else np.zeros(np.broadcast_shapes(np.shape(x), np.shape(w)), int)
        )
        bits = np.result_type(x, w).itemsize * 8
        return (
            np.array([int(v) % 2**bits for v in np.ravel(whole)], np.uint64)
            .astype(np.result_type(x, w))
            .reshape(whole.shape)
        )
    return np.power(x, w)


_power = elementwise(
    "pow",
    {"integer": _integer_power, "float": lambda x, w: power(x, w)},
    inputs=BASE_AND_EXPONENT,
    dtypes=NUMBERS,
    vjp=lambda g, y, x, w: (g.pow_backward_base(x, w), g.pow_backward_exponent(y, x, w)),
    public=False,
    reference=_integer_reference,
    samples=[POSITIVE, (-2, 2)],
    math="x^w",
)
elementwise(
    "pow_backward_base",
    lambda g, x, w: select(w == 0, like(0, g), g * (w * power(x, w - like(1, w)))),
    inputs=("gradient", *BASE_AND_EXPONENT),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (
        h.pow_backward_base(x, w),
        (h * g * w).pow_backward_base(x, w - 1.0),
        h * g * x.pow(w - 1.0) + (h * g * w).pow_backward_exponent(x.pow(w - 1.0), x, w - 1.0),
    ),
    public=False,
    reference=lambda g, x, w: g * w * np.power(x, w - 1),
    samples=["gradient", POSITIVE, (-2, 2)],
    math="g w x^(w-1), 0 where w = 0",
)
elementwise(
    "pow_backward_exponent",
    lambda g, y, x, w: select((x == 0) & (w >= 0), like(0, g), g * (y * log(x))),
    inputs=("gradient", "output", *BASE_AND_EXPONENT),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, y, x, w: (
        h.pow_backward_exponent(y, x, w),
        (h * g).pow_backward_exponent(1.0, x, w),
        h * g * y / x,
        None,
    ),
    public=False,
    reference=lambda g, y, x, w: g * y * np.log(x),
    samples=["gradient", (-2, 2), POSITIVE, (-2, 2)],
    math="g y ln x, 0 where x = 0 <= w",
)

_SHORT_CUTS = {2: "square", 3: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def _operation(input: Tensor, exponent: object) -> Op | None:
    """Return the op of fewer instructions that raises to a number's power; None where the general one is needed."""
    if type(exponent) not in (int, float):
        return None
    if machine.dtype_of(input._handle) < FLOAT32:
        if isinstance(exponent, int) and exponent < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        return None
    name = _SHORT_CUTS.get(exponent)  # type: ignore[call-overload]
    return registry[name] if name else None


@function()
def pow(input: Tensor | float, exponent: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return ``input`` to the power of ``exponent``, broadcast and promoted; one of them may be a number.

    Args:
        input: the base.
        exponent: the exponent; integers are not raised to negative numbers.
        out: a tensor that the result is written to.

    Raises:
        RuntimeError: integers to a negative power that is a number.

    >>> import tapegrad as tg
    >>> (tg.tensor([1.0, 2.0, 3.0]) ** 2).tolist()
    [1.0, 4.0, 9.0]
    """
    short = _operation(input, exponent) if isinstance(input, Tensor) else None
    if short is None and not isinstance(input, Tensor) and not isinstance(exponent, Tensor):
        raise TypeError(f"pow(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    result = call(_power, input, exponent) if short is None else call(short, input)
    return result if out is None else functions["_write_out"](out, result)


@function()
def pow_(input: Tensor, exponent: Tensor | float) -> Tensor:
    """In-place form of ``pow``."""
    short = _operation(input, exponent)
    return call_in_place(_power, input, input, exponent) if short is None else call_in_place(short, input, input)


def _is_operand(value: object) -> bool:
    return isinstance(value, Tensor | bool | int | float | np.generic)


@tensor_method("__pow__")
def _pow_operator(self: Tensor, exponent: Tensor | float) -> Tensor:
    return pow(self, exponent) if _is_operand(exponent) else NotImplemented


@tensor_method("__rpow__")
def _reflected_pow(self: Tensor, base: float) -> Tensor:
    return pow(base, self) if _is_operand(base) else NotImplemented


@tensor_method("__ipow__")
def _pow_in_place_operator(self: Tensor, exponent: Tensor | float) -> Tensor:
    return pow_(self, exponent)


def _double(value: Tensor | float) -> Tensor | float:
    if not isinstance(value, Tensor) or machine.dtype_of(value._handle) == FLOAT64:
        return value
    return call(registry["cast"], value, attributes=(FLOAT64,))


@function()
def float_power(input: Tensor | float, exponent: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return ``input`` to the power of ``exponent``, computed in float64."""
    return pow(_double(input), _double(exponent), out=out)


@function()
def float_power_(input: Tensor, exponent: Tensor | float) -> Tensor:
    """In-place form of ``float_power``: ``input`` is a float64 tensor."""
    return write_back(input, float_power(input, exponent), "float_power_")

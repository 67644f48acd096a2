"""Logarithms as straight-line code.

x = 2**k m with sqrt(1/2) <= m < sqrt(2), f = m - 1; log(1 + f) = f + tail(f). float32's tail is a minimax fit (Remez);
float64's is fdlibm's (e_log.c, Sun, 1993): with s = f / (2 + f), log(1 + f) = f - (f**2/2 - s (f**2/2 + R(s**2))).
"""

from tapegrad.kernels.vector_exp import MAGIC, MAGIC_BITS, ONE
from tapegrad.kernels.vector_primitives import (
    bits,
    constant,
    elementary,
    elementary_of,
    from_bits,
    helper,
    int_add,
    int_and,
    int_sub,
    integer,
    muladd,
    polynomial,
    select,
    shift_right,
)

INFINITY = constant(float("inf"))
ZERO = constant(0.0)
NAN = constant(float("nan"))
_SQRT_HALF_BITS = integer(0x3F3504F3, 0x3FE6A09E667F3BCD)
_MANTISSA_MASK = integer((1 << 23) - 1, (1 << 52) - 1)
_MANTISSA = integer(23, 52)
_TINY = constant(2.0**-126, 2.0**-1022)
_TINY_SCALE = constant(2.0**24, 2.0**54)
_TINY_EXPONENT = constant(24.0, 54.0)
_LN2_HIGH = constant(0.693359375, 6.93147180369123816490e-01)  # k * high is exact
_LN2_LOW = constant(-2.12194440054690583e-4, 1.90821492927058770002e-10)

# (log(1 + f) - f + f**2/2) / f**3, relative error of the logarithm 2**-30.3
_LOG_TAIL_SINGLE = polynomial(
    [
        0.3333331346511841,
        -0.25000008940696716,
        0.2000211924314499,
        -0.16667994856834412,
        0.14219552278518677,
        -0.12405597418546677,
        0.1188817173242569,
        -0.11675608903169632,
        0.06746577471494675,
    ]
)
_LOG_TAIL_DOUBLE = polynomial(
    [],
    [
        6.666666666666735130e-01,
        3.999999999940941908e-01,
        2.857142874366239149e-01,
        2.222219843214978396e-01,
        1.818357216161805012e-01,
        1.531383769920937332e-01,
        1.479819860511658591e-01,
    ],
)


def _tail_single(f):
    return f * f * muladd(_LOG_TAIL_SINGLE(f), f, constant_minus_half(f))


def _tail_double(f):
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * f * f
    return s * (half + z * _LOG_TAIL_DOUBLE(z)) - half


constant_minus_half = constant(-0.5)


@elementary_of(_tail_single, _tail_double)
def log1p_tail(f):
    """Return log(1 + f) - f for sqrt(1/2) <= 1 + f < sqrt(2)."""


@helper
def float_of(i):
    """Return an integer of few bits as a float of its width."""
    return from_bits(int_add(i, MAGIC_BITS(i))) - MAGIC(from_bits(i))


@helper
def reduce_log(x):
    """Return (k, f) as floats: x = 2**k (1 + f), for x > 0."""
    tiny = x < _TINY(x)
    i = int_sub(bits(select(tiny, x * _TINY_SCALE(x), x)), _SQRT_HALF_BITS(bits(x)))
    k = float_of(shift_right(i, _MANTISSA(i))) - select(tiny, _TINY_EXPONENT(x), ZERO(x))
    m = from_bits(int_add(int_and(i, _MANTISSA_MASK(i)), _SQRT_HALF_BITS(i)))
    return k, m - ONE(x)


@helper
def log_edges(x, y):
    """Return y, which is a logarithm of x, or what it is where x is 0, negative, inf or nan."""
    y = select(x < INFINITY(x), y, x)
    return select(x > 0, y, select(x == 0, -INFINITY(x), NAN(x)))


@elementary
def log(x):
    """Return the natural logarithm."""
    k, f = reduce_log(x)
    return log_edges(x, muladd(k, _LN2_HIGH(x), f + muladd(k, _LN2_LOW(x), log1p_tail(f))))

"""Logarithms, softplus and log_sigmoid as straight-line code.

x = 2**k m with sqrt(1/2) <= m < sqrt(2), f = m - 1; log(1 + f) = f + tail(f). float32's tail is a minimax fit (Remez);
float64's is fdlibm's (e_log.c, Sun, 1993): with s = f / (2 + f), log(1 + f) = f - (f**2/2 - s (f**2/2 + R(s**2))).
"""

from tapegrad.kernels.vector_exp import INFINITY, MAGIC, MAGIC_BITS, ONE, ZERO, exp
from tapegrad.kernels.vector_primitives import (
    absolute,
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

_MINUS_HALF = constant(-0.5)
NAN = constant(float("nan"))
_SQRT_HALF_BITS = integer(0x3F3504F3, 0x3FE6A09E667F3BCD)
_MANTISSA_MASK = integer((1 << 23) - 1, (1 << 52) - 1)
_MANTISSA = integer(23, 52)
_TINY = constant(2.0**-126, 2.0**-1022)
_TINY_SCALE = constant(2.0**24, 2.0**54)
_TINY_EXPONENT = constant(24.0, 54.0)
_LN2_HIGH = constant(0.693359375, 6.93147180369123816490e-01)  # k * high is exact
_LN2_LOW = constant(-2.12194440054690583e-4, 1.90821492927058770002e-10)

_LOG2_E_HIGH = constant(1.4426950408889634)
_LOG2_E_LOW = constant(1.9259629911266175e-08, 2.0355273740931033e-17)
_LOG10_E_HIGH = constant(0.4342944819032518)
_LOG10_E_LOW = constant(-1.0103050052231683e-08, 1.098319650216765e-17)
_LOG10_2_HIGH = constant(0.301025390625, 0.30102999566383914)  # k * high is exact
_LOG10_2_LOW = constant(4.605038981195214e-06, 1.42050232272661e-13)

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
    return f * f * muladd(_LOG_TAIL_SINGLE(f), f, _MINUS_HALF(f))


def _tail_double(f):
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * f * f
    return s * (half + z * _LOG_TAIL_DOUBLE(z)) - half


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


@elementary
def log2(x):
    """Return the logarithm to base 2."""
    k, f = reduce_log(x)
    y = f + log1p_tail(f)
    return log_edges(x, k + muladd(y, _LOG2_E_HIGH(y), y * _LOG2_E_LOW(y)))


@elementary
def log10(x):
    """Return the logarithm to base 10."""
    k, f = reduce_log(x)
    y = f + log1p_tail(f)
    y = muladd(y, _LOG10_E_HIGH(y), muladd(y, _LOG10_E_LOW(y), k * _LOG10_2_LOW(x)))
    return log_edges(x, muladd(k, _LOG10_2_HIGH(x), y))


@elementary
def log1p(x):
    """Return log(1 + x), accurate near 0: log(u) + (1 + x - u) / u for the rounded sum u."""
    u = ONE(x) + x
    lost = select(x > ONE(x), ONE(x) - (u - x), x - (u - ONE(x)))
    k, f = reduce_log(u)
    y = f + (log1p_tail(f) + muladd(k, _LN2_LOW(x), lost / u))
    return select(x == ZERO(x), x, log_edges(u, muladd(k, _LN2_HIGH(x), y)))


@elementary
def softplus(x):
    """Return log(1 + e**x): max(x, 0) + log(1 + e**-|x|)."""
    return select(x < ZERO(x), ZERO(x), x) + log1p(exp(-absolute(x)))


@elementary
def log_sigmoid(x):
    """Return log(1 / (1 + e**-x))."""
    return -softplus(-x)

"""fmod and remainder: exact, and as straight-line code where the quotient fits into the mantissa.

With q = trunc(fl(|x| / |y|)) up to 2**24 (float32) or 2**53, q is the true quotient or, where the division rounded up
to an integer, one more; |x| - q |y| is then exact (one fused step), and so is adding |y| back.
"""

from tapegrad.kernels.vector_exp import INFINITY, ZERO
from tapegrad.kernels.vector_primitives import (
    absolute,
    constant,
    copysign,
    elementary,
    exact_remainder,
    fma,
    helper,
    select,
    truncate,
)

_QUOTIENTS = constant(2.0**24, 2.0**53)


@helper
def has_far_quotient(x, y):
    """Return whether ``fmod_near`` and ``remainder_near`` fail: quotient or divisor too large, or no numbers."""
    end = absolute(y) * _QUOTIENTS(y)
    return not ((absolute(x) < end) & (end < INFINITY(y)))


@elementary
def fmod_near(x, y):
    """Return the exact remainder of x / y with the sign of x, where `has_far_quotient` does not hold."""
    a, b = absolute(x), absolute(y)
    r = fma(-truncate(a / b), b, a)
    return copysign(select(r < ZERO(r), r + b, r), x)


@elementary
def remainder_near(x, y):
    """Return the remainder of x / y with the sign of y, where `has_far_quotient` does not hold."""
    return _sign_of_divisor(fmod_near(x, y), y)


@elementary
def fmod(x, y):
    """Return the exact remainder of x / y with the sign of x; by the C library, one element at a time."""
    return exact_remainder(x, y)


@elementary
def remainder(x, y):
    """Return the remainder of x / y with the sign of y; by the C library, one element at a time."""
    return _sign_of_divisor(exact_remainder(x, y), y)


@helper
def _sign_of_divisor(r, y):
    return select((r != ZERO(r)) & ((r < ZERO(r)) != (y < ZERO(r))), r + y, r)

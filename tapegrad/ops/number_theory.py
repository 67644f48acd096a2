"""The greatest common divisor and the least common multiple of integers."""

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import INTEGERS

TWO = ("input", "other")


@jit
def _gcd(x, w):
    """Euclid's algorithm on int64."""
    a, b = abs(np.int64(x)), abs(np.int64(w))
    while b != 0:
        a, b = b, a % b
    return a


@jit
def _lcm(x, w):
    divisor = _gcd(x, w)
    return abs(np.int64(x) // divisor * np.int64(w)) if divisor != 0 else np.int64(0)


for _name, _formula, _reference, _what in (
    ("gcd", lambda x, w: _gcd(x, w), np.gcd, "greatest common divisor"),
    ("lcm", lambda x, w: _lcm(x, w), np.lcm, "least common multiple"),
):
    elementwise(
        _name,
        _formula,
        inputs=TWO,
        dtypes=INTEGERS,
        reference=_reference,
        math=f"the {_what} of x and w",
        doc=f"Return the {_what} of integers, which is not negative.",
    )

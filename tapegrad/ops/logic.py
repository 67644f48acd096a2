"""Logical and bitwise operations, and shifts."""

import numpy as np

from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import BOOLEAN, INTEGERS
from tapegrad.runtime.layout import TO_BOOL

TWO = ("input", "other")

for _name, _formula, _sign in (
    ("logical_and", lambda x, w: (x != 0) & (w != 0), "and"),
    ("logical_or", lambda x, w: (x != 0) | (w != 0), "or"),
    ("logical_xor", lambda x, w: (x != 0) ^ (w != 0), "xor"),
):
    elementwise(
        _name,
        _formula,
        inputs=TWO,
        result=TO_BOOL,
        reference=getattr(np, _name),
        math=f"x {_sign} w",
        doc=f"Return the logical {_sign} of the elements, of which those that are not 0 count as true.",
    )
elementwise(
    "logical_not",
    lambda x: x == 0,
    result=TO_BOOL,
    reference=np.logical_not,
    math="x = 0",
    doc="Return whether each element is 0.",
)
for _name, _formula, _sign in (
    ("and", lambda x, w: x & w, "and"),
    ("or", lambda x, w: x | w, "or"),
    ("xor", lambda x, w: x ^ w, "xor"),
):
    elementwise(
        f"bitwise_{_name}",
        _formula,
        inputs=TWO,
        dtypes=BOOLEAN | INTEGERS,
        operators=(f"__{_name}__", f"__r{_name}__", f"__i{_name}__"),
        reference=getattr(np, f"bitwise_{_name}"),
        math=f"the bits of x {_sign} those of w",
        doc=f"Return the bitwise {_sign} of integers, the logical {_sign} of booleans.",
    )
elementwise(
    "bitwise_not",
    {"bool": lambda x: not x, "integer": lambda x: ~x},
    dtypes=BOOLEAN | INTEGERS,
    operators=("__invert__",),
    reference=np.bitwise_not,
    math="the complement of x's bits",
    doc="Return the bitwise complement of integers, the negation of booleans.",
)


def _shift_left(x, w):
    """0 where all bits go, or the count is negative."""
    count = np.int64(w)
    return np.int64(x) << count if 0 <= count < 64 else np.int64(0)


def _shift_right(x, w):
    """The sign where all bits go, or the count is negative."""
    count = np.int64(w)
    return np.int64(x) >> (count if 0 <= count < 64 else np.int64(63))


COUNTS = [(-10, 10), (0, 2)]
elementwise(
    "bitwise_left_shift",
    _shift_left,
    inputs=TWO,
    dtypes=INTEGERS,
    operators=("__lshift__", "__rlshift__", "__ilshift__"),
    reference=np.left_shift,
    samples=COUNTS,
    math="x 2^w",
    doc="Return ``input`` shifted by ``other`` bits to the left.",
)
elementwise(
    "bitwise_right_shift",
    _shift_right,
    inputs=TWO,
    dtypes=INTEGERS,
    operators=("__rshift__", "__rrshift__", "__irshift__"),
    reference=np.right_shift,
    samples=COUNTS,
    math="floor(x / 2^w)",
    doc="Return ``input`` shifted by ``other`` bits to the right, the sign kept.",
)

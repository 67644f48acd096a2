"""Elementwise kernels from scalar formulas: two nested loops over strided operands, the inner one vectorised.

The inner loop is written out for the layouts that matter (all contiguous; one operand constant along the row); any
other strides take a general loop. Arguments are laid out as runtime/elementwise.py says.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from tapegrad.native.cache import OPTIONS, jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at


def like(number: float, x: Any) -> Any:
    """Return a number in the dtype of ``x``: a literal would turn float32 arithmetic into float64."""
    return np.asarray(x).dtype.type(number)


@overload(like, jit_options=OPTIONS)
def _like(number, x):  # type: ignore[no-untyped-def]
    dtype = x
    return lambda number, x: dtype(number)


# Which operands of a row may be constant while the others are contiguous, by number of operands: both of two; of three,
# what where(c, x, 0), clamp(x, lo, hi) and a broadcast bound need; of four, the bounds of clamp's gradient.
_CONSTANT: dict[int, tuple[tuple[int, ...], ...]] = {2: ((0,), (1,)), 3: ((0,), (1,), (2,), (1, 2)), 4: ((2, 3),)}


def _loop_source(operands: int, scalars: int) -> str:
    """Return the source of a kernel of so many operands: rows outside, the layouts of a row inside."""
    rowed = range(operands - scalars)
    lines = ["def kernel(address):", "    args = int64_at(address)", "    n = uintp(args[1])"]
    lines += [f"    s{k} = in{k}(args[{5 + 3 * k}])[0]" for k in range(operands - scalars, operands)]
    rest = [f"s{k}" for k in range(operands - scalars, operands)]
    rows = ["y = out(args[2] + j * args[3] * out_bytes)"]
    rows += [f"x{k} = in{k}(args[{5 + 3 * k}] + j * args[{6 + 3 * k}] * bytes{k})" for k in rowed]
    lines += ["    for j in range(args[0]):", *(f"        {line}" for line in rows)]
    for index, constant in enumerate([(), *_CONSTANT.get(len(rowed), ())]):
        test = " and ".join(["args[4] == 1", *(f"args[{7 + 3 * k}] == {0 if k in constant else 1}" for k in rowed)])
        values = [f"c{k}" if k in constant else f"x{k}[i]" for k in rowed]
        lines += [f"        {'elif' if index else 'if'} {test}:", *(f"            c{k} = x{k}[0]" for k in constant)]
        lines += ["            for i in range(n):", f"                y[i] = f({', '.join(values + rest)})"]
    strided = ", ".join([*(f"x{k}[i * args[{7 + 3 * k}]]" for k in rowed), *rest])
    lines += ["        else:", "            for i in range(args[1]):", f"                y[i * args[4]] = f({strided})"]
    return "\n".join([*lines, "    return 0"])


def make_loop(
    formula: Callable[..., Any], input_dtypes: tuple[int, ...], output_dtype: int, scalars: int = 0
) -> Callable[[int], int]:
    """Return the kernel of a formula of one to five values, for operands of the given dtype codes.

    The last ``scalars`` operands are numbers: they are loaded once.
    """
    scope: dict[str, Any] = {"__name__": __name__, "int64_at": int64_at, "uintp": np.uintp, "f": jit(formula)}
    scope |= {"out": POINTERS[output_dtype], "out_bytes": ITEM_BYTES[output_dtype]}
    for k, dtype in enumerate(input_dtypes):
        scope |= {f"in{k}": POINTERS[dtype], f"bytes{k}": ITEM_BYTES[dtype]}
    exec(_loop_source(len(input_dtypes), scalars), scope)
    return scope["kernel"]  # type: ignore[no-any-return]

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


def _loop_source(operands: int) -> str:
    """Return the source of a kernel of so many operands: rows outside, the layouts of a row inside."""
    names = [f"x{k}" for k in range(operands)]
    rows = ["y = out(args[2] + j * args[3] * out_bytes)"]
    rows += [f"{x} = in{k}(args[{5 + 3 * k}] + j * args[{6 + 3 * k}] * bytes{k})" for k, x in enumerate(names)]
    contiguous = " and ".join(["args[4] == 1", *(f"args[{7 + 3 * k}] == 1" for k in range(operands))])
    branches = [(contiguous, [], [f"{x}[i]" for x in names])]
    for constant in range(operands if operands == 2 else 0):
        test = ["args[4] == 1"]
        test += [f"args[{7 + 3 * k}] == {0 if k == constant else 1}" for k in range(operands)]
        values = ["c" if k == constant else f"{x}[i]" for k, x in enumerate(names)]
        branches.append((" and ".join(test), [f"c = x{constant}[0]"], values))
    lines = ["def kernel(address):", "    args = int64_at(address)", "    n = uintp(args[1])"]
    lines += ["    for j in range(args[0]):", *(f"        {line}" for line in rows)]
    for index, (test, before, values) in enumerate(branches):
        lines += [f"        {'if' if index == 0 else 'elif'} {test}:", *(f"            {line}" for line in before)]
        lines += ["            for i in range(n):", f"                y[i] = f({', '.join(values)})"]
    strided = ", ".join(f"{x}[i * args[{7 + 3 * k}]]" for k, x in enumerate(names))
    lines += ["        else:", "            for i in range(args[1]):", f"                y[i * args[4]] = f({strided})"]
    return "\n".join([*lines, "    return 0"])


def make_loop(formula: Callable[..., Any], input_dtypes: tuple[int, ...], output_dtype: int) -> Callable[[int], int]:
    """Return the kernel of a formula of one to five scalars, for operands of the given dtype codes."""
    scope: dict[str, Any] = {"__name__": __name__, "int64_at": int64_at, "uintp": np.uintp, "f": jit(formula)}
    scope |= {"out": POINTERS[output_dtype], "out_bytes": ITEM_BYTES[output_dtype]}
    for k, dtype in enumerate(input_dtypes):
        scope |= {f"in{k}": POINTERS[dtype], f"bytes{k}": ITEM_BYTES[dtype]}
    exec(_loop_source(len(input_dtypes)), scope)
    return scope["kernel"]  # type: ignore[no-any-return]



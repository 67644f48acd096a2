"""Elementwise kernels from scalar formulas: two nested loops over strided operands, the inner one vectorised.

The inner loop is written out for the layouts that matter (all contiguous; one operand constant along the row); any
other strides take a general loop. Arguments are laid out as runtime/elementwise.py says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.extending import overload

from tapegrad.native.cache import OPTIONS, jit, jit_inlined
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

_BLOCK = 1024  # elements of a row that are looked at ahead: they stay in the first-level cache


def _row_source(values: str, repaired: bool) -> list[str]:
    """Return the lines that compute a contiguous row, in blocks where some of them may need the other formula."""
    if not repaired:
        return ["for i in range(n):", f"    y[i] = f({values})"]
    return [
        "for start in range(uintp(0), n, block):",
        "    stop = min(start + block, n)",
        "    found = False",
        "    for i in range(start, stop):",
        f"        found |= needs({values})",
        "    if found:",
        "        for i in range(start, stop):",
        f"            y[i] = whole({values})",
        "    else:",
        "        for i in range(start, stop):",
        f"            y[i] = f({values})",
    ]


def _loop_source(operands: int, scalars: int, repaired: bool) -> str:
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
        lines += [f"            {line}" for line in _row_source(", ".join(values + rest), repaired)]
    # A loop over strided operands is not vectorised: a long formula is called there instead of being put in once more.
    strided = ", ".join([*(f"x{k}[i * args[{7 + 3 * k}]]" for k in rowed), *rest])
    lines += ["        else:", "            for i in range(args[1]):"]
    lines += [f"                y[i * args[4]] = {'whole' if repaired else 'called'}({strided})"]
    return "\n".join([*lines, "    return 0"])


@dataclass(frozen=True)
class Repair:
    """What computes the rare values for which a fast formula fails.

    Attributes:
        needs: whether the formula fails for these operands: cheap and vectorisable. It is asked ahead, for a block of a
            row at a time, so that the output may share an operand's memory.
        formula: the formula for those operands, any code.
    """

    needs: Callable[..., Any]
    formula: Callable[..., Any]


def with_repair(formula: Callable[..., Any], repair: Repair, operands: int) -> dict[str, Any]:
    """Return the names that a loop with a repair uses: ``whole`` is the right formula for each element.

    Args:
        formula: what is right but where ``repair`` says.
        repair: the other one.
        operands: how many both have.
    """
    names = ", ".join(f"a{k}" for k in range(operands))
    scope: dict[str, Any] = {"__name__": __name__, "f": jit_inlined(formula), "needs": jit_inlined(repair.needs)}
    scope |= {"exact": jit(repair.formula), "block": np.uintp(_BLOCK)}
    exec(f"def whole({names}):\n    return exact({names}) if needs({names}) else f({names})", scope)
    return scope | {"whole": jit(scope["whole"])}


def make_loop(
    formula: Callable[..., Any],
    input_dtypes: tuple[int, ...],
    output_dtype: int,
    scalars: int = 0,
    repair: Repair | None = None,
) -> Callable[[int], int]:
    """Return the kernel of a formula of one to five values, for operands of the given dtype codes.

    The last ``scalars`` operands are numbers: they are loaded once. Where ``repair`` is given, it computes the operands
    that it names; a value never depends on its neighbours.
    """
    scope: dict[str, Any] = {"__name__": __name__, "int64_at": int64_at, "uintp": np.uintp}
    scope |= {"f": jit_inlined(formula), "called": jit(formula)}
    if repair is not None:
        scope |= with_repair(formula, repair, len(input_dtypes))
    scope |= {"out": POINTERS[output_dtype], "out_bytes": ITEM_BYTES[output_dtype]}
    for k, dtype in enumerate(input_dtypes):
        scope |= {f"in{k}": POINTERS[dtype], f"bytes{k}": ITEM_BYTES[dtype]}
    exec(_loop_source(len(input_dtypes), scalars, repair is not None), scope)
    return scope["kernel"]  # type: ignore[no-any-return]

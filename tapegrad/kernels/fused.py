"""One loop for a group of elementwise ops, made of their scalar formulas: only what lives outside the group is touched.

Each element has the bits that the ops' own kernels give. LLVM must not join what two formulas do (a product and a sum
to a fused multiply-add, the negative of a difference to the other difference), as it may within one. So single
operations have no flags that would let it, and every other formula sees its operands through an exclusive or with a
word of memory, which is 0, and which it alone reads: nothing can be concluded across that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.kernels.loops import Repair
from tapegrad.kernels.reduce_sum import BLOCK, block_sum, sum_of_blocks
from tapegrad.kernels.vector_primitives import bits, from_bits, int_xor
from tapegrad.native.cache import jit_exact, jit_inlined
from tapegrad.native.dtypes import FLOAT32, FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at

STRIP = BLOCK  # elements: results lie in buffers of so many, in the first-level cache, before they are written
SIGNATURE = "int64(int64, int64, int64)"


@dataclass(frozen=True)
class Applied:
    """A formula on values: loads come first, then the results of the formulas, in order.

    Attributes:
        name: the op's.
        formula: the scalar function.
        operands: the values' numbers.
        dtype: of the result.
        single: whether it is a single operation, whose bits do not depend on what it is compiled with.
        repair: what computes the operands for which the formula fails: only straight-line code has it.
    """

    name: str
    formula: Callable[..., Any]
    operands: tuple[int, ...]
    dtype: int
    single: bool
    repair: Repair | None = None


@dataclass(frozen=True)
class FusedLoop:
    """What is computed for each element.

    Attributes:
        loads: of each value from memory its dtype, and whether it is the same for all elements.
        applied: the formulas.
        stores: the numbers of the values that are written to memory.
        sums: the numbers of the values that are summed, and whether to divide the sum by how many there are.
        constants: the loads whose words are the values themselves, not their addresses: only straight-line code has it.
    """

    loads: tuple[tuple[int, bool], ...]
    applied: tuple[Applied, ...]
    stores: tuple[int, ...]
    sums: tuple[tuple[int, bool], ...] = ()
    constants: frozenset[int] = frozenset()

    @property
    def dtypes(self) -> list[int]:
        """The dtypes of the values."""
        return [dtype for dtype, _ in self.loads] + [applied.dtype for applied in self.applied]

    @property
    def key(self) -> str:
        """A name for the loop's kernel that tells its structure apart from all others."""
        rows = [(a.name, a.operands, a.dtype, a.single) for a in self.applied]
        parts = (self.loads, rows, self.stores, self.sums, sorted(self.constants))
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _buffer(dtype: int) -> Callable[..., Any]:
    """Return an intrinsic that gives a typed pointer to STRIP elements on the machine stack.

    LLVM sees that nothing else points there, so the loop needs no checks of what overlaps before it is vectorised.
    """
    size, cast = STRIP * ITEM_BYTES[dtype] + 128, SCALARS[dtype]  # no two begin in the same set of the cache

    @intrinsic
    def buffer(typing_context):  # type: ignore[no-untyped-def]
        element = _TYPES[cast]

        def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
            with builder.goto_entry_block():
                memory = builder.alloca(ir.ArrayType(ir.IntType(8), size))
                memory.align = 64
            return builder.bitcast(memory, context.get_value_type(signature.return_type))

        return types.CPointer(element)(), build

    return buffer


_TYPES = {
    np.bool_: types.boolean,
    np.uint8: types.uint8,
    np.int32: types.int32,
    np.int64: types.int64,
    np.float32: types.float32,
    np.float64: types.float64,
}
_buffers = tuple(_buffer(dtype) for dtype in range(len(POINTERS)))


@jit_inlined
def _opaque(x, zero):
    """Return x, of which the optimiser cannot tell that it is x."""
    return from_bits(int_xor(bits(x), zero))


@jit_inlined
def _padded(x, buffer, n):
    """Return ``buffer`` with n elements of x, and ones after them: the loops always run over a whole strip.

    If they did not, LLVM would add loops for what is left over, whose constants take the registers from the main ones.
    """
    for i in range(np.uintp(STRIP)):
        buffer[i] = 1
    for i in range(n):
        buffer[i] = x[i]
    return buffer


exact, inlined = cache(jit_exact), cache(jit_inlined)  # a formula is compiled once in a process


def make_fused(loop: FusedLoop) -> Callable[[int, int, int], int]:
    """Return ``kernel(args, start, end)``, which computes the elements from ``start``, a multiple of STRIP, to ``end``.

    ``args`` is the address of words: a 0 for each formula, the addresses of what is loaded and stored, and for each sum
    those of a float64 for each strip and of the result. ``kernel(args, -1, count)``, afterwards, finishes the sums.
    """
    scope: dict[str, Any] = {
        "__name__": __name__,
        "int64_at": int64_at,
        "uintp": np.uintp,
        "opaque": _opaque,
        "bits": bits,
    }
    scope |= {"padded": _padded, "strip": np.uintp(STRIP), "whole": STRIP}
    for dtype in {*loop.dtypes}:
        scope |= {f"at{dtype}": POINTERS[dtype], f"buffer{dtype}": _buffers[dtype], f"scalar{dtype}": SCALARS[dtype]}
    for dtype in {loop.dtypes[v] for v, _ in loop.sums}:
        scope |= {"float64_at": POINTERS[FLOAT64], "sum_of_blocks": sum_of_blocks, "float64": np.float64}
        scope |= {f"block_sum{dtype}": block_sum(dtype), "int64": np.int64}
    for k, applied in enumerate(loop.applied):
        scope[f"f{k}"] = (exact if applied.single else inlined)(applied.formula)
    exec("\n".join(_source(loop)), scope)
    return scope["kernel"]  # type: ignore[no-any-return]


def _source(loop: FusedLoop) -> list[str]:
    first, loads, dtypes = len(loop.applied), len(loop.loads), loop.dtypes
    lines = ["def kernel(address, start, end):", "    args = int64_at(address)", *_finish(loop)]
    for k, (dtype, same) in enumerate(loop.loads):
        if same:
            lines.append(f"    x{k} = at{dtype}(args[{first + k}])[0]")
    for k, applied in enumerate(loop.applied):
        for dtype in sorted({dtypes[v] for v in applied.operands if _is_barred(applied, dtypes[v])}):
            lines.append(f"    z{k}_{dtype} = bits(at{dtype}(address + {8 * k})[0])")
    pieces = _pieces(loop)
    buffers = _Buffers(loop, pieces)
    lines += [f"    b{number} = buffer{dtype}()" for number, dtype in enumerate(buffers.dtypes)]
    lines += [f"    t{k} = buffer{dtype}()" for k, (dtype, same) in enumerate(loop.loads) if not same]
    lines += ["    while start < end:", "        n = uintp(min(end - start, whole))"]
    walked = [(k, dtype) for k, (dtype, same) in enumerate(loop.loads) if not same]
    lines += [f"        x{k} = at{dtype}(args[{first + k}] + start * {ITEM_BYTES[dtype]})" for k, dtype in walked]
    lines += ["        if n < strip:", *(f"            x{k} = padded(x{k}, t{k}, n)" for k, _ in walked)]
    for piece in pieces:
        lines += [
            "        for i in range(strip):",
            *(f"            {line}" for line in _body(loop, piece, buffers.places)),
        ]
    for place, v in enumerate(loop.stores, first + loads):
        lines.append(f"        y = at{dtypes[v]}(args[{place}] + start * {ITEM_BYTES[dtypes[v]]})")
        lines += ["        for i in range(n):", f"            y[i] = b{buffers.places[v]}[i]"]
    for place, (v, _) in enumerate(loop.sums):
        lines.append(f"        parts = float64_at(args[{_first_sum(loop) + 2 * place}])")
        part = f"block_sum{dtypes[v]}(b{buffers.places[v]}, int64(n), scalar{dtypes[v]}(0))"
        lines.append(f"        parts[start // whole] = float64({part})")
    return [*lines, "        start += whole", "    return 0"]


def _first_sum(loop: FusedLoop) -> int:
    """Return the number of the first sum's words."""
    return len(loop.applied) + len(loop.loads) + len(loop.stores)


def _finish(loop: FusedLoop) -> list[str]:
    """Return the lines that make the sums of the strips' sums."""
    if not loop.sums:
        return []
    lines = ["    if start < 0:"]
    for place, (v, mean) in enumerate(loop.sums):
        word = _first_sum(loop) + 2 * place
        total = f"sum_of_blocks(args[{word}], (end + whole - 1) // whole)"
        total = f"{total} / float64(end)" if mean else total
        lines.append(f"        at{loop.dtypes[v]}(args[{word + 1}])[0] = scalar{loop.dtypes[v]}({total})")
    return [*lines, "        return 0"]


def _pieces(loop: FusedLoop) -> list[range]:
    """Return the formulas of each loop over a strip, of which each has one long formula.

    With two in a loop the processor waits: too few turns are under way at once to hide how long each takes (tanh and
    sigmoid in a chain of eleven took 1.9 ns an element in one loop).
    """
    starts = [0]
    long = False
    for k, applied in enumerate(loop.applied):
        if _is_long(applied) and long:
            starts.append(k)
        long = long or _is_long(applied)
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(loop.applied)], strict=True)]


_SHORT = {"like", "select", "absolute"}


def _is_long(applied: Applied) -> bool:
    """Return whether a formula has a function that takes many instructions, such as exp."""
    return not _SHORT.issuperset(applied.formula.__code__.co_names)


class _Buffers:
    """Which buffer each value has that a later loop reads or that is stored.

    Attributes:
        places: of each such value the buffer's number.
        dtypes: of the buffers.
    """

    def __init__(self, loop: FusedLoop, pieces: list[range]) -> None:
        loads, self._loop = len(loop.loads), loop
        piece_of = {loads + k: number for number, piece in enumerate(pieces) for k in piece}
        last: dict[int, int] = {}  # of each value the last loop that reads it
        for k, applied in enumerate(loop.applied):
            last |= dict.fromkeys(applied.operands, piece_of[loads + k])
        lasting = [*loop.stores, *(v for v, _ in loop.sums)]
        last |= dict.fromkeys(lasting, len(pieces))
        self.places: dict[int, int] = {}
        self.dtypes: list[int] = []
        free: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            for v in (loads + k for k in piece):
                if last[v] > number:
                    self.places[v] = self._take(free, loop.dtypes[v])
            for v in [v for v, end in last.items() if end == number and v in self.places]:
                free.setdefault(loop.dtypes[v], []).append(self.places[v])

    def _take(self, free: dict[int, list[int]], dtype: int) -> int:
        if free.get(dtype):
            return free[dtype].pop()
        self.dtypes.append(dtype)
        return len(self.dtypes) - 1


def _is_barred(applied: Applied, dtype: int) -> bool:
    """Return whether a formula sees an operand of a dtype through an exclusive or."""
    return dtype >= FLOAT32 and not applied.single


def _body(loop: FusedLoop, piece: range, places: dict[int, int]) -> list[str]:
    """Return the lines that compute the values of one element in one loop."""
    dtypes, loads = loop.dtypes, len(loop.loads)

    def value(v: int) -> str:
        if v < loads:
            return f"x{v}" if loop.loads[v][1] else f"x{v}[i]"
        return f"v{v}" if v - loads in piece else f"b{places[v]}[i]"

    def operand(k: int, v: int) -> str:
        barred = _is_barred(loop.applied[k], dtypes[v])
        return f"opaque({value(v)}, z{k}_{dtypes[v]})" if barred else value(v)

    lines = []
    for k in piece:
        applied, v = loop.applied[k], loads + k
        lines.append(f"v{v} = scalar{applied.dtype}(f{k}({', '.join(operand(k, o) for o in applied.operands)}))")
        if v in places:
            lines.append(f"b{places[v]}[i] = v{v}")
    return lines

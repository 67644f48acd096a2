"""Straight-line code for a run of operations on single numbers, whose values stay in registers where they can.

It is made of the same description as a loop (kernels/fused.py), and has the same bits as the ops' own kernels: a single
operation is one instruction without flags that would let LLVM join it with another, every other formula a function of
its own, compiled as the kernels are, that is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.kernels.fused import Applied, FusedLoop, inlined
from tapegrad.kernels.loops import with_repair
from tapegrad.native.cache import compile_function, jit_exact
from tapegrad.native.dtypes import FLOAT32, SCALARS

SIGNATURE = "int64(int64)"
_WORD = ir.IntType(64)
_INSTRUCTIONS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "neg": "fneg"}
_functions: dict[str, int] = {}  # addresses of formulas, by their keys


def called(loop: FusedLoop) -> dict[str, Applied]:
    """Return the formulas that the code calls, by their keys, in the order of the words with their addresses."""
    return {_key(applied): applied for applied in loop.applied if not applied.single}


def _key(applied: Applied) -> str:
    return f"formula.{applied.name}.{len(applied.operands)}.{applied.dtype}"


def function_of(key: str, applied: Applied) -> int:
    """Return the address of a formula compiled for single numbers.

    Args:
        key: its key; see ``called``.
        applied: the formula.
    """
    if key not in _functions:
        number = "float32" if applied.dtype == FLOAT32 else "float64"
        names = [f"x{k}" for k in range(len(applied.operands))]
        scope: dict[str, Any] = {"__name__": __name__, "scalar": SCALARS[applied.dtype]}
        if applied.repair is None:
            scope["whole"] = inlined(applied.formula)
        else:
            scope |= with_repair(applied.formula, applied.repair, len(names))
        exec(f"def formula({', '.join(names)}):\n    return scalar(whole({', '.join(names)}))", scope)
        signature = f"{number}({', '.join([number] * len(names))})"
        _functions[key] = compile_function(scope["formula"], key, signature)
    return _functions[key]


def make_straight(loop: FusedLoop) -> Callable[[int], int]:
    """Return ``kernel(args)``.

    ``args`` is the address of words: the addresses of formulas; of each load its address, or the value of a constant;
    the addresses of stores.
    """

    @intrinsic
    def run(typing_context, address):  # type: ignore[no-untyped-def]
        def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
            _Writer(builder, args[0], loop).write()
            return _WORD(0)

        return types.int64(types.int64), build

    @jit_exact
    def run_exactly(address):  # type: ignore[no-untyped-def]
        return run(address)

    def kernel(address):  # type: ignore[no-untyped-def]
        return run_exactly(address)

    return kernel


class _Writer:
    """Emits the instructions of one run."""

    def __init__(self, builder: ir.IRBuilder, words: ir.Value, loop: FusedLoop) -> None:
        self._builder, self._loop = builder, loop
        self._words = builder.inttoptr(words, _WORD.as_pointer())
        self._keys = list(called(loop))
        self._values: dict[int, ir.Value] = {}
        self._targets: dict[str, ir.Value] = {}

    def write(self) -> None:
        loads = len(self._loop.loads)
        places = {v: k for k, v in enumerate(self._loop.stores, len(self._keys) + loads)}
        for v, applied in enumerate(self._loop.applied, loads):
            value = self._apply(applied, [self._value(operand) for operand in applied.operands])
            self._values[v] = value
            if v in places:  # at once: a place in memory may be another value's later
                self._builder.store(value, self._address(places[v], applied.dtype))

    def _value(self, v: int) -> ir.Value:
        if v not in self._values:  # a load, when it is first needed
            word, dtype = len(self._keys) + v, self._loop.dtypes[v]
            constant = v in self._loop.constants
            self._values[v] = self._builder.load(self._place(word, dtype) if constant else self._address(word, dtype))
        return self._values[v]

    def _place(self, k: int, dtype: int) -> ir.Value:
        """Return where the word is, as a pointer to a value."""
        return self._builder.bitcast(self._builder.gep(self._words, [_WORD(k)]), _type(dtype).as_pointer())

    def _word(self, k: int) -> ir.Value:
        return self._builder.load(self._builder.gep(self._words, [_WORD(k)]))

    def _address(self, k: int, dtype: int) -> ir.Value:
        return self._builder.inttoptr(self._word(k), _type(dtype).as_pointer())

    def _apply(self, applied: Applied, operands: list[ir.Value]) -> ir.Value:
        if applied.single:
            return getattr(self._builder, _INSTRUCTIONS[applied.name])(*operands)
        key = _key(applied)
        if key not in self._targets:
            number = _type(applied.dtype)
            kind = ir.FunctionType(number, [number] * len(operands))
            self._targets[key] = self._builder.inttoptr(self._word(self._keys.index(key)), kind.as_pointer())
        return self._builder.call(self._targets[key], operands)


def _type(dtype: int) -> ir.Type:
    return ir.FloatType() if dtype == FLOAT32 else ir.DoubleType()

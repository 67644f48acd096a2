"""Reductions of contiguous rows by explicit LLVM vectors.

Without 'reassoc' LLVM may not reorder a float sum, so it does not vectorise one. Here four vector accumulators of 64
bytes take the row in turn, the rest of it comes by a masked load, and the lanes are merged by a tree: the order of the
additions depends on the length alone.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, INT32, INT64, ITEM_BYTES, UINT8

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_ELEMENTS = {BOOL: _I8, UINT8: _I8, INT32: _I32, INT64: _I64, FLOAT32: ir.FloatType(), FLOAT64: ir.DoubleType()}
_NUMBA = {
    BOOL: types.boolean,
    UINT8: types.uint8,
    INT32: types.int32,
    INT64: types.int64,
    FLOAT32: types.float32,
    FLOAT64: types.float64,
}
_ACCUMULATORS = 4
_VECTOR_BYTES = 64
Build = Callable[..., Any]


class Vectors:
    """Emits the vector code of one reduction: elements of one dtype into accumulators of another."""

    def __init__(self, builder: Any, dtype: int, accumulator: int) -> None:
        self.builder = builder
        self.signed = dtype in (INT32, INT64)
        self.floating = accumulator >= FLOAT32
        self.size = ITEM_BYTES[dtype]
        self.lanes = _VECTOR_BYTES // max(self.size, ITEM_BYTES[accumulator])
        self.loaded = ir.VectorType(_ELEMENTS[dtype], self.lanes)
        self.element = _ELEMENTS[accumulator]
        self.type = ir.VectorType(self.element, self.lanes)

    def splat(self, value: Any, count: int | None = None) -> Any:
        kind = ir.VectorType(value.type, count or self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        single = self.builder.insert_element(undefined, value, _I32(0))
        return self.builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, kind.count), None))

    def constant(self, value: float) -> Any:
        return ir.Constant(self.type, [float(value) if self.floating else int(value)] * self.lanes)

    def load(self, pointer: Any, index: Any, mask: Any = None) -> Any:
        """Load a vector; lanes that ``mask`` turns off are not read and are zero."""
        place = self.builder.bitcast(self.builder.gep(pointer, [index]), self.loaded.as_pointer())
        if mask is None:
            return self.builder.load(place, align=self.size)
        suffix = f"{'f' if isinstance(self.loaded.element, ir.FloatType | ir.DoubleType) else 'i'}{8 * self.size}"
        name = f"llvm.masked.load.v{self.lanes}{suffix}.p0"
        kind = ir.FunctionType(self.loaded, [place.type, _I32, mask.type, self.loaded])
        read = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(read, [place, _I32(self.size), mask, ir.Constant(self.loaded, None)])

    def widen(self, value: Any) -> Any:
        """Convert loaded elements to the accumulator's type."""
        if value.type == self.type:
            return value
        if isinstance(value.type.element, ir.FloatType) or self.floating:
            if not isinstance(value.type.element, ir.IntType):
                return self.builder.fpext(value, self.type)
            return self.builder.sitofp(value, self.type) if self.signed else self.builder.uitofp(value, self.type)
        return self.builder.sext(value, self.type) if self.signed else self.builder.zext(value, self.type)

    def mask_below(self, count: Any) -> Any:
        """Return the mask of the lanes whose number is below ``count``."""
        lanes = ir.Constant(ir.VectorType(_I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_unsigned("<", lanes, self.splat(self.builder.trunc(count, _I32)))

    def merge_lanes(self, value: Any, merge: Build) -> Any:
        """Merge the halves of a vector until one lane is left."""
        count = self.lanes
        while count > 1:
            count //= 2
            low, high = ([_I32(k + shift) for k in range(count)] for shift in (0, count))
            mask = ir.VectorType(_I32, count)
            halves = [self.builder.shuffle_vector(value, value, ir.Constant(mask, half)) for half in (low, high)]
            value = merge(self, *halves)
        return self.builder.extract_element(value, _I32(0))


def row_reducer(dtype: int, accumulator: int, identity: float, step: Build, merge: Build) -> Callable[..., Any]:
    """Return an intrinsic ``reduce(x, n, c)`` of a typed pointer, a length and a scalar that ``step`` may use.

    Args:
        dtype: code of the elements' dtype.
        accumulator: code of the dtype of the result and of ``c``.
        identity: what an accumulator starts from.
        step: ``step(vectors, total, x, c)`` emits the vector code for one more vector ``x`` (as it was loaded).
        merge: ``merge(vectors, a, b)`` emits the code that puts two vectors of totals together.
    """
    result = _NUMBA[accumulator]
    pointer = types.CPointer(_NUMBA[dtype])

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = Vectors(builder, dtype, accumulator)
        x, n, c = args
        if accumulator == BOOL:
            c = builder.zext(c, _I8)
        c = vectors.splat(c)
        lanes = vectors.lanes
        # cgutils places these in the entry block; the optimiser turns them into registers.
        totals = [cgutils.alloca_once_value(builder, vectors.constant(identity)) for _ in range(_ACCUMULATORS)]
        main = builder.and_(n, _I64(-_ACCUMULATORS * lanes))
        whole = builder.and_(n, _I64(-lanes))
        with cgutils.for_range_slice(builder, _I64(0), main, _I64(_ACCUMULATORS * lanes), _I64) as (i, _):
            for k, total in enumerate(totals):
                element = vectors.load(x, builder.add(i, _I64(k * lanes)))
                builder.store(step(vectors, builder.load(total), element, c), total)
        with cgutils.for_range_slice(builder, main, whole, _I64(lanes), _I64) as (i, _):
            builder.store(step(vectors, builder.load(totals[0]), vectors.load(x, i), c), totals[0])
        with builder.if_then(builder.icmp_signed("<", whole, n)):
            mask = vectors.mask_below(builder.sub(n, whole))
            old = builder.load(totals[1])
            new = step(vectors, old, vectors.load(x, whole, mask), c)
            builder.store(builder.select(mask, new, old), totals[1])
        a, b, d, e = (builder.load(total) for total in totals)
        total = vectors.merge_lanes(merge(vectors, merge(vectors, a, b), merge(vectors, d, e)), merge)
        return builder.trunc(total, _I1) if accumulator == BOOL else total

    @intrinsic
    def reduce(typing_context, x, n, c):  # type: ignore[no-untyped-def]
        if x != pointer:
            return None
        return result(pointer, types.int64, result), build

    return reduce  # type: ignore[no-any-return]


def add(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.fadd(a, b) if v.floating else v.builder.add(a, b)


def multiply(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.fmul(a, b, flags=("nsz", "contract")) if v.floating else v.builder.mul(a, b)


def either(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.or_(a, b)


def both(v: Vectors, a: Any, b: Any) -> Any:
    return v.builder.and_(a, b)


def greater(v: Vectors, a: Any, b: Any) -> Any:
    return _better(v, ">", a, b)


def greater_number(v: Vectors, a: Any, b: Any) -> Any:
    """Return the greater of a and b where a is a number, else b: one instruction, half the time of `greater`."""
    return v.builder.select(v.builder.fcmp_ordered(">", a, b), a, b)


def lesser(v: Vectors, a: Any, b: Any) -> Any:
    return _better(v, "<", a, b)


def _better(v: Vectors, sign: str, a: Any, b: Any) -> Any:
    """Return b where it beats a or is nan."""
    builder = v.builder
    if v.floating:
        wins = builder.or_(builder.fcmp_ordered(sign, b, a), builder.fcmp_unordered("uno", b, b))
    elif v.signed:
        wins = builder.icmp_signed(sign, b, a)
    else:
        wins = builder.icmp_unsigned(sign, b, a)
    return builder.select(wins, b, a)


def nonzero(v: Vectors, x: Any) -> Any:
    """Return which elements are not zero (nan is not)."""
    zero = ir.Constant(x.type, None)
    if isinstance(x.type.element, ir.IntType):
        return v.builder.icmp_unsigned("!=", x, zero)
    return v.builder.fcmp_unordered("!=", x, zero)


def step_of(merge: Build) -> Build:
    """Return the step that merges each element, widened, into the total."""
    return lambda v, total, x, c: merge(v, total, v.widen(x))


def add_square_of_difference(v: Vectors, total: Any, x: Any, c: Any) -> Any:
    d = v.builder.fsub(v.widen(x), c)
    return v.builder.fadd(total, v.builder.fmul(d, d, flags=("contract",)), flags=("contract",))


def add_nonzero(v: Vectors, total: Any, x: Any, c: Any) -> Any:
    return v.builder.add(total, v.builder.zext(nonzero(v, x), v.type))


def or_nonzero(v: Vectors, total: Any, x: Any, c: Any) -> Any:
    return v.builder.or_(total, v.builder.zext(nonzero(v, x), v.type))


def and_nonzero(v: Vectors, total: Any, x: Any, c: Any) -> Any:
    return v.builder.and_(total, v.builder.zext(nonzero(v, x), v.type))


__all__ = [
    "Vectors",
    "add",
    "add_nonzero",
    "add_square_of_difference",
    "and_nonzero",
    "both",
    "either",
    "greater",
    "lesser",
    "multiply",
    "nonzero",
    "or_nonzero",
    "row_reducer",
    "step_of",
]

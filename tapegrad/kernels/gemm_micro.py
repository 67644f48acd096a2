"""The parts of matrix multiplication that are written as LLVM vector code: the register tile and the packing moves.

Numba's loops over a tile of C spill its accumulators; here every accumulator is one SSA vector and every step is one
fused multiply-add. Each routine is its own function in the caller's module (internal, never inlined), so a kernel that
uses it at several places compiles it once. All strides are in bytes; addresses become pointers once, at the top.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_POINTER = _I8.as_pointer()
_SCALARS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


@dataclass(frozen=True)
class Tile:
    """The register tile of C: ``rows`` rows of ``vectors`` vectors; ``masks``: masked loads cost as much as plain ones."""

    vector_bytes: int
    rows: int
    vectors: int
    masks: bool


# Accumulators + one row of B + a broadcast element of A must fit in the registers: 32 of them (AVX-512, NEON) or 16.
AVX512 = Tile(vector_bytes=64, rows=8, vectors=3, masks=True)
AVX2 = Tile(vector_bytes=32, rows=6, vectors=2, masks=True)
NEON = Tile(vector_bytes=16, rows=8, vectors=2, masks=False)
GENERIC = Tile(vector_bytes=16, rows=4, vectors=2, masks=False)


@cache
def host_tile() -> Tile:
    """Return the tile for the CPU that Numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = set(features.split(","))
    if "+avx512f" in enabled and "+avx512vl" in enabled:
        return AVX512
    if "+avx2" in enabled and "+fma" in enabled:
        return AVX2
    return NEON if triple.startswith(("aarch64", "arm64")) else GENERIC


class Vectors:
    """Emits the vector instructions of one routine."""

    def __init__(self, builder: ir.IRBuilder, dtype: np.dtype[Any], vector_bytes: int) -> None:
        self.builder = builder
        self.size = dtype.itemsize
        self.scalar = _SCALARS[dtype.name]
        self.lanes = vector_bytes // self.size
        self.type = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.size}"

    def at(self, base: ir.Value, offset: ir.Value | int) -> ir.Value:
        """Return the pointer ``offset`` bytes after ``base``."""
        return self.builder.gep(base, [_I64(offset) if isinstance(offset, int) else offset])

    def _intrinsic(self, name: str, returns: ir.Type, *arguments: ir.Type) -> ir.Function:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, arguments), name)

    def load(self, address: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Load a vector; lanes that ``mask`` turns off are not read and are zero."""
        pointer = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            return self.builder.load(pointer, align=self.size)
        name = f"llvm.masked.load.{self.suffix}.p0"
        read = self._intrinsic(name, self.type, pointer.type, _I32, mask.type, self.type)
        return self.builder.call(read, [pointer, _I32(self.size), mask, self.zero])

    def store(self, value: ir.Value, address: ir.Value, mask: ir.Value | None = None) -> None:
        """Store a vector; lanes that ``mask`` turns off are not written."""
        pointer = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, pointer, align=self.size)
            return
        name = f"llvm.masked.store.{self.suffix}.p0"
        write = self._intrinsic(name, ir.VoidType(), self.type, pointer.type, _I32, mask.type)
        self.builder.call(write, [value, pointer, _I32(self.size), mask])

    def broadcast(self, value: ir.Value, type_: ir.VectorType | None = None) -> ir.Value:
        """Return a vector whose lanes all are ``value``."""
        type_ = type_ or self.type
        undefined = ir.Constant(type_, ir.Undefined)
        first = self.builder.insert_element(undefined, value, _I32(0))
        lanes = ir.Constant(ir.VectorType(_I32, type_.count), [0] * type_.count)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def element(self, address: ir.Value) -> ir.Value:
        """Load one element into every lane."""
        return self.broadcast(self.builder.load(self.builder.bitcast(address, self.scalar.as_pointer())))

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``x * y + z``, fused where the CPU can (``llvm.fma`` would call libm where it cannot)."""
        return self.builder.call(self._intrinsic(f"llvm.fmuladd.{self.suffix}", *[self.type] * 4), [x, y, z])

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Return the mask that turns on the first ``count`` lanes (all where ``count`` is more)."""
        type_ = ir.VectorType(_I64, self.lanes)
        indices = ir.Constant(type_, list(range(self.lanes)))
        return self.builder.icmp_signed("<", indices, self.broadcast(count, type_))

    def interleave(self, x: ir.Value, y: ir.Value, half: int) -> tuple[ir.Value, ir.Value]:
        """Return one butterfly of a transposition: ``x`` and ``y`` with their blocks of ``half`` lanes exchanged."""
        lanes = range(self.lanes)
        low = [i if not i & half else self.lanes + i - half for i in lanes]
        high = [i + half if not i & half else self.lanes + i for i in lanes]
        mask = ir.VectorType(_I32, self.lanes)
        shuffle = self.builder.shuffle_vector
        return shuffle(x, y, ir.Constant(mask, low)), shuffle(x, y, ir.Constant(mask, high))


def _routine(module: ir.Module, name: str, arguments: str) -> tuple[ir.Function, bool]:
    """Return the module's internal function ``name`` and whether it is new; arguments that begin with '*' are pointers."""
    if name in module.globals:
        return module.globals[name], False
    words = arguments.split()
    kinds = [_POINTER if word.startswith("*") else _I64 for word in words]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for argument, word in zip(function.args, words, strict=True):
        argument.name = word.lstrip("*")
    return function, True


def _not_unrolled(module: ir.Module) -> ir.MDValue:
    """Return the mark of a loop that LLVM leaves as it is: unrolling costs compile time and gains nothing here."""
    loop = module.add_metadata([ir.Constant(_I32, len(module.metadata)), module.add_metadata(["llvm.loop.unroll.disable"])])
    loop.operands = (loop, *loop.operands[1:])
    return loop


class Loop:
    """A counted loop ``for i in range(count)`` with values carried from one turn to the next; ``count`` may be 0."""

    def __init__(self, builder: ir.IRBuilder, count: ir.Value, carried: list[ir.Value]) -> None:
        self.builder = builder
        self.before, self.count = builder.block, count
        self.body, self.after = builder.append_basic_block("body"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, _I64(0)), self.body, self.after)
        builder.position_at_end(self.body)
        self.left = self._phi(count)
        self.values = [self._phi(value) for value in carried]
        self.carried = carried

    def _phi(self, start: ir.Value) -> ir.Value:
        phi = self.builder.phi(start.type)
        phi.add_incoming(start, self.before)
        return phi

    def close(self, updated: list[ir.Value]) -> list[ir.Value]:
        """End the body with the carried values' next values; return their values after the loop."""
        builder, end = self.builder, self.builder.block
        left = builder.sub(self.left, _I64(1))
        for phi, value in zip([self.left, *self.values], [left, *updated], strict=True):
            phi.add_incoming(value, end)
        branch = builder.cbranch(builder.icmp_signed(">", left, _I64(0)), self.body, self.after)
        branch.set_metadata("llvm.loop", _not_unrolled(builder.module))
        builder.position_at_end(self.after)
        results = [builder.phi(value.type) for value in updated]
        for phi, start, value in zip(results, self.carried, updated, strict=True):
            phi.add_incoming(start, self.before)
            phi.add_incoming(value, end)
        return results


def row_counts(tile: Tile) -> list[int]:
    """Return the heights that tiles come in: the full one and powers of two for the rows that are left."""
    return [tile.rows] + [r for r in (8, 4, 2, 1) if r < tile.rows]


_TILE_ARGUMENTS = "*a rsa csa *b rsb *c rsc k cols accumulate"


def _tile_routine(module: ir.Module, dtype: np.dtype[Any], tile: Tile, rows: int, vectors: int) -> ir.Function:
    """Return ``C[rows, cols] (+)= A[rows, k] @ B[k, cols]`` where ``cols`` ends in the last of ``vectors`` vectors."""
    name = f"gemm_{dtype.name}_{tile.vector_bytes}_{rows}x{vectors}"
    function, new = _routine(module, name, _TILE_ARGUMENTS)
    if not new:
        return function
    a, rsa, csa, b, rsb, c, rsc, k, cols, accumulate = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype, tile.vector_bytes)
    mask = v.first_lanes(builder.sub(cols, _I64((vectors - 1) * v.lanes)))
    masks = [None] * (vectors - 1) + [mask]
    row_offsets = [builder.mul(rsa, _I64(i)) for i in range(rows)]
    loop = Loop(builder, k, [a, b] + [v.zero] * (rows * vectors))
    pa, pb, *sums = loop.values
    row_of_b = [v.load(v.at(pb, j * tile.vector_bytes), masks[j] if tile.masks else None) for j in range(vectors)]
    updated = []
    for i in range(rows):
        x = v.element(v.at(pa, row_offsets[i]))
        updated += [v.multiply_add(x, row_of_b[j], sums[i * vectors + j]) for j in range(vectors)]
    _, _, *sums = loop.close([v.at(pa, csa), v.at(pb, rsb), *updated])
    with _either(builder, tile.masks, builder.icmp_signed("==", cols, _I64(vectors * v.lanes))) as variants:
        for full in variants:
            _store_tile(v, sums, c, rsc, accumulate, [None] * vectors if full else masks)
    builder.ret_void()
    return function


@contextmanager
def _either(builder: ir.IRBuilder, masks: bool, full: ir.Value) -> Iterator[Iterator[bool]]:
    """Let the body run once, masked, or twice: for a full tile and, in the other branch, for a masked one."""

    def branches() -> Iterator[bool]:
        with builder.if_else(full) as (then, otherwise):
            with then:
                yield True
            with otherwise:
                yield False

    yield iter([False]) if masks else branches()


def _store_tile(
    v: Vectors, sums: list[ir.Value], c: ir.Value, rsc: ir.Value, accumulate: ir.Value, masks: list[ir.Value | None]
) -> None:
    """Write the accumulators to C, or add them to it."""
    builder, width = v.builder, len(masks)
    with builder.if_else(builder.icmp_signed("!=", accumulate, _I64(0))) as (adding, setting):
        for branch, add in ((adding, True), (setting, False)):
            with branch:
                row = c
                for i in range(0, len(sums), width):
                    for j, mask in enumerate(masks):
                        address = v.at(row, j * v.lanes * v.size)
                        total = sums[i + j]
                        v.store(builder.fadd(v.load(address, mask), total) if add else total, address, mask)
                    row = v.at(row, rsc)


def _arguments(builder: ir.IRBuilder, spec: str, args: Any) -> list[ir.Value]:
    """Return the call's int64 arguments with those that ``spec`` marks '*' made pointers."""
    words = spec.split()
    return [builder.inttoptr(x, _POINTER) if w.startswith("*") else x for w, x in zip(words, args, strict=False)]


def tile_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``multiply(a, rsa, csa, b, rsb, c, rsc, k, cols, accumulate, rows)``: one tile.

    ``rows``, one of ``row_counts``, and ``cols`` <= ``tile.vectors`` vectors choose the routine. Without ``tile.masks``, B's
    rows must be readable up to a whole number of vectors.
    """

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        *operands, rows = args
        lanes = tile.vector_bytes // dtype.itemsize
        cols = operands[8]
        pointers = _arguments(builder, _TILE_ARGUMENTS, operands)
        width = builder.sdiv(builder.add(cols, _I64(lanes - 1)), _I64(lanes))
        index = builder.add(builder.mul(rows, _I64(tile.vectors + 1)), width)
        end = builder.append_basic_block("multiplied")
        switch = builder.switch(index, end)
        for r in row_counts(tile):
            for w in range(1, tile.vectors + 1):
                block = builder.append_basic_block(f"tile{r}x{w}")
                switch.add_case(_I64(r * (tile.vectors + 1) + w), block)
                builder.position_at_end(block)
                builder.call(_tile_routine(builder.module, dtype, tile, r, w), pointers)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing_context, a, rsa, csa, b, rsb, c, rsc, k, cols, accumulate, rows):  # type: ignore[no-untyped-def]
        return types.void(*[types.int64] * 11), build

    return multiply  # type: ignore[no-any-return]


_MOVE_ARGUMENTS = "*source stride *target target_stride rows cols"


def _copy_routine(module: ir.Module, dtype: np.dtype[Any], tile: Tile) -> ir.Function:
    """Return the copy of ``rows`` runs of ``cols`` contiguous elements."""
    function, new = _routine(module, f"gemm_copy_{dtype.name}_{tile.vector_bytes}", _MOVE_ARGUMENTS)
    if not new:
        return function
    source, stride, target, target_stride, rows, cols = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype, tile.vector_bytes)
    full, rest = builder.sdiv(cols, _I64(v.lanes)), builder.srem(cols, _I64(v.lanes))
    mask, some = v.first_lanes(rest), builder.icmp_signed(">", rest, _I64(0))
    outer = Loop(builder, rows, [source, target])
    inner = Loop(builder, full, outer.values)
    x, y = inner.values
    v.store(v.load(x), y)
    x, y = inner.close([v.at(x, tile.vector_bytes), v.at(y, tile.vector_bytes)])
    with builder.if_then(some):
        v.store(v.load(x, mask), y, mask)
    x, y = outer.values
    outer.close([v.at(x, stride), v.at(y, target_stride)])
    builder.ret_void()
    return function


def _transpose_routine(module: ir.Module, dtype: np.dtype[Any], tile: Tile) -> ir.Function:
    """Return the transposing copy: target[j, i] = source[i, j] for ``rows`` <= one vector of rows of ``cols`` elements.

    It writes whole vectors, and as many target rows as the next whole number of vectors has: the target needs that room.
    """
    function, new = _routine(module, f"gemm_transpose_{dtype.name}_{tile.vector_bytes}", _MOVE_ARGUMENTS)
    if not new:
        return function
    source, stride, target, target_stride, rows, cols = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype, tile.vector_bytes)
    last = builder.sub(rows, _I64(1))
    offsets = []
    for i in range(v.lanes):  # a row that is not there is read as the last one, whose place is inside the operand
        is_row = builder.icmp_signed("<", _I64(i), last)
        offsets.append(builder.mul(builder.select(is_row, _I64(i), last), stride))
    full, rest = builder.sdiv(cols, _I64(v.lanes)), builder.srem(cols, _I64(v.lanes))
    loop = Loop(builder, full, [source, target])
    x, y = loop.values
    y = _store_transposed(v, [v.load(v.at(x, offset)) for offset in offsets], y, target_stride)
    x, y = loop.close([v.at(x, tile.vector_bytes), y])
    with builder.if_then(builder.icmp_signed(">", rest, _I64(0))):
        mask = v.first_lanes(rest)
        _store_transposed(v, [v.load(v.at(x, offset), mask) for offset in offsets], y, target_stride)
    builder.ret_void()
    return function


def _store_transposed(v: Vectors, block: list[ir.Value], target: ir.Value, stride: ir.Value) -> ir.Value:
    """Store the transposed square block row by row; return where the next row would go."""
    half = v.lanes // 2
    while half:
        for i in range(v.lanes):
            if not i & half:
                block[i], block[i + half] = v.interleave(block[i], block[i + half], half)
        half //= 2
    for row in block:
        v.store(row, target)
        target = v.at(target, stride)
    return target


def _mover(routine: Callable[..., ir.Function], dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.call(routine(builder.module, dtype, tile), _arguments(builder, _MOVE_ARGUMENTS, args))
        return context.get_dummy_value()

    @intrinsic
    def move(typing_context, source, stride, target, target_stride, rows, cols):  # type: ignore[no-untyped-def]
        return types.void(*[types.int64] * 6), build

    return move  # type: ignore[no-any-return]


def copy_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``copy(source, stride, target, target_stride, rows, cols)`` of runs of contiguous elements."""
    return _mover(_copy_routine, dtype, tile)


def transpose_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``transpose(source, stride, target, target_stride, rows, cols)``: one vector of rows becomes columns."""
    return _mover(_transpose_routine, dtype, tile)


_DOT_ROWS = 4
_DOT_ARGUMENTS = "*a rsa *x *y stride k accumulate"


def _sum_lanes(v: Vectors, vector: ir.Value) -> ir.Value:
    """Return the sum of a vector's lanes, added as a tree."""
    half = v.lanes // 2
    while half:
        swapped = ir.Constant(ir.VectorType(_I32, v.lanes), [(i + half) % v.lanes for i in range(v.lanes)])
        vector = v.builder.fadd(vector, v.builder.shuffle_vector(vector, vector, swapped))
        half //= 2
    return v.builder.extract_element(vector, _I32(0))


def _dot_routine(module: ir.Module, dtype: np.dtype[Any], tile: Tile, rows: int) -> ir.Function:
    """Return ``y[rows] (+)= A[rows, k] @ x[k]`` for contiguous rows of A and contiguous x."""
    function, new = _routine(module, f"gemm_dot_{dtype.name}_{tile.vector_bytes}_{rows}", _DOT_ARGUMENTS)
    if not new:
        return function
    a, rsa, x, y, stride, k, accumulate = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype, tile.vector_bytes)
    steps = 8 // rows  # this many accumulators a row: eight hide the latency of the additions
    offsets = [builder.mul(rsa, _I64(i)) for i in range(rows)]
    block = steps * v.lanes

    def turn(count: ir.Value, chains: int, start: list[ir.Value], mask: ir.Value | None) -> list[ir.Value]:
        loop = Loop(builder, count, start)
        pa, px, *sums = loop.values
        for s in range(chains):
            part = v.load(v.at(px, s * tile.vector_bytes), mask)
            for i in range(rows):
                row = v.load(v.at(v.at(pa, offsets[i]), s * tile.vector_bytes), mask)
                sums[i * steps + s] = v.multiply_add(row, part, sums[i * steps + s])
        step = chains * tile.vector_bytes
        return loop.close([v.at(pa, step), v.at(px, step), *sums])

    blocks, rest = builder.sdiv(k, _I64(block)), builder.srem(k, _I64(block))
    singles, tail = builder.sdiv(rest, _I64(v.lanes)), builder.srem(rest, _I64(v.lanes))
    state = turn(blocks, steps, [a, x] + [v.zero] * (rows * steps), None)
    state = turn(singles, 1, state, None)
    some = builder.zext(builder.icmp_signed(">", tail, _I64(0)), _I64)
    _, _, *sums = turn(some, 1, state, v.first_lanes(tail))
    for i in range(rows):
        row = sums[i * steps : (i + 1) * steps]
        while len(row) > 1:
            row = [builder.fadd(p, q) for p, q in zip(row[::2], row[1::2], strict=True)]
        total = _sum_lanes(v, row[0])
        target = builder.bitcast(v.at(y, builder.mul(stride, _I64(i))), v.scalar.as_pointer())
        old = builder.select(builder.icmp_signed("!=", accumulate, _I64(0)), _I1(1), _I1(0))
        with builder.if_else(old) as (adding, setting):
            with adding:
                builder.store(builder.fadd(builder.load(target), total), target)
            with setting:
                builder.store(total, target)
    builder.ret_void()
    return function


def dot_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``dot(a, rsa, x, y, stride, k, accumulate, rows)``: up to ``_DOT_ROWS`` rows of A times x."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        *operands, rows = args
        pointers = _arguments(builder, _DOT_ARGUMENTS, operands)
        with builder.if_else(builder.icmp_signed("==", rows, _I64(_DOT_ROWS))) as (four, one):
            with four:
                builder.call(_dot_routine(builder.module, dtype, tile, _DOT_ROWS), pointers)
            with one:
                builder.call(_dot_routine(builder.module, dtype, tile, 1), pointers)
        return context.get_dummy_value()

    @intrinsic
    def dot(typing_context, a, rsa, x, y, stride, k, accumulate, rows):  # type: ignore[no-untyped-def]
        return types.void(*[types.int64] * 8), build

    return dot  # type: ignore[no-any-return]


_AXPY_ARGUMENTS = "*x stride *b rsb *y cols"


def _axpy_routine(module: ir.Module, dtype: np.dtype[Any], tile: Tile, rows: int) -> ir.Function:
    """Return ``y[cols] += x[rows] @ B[rows, cols]`` for contiguous rows of B and contiguous y."""
    function, new = _routine(module, f"gemm_axpy_{dtype.name}_{tile.vector_bytes}_{rows}", _AXPY_ARGUMENTS)
    if not new:
        return function
    x, stride, b, rsb, y, cols = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(builder, dtype, tile.vector_bytes)
    factors = [v.element(v.at(x, builder.mul(stride, _I64(i)))) for i in range(rows)]
    offsets = [builder.mul(rsb, _I64(i)) for i in range(rows)]

    def turn(count: ir.Value, start: list[ir.Value], mask: ir.Value | None) -> list[ir.Value]:
        loop = Loop(builder, count, start)
        pb, py = loop.values
        total = v.load(py, mask)
        for factor, offset in zip(factors, offsets, strict=True):
            total = v.multiply_add(factor, v.load(v.at(pb, offset), mask), total)
        v.store(total, py, mask)
        return loop.close([v.at(pb, tile.vector_bytes), v.at(py, tile.vector_bytes)])

    tail = builder.srem(cols, _I64(v.lanes))
    state = turn(builder.sdiv(cols, _I64(v.lanes)), [b, y], None)
    turn(builder.zext(builder.icmp_signed(">", tail, _I64(0)), _I64), state, v.first_lanes(tail))
    builder.ret_void()
    return function


def axpy_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``axpy(x, stride, b, rsb, y, cols, rows)``: adds 4 rows of B times 4 elements of x to y, or 1."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        *operands, rows = args
        pointers = _arguments(builder, _AXPY_ARGUMENTS, operands)
        with builder.if_else(builder.icmp_signed("==", rows, _I64(4))) as (four, one):
            with four:
                builder.call(_axpy_routine(builder.module, dtype, tile, 4), pointers)
            with one:
                builder.call(_axpy_routine(builder.module, dtype, tile, 1), pointers)
        return context.get_dummy_value()

    @intrinsic
    def axpy(typing_context, x, stride, b, rsb, y, cols, rows):  # type: ignore[no-untyped-def]
        return types.void(*[types.int64] * 7), build

    return axpy  # type: ignore[no-any-return]

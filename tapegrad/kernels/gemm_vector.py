"""Products of a matrix and a vector: bound by memory, so the matrix is read once, in the order in which it lies."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .gemm_ir import I64, Loop, Vectors, kernel
from .gemm_micro import Tile

_ROWS = 4  # read side by side: as many streams as the prefetchers follow well
_CHAINS = 8  # sums at a time: they hide the latency of an addition


def rows_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``rows(a, rsa, x, y, stride, k, accumulate, m)``: y[m] (+)= A[m, k] @ x[k], contiguous rows of A and x."""
    return kernel("*a rsa *x *y stride k accumulate m", _emit_rows, dtype, tile)


def _emit_rows(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    a: ir.Value, rsa: ir.Value, x: ir.Value, y: ir.Value, stride: ir.Value,
    k: ir.Value, accumulate: ir.Value, m: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    for rows, count in ((_ROWS, builder.sdiv(m, I64(_ROWS))), (1, builder.srem(m, I64(_ROWS)))):
        loop = Loop(builder, count, [a, y])
        a, y = loop.values
        sums = _emit_dots(v, [v.at(a, builder.mul(rsa, I64(i))) for i in range(rows)], x, k)
        for i, total in enumerate(sums):
            target = builder.bitcast(v.at(y, builder.mul(stride, I64(i))), v.scalar.as_pointer())
            with builder.if_else(builder.icmp_signed("!=", accumulate, I64(0))) as (adding, setting):
                with adding:
                    builder.store(builder.fadd(builder.load(target), total), target)
                with setting:
                    builder.store(total, target)
        a, y = loop.close([v.at(a, builder.mul(rsa, I64(rows))), v.at(y, builder.mul(stride, I64(rows)))])


def _emit_dots(v: Vectors, rows: list[ir.Value], x: ir.Value, k: ir.Value) -> list[ir.Value]:
    """Return the dot products of some rows with x, each summed in ``_CHAINS // len(rows)`` vectors."""
    builder, chains = v.builder, _CHAINS // len(rows)
    blocks, rest = builder.sdiv(k, I64(chains * v.lanes)), builder.srem(k, I64(chains * v.lanes))
    tail = builder.srem(rest, I64(v.lanes))
    some = builder.zext(builder.icmp_signed(">", tail, I64(0)), I64)
    state = [x, *rows, *[v.zero] * _CHAINS]
    turns = ((blocks, chains, None), (builder.sdiv(rest, I64(v.lanes)), 1, None), (some, 1, v.first_lanes(tail)))
    for count, steps, mask in turns:
        loop = Loop(builder, count, state)
        pointers, sums = loop.values[: len(rows) + 1], loop.values[len(rows) + 1 :]
        for s in range(steps):
            factor, *parts = (v.load(v.at(p, s * v.lanes * v.size), mask) for p in pointers)
            for i, part in enumerate(parts):
                sums[i * chains + s] = v.multiply_add(part, factor, sums[i * chains + s])
        state = loop.close([*(v.at(p, steps * v.lanes * v.size) for p in pointers), *sums])
    sums = state[len(rows) + 1 :]
    return [v.sum(sums[i * chains : (i + 1) * chains]) for i in range(len(rows))]


def columns_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``columns(x, stride, b, rsb, y, k, n, accumulate)``: y[n] (+)= x[k] @ B[k, n], contiguous y, rows of B."""
    return kernel("*x stride *b rsb *y k n accumulate", _emit_columns, dtype, tile)


def _emit_columns(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    x: ir.Value, stride: ir.Value, b: ir.Value, rsb: ir.Value, y: ir.Value,
    k: ir.Value, n: ir.Value, accumulate: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    tail = builder.srem(n, I64(v.lanes))
    some = builder.zext(builder.icmp_signed(">", tail, I64(0)), I64)
    clear = builder.select(builder.icmp_signed("==", accumulate, I64(0)), n, I64(0))
    loop = Loop(builder, clear, [y])
    builder.store(ir.Constant(v.scalar, 0.0), builder.bitcast(loop.values[0], v.scalar.as_pointer()))
    loop.close([v.at(loop.values[0], v.size)])
    for rows, count in ((_ROWS, builder.sdiv(k, I64(_ROWS))), (1, builder.srem(k, I64(_ROWS)))):
        outer = Loop(builder, count, [x, b])
        x, b = outer.values
        factors = [v.element(v.at(x, builder.mul(stride, I64(i)))) for i in range(rows)]
        state = [y, *(v.at(b, builder.mul(rsb, I64(i))) for i in range(rows))]
        for turns, mask in ((builder.sdiv(n, I64(v.lanes)), None), (some, v.first_lanes(tail))):
            loop = Loop(builder, turns, state)
            target, *pointers = loop.values
            total = v.load(target, mask)
            for factor, pointer in zip(factors, pointers, strict=True):
                total = v.multiply_add(factor, v.load(pointer, mask), total)
            v.store(total, target, mask)
            state = loop.close([v.at(p, tile.vector_bytes) for p in loop.values])
        x, b = outer.close([v.at(x, builder.mul(stride, I64(rows))), v.at(b, builder.mul(rsb, I64(rows)))])

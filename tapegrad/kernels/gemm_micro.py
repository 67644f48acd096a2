"""The register tile of matrix multiplication, for the vectors that the host has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core.registry import cpu_target

from .gemm_ir import I64, Loop, Vectors, kernel, routine


@dataclass(frozen=True)
class Tile:
    """The register tile of C.

    Attributes:
        vector_bytes: a vector's width.
        rows: of C, a power of two.
        vectors: in a row of C.
        masks: whether a masked load costs as much as a plain one; where not, B is padded to whole vectors.
    """

    vector_bytes: int
    rows: int
    vectors: int
    masks: bool


# Accumulators + one row of B + a broadcast element of A must fit in the registers: 32 of them (AVX-512, NEON) or 16.
AVX512 = Tile(vector_bytes=64, rows=8, vectors=3, masks=True)
AVX2 = Tile(vector_bytes=32, rows=4, vectors=3, masks=True)
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


_TILE = "*a rsa csa *b rsb *c rsc k cols accumulate"
_STRIP = "*a rsa csa step *b rsb *c rsc k cols accumulate rows"
_PREFETCH_DEPTH = 128  # below, C's rows are not worth fetching ahead (1024^3: +2 %, 64^3 without this bound: -1 %)

# A narrow result's last vector is halved where that suffices: on Zen 4, 512-bit operations take two turns of 256 bits
# (128x4x128 float64: 17 -> 33 GFLOP/s, 128x10x128: 35 -> 41).
_NARROW = 2  # vectors

Column = tuple[Vectors, int, ir.Value | None]  # of a tile: the kind of vector, its first element's place, its mask


def multiply_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``multiply(a, rsa, csa, step, b, rsb, panel, c, rsc, k, n, accumulate, m)``: A [m, k] times panels of B.

    Tiles of ``tile.rows`` rows of A are ``step`` bytes apart, panels of ``tile.vectors`` vectors of B ``panel`` bytes.
    Without ``tile.masks``, B's rows must be readable up to a whole number of vectors.
    """
    return kernel("*a rsa csa step *b rsb panel *c rsc k n accumulate m", _emit_multiply, dtype, tile)


def _emit_multiply(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    a: ir.Value, rsa: ir.Value, csa: ir.Value, step: ir.Value, b: ir.Value, rsb: ir.Value, panel: ir.Value,
    c: ir.Value, rsc: ir.Value, k: ir.Value, n: ir.Value, accumulate: ir.Value, m: ir.Value,
) -> None:  # fmt: skip
    """Multiply panel by panel: full ones, then one of as many vectors as the columns left over need."""
    lanes = tile.vector_bytes // dtype.itemsize
    width = I64(tile.vectors * lanes)
    count, cols = builder.sdiv(n, width), width
    rest = builder.srem(n, width)
    for vectors in range(tile.vectors, 0, -1):
        name = f"gemm_strip_{dtype.name}_{tile.vector_bytes}_{tile.rows}x{vectors}"
        strip = routine(builder, name, _STRIP, _emit_strip, dtype, tile, vectors)
        for number, some in ((count, cols), (None, rest)) if vectors == tile.vectors else ((None, rest),):
            if number is None:
                needed = builder.sdiv(builder.add(rest, I64(lanes - 1)), I64(lanes))
                number = builder.zext(builder.icmp_signed("==", needed, I64(vectors)), I64)
            loop = Loop(builder, number, [b, c])
            b, c = loop.values
            strip(a, rsa, csa, step, b, rsb, c, rsc, k, some, accumulate, m)
            b, c = loop.close([builder.gep(b, [panel]), builder.gep(c, [I64(tile.vectors * tile.vector_bytes)])])


def _emit_strip(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, vectors: int,
    a: ir.Value, rsa: ir.Value, csa: ir.Value, step: ir.Value, b: ir.Value, rsb: ir.Value, c: ir.Value, rsc: ir.Value,
    k: ir.Value, cols: ir.Value, accumulate: ir.Value, rows: ir.Value,
) -> None:  # fmt: skip
    """Multiply full tiles, then one of each smaller power of two that the rows left over are the sum of."""
    height, count = tile.rows, builder.sdiv(rows, I64(tile.rows))
    while height:
        loop = Loop(builder, count, [a, c])
        name = f"gemm_tile_{dtype.name}_{tile.vector_bytes}_{height}x{vectors}"
        multiply = routine(builder, name, _TILE, _emit_tile, dtype, tile, height, vectors)
        a, c = loop.values
        multiply(a, rsa, csa, b, rsb, c, rsc, k, cols, accumulate)
        jump = step if height == tile.rows else builder.mul(rsa, I64(height))
        a, c = loop.close([builder.gep(a, [jump]), builder.gep(c, [builder.mul(rsc, I64(height))])])
        height //= 2
        count = builder.zext(builder.icmp_signed("!=", builder.and_(rows, I64(height)), I64(0)), I64)


def _emit_tile(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, rows: int, vectors: int,
    a: ir.Value, rsa: ir.Value, csa: ir.Value, b: ir.Value, rsb: ir.Value, c: ir.Value, rsc: ir.Value,
    k: ir.Value, cols: ir.Value, accumulate: ir.Value,
) -> None:  # fmt: skip
    """Compute ``C[rows, cols] (+)= A[rows, k] @ B[k, cols]``; ``cols`` ends in the last of ``vectors`` vectors."""
    v = Vectors(builder, dtype, tile.vector_bytes)
    with builder.if_then(builder.icmp_signed(">=", k, I64(_PREFETCH_DEPTH))):
        _prefetch_tile(v, c, rsc, rows, vectors * tile.vector_bytes)
    last = (vectors - 1) * v.lanes
    rest = builder.sub(cols, I64(last))
    whole = [(v, j * v.lanes, None) for j in range(vectors - 1)]

    def multiply(*columns: Column) -> None:
        read = columns if tile.masks else [(lanes, offset, None) for lanes, offset, _ in columns]
        _store_tile(_emit_sums(read, rows, a, rsa, csa, b, rsb, k), columns, c, rsc, accumulate)

    with builder.if_else(builder.icmp_signed("==", rest, I64(v.lanes))) as (full, partial):
        with full:
            multiply(*whole, (v, last, None))
        with partial:
            if rows == tile.rows and vectors <= _NARROW and tile.vector_bytes == 64:
                half = Vectors(builder, dtype, 32)
                with builder.if_else(builder.icmp_signed("<=", rest, I64(half.lanes))) as (short, long):
                    with short:
                        multiply(*whole, (half, last, half.first_lanes(rest)))
                    with long:
                        multiply(*whole, (v, last, v.first_lanes(rest)))
            else:
                multiply(*whole, (v, last, v.first_lanes(rest)))


def _emit_sums(
    columns: Sequence[Column], rows: int,
    a: ir.Value, rsa: ir.Value, csa: ir.Value, b: ir.Value, rsb: ir.Value, k: ir.Value,
) -> list[ir.Value]:  # fmt: skip
    """Return the sums over k of a tile's vectors, row by row."""
    v = columns[0][0]
    row_offsets = [v.builder.mul(rsa, I64(i)) for i in range(rows)]
    loop = Loop(v.builder, k, [a, b] + [w.zero for w, _, _ in columns] * rows)
    a, b, *sums = loop.values
    row_of_b = [w.load(w.at(b, offset * w.size), mask) for w, offset, mask in columns]
    updated = []
    for i in range(rows):
        for j, (w, _, _) in enumerate(columns):
            x = w.element(w.at(a, row_offsets[i]))
            updated.append(w.multiply_add(x, row_of_b[j], sums[i * len(columns) + j]))
    return loop.close([v.at(a, csa), v.at(b, rsb), *updated])[2:]


def _prefetch_tile(v: Vectors, c: ir.Value, rsc: ir.Value, rows: int, width: int) -> None:
    """Ask for the tile's lines of C, to be written when the sums are done."""
    for _ in range(rows):
        for offset in range(0, width, 64):
            v.prefetch(v.at(c, offset), writing=True)
        c = v.at(c, rsc)


def _store_tile(
    sums: list[ir.Value], columns: Sequence[Column], c: ir.Value, rsc: ir.Value, accumulate: ir.Value
) -> None:
    """Write the accumulators to C, or add them to it."""
    builder, width = columns[0][0].builder, len(columns)
    with builder.if_else(builder.icmp_signed("!=", accumulate, I64(0))) as (adding, setting):
        for branch, add in ((adding, True), (setting, False)):
            with branch:
                row = c
                for i in range(0, len(sums), width):
                    for total, (v, offset, mask) in zip(sums[i : i + width], columns, strict=True):
                        address = v.at(row, offset * v.size)
                        v.store(builder.fadd(v.load(address, mask), total) if add else total, address, mask)
                    row = builder.gep(row, [rsc])

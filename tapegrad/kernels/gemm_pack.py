"""Copies blocks of matrices into the order in which the register tile reads them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .gemm_ir import I64, Loop, Vectors, kernel, routine
from .gemm_micro import Tile

_ARGUMENTS = "*source stride *target step rows cols"


def panels_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``panels(source, stride, target, step, rows, cols)``: rows of contiguous elements, cut into panels.

    A panel is ``tile.vectors`` vectors wide and begins ``step`` bytes after the one before; the last one is filled with
    zeros. It goes row by row, for the sake of the source's pages and the prefetcher.
    """
    name = f"gemm_panels_{dtype.name}_{tile.vector_bytes}x{tile.vectors}"
    return kernel(_ARGUMENTS, _emit_shared, name, _emit_panels, dtype, tile)


def transpose_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``transpose(source, stride, target, step, rows, cols)``: target[j, i] = source[i, j].

    ``rows`` is at most one vector; target rows are ``step`` bytes apart. It writes whole vectors, and as many target rows
    as the next whole number of vectors has: the target needs that room.
    """
    name = f"gemm_transpose_{dtype.name}_{tile.vector_bytes}"
    return kernel(_ARGUMENTS, _emit_shared, name, _emit_transpose, dtype, tile)


def _emit_shared(
    builder: ir.IRBuilder, name: str, emit: Callable[..., None], dtype: np.dtype[Any], tile: Tile, *args: ir.Value
) -> None:
    routine(builder, name, _ARGUMENTS, emit, dtype, tile)(*args)


def _emit_panels(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, stride: ir.Value, target: ir.Value, step: ir.Value, rows: ir.Value, cols: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    width = tile.vectors * v.lanes
    offsets = [j * tile.vector_bytes for j in range(tile.vectors)]
    full, rest = builder.sdiv(cols, I64(width)), builder.srem(cols, I64(width))
    masks = [v.first_lanes(builder.sub(rest, I64(j * v.lanes))) for j in range(tile.vectors)]
    some = builder.icmp_signed(">", rest, I64(0))
    outer = Loop(builder, rows, [source, target])
    inner = Loop(builder, full, outer.values)
    x, y = inner.values
    for offset in offsets:
        v.store(v.load(v.at(x, offset)), v.at(y, offset))
    x, y = inner.close([v.at(x, width * v.size), v.at(y, step)])
    with builder.if_then(some):
        for offset, mask in zip(offsets, masks, strict=True):
            v.store(v.load(v.at(x, offset), mask), v.at(y, offset))
    x, y = outer.values
    outer.close([v.at(x, stride), v.at(y, width * v.size)])


def _emit_transpose(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, stride: ir.Value, target: ir.Value, step: ir.Value, rows: ir.Value, cols: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    quarter = Vectors(builder, dtype, 16)
    last = builder.sub(rows, I64(1))
    offsets = []
    for i in range(v.lanes):  # a row that is not there is read as the last one, whose place is inside the operand
        is_row = builder.icmp_signed("<", I64(i), last)
        offsets.append(builder.mul(builder.select(is_row, I64(i), last), stride))
    full, rest = builder.sdiv(cols, I64(v.lanes)), builder.srem(cols, I64(v.lanes))
    starts = range(0, v.lanes, quarter.lanes)
    loop = Loop(builder, full, [source, target])
    x, y = loop.values
    pieces = [[quarter.load(v.at(v.at(x, offset), j * v.size)) for j in starts] for offset in offsets]
    y = _store_transposed(v, pieces, y, step)
    x, y = loop.close([v.at(x, tile.vector_bytes), y])
    with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
        mask = v.first_lanes(rest)
        whole = [v.load(v.at(x, offset), mask) for offset in offsets]
        pieces = [[v.shuffle(row, row, range(j, j + quarter.lanes)) for j in starts] for row in whole]
        _store_transposed(v, pieces, y, step)


def _store_transposed(v: Vectors, pieces: list[list[ir.Value]], target: ir.Value, stride: ir.Value) -> ir.Value:
    """Store the transpose of a square block given as rows of 128-bit pieces; return where the next row would go.

    Row i's piece goes to the 128-bit lane i // width of a vector: loads and inserts do that, so that only the
    transposition within those lanes is left to shuffles (16 x 16 float32: 32 shuffles instead of 64, 72 -> 58 cycles).
    """
    width = len(pieces) // len(pieces[0])
    for column in zip(*pieces, strict=True):
        block = [v.concatenate(list(column[s::width])) for s in range(width)]
        half = width // 2
        while half:
            for i in range(width):
                if not i & half:
                    block[i], block[i + half] = v.interleave(block[i], block[i + half], half)
            half //= 2
        for row in block:
            v.store(row, target)
            target = v.at(target, stride)
    return target

"""Copies blocks of matrices into the order in which the register tile reads them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .gemm_ir import I64, Loop, Vectors, kernel, routine
from .gemm_micro import Tile

_PANELS = "*source stride *target step rows cols"


def pack_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``pack(source, rs, cs, target, step, rows, cols)``: a matrix [rows, cols] of any strides, cut into panels.

    A panel is ``tile.vectors`` vectors wide and begins ``step`` bytes after the one before. Whole vectors are written,
    and as many rows of the last panel as the next whole number of vectors has: the target needs that room.
    """
    return kernel("*source rs cs *target step rows cols", _emit_pack, dtype, tile)


def _emit_pack(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, rs: ir.Value, cs: ir.Value, target: ir.Value, step: ir.Value, rows: ir.Value, cols: ir.Value,
) -> None:  # fmt: skip
    """Choose the way to pack by the side of the matrix that is contiguous."""
    name = f"{dtype.name}_{tile.vector_bytes}x{tile.vectors}"
    panels = routine(builder, f"gemm_panels_{name}", _PANELS, _emit_panels, dtype, tile)
    transpose = routine(builder, f"gemm_transpose_{name}", _PANELS, _emit_transpose, dtype, tile)
    gather = routine(builder, f"gemm_gather_{name}", "*source rs cs *target step rows cols", _emit_gather, dtype, tile)
    size = I64(dtype.itemsize)
    with builder.if_else(builder.icmp_signed("==", cs, size)) as (by_rows, otherwise):
        with by_rows:
            panels(source, rs, target, step, rows, cols)
        with otherwise, builder.if_else(builder.icmp_signed("==", rs, size)) as (by_columns, scattered):
            with by_columns:
                transpose(source, cs, target, step, rows, cols)
            with scattered:
                gather(source, rs, cs, target, step, rows, cols)


def panels_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``panels(source, stride, target, step, rows, cols)``: ``pack`` of a matrix with contiguous rows."""
    name = f"gemm_panels_{dtype.name}_{tile.vector_bytes}x{tile.vectors}"

    def emit(builder: ir.IRBuilder, *args: ir.Value) -> None:
        routine(builder, name, _PANELS, _emit_panels, dtype, tile)(*args)

    return kernel(_PANELS, emit)


def _emit_panels(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, stride: ir.Value, target: ir.Value, step: ir.Value, rows: ir.Value, cols: ir.Value,
) -> None:  # fmt: skip
    """Copy row by row, for the sake of the source's pages and the prefetcher; fill the last panel with zeros."""
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
    """Copy contiguous columns, as many as a vector has lanes at a time, along the rows."""
    v = Vectors(builder, dtype, tile.vector_bytes)
    full, rest = builder.sdiv(rows, I64(v.lanes)), builder.srem(rows, I64(v.lanes))
    mask, some = v.first_lanes(rest), builder.icmp_signed(">", rest, I64(0))
    count = builder.sdiv(builder.add(cols, I64(v.lanes - 1)), I64(v.lanes))
    outer = Loop(builder, count, [source, target, cols, I64(1)])
    source, target, left, place = outer.values
    last = builder.sub(left, I64(1))
    columns = []
    for i in range(v.lanes):  # a column that is not there is read as the last one, whose place is inside the operand
        index = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
        columns.append(v.at(source, builder.mul(index, stride)))
    inner = Loop(builder, full, [I64(0), target])
    x, y = inner.values
    quarter = Vectors(builder, dtype, 16)
    starts = range(0, v.lanes, quarter.lanes)
    pieces = [[quarter.load(v.at(v.at(column, x), j * v.size)) for j in starts] for column in columns]
    y = _store_transposed(v, pieces, y, tile.vectors * tile.vector_bytes)
    x, y = inner.close([builder.add(x, I64(tile.vector_bytes)), y])
    with builder.if_then(some):
        whole = [v.load(v.at(column, x), mask) for column in columns]
        pieces = [[v.shuffle(row, row, range(j, j + quarter.lanes)) for j in starts] for row in whole]
        _store_transposed(v, pieces, y, tile.vectors * tile.vector_bytes)
    next_panel = builder.icmp_signed("==", place, I64(tile.vectors))
    back = builder.sub(step, I64((tile.vectors - 1) * tile.vector_bytes))
    jump = builder.select(next_panel, back, I64(tile.vector_bytes))
    place = builder.select(next_panel, I64(1), builder.add(place, I64(1)))
    source = v.at(source, builder.mul(stride, I64(v.lanes)))
    outer.close([source, v.at(target, jump), builder.sub(left, I64(v.lanes)), place])


def _emit_gather(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, rs: ir.Value, cs: ir.Value, target: ir.Value, step: ir.Value, rows: ir.Value, cols: ir.Value,
) -> None:  # fmt: skip
    """Copy a matrix without contiguous side, element by element, panel by panel."""
    v = Vectors(builder, dtype, tile.vector_bytes)
    width = I64(tile.vectors * v.lanes)
    panels = Loop(builder, builder.sdiv(builder.add(cols, builder.sub(width, I64(1))), width), [source, target, cols])
    source, target, left = panels.values
    count = builder.select(builder.icmp_signed("<", left, width), left, width)
    lines = Loop(builder, rows, [source, target])
    line, row = lines.values
    inner = Loop(builder, count, [line, row])
    x, y = (builder.bitcast(pointer, v.scalar.as_pointer()) for pointer in inner.values)
    builder.store(builder.load(x), y)
    inner.close([v.at(inner.values[0], cs), v.at(inner.values[1], v.size)])
    lines.close([v.at(line, rs), v.at(row, tile.vectors * tile.vector_bytes)])
    panels.close([v.at(source, builder.mul(cs, width)), v.at(target, step), builder.sub(left, width)])


def _store_transposed(v: Vectors, pieces: list[list[ir.Value]], target: ir.Value, stride: int) -> ir.Value:
    """Store the transpose of a square block given as rows of 128-bit pieces; return where the next row would go."""
    for row in transposed_rows(v, pieces):
        v.store(row, target)
        target = v.at(target, stride)
    return target


def transposed_rows(v: Vectors, pieces: list[list[ir.Value]]) -> list[ir.Value]:
    """Return the rows of the transpose of a square block given as rows of 128-bit pieces.

    Row i's piece goes to the 128-bit lane i // width of a vector: loads and inserts do that, so that only the
    transposition within those lanes is left to shuffles (16 x 16 float32: 32 shuffles instead of 64, 72 -> 58 cycles).
    """
    width, rows = len(pieces) // len(pieces[0]), []
    for column in zip(*pieces, strict=True):
        block = [v.concatenate(list(column[s::width])) for s in range(width)]
        half = width // 2
        while half:
            for i in range(width):
                if not i & half:
                    block[i], block[i + half] = v.interleave(block[i], block[i + half], half)
            half //= 2
        rows += block
    return rows

"""The inner loops of convolutions by pixels: register tiles of some pixels' results times vectors of channels.

A pixel's channels lie far apart, so they are broadcast from where they are, one by one; the weight is packed, so that
the channels of the result lie side by side. Places of the filter that see no pixel are left out of the sum.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .conv_ir import word_at
from .gemm_ir import I64, Loop, Vectors, kernel, routine
from .gemm_micro import AVX512, Tile
from .gemm_pack import transposed_rows

PAIR_BYTES = 16  # of a row of the tables: offsets of the pixel and of the result, or of the pixel and of the weight

_STRIP = "*rows *x gap channels *taps places *weight *bias *out count vectors"
_TURN = "*source step *target stride pixels channels"


def widest(tile: Tile) -> int:
    """Return how many vectors of channels a tile may have: four where that leaves registers for six pixels."""
    return 4 if tile == AVX512 else tile.vectors


def _heights(tile: Tile, vectors: int) -> list[int]:
    """Return how many pixels the tiles have: as many as there are registers for, then powers of two for the rest."""
    most = min(8, tile.rows * tile.vectors // vectors)
    return [most, *[height for height in (4, 2, 1) if height < most]]


def pixels_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``multiply(rows, x, gap, channels, taps, places, weight, bias, out, count, vectors)``.

    For each of ``count`` rows i, the ``vectors`` vectors at ``out`` + rows[i].result become those at ``bias`` plus the
    sum over ``places`` rows t of ``taps`` and over channels r of the pixel at ``x`` + rows[i].pixel + taps[t].pixel +
    r * ``gap`` times the r-th row of vectors at ``weight`` + taps[t].weight.
    """
    return kernel(_STRIP, _emit_strips, dtype, tile)


def _emit_strips(builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, *arguments: ir.Value) -> None:
    vectors = arguments[-1]
    for width in range(1, widest(tile) + 1):
        with builder.if_then(builder.icmp_signed("==", vectors, I64(width))):
            name = f"conv_pixels_{dtype.name}_{tile.vector_bytes}_{width}"
            spec = _STRIP.removesuffix(" vectors")
            routine(builder, name, spec, _emit_strip, dtype, tile, width)(*arguments[:-1])


def _emit_strip(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, width: int,
    rows: ir.Value, x: ir.Value, gap: ir.Value, channels: ir.Value, taps: ir.Value, places: ir.Value,
    weight: ir.Value, bias: ir.Value, out: ir.Value, count: ir.Value,
) -> None:  # fmt: skip
    left = count
    for height in _heights(tile, width):
        name = f"conv_pixels_{dtype.name}_{tile.vector_bytes}_{height}x{width}"
        spec = _STRIP.removesuffix(" count vectors")
        multiply = routine(builder, name, spec, _emit_tile, dtype, tile, height, width)
        loop = Loop(builder, builder.sdiv(left, I64(height)), [rows])
        multiply(loop.values[0], x, gap, channels, taps, places, weight, bias, out)
        rows = loop.close([builder.gep(loop.values[0], [I64(height * PAIR_BYTES)])])[0]
        left = builder.srem(left, I64(height))


def _emit_tile(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, height: int, width: int,
    rows: ir.Value, x: ir.Value, gap: ir.Value, channels: ir.Value, taps: ir.Value, places: ir.Value,
    weight: ir.Value, bias: ir.Value, out: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    pixels = [v.at(x, word_at(v, rows, 2 * i)) for i in range(height)]
    begins = [v.load(v.at(bias, j * tile.vector_bytes)) for j in range(width)]
    outer = Loop(builder, places, [taps, *begins * height])
    tap, *sums = outer.values
    inner = Loop(builder, channels, [word_at(v, tap, 0), v.at(weight, word_at(v, tap, 1)), *sums])
    offset, row, *sums = inner.values
    line = [v.load(v.at(row, j * tile.vector_bytes)) for j in range(width)]
    updated = []
    for i, pixel in enumerate(pixels):
        value = v.element(v.at(pixel, offset))
        updated += [v.multiply_add(value, line[j], sums[i * width + j]) for j in range(width)]
    sums = inner.close([builder.add(offset, gap), v.at(row, width * tile.vector_bytes), *updated])[2:]
    sums = outer.close([v.at(tap, PAIR_BYTES), *sums])[1:]
    for i in range(height):
        place = v.at(out, word_at(v, rows, 2 * i + 1))
        for j in range(width):
            v.store(sums[i * width + j], v.at(place, j * tile.vector_bytes))


def turn_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``turn(source, step, target, stride, pixels, channels)``: a matrix transposed.

    target[c * stride + p * size] = source[p * step + c * size]. Whole vectors of the source are read, and as many rows
    as a whole number of vectors has.
    """
    name = f"conv_turn_{dtype.name}_{tile.vector_bytes}"

    def emit(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
        routine(builder, name, _TURN, _emit_turn, dtype, tile)(*arguments)

    return kernel(_TURN, emit)


def _emit_turn(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, step: ir.Value, target: ir.Value, stride: ir.Value, pixels: ir.Value, channels: ir.Value,
) -> None:  # fmt: skip
    """Turn square blocks round, those of the same channels one after the other."""
    v, quarter = Vectors(builder, dtype, tile.vector_bytes), Vectors(builder, dtype, 16)
    lanes, bytes_ = I64(v.lanes), tile.vector_bytes
    blocks = [builder.sdiv(builder.add(n, I64(v.lanes - 1)), lanes) for n in (channels, pixels)]
    outer = Loop(builder, blocks[0], [source, target, channels])
    inner = Loop(builder, blocks[1], [*outer.values[:2], pixels])
    x, y, wide = inner.values
    high = outer.values[2]
    starts = range(0, bytes_, 16)
    pieces = []
    for i in range(v.lanes):
        row = v.at(x, builder.mul(step, I64(i)))
        pieces.append([quarter.load(v.at(row, start)) for start in starts])
    turned = transposed_rows(v, pieces)
    whole = builder.and_(builder.icmp_signed(">=", wide, lanes), builder.icmp_signed(">=", high, lanes))
    places = [v.at(y, builder.mul(stride, I64(i))) for i in range(v.lanes)]
    with builder.if_else(whole) as (full, part):
        with full:
            for row, place in zip(turned, places, strict=True):
                v.store(row, place)
        with part:
            mask = v.first_lanes(wide)
            for i, (row, place) in enumerate(zip(turned, places, strict=True)):
                with builder.if_then(builder.icmp_signed("<", I64(i), high)):
                    v.store(row, place, mask)
    x, y, wide = inner.values
    inner.close([v.at(x, builder.mul(step, lanes)), v.at(y, bytes_), builder.sub(wide, lanes)])
    x, y, high = outer.values
    outer.close([v.at(x, bytes_), v.at(y, builder.mul(stride, lanes)), builder.sub(high, lanes)])

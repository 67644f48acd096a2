"""The inner loops of Winograd's convolution: sums and differences of vectors, each lane of which is one tile.

Tiles begin at every second pixel, so the first ones of neighbouring tiles are the even lanes of two vectors of a row,
the second ones the odd lanes. What becomes of the tiles lies side by side.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from .conv_ir import lanes_between, prefetch_channel
from .gemm_ir import I32, I64, Loop, Vectors, kernel, routine
from .gemm_micro import Tile

Matrix = tuple[tuple[float, ...], ...]


# y = RESULTS ((WEIGHTS g) * (PIXELS d)): two results of three taps from four pixels
PIXELS: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
RESULTS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))

_IN = "*source gap pitch top left height width *target down step channels rows columns"
_OUT = "*source step down *target channel stride *bias rsbias channels rows columns height width"
_EACH = "*source gap down across *target next step count"


def transposed(matrix: Matrix) -> Matrix:
    """Return the transpose of a matrix."""
    return tuple(zip(*matrix, strict=True))


def _applied(builder: ir.IRBuilder, matrix: Matrix, x: Sequence[Sequence[ir.Value]]) -> list[list[ir.Value]]:
    """Return ``matrix`` times x."""
    return [[_sum(builder, row, [line[j] for line in x]) for j in range(len(x[0]))] for row in matrix]


def _sum(builder: ir.IRBuilder, row: Sequence[float], terms: list[ir.Value]) -> ir.Value:
    """Return the sum of the terms times the factors, of which ones cost nothing; those that are added come first."""
    total = None
    for factor, term in sorted(zip(row, terms, strict=True), key=lambda pair: pair[0] < 0):
        if factor == 0:
            continue
        scaled = term if abs(factor) == 1 else builder.fmul(term, ir.Constant(term.type, abs(factor)))
        if total is None:
            total = scaled if factor > 0 else builder.fneg(scaled)
        else:
            total = builder.fadd(total, scaled) if factor > 0 else builder.fsub(total, scaled)
    assert total is not None
    return total


def _both_sides(builder: ir.IRBuilder, matrix: Matrix, x: Sequence[Sequence[ir.Value]]) -> list[list[ir.Value]]:
    """Return ``matrix`` x ``matrix``'."""
    left = _applied(builder, matrix, x)
    right = _applied(builder, matrix, list(zip(*left, strict=True)))
    return [list(row) for row in zip(*right, strict=True)]


def _of_routine(name: str, spec: str, emit: Callable[..., None], *parameters: Any) -> Callable[..., Any]:
    """Return the intrinsic that calls a routine."""

    def call(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
        routine(builder, name, spec, emit, *parameters)(*arguments)

    return kernel(spec, call)


def tiles_kernel(name: str, dtype: np.dtype[Any], tile: Tile, matrix: Matrix) -> Callable[..., Any]:
    """Return ``transform(source, gap, pitch, top, left, height, width, target, down, step, channels, rows, columns)``.

    Of each of ``channels`` images of ``height`` rows, ``pitch`` bytes apart, of ``width`` pixels, ``gap`` bytes apart,
    the tiles x from row ``top`` and column ``left`` on, as many pixels square as ``matrix`` has columns, two from each
    other, become the numbers matrix x matrix', from ``target`` on: tile after tile, channels ``down`` bytes apart, the
    numbers of a tile ``step``. Beyond the image are zeros. Up to a vector more than there are tiles is written.
    """
    full = f"winograd_{name}_{dtype.name}_{tile.vector_bytes}"
    return _of_routine(full, _IN, _emit_tiles, dtype, tile, matrix)


def _emit_tiles(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, matrix: Matrix,
    source: ir.Value, gap: ir.Value, pitch: ir.Value, top: ir.Value, left: ir.Value, height: ir.Value, width: ir.Value,
    target: ir.Value, down: ir.Value, step: ir.Value, channels: ir.Value, rows: ir.Value, columns: ir.Value,
) -> None:  # fmt: skip
    """Take the last vectors of all rows first: what they write beyond the rows is overwritten."""
    v, side = Vectors(builder, dtype, tile.vector_bytes), len(matrix[0])
    lines = [builder.mul(pitch, I64(k)) for k in range(side + 1)]
    steps = [builder.mul(step, I64(k)) for k in range(len(matrix) ** 2)]
    vectors = builder.sdiv(builder.add(columns, I64(v.lanes - 1)), I64(v.lanes))
    last = builder.mul(builder.sub(vectors, I64(1)), I64(v.lanes))
    first = builder.add(left, builder.mul(last, I64(2)))
    source = v.at(source, builder.mul(top, pitch))
    begins = v.at(source, builder.mul(first, I64(v.size))), v.at(target, builder.mul(last, I64(v.size)))
    across = Loop(builder, vectors, [*begins, first])
    x, y, column = across.values
    offsets = [even + k * v.lanes for even in range(0, side, 2) for k in range(2)]
    masks = []
    for offset in offsets:
        place = builder.add(column, I64(offset))
        masks.append(lanes_between(v, builder.neg(place), builder.sub(width, place)))
    outer = Loop(builder, channels, [x, y])
    prefetch_channel(v, v.at(outer.values[0], gap), builder.mul(builder.mul(rows, I64(2)), pitch))
    inner = Loop(builder, rows, [*outer.values, top])
    x, y, row = inner.values
    pixels = [_pixels(v, v.at(x, lines[i]), offsets, masks, builder.add(row, I64(i)), height) for i in range(side)]
    for k, made in enumerate(value for line in _both_sides(builder, matrix, pixels) for value in line):
        v.store(made, v.at(y, steps[k]))
    inner.close([v.at(x, lines[2]), v.at(y, builder.mul(columns, I64(v.size))), builder.add(row, I64(2))])
    x, y = outer.values
    outer.close([v.at(x, gap), v.at(y, down)])
    x, y, column = across.values
    across.close([
        v.at(x, -2 * tile.vector_bytes), v.at(y, -tile.vector_bytes), builder.sub(column, I64(2 * v.lanes)),
    ])  # fmt: skip


def _pixels(
    v: Vectors, line: ir.Value, offsets: list[int], masks: list[ir.Value], row: ir.Value, height: ir.Value
) -> list[ir.Value]:
    """Return the first, second, ... pixels of tiles in one row, which may be none of the image's."""
    inside, nothing = v.builder.icmp_unsigned("<", row, height), ir.Constant(masks[0].type, [0] * v.lanes)
    loaded = [
        v.load(v.at(line, offset * v.size), v.builder.select(inside, mask, nothing))
        for offset, mask in zip(offsets, masks, strict=True)
    ]
    pairs = zip(loaded[::2], loaded[1::2], strict=True)
    return [v.shuffle(*pair, range(odd, 2 * v.lanes, 2)) for pair in pairs for odd in range(2)]


def results_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``write(source, step, down, target, channel, stride, bias, rsbias, channels, rows, columns, height,
    width)``, the way back: of ``rows`` x ``columns`` tiles of numbers ``height`` x ``width`` results, plus a bias.

    Rows of results lie ``stride`` bytes apart, channels ``channel``.
    """
    return _of_routine(f"winograd_results_{dtype.name}_{tile.vector_bytes}", _OUT, _emit_results, dtype, tile)


def _emit_results(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, step: ir.Value, down: ir.Value, target: ir.Value, channel: ir.Value, stride: ir.Value,
    bias: ir.Value, rsbias: ir.Value, channels: ir.Value, rows: ir.Value, columns: ir.Value, height: ir.Value,
    width: ir.Value,
) -> None:  # fmt: skip
    v, (count, side) = Vectors(builder, dtype, tile.vector_bytes), (len(RESULTS), len(RESULTS[0]))
    steps = [builder.mul(step, I64(k)) for k in range(side * side)]
    lines = [builder.mul(stride, I64(k)) for k in range(count + 1)]
    vectors = builder.sdiv(builder.add(columns, I64(v.lanes - 1)), I64(v.lanes))
    outer = Loop(builder, channels, [source, target, bias])
    x, y, shift = outer.values
    first = v.element(shift)
    inner = Loop(builder, rows, [x, y, height])
    x, y, left = inner.values
    across = Loop(builder, vectors, [x, y, width])
    x, y, wide = across.values
    tiles = [[v.load(v.at(x, steps[i * side + j])) for j in range(side)] for i in range(side)]
    for k, row in enumerate(_both_sides(builder, RESULTS, tiles)):
        with builder.if_then(builder.icmp_signed(">", left, I64(k))):
            _store_row(v, [builder.fadd(each, first) for each in row], v.at(y, lines[k]), wide)
    across.close([
        v.at(x, tile.vector_bytes), v.at(y, count * tile.vector_bytes), builder.sub(wide, I64(count * v.lanes)),
    ])  # fmt: skip
    x, y, left = inner.values
    inner.close([
        v.at(x, builder.mul(columns, I64(v.size))), v.at(y, lines[count]), builder.sub(left, I64(count)),
    ])  # fmt: skip
    x, y, shift = outer.values
    outer.close([v.at(x, down), v.at(y, channel), v.at(shift, rsbias)])


def _store_row(v: Vectors, row: list[ir.Value], target: ir.Value, width: ir.Value) -> None:
    """Store what two vectors have by turns, the first ``width`` of them."""
    kind = ir.VectorType(I32, v.lanes)
    limit = v.broadcast(v.builder.trunc(width, I32), kind)
    for start in range(0, 2 * v.lanes, v.lanes):
        value = v.shuffle(*row, [(start + lane) // 2 + lane % 2 * v.lanes for lane in range(v.lanes)])
        place = v.at(target, start * v.size)
        whole = v.builder.icmp_signed(">=", width, I64(start + v.lanes))
        with v.builder.if_else(whole) as (full, part):
            with full:
                v.store(value, place)
            with part:
                numbers = ir.Constant(kind, list(range(start, start + v.lanes)))
                v.store(value, place, v.builder.icmp_signed("<", numbers, limit))


def each_kernel(name: str, dtype: np.dtype[Any], matrix: Matrix) -> Callable[..., Any]:
    """Return ``transform(source, gap, down, across, target, next, step, count)``: matrix x matrix' for small squares x.

    Their elements lie ``down`` and ``across`` bytes apart, those of the results ``step``; squares ``gap``, results
    ``next``.
    """
    return _of_routine(f"winograd_{name}_{dtype.name}", _EACH, _emit_each, dtype, matrix)


def _emit_each(
    builder: ir.IRBuilder, dtype: np.dtype[Any], matrix: Matrix,
    source: ir.Value, gap: ir.Value, down: ir.Value, across: ir.Value, target: ir.Value, jump: ir.Value,
    step: ir.Value, count: ir.Value,
) -> None:  # fmt: skip
    v, side = Vectors(builder, dtype, dtype.itemsize), len(matrix[0])
    pointer = v.scalar.as_pointer()
    lines, places = ([builder.mul(each, I64(k)) for k in range(side)] for each in (down, across))
    steps = [builder.mul(step, I64(k)) for k in range(len(matrix) ** 2)]
    loop = Loop(builder, count, [source, target])
    x, y = loop.values
    squares = [
        [builder.load(builder.bitcast(v.at(v.at(x, line), place), pointer)) for place in places] for line in lines
    ]
    for k, made in enumerate(value for row in _both_sides(builder, matrix, squares) for value in row):
        builder.store(made, builder.bitcast(v.at(y, steps[k]), pointer))
    loop.close([v.at(x, gap), v.at(y, jump)])

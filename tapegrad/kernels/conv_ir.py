"""The inner loops of convolution: register tiles that read one operand through a table of offsets.

A convolution is a matrix product whose second operand is never written down: row k of B (an input channel and a place
in the filter) is the padded image, shifted, so it begins at ``b + offset[k]``. The images' rows lie so close together
that a vector of results may go over the end of a row; what falls between two rows is computed and not stored.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .gemm_ir import I32, I64, Loop, Vectors, kernel, routine
from .gemm_micro import Tile

_WORD_POINTER = I64.as_pointer()
_TILE = "*a rsa *table *b *places *c rsc *bias rsbias k *starts *segments accumulate"
_FILL = "*target pitch gap *source stride jump channels above rows below first step low high total"
_DOT = "*g rsg stepg *x stepx *table *out k rows vectors count"

TABLE_BYTES = 16  # a row of the table: offsets in b and in a
SEGMENT_BYTES = 24  # first lane, end, where lane 0 would go
PIECE_BYTES = 16  # from, to


def word_at(v: Vectors, address: ir.Value, index: int) -> ir.Value:
    """Load an int64."""
    return v.builder.load(v.builder.bitcast(v.at(address, 8 * index), _WORD_POINTER))


def lanes_between(v: Vectors, low: ir.Value, high: ir.Value) -> ir.Value:
    """Return the mask of the lanes from ``low`` up to ``high`` - 1, which may be any int64."""
    builder, limits = v.builder, []
    kind = ir.VectorType(I32, v.lanes)
    for value in (low, high):
        value = builder.select(builder.icmp_signed("<", value, I64(0)), I64(0), value)
        value = builder.select(builder.icmp_signed(">", value, I64(v.lanes)), I64(v.lanes), value)
        limits.append(v.broadcast(builder.trunc(value, I32), kind))
    lanes = ir.Constant(kind, list(range(v.lanes)))
    return builder.and_(
        builder.icmp_signed(">=", lanes, limits[0]), builder.icmp_signed("<", lanes, limits[1])
    )  # fmt: skip


# ---- results: a tile of channels x pixels ----


def strip_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``strip(a, rsa, table, b, places, c, rsc, bias, rsbias, k, starts, segments, accumulate, rows, vectors)``.

    C[i, v] (+)= bias[i] + sum over k of a[i * rsa + table[k].a] * (the vector at b + places[v] + table[k].b), for
    ``rows`` rows i and ``vectors`` vectors v. Vector v is stored as the segments starts[v] .. starts[v + 1] - 1 say.
    B is read in whole vectors.
    """
    return kernel(f"{_TILE} rows vectors", _emit_strips, dtype, tile)


def _emit_strips(builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, *arguments: ir.Value) -> None:
    """Take as many vectors as the tile has at a time, then those left over."""
    a, rsa, table, b, places, c, rsc, bias, rsbias, k, starts, segments, accumulate, rows, number = arguments
    for vectors in range(tile.vectors, 0, -1):
        count = builder.sdiv(number, I64(tile.vectors))
        if vectors < tile.vectors:
            rest = builder.srem(number, I64(tile.vectors))
            count = builder.zext(builder.icmp_signed("==", rest, I64(vectors)), I64)
        loop = Loop(builder, count, [places, starts])
        places, starts = loop.values
        name = f"conv_strip_{dtype.name}_{tile.vector_bytes}_{vectors}"
        strip = routine(builder, name, f"{_TILE} rows", _emit_strip, dtype, tile, vectors)
        strip(a, rsa, table, b, places, c, rsc, bias, rsbias, k, starts, segments, accumulate, rows)
        step = 8 * vectors
        places, starts = loop.close([builder.gep(places, [I64(step)]), builder.gep(starts, [I64(step)])])


def _emit_strip(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, vectors: int,
    a: ir.Value, rsa: ir.Value, table: ir.Value, b: ir.Value, places: ir.Value, c: ir.Value, rsc: ir.Value,
    bias: ir.Value, rsbias: ir.Value, k: ir.Value, starts: ir.Value, segments: ir.Value, accumulate: ir.Value,
    rows: ir.Value,
) -> None:  # fmt: skip
    """Go down the rows by full tiles, then by one of each smaller power of two that the rows left over are sums of."""
    height, count = tile.rows, builder.sdiv(rows, I64(tile.rows))
    while height:
        name = f"conv_tile_{dtype.name}_{tile.vector_bytes}_{height}x{vectors}"
        multiply = routine(builder, name, _TILE, _emit_tile, dtype, tile, height, vectors)
        loop = Loop(builder, count, [a, c, bias])
        a, c, bias = loop.values
        multiply(a, rsa, table, b, places, c, rsc, bias, rsbias, k, starts, segments, accumulate)
        steps = [builder.mul(stride, I64(height)) for stride in (rsa, rsc, rsbias)]
        pairs = zip((a, c, bias), steps, strict=True)
        a, c, bias = loop.close([builder.gep(p, [step]) for p, step in pairs])
        height //= 2
        count = builder.zext(builder.icmp_signed("!=", builder.and_(rows, I64(height)), I64(0)), I64)


def _emit_tile(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, rows: int, vectors: int,
    a: ir.Value, rsa: ir.Value, table: ir.Value, b: ir.Value, places: ir.Value, c: ir.Value, rsc: ir.Value,
    bias: ir.Value, rsbias: ir.Value, k: ir.Value, starts: ir.Value, segments: ir.Value, accumulate: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    offsets = [builder.mul(rsa, I64(i)) for i in range(rows)]
    begins = [v.element(v.at(bias, builder.mul(rsbias, I64(i)))) for i in range(rows)]
    columns = [v.at(b, word_at(v, places, j)) for j in range(vectors)]
    loop = Loop(builder, k, [table, *[begin for begin in begins for _ in range(vectors)]])
    row, *sums = loop.values
    shift = word_at(v, row, 0)
    line = [v.load(v.at(column, shift)) for column in columns]
    place = v.at(a, word_at(v, row, 1))
    updated = []
    for i in range(rows):
        x = v.element(v.at(place, offsets[i]))
        updated += [v.multiply_add(x, line[j], sums[i * vectors + j]) for j in range(vectors)]
    sums = loop.close([v.at(row, TABLE_BYTES), *updated])[1:]
    adding = builder.icmp_signed("!=", accumulate, I64(0))
    for j in range(vectors):
        _store_segments(v, sums[j::vectors], starts, j, segments, c, rsc, adding)


def _store_segments(
    v: Vectors, column: list[ir.Value], starts: ir.Value, j: int, segments: ir.Value, c: ir.Value, rsc: ir.Value,
    adding: ir.Value,
) -> None:  # fmt: skip
    """Store one vector of each row, piece by piece: pieces are rows of the image, and lie apart in the vector."""
    builder = v.builder
    first, end = word_at(v, starts, j), word_at(v, starts, j + 1)
    loop = Loop(builder, builder.sub(end, first), [v.at(segments, builder.mul(first, I64(SEGMENT_BYTES)))])
    segment = loop.values[0]
    low, high, place = (word_at(v, segment, word) for word in range(3))
    whole = builder.icmp_signed("==", builder.sub(high, low), I64(v.lanes))
    target = v.at(c, place)
    with builder.if_else(builder.and_(whole, builder.not_(adding))) as (plain, partial):
        with plain:
            row = target
            for total in column:
                v.store(total, row)
                row = v.at(row, rsc)
        with partial:
            mask = lanes_between(v, low, high)
            with builder.if_else(adding) as (add, put):
                for branch, accumulates in ((add, True), (put, False)):
                    with branch:
                        row = target
                        for total in column:
                            v.store(builder.fadd(v.load(row, mask), total) if accumulates else total, row, mask)
                            row = v.at(row, rsc)
    loop.close([v.at(segment, SEGMENT_BYTES)])


def spread_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``spread(source, step, target, stride, rows, low, high, adding)``: vectors written to every second place.

    target[i * stride + 2 * lane] (+)= source[i * step + lane] for ``rows`` rows i and low <= lane < high; strides are
    in bytes.
    """
    name, spec = f"conv_spread_{dtype.name}_{tile.vector_bytes}", "*source step *target stride rows low high adding"

    def emit(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
        routine(builder, name, spec, _emit_spread, dtype, tile)(*arguments)

    return kernel(spec, emit)


def _emit_spread(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, source: ir.Value, step: ir.Value, target: ir.Value,
    stride: ir.Value, rows: ir.Value, low: ir.Value, high: ir.Value, adding: ir.Value,
) -> None:  # fmt: skip
    """Store each half of a vector with a mask of even lanes: what lies between is neither read nor written."""
    v = Vectors(builder, dtype, tile.vector_bytes)
    kind, half = ir.VectorType(I32, v.lanes), v.lanes // 2
    limits = [v.broadcast(builder.trunc(limit, I32), kind) for limit in (low, high)]
    masks = []
    for first in (0, half):
        lanes = ir.Constant(kind, [-1 if lane % 2 else first + lane // 2 for lane in range(v.lanes)])
        inside = builder.icmp_signed(">=", lanes, limits[0])
        masks.append(builder.and_(inside, builder.icmp_signed("<", lanes, limits[1])))
    adds = builder.icmp_signed("!=", adding, I64(0))
    loop = Loop(builder, rows, [source, target])
    x, y = loop.values
    whole = v.load(x)
    for part, mask in enumerate(masks):
        values = v.shuffle(whole, whole, [part * half + lane // 2 for lane in range(v.lanes)])
        place = v.at(y, part * v.lanes * v.size)
        with builder.if_else(adds) as (add, put):
            with add:
                v.store(builder.fadd(v.load(place, mask), values), place, mask)
            with put:
                v.store(values, place, mask)
    loop.close([v.at(x, step), v.at(y, stride)])


# ---- padded images ----


def fill_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``fill(target, pitch, gap, source, stride, jump, channels, above, rows, below, first, step, low, high,
    total)``: rows copied among zeros, for each channel.

    Row by row, target[u] = source[first + u * step] for low <= u < high, else 0, for 0 <= u < total; before and after
    these ``rows`` come ``above`` and ``below`` rows of zeros. Rows are ``pitch`` and ``stride`` bytes apart, channels
    ``gap`` and ``jump``; the others count elements. Columns of vectors are outermost: their masks are made once.
    """
    name = f"conv_fill_{dtype.name}_{tile.vector_bytes}"

    def emit(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
        routine(builder, name, _FILL, _emit_fill, dtype, tile)(*arguments)

    return kernel(_FILL, emit)


def _emit_fill(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    target: ir.Value, pitch: ir.Value, gap: ir.Value, source: ir.Value, stride: ir.Value, jump: ir.Value,
    channels: ir.Value, above: ir.Value, rows: ir.Value, below: ir.Value,
    first: ir.Value, step: ir.Value, low: ir.Value, high: ir.Value, total: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    count = builder.sdiv(builder.add(total, I64(v.lanes - 1)), I64(v.lanes))
    across = builder.mul(step, I64(v.size))
    outer = Loop(builder, channels, [target, v.at(source, builder.mul(first, I64(v.size)))])
    to, image = outer.values
    prefetch_channel(v, v.at(image, jump), builder.mul(rows, stride))
    columns = Loop(builder, count, [I64(0), to])
    u, y = columns.values
    x = v.at(image, builder.mul(u, across))
    inside = lanes_between(v, I64(0), builder.sub(total, u))
    span = builder.sub(low, u), builder.sub(high, u)
    y = _fill_rows(v, above, y, pitch, x, stride, lambda _, y: v.store(v.zero, y, inside))
    with builder.if_else(builder.icmp_signed("==", step, I64(1))) as (dense, other):
        with dense:
            read = lanes_between(v, *span)
            _fill_rows(v, rows, y, pitch, x, stride, lambda x, y: v.store(v.load(x, read), y, inside))
        with other, builder.if_else(builder.icmp_signed("==", step, I64(2))) as (halves, sparse):
            with halves:
                even = _even_masks(v, *span)
                _fill_rows(v, rows, y, pitch, x, stride, lambda x, y: v.store(_load_even(v, x, even), y, inside))
            with sparse:
                _fill_rows(v, rows, y, pitch, x, stride, lambda x, y: _copy_apart(v, x, y, across, span, inside))
    y = v.at(y, builder.mul(rows, pitch))
    _fill_rows(v, below, y, pitch, x, stride, lambda _, y: v.store(v.zero, y, inside))
    columns.close([builder.add(u, I64(v.lanes)), v.at(columns.values[1], tile.vector_bytes)])
    outer.close([v.at(to, gap), v.at(image, jump)])


def prefetch_channel(v: Vectors, image: ir.Value, size: ir.Value) -> None:
    """Ask for the next channel: the places of its rows follow no pattern that the processor would see."""
    loop = Loop(v.builder, v.builder.sdiv(size, I64(64)), [image])
    v.prefetch(loop.values[0])
    loop.close([v.at(loop.values[0], 64)])


def _fill_rows(
    v: Vectors, rows: ir.Value, y: ir.Value, pitch: ir.Value, x: ir.Value, stride: ir.Value,
    write: Callable[[ir.Value, ir.Value], None],
) -> ir.Value:  # fmt: skip
    """Write one column of vectors down some rows; return where the next row is."""
    loop = Loop(v.builder, rows, [x, y])
    write(*loop.values)
    return loop.close([v.at(loop.values[0], stride), v.at(loop.values[1], pitch)])[1]


def _even_masks(v: Vectors, low: ir.Value, high: ir.Value) -> list[ir.Value]:
    """Return the masks of two vectors of which every second element is wanted; none beyond the last is read."""
    builder = v.builder
    low, high = builder.mul(low, I64(2)), builder.sub(builder.mul(high, I64(2)), I64(1))
    starts = (I64(0), I64(v.lanes))
    return [lanes_between(v, builder.sub(low, start), builder.sub(high, start)) for start in starts]


def _load_even(v: Vectors, x: ir.Value, masks: list[ir.Value]) -> ir.Value:
    halves = [v.load(v.at(x, k * v.lanes * v.size), mask) for k, mask in enumerate(masks)]
    return v.shuffle(*halves, range(0, 2 * v.lanes, 2))


def _copy_apart(
    v: Vectors, x: ir.Value, y: ir.Value, across: ir.Value, span: tuple[ir.Value, ir.Value], inside: ir.Value
) -> None:
    """Write one vector of elements that lie ``across`` bytes apart, one by one."""
    builder, (low, high) = v.builder, span
    v.store(v.zero, y, inside)
    low = builder.select(builder.icmp_signed("<", low, I64(0)), I64(0), low)
    high = builder.select(builder.icmp_signed("<", high, I64(v.lanes)), high, I64(v.lanes))
    copy = Loop(
        builder, builder.sub(high, low), [v.at(x, builder.mul(low, across)), v.at(y, builder.mul(low, I64(v.size)))]
    )
    source, target = copy.values
    pointers = [builder.bitcast(p, v.scalar.as_pointer()) for p in (source, target)]
    builder.store(builder.load(pointers[0]), pointers[1])
    copy.close([v.at(source, across), v.at(target, v.size)])


def pack_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``pack(source, table, target, step, pieces, k, count)``: shifted images without what lies between rows.

    For each of k rows of the table, ``count`` pieces of a vector are copied, from ``source`` + table[k].b + piece.from
    to ``target`` + k * step + piece.to; later pieces overwrite what earlier ones had too much.
    """
    name, spec = f"conv_pack_{dtype.name}_{tile.vector_bytes}", "*source *table *target step *pieces k count"

    def emit(builder: ir.IRBuilder, *arguments: ir.Value) -> None:
        routine(builder, name, spec, _emit_pack, dtype, tile)(*arguments)

    return kernel(spec, emit)


def _emit_pack(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    source: ir.Value, table: ir.Value, target: ir.Value, step: ir.Value, pieces: ir.Value, k: ir.Value, count: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    outer = Loop(builder, k, [table, target])
    row, to = outer.values
    image = v.at(source, word_at(v, row, 0))
    inner = Loop(builder, count, [pieces])
    piece = inner.values[0]
    v.store(v.load(v.at(image, word_at(v, piece, 0))), v.at(to, word_at(v, piece, 1)))
    inner.close([v.at(piece, PIECE_BYTES)])
    outer.close([v.at(row, TABLE_BYTES), v.at(to, step)])


# ---- gradients of weights: dot products along the pixels ----


def dot_kernel(dtype: np.dtype[Any], tile: Tile) -> Callable[..., Any]:
    """Return ``dot(g, rsg, stepg, x, stepx, table, out, k, rows, vectors, count)``: sums over pixels of g times x.

    out[table[j].a + i * size] += sum over p, q of g[i * rsg + q * stepg + p] * x[table[j].b + q * stepx + p], for
    ``rows`` (at most ``tile.rows``) rows i, k rows j, q < count and whole ``vectors`` of pixels p.
    """
    return kernel(_DOT, _emit_dots, dtype, tile)


def _emit_dots(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile,
    g: ir.Value, rsg: ir.Value, stepg: ir.Value, x: ir.Value, stepx: ir.Value, table: ir.Value, out: ir.Value,
    k: ir.Value, rows: ir.Value, vectors: ir.Value, count: ir.Value,
) -> None:  # fmt: skip
    """Take the rows by powers of two, as in a strip, and the table by as many rows as the tile has vectors."""
    v = Vectors(builder, dtype, tile.vector_bytes)
    height = tile.rows
    while height:
        with builder.if_then(builder.icmp_signed("!=", builder.and_(rows, I64(height)), I64(0))):
            done = builder.and_(rows, I64(-2 * height))
            here = v.at(g, builder.mul(rsg, done))
            to = v.at(out, builder.mul(done, I64(v.size)))
            place = table
            for width in range(tile.vectors, 0, -1):
                number = builder.sdiv(k, I64(tile.vectors))
                if width < tile.vectors:
                    number = builder.zext(
                        builder.icmp_signed("==", builder.srem(k, I64(tile.vectors)), I64(width)), I64
                    )
                name = f"conv_dot_{dtype.name}_{tile.vector_bytes}_{height}x{width}"
                spec = "*g rsg stepg *x stepx *table *out vectors count"
                multiply = routine(builder, name, spec, _emit_dot, dtype, tile, height, width)
                loop = Loop(builder, number, [place])
                place = loop.values[0]
                multiply(here, rsg, stepg, x, stepx, place, to, vectors, count)
                place = loop.close([v.at(place, width * TABLE_BYTES)])[0]
        height //= 2


def _emit_dot(
    builder: ir.IRBuilder, dtype: np.dtype[Any], tile: Tile, rows: int, width: int,
    g: ir.Value, rsg: ir.Value, stepg: ir.Value, x: ir.Value, stepx: ir.Value, table: ir.Value, out: ir.Value,
    vectors: ir.Value, count: ir.Value,
) -> None:  # fmt: skip
    v = Vectors(builder, dtype, tile.vector_bytes)
    offsets = [word_at(v, table, 2 * j) for j in range(width)]
    rows_of_g = [builder.mul(rsg, I64(i)) for i in range(rows)]
    outer = Loop(builder, count, [g, x, *[v.zero] * (rows * width)])
    g, x, *sums = outer.values
    inner = Loop(builder, vectors, [g, x, *sums])
    here, there, *sums = inner.values
    line = [v.load(v.at(there, offset)) for offset in offsets]
    updated = []
    for i in range(rows):
        value = v.load(v.at(here, rows_of_g[i]))
        updated += [v.multiply_add(value, line[j], sums[i * width + j]) for j in range(width)]
    sums = inner.close([v.at(here, tile.vector_bytes), v.at(there, tile.vector_bytes), *updated])[2:]
    sums = outer.close([v.at(g, stepg), v.at(x, stepx), *sums])[2:]
    for j in range(width):
        place = v.at(out, word_at(v, table, 2 * j + 1))
        _add_sums(v, sums[j::width], place)


def _add_sums(v: Vectors, vectors: list[ir.Value], target: ir.Value) -> None:
    """Add each vector's sum of lanes to one of consecutive elements."""
    group = min(len(vectors), v.lanes)
    for first in range(0, len(vectors), group):
        totals = _sums(v, vectors[first : first + group])
        kind = totals.type
        pointer = v.builder.bitcast(v.at(target, first * v.size), kind.as_pointer())
        old = v.builder.load(pointer, align=v.size)
        v.builder.store(v.builder.fadd(old, totals), pointer, align=v.size)


def _sums(v: Vectors, vectors: list[ir.Value]) -> ir.Value:
    """Return one vector of the sums of some vectors' lanes: halves of two are added at a time, then what is left."""
    builder, lanes, width = v.builder, v.lanes, v.lanes
    while len(vectors) > 1:
        width //= 2
        low = [i for i in range(2 * lanes) if not i & width]
        high = [i for i in range(2 * lanes) if i & width]
        vectors = [
            builder.fadd(v.shuffle(x, y, low), v.shuffle(x, y, high))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    total = vectors[0]
    while width > 1:
        count, width = total.type.count, width // 2
        low, high = [i for i in range(count) if not i & width], [i for i in range(count) if i & width]
        total = builder.fadd(v.shuffle(total, total, low), v.shuffle(total, total, high))
    return total

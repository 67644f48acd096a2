"""The gradient of a convolution's weight: dot products along the pixels of gradients and shifted images.

A task takes some of the blocks of all images and writes sums of its own; these are added in a fixed order afterwards.
Gradients are copied with zeros between their rows, so that they meet the padded images' rows. In the words, ``W`` is
the address of the results' gradient, ``Y`` that of the weight's.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.conv import make_fill
from tapegrad.kernels.conv_ir import PIECE_BYTES, TABLE_BYTES, dot_kernel, fill_kernel, pack_kernel
from tapegrad.kernels.conv_plan import (
    BH,
    BW,
    CHUNKS,
    FILL_COST,
    GB,
    GROUPS,
    IMAGE,
    IMAGES,
    LIMIT_BYTES,
    MB,
    MOST_ENTRIES,
    MOST_FLAT,
    NBH,
    NBW,
    NGB,
    NMB,
    NO,
    NQ,
    PACKED,
    PACKED_BYTES,
    PARTIAL,
    PARTS,
    PITCH,
    RC,
    TARGET_BYTES,
    TASK_COST,
    TC,
    UNITS,
    M,
    Q,
    R,
    T,
    W,
    Y,
    choose_packing,
    cut,
    lay_out,
    shares,
    write_pieces,
    write_table,
)
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES, POINTERS
from tapegrad.native.parallel import SCRATCH_BYTES
from tapegrad.native.pointers import int64_at, stack_words

_PARTIAL_BYTES = 32 << 20  # of all partial sums
_MOST_TASKS = 32
_PIXELS = 1024  # that are packed at a time where images are small
_NO_PANEL = 1 << 40
# scratch memory: table, pieces, gradients, packed images, padded images
_PIECES_AT = MOST_ENTRIES * TABLE_BYTES
_GRADIENTS_AT = _PIECES_AT + PIECE_BYTES * (MOST_FLAT + 64)
_PACKED_AT = _GRADIENTS_AT + TARGET_BYTES + (64 << 10)
_IMAGES_AT = _PACKED_AT + PACKED_BYTES + (64 << 10)
assert _IMAGES_AT + LIMIT_BYTES + (256 << 10) <= SCRATCH_BYTES


def make_weight_gradient(dtype: int) -> tuple[Callable[..., int], ...]:
    """Return ``plan(words)``, the partial sums' bytes; ``task(words, k, scratch)``; ``combine(words, k, scratch)``."""
    tile = host_tile()
    numpy_dtype = NUMPY_DTYPES[dtype]
    pointer, size = POINTERS[dtype], numpy_dtype.itemsize
    lanes, tall = tile.vector_bytes // size, tile.rows
    dot, fill, pack = dot_kernel(numpy_dtype, tile), fill_kernel(numpy_dtype, tile), pack_kernel(numpy_dtype, tile)
    fill_images = make_fill(dtype, tile)

    @jit
    def flat_length(pitch, height, width):
        return ((height - 1) * pitch + width + lanes - 1) // lanes * lanes

    @jit
    def entries(p):
        return p[R] * p[T] * p[T + 1] * p[T + 2]

    @jit
    def blocks_of(p):
        return (p[M] + tall - 1) // tall

    @jit
    def plan(words):
        p = int64_at(words)
        geometry = stack_words(8)
        cut(p, size, geometry)
        choose_packing(p, size, lanes, lanes, _PIXELS, geometry)
        image, flat = int64_at(geometry)[IMAGE], flat_length(int64_at(geometry)[PITCH], p[BH], p[BW])
        if p[PACKED] != 0:
            flat = p[BH] * p[BW]
        work = 2 * p[M] * entries(p) * flat + FILL_COST * (image * p[CHUNKS] + p[M] * flat)
        if p[NBH] * p[NBW] * p[NO] * p[CHUNKS] == 1 and p[PACKED] == 0:
            p[Q] = greatest(1, least(p[IMAGES], (_PIXELS + flat // 2) // flat))
            p[CHUNKS] = least(p[R], (p[Q] * image * size + TARGET_BYTES - 1) // TARGET_BYTES)
            p[RC] = (p[R] + p[CHUNKS] - 1) // p[CHUNKS]
        p[NQ] = (p[IMAGES] + p[Q] - 1) // p[Q]
        p[UNITS] = p[NQ] * p[NO] * p[NBH] * p[NBW]
        tasks = least(_MOST_TASKS, greatest(1, work * p[Q] * p[UNITS] * p[GROUPS] // (2 * TASK_COST)))
        p[NGB] = least(p[GROUPS], tasks)
        p[GB] = (p[GROUPS] + p[NGB] - 1) // p[NGB]
        p[NGB] = (p[GROUPS] + p[GB] - 1) // p[GB]
        bytes_ = p[GROUPS] * blocks_of(p) * tall * entries(p) * size
        tasks = (tasks + p[NGB] - 1) // p[NGB]
        p[PARTS] = greatest(1, least(least(p[UNITS], tasks), _PARTIAL_BYTES // (bytes_ + 1)))
        p[NMB] = greatest(1, least((tasks + p[PARTS] - 1) // p[PARTS], p[M] // (128 if p[PACKED] != 0 else 32)))
        each = (blocks_of(p) + p[NMB] - 1) // p[NMB] * tall
        p[MB] = least(each, greatest(tall, TARGET_BYTES // (p[Q] * (flat + lanes) * size) // tall * tall))
        return p[PARTS] * bytes_

    @jit
    def fill_gradients(p, to, pitch, flat, image, images, group, m0, rows, z, oh, ow, height, width):
        """Copy rows of gradients ``pitch`` apart, images one after the other where they are packed."""
        channel, pixels = flat * size, p[NO] * p[NO + 1] * p[NO + 2] * size
        row = p[W] + (image * p[GROUPS] * p[M] + group * p[M] + m0) * pixels
        row += ((z * p[NO + 1] + oh) * p[NO + 2] + ow) * size
        step, end, across = rows * channel, flat, width
        if p[PACKED] != 0:
            step, end = height * width * size, height * width
        if pitch == width and p[NO + 2] == width:
            height, across = 1, height * width
        last = (height - 1) * pitch
        for q in range(images):
            source, target = row + q * p[GROUPS] * p[M] * pixels, to + q * step
            stride = p[NO + 2] * size
            fill(
                target, pitch * size, channel, source, stride, pixels, rows, 0, height - 1, 0, 0, 1, 0, across, pitch
            )  # fmt: skip
            fill(
                target + last * size, 0, channel, source + (height - 1) * stride, 0, pixels, rows, 0, 1, 0, 0, 1, 0,
                across, end - last,
            )  # fmt: skip
        if p[PACKED] != 0:
            fill(to + images * step, 0, channel, to, 0, 0, rows, 1, 0, 0, 0, 1, 0, 0, flat - images * end)
        return 0

    @jit
    def pack_images(scratch, geometry, height, width, images, k, flat):
        """Pack the padded images; the table then is that of packed ones."""
        count = write_pieces(
            geometry, images, height, width, lanes, _NO_PANEL, 0, size, scratch + _PIECES_AT
        )  # fmt: skip
        pieces, table = int64_at(scratch + _PIECES_AT), int64_at(scratch)
        pieces[2 * count], pieces[2 * count + 1] = 0, images * height * width * size  # any numbers; zeros meet them
        pack(scratch + _IMAGES_AT, scratch, scratch + _PACKED_AT, flat * size, scratch + _PIECES_AT, k, count + 1)
        for i in range(k):
            table[2 * i] = i * flat * size
        return 0

    @jit
    def add_part(p, geometry, scratch, out, image, images, group, m0, m1, k, z, oh, ow):
        """Add what one block of some images gives for the rows m0 .. m1 - 1 and the table's places."""
        g = int64_at(geometry)
        height, width = least(p[BH], p[NO + 1] - oh), least(p[BW], p[NO + 2] - ow)
        pitch, x, count = g[PITCH], scratch + _IMAGES_AT, images
        flat = flat_length(pitch, height, width)
        if p[PACKED] != 0:
            pitch, x, count = width, scratch + _PACKED_AT, 1
            flat = (images * height * width + lanes - 1) // lanes * lanes
            pack_images(scratch, geometry, height, width, images, k, flat)
        gradients = scratch + _GRADIENTS_AT
        for first in range(m0, m1, p[MB]):
            rows = least(p[MB], m1 - first)
            fill_gradients(p, gradients, pitch, flat, image, images, group, first, rows, z, oh, ow, height, width)
            for i in range(0, rows, tall):
                dot(
                    gradients + i * flat * size, flat * size, rows * flat * size, x, g[IMAGE] * size,
                    scratch, out + (first + i) * entries(p) * size, k, least(tall, rows - i), flat // lanes, count,
                )  # fmt: skip
        return 0

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        geometry = stack_words(8)
        g = int64_at(geometry)
        rest, part = index // p[PARTS], index % p[PARTS]
        group0 = rest % p[NGB] * p[GB]
        blocks, k = blocks_of(p), 0
        each = (blocks + p[NMB] - 1) // p[NMB]
        m0 = rest // p[NGB] * each * tall
        m1 = least(m0 + each * tall, p[M])
        for group in range(group0, least(group0 + p[GB], p[GROUPS])):
            out = p[PARTIAL] + (part * p[GROUPS] + group) * blocks * tall * entries(p) * size
            y = pointer(out + m0 * entries(p) * size)
            for i in range(np.uintp(greatest(0, m1 - m0 + tall - 1) // tall * tall * entries(p))):
                y[i] = 0
            for unit in range(part * p[UNITS] // p[PARTS], (part + 1) * p[UNITS] // p[PARTS]):
                inner, ow = unit // p[NBW], unit % p[NBW] * p[BW]
                inner, oh = inner // p[NBH], inner % p[NBH] * p[BH]
                z, image = inner % p[NO], inner // p[NO] * p[Q]
                images = least(p[Q], p[IMAGES] - image)
                for r0 in range(0, p[R], p[RC]):
                    rc = least(p[RC], p[R] - r0)
                    for a0 in range(0, p[T], p[TC]):
                        c0 = least(p[TC], p[T] - a0)
                        for a1 in range(0, p[T + 1], p[TC + 1]):
                            c1 = least(p[TC + 1], p[T + 1] - a1)
                            for a2 in range(0, p[T + 2], p[TC + 2]):
                                c2 = least(p[TC + 2], p[T + 2] - a2)
                                if p[CHUNKS] > 1 or p[PACKED] != 0 or k == 0:
                                    lay_out(p, p[BH], p[BW], rc, c0, c1, c2, shares(p), geometry)
                                    k = write_table(
                                        p, geometry, scratch, r0, rc, a0, c0, a1, c1, a2, c2, size, tall * size
                                    )
                                at = scratch + _IMAGES_AT
                                fill_images(p, geometry, at, image, images, group, z, oh, ow, r0, rc, a0, c0, a1, a2)
                                beyond = at + images * g[IMAGE] * size
                                fill(beyond, 0, 0, beyond, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 2 * lanes)
                                add_part(p, geometry, scratch, out, image, images, group, m0, m1, k, z, oh, ow)
        return 0

    @jit
    def combine(words, index, scratch):
        """Add the partial sums of one block of rows, and put them in the weight's order."""
        p = int64_at(words)
        blocks, k = blocks_of(p), entries(p)
        group, block = index // blocks, index % blocks
        n = k * tall
        first = pointer(p[PARTIAL] + (group * blocks + block) * n * size)
        for part in range(1, p[PARTS]):
            other = pointer(p[PARTIAL] + ((part * p[GROUPS] + group) * blocks + block) * n * size)
            for j in range(n):
                first[j] += other[j]
        for i in range(least(tall, p[M] - block * tall)):
            y = pointer(p[Y] + ((group * p[M] + block * tall + i) * k) * size)
            for j in range(k):
                y[j] = first[j * tall + i]
        return 0

    return plan, task, combine, blocks_of

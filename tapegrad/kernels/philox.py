"""The counter-based generator Philox4x32-10 in groups of 64 words: word i depends on nothing but (seed, offset, i).

Philox encrypts a 128-bit counter under a 64-bit key into four 32-bit words (Salmon et al. 2011,
doi:10.1145/2063384.2063405). Here the key is the seed, the low 64 bits of the counter are a block number and the high 64
bits are 0, but for redraws. Sixteen blocks make a *group* of 64 words in which word ``16 j + b`` is word j of block b:
stored so, the rounds run on vectors of blocks and no shuffle is needed (0.6 ns a word; 3.5 ns as a scalar loop, which is
what LLVM makes of plain code, for it does not inline the rounds).

A kernel is ``kernel(args) -> status`` with ``args`` the address of int64 words: n, address of n contiguous elements,
seed, offset, then the parameters (a float as the bits of a float64). It takes whole groups from block ``offset`` on, so a
fill that is cut at multiples of `GROUP` elements, each part starting ``blocks_used(start)`` blocks further on, gives the
same bits as one that is not. The status is 0 but where a kernel says otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.native.cache import jit
from tapegrad.native.pointers import bitcast, float64_from_bits, int64_at, pointer_to, stack_words

GROUP = 64
GROUP_BLOCKS = 16
_LANES = 8
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_I64, _I32 = ir.IntType(64), ir.IntType(32)

_CHUNK_GROUPS = 4  # groups made at a time: a loop over 256 words hides what starting it costs
_CHUNK = GROUP * _CHUNK_GROUPS
_CHUNK_BUFFER = _CHUNK // 2  # in int64 words
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_uint32_at = pointer_to(np.uint32)
_uint64_at = pointer_to(np.uint64)


def blocks_used(n: int, wide: bool = False) -> int:
    """Return by how much a fill of ``n`` elements advances the offset; ``wide`` for those that take 64 bits each."""
    return -(-n * (2 if wide else 1) // GROUP) * GROUP_BLOCKS


def _constant(kind: ir.Type, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _encrypt(builder: ir.IRBuilder, counter: list[ir.Value], key: list[ir.Value]) -> list[ir.Value]:
    """Emit the ten rounds on 32-bit words held in 64-bit lanes, which is what a 32x32 -> 64-bit multiply takes."""
    kind = counter[0].type
    low, width = _constant(kind, 0xFFFFFFFF), _constant(kind, 32)
    for step in range(10):
        if step:
            key = [builder.and_(builder.add(k, _constant(kind, w)), low) for k, w in zip(key, _WEYL, strict=True)]
        c0, c1, c2, c3 = counter
        p0, p1 = builder.mul(c0, _constant(kind, _MULTIPLIERS[0])), builder.mul(c2, _constant(kind, _MULTIPLIERS[1]))
        first = builder.xor(builder.xor(builder.lshr(p1, width), c1), key[0])
        third = builder.xor(builder.xor(builder.lshr(p0, width), c3), key[1])
        counter = [first, builder.and_(p1, low), third, builder.and_(p0, low)]
    return counter


def _halves(builder: ir.IRBuilder, value: ir.Value) -> list[ir.Value]:
    return [
        builder.and_(value, _constant(value.type, 0xFFFFFFFF)),
        builder.lshr(value, _constant(value.type, 32)),
    ]


@intrinsic
def philox_block(typing_context, block, stream, seed):  # type: ignore[no-untyped-def]
    """Return the four words of the block with the counter ``stream * 2**64 + block`` as uint64 values."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        block, stream, seed = args
        words = _encrypt(builder, _halves(builder, block) + _halves(builder, stream), _halves(builder, seed))
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, 4)(types.uint64, types.uint64, types.uint64), build


def _splat(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


@intrinsic
def fill_group(typing_context, words, block, seed):  # type: ignore[no-untyped-def]
    """Write a group of 64 words at the address ``words``, whose first block is ``block``."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind, narrow = ir.VectorType(_I64, _LANES), ir.VectorType(_I32, _LANES)
        address, block, seed = args
        zero = _constant(kind, 0)
        key = _halves(builder, _splat(builder, seed, kind))
        for part in range(0, GROUP_BLOCKS, _LANES):
            lanes = ir.Constant(kind, list(range(part, part + _LANES)))
            counter = [*_halves(builder, builder.add(_splat(builder, block, kind), lanes)), zero, zero]
            for j, word in enumerate(_encrypt(builder, counter, key)):
                place = builder.add(address, ir.Constant(_I64, 4 * (16 * j + part)))
                builder.store(builder.trunc(word, narrow), builder.inttoptr(place, narrow.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64, types.uint64), build


@jit
def fill_words(words, block, seed, count):  # type: ignore[no-untyped-def]
    """Write whole groups of words at the address ``words`` until there are ``count``."""
    for group in range((count + GROUP - 1) // GROUP):
        fill_group(words + 4 * GROUP * group, block + np.uint64(GROUP_BLOCKS * group), seed)


def _pointer(dtype: Any) -> Callable[..., Any]:
    """Return the pointer intrinsic of ``dtype``; a bool is a byte of 0 or 1."""
    return pointer_to(np.uint8 if np.dtype(dtype) == np.bool_ else dtype)


def _scalar(dtype: Any) -> Any:
    return np.uint8 if np.dtype(dtype) == np.bool_ else np.dtype(dtype).type


def _elementwise(dtype: Any, convert: Callable[..., Any], wide: bool) -> Callable[[int], int]:
    """Make the kernel that writes ``convert(word, p0, p1)`` of a 32-bit or (``wide``) 64-bit word and two parameters."""
    out_at, word_at = _pointer(dtype), _uint64_at if wide else _uint32_at
    chunk, scale = (_CHUNK // 2, 2) if wide else (_CHUNK, 1)
    chunk_blocks = np.uint64(GROUP_BLOCKS * _CHUNK_GROUPS)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, out, seed, block, p0, p1 = a[0], out_at(a[1]), np.uint64(a[2]), np.uint64(a[3]), a[4], a[5]
        buffer = stack_words(_CHUNK_BUFFER)
        words = word_at(buffer)
        for start in range(0, n, chunk):
            count = min(chunk, n - start)
            fill_words(buffer, block, seed, count * scale)
            for i in range(count):
                out[start + i] = convert(words[i], p0, p1)
            block += chunk_blocks
        return 0

    return kernel


def _unit32(word):  # type: ignore[no-untyped-def]
    """[0, 1) with 24 bits; through int32, for which every vector unit has a conversion."""
    return np.float32(np.int32(word >> np.uint32(8))) * np.float32(2**-24)


def _unit64(word):  # type: ignore[no-untyped-def]
    """[0, 1) with 53 bits."""
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53


def _positive32(word):  # type: ignore[no-untyped-def]
    """(0, 1] with 31 bits, which is what the tail of a logarithm shows: the least is 2**-32."""
    return np.float32(np.int32(word >> np.uint32(1))) * np.float32(2**-31) + np.float32(2**-32)


def _positive64(word):  # type: ignore[no-untyped-def]
    """(0, 1] with 53 bits: the least is 2**-54."""
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53 + 2.0**-54


_unit = {4: jit(_unit32), 8: jit(_unit64)}
_positive = {4: jit(_positive32), 8: jit(_positive64)}


def make_uniform(dtype: Any) -> Callable[[int], int]:
    """Make the fill with reals of [low, high): parameters low, high; ``blocks_used(n, dtype == float64)``."""
    real, size = np.dtype(dtype).type, np.dtype(dtype).itemsize
    unit = _unit[size]

    @jit
    def convert(word, low_bits, high_bits):  # type: ignore[no-untyped-def]
        low, high = real(float64_from_bits(low_bits)), real(float64_from_bits(high_bits))
        x = low + unit(word) * (high - low)
        return x if x < high else low  # rounding may reach high

    return _elementwise(dtype, convert, size == 8)

"""The counter-based generator Philox4x32-10 in groups of 64 words: word i depends on nothing but (seed, offset, i).

Philox encrypts a 128-bit counter under a 64-bit key into four 32-bit words (Salmon et al. 2011,
doi:10.1145/2063384.2063405). Here the key is the seed, the low 64 bits of the counter are a block number and the high
64 bits are 0, but for redraws. Sixteen blocks make a *group* of 64 words, in which word ``16 j + b`` is word j of
block b: stored so, the rounds run on vectors of blocks and no shuffle is needed (0.6 ns a word; as a scalar loop,
which is what LLVM makes of plain code, for it does not inline the rounds, 3.5 ns).

A fill takes whole groups from block ``offset`` on, so one that is cut at multiples of `GROUP` elements, each part
starting ``blocks_used(start)`` blocks further on, gives the same bits as one that is not.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.native.cache import jit

GROUP = 64
GROUP_BLOCKS = 16
_LANES = 8
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_I64, _I32 = ir.IntType(64), ir.IntType(32)


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

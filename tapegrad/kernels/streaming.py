"""Stores that pass the caches by: for results so large that they would not be there any more when they are read.

A plain store first reads the line that it writes; for a result beside one operand that is a third of all traffic.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.native.cache import jit

LARGE = 16 << 20  # bytes of a result that is streamed: what follows could not read it from the caches
LINE = 64
_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_VECTOR = ir.VectorType(ir.FloatType(), 16)


@intrinsic
def _stream_line(typing_context, source, target):  # type: ignore[no-untyped-def]
    """Copy 64 bytes between addresses that are multiples of 64, past the caches."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointers = [builder.inttoptr(address, _VECTOR.as_pointer()) for address in args]
        store = builder.store(builder.load(pointers[0], align=LINE), pointers[1], align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def finish_stream(typing_context):  # type: ignore[no-untyped-def]
    """Wait until what was streamed can be seen by other threads."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


@jit
def stream(source, target, count):
    """Copy ``count`` bytes, a multiple of 64, from scratch memory; both addresses are multiples of 64."""
    for offset in range(0, count, LINE):
        _stream_line(source + offset, target + offset)
    return 0


@jit
def is_streamed(target, row_bytes, total_bytes):
    """Return whether rows of a result are to be streamed: it is large, and rows are whole lines."""
    return total_bytes >= LARGE and target % LINE == 0 and row_bytes % LINE == 0 and row_bytes <= 1 << 20

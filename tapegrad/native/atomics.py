"""Atomic access to int64 words in memory, for what several threads share."""

import platform

from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_X86 = platform.machine().lower() in ("x86_64", "amd64")


@intrinsic
def atomic_load(typing_context, address):
    """Return a word, and see what was written before it was stored (acquire)."""

    def build(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), build


@intrinsic
def atomic_store(typing_context, address, value):
    """Store a word after everything that was written before (release)."""

    def build(context, builder, signature, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def atomic_add(typing_context, address, value):
    """Add to a word; return what it was before."""

    def build(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), build


@intrinsic
def compare_exchange(typing_context, address, expected, value):
    """Store ``value`` if the word is ``expected``; return whether it was."""

    def build(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        pair = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), build


@intrinsic
def pause(typing_context):
    """Let the other hardware thread of the core go first for some cycles, while waiting in a loop."""

    def build(context, builder, signature, args):
        name = "llvm.x86.sse2.pause" if _X86 else "llvm.donothing"
        builder.call(get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), name), [])
        return context.get_dummy_value()

    return types.void(), build

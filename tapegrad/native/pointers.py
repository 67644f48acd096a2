"""Typed pointers, calls by address and atomic-free memory access for compiled code.

Everything travels between compiled functions as int64 addresses, so no address is baked into machine code and all of it
can be cached on disk. An address becomes a typed pointer once, at the top of a kernel, and is indexed from there
(integer-address arithmetic loses pointer provenance and was miscompiled before Numba 0.67: numba#10605).
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, lower_builtin
from numba.np.numpy_support import from_dtype

_I64 = ir.IntType(64)


def pointer_to(dtype: npt.DTypeLike) -> Callable[..., Any]:
    """Return an intrinsic that turns an int64 address into a pointer to ``dtype``, a scalar dtype."""
    target = from_dtype(np.dtype(dtype))

    @intrinsic
    def cast(typing_context, address):
        def build(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(target)(types.int64), build

    return cast


def row_of(dtype: np.dtype[Any]) -> Callable[..., Any]:
    """Return an intrinsic ``row(table_address, index)`` that gives a record of a table to read and write in place."""
    record = from_dtype(dtype)

    @intrinsic
    def row(typing_context, table, index):
        def build(context, builder, signature, args):
            row_type = ir.ArrayType(ir.IntType(8), dtype.itemsize)
            start = builder.inttoptr(args[0], row_type.as_pointer())
            pointer = builder.gep(start, [args[1]], inbounds=True)
            return builder.bitcast(pointer, context.get_value_type(record))

        return record(types.int64, types.int64), build

    return row


def words_in(field: str) -> Callable[..., Any]:
    """Return an intrinsic that gives a pointer to the int64 array ``field`` of a record, of whatever table.

    Numba's own access builds a whole array value each time: it compiles four times slower.
    """

    @intrinsic
    def words(typing_context, row):
        offset = row.offset(field)

        def build(context, builder, signature, args):
            start = builder.bitcast(args[0], ir.IntType(8).as_pointer())
            pointer = builder.gep(start, [ir.Constant(_I64, offset)], inbounds=True)
            return builder.bitcast(pointer, _I64.as_pointer())

        return types.CPointer(types.int64)(row), build

    return words


def caller(returns: Any, *arguments: Any) -> Callable[..., Any]:
    """Return an intrinsic ``call(address, a0, ...)`` of a C function of these types."""

    def build(context, builder, signature, args):
        value_types = [context.get_value_type(t) for t in arguments]
        pointer = ir.FunctionType(context.get_value_type(returns), value_types).as_pointer()
        return builder.call(builder.inttoptr(args[0], pointer), list(args[1:]))

    signature = returns(types.int64, *arguments)
    names = ", ".join(f"a{k}" for k in range(len(arguments)))
    scope = {"build": build, "signature": signature}
    exec(f"def call(typing_context, address, {names}):\n    return signature, build", scope)
    return intrinsic(scope["call"])


call1, call2, call3, call4 = (caller(types.int64, *[types.int64] * count) for count in (1, 2, 3, 4))


def symbol(name: str, returns: Any, *arguments: Any) -> Callable[..., Any]:
    """Return an intrinsic that calls the C function ``name`` of this process (libc or the Python C API)."""

    def build(context, builder, signature, args):
        value_types = [context.get_value_type(t) for t in arguments]
        function_type = ir.FunctionType(context.get_value_type(returns), value_types)
        return builder.call(get_or_insert_function(builder.module, function_type, name), args)

    signature = returns(*arguments)
    names = ", ".join(f"a{k}" for k in range(len(arguments)))
    scope = {"build": build, "signature": signature}
    exec(f"def call(typing_context, {names}):\n    return signature, build", scope)
    return intrinsic(scope["call"])


def bitcast(source: Any, target: Any) -> Callable[..., Any]:
    """Return an intrinsic that reinterprets the bits of a ``source`` value as ``target``, a type of the same width."""

    @intrinsic
    def reinterpret(typing_context, value):
        def build(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), build

    return reinterpret


@intrinsic
def stack_words(typing_context, count):
    """Return the address of ``count`` (a literal) int64 words on the machine stack, valid until the caller returns."""
    if not isinstance(count, types.IntegerLiteral):
        return None

    def build(context, builder, signature, args):
        with builder.goto_entry_block():
            words = builder.alloca(ir.ArrayType(_I64, count.literal_value))
        return builder.ptrtoint(words, _I64)

    return types.int64(count), build


@intrinsic
def prefetch(typing_context, address):
    """Have the processor fetch the cache line at an address, which need not be anybody's memory, for reading."""

    def build(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, ir.IntType(32), ir.IntType(32), ir.IntType(32)])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        flags = [ir.Constant(ir.IntType(32), flag) for flag in (0, 3, 1)]  # to read, into all caches, data
        builder.call(function, [builder.inttoptr(args[0], byte), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), build


int64_at = pointer_to(np.int64)
float64_at = pointer_to(np.float64)
float64_bits = bitcast(types.float64, types.int64)
float64_from_bits = bitcast(types.int64, types.float64)


_BOOLEANS = types.CPointer(types.boolean)


@lower_builtin(operator.getitem, _BOOLEANS, types.Integer)
def _load_boolean(context, builder, signature, args):
    """Numba gives the byte in memory where the bit of a value is expected."""
    byte = builder.load(builder.gep(args[0], [args[1]]))
    return builder.icmp_unsigned("!=", byte, ir.Constant(byte.type, 0))


@lower_builtin(operator.setitem, _BOOLEANS, types.Integer, types.Any)
def _store_boolean(context, builder, signature, args):
    bit = context.cast(builder, args[2], signature.args[2], types.boolean)
    builder.store(builder.zext(bit, ir.IntType(8)), builder.gep(args[0], [args[1]]))

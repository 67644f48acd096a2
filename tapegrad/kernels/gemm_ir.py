"""What the matrix kernels' LLVM code is written with: vectors, masks, loops, and routines that kernels share.

Numba's loops over a tile of C spill its accumulators; here every accumulator is one SSA vector and every step is one
fused multiply-add. A routine is its own function in the module of the kernel that calls it (internal, never inlined),
compiled once however often it is called. Strides are in bytes; an address becomes a pointer once, at the top.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
POINTER = I8.as_pointer()
_SCALARS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class Vectors:
    """Emits the vector instructions of one routine."""

    def __init__(self, builder: ir.IRBuilder, dtype: np.dtype[Any], vector_bytes: int) -> None:
        self.builder = builder
        self.size = dtype.itemsize
        self.scalar = _SCALARS[dtype.name]
        self.lanes = vector_bytes // self.size
        self.type = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.size}"

    def at(self, base: ir.Value, offset: ir.Value | int) -> ir.Value:
        """Return the pointer ``offset`` bytes after ``base``."""
        return self.builder.gep(base, [I64(offset) if isinstance(offset, int) else offset])

    def _intrinsic(self, name: str, returns: ir.Type, *arguments: ir.Type) -> ir.Function:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, arguments), name)

    def load(self, address: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Load a vector; lanes that ``mask`` turns off are not read and are zero."""
        pointer = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            return self.builder.load(pointer, align=self.size)
        name = f"llvm.masked.load.{self.suffix}.p0"
        read = self._intrinsic(name, self.type, pointer.type, I32, mask.type, self.type)
        return self.builder.call(read, [pointer, I32(self.size), mask, self.zero])

    def store(self, value: ir.Value, address: ir.Value, mask: ir.Value | None = None) -> None:
        """Store a vector; lanes that ``mask`` turns off are not written."""
        pointer = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, pointer, align=self.size)
            return
        name = f"llvm.masked.store.{self.suffix}.p0"
        write = self._intrinsic(name, ir.VoidType(), self.type, pointer.type, I32, mask.type)
        self.builder.call(write, [value, pointer, I32(self.size), mask])

    def broadcast(self, value: ir.Value, type_: ir.VectorType | None = None) -> ir.Value:
        """Return a vector whose lanes all are ``value``."""
        type_ = type_ or self.type
        undefined = ir.Constant(type_, ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, value, I32(0)), undefined, [0] * type_.count)

    def element(self, address: ir.Value) -> ir.Value:
        """Load one element into every lane."""
        return self.broadcast(self.builder.load(self.builder.bitcast(address, self.scalar.as_pointer())))

    def prefetch(self, address: ir.Value, writing: bool = False) -> None:
        """Start to bring a line that will be read, or written, into the first-level cache."""
        prefetch = self._intrinsic("llvm.prefetch.p0", ir.VoidType(), POINTER, I32, I32, I32)
        self.builder.call(prefetch, [address, I32(int(writing)), I32(3), I32(1)])

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``x * y + z``, fused where the CPU can (``llvm.fma`` would call libm where it cannot)."""
        return self.builder.call(self._intrinsic(f"llvm.fmuladd.{self.suffix}", *[self.type] * 4), [x, y, z])

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Return the mask that turns on the first ``count`` lanes (all where ``count`` is more)."""
        type_ = ir.VectorType(I64, self.lanes)
        indices = ir.Constant(type_, list(range(self.lanes)))
        return self.builder.icmp_signed("<", indices, self.broadcast(count, type_))

    def sum(self, vectors: list[ir.Value]) -> ir.Value:
        """Return the sum of all lanes of some vectors (their number a power of two), added as a tree."""
        add = self.builder.fadd
        while len(vectors) > 1:
            vectors = [add(x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
        total, half = vectors[0], self.lanes // 2
        while half:
            total = add(total, self.shuffle(total, total, [(i + half) % self.lanes for i in range(self.lanes)]))
            half //= 2
        return self.builder.extract_element(total, I32(0))

    def shuffle(self, x: ir.Value, y: ir.Value, lanes: Iterable[int]) -> ir.Value:
        """Return the vector of these lanes of ``x`` followed by ``y``."""
        order = list(lanes)
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(order)), order))

    def interleave(self, x: ir.Value, y: ir.Value, half: int) -> tuple[ir.Value, ir.Value]:
        """Return one butterfly of a transposition: ``x`` and ``y`` with their blocks of ``half`` lanes exchanged."""
        lanes = range(self.lanes)
        low = [i if not i & half else self.lanes + i - half for i in lanes]
        high = [i + half if not i & half else self.lanes + i for i in lanes]
        return self.shuffle(x, y, low), self.shuffle(x, y, high)

    def concatenate(self, pieces: list[ir.Value]) -> ir.Value:
        """Return one vector of several shorter ones."""
        while len(pieces) > 1:
            lanes = range(2 * pieces[0].type.count)
            pieces = [self.shuffle(x, y, lanes) for x, y in zip(pieces[::2], pieces[1::2], strict=True)]
        return pieces[0]


def _not_unrolled(module: ir.Module) -> ir.MDValue:
    """Return the mark of a loop that LLVM leaves as it is: unrolling costs compile time and gains nothing here."""
    mark = module.add_metadata(["llvm.loop.unroll.disable"])
    loop = module.add_metadata([ir.Constant(I32, len(module.metadata)), mark])
    loop.operands = (loop, mark)  # a loop's identity is a node that names itself
    return loop


class Loop:
    """A counted loop ``for i in range(count)`` with values carried from one turn to the next; ``count`` may be 0."""

    def __init__(self, builder: ir.IRBuilder, count: ir.Value, carried: list[ir.Value]) -> None:
        self.builder = builder
        self.before, self.count = builder.block, count
        self.body, self.after = builder.append_basic_block("body"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), self.body, self.after)
        builder.position_at_end(self.body)
        self.left = self._phi(count)
        self.values = [self._phi(value) for value in carried]
        self.carried = carried

    def _phi(self, start: ir.Value) -> ir.Value:
        phi = self.builder.phi(start.type)
        phi.add_incoming(start, self.before)
        return phi

    def close(self, updated: list[ir.Value]) -> list[ir.Value]:
        """End the body with the carried values' next values; return their values after the loop."""
        builder, end = self.builder, self.builder.block
        left = builder.sub(self.left, I64(1))
        for phi, value in zip([self.left, *self.values], [left, *updated], strict=True):
            phi.add_incoming(value, end)
        branch = builder.cbranch(builder.icmp_signed(">", left, I64(0)), self.body, self.after)
        branch.set_metadata("llvm.loop", _not_unrolled(builder.module))
        builder.position_at_end(self.after)
        results = [builder.phi(value.type) for value in updated]
        for phi, start, value in zip(results, self.carried, updated, strict=True):
            phi.add_incoming(start, self.before)
            phi.add_incoming(value, end)
        return results


def routine(
    builder: ir.IRBuilder, name: str, spec: str, emit: Callable[..., None], *parameters: Any
) -> Callable[..., None]:
    """Return a call of the module's function ``name``, which ``emit(builder, *parameters, *arguments)`` writes if new.

    ``spec`` names the arguments; those that begin with '*' are pointers, the others int64.
    """
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        kinds = [POINTER if word.startswith("*") else I64 for word in spec.split()]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        emit(inside, *parameters, *function.args)
        inside.ret_void()
    return lambda *arguments: builder.call(function, arguments)  # type: ignore[no-any-return]


def kernel(spec: str, emit: Callable[..., None], *parameters: Any) -> Callable[..., Any]:
    """Return an intrinsic with ``spec``'s int64 arguments, written by ``emit(builder, *parameters, *arguments)``."""
    words = spec.split()

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values = [builder.inttoptr(x, POINTER) if w.startswith("*") else x for w, x in zip(words, args, strict=True)]
        emit(builder, *parameters, *values)
        return context.get_dummy_value()

    names = ", ".join(word.lstrip("*") for word in words)
    scope = {"build": build, "signature": types.void(*[types.int64] * len(words))}
    exec(f"def call(typing_context, {names}):\n    return signature, build", scope)
    return intrinsic(scope["call"])  # type: ignore[no-any-return]


@intrinsic
def least(typing_context, x, y):  # type: ignore[no-untyped-def]
    """Return the smaller of two int64 (Numba compiles ``min`` as a function of its own: 60 ms)."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), build


@intrinsic
def greatest(typing_context, x, y):  # type: ignore[no-untyped-def]
    """Return the greater of two int64; see least."""

    def build(context, builder, signature, args):
        return builder.select(builder.icmp_signed(">", *args), *args)

    return types.int64(types.int64, types.int64), build

"""Captured programs as a type of Numba: ``f.njit(x)`` in ``@njit`` code binds its arrays and calls the program.

Nothing of the program is compiled for that: what Numba compiles are checks of shapes and one call by address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types, typing
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.imputils import lower_builtin, lower_constant
from numba.extending import NativeValue, register_model, unbox
from numba.np.arrayobj import _empty_nd_impl
from numba.np.numpy_support import from_dtype

from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, NUMPY_DTYPES
from tapegrad.runtime.errors import LinAlgError
from tapegrad.runtime.layout import BAD_INDEX, OUT_OF_MEMORY, SINGULAR
from tapegrad.runtime.native_calls import SHARED_MEMORY

_WORD = ir.IntType(64)
_FAILURES = {
    SHARED_MEMORY: (ValueError, "an argument shares memory with another one, or with what the program writes"),
    BAD_INDEX: (IndexError, "an index is out of bounds"),
    SINGULAR: (LinAlgError, "a matrix is singular, not positive definite, or a decomposition did not converge"),
    OUT_OF_MEMORY: (MemoryError, "no memory"),
}


@dataclass(frozen=True)
class Spec:
    """What an argument or a result of a program is; ``written`` says that the program writes into it."""

    dtype: int
    shape: tuple[int, ...]
    written: bool = False

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]}{list(self.shape)}"

    @property
    def numba_scalar(self) -> Any:
        """Numba's type of an element."""
        return from_dtype(NUMPY_DTYPES[self.dtype])

    @property
    def numba_type(self) -> Any:
        """Numba's type of a result: a number where it has no dimensions."""
        return types.Array(self.numba_scalar, len(self.shape), "C") if self.shape else self.numba_scalar

    def takes(self, given: Any) -> bool:
        """Return whether an argument of this type of Numba's can be it."""
        if isinstance(given, types.Array):
            kind = given.dtype == self.numba_scalar and given.ndim == len(self.shape) and given.layout == "C"
            return kind and (given.mutable or not self.written)
        if self.shape or self.written:
            return False
        if self.dtype >= FLOAT32:
            return isinstance(given, types.Float | types.Integer)
        return isinstance(given, types.Integer | types.Boolean) and not (
            isinstance(given, types.Integer) and self.dtype == 0
        )


@dataclass(frozen=True)
class Signature:
    """The arguments and the results of a program."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.inputs))})"

    @property
    def result_type(self) -> Any:
        """Numba's type of what a call returns."""
        found = [spec.numba_type for spec in self.outputs]
        return types.none if not found else found[0] if len(found) == 1 else types.Tuple(found)

    def takes(self, given: Sequence[Any]) -> bool:
        """Return whether arguments of these types of Numba's can be its own, as far as types tell."""
        return len(given) == len(self.inputs) and all(map(Spec.takes, self.inputs, given))

    def is_of(self, given: Sequence[Any]) -> bool:
        """Return whether the arguments that are numbers have its dtypes exactly."""
        pairs = zip(given, self.inputs, strict=True)
        return all(isinstance(kind, types.Array) or types.unliteral(kind) == spec.numba_scalar for kind, spec in pairs)


class NativeType(types.Callable):  # type: ignore[misc]
    """Numba's type of a captured function: its name and the signatures of its programs, in their order."""

    def __init__(self, function: str, signatures: tuple[Signature, ...]) -> None:
        self.function, self.signatures = function, signatures
        described = "; ".join(f"{s} -> ({', '.join(map(str, s.outputs))})" for s in signatures)
        super().__init__(name=f"captured({function}: {described})")

    @property
    def key(self) -> Any:
        """What tells types apart."""
        return self.function, self.signatures

    def get_call_type(self, context: Any, given: Any, named: Any) -> Any:
        """Return the signature of a call, as Numba asks for it; the function itself is passed first."""
        if named:
            raise TypingError(f"{self.function}: takes no named arguments here")
        found = self.choose(given)
        return typing.signature(self.signatures[found[0]].result_type, *given, recvr=self)

    def get_call_signatures(self) -> Any:
        """Return the signatures that are known without the arguments: none."""
        return (), False

    def get_impl_key(self, signature: Any) -> Any:
        """Return what the code of a call is registered under."""
        return NativeType

    def choose(self, given: Sequence[Any]) -> list[int]:
        """Return which programs may be meant by arguments of these types.

        Raises:
            TypingError: none, or some whose results have different types.
        """
        found = [k for k, signature in enumerate(self.signatures) if signature.takes(given)]
        if not found:
            raise TypingError(
                f"{self.function}: expected C-contiguous arrays {self.expected(range(len(self.signatures)))}, got "
                f"({', '.join(map(str, given))}); np.ascontiguousarray makes an array contiguous"
            )
        exact = [k for k in found if self.signatures[k].is_of(given)] or found
        kinds = {tuple([spec.dtype for spec in self.signatures[k].inputs]) for k in exact}
        if len(kinds) > 1 or len({self.signatures[k].result_type for k in exact}) > 1:
            raise TypingError(
                f"{self.function}: which program is meant is not clear from ({', '.join(map(str, given))}), or their "
                f"results have different types: {self.expected(exact)}; capture them as functions of their own"
            )
        return exact

    def expected(self, programs: Any) -> str:
        """Return the arguments of some programs, for a message."""
        return " or ".join(str(self.signatures[k]) for k in programs)


@register_model(NativeType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    """The address of words: that of call_program, then those of the programs."""

    def __init__(self, manager: Any, native_type: Any) -> None:
        super().__init__(manager, native_type, _WORD)


@lower_constant(NativeType)  # type: ignore[untyped-decorator]
def _constant(context: Any, builder: Any, native_type: Any, function: Any) -> Any:
    """A global or a closure's variable: the code that has the address keeps the programs alive and is not cached."""
    words = function.words
    library = context.active_code_library
    library.tapegrad_kept = [*getattr(library, "tapegrad_kept", []), words]
    address = context.add_dynamic_addr(builder, words.address, info=str(native_type))
    return builder.ptrtoint(address, _WORD)


@unbox(NativeType)  # type: ignore[untyped-decorator]
def _argument(native_type: Any, function: Any, c: Any) -> NativeValue:
    """An argument: its programs stay alive until the call is over."""
    words = c.pyapi.object_getattr_string(function, "words")
    address = c.pyapi.object_getattr_string(words, "address")
    value = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(
        value, is_error=c.builder.not_(cgutils.is_not_null(c.builder, words)), cleanup=lambda: c.pyapi.decref(words)
    )


@lower_builtin(NativeType, NativeType, types.VarArg(types.Any))  # type: ignore[untyped-decorator]
def _call(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Find the program that takes the arguments, run it, return its results."""
    function, *given = signature.args
    return _Call(context, builder, function, given, values).build(signature.return_type)


class _Call:
    """The code of one call."""

    def __init__(
        self, context: Any, builder: Any, function: NativeType, given: Sequence[Any], values: Sequence[Any]
    ) -> None:
        self._context, self._builder = context, builder
        self._function, self._programs = function, function.choose(given)
        self._signatures = [function.signatures[k] for k in self._programs]
        self._given, self._arguments = given, values[1:]
        self._words = builder.inttoptr(values[0], _WORD.as_pointer())

    def build(self, result_type: Any) -> Any:
        """Emit the code; return the results' value."""
        context, builder = self._context, self._builder
        arrays = [
            context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else None
            for kind, value in zip(self._given, self._arguments, strict=True)
        ]
        which = self._find(arrays)
        inputs = self._addresses([self._input(k, array) for k, array in enumerate(arrays)])
        outputs = [self._make_output(k, which) for k in range(len(self._signatures[0].outputs))]
        places = self._addresses([address for address, _ in outputs])
        numbers = [_WORD(1 + k) for k in self._programs]
        program = builder.load(builder.gep(self._words, [self._select(which, numbers)]))
        kind = ir.FunctionType(_WORD, [_WORD] * 3).as_pointer()
        call = builder.inttoptr(builder.load(self._words), kind)
        status = builder.call(call, [program, inputs, places])
        self._raise_failures(status, outputs)
        results = [self._result(k, address, array) for k, (address, array) in enumerate(outputs)]
        if not results:
            return context.get_dummy_value()
        return results[0] if len(results) == 1 else context.make_tuple(builder, result_type, results)

    def _find(self, arrays: list[Any]) -> Any:
        """Return which of the programs has the arrays' shapes, as a list of conditions; raise where none has."""
        builder = self._builder
        found = [self._fits(signature, arrays) for signature in self._signatures]
        any_fits = found[0]
        for fits in found[1:]:
            any_fits = builder.or_(any_fits, fits)
        with builder.if_then(builder.not_(any_fits), likely=False):
            text = f"{self._function.function}: expected arrays {self._function.expected(self._programs)}"
            self._context.call_conv.return_user_exc(builder, ValueError, (f"{text}, got another shape",))
        return found

    def _fits(self, signature: Signature, arrays: list[Any]) -> Any:
        builder = self._builder
        fits = cgutils.true_bit
        for spec, array in zip(signature.inputs, arrays, strict=True):
            if array is None:
                continue
            lengths = cgutils.unpack_tuple(builder, array.shape, len(spec.shape))
            for length, wanted in zip(lengths, spec.shape, strict=True):
                fits = builder.and_(fits, builder.icmp_signed("==", length, _WORD(wanted)))
        return fits

    def _select(self, conditions: Any, choices: list[Any]) -> Any:
        """Return the choice whose condition holds."""
        chosen = choices[-1]
        for condition, choice in reversed(list(zip(conditions[:-1], choices[:-1], strict=True))):
            chosen = self._builder.select(condition, choice, chosen)
        return chosen

    def _input(self, k: int, array: Any) -> Any:
        """Return the address of an argument; a number is put on the stack."""
        if array is not None:
            return self._builder.ptrtoint(array.data, _WORD)
        wanted = self._signatures[0].inputs[k].numba_scalar
        kind = types.unliteral(self._given[k])
        value = self._context.cast(self._builder, self._arguments[k], kind, wanted)
        data = self._context.data_model_manager[wanted].as_data(self._builder, value)
        return self._builder.ptrtoint(cgutils.alloca_once_value(self._builder, data), _WORD)

    def _make_output(self, k: int, which: Any) -> tuple[Any, Any]:
        """Return the address of the memory for a result, and the array if it is one."""
        context, builder = self._context, self._builder
        spec = self._signatures[0].outputs[k]
        if not spec.shape:
            place = cgutils.alloca_once(builder, context.get_data_type(spec.numba_scalar))
            return builder.ptrtoint(place, _WORD), place
        shapes = [signature.outputs[k].shape for signature in self._signatures]
        lengths = [self._select(which, [_WORD(shape[d]) for shape in shapes]) for d in range(len(spec.shape))]
        array = _empty_nd_impl(context, builder, spec.numba_type, lengths)
        return builder.ptrtoint(array.data, _WORD), array

    def _result(self, k: int, address: Any, made: Any) -> Any:
        spec = self._signatures[0].outputs[k]
        if spec.shape:
            return made._getvalue()
        return self._context.unpack_value(self._builder, spec.numba_scalar, made)

    def _addresses(self, values: list[Any]) -> Any:
        """Put addresses into words on the stack; return where."""
        builder = self._builder
        words = cgutils.alloca_once(builder, _WORD, size=_WORD(max(len(values), 1)))
        for k, value in enumerate(values):
            builder.store(value, builder.gep(words, [_WORD(k)]))
        return builder.ptrtoint(words, _WORD)

    def _raise_failures(self, status: Any, outputs: list[tuple[Any, Any]]) -> None:
        context, builder, name = self._context, self._builder, self._function.function
        with builder.if_then(builder.icmp_signed("<", status, _WORD(0)), likely=False):
            for spec, (_, made) in zip(self._signatures[0].outputs, outputs, strict=True):
                if spec.shape:
                    context.nrt.decref(builder, spec.numba_type, made._getvalue())
            for code, (kind, text) in _FAILURES.items():
                with builder.if_then(builder.icmp_signed("==", status, _WORD(code))):
                    context.call_conv.return_user_exc(builder, kind, (f"{name}: {text}",))
            context.call_conv.return_user_exc(builder, RuntimeError, (f"{name}: an operation has failed",))

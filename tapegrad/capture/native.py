"""``.njit``: captured functions, gradient functions and modules for the user's Numba code, for C and for SciPy."""

from __future__ import annotations

import ctypes
import functools
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import typeof_impl

from tapegrad.autograd.modes import no_grad
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.native_types import NativeType, Signature, Spec
from tapegrad.capture.program import Program
from tapegrad.capture.trees import take_apart
from tapegrad.capture.variants import Variant
from tapegrad.native.dtypes import FLOAT64, NUMPY_DTYPES
from tapegrad.runtime.core import compile_one
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine
from tapegrad.runtime.native_calls import SHARED_MEMORY
from tapegrad.tensor.construct import from_numpy
from tapegrad.tensor.convert import array_of

_CALLS = 6  # of a pure function, after which it must have become a program
_numbers = itertools.count()
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)


@functools.cache
def _entry(name: str) -> int:
    return compile_one(name)


@functools.cache
def _caller() -> Any:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return kind(_entry("call_program"))


class _Words:
    """What compiled code gets: the address of call_program, then those of programs, which stay alive with this."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = list(programs)
        self._array = np.array([_entry("call_program"), *[p.address for p in programs]], np.int64)
        self.address = int(self._array.ctypes.data)


class NativeFunction:
    """A captured function for code that is not Python: what ``.njit`` gives.

    Called from Python with NumPy arrays, it returns NumPy arrays (numbers for results without dimensions, a tuple for
    several results, None for none), and captures the function if that has not been done for such arguments. From then
    on ``@njit`` code may call it, as a global, a closure's variable or an argument: with C-contiguous arrays of the
    dtypes and shapes that it was captured for, or numbers where tensors had no dimensions, in the order in which the
    tensors stand in the function's arguments. It needs no GIL, and nothing of the program is compiled again.

    As every global, it is frozen when Numba compiles the code that calls it: programs captured later, parameters that
    are replaced (not: changed) and the mode of training are not seen there. Learning rates that were changed are when
    ``.njit`` is next asked for. A second thread waits until the first one's call is over.

    Raises (in ``@njit`` code too):
        ValueError: wrong shapes, or memory shared with what the program writes; nothing has been written then.
        TypeError, numba.TypingError: no program for arguments of these types.

    Args:
        make: what captures the function for given arguments.
        name: the name that messages have.
        leading: how many leading arguments there are.
        pure: whether the function leaves nothing behind but its results.

    Example:
        >>> import numba, numpy as np, tapegrad as tg
        >>> gradient = tg.func.grad(lambda x: (x**2).sum()).njit
        >>> gradient(np.ones(3))
        array([2., 2., 2.])
        >>> @numba.njit
        ... def descend(x, steps):
        ...     for _ in range(steps):
        ...         x = x - 0.25 * gradient(x)
        ...     return x
        >>> descend(np.ones(3), 2)
        array([0.25, 0.25, 0.25])
    """

    def __init__(self, make: Callable[[], Any], name: str, leading: tuple[Any, ...] = (), pure: bool = False) -> None:
        self._make, self._leading, self._pure = make, leading, pure
        self.__name__ = name

    _programs: Sequence[Program] = ()
    _signatures: tuple[Signature, ...] = ()
    _words: _Words | None = None
    _trampoline: _Trampoline | None = None
    _refused = ""

    @functools.cached_property
    def _compiled(self) -> Any:  # a Compiled, whose file imports this one
        return self._make()

    # ---- programs ----

    def renew(self) -> None:
        """Look which programs there are, and bring what optimisers read up to date."""
        self._refused = ""
        found = [pair for variant in self._compiled.variants if (pair := self._usable(variant))]
        if len(found) > 1:  # the variant that was used last comes first among Compiled's
            found.sort(key=lambda pair: str(pair[1]))
        programs = [program for program, _ in found]
        if programs != [*self._programs]:
            signatures = tuple([signature for _, signature in found])
            self._check_distinct(signatures)
            self._words, self._trampoline = _Words(programs), None
            self._programs, self._signatures = programs, signatures

    def _usable(self, variant: Variant) -> tuple[Program, Signature] | None:
        """Return the program of a variant and its signature if native code can call it; note why it cannot."""
        if variant.program is None or not variant.guards.hold() or not self._is_mine(variant):
            return None
        found = _signature(variant.program)
        if isinstance(found, str):
            self._refused = found
            return None
        if any(kind != "output" for kind, _ in variant.returned):
            self._refused = "it returns an argument as it is: return a clone of it"
            return None
        variant.refresh()
        return variant.program, found

    def _is_mine(self, variant: Variant) -> bool:
        items = variant.structure[1] if variant.structure[0] is tuple else ()
        for item, value in zip(items, self._leading, strict=False):
            if item[0] != "plain" or item[2] is not value:
                return False
        return True

    def _check_distinct(self, signatures: Sequence[Signature]) -> None:
        if len({signature.inputs for signature in signatures}) < len(signatures):
            raise CaptureError(
                f"{self.__name__}.njit: it was captured more than once for the same shapes, with other plain arguments "
                "or modes, and native code cannot say which is meant: capture it as functions of their own"
            )

    def _require(self) -> None:
        self.renew()
        if not self._programs:
            reason = self._refused or (
                "there is no program for what its function reads now: call it first, with arrays of the right shapes "
                f"and dtypes, {'once' if self._pure else 'two or three times'}"
            )
            raise CaptureError(f"{self.__name__}.njit: {reason}")

    @property
    def _numba_type_(self) -> NativeType:
        """Numba's type: an attribute that Numba finds fastest. Without a program it is missing: see _typeof."""
        self.renew()
        if not self._programs:
            raise AttributeError("there is no program")
        return NativeType(self.__name__, self._signatures)

    @property
    def words(self) -> _Words:
        """What compiled code reads; it keeps the programs alive."""
        if self._words is None:
            self._require()
        assert self._words is not None
        return self._words

    # ---- from Python ----

    def __call__(self, *args: Any) -> Any:
        """Call it with NumPy arrays, numbers or tensors; capture it if need be."""
        self.renew()
        arrays = [_array(value) for value in args]
        for program, signature in zip(self._programs, self._signatures, strict=True):
            if _fits(signature, arrays):
                return _run(program, signature, arrays)
        return self._capture(args, arrays)

    def _capture(self, args: Sequence[Any], arrays: Sequence[Any]) -> Any:
        """Call the function itself; a pure one until it has become a program."""
        tensors = [value if isinstance(value, Tensor) else from_numpy(np.asarray(value, order="C")) for value in args]
        if not self._pure:
            return _arrays_in(self._compiled(*self._leading, *tensors))
        for _ in range(_CALLS):
            with no_grad():
                result = self._compiled(*tensors)
            self.renew()
            if self._refused:
                raise CaptureError(f"{self.__name__}.njit: {self._refused}")
            if any(_fits(signature, arrays) for signature in self._signatures):
                break
        return _arrays_in(result)

    # ---- from C ----

    def _only(self) -> tuple[Program, Signature]:
        self._require()
        if len(self._programs) > 1:
            raise CaptureError(f"{self.__name__}.njit: an address is of one program, and it has {len(self._programs)}")
        return self._programs[0], self._signatures[0]

    @property
    def address(self) -> int:
        """The address of a C function ``int64_t f(void **inputs, void **outputs)``, while this object lives.

        It gets the addresses of the arguments and of memory for the results, both C-contiguous, of the shapes and
        dtypes of ``signature``; it returns 0, or a negative number and leaves the results as they are. Any thread may
        call it, with or without the GIL.
        """
        program, _ = self._only()
        if self._trampoline is None:
            self._trampoline = _Trampoline(program)
        return self._trampoline.address

    @property
    def signature(self) -> str:
        """The dtypes and shapes of arguments and results: one line for each program."""
        self._require()
        return "\n".join(f"{s} -> ({', '.join(map(str, s.outputs))})" for s in self._signatures)

    @property
    def ctypes(self) -> Any:
        """The C function at ``address`` as a ctypes function, which keeps the program alive."""
        function: Any = _FUNCTION(self.address)
        function.tapegrad_kept = (self._words, self._trampoline)
        return function

    def low_level_callable(self) -> Any:
        """Return a SciPy ``LowLevelCallable`` ``double f(int n, double *x, void *)``, for ``scipy.integrate.nquad``.

        The function must be of one float64 vector and return one float64 number. It gives nan where it fails.
        """
        from scipy import LowLevelCallable

        program, signature = self._only()
        if [(s.dtype, len(s.shape)) for s in signature.inputs] != [(FLOAT64, 1)] or signature.outputs != (
            Spec(FLOAT64, ()),
        ):
            raise TypeError(
                f"{self.__name__}.njit: a LowLevelCallable must be of one float64 vector and return one float64 "
                f"number, got {self.signature}"
            )
        kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.POINTER(ctypes.c_double), ctypes.c_void_p)
        function: Any = kind(_entry("call_scalar"))
        function.tapegrad_kept = self._words
        return LowLevelCallable(function, user_data=ctypes.c_void_p(program.address))

    def __repr__(self) -> str:
        return f"<{self.__name__}.njit: {len(self._programs)} programs>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.__name__}.njit is made of addresses in this process: it cannot be copied or pickled")


class _Trampoline:
    """Machine code of a few instructions: a function of inputs and outputs that calls call_program for one program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        word = ir.IntType(64)
        name = f"tapegrad_program_{next(_numbers)}"
        self._library = cpu_target.target_context.codegen().create_library(name)
        module = self._library.create_ir_module(name)
        function = ir.Function(module, ir.FunctionType(word, [word, word]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        target = ir.FunctionType(word, [word] * 3).as_pointer()
        callee = builder.inttoptr(word(_entry("call_program")), target)
        builder.ret(builder.call(callee, [word(program.address), *function.args]))
        with global_compiler_lock:
            self._library.add_ir_module(module)
            self._library.finalize()
        self.address = int(self._library.get_pointer_to_function(name))


_known: weakref.WeakKeyDictionary[Program, Signature | str] = weakref.WeakKeyDictionary()


def _signature(program: Program) -> Signature | str:
    """Return a program's signature, or why native code cannot call it."""
    found = _known.get(program)
    if found is None:
        found = _known[program] = _find_signature(program)
    return found


def _find_signature(program: Program) -> Signature | str:
    if program.notes.deferred:
        return "it steps a learning rate schedule, which is Python: call its step() outside"
    inputs = [_spec(slot, written) for slot, written in program.input_slots]
    if any(isinstance(spec, str) for spec in inputs):
        return "it was captured with an argument that is not contiguous: call it with contiguous ones"
    outputs = [_spec(slot, contiguous=False) for slot in program.output_slots]
    return Signature(tuple(inputs), tuple(outputs))  # type: ignore[arg-type]


def _spec(slot: int, written: bool = False, contiguous: bool = True) -> Spec | str:
    row = machine.table("slots")[slot]
    ndim = int(row["ndim"])
    shape = tuple(row["shape"][:ndim].tolist())
    if contiguous:
        stride = 1
        for length, found in zip(reversed(shape), reversed(row["strides"][:ndim].tolist()), strict=True):
            if length != 1 and found != stride and 0 not in shape:
                return "not contiguous"
            stride *= length
    return Spec(int(row["dtype"]), shape, written)


def _array(value: Any) -> Any:
    return array_of(value) if isinstance(value, Tensor) else np.asarray(value)


def _fits(signature: Signature, arrays: Sequence[Any]) -> bool:
    return len(arrays) == len(signature.inputs) and all(
        array.dtype == NUMPY_DTYPES[spec.dtype]
        and array.shape == spec.shape
        and (array.flags.writeable and array.flags.c_contiguous if spec.written else True)
        for array, spec in zip(arrays, signature.inputs, strict=True)
    )


def _run(program: Program, signature: Signature, arrays: Sequence[Any]) -> Any:
    inputs = [np.asarray(array, order="C") for array in arrays]
    outputs = [np.empty(spec.shape, NUMPY_DTYPES[spec.dtype]) for spec in signature.outputs]
    places = np.array([array.ctypes.data for array in (*inputs, *outputs, np.empty(0))], np.int64)
    start = places.ctypes.data
    status = _caller()(program.address, start, start + 8 * len(inputs))
    if status == SHARED_MEMORY:
        raise ValueError("an argument shares memory with another one, or with what the program writes")
    if status < 0:
        raise_status(status)
    return _result([output[()] for output in outputs])


def _result(found: list[Any]) -> Any:
    return None if not found else found[0] if len(found) == 1 else tuple(found)


def _arrays_in(result: Any) -> Any:
    tensors: list[Tensor] = []
    take_apart(result, tensors)
    return _result([array_of(value).copy()[()] for value in tensors])


def _typeof(function: NativeFunction, context: Any) -> NativeType:
    """Return Numba's type, or raise what says why there is none: Numba asks here when the attribute is missing."""
    function._require()
    return function._numba_type_


typeof_impl.register(NativeFunction, _typeof)

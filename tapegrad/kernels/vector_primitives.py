"""The bricks of the vector maths: bits, fused multiply-add, selects and polynomials as intrinsics of both float widths.

Each works on float32 and float64 (its constants follow the argument's type) and becomes one LLVM instruction or a short
run of them, without branches, so that the loop vectoriser takes a loop over them whole. Numba's own integer arithmetic
widens int32 to int64, which would halve the lanes of a float32 loop: hence the integer operations of a given width.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, overload

from tapegrad.native.cache import OPTIONS

_I64 = ir.IntType(64)
_FLOATS = (types.float32, types.float64)
_INTEGER_OF = {types.float32: types.int32, types.float64: types.int64}
_FLOAT_OF = {types.int32: types.float32, types.int64: types.float64}

helper = njit(forceinline=True, **OPTIONS)


def elementary(body: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``body`` callable inside compiled code, on float32 or float64, and from Python, on arrays, with one code."""
    return elementary_of(body, body)(body)


def elementary_of(single: Callable[..., Any], double: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Like `elementary`, with one body for float32 and one for float64; what is decorated gives the name."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def public(*args: Any) -> Any:
            return _evaluate(public, args)

        def choose(*args: Any) -> Callable[..., Any] | None:
            if any(a not in _FLOATS or a != args[0] for a in args):
                return None
            return single if args[0] == types.float32 else double

        names = single.__code__.co_varnames[: single.__code__.co_argcount]
        scope = {"choose": choose}
        exec(f"def chooser({', '.join(names)}):\n    return choose({', '.join(names)})", scope)
        overload(public, jit_options={"forceinline": True, **OPTIONS}, strict=False)(scope["chooser"])
        return public

    return decorate


def _evaluate(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    dtype = np.result_type(*args) if all(hasattr(a, "dtype") for a in args) else np.result_type(*args, np.float32)
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=dtype) for a in args))
    out = np.empty(arrays[0].shape, dtype)
    _loop(function, len(args))(out.reshape(-1), *(np.ascontiguousarray(a).reshape(-1) for a in arrays))
    return out if out.ndim else out[()]


@cache
def _loop(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    names = [f"a{k}" for k in range(count)]
    source = f"def loop(out, {', '.join(names)}):\n    for i in range(out.size):\n        out[i] = function("
    scope: dict[str, Any] = {"function": function}
    exec(source + ", ".join(f"{name}[i]" for name in names) + ")", scope)
    return njit(**OPTIONS)(scope["loop"])  # type: ignore[no-any-return]


def _intrinsic(count: int, result: Callable[..., Any], build: Callable[..., Any]) -> Callable[..., Any]:
    """Return an intrinsic: its result's type is ``result(*types)``, its code ``build(builder, llvm_type, *values)``."""

    def typed(*args: Any) -> Any:
        out = result(*args)
        if out is None:
            return None

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return build(builder, context.get_value_type(signature.return_type), *values)

        return out(*args), generate

    names = ", ".join(f"a{k}" for k in range(count))
    scope = {"typed": typed}
    exec(f"def operation(typing_context, {names}):\n    return typed({names})", scope)
    return intrinsic(scope["operation"])  # type: ignore[no-any-return]


def _same_float(*args: Any) -> Any:
    return args[0] if args[0] in _FLOATS and all(a == args[0] for a in args) else None


def _same_integer(*args: Any) -> Any:
    return args[0] if args[0] in _FLOAT_OF and all(a == args[0] for a in args) else None


def _llvm(name: str, count: int) -> Callable[..., Any]:
    """Return the LLVM intrinsic ``name`` of ``count`` float arguments."""

    def build(builder: Any, kind: Any, *values: Any) -> Any:
        return builder.call(
            builder.module.declare_intrinsic(name, [kind], ir.FunctionType(kind, [kind] * count)), values
        )

    return _intrinsic(count, _same_float, build)


def _integer(name: str) -> Callable[..., Any]:
    return _intrinsic(2, _same_integer, lambda builder, kind, a, b: getattr(builder, name)(a, b))


fma = _llvm("llvm.fma", 3)  # exact product: for error-free transformations
muladd = _llvm("llvm.fmuladd", 3)  # a * b + c, fused where the machine can
copysign = _llvm("llvm.copysign", 2)
absolute = _llvm("llvm.fabs", 1)
square_root = _llvm("llvm.sqrt", 1)
nearest = _llvm("llvm.rint", 1)
truncate = _llvm("llvm.trunc", 1)
floor = _llvm("llvm.floor", 1)

exact_remainder = _intrinsic(2, _same_float, lambda builder, kind, a, b: builder.frem(a, b))  # libm's fmod: scalar
int_add, int_sub, int_and, int_or, int_xor = (_integer(name) for name in ("add", "sub", "and_", "or_", "xor"))
shift_left, shift_right, shift_right_logical = (_integer(name) for name in ("shl", "ashr", "lshr"))

bits = _intrinsic(1, lambda x: _INTEGER_OF.get(x), lambda builder, kind, x: builder.bitcast(x, kind))
from_bits = _intrinsic(1, lambda i: _FLOAT_OF.get(i), lambda builder, kind, i: builder.bitcast(i, kind))
funnel_left = _intrinsic(  # the high word of (a:b) << count
    3,
    _same_integer,
    lambda builder, kind, *v: builder.call(
        builder.module.declare_intrinsic("llvm.fshl", [kind], ir.FunctionType(kind, [kind] * 3)), v
    ),
)
multiply_low = _integer("mul")
multiply_high = _intrinsic(  # the high half of the product of two unsigned int32
    2,
    lambda a, b: a if a == b == types.int32 else None,
    lambda builder, kind, a, b: builder.trunc(
        builder.lshr(builder.mul(builder.zext(a, _I64), builder.zext(b, _I64)), ir.Constant(_I64, 32)), kind
    ),
)
to_float = _intrinsic(1, lambda i: types.float32 if i == types.int32 else None, lambda b, kind, i: b.sitofp(i, kind))
select = _intrinsic(
    3,
    lambda condition, a, b: a if condition == types.boolean and a == b else None,
    lambda builder, kind, condition, a, b: builder.select(condition, a, b),
)


def constant(single: float, double: float | None = None) -> Callable[..., Any]:
    """Return an intrinsic ``c(x)``: the constant in the type of ``x``."""
    values = {types.float32: float(np.float32(single)), types.float64: float(single if double is None else double)}

    @intrinsic
    def value(typing_context, x):  # type: ignore[no-untyped-def]
        if x not in _FLOATS:
            return None
        return x(x), lambda context, builder, signature, args: ir.Constant(context.get_value_type(x), values[x])

    return value  # type: ignore[no-any-return]


def integer(single: int, double: int) -> Callable[..., Any]:
    """Return an intrinsic ``c(i)``: the constant in the type of the int32 or int64 ``i``."""
    values = {types.int32: single, types.int64: double}

    @intrinsic
    def value(typing_context, i):  # type: ignore[no-untyped-def]
        if i not in _FLOAT_OF:
            return None
        return i(i), lambda context, builder, signature, args: ir.Constant(context.get_value_type(i), values[i])

    return value  # type: ignore[no-any-return]


def polynomial(single: list[float], double: list[float] | None = None) -> Callable[..., Any]:
    """Return an intrinsic ``p(x)`` = c[0] + c[1] x + ... by Horner's rule, with one list of coefficients per dtype."""
    lists = {types.float32: [float(np.float32(c)) for c in single], types.float64: single if double is None else double}

    @intrinsic
    def evaluate(typing_context, x):  # type: ignore[no-untyped-def]
        if x not in _FLOATS:
            return None

        def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = context.get_value_type(x)
            call = builder.module.declare_intrinsic("llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3))
            *rest, total = (ir.Constant(kind, c) for c in lists[x])
            for c in reversed(rest):
                total = builder.call(call, [total, args[0], c])
            return total

        return x(x), build

    return evaluate  # type: ignore[no-any-return]


@helper
def clamp(x, low, high):
    """Return x within low .. high; nan stays nan."""
    x = select(x > high, high, x)
    return select(x < low, low, x)

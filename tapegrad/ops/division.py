"""Division that rounds, and its remainders: floor_divide, remainder, fmod, div(rounding_mode), `//`, `%`, divmod."""

from typing import Any

import numpy as np

from tapegrad.kernels.loops import Repair, like
from tapegrad.kernels.vector_primitives import floor, select, truncate
from tapegrad.kernels.vector_remainder import fmod as fmod_exact
from tapegrad.kernels.vector_remainder import fmod_near, has_far_quotient, remainder_near
from tapegrad.kernels.vector_remainder import remainder as remainder_exact
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import PYTHON_NUMBERS, call, call_in_place, function, functions, tensor_method
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import NUMBERS, Op, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

TWO = ("input", "other")


def _quotients(make):
    """Dividends away from the multiples of the divisor, where the quotient jumps."""
    shapes = ((), (0,), (37,), (2, 3))
    pairs = [
        (np.asarray(make(*s, low=0.1, high=0.4) + make.integers(*s, low=-4, high=4)), np.full(s, 1.0)) for s in shapes
    ]
    return [*((pair, {}) for pair in pairs), ((make(3, 1, low=0.6, high=0.7), np.array([-0.5, 0.5, 0.25])), {})]


@jit
def _floor_integers(x, w):
    """Zero divisors never get here from Python; -1 would trap at the smallest integer."""
    x, w = np.int64(x), np.int64(w)
    if w == 0:
        return np.int64(0)
    return -x if w == -1 else x // w


def _floor_by(fmod_of):
    """The quotient of x - remainder, which is within rounding of an integer, as CPython computes it."""

    def floor_floats(x, w):
        r = fmod_of(x, w)
        q = (x - r) / w
        q = select((r != 0) & ((w < 0) != (r < 0)), q - like(1, q), q)
        whole = floor(q)
        whole = select(q - whole > like(0.5, q), whole + like(1, q), whole)
        whole = select(q == 0, like(0, q) * (x / w), whole)
        return select(w == 0, x / w, whole)

    return floor_floats


@jit
def _modulo_integers(x, w):
    x, w = np.int64(x), np.int64(w)
    return x - _floor_integers(x, w) * w


@jit
def _fmod_integers(x, w):
    r = _modulo_integers(x, w)
    return r - np.int64(w) if r != 0 and (r < 0) != (np.int64(x) < 0) else r


@jit
def _truncate_integers(x, w):
    q = _floor_integers(x, w)
    r = np.int64(x) - q * np.int64(w)
    return q + np.int64(1) if r != 0 and (np.int64(x) < 0) != (np.int64(w) < 0) else q


_floor_divide = elementwise(
    "floor_divide",
    {"integer": lambda x, w: _floor_integers(x, w), "float": _floor_by(fmod_near)},
    inputs=TWO,
    dtypes=NUMBERS,
    repair=Repair(lambda x, w: has_far_quotient(x, w), _floor_by(fmod_exact)),
    vjp=lambda g, y, x, w: (g.zeros_like(), g.zeros_like()),
    public=False,
    reference=np.floor_divide,
    samples=_quotients,
    math="floor(x / w)",
)
_remainder = elementwise(
    "remainder",
    {"integer": lambda x, w: _modulo_integers(x, w), "float": lambda x, w: remainder_near(x, w)},
    inputs=TWO,
    dtypes=NUMBERS,
    repair=Repair(lambda x, w: has_far_quotient(x, w), lambda x, w: remainder_exact(x, w)),
    vjp=lambda g, y, x, w: (g, -(g * x.floor_divide(w))),
    public=False,
    reference=np.remainder,
    samples=_quotients,
    math="x - w floor(x / w)",
)
_fmod = elementwise(
    "fmod",
    {"integer": lambda x, w: _fmod_integers(x, w), "float": lambda x, w: fmod_near(x, w)},
    inputs=TWO,
    dtypes=NUMBERS,
    repair=Repair(lambda x, w: has_far_quotient(x, w), lambda x, w: fmod_exact(x, w)),
    vjp=lambda g, y, x, w: (g, -(g * x.div_trunc(w))),
    public=False,
    reference=np.fmod,
    samples=_quotients,
    math="x - w trunc(x / w)",
)
_div_trunc = elementwise(
    "div_trunc",
    {"integer": lambda x, w: _truncate_integers(x, w), "float": lambda x, w: truncate(x / w)},
    inputs=TWO,
    dtypes=NUMBERS,
    vjp=lambda g, y, x, w: (g.zeros_like(), g.zeros_like()),
    public=False,
    reference=lambda x, w: np.trunc(x / w),
    samples=_quotients,
    math="trunc(x / w)",
)


def _is_integral(value: Any) -> bool:
    if isinstance(value, Tensor):
        return int(machine.dtype_of(value._handle)) < FLOAT32
    return isinstance(value, int | np.integer | np.bool_)


def _refuse_zero(input: Any, other: Any) -> None:
    """Raise, as torch does, where integers would be divided by an integer 0."""
    if not (_is_integral(input) and _is_integral(other)):
        return
    zero = functions["any"](functions["eq"](other, 0)).item() if isinstance(other, Tensor) else other == 0
    if zero:
        raise RuntimeError("ZeroDivisionError: integers are divided by 0")


def _divide(op: Op, input: Any, other: Any, out: Tensor | None = None) -> Tensor:
    _refuse_zero(input, other)
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        raise TypeError(f"{op.name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    result = call(op, input, other)
    return result if out is None else functions["_write_out"](out, result)


def _divide_in_place(op: Op, input: Tensor, other: Any) -> Tensor:
    _refuse_zero(input, other)
    return call_in_place(op, input, input, other)


@function()
def floor_divide(input: Tensor | float, other: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return ``floor(input / other)``, broadcast and promoted.

    Raises:
        RuntimeError: integers are divided by an integer 0.
    """
    return _divide(_floor_divide, input, other, out)


@function()
def floor_divide_(input: Tensor, other: Tensor | float) -> Tensor:
    """In-place form of ``floor_divide``."""
    return _divide_in_place(_floor_divide, input, other)


@function()
def remainder(input: Tensor | float, other: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return the remainder of ``input / other`` with the sign of ``other``, as Python's ``%``.

    Raises:
        RuntimeError: integers are divided by an integer 0.
    """
    return _divide(_remainder, input, other, out)


@function()
def remainder_(input: Tensor, other: Tensor | float) -> Tensor:
    """In-place form of ``remainder``."""
    return _divide_in_place(_remainder, input, other)


@function()
def fmod(input: Tensor, other: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return the remainder of ``input / other`` with the sign of ``input``, as C's ``fmod``.

    Raises:
        RuntimeError: integers are divided by an integer 0.
    """
    return _divide(_fmod, input, other, out)


@function()
def fmod_(input: Tensor, other: Tensor | float) -> Tensor:
    """In-place form of ``fmod``."""
    return _divide_in_place(_fmod, input, other)


def _division(rounding_mode: str | None) -> Op:
    ops = {None: "div", "floor": "floor_divide", "trunc": "div_trunc"}
    if rounding_mode not in ops:
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found {rounding_mode!r}"
        )
    return registry[ops[rounding_mode]]


@function(aliases=("divide",), extends=True)
def div(
    input: Tensor | float, other: Tensor | float, *, rounding_mode: str | None = None, out: Tensor | None = None
) -> Tensor:
    """Return ``input / other``, broadcast, rounded if asked for.

    Args:
        input: the dividend.
        other: the divisor.
        rounding_mode: ``None``: integers are divided as the default float dtype; ``"trunc"`` rounds towards 0,
            ``"floor"`` down.
        out: a tensor that the result is written to.

    Raises:
        RuntimeError: integers are divided by an integer 0 and rounded, or the mode is another.
    """
    op = _division(rounding_mode)
    if rounding_mode is not None or not isinstance(input, Tensor):
        return _divide(op, input, other, out) if rounding_mode else functions["true_divide"](input, other, out=out)
    result = call(op, input, other)
    return result if out is None else functions["_write_out"](out, result)


@function(aliases=("divide_",), extends=True)
def div_(input: Tensor, other: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    """In-place form of ``div``."""
    op = _division(rounding_mode)
    return call_in_place(op, input, input, other) if rounding_mode is None else _divide_in_place(op, input, other)


def _operator(op: Op, *, reflected: bool = False) -> Any:
    def operator(self: Tensor, other: Any) -> Tensor:
        if not isinstance(other, Tensor | np.generic) and type(other) not in PYTHON_NUMBERS:
            return NotImplemented
        return _divide(op, other, self) if reflected else _divide(op, self, other)

    return operator


for _name, _op in (("floordiv", _floor_divide), ("mod", _remainder)):
    tensor_method(f"__{_name}__")(_operator(_op))
    tensor_method(f"__r{_name}__")(_operator(_op, reflected=True))
tensor_method("__ifloordiv__")(floor_divide_)
tensor_method("__imod__")(remainder_)


@tensor_method("__divmod__")
def _divmod(self: Tensor, other: Tensor | float) -> tuple[Tensor, Tensor]:
    return floor_divide(self, other), remainder(self, other)


@tensor_method("__rdivmod__")
def _reflected_divmod(self: Tensor, other: float) -> tuple[Tensor, Tensor]:
    return floor_divide(other, self), remainder(other, self)

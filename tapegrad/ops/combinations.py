"""Sums and products in one pass: add and sub with ``alpha``, addcmul, addcdiv, lerp."""

from typing import Any

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import absolute, select
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions
from tapegrad.ops.elementwise import elementwise, number
from tapegrad.ops.registry import FLOATS, NUMBERS, Op, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

TWO = ("input", "other")

_add_scaled = elementwise(
    "add_scaled",
    lambda x, w, alpha: x + alpha * w,
    inputs=TWO,
    scalars={"alpha": 1},
    dtypes=NUMBERS,
    vjp=lambda g, y, x, w, alpha: (g, g * alpha, None),
    public=False,
    reference=lambda x, w, alpha: x + alpha * w,
    samples=[(-2, 2), (-2, 2), 3],
    math="x + alpha w",
)


_plain_add, _plain_sub = functions["add"], functions["sub"]


def _scaled(op: Op, sign: int, input: Any, other: Any, alpha: float) -> tuple[Any, ...]:
    """Return the op and the operands of ``input +- alpha * other``."""
    if alpha == 1:
        return op, input, other
    if isinstance(alpha, float) and not _has_float(input, other):
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    return _add_scaled, input, other, sign * number(alpha)


def _has_float(*operands: Any) -> bool:
    return any(
        int(machine.dtype_of(value._handle)) >= FLOAT32 if isinstance(value, Tensor) else isinstance(value, float)
        for value in operands
    )


def _finish(result: Tensor, out: Tensor | None) -> Tensor:
    return result if out is None else functions["_write_out"](out, result)


def _expect_one(input: Any, other: Any, name: str) -> None:
    if not isinstance(other, Tensor):
        expect_tensor(input, name)


@function(extends=True)
def add(input: Tensor | float, other: Tensor | float, *, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """Return ``input + alpha * other``, broadcast and promoted."""
    if alpha == 1:
        return _plain_add(input, other, out=out)
    _expect_one(input, other, "add")
    return _finish(call(*_scaled(registry["add"], 1, input, other, alpha)), out)


@function(extends=True)
def add_(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """In-place form of ``add``."""
    op, *operands = _scaled(registry["add"], 1, input, other, alpha)
    return call_in_place(op, input, *operands)


@function(aliases=("subtract",), extends=True)
def sub(input: Tensor | float, other: Tensor | float, *, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """Return ``input - alpha * other``, broadcast and promoted."""
    if alpha == 1:
        return _plain_sub(input, other, out=out)
    _expect_one(input, other, "sub")
    return _finish(call(*_scaled(registry["sub"], -1, input, other, alpha)), out)


@function(aliases=("subtract_",), extends=True)
def sub_(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """In-place form of ``sub``."""
    op, *operands = _scaled(registry["sub"], -1, input, other, alpha)
    return call_in_place(op, input, *operands)


@function()
def rsub(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """Return ``other - alpha * input``, broadcast and promoted."""
    return sub(other, input, alpha=alpha)


_addcmul = elementwise(
    "addcmul",
    lambda x, a, b, value: x + value * a * b,
    inputs=("input", "tensor1", "tensor2"),
    scalars={"value": 1},
    dtypes=NUMBERS,
    vjp=lambda g, y, x, a, b, value: (g, g * (b * value), g * (a * value), None),
    public=False,
    reference=lambda x, a, b, *, value=1: x + value * a * b,
    samples=lambda make: (
        [((make(*s), make(*s), make(*s)), {"value": 2}) for s in ((), (0,), (37,), (2, 3))]
        + [((make(3, 1), make(4), make(2, 1, 1)), {})]
    ),
    math="x + value a b",
)
_addcdiv = elementwise(
    "addcdiv",
    lambda x, a, b, value: x + value * a / b,
    inputs=("input", "tensor1", "tensor2"),
    scalars={"value": 1},
    dtypes=FLOATS,
    vjp=lambda g, y, x, a, b, value: (g, g * (value / b), -(g * (value * a / (b * b))), None),
    public=False,
    reference=lambda x, a, b, *, value=1: x + value * a / b,
    samples=lambda make: (
        [((make(*s), make(*s), make(*s, low=0.5)), {"value": 2.5}) for s in ((), (0,), (37,), (2, 3))]
        + [((make(3, 1), make(4), make(2, 1, 1, low=0.5)), {})]
    ),
    math="x + value a / b",
)


def _check_addcdiv(*tensors: Tensor) -> None:
    if not _has_float(*tensors):
        raise RuntimeError(
            "Integer division with addcdiv is no longer supported: use (input + value * trunc(tensor1 / tensor2)), or "
            "bring the tensors to a float dtype first."
        )


@function()
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1, out: Tensor | None = None) -> Tensor:
    """Return ``input + value * tensor1 * tensor2``, broadcast and promoted."""
    return _finish(call(_addcmul, expect_tensor(input, "addcmul"), tensor1, tensor2, number(value)), out)


@function()
def addcmul_(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """In-place form of ``addcmul``."""
    return call_in_place(_addcmul, input, input, tensor1, tensor2, number(value))


@function()
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1, out: Tensor | None = None) -> Tensor:
    """Return ``input + value * tensor1 / tensor2``, broadcast and promoted; RuntimeError for integers."""
    _check_addcdiv(expect_tensor(input, "addcdiv"), tensor1, tensor2)
    return _finish(call(_addcdiv, input, tensor1, tensor2, number(value)), out)


@function()
def addcdiv_(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """In-place form of ``addcdiv``."""
    _check_addcdiv(input, tensor1, tensor2)
    return call_in_place(_addcdiv, input, input, tensor1, tensor2, number(value))


def _lerp(x, end, weight):
    """From the nearer end, so that both ends are met exactly."""
    difference = end - x
    return select(absolute(weight) < like(0.5, x), x + weight * difference, end - difference * (like(1, x) - weight))


elementwise(
    "lerp",
    _lerp,
    inputs=("input", "end", "weight"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, end, weight: (g * (1.0 - weight), g * weight, g * (end - x)),
    reference=lambda x, end, weight: x + weight * (end - x),
    samples=[(-2, 2), (-2, 2), (0, 1)],
    math="x + weight (end - x)",
    doc="Return ``input + weight * (end - input)``; the weight is a number or a tensor that broadcasts.",
)

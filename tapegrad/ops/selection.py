"""Choosing between values by a mask: where, masked_fill, nan_to_num."""

from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import select
from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, UINT8
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions, shape_of
from tapegrad.ops.elementwise import elementwise, number_for
from tapegrad.ops.registry import FLOATS, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_where = elementwise(
    "where",
    lambda c, x, w: x if c else w,
    inputs=("condition", "input", "other"),
    fixed={"condition": BOOL},
    vjp=lambda g, y, c, x, w: (None, c.where(g, 0.0), c.where(0.0, g)),
    public=False,
    reference=np.where,
    samples=["bool", (-2, 2), (-2, 2)],
    math="x where c, else w",
)
_fill = elementwise(
    "masked_fill",
    lambda x, c, v: v if c else x,
    inputs=("input", "mask", "value"),
    fixed={"mask": BOOL},
    vjp=lambda g, y, x, c, v: (g.masked_fill(c, 0.0), None, c.where(g, 0.0)),
    public=False,
    reference=lambda x, c, v: np.where(c, np.asarray(v).astype(x.dtype), x),
    samples=[(-2, 2), "bool", 1.5],
    math="v where the mask is set, else x",
)


def _mask(value: Any, name: str, argument: str) -> Tensor:
    """Return a mask; uint8 counts as one for ``where``, as it did before torch had bool."""
    expect_tensor(value, name, argument, 1 if name == "where" else 2)
    dtype = machine.dtype_of(value._handle)
    if dtype == BOOL:
        return value
    if name == "where" and dtype == UINT8:
        return call(registry["ne"], value, 0)
    raise RuntimeError(f"{name}: expected {argument} to be a boolean tensor, but got {value.dtype}")


@function(method=False)
def where(
    condition: Tensor,
    input: Tensor | float | None = None,
    other: Tensor | float | None = None,
    *,
    out: Tensor | None = None,
) -> Any:
    """Return ``input`` where ``condition`` holds, else ``other``, all broadcast; alone, the indices where it holds.

    Args:
        condition: a boolean tensor.
        input: a tensor or a number.
        other: a tensor or a number.
        out: a tensor that the result is written to.

    Raises:
        RuntimeError: the condition is not boolean.

    >>> import tapegrad as tg
    >>> x = tg.tensor([-1.0, 2.0])
    >>> tg.where(x > 0, x, 0.0).tolist()
    [0.0, 2.0]
    """
    if input is None and other is None:
        return functions["nonzero"](condition, as_tuple=True)
    result = call(_where, _mask(condition, "where", "condition"), input, other)
    return result if out is None else functions["_write_out"](out, result)


def _where_method(self: Tensor, condition: Tensor, other: Tensor | float) -> Tensor:
    """Return ``self`` where ``condition`` holds, else ``other``."""
    return where(condition, self, other)


Tensor.where = _where_method  # type: ignore[attr-defined]


def _fill_value(input: Tensor, value: Any) -> Any:
    """Return the value in the dtype of the tensor that it fills."""
    dtype = int(machine.dtype_of(input._handle))
    if isinstance(value, Tensor):
        if shape_of(value) != ():
            raise RuntimeError(
                "masked_fill only supports a 0-dimensional value tensor, but got tensor with "
                f"{len(shape_of(value))} dimension(s)."
            )
        return value if machine.dtype_of(value._handle) == dtype else call(registry["cast"], value, attributes=(dtype,))
    return number_for(input, value)


@function()
def masked_fill(input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """Return ``input`` with ``value`` where ``mask`` is set.

    Args:
        input: any shape and dtype.
        mask: a boolean tensor that broadcasts with ``input``.
        value: a number or a 0-d tensor, brought to ``input``'s dtype.

    Raises:
        RuntimeError: the mask is not boolean, or the value has dimensions.
    """
    return call(
        _fill, expect_tensor(input, "masked_fill"), _mask(mask, "masked_fill", "mask"), _fill_value(input, value)
    )


@function()
def masked_fill_(input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """In-place form of ``masked_fill``."""
    return call_in_place(_fill, input, input, _mask(mask, "masked_fill_", "mask"), _fill_value(input, value))


_to_num = elementwise(
    "nan_to_num",
    lambda x, nan, high, low: select(
        x != x, nan, select(x == like(np.inf, x), high, select(x == like(-np.inf, x), low, x))
    ),
    scalars={"nan": 0.0, "posinf": 0.0, "neginf": 0.0},
    dtypes=FLOATS,
    vjp=lambda g, y, x, nan, high, low: (x.isfinite().where(g, 0.0), None, None, None),
    public=False,
    reference=lambda x, nan, high, low: np.nan_to_num(x, nan=nan, posinf=high, neginf=low),
    samples=[(-2, 2), 0.5, 10.0, -10.0],
    math="x, with numbers in place of nan, inf and -inf",
)


def _replacements(input: Tensor, nan: float | None, posinf: float | None, neginf: float | None) -> tuple[float, ...]:
    largest = float(np.finfo(np.float64 if machine.dtype_of(input._handle) == FLOAT64 else np.float32).max)
    return (nan or 0.0, largest if posinf is None else float(posinf), -largest if neginf is None else float(neginf))


@function()
def nan_to_num(
    input: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``input`` with numbers in place of nan and infinities.

    Args:
        input: any shape.
        nan: what replaces nan; 0 by default.
        posinf: what replaces infinity; the dtype's largest number by default.
        neginf: what replaces minus infinity; the dtype's smallest number by default.
        out: a tensor that the result is written to.
    """
    if machine.dtype_of(expect_tensor(input, "nan_to_num")._handle) < FLOAT32:
        result = call(registry["clone"], input)
    else:
        result = call(_to_num, input, *_replacements(input, nan, posinf, neginf))
    return result if out is None else functions["_write_out"](out, result)


@function()
def nan_to_num_(
    input: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """In-place form of ``nan_to_num``."""
    if machine.dtype_of(input._handle) < FLOAT32:
        return input
    return call_in_place(_to_num, input, input, *_replacements(input, nan, posinf, neginf))

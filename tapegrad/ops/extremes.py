"""The larger and the smaller of two values, and values kept within bounds."""

from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import select
from tapegrad.native.cache import jit
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS, NUMBERS
from tapegrad.runtime.handle import Tensor

TWO = ("input", "other")


@jit
def _larger(x, w):
    return x if (x > w) | (x != x) else w


@jit
def _smaller(x, w):
    return x if (x < w) | (x != x) else w


elementwise(
    "maximum",
    {"integer": lambda x, w: _larger(x, w), "float": lambda x, w: select((x > w) | (x != x), x, w)},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g.where_larger(x, w), g.where_larger(w, x)),
    reference=np.maximum,
    math="max(x, w), nan if one is",
    doc="Return the larger of two elements, nan if one is; equal ones get half of the gradient each.",
)
elementwise(
    "minimum",
    {"integer": lambda x, w: _smaller(x, w), "float": lambda x, w: select((x < w) | (x != x), x, w)},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g.where_larger(w, x), g.where_larger(x, w)),
    reference=np.minimum,
    math="min(x, w), nan if one is",
    doc="Return the smaller of two elements, nan if one is; equal ones get half of the gradient each.",
)
elementwise(
    "where_larger",
    lambda g, x, w: select(x == w, g * like(0.5, g), select(x < w, like(0, g), g)),
    inputs=("gradient", *TWO),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (h.where_larger(x, w), None, None),
    public=False,
    reference=lambda g, x, w: np.where(x == w, g / 2, np.where(x < w, 0, g)),
    math="g where x > w, g / 2 where x = w, 0 where x < w",
)
elementwise(
    "fmax",
    {"integer": lambda x, w: _larger(x, w), "float": lambda x, w: select((x >= w) | (w != w), x, w)},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g.where_first(x, w), g - g.where_first(x, w)),
    reference=np.fmax,
    math="max(x, w), the other if one is nan",
    doc="Return the larger of two elements, the other one if one is nan.",
)
elementwise(
    "fmin",
    {"integer": lambda x, w: _smaller(x, w), "float": lambda x, w: select((x <= w) | (w != w), x, w)},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g.where_first(-x, -w), g - g.where_first(-x, -w)),
    reference=np.fmin,
    math="min(x, w), the other if one is nan",
    doc="Return the smaller of two elements, the other one if one is nan.",
)
elementwise(
    "where_first",
    lambda g, x, w: select((x >= w) | (w != w), g, like(0, g)),
    inputs=("gradient", *TWO),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (h.where_first(x, w), None, None),
    public=False,
    reference=lambda g, x, w: np.where((x >= w) | np.isnan(w), g, 0),
    math="g where fmax takes x, else 0",
)

# Bounds: the gradient goes to x where it is within them, the bounds included, else to the bound that was taken.
elementwise(
    "where_ge",
    lambda g, x, w: select(x >= w, g, like(0, g)),
    inputs=("gradient", *TWO),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (h.where_ge(x, w), None, None),
    public=False,
    reference=lambda g, x, w: np.where(x >= w, g, 0),
    math="g where x >= w, else 0",
)
elementwise(
    "where_lt",
    lambda g, x, w: select(x < w, g, like(0, g)),
    inputs=("gradient", *TWO),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (h.where_lt(x, w), None, None),
    public=False,
    reference=lambda g, x, w: np.where(x < w, g, 0),
    math="g where x < w, else 0",
)
_clamp_min = elementwise(
    "clamp_min",
    {"integer": lambda x, low: low if x < low else x, "float": lambda x, low: select((x < low) | (low != low), low, x)},
    inputs=("input", "min"),
    dtypes=NUMBERS,
    vjp=lambda g, y, x, low: (g.where_ge(x, low), g.where_lt(x, low)),
    reference=np.maximum,
    math="max(x, min)",
    doc="Return ``input``, not below ``min``.",
)
_clamp_max = elementwise(
    "clamp_max",
    {
        "integer": lambda x, high: high if x > high else x,
        "float": lambda x, high: select((x > high) | (high != high), high, x),
    },
    inputs=("input", "max"),
    dtypes=NUMBERS,
    vjp=lambda g, y, x, high: (g.where_ge(high, x), g.where_lt(high, x)),
    reference=np.minimum,
    math="min(x, max)",
    doc="Return ``input``, not above ``max``.",
)


@jit
def _clamp_integer(x, low, high):
    y = low if x < low else x
    return high if y > high else y


def _clamp_float(x, low, high):
    y = select((x < low) | (low != low), low, x)
    return select(x != x, x, select((y > high) | (high != high), high, y))


def _clip(x, low, high):
    return np.minimum(np.maximum(x, low), high)


_clamp = elementwise(
    "clamp_both",
    {"integer": lambda x, low, high: _clamp_integer(x, low, high), "float": _clamp_float},
    inputs=("input", "min", "max"),
    dtypes=NUMBERS,
    vjp=lambda g, y, x, low, high: (
        g.clamp_backward(x, low, high),
        g.where_lt(x, low).where_lt(low, high),
        low.le(high).where(g.where_lt(high, x), g),
    ),
    public=False,
    reference=_clip,
    samples=[(-2, 2), (-1, 0), (0.5, 1)],
    math="min(max(x, min), max)",
)
elementwise(
    "clamp_backward",
    lambda g, x, low, high: select((x >= low) & (x <= high), g, like(0, g)),
    inputs=("gradient", "input", "min", "max"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, low, high: (h.clamp_backward(x, low, high), None, None, None),
    public=False,
    reference=lambda g, x, low, high: np.where((x >= low) & (x <= high), g, 0),
    samples=["gradient", (-2, 2), (-1, 0), (0.5, 1)],
    math="g where min <= x <= max, else 0",
)


def _clamping(min: Any, max: Any) -> tuple[Any, list[Any]]:
    """Return the op that applies the bounds that are given, and the bounds."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None".replace("torch.", ""))
    op = _clamp_max if min is None else _clamp_min if max is None else _clamp
    return op, [bound for bound in (min, max) if bound is not None]


@function(aliases=("clip",))
def clamp(
    input: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Return ``input`` kept within ``min`` and ``max``; where ``min`` is above ``max``, that is ``max``.

    Args:
        input: any shape.
        min: the lower bound, a number or a tensor that broadcasts with ``input``; None for no bound.
        max: the upper bound, likewise.
        out: a tensor that the result is written to.

    Raises:
        RuntimeError: both bounds are None.

    >>> import tapegrad as tg
    >>> tg.tensor([-2.0, 0.5, 3.0]).clamp(-1, 1).tolist()
    [-1.0, 0.5, 1.0]
    """
    op, bounds = _clamping(min, max)
    result = call(op, expect_tensor(input, "clamp"), *bounds)
    return result if out is None else functions["_write_out"](out, result)


@function(aliases=("clip_",))
def clamp_(input: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    """In-place form of ``clamp``."""
    op, bounds = _clamping(min, max)
    return call_in_place(op, input, input, *bounds)

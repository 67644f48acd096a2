"""Absolute value, sign and rounding; their gradients are zero but at the jumps, where torch says zero too."""

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import absolute, floor, nearest, select, truncate
from tapegrad.kernels.vector_primitives import copysign as copysign_of
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions, tensor_method
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS, NUMBERS, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import FLOATING, TO_BOOL

AWAY_FROM_0 = [(-2, 2, 0)]
AWAY_FROM_WHOLE = [(-2, 2, -2, -1, 0, 1, 2)]
AWAY_FROM_HALF = [(-2, 2, -1.5, -0.5, 0.5, 1.5)]


def _no_gradient(g, y, x):
    return g.zeros_like()


elementwise(
    "abs",
    {"integer": lambda x: x if x >= 0 else -x, "float": lambda x: absolute(x)},
    dtypes=NUMBERS,
    vjp=lambda g, y, x: g * x.sgn(),
    operators=("__abs__",),
    aliases=("absolute",),
    reference=np.abs,
    samples=AWAY_FROM_0,
    math="|x|",
    doc="Return the absolute value of each element; its gradient at 0 is 0.",
)


def _sign(x):
    return select(x > 0, like(1, x), select(x < 0, like(-1, x), like(0, x)))


SIGN = {
    "bool": lambda x: x,
    "integer": lambda x: (x > 0) * 1 - (x < 0) * 1,
    "float": _sign,
}


def _sign_reference(x):
    return x if x.dtype == bool else np.nan_to_num(np.sign(x), nan=0)


for _name in ("sign", "sgn"):
    elementwise(
        _name,
        SIGN,
        vjp=_no_gradient,
        reference=_sign_reference,
        samples=AWAY_FROM_0,
        math="-1, 0 or 1",
        doc="Return the sign of each element: -1, 0 or 1.",
    )
elementwise(
    "signbit",
    {
        "bool": lambda x: False,
        "integer": lambda x: x < 0,
        "float": lambda x: copysign_of(like(1, x), x) < 0,
    },
    result=TO_BOOL,
    reference=lambda x: np.signbit(x) if x.dtype.kind == "f" else x < 0,
    math="whether the sign bit is set",
    doc="Return whether the sign bit of each element is set (-0.0 has it).",
)
for _name, _formula, _aliases in (
    ("floor", lambda x: floor(x), ()),
    ("ceil", lambda x: -floor(-x), ()),
    ("trunc", lambda x: truncate(x), ("fix",)),
):
    elementwise(
        _name,
        {"integer": lambda x: x, "float": _formula},
        dtypes=NUMBERS,
        vjp=_no_gradient,
        aliases=_aliases,
        reference=getattr(np, _name),
        samples=AWAY_FROM_WHOLE,
        math={"floor": "x rounded down", "ceil": "x rounded up", "trunc": "x rounded towards 0"}[_name],
        doc={
            "floor": "Return each element rounded down.",
            "ceil": "Return each element rounded up.",
            "trunc": "Return each element rounded towards 0.",
        }[_name],
    )
elementwise(
    "frac",
    lambda x: x - truncate(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g,
    reference=lambda x: x - np.trunc(x),
    samples=AWAY_FROM_WHOLE,
    math="x - trunc(x)",
    doc="Return the fractional part of each element, with its sign.",
)
_round = elementwise(
    "round",
    {"integer": lambda x: x, "float": lambda x: nearest(x)},
    dtypes=NUMBERS,
    vjp=_no_gradient,
    public=False,
    reference=np.rint,
    samples=AWAY_FROM_HALF,
    math="x rounded to the nearest integer, halves to even",
)
_round_decimals = elementwise(
    "round_decimals",
    lambda x, up, down: nearest(x * up / down) * down / up,
    scalars={"up": 1.0, "down": 1.0},
    dtypes=FLOATS,
    vjp=lambda g, y, x, up, down: (g.zeros_like(), None, None),
    public=False,
    reference=lambda x, up, down: np.rint(x * up / down) * down / up,
    samples=[(-2, 2, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25), 2.0, 1.0],
    math="nearest(x up / down) down / up",
)


@function()
def round(input: Tensor, *, decimals: int = 0, out: Tensor | None = None) -> Tensor:
    """Return each element rounded to ``decimals`` places after the point, halves to even.

    Args:
        input: any shape.
        decimals: the places to keep; negative ones count before the point. Floats only, but for 0.
        out: a tensor that the result is written to.
    """
    expect_tensor(input, "round")
    result = call(_round, input) if decimals == 0 else call(_round_decimals, input, *_scales(decimals))
    return result if out is None else functions["_write_out"](out, result)


@function()
def round_(input: Tensor, *, decimals: int = 0) -> Tensor:
    """In-place form of ``round``."""
    if decimals == 0:
        return call_in_place(_round, input, input)
    return call_in_place(_round_decimals, input, input, *_scales(decimals))


def _scales(decimals: int) -> tuple[float, float]:
    return (10.0**decimals, 1.0) if decimals > 0 else (1.0, 10.0**-decimals)


elementwise(
    "copysign",
    lambda x, w: copysign_of(x, w),
    inputs=("input", "other"),
    result=FLOATING,
    vjp=lambda g, y, x, w: (g * (x.sgn() * y.sgn()), g.zeros_like()),
    reference=np.copysign,
    samples=AWAY_FROM_0,
    math="|x| with the sign of w",
    doc="Return the magnitude of ``input`` with the sign of ``other``.",
)
elementwise(
    "heaviside",
    {"integer": lambda x, w: w if x == 0 else x > 0, "float": lambda x, w: select(x == 0, w, like(x > 0, x))},
    inputs=("input", "values"),
    reference=lambda x, w: np.where(x == 0, w, x > 0),
    math="0, w or 1 where x is negative, zero or positive",
    doc="Return 0, ``values`` or 1 where ``input`` is negative, zero or positive.",
)


@function()
def positive(input: Tensor) -> Tensor:
    """Return ``input``; RuntimeError for booleans."""
    if not registry["neg"].dtypes >> input.dtype.code & 1:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


tensor_method("__pos__")(positive)

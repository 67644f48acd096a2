"""Exponentials and logarithms."""

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import exp, exp2, expm1, log, log1p, log2, log10
from tapegrad.kernels.vector_primitives import select
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.layout import FLOATING

LN2, LN10 = float(np.log(2)), float(np.log(10))
POSITIVE = [(0.1, 3)]

elementwise(
    "exp",
    lambda x: exp(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * y,
    reference=np.exp,
    math="e^x",
    doc="Return e to the power of each element.",
)
elementwise(
    "exp2",
    lambda x: exp2(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * y * LN2,
    reference=np.exp2,
    math="2^x",
    doc="Return 2 to the power of each element.",
)
elementwise(
    "expm1",
    lambda x: expm1(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (y + 1.0),
    reference=np.expm1,
    math="e^x - 1",
    doc="Return ``exp(input) - 1``, accurate near 0.",
)
elementwise(
    "log",
    lambda x: log(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / x,
    reference=np.log,
    samples=POSITIVE,
    math="ln x",
    doc="Return the natural logarithm of each element.",
)
elementwise(
    "log2",
    lambda x: log2(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (x * LN2),
    reference=np.log2,
    samples=POSITIVE,
    math="log x to base 2",
    doc="Return the logarithm of each element to base 2.",
)
elementwise(
    "log10",
    lambda x: log10(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (x * LN10),
    reference=np.log10,
    samples=POSITIVE,
    math="log x to base 10",
    doc="Return the logarithm of each element to base 10.",
)
elementwise(
    "log1p",
    lambda x: log1p(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (x + 1.0),
    reference=np.log1p,
    samples=[(-0.8, 3)],
    math="ln(1 + x)",
    doc="Return ``log(1 + input)``, accurate near 0.",
)


def _logaddexp(x, w):
    high = select((x > w) | (x != x), x, w)
    low = select((x > w) | (x != x), w, x)
    return select(x == w, x + like(LN2, x), high + log1p(exp(low - high)))


def _logaddexp2(x, w):
    high = select((x > w) | (x != x), x, w)
    low = select((x > w) | (x != x), w, x)
    return select(x == w, x + like(1, x), high + log1p(exp2(low - high)) / like(LN2, x))


elementwise(
    "logaddexp",
    _logaddexp,
    inputs=("input", "other"),
    result=FLOATING,
    # dy/dx = e^x / (e^x + e^w)
    vjp=lambda g, y, x, w: (g * (x - w).sigmoid(), g * (w - x).sigmoid()),
    reference=np.logaddexp,
    math="ln(e^x + e^w)",
    doc="Return ``log(exp(input) + exp(other))`` without overflow.",
)
elementwise(
    "logaddexp2",
    _logaddexp2,
    inputs=("input", "other"),
    result=FLOATING,
    vjp=lambda g, y, x, w: (g * ((x - w) * LN2).sigmoid(), g * ((w - x) * LN2).sigmoid()),
    reference=np.logaddexp2,
    math="log2(2^x + 2^w)",
    doc="Return ``log2(2**input + 2**other)`` without overflow.",
)


def _xlogy(x, w):
    return select((x == 0) & (w == w), like(0, x), x * log(w))


def _xlogy_weight(g, x, w):
    return select((x == 0) & (w <= 0), like(0, x), g * log(w))


elementwise(
    "xlogy",
    _xlogy,
    inputs=("input", "other"),
    result=FLOATING,
    vjp=lambda g, y, x, w: (g.xlogy_backward(x, w), g * x / w),
    reference=lambda x, w: np.where((x == 0) & ~np.isnan(w), 0, x * np.log(w)),
    samples=[(0.2, 2), (0.4, 3)],
    math="x ln w, 0 where x = 0",
    doc="Return ``input * log(other)``, and 0 where ``input`` is 0.",
)
elementwise(
    "xlogy_backward",
    _xlogy_weight,
    inputs=("gradient", "input", "other"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, w: (h.xlogy_backward(x, w), None, h * g / w),
    public=False,
    reference=lambda g, x, w: g * np.log(w) + 0 * x,
    samples=["gradient", (0.2, 2), (0.1, 3)],
    math="g ln w, 0 where x = 0 and w <= 0",
)

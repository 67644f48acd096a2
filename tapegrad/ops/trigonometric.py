"""Trigonometric and hyperbolic functions and their inverses."""

import numpy as np

from tapegrad.kernels.loops import Repair, like
from tapegrad.kernels.vector_math import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cosh,
    sinh,
    tanh,
)
from tapegrad.kernels.vector_primitives import select
from tapegrad.kernels.vector_trig import cos_near, is_far, sin_near, tan_near
from tapegrad.kernels.vector_trig_far import cos_far, sin_far, tan_far
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.layout import FLOATING

PI = float(np.pi)

elementwise(
    "sin",
    lambda x: sin_near(x),
    result=FLOATING,
    repair=Repair(lambda x: is_far(x), lambda x: sin_far(x)),
    vjp=lambda g, y, x: g * x.cos(),
    reference=np.sin,
    math="sin x",
    doc="Return the sine of each element, in radians.",
)
elementwise(
    "cos",
    lambda x: cos_near(x),
    result=FLOATING,
    repair=Repair(lambda x: is_far(x), lambda x: cos_far(x)),
    vjp=lambda g, y, x: -(g * x.sin()),
    reference=np.cos,
    math="cos x",
    doc="Return the cosine of each element, in radians.",
)
elementwise(
    "tan",
    lambda x: tan_near(x),
    result=FLOATING,
    repair=Repair(lambda x: is_far(x), lambda x: tan_far(x)),
    vjp=lambda g, y, x: g * (1.0 + y * y),
    reference=np.tan,
    samples=[(-1.2, 1.2)],
    math="tan x",
    doc="Return the tangent of each element, in radians.",
)
elementwise(
    "asin",
    lambda x: asin(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (1.0 - x * x).rsqrt(),
    aliases=("arcsin",),
    reference=np.arcsin,
    samples=[(-0.9, 0.9)],
    math="arcsin x",
    doc="Return the inverse sine of each element, in radians.",
)
elementwise(
    "acos",
    lambda x: acos(x),
    result=FLOATING,
    vjp=lambda g, y, x: -(g * (1.0 - x * x).rsqrt()),
    aliases=("arccos",),
    reference=np.arccos,
    samples=[(-0.9, 0.9)],
    math="arccos x",
    doc="Return the inverse cosine of each element, in radians.",
)
elementwise(
    "atan",
    lambda x: atan(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (1.0 + x * x),
    aliases=("arctan",),
    reference=np.arctan,
    math="arctan x",
    doc="Return the inverse tangent of each element, in radians.",
)
elementwise(
    "atan2",
    lambda x, w: atan2(x, w),
    inputs=("input", "other"),
    result=FLOATING,
    vjp=lambda g, y, x, w: (g.atan2_backward(w, x), -g.atan2_backward(x, w)),
    aliases=("arctan2",),
    reference=np.arctan2,
    samples=[(0.4, 2), (-2, 2)],
    math="angle of the point (w, x)",
    doc="Return the angle of the points ``(other, input)``, in radians, in the right quadrant.",
)
elementwise(
    "atan2_backward",
    lambda g, a, b: select((a == 0) & (b == 0), like(0, a), g * (a / (a * a + b * b))),
    inputs=("gradient", "a", "b"),
    dtypes=FLOATS,
    # the derivatives of a / (a^2 + b^2) are (b^2 - a^2) / (a^2 + b^2)^2 and -2 a b / (a^2 + b^2)^2
    vjp=lambda h, gx, g, a, b: (
        h.atan2_backward(a, b),
        h * g * ((b - a) * (b + a) / (a * a + b * b).square()),
        -2.0 * (h * g * (a * b / (a * a + b * b).square())),
    ),
    public=False,
    reference=lambda g, a, b: g * a / (a * a + b * b),
    samples=["gradient", (-2, 2), (0.4, 2)],
    math="g a / (a^2 + b^2), 0 at the origin",
)
elementwise(
    "sinh",
    lambda x: sinh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * x.cosh(),
    reference=np.sinh,
    math="sinh x",
    doc="Return the hyperbolic sine of each element.",
)
elementwise(
    "cosh",
    lambda x: cosh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * x.sinh(),
    reference=np.cosh,
    math="cosh x",
    doc="Return the hyperbolic cosine of each element.",
)
elementwise(
    "tanh",
    lambda x: tanh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g.tanh_backward(y),
    reference=np.tanh,
    math="tanh x",
    doc="Return the hyperbolic tangent of each element.",
)
elementwise(
    "tanh_backward",
    lambda g, y: g * (like(1, y) - y * y),
    inputs=("gradient", "output"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, y: (h.tanh_backward(y), -2.0 * (h * g * y)),
    public=False,
    reference=lambda g, y: g * (1 - y * y),
    math="g (1 - y^2)",
)
elementwise(
    "asinh",
    lambda x: asinh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (x * x + 1.0).rsqrt(),
    aliases=("arcsinh",),
    reference=np.arcsinh,
    math="arsinh x",
    doc="Return the inverse hyperbolic sine of each element.",
)
elementwise(
    "acosh",
    lambda x: acosh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (x * x - 1.0).rsqrt(),
    aliases=("arccosh",),
    reference=np.arccosh,
    samples=[(1.1, 3)],
    math="arcosh x",
    doc="Return the inverse hyperbolic cosine of each element.",
)
elementwise(
    "atanh",
    lambda x: atanh(x),
    result=FLOATING,
    vjp=lambda g, y, x: g / (1.0 - x * x),
    aliases=("arctanh",),
    reference=np.arctanh,
    samples=[(-0.9, 0.9)],
    math="artanh x",
    doc="Return the inverse hyperbolic tangent of each element.",
)


def _sinc_by(sine):
    def sinc(x):
        z = x * like(PI, x)
        return select(z == 0, like(1, x), sine(z) / z)

    return sinc


def _sinc_slope_by(sine, cosine):
    """(z cos z - sin z) / (x z), z = pi x; 0 at 0, as in torch."""

    def sinc_slope(g, x):
        z = x * like(PI, x)
        return select(z == 0, like(0, x), g * ((z * cosine(z) - sine(z)) / (z * x)))

    return sinc_slope


elementwise(
    "sinc",
    _sinc_by(sin_near),
    result=FLOATING,
    repair=Repair(lambda x: is_far(x * like(PI, x)), _sinc_by(sin_far)),
    vjp=lambda g, y, x: g.sinc_backward(x),
    reference=np.sinc,
    samples=[(-2, 2, 0)],
    math="sin(pi x) / (pi x)",
    doc="Return ``sin(pi x) / (pi x)``, and 1 at 0.",
)
elementwise(
    "sinc_backward",
    _sinc_slope_by(sin_near, cos_near),
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    repair=Repair(lambda g, x: is_far(x * like(PI, x)), _sinc_slope_by(sin_far, cos_far)),
    # sinc'' = -(pi^2 sinc + 2 sinc' / x)
    vjp=lambda h, gx, g, x: (
        h.sinc_backward(x),
        x.eq(0.0).where(
            -(PI * PI / 3) * (h * g), -(h * g) * (PI * PI * x.sinc()) - (2.0 * (h * g)).sinc_backward(x) / x
        ),
    ),
    public=False,
    reference=lambda g, x: g * (np.pi * x * np.cos(np.pi * x) - np.sin(np.pi * x)) / (np.pi * x * x),
    samples=["gradient", (-2, 2, 0)],
    math="g sinc'(x)",
)
elementwise(
    "rad2deg",
    lambda x: x * like(180 / PI, x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (180 / PI),
    reference=np.rad2deg,
    math="x 180 / pi",
    doc="Return the angles, given in radians, in degrees.",
)
elementwise(
    "deg2rad",
    lambda x: x * like(PI / 180, x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (PI / 180),
    reference=np.deg2rad,
    math="x pi / 180",
    doc="Return the angles, given in degrees, in radians.",
)

"""Arithmetic with broadcasting and promotion: the sum, difference, product, quotient of tensors and numbers."""

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import NUMBERS
from tapegrad.runtime.layout import FLOATING

TWO = ("input", "other")

elementwise(
    "add",
    {"integer": lambda x, w: x + w, "float": lambda x, w: x + w, "bool": lambda x, w: x | w},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g, g),
    operators=("__add__", "__radd__", "__iadd__"),
    reference=np.add,
    math="x + w",
    doc="Return ``input + other``, broadcast and promoted.",
)
elementwise(
    "sub",
    lambda x, w: x - w,
    inputs=TWO,
    dtypes=NUMBERS,
    vjp=lambda g, y, x, w: (g, -g),
    operators=("__sub__", "__rsub__", "__isub__"),
    aliases=("subtract",),
    reference=np.subtract,
    math="x - w",
    doc="Return ``input - other``, broadcast and promoted.",
)
elementwise(
    "mul",
    {"integer": lambda x, w: x * w, "float": lambda x, w: x * w, "bool": lambda x, w: x & w},
    inputs=TWO,
    vjp=lambda g, y, x, w: (g * w, g * x),
    operators=("__mul__", "__rmul__", "__imul__"),
    aliases=("multiply",),
    reference=np.multiply,
    math="x w",
    doc="Return ``input * other``, broadcast and promoted.",
)
elementwise(
    "div",
    lambda x, w: x / w,
    inputs=TWO,
    result=FLOATING,
    vjp=lambda g, y, x, w: (g / w, -(g * y) / w),
    operators=("__truediv__", "__rtruediv__", "__itruediv__"),
    aliases=("divide", "true_divide"),
    reference=np.true_divide,
    math="x / w",
    doc="Return ``input / other``, broadcast; integers are divided as the default float dtype.",
)
elementwise(
    "neg",
    lambda x: -x,
    dtypes=NUMBERS,
    vjp=lambda g, y, x: -g,
    operators=("__neg__",),
    aliases=("negative",),
    reference=np.negative,
    math="-x",
    doc="Return ``-input``.",
)
elementwise(
    "reciprocal",
    lambda x: like(1, x) / x,
    result=FLOATING,
    vjp=lambda g, y, x: -(g * (y * y)),
    reference=np.reciprocal,
    math="1 / x",
    doc="Return ``1 / input``.",
)

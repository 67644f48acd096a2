"""Comparisons and tests of each element; tests of whole tensors made of them."""

import math

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import absolute
from tapegrad.native.dtypes import BOOL, FLOAT64
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import TO_BOOL
from tapegrad.runtime.machine import machine

TWO = ("input", "other")

for _name, _formula, _reference, _aliases, _sign in (
    ("eq", lambda x, w: x == w, np.equal, (), "="),
    ("ne", lambda x, w: x != w, np.not_equal, ("not_equal",), "!="),
    ("lt", lambda x, w: x < w, np.less, ("less",), "<"),
    ("le", lambda x, w: x <= w, np.less_equal, ("less_equal",), "<="),
    ("gt", lambda x, w: x > w, np.greater, ("greater",), ">"),
    ("ge", lambda x, w: x >= w, np.greater_equal, ("greater_equal",), ">="),
):
    elementwise(
        _name,
        _formula,
        inputs=TWO,
        result=TO_BOOL,
        operators=(f"__{_name}__",),
        aliases=_aliases,
        reference=_reference,
        math=f"x {_sign} w",
        doc=f"Return whether ``input {'==' if _sign == '=' else _sign} other``, element by element, broadcast.",
    )


def _never(x):
    return False


elementwise(
    "isnan",
    {"integer": _never, "float": lambda x: x != x},
    result=TO_BOOL,
    reference=np.isnan,
    math="whether x is nan",
    doc="Return whether each element is nan.",
)
elementwise(
    "isinf",
    {"integer": _never, "float": lambda x: absolute(x) == like(math.inf, x)},
    result=TO_BOOL,
    reference=np.isinf,
    math="whether |x| is infinite",
    doc="Return whether each element is infinite.",
)
elementwise(
    "isfinite",
    {"integer": lambda x: True, "float": lambda x: absolute(x) < like(math.inf, x)},
    result=TO_BOOL,
    reference=np.isfinite,
    math="whether x is neither nan nor infinite",
    doc="Return whether each element is neither nan nor infinite.",
)
elementwise(
    "isposinf",
    {"integer": _never, "float": lambda x: x == like(math.inf, x)},
    result=TO_BOOL,
    reference=lambda x: x == np.inf,
    math="whether x = inf",
    doc="Return whether each element is positive infinity.",
)
elementwise(
    "isneginf",
    {"integer": _never, "float": lambda x: x == like(-math.inf, x)},
    result=TO_BOOL,
    reference=lambda x: x == -np.inf,
    math="whether x = -inf",
    doc="Return whether each element is negative infinity.",
)


def _is_close(x, w, rtol, atol, equal_nan):
    x, w = np.float64(x), np.float64(w)
    distance = absolute(x - w)
    near = (distance <= atol + absolute(rtol * w)) & (distance < math.inf)
    return (x == w) | near | ((x != x) & (w != w) & (equal_nan != 0))


_close = elementwise(
    "isclose",
    _is_close,
    inputs=TWO,
    scalars={"rtol": 1e-5, "atol": 1e-8, "equal_nan": False},
    fixed={"rtol": FLOAT64, "atol": FLOAT64, "equal_nan": FLOAT64},
    result=TO_BOOL,
    public=False,
    reference=lambda x, w, rtol, atol, equal_nan: np.isclose(x, w, rtol, atol, bool(equal_nan)),
    samples=[(-2, 2), (-2, 2), 0.1, 0.5, 0.0],
    math="|x - w| <= atol + rtol |w|",
)


def _same_dtype(input: Tensor, other: Tensor, name: str) -> None:
    expect_tensor(input, name)
    expect_tensor(other, name, "other", 2)
    if machine.dtype_of(input._handle) != machine.dtype_of(other._handle):
        raise RuntimeError(f"{input.dtype} did not match {other.dtype}")


@function()
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Return whether ``|input - other| <= atol + rtol * |other|``, element by element.

    Args:
        input: a tensor.
        other: a tensor of the same dtype.
        rtol: relative tolerance.
        atol: absolute tolerance.
        equal_nan: whether nan is close to nan.

    Raises:
        RuntimeError: the dtypes differ.
    """
    _same_dtype(input, other, "isclose")
    return call(_close, input, other, float(rtol), float(atol), float(equal_nan))


@function()
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Return whether all elements of two tensors are close; see ``isclose``."""
    return bool(functions["all"](isclose(input, other, rtol, atol, equal_nan)).item())


@function()
def equal(input: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape and the same elements."""
    expect_tensor(input, "equal")
    shape = shape_of(input)
    if shape != shape_of(expect_tensor(other, "equal", "other", 2)):
        return False
    same = call(registry["eq"], input, other)
    return bool(call(registry["all"], same, attributes=(BOOL, (1 << len(shape)) - 1, 0, 0)).item())

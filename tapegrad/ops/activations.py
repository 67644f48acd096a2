"""Activation functions made of straight pieces and exponentials: relu and its kin, elu, softplus, hard*, threshold."""

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import exp, expm1, log1p, sigmoid
from tapegrad.kernels.vector_primitives import absolute, select
from tapegrad.native.cache import jit
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions, shape_of, tensor_method
from tapegrad.ops.elementwise import elementwise, number, number_for
from tapegrad.ops.registry import FLOATS, NUMBERS, registry
from tapegrad.runtime.handle import Tensor

KINKED = [(-2, 2, 0)]

elementwise(
    "relu",
    lambda x: select(x < like(0, x), like(0, x), x),
    dtypes=NUMBERS,
    vjp=lambda g, y, x: g.threshold_backward(y, 0.0),
    reference=lambda x: np.maximum(x, 0),
    samples=KINKED,
    math="max(x, 0)",
    doc="Return ``max(input, 0)``.",
)
_threshold = elementwise(
    "threshold",
    lambda x, t, v: v if x <= t else x,
    scalars={"threshold": None, "value": None},
    dtypes=NUMBERS,
    vjp=lambda g, y, x, t, v: (g.threshold_backward(x, t), None, None),
    public=False,
    reference=lambda x, t, v: np.where(x <= t, np.asarray(v if x.dtype.kind == "f" else int(v)).astype(x.dtype), x),
    samples=[(-2, 2, 0.5), 0.5, -3.0],
    math="x where x > threshold, else value",
)


@function()
def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """Return ``input`` where it is above ``threshold``, else ``value``."""
    expect_tensor(input, "threshold")
    return call(_threshold, input, number_for(input, threshold), number_for(input, value))


@function()
def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place form of ``threshold``."""
    return call_in_place(_threshold, input, input, number_for(input, threshold), number_for(input, value))


elementwise(
    "threshold_backward",
    lambda g, x, t: select(x <= t, like(0, g), g),
    inputs=("gradient", "input"),
    scalars={"threshold": 0.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, t: (h.threshold_backward(x, t), None, None),
    public=False,
    reference=lambda g, x, t: np.where(x <= t, 0, g),
    samples=["gradient", (-2, 2, 0.5), 0.5],
    math="g where x > threshold, else 0",
)
elementwise(
    "leaky_relu",
    lambda x, slope: select(x > like(0, x), x, x * slope),
    scalars={"negative_slope": 0.01},
    dtypes=FLOATS,
    vjp=lambda g, y, x, slope: (g.leaky_relu_backward(x, slope), None),
    reference=lambda x, slope: np.where(x > 0, x, x * slope),
    samples=[*KINKED, 0.1],
    math="x where x > 0, else slope x",
    doc="Return ``input`` where it is positive, else ``negative_slope * input``.",
)
elementwise(
    "leaky_relu_backward",
    lambda g, x, slope: select(x > like(0, x), g, g * slope),
    inputs=("gradient", "input"),
    scalars={"negative_slope": 0.01},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, slope: (h.leaky_relu_backward(x, slope), None, None),
    public=False,
    reference=lambda g, x, slope: np.where(x > 0, g, g * slope),
    samples=["gradient", *KINKED, 0.1],
    math="g where x > 0, else slope g",
)
_leaky_relu_by_result = elementwise(
    "leaky_relu_by_result",
    lambda x, slope: select(x > like(0, x), x, x * slope),
    scalars={"negative_slope": 0.01},
    dtypes=FLOATS,
    vjp=lambda g, y, x, slope: (g.leaky_relu_backward(y, slope), None),
    public=False,
    reference=lambda x, slope: np.where(x > 0, x, x * slope),
    samples=[*KINKED, 0.1],
    math="leaky_relu for slopes that are not negative, whose gradient reads the result",
)


def leaky_relu_by_result(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place form of ``leaky_relu``; its gradient needs no copy of what was there unless the slope is negative."""
    op = _leaky_relu_by_result if negative_slope >= 0 else registry["leaky_relu"]
    return call_in_place(op, input, input, number(negative_slope))


functions["leaky_relu_"] = leaky_relu_by_result
tensor_method("leaky_relu_")(leaky_relu_by_result)
prelu_each = elementwise(
    "prelu_kernel",
    lambda x, w: select(x > like(0, x), x, w * x),
    inputs=("input", "weight"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, w: (x.gt(0.0).where(g, g * w), x.gt(0.0).where(0.0, g * x)),
    public=False,
    reference=lambda x, w: np.where(x > 0, x, w * x),
    samples=[*KINKED, (-1, 1)],
    math="x where x > 0, else w x",
)


@function()
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Return ``input`` where it is positive, else ``weight * input``.

    Args:
        input: shape (N, C, ...) where the weight has C elements, else any.
        weight: shape (C,) or (1,).

    Raises:
        RuntimeError: the weight has not as many elements as the input has channels.
    """
    shape, (count,) = shape_of(expect_tensor(input, "prelu")), shape_of(weight) or (1,)
    if count == 1:
        return call(prelu_each, input, weight)
    if len(shape) < 2 or shape[1] != count:
        channels = shape[1] if len(shape) > 1 else 1
        raise RuntimeError(
            f"prelu: Mismatch of parameter numbers and input channel size. Found parameter numbers = {count} and "
            f"channel size = {channels}."
        )
    return call(prelu_each, input, functions["reshape"](weight, (count, *[1] * (len(shape) - 2))))


_elu = elementwise(
    "elu_scaled",
    lambda x, alpha, scale, rate: select(x <= like(0, x), expm1(x * rate) * (alpha * scale), x * scale),
    scalars={"alpha": 1.0, "scale": 1.0, "input_scale": 1.0},
    dtypes=FLOATS,
    vjp=lambda g, y, x, a, s, r: (g.elu_backward(x, a, s, r), None, None, None),
    public=False,
    reference=lambda x, a, s, r: np.where(x <= 0, a * s * np.expm1(x * r), s * x),
    samples=[*KINKED, 1.5, 1.25, 0.5],
    math="scale (x where x > 0, else alpha (e^(rate x) - 1))",
)
elementwise(
    "elu_backward",
    lambda g, x, alpha, scale, rate: select(x <= like(0, x), g * (exp(x * rate) * (rate * alpha * scale)), g * scale),
    inputs=("gradient", "input"),
    scalars={"alpha": 1.0, "scale": 1.0, "input_scale": 1.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, a, s, r: (
        h.elu_backward(x, a, s, r),
        (h * g * r).elu_bend(x, a, s, r),
        None,
        None,
        None,
    ),
    public=False,
    reference=lambda g, x, a, s, r: g * np.where(x <= 0, a * s * r * np.exp(x * r), s),
    samples=["gradient", *KINKED, 1.5, 1.25, 0.5],
    math="g times elu's first derivative",
)
elementwise(
    "elu_bend",
    lambda g, x, alpha, scale, rate: select(x <= like(0, x), g * (exp(x * rate) * (rate * alpha * scale)), like(0, g)),
    inputs=("gradient", "input"),
    scalars={"alpha": 1.0, "scale": 1.0, "input_scale": 1.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, a, s, r: (
        h.elu_bend(x, a, s, r),
        (h * g * r).elu_bend(x, a, s, r),
        None,
        None,
        None,
    ),
    public=False,
    reference=lambda g, x, a, s, r: g * np.where(x <= 0, a * s * r * np.exp(x * r), 0),
    samples=["gradient", *KINKED, 1.5, 1.25, 0.5],
    math="g times elu's first derivative where x <= 0, else 0",
)

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946  # arXiv:1706.02515


def _celu_rate(alpha: float) -> float:
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return 1 / alpha


@function()
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return ``input`` where it is positive, else ``alpha * (exp(input) - 1)``."""
    return call(_elu, expect_tensor(input, "elu"), number(alpha), 1.0, 1.0)


@function()
def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place form of ``elu``."""
    return call_in_place(_elu, input, input, number(alpha), 1.0, 1.0)


@function()
def selu(input: Tensor) -> Tensor:
    """Return ``scale * elu(input, alpha)`` with the constants that keep mean 0 and variance 1 (arXiv:1706.02515)."""
    return call(_elu, expect_tensor(input, "selu"), SELU_ALPHA, SELU_SCALE, 1.0)


@function()
def selu_(input: Tensor) -> Tensor:
    """In-place form of ``selu``."""
    return call_in_place(_elu, input, input, SELU_ALPHA, SELU_SCALE, 1.0)


@function()
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return ``input`` where it is positive, else ``alpha * (exp(input / alpha) - 1)``."""
    return call(_elu, expect_tensor(input, "celu"), number(alpha), 1.0, _celu_rate(number(alpha)))


@function()
def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place form of ``celu``."""
    return call_in_place(_elu, input, input, number(alpha), 1.0, _celu_rate(number(alpha)))


def _softplus(x, beta, threshold):
    z = x * beta
    return select(z > threshold, x, (select(z < 0, like(0, z), z) + log1p(exp(-absolute(z)))) / beta)


def _softplus_bend(g, x, beta, threshold):
    s = sigmoid(x * beta)
    return select(x * beta > threshold, like(0, x), g * (beta * s * (like(1, x) - s)))


elementwise(
    "softplus",
    _softplus,
    scalars={"beta": 1.0, "threshold": 20.0},
    dtypes=FLOATS,
    vjp=lambda g, y, x, beta, threshold: (g.softplus_backward(x, beta, threshold), None, None),
    reference=lambda x, beta, threshold: np.where(x * beta > threshold, x, np.logaddexp(0, x * beta) / beta),
    samples=[(-2, 2, 1.5), 2.0, 3.0],
    math="ln(1 + e^(beta x)) / beta; x where beta x > threshold",
    doc="Return ``log(1 + exp(beta * input)) / beta``, and ``input`` where ``beta * input`` is above ``threshold``.",
)
elementwise(
    "softplus_backward",
    lambda g, x, beta, threshold: select(x * beta > threshold, g, g * sigmoid(x * beta)),
    inputs=("gradient", "input"),
    scalars={"beta": 1.0, "threshold": 20.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, beta, threshold: (
        h.softplus_backward(x, beta, threshold),
        (h * g).softplus_bend(x, beta, threshold),
        None,
        None,
    ),
    public=False,
    reference=lambda g, x, beta, threshold: np.where(x * beta > threshold, g, g / (1 + np.exp(-x * beta))),
    samples=["gradient", (-2, 2, 1.5), 2.0, 3.0],
    math="g sigmoid(beta x)",
)
elementwise(
    "softplus_bend",
    _softplus_bend,
    inputs=("gradient", "input"),
    scalars={"beta": 1.0, "threshold": 20.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, beta, threshold: (
        h.softplus_bend(x, beta, threshold),
        (h * g * (beta * (1.0 - 2.0 * (x * beta).sigmoid()))).softplus_bend(x, beta, threshold),
        None,
        None,
    ),
    public=False,
    reference=lambda g, x, beta, threshold: np.where(
        x * beta > threshold, 0, g * beta * np.exp(-x * beta) / (1 + np.exp(-x * beta)) ** 2
    ),
    samples=["gradient", (-2, 2, 1.5), 2.0, 3.0],
    math="g beta s (1 - s), s = sigmoid(beta x)",
)


@jit
def _clip_within(x, low, high):
    return low if x < low else (high if x > high else x)


_hardtanh = elementwise(
    "hardtanh",
    lambda x, low, high: _clip_within(x, low, high),
    scalars={"min_val": -1.0, "max_val": 1.0},
    dtypes=NUMBERS,
    vjp=lambda g, y, x, low, high: (g.hardtanh_backward(x, low, high), None, None),
    public=False,
    reference=lambda x, low, high: np.clip(x, *((low, high) if x.dtype.kind == "f" else (int(low), int(high)))),
    samples=[(-2, 2, -0.75, 1), -0.75, 1.0],
    math="x kept within min_val .. max_val",
)


@function()
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return ``input`` kept within ``min_val`` and ``max_val``; its gradient is 0 at the bounds."""
    expect_tensor(input, "hardtanh")
    return call(_hardtanh, input, number_for(input, min_val), number_for(input, max_val))


@function()
def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place form of ``hardtanh``."""
    return call_in_place(_hardtanh, input, input, number_for(input, min_val), number_for(input, max_val))


elementwise(
    "hardtanh_backward",
    lambda g, x, low, high: select((x > low) & (x < high), g, like(0, g)),
    inputs=("gradient", "input"),
    scalars={"min_val": -1.0, "max_val": 1.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, low, high: (h.hardtanh_backward(x, low, high), None, None, None),
    public=False,
    reference=lambda g, x, low, high: np.where((x > low) & (x < high), g, 0),
    samples=["gradient", (-2, 2, -0.75, 1), -0.75, 1.0],
    math="g where min_val < x < max_val, else 0",
)


@function()
def relu6(input: Tensor) -> Tensor:
    """Return ``min(max(input, 0), 6)``."""
    return hardtanh(input, 0.0, 6.0)


@function()
def relu6_(input: Tensor) -> Tensor:
    """In-place form of ``relu6``."""
    return hardtanh_(input, 0.0, 6.0)


elementwise(
    "hardsigmoid",
    lambda x: _clip_within(x + like(3, x), like(0, x), like(6, x)) / like(6, x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.hardtanh_backward(x, -3.0, 3.0) / 6.0,
    reference=lambda x: np.clip(x + 3, 0, 6) / 6,
    samples=[(-5, 5, -3, 3)],
    math="min(max(x + 3, 0), 6) / 6",
    doc="Return ``relu6(input + 3) / 6``.",
)
elementwise(
    "hardswish",
    lambda x: x * _clip_within(x + like(3, x), like(0, x), like(6, x)) / like(6, x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.hardswish_backward(x),
    reference=lambda x: x * np.clip(x + 3, 0, 6) / 6,
    samples=[(-5, 5, -3, 3)],
    math="x min(max(x + 3, 0), 6) / 6",
    doc="Return ``input * relu6(input + 3) / 6``.",
)
elementwise(
    "hardswish_backward",
    lambda g, x: select(x <= like(-3, x), like(0, g), select(x >= like(3, x), g, g * (x / like(3, x) + like(0.5, x)))),
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x: (h.hardswish_backward(x), (h * g).hardtanh_backward(x, -3.0, 3.0) / 3.0),
    public=False,
    reference=lambda g, x: np.where(x <= -3, 0, np.where(x < 3, g * (x / 3 + 0.5), g)),
    samples=["gradient", (-5, 5, -3, 3)],
    math="g times hardswish's derivative",
)

"""Smooth activation functions: sigmoid, silu, gelu, mish, logsigmoid, logit, softsign."""

import math

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import erfc, exp, gelu_tanh, log, log_sigmoid, sigmoid, silu, softplus, tanh
from tapegrad.kernels.vector_math import gelu as gelu_by_erf
from tapegrad.kernels.vector_primitives import absolute, select
from tapegrad.ops.calls import call, expect_tensor, function
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import FLOATS, Ref
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import FLOATING

ROOT_HALF = math.sqrt(0.5)
PHI_AT_0 = 1 / math.sqrt(2 * math.pi)
GELU_K, GELU_C = math.sqrt(2 / math.pi), 0.044715


def _logistic(x):
    return 1 / (1 + np.exp(-x))


elementwise(
    "sigmoid",
    lambda x: sigmoid(x),
    result=FLOATING,
    vjp=lambda g, y, x: g.sigmoid_backward(y),
    aliases=("expit",),
    reference=_logistic,
    math="1 / (1 + e^-x)",
    doc="Return ``1 / (1 + exp(-input))``.",
)
elementwise(
    "sigmoid_backward",
    lambda g, y: g * ((like(1, y) - y) * y),
    inputs=("gradient", "output"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, y: (h.sigmoid_backward(y), h * g * (1.0 - 2.0 * y)),
    public=False,
    reference=lambda g, y: g * y * (1 - y),
    math="g y (1 - y)",
)
elementwise(
    "logsigmoid",
    lambda x: log_sigmoid(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.logsigmoid_backward(x),
    reference=lambda x: -np.logaddexp(0, -x),
    math="-ln(1 + e^-x)",
    doc="Return ``log(sigmoid(input))`` without overflow.",
)
elementwise(
    "logsigmoid_backward",
    lambda g, x: g * sigmoid(-x),
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x: (h.logsigmoid_backward(x), -(h * g).sigmoid_backward(x.sigmoid())),
    public=False,
    reference=lambda g, x: g * _logistic(-x),
    math="g (1 - sigmoid(x))",
)
elementwise(
    "silu",
    lambda x: silu(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.silu_backward(x),
    reference=lambda x: x * _logistic(x),
    math="x sigmoid(x)",
    doc="Return ``input * sigmoid(input)``.",
)


def _silu_backward(g, x):
    s = sigmoid(x)
    return g * (s * (like(1, x) + x * (like(1, x) - s)))


def _silu_second(x: Ref) -> Ref:
    """s (1 - s) (2 + x (1 - 2 s)), s = sigmoid(x)."""
    s = x.sigmoid()
    return s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


elementwise(
    "silu_backward",
    _silu_backward,
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x: (h.silu_backward(x), h * g * _silu_second(x)),
    public=False,
    reference=lambda g, x: g * _logistic(x) * (1 + x * (1 - _logistic(x))),
    math="g s (1 + x (1 - s)), s = sigmoid(x)",
)
elementwise(
    "mish",
    lambda x: x * tanh(softplus(x)),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.mish_backward(x),
    reference=lambda x: x * np.tanh(np.logaddexp(0, x)),
    math="x tanh(softplus(x))",
    doc="Return ``input * tanh(softplus(input))``.",
)


def _mish_backward(g, x):
    t = tanh(softplus(x))
    return g * (t + x * (sigmoid(x) * (like(1, x) - t * t)))


def _mish_second(x: Ref) -> Ref:
    """2 t' + x t'', t = tanh(softplus(x)), t' = (1 - t^2) s, t'' = t' (1 - s - 2 t s)."""
    s, t = x.sigmoid(), x.softplus(1.0, 20.0).tanh()
    slope = (1.0 - t * t) * s
    return slope * (2.0 + x * (1.0 - s - 2.0 * (t * s)))


def _mish_slope(x):
    t = np.tanh(np.logaddexp(0, x))
    return t + x * (1 - t * t) * _logistic(x)


elementwise(
    "mish_backward",
    _mish_backward,
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x: (h.mish_backward(x), h * g * _mish_second(x)),
    public=False,
    reference=lambda g, x: g * _mish_slope(x),
    math="g (t + x s (1 - t^2)), t = tanh(softplus(x)), s = sigmoid(x)",
)


def _normal_cdf(x):
    return np.array([0.5 * math.erfc(-v * ROOT_HALF) for v in np.ravel(x)], np.float64).reshape(np.shape(x))


def _normal_density(x):
    return np.exp(-0.5 * np.square(x, dtype=np.float64)) * PHI_AT_0


_gelu = elementwise(
    "gelu_erf",
    lambda x: gelu_by_erf(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.gelu_erf_backward(x),
    public=False,
    reference=lambda x: x * _normal_cdf(x),
    math="x Phi(x)",
)


def _gelu_backward(g, x):
    phi = exp(-(x * x) * like(0.5, x)) * like(PHI_AT_0, x)
    return g * (like(0.5, x) * erfc(-x * like(ROOT_HALF, x)) + x * phi)


elementwise(
    "gelu_erf_backward",
    _gelu_backward,
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    # (Phi + x phi)' = (2 - x^2) phi
    vjp=lambda h, gx, g, x: (h.gelu_erf_backward(x), h * g * ((2.0 - x * x) * ((-0.5 * (x * x)).exp() * PHI_AT_0))),
    public=False,
    reference=lambda g, x: g * (_normal_cdf(x) + x * _normal_density(x)),
    math="g (Phi(x) + x phi(x))",
)
_gelu_by_tanh = elementwise(
    "gelu_tanh",
    lambda x: gelu_tanh(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g.gelu_tanh_backward(x),
    public=False,
    reference=lambda x: 0.5 * x * (1 + np.tanh(GELU_K * (x + GELU_C * x * x * x))),
    math="x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)",
)


def _gelu_tanh_backward(g, x):
    """(1 + t) / 2 + x (1 - t^2) u' / 2 = s + x s (1 - s) 2 u' with t = tanh u, s = sigmoid(2 u)."""
    u2 = like(2 * GELU_K, x) * (x + like(GELU_C, x) * x * x * x)
    slope2 = like(2 * GELU_K, x) * (like(1, x) + like(3 * GELU_C, x) * x * x)
    s = sigmoid(u2)
    return g * (s + x * slope2 * (s * (like(1, x) - s)))


def _gelu_tanh_second(x: Ref) -> Ref:
    """s (1 - s) (2 v' + x (v'' + v'^2 (1 - 2 s))), v = 2 u, s = sigmoid(v)."""
    square = x * x
    s = (2 * GELU_K * (x + GELU_C * (x * square))).sigmoid()
    first = 2 * GELU_K + 6 * GELU_K * GELU_C * square
    second = 12 * GELU_K * GELU_C * x
    return s * (1.0 - s) * (2.0 * first + x * (second + first * first * (1.0 - 2.0 * s)))


def _gelu_tanh_slope(x):
    t = np.tanh(GELU_K * (x + GELU_C * x**3))
    return (1 + t) / 2 + x * (1 - t * t) * GELU_K * (1 + 3 * GELU_C * x * x) / 2


elementwise(
    "gelu_tanh_backward",
    _gelu_tanh_backward,
    inputs=("gradient", "input"),
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x: (h.gelu_tanh_backward(x), h * g * _gelu_tanh_second(x)),
    public=False,
    reference=lambda g, x: g * _gelu_tanh_slope(x),
    math="g times gelu_tanh's derivative",
)


@function(method=False)
def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """Return ``input`` times the normal distribution function at ``input`` (arXiv:1606.08415).

    Args:
        input: any shape, float.
        approximate: ``"none"``, or ``"tanh"`` for the approximation by a hyperbolic tangent.

    Raises:
        RuntimeError: ``approximate`` is something else.

    >>> import tapegrad as tg
    >>> tg.gelu(tg.tensor([0.0, 1.0])).tolist()
    [0.0, 0.8413447141647339]
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, got {approximate!r}")
    return call(_gelu if approximate == "none" else _gelu_by_tanh, expect_tensor(input, "gelu"))


def _logit(x, eps):
    high = like(1, x) - eps
    z = select((eps < 0) | (x != x), x, select(x < eps, eps, select(x > high, high, x)))
    return log(z / (like(1, x) - z))


def _logit_backward(g, x, eps):
    one = like(1, x)
    inside = select(eps < 0, (x >= like(0, x)) & (x <= one), (x >= eps) & (x <= one - eps))
    return select(inside, g / (x * (one - x)), select(eps < 0, like(math.nan, x), like(0, x)))


_logit_op = elementwise(
    "logit_clamped",
    _logit,
    scalars={"eps": -1.0},
    result=FLOATING,
    vjp=lambda g, y, x, eps: (g.logit_backward(x, eps), None),
    public=False,
    reference=lambda x, eps: np.log(np.clip(x, eps, 1 - eps) / (1 - np.clip(x, eps, 1 - eps))),
    samples=[(-0.2, 1.2, 0.125, 0.875), 0.125],
    math="ln(z / (1 - z)), z = x kept within eps .. 1 - eps where eps >= 0",
)
elementwise(
    "logit_backward",
    _logit_backward,
    inputs=("gradient", "input"),
    scalars={"eps": -1.0},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, eps: (
        h.logit_backward(x, eps),
        (h * g * (2.0 * x - 1.0) / (x * (1.0 - x))).logit_backward(x, eps),
        None,
    ),
    public=False,
    reference=lambda g, x, eps: g / (x * (1 - x)),
    samples=["gradient", (0.1, 0.9), -1.0],
    math="g / (x (1 - x)) inside the bounds",
)


@function()
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """Return ``log(z / (1 - z))`` where z is ``input``, kept within ``eps`` and ``1 - eps`` if ``eps`` is given."""
    return call(_logit_op, expect_tensor(input, "logit"), -1.0 if eps is None else float(eps))


elementwise(
    "softsign",
    lambda x: x / (like(1, x) + absolute(x)),
    dtypes=FLOATS,
    vjp=lambda g, y, x: g / ((1.0 + x.abs()) * (1.0 + x.abs())),
    reference=lambda x: x / (1 + np.abs(x)),
    samples=[(-2, 2, 0)],
    math="x / (1 + |x|)",
    doc="Return ``input / (1 + abs(input))``.",
)

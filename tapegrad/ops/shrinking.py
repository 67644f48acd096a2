"""Activation functions that shrink towards zero, that draw their slope, that gate: hardshrink, rrelu, glu and kin."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import sigmoid
from tapegrad.kernels.vector_primitives import select
from tapegrad.ops.activations import leaky_relu_by_result, prelu_each
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.elementwise import elementwise, number
from tapegrad.ops.random import rand_like
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.handle import Tensor

elementwise(
    "hardshrink",
    lambda x, lambd: select((x >= -lambd) & (x <= lambd), like(0, x), x),
    scalars={"lambd": 0.5},
    dtypes=FLOATS,
    vjp=lambda g, y, x, lambd: (g.shrink_backward(x, lambd), None),
    in_place=False,
    reference=lambda x, lambd: np.where(np.abs(x) <= lambd, 0, x),
    samples=[(-2, 2, -0.75, 0.75), 0.75],
    math="x where |x| > lambd, else 0",
    doc="Return ``input`` where its absolute value is above ``lambd``, else 0.",
)
_softshrink = elementwise(
    "softshrink_by",
    # the last zero is a nan's, which shall stay one
    lambda x, lambd: select(x > lambd, x - lambd, select(x < -lambd, x + lambd, x * like(0, x))),
    scalars={"lambd": 0.5},
    dtypes=FLOATS,
    vjp=lambda g, y, x, lambd: (g.shrink_backward(x, lambd), None),
    public=False,
    reference=lambda x, lambd: np.sign(x) * np.maximum(np.abs(x) - lambd, 0),
    samples=[(-2, 2, -0.75, 0.75), 0.75],
    math="x - lambd where x > lambd, x + lambd where x < -lambd, else 0",
)
elementwise(
    "shrink_backward",
    lambda g, x, lambd: select((x < -lambd) | (x > lambd), g, like(0, g)),
    inputs=("gradient", "input"),
    scalars={"lambd": 0.5},
    dtypes=FLOATS,
    vjp=lambda h, gx, g, x, lambd: (h.shrink_backward(x, lambd), None, None),
    public=False,
    reference=lambda g, x, lambd: np.where(np.abs(x) <= lambd, 0, g),
    samples=["gradient", (-2, 2, -0.75, 0.75), 0.75],
    math="g where |x| > lambd, else 0",
)


def _softshrink_of(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return ``input`` moved towards 0 by ``lambd``, or 0 where it is nearer than that.

    Raises:
        RuntimeError: ``lambd`` is negative.
    """
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}.")
    return call(_softshrink, expect_tensor(input, "softshrink"), number(lambd))


def _tanhshrink(input: Tensor) -> Tensor:
    """Return ``input - tanh(input)``."""
    return input - functions["tanh"](expect_tensor(input, "tanhshrink"))


functions["_softshrink"], functions["_tanhshrink"] = _softshrink_of, _tanhshrink


# ---- rrelu ----


def _slopes(input: Tensor, lower: float, upper: float, training: bool, generator: Any) -> Any:
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound: got {lower} and {upper}")
    return rand_like(input, generator=generator) * (upper - lower) + lower if training else (lower + upper) / 2


@function(method=False)
def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """Return ``input`` where it is positive, else ``input`` times a slope (Xu et al. 2015, arXiv:1505.00853).

    Args:
        input: of any shape, float.
        lower: the least slope.
        upper: the largest slope.
        training: whether slopes are drawn, uniform in lower .. upper, one for each element; else it is their mean.
        generator: the source of random numbers; the default one by default.
    """
    slopes = _slopes(expect_tensor(input, "rrelu"), lower, upper, training, generator)
    return call(prelu_each, input, slopes) if training else functions["leaky_relu"](input, slopes)


@function(method=False)
def rrelu_(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """In-place form of ``rrelu``."""
    slopes = _slopes(expect_tensor(input, "rrelu_"), lower, upper, training, generator)
    return call_in_place(prelu_each, input, input, slopes) if training else leaky_relu_by_result(input, slopes)


# ---- gates ----

_gate = elementwise(
    "glu_gate",
    lambda a, b: a * sigmoid(b),
    inputs=("input", "gate"),
    dtypes=FLOATS,
    vjp=lambda g, y, a, b: (g.glu_gate(b), g.glu_slope(a, b)),
    public=False,
    reference=lambda a, b: a / (1 + np.exp(-b)),
    math="a sigmoid(b)",
)


def _slope(g, a, b):
    s = sigmoid(b)
    return g * a * (s * (like(1, b) - s))


elementwise(
    "glu_slope",
    _slope,
    inputs=("gradient", "input", "gate"),
    dtypes=FLOATS,
    # s'' = s' (1 - 2 s)
    vjp=lambda h, y, g, a, b: (
        h.glu_slope(a, b),
        h.glu_slope(g, b),
        (h * g).glu_slope(a, b) * (1.0 - 2.0 * b.sigmoid()),
    ),
    public=False,
    reference=lambda g, a, b: g * a * np.exp(-b) / (1 + np.exp(-b)) ** 2,
    math="g a s (1 - s), s = sigmoid(b)",
)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return the first half of ``input`` times the sigmoid of the second (Dauphin et al. 2017, arXiv:1612.08083).

    Args:
        input: of a shape that is even along ``dim``.
        dim: the dimension that is halved.
    """
    shape = shape_of(expect_tensor(input, "glu"))
    if not shape:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    dim = normal_dim(dim, len(shape))
    if shape[dim] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {shape[dim]}")
    a, b = functions["chunk"](input, 2, dim)
    return call(_gate, a, b)


def _gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Draw from the Gumbel-softmax distribution (Jang et al. 2017, arXiv:1611.01144).

    Args:
        logits: unnormalised log-probabilities, any shape.
        tau: the temperature.
        hard: whether the result is one-hot, with the gradient of what is not.
        eps: not used, as in torch.
        dim: the dimension of the classes.
    """
    noise = -functions["log"](functions["empty_like"](logits.detach()).exponential_())
    soft = functions["softmax"]((logits + noise) / tau, dim)
    if not hard:
        return soft
    index = functions["argmax"](soft.detach(), dim, keepdim=True)
    one_hot = functions["scatter"](functions["zeros_like"](soft.detach()), dim, index, 1.0)
    return one_hot - soft.detach() + soft


functions["_glu"], functions["_gumbel_softmax"] = _glu, _gumbel_softmax

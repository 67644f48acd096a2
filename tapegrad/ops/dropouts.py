"""Dropout of channels, and dropout that keeps mean and variance: dropout1d, alpha_dropout and kin."""

from __future__ import annotations

import math
import warnings

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_primitives import select
from tapegrad.ops.calls import call, call_in_place, expect_tensor, function, functions, shape_of
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.random import feature_dropout
from tapegrad.ops.registry import FLOATS
from tapegrad.runtime.handle import Tensor

_ALPHA = 1.7580993408473766  # selu's scale times its alpha: minus what selu tends to at -infinity (arXiv:1706.02515)

_FIXED: dict[str, tuple[int, ...]] = {"fixed": (1, 2, 3, 4), "layouts": ()}

_alpha_mask = elementwise(
    "alpha_mask",
    lambda x, kept, factor, shift, dropped: select(kept > like(0, x), x * factor + shift, dropped),
    inputs=("input", "kept"),
    scalars={"factor": 1.0, "shift": 0.0, "dropped": 0.0},
    dtypes=FLOATS,
    vjp=lambda g, y, x, kept, factor, shift, dropped: (g.alpha_mask(kept, factor, 0.0, 0.0), None, None, None, None),
    public=False,
    reference=lambda x, kept, factor, shift, dropped: np.where(kept > 0, x * factor + shift, dropped),
    samples=lambda make: [
        ((make(7), make.booleans(7).astype(np.float64), np.array(1.5), np.array(0.25), np.array(-2.0)), {}, _FIXED),
        ((make(2, 3, 4), np.array([[[1.0], [0.0], [1.0]]] * 2), *map(np.array, (0.5, -1.0, 3.0))), {}, _FIXED),
    ],
    math="factor x + shift where kept, else dropped",
)


def check_probability(p: float) -> None:
    """Raise ValueError, in torch's words, if ``p`` is no probability."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _alpha(input: Tensor, p: float, training: bool, inplace: bool, features: bool) -> Tensor:
    check_probability(p)
    shape = shape_of(expect_tensor(input, "alpha_dropout"))
    if not training or p == 0.0 or 0 in shape:
        return input
    if p == 1.0:
        return input.mul_(0.0) if inplace else input * 0.0
    factor = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    shift = _ALPHA * factor * p
    drawn = (*shape[:2], *(1 for _ in shape[2:])) if features else shape
    kept = functions["empty"](drawn, dtype=input.dtype).bernoulli_(1 - p)
    operands = (input, kept, factor, shift, shift - _ALPHA * factor)
    return call_in_place(_alpha_mask, input, *operands) if inplace else call(_alpha_mask, *operands)


@function(method=False)
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Return ``input`` with elements put to selu's negative limit, then scaled to the mean and variance before.

    Source: Klambauer et al. 2017, arXiv:1706.02515.

    Args:
        input: any shape, float.
        p: the probability of an element's being put there.
        training: if false, ``input`` is returned as it is.
        inplace: write the result into ``input``.

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """
    return _alpha(input, p, training, inplace, features=False)


@function(method=False)
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Return ``alpha_dropout`` of whole channels of ``input`` [n, c, ...].

    Args:
        p: the probability of a channel to be put to SELU's negative limit.
    """
    if len(shape_of(expect_tensor(input, "feature_alpha_dropout"))) < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return _alpha(input, p, training, inplace, features=True)


def _of_one(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """Return the dropout of channels of an input without a batch dimension."""
    result = feature_dropout(functions["unsqueeze"](input, 0), p, training, inplace)
    return input if inplace else functions["squeeze"](result, 0)


def _dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` [c, n] or [batch, c, n] with whole channels put to zero, the others multiplied by 1 / (1 - p).

    Raises:
        ValueError: ``p`` is not in [0, 1].
        RuntimeError: ``input`` has other dimensions.
    """
    check_probability(p)
    ndim = len(shape_of(expect_tensor(input, "dropout1d")))
    if ndim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {ndim}D input. Note that dropout1d exists to provide "
            "channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an optional batch "
            "dimension (i.e. 2D or 3D inputs)."
        )
    return (feature_dropout if ndim == 3 else _of_one)(input, p, training, inplace)


def _dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` [batch, c, h, w] with whole channels put to zero, the others multiplied by 1 / (1 - p).

    As in torch, three dimensions are taken for [batch, c, n], with a warning.

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """
    check_probability(p)
    ndim = len(shape_of(expect_tensor(input, "dropout2d")))
    if ndim not in (3, 4):
        _warn_of_dims(ndim, 2, "3-D or 4-D")
    if ndim == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is desired "
            "- input is interpreted as shape (N, C, L), where C is the channel dim. This behavior will change in a "
            "future release to interpret the input as one without a batch dimension, i.e. shape (C, H, W). To maintain "
            "the 1D channel-wise dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    return feature_dropout(input, p, training, inplace)


def _dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` [c, d, h, w] or [batch, c, d, h, w] with whole channels put to zero, the others scaled up.

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """
    check_probability(p)
    ndim = len(shape_of(expect_tensor(input, "dropout3d")))
    if ndim not in (4, 5):
        _warn_of_dims(ndim, 3, "4-D or 5-D")
    return (feature_dropout if ndim == 5 else _of_one)(input, p, training, inplace)


def _warn_of_dims(ndim: int, spatial: int, wanted: str) -> None:
    warnings.warn(
        f"dropout{spatial}d: Received a {ndim}-D input to dropout{spatial}d, which is deprecated and will result in an "
        f"error in a future release. To retain the behavior and silence this warning, please use dropout instead. Note "
        f"that dropout{spatial}d exists to provide channel-wise dropout on inputs with {spatial} spatial dimensions, a "
        f"channel dimension, and an optional batch dimension (i.e. {wanted} inputs).",
        stacklevel=3,
    )


functions["_dropout1d"], functions["_dropout2d"], functions["_dropout3d"] = _dropout1d, _dropout2d, _dropout3d

"""Variance, standard deviation, covariance, correlation and quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.kernels.reduce_plan import output_strides
from tapegrad.kernels.reduce_sum import deviation_parts, mean_parts
from tapegrad.kernels.reduce_tasks import make_reduction
from tapegrad.native.dtypes import FLOAT32
from tapegrad.native.pointers import stack_words
from tapegrad.ops.calls import call, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.reduction_rules import KEEPDIM, MASK, PARAMETER, mask_of, reduced_infer
from tapegrad.ops.reductions import Dims, mean
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare, registry
from tapegrad.ops.validity import own, reduces
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import machine


def _variance_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Two passes: the means, into the second result, then the squared deviations from them."""
    means = make_reduction(mean_parts(dtype, dtype))
    deviations = make_reduction(deviation_parts(dtype, dtype))

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        y = slot_of(st, output_slot(frame, 0))
        x_address, y_address = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        centre, scratch = data_address(st, output_slot(frame, 1)), state_of(st).workspace
        strides = stack_words(8)
        output_strides(x, y, attribute(frame, MASK), attribute(frame, KEEPDIM), strides)
        means(state_of(st).pool, x, x_address, centre, y.numel, strides, centre, 0, scratch)
        return deviations(
            state_of(st).pool, x, x_address, y_address, y.numel, strides, centre, attribute(frame, PARAMETER), scratch
        )

    return kernel


def _variance_rule(g: Any, y: Any, x: Any) -> Any:
    # 2 (x - mean(x)) g / (n - correction)
    scaled = (2.0 * g[0]).per_freedom(x, attributes=OF_ENTRY).expand_reduced(x, attributes=OF_ENTRY)
    return scaled * (x - x.mean(attributes=OF_ENTRY).expand_reduced(x, attributes=OF_ENTRY))


_VAR = declare(
    Op(
        name="var",
        valid=reduces(own),
        inputs=("input",),
        kind=GENERAL,
        result=FROM_ATTRIBUTE,
        outputs=2,
        infer=reduced_infer,
        kernel=_variance_kernel,
        dtypes=FLOATS,
        vjp=_variance_rule,
        reference=lambda x, dim=None, keepdim=False, correction=1: np.var(x, dim, ddof=correction, keepdims=keepdim),
        samples=lambda make: [
            ((make(2, 3, 4),), {"dim": 1}),
            ((make(3, 4),),),
            ((make(2, 3, 4),), {"dim": (0, 2), "keepdim": True, "correction": 0}),
            ((make(37),), {"dim": -1, "correction": 3}),
        ],
        math="sum((x - mean(x))**2) / (n - correction); the second result is scratch",
    )
)


class VarMean(NamedTuple):
    """A variance or standard deviation, and the mean."""

    var: Tensor
    mean: Tensor


def _correction(dim: Any, unbiased: bool | None, correction: float | None) -> tuple[Dims, float]:
    """Return the dimensions and the correction of torch's overloads: ``var(unbiased)``, ``var(dim, unbiased)``, ..."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1.0 if unbiased is None or unbiased else 0.0
    return (None if dim is not None and not isinstance(dim, int) and len(dim) == 0 else dim), float(correction)


def _variance(input: Tensor, dim: Dims, keepdim: bool, correction: float) -> Tensor:
    code = machine.dtype_of(expect_tensor(input, "var")._handle)
    if code < FLOAT32:
        raise RuntimeError("std and var only support floating point and complex dtypes")
    mask = mask_of(dim, len(shape_of(input)))
    return call(_VAR, input, attributes=(code, mask, int(keepdim), correction))


@function()
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Return the variance over the given dimensions: the squared deviations' sum over n - correction (1 by default).

    Raises:
        RuntimeError: the input is not floating point.

    Example:
        >>> import tapegrad as tg
        >>> tg.var(tg.tensor([1.0, 2.0, 3.0]))
        tensor(1.)
    """
    dim, correction = _correction(dim, unbiased, correction)
    return _variance(input, dim, keepdim, correction)


@function()
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Return the standard deviation: the root of ``var``, with gradient 0 where it is 0."""
    dim, correction = _correction(dim, unbiased, correction)
    return call(registry["sqrt_flat_at_zero"], _variance(input, dim, keepdim, correction))


@function(method=False)
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> VarMean:
    """Return the variance and the mean."""
    dims = _correction(dim, unbiased, correction)[0]
    return VarMean(var(input, dim, unbiased, keepdim, correction=correction), mean(input, dims, keepdim))


@function(method=False)
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> VarMean:
    """Return the standard deviation and the mean."""
    dims = _correction(dim, unbiased, correction)[0]
    return VarMean(std(input, dim, unbiased, keepdim, correction=correction), mean(input, dims, keepdim))


@function()
def cov(input: Tensor, *, correction: int = 1) -> Tensor:
    """Return the covariances of the rows of [variables, observations]."""
    if len(shape_of(expect_tensor(input, "cov"))) > 2:
        raise RuntimeError(
            "cov(): expected input to have two or fewer dimensions but got an input with "
            f"{len(shape_of(input))} dimensions"
        )
    rows = functions["reshape"](input, (1, -1)) if len(shape_of(input)) < 2 else input
    d = rows - mean(rows, 1, True)
    result = functions["matmul"](d, functions["transpose"](d, 0, 1)) / max(shape_of(rows)[1] - correction, 0)
    return functions["reshape"](result, ()) if len(shape_of(input)) < 2 else result


@function()
def corrcoef(input: Tensor) -> Tensor:
    """Return the correlation coefficients of the rows of [variables, observations]."""
    c = cov(input)
    if not shape_of(c):
        return c / c
    s = functions["sqrt"](functions["diagonal"](c))
    unit = c / functions["unsqueeze"](s, 1) / functions["unsqueeze"](s, 0)
    return functions["clamp"](unit, -1.0, 1.0)


@function()
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Return quantiles along a dimension, or of all elements; a 1-d ``q`` gives a first dimension; nan where one is.

    Raises:
        RuntimeError: ``q`` is not in 0 to 1, or the interpolation is unknown.
    """
    if interpolation not in _PLACES:
        raise RuntimeError(f"quantile() interpolation must be one of {', '.join(_PLACES)}, but got {interpolation}")
    single = isinstance(q, int | float) or not shape_of(q)
    shares = [float(q)] if isinstance(q, int | float) else functions["reshape"](q, (-1,)).tolist()
    for share in shares:
        if not 0 <= share <= 1:
            raise RuntimeError(f"quantile() q must be in the range [0, 1] but got {share:g}")
    ndim = len(shape_of(input))
    ordered = functions["reshape"](input, (-1,)) if dim is None else input
    along = 0 if dim is None else normal_dim(dim, ndim)
    ordered = functions["sort"](ordered, along).values
    results = [_at_share(ordered, along, share, interpolation) for share in shares]
    if keepdim:
        results = [
            functions["reshape"](y, (1,) * ndim) if dim is None else functions["unsqueeze"](y, along) for y in results
        ]
    return results[0] if single else functions["stack"](results)


_PLACES: dict[str, Callable[[float], float]] = {
    "linear": lambda place: place % 1.0,
    "lower": lambda place: 0.0,
    "higher": lambda place: 1.0 if place % 1.0 else 0.0,
    "midpoint": lambda place: 0.5 if place % 1.0 else 0.0,
    "nearest": lambda place: round(place) - place // 1.0,
}


def _at_share(ordered: Tensor, dim: int, share: float, interpolation: str) -> Tensor:
    """Return the elements at a share of the way through sorted ones; nan, which comes last, makes the result nan."""
    n = shape_of(ordered)[dim] if shape_of(ordered) else 1
    select = functions["select"] if shape_of(ordered) else lambda x, dim, index: x
    place = share * (n - 1)
    low, weight = int(place), _PLACES[interpolation](place)
    result = select(ordered, dim, low)
    if weight:
        result = result + (select(ordered, dim, low + 1) - result) * weight
    last = select(ordered, dim, n - 1)
    return functions["where"](last == last, result, last)


__all__ = ["VarMean"]


@function()
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Return quantiles of what is not nan along a dimension, or of all elements; see ``quantile``."""
    flat = functions["reshape"](input, (-1,)) if dim is None else input
    along = 0 if dim is None else normal_dim(dim, len(shape_of(input)))
    single = isinstance(q, int | float) or not shape_of(q)
    shares = [float(q)] if isinstance(q, int | float) else functions["reshape"](q, (-1,)).tolist()
    if interpolation not in _PLACES or not all(0 <= share <= 1 for share in shares):
        return quantile(input, q, dim, keepdim, interpolation=interpolation)  # which raises
    ordered = functions["sort"](flat, along).values
    last = functions["clamp"](
        functions["sum"](functions["logical_not"](functions["isnan"](flat)), along, True) - 1, min=0
    )
    results = [_at_share_of(ordered, last, along, share, interpolation) for share in shares]
    if dim is None and keepdim:
        results = [functions["reshape"](y, (1,) * len(shape_of(input))) for y in results]
    elif not keepdim:
        results = [functions["squeeze"](y, along) for y in results]
    return results[0] if single else functions["stack"](results)


def _at_share_of(ordered: Tensor, last: Tensor, dim: int, share: float, interpolation: str) -> Tensor:
    """Return the elements at a share of the way to the last number of each sorted row."""
    place = last.double() * share
    low = functions["floor"](place)
    part = place - low
    weight = {
        "linear": lambda: part,
        "lower": lambda: part * 0,
        "higher": lambda: (part > 0).double(),
        "midpoint": lambda: (part > 0).double() * 0.5,
        "nearest": lambda: functions["round"](place) - low,
    }[interpolation]()
    first = functions["gather"](ordered, dim, low.long())
    second = functions["gather"](ordered, dim, functions["minimum"](low.long() + 1, last))
    return first + (second - first) * functions["to_dtype"](weight, first.dtype)

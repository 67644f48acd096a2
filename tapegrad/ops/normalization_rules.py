"""The second derivatives of normalisations, of rows and of channels alike, and the small ops that only they emit.

A normalisation's backward op gets the mean and 1 / std that the forward one has computed. They come from x, and rules
count that in with x, not with them: where a rule computes with one, it does so through ``own_mean`` or ``own_rstd``,
views of it whose gradient goes to x. Attributes: those of an op along dimensions, then eps and whether the mean is
subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, POINTERS, SCALARS
from tapegrad.ops.references import axes_of
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import attributes, checks_itself
from tapegrad.runtime.layout import (
    GENERAL,
    VIEW,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)

EPSILON, CENTERED = 4, 5


@jit
def address_or_zero(st, slot):
    """Return where an operand's elements are, 0 for one that is absent."""
    return data_address(st, slot) if slot >= 0 else 0


@jit
def copy_shape(st, source, target):
    x, y = slot_of(st, source), slot_of(st, target)
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]


def same_view_infer(st, frame):
    copy_shape(st, input_slot(frame, 0), output_slot(frame, 0))
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    for d in range(x.ndim):
        strides_in(y)[d] = strides_in(x)[d]
    return 0


def like_first_infer(st, frame):
    copy_shape(st, input_slot(frame, 0), output_slot(frame, 0))
    return 0


def present_infer(st, frame):
    if input_slot(frame, 0) >= 0:
        copy_shape(st, input_slot(frame, 0), output_slot(frame, 0))
    else:
        slot_of(st, output_slot(frame, 0)).ndim = 0
    return 0


def _present_kernel(dtype: int, result_dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        x = pointer(address_or_zero(st, input_slot(frame, 0)))
        for i in range(slot_of(st, output_slot(frame, 0)).numel):
            y[i] = x[i] if input_slot(frame, 0) >= 0 else scalar(1)
        return 0

    return kernel


def _if_centered_kernel(dtype: int, result_dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        x, y = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, output_slot(frame, 0)))
        for i in range(slot_of(st, output_slot(frame, 0)).numel):
            y[i] = x[i] if attribute(frame, CENTERED) else scalar(0)
        return 0

    return kernel


# ---- formulas ----


def spread(values: Any, x: Any) -> Any:
    """Return what there is once for each row or channel, for each element of x."""
    return values.expand_reduced(x, attributes=OF_ENTRY)


def mean_over(values: Any, x: Any) -> Any:
    """Return the means over the normalised dimensions, spread over them."""
    return spread(values.mean(attributes=OF_ENTRY), x)


def own(x: Any, mean: Any, rstd: Any) -> tuple[Any, Any]:
    """Return x^ and 1 / std for each element of x, as functions of x."""
    scale = spread(rstd.own_rstd(x, mean, attributes=OF_ENTRY), x)
    return (x - spread(mean.own_mean(x, attributes=OF_ENTRY), x)) * scale, scale


def bent_by(h: Any, a: Any, g_hw: Any, x: Any, x_hat: Any, scale: Any) -> Any:
    """Return the gradient of <h, P(a)> + <g hw, x^> for x^ while rstd is held.

    P(a) = rstd (a - m(a) - x^ m(a x^)), symmetric in a; g_hw is None where there is no second term.
    """
    bent = -(scale * (h * mean_over(a * x_hat, x) + a * mean_over(h * x_hat, x)))
    return bent if g_hw is None else g_hw + bent


def _rstd_rule(g: Any, y: Any, rstd: Any, x: Any, mean: Any) -> Any:
    # rstd = (m((x - mean)**2) + eps)**(-1/2), so its derivative for x is -rstd**2 x^ / n
    x_hat, scale = own(x, mean, rstd)
    return None, -(spread(g.per_count(x, attributes=OF_ENTRY), x) * scale * scale * x_hat), None


def _mean_rule(g: Any, y: Any, mean: Any, x: Any) -> Any:
    share = g.if_centered(attributes=OF_ENTRY).per_count(x, attributes=OF_ENTRY)
    return None, spread(share, x)


def make_project_rule(name: str) -> Any:
    """Return the rule of the op ``name``, which is P: the gradients of <h, P(q)>."""

    def rule(h: Any, y: Any, q: Any, x: Any, mean: Any, rstd: Any) -> Any:
        x_hat, scale = own(x, mean, rstd)

        def p(values: Any) -> Any:
            return getattr(values, name)(x, mean, rstd, attributes=OF_ENTRY)

        return p(h), p(bent_by(h, q, None, x, x_hat, scale)) - scale * x_hat * mean_over(h * y, x), None, None

    return rule


# ---- declarations ----

_IN_RULES = "views of a normalisation's statistics: their rules are tested with the normalisations' derivatives"

declare(
    Op(
        name="own_mean",
        inputs=("mean", "input"),
        kind=VIEW,
        infer=same_view_infer,
        vjp=_mean_rule,
        public=False,
        samples=_IN_RULES,
        math="the mean of x, which was computed before",
    )
)
declare(
    Op(
        name="own_rstd",
        inputs=("rstd", "input", "mean"),
        kind=VIEW,
        infer=same_view_infer,
        vjp=_rstd_rule,
        public=False,
        samples=_IN_RULES,
        math="1 / sqrt(var(x) + eps), which was computed before",
    )
)
declare(
    Op(
        name="if_centered",
        valid=attributes(6),
        inputs=("input",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=like_first_infer,
        kernel=_if_centered_kernel,
        vjp=lambda g, y, x: g.if_centered(attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=lambda x, *, attributes: x * attributes[CENTERED],
        samples=lambda make: [((make(3),), {"attributes": (FLOAT64, 0, 0, 0, 0.1, k)}) for k in (0, 1)],
        math="x where a normalisation subtracts the mean, else 0",
    )
)
declare(
    Op(
        name="present_or_one",
        valid=checks_itself,
        inputs=("input", "like"),
        optional=("input",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=present_infer,
        kernel=_present_kernel,
        vjp=lambda g, y, x, like: (g, None),
        shape_only=("like",),
        contiguous=("input",),
        public=False,
        reference=lambda x, like: np.ones(()) if x is None else x,
        samples=lambda make: [((make(3), make(2)),), ((None, make(2)), {}, {"gradient": False, "fixed": (0,)})],
        math="x, 1 where there is none",
    )
)


def standardized(x: Any, attributes: Any) -> tuple[Any, Any, Any]:
    """Return NumPy's x^, mean and 1 / std, the statistics of x's number of dimensions."""
    axes = axes_of(attributes[1])
    mean = x.mean(axes, keepdims=True) * attributes[CENTERED]
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + attributes[EPSILON])
    return (x - mean) * rstd, mean, rstd

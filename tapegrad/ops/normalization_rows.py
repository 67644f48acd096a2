"""The ops of layer, group, instance and root-mean-square norm: over the last dimensions of their operand.

Attributes: those of an op along dimensions (result dtype, mask, keepdim 1, 0), then eps and whether the mean is
subtracted. The weight's shape says how it goes along a row: one that has as many dimensions as are normalised has a
factor for each element (layer norm); one of shape [groups, channels, 1] for x [n, groups, channels, size] one for each
channel (group norm). The mean and 1 / std are for the backward op: see normalization_rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.norm_rows import (
    EPS,
    GX,
    LENGTH,
    MEAN,
    PARTS,
    PERIOD,
    ROWS,
    RSTD,
    RUN,
    SHARE,
    SUBTRACTS,
    B,
    G,
    W,
    X,
    Y,
    make_norm_rows,
    make_norm_rows_backward,
    share_of,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.normalization_rules import (
    CENTERED,
    EPSILON,
    address_or_zero,
    bent_by,
    copy_shape,
    make_project_rule,
    mean_over,
    own,
    standardized,
)
from tapegrad.ops.reduction_rules import KEEPDIM, MASK, reduced_shape
from tapegrad.ops.references import axes_of
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, every, given, masked, needed, with_numel
from tapegrad.runtime.blocks import give_block, size_class, take_block
from tapegrad.runtime.elementwise import same_shape
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    OUT_OF_MEMORY,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)


@jit
def result_and_statistics(st, frame):
    """Set the shapes of a normalisation's three results."""
    x = slot_of(st, input_slot(frame, 0))
    copy_shape(st, input_slot(frame, 0), output_slot(frame, 0))
    reduced_shape(x, slot_of(st, output_slot(frame, 1)), attribute(frame, MASK), attribute(frame, KEEPDIM))
    reduced_shape(x, slot_of(st, output_slot(frame, 2)), attribute(frame, MASK), attribute(frame, KEEPDIM))
    return 0


def forward_infer(st, frame):
    return result_and_statistics(st, frame)


def backward_infer(st, frame):
    """Operands g, x, weight, mean, rstd; the gradients of an absent weight are single zeros."""
    copy_shape(st, input_slot(frame, 1), output_slot(frame, 0))
    if not same_shape(slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))):
        return BAD_ARGUMENT
    for k in range(1, 3):
        if input_slot(frame, 2) >= 0:
            copy_shape(st, input_slot(frame, 2), output_slot(frame, k))
        else:
            slot_of(st, output_slot(frame, k)).ndim = 0
    return 0


@jit
def _describe(st, frame, x, w, context):
    """Write how the operands x and weight (-1 for none) lie into the context; return the number of tasks."""
    c = int64_at(context)
    row = slot_of(st, x)
    mask = attribute(frame, MASK)
    n, rows, masked = 1, 1, 0
    for d in range(row.ndim):
        if (mask >> d) & 1:
            n *= shape_in(row)[d]
            masked += 1
        else:
            rows *= shape_in(row)[d]
    c[ROWS], c[LENGTH] = rows, n
    c[PERIOD], c[RUN] = 1, max(n, 1)
    if w >= 0 and slot_of(st, w).ndim == masked:
        c[RUN] = 1
    elif w >= 0:
        c[PERIOD] = shape_in(slot_of(st, w))[0]
        c[RUN] = max(n // max(shape_in(slot_of(st, w))[1], 1), 1)
    c[X] = data_address(st, x)
    c[W] = address_or_zero(st, w)
    c[EPS], c[SUBTRACTS] = attribute(frame, EPSILON), attribute(frame, CENTERED)
    c[SHARE] = share_of(rows, n)
    return (rows + c[SHARE] - 1) // c[SHARE]


def _forward_kernel(dtype: int, result_dtype: int) -> Any:
    forward = make_norm_rows(dtype)

    def kernel(st, frame):
        context = stack_words(16)
        count = _describe(st, frame, input_slot(frame, 0), input_slot(frame, 1), context)
        c = int64_at(context)
        c[B] = address_or_zero(st, input_slot(frame, 2))
        c[Y], c[MEAN] = address_or_zero(st, output_slot(frame, 0)), data_address(st, output_slot(frame, 1))
        c[RSTD] = data_address(st, output_slot(frame, 2))
        return parallel_for(state_of(st).pool, forward, context, count)

    return kernel


def _project_kernel(dtype: int, result_dtype: int) -> Any:
    backward, _ = make_norm_rows_backward(dtype)

    def kernel(st, frame):
        context = stack_words(16)
        count = _describe(st, frame, input_slot(frame, 1), -1, context)
        c = int64_at(context)
        c[G], c[GX] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        c[MEAN], c[RSTD] = data_address(st, input_slot(frame, 2)), data_address(st, input_slot(frame, 3))
        return parallel_for(state_of(st).pool, backward, context, count)

    return kernel


def _backward_kernel(dtype: int, result_dtype: int) -> Any:
    backward, merge = make_norm_rows_backward(dtype)
    size = ITEM_BYTES[dtype]

    def kernel(st, frame):
        context = stack_words(16)
        w = input_slot(frame, 2)
        count = _describe(st, frame, input_slot(frame, 1), w, context)
        c = int64_at(context)
        c[G], c[GX] = data_address(st, input_slot(frame, 0)), address_or_zero(st, output_slot(frame, 0))
        c[MEAN], c[RSTD] = data_address(st, input_slot(frame, 3)), data_address(st, input_slot(frame, 4))
        factors = slot_of(st, w).numel if w >= 0 else 0
        index = size_class(2 * max(count, 1) * factors * size)
        c[PARTS] = take_block(st, index)
        if c[PARTS] == 0:
            return OUT_OF_MEMORY
        status = parallel_for(state_of(st).pool, backward, context, count)
        for k in range(1, 3):
            out = output_slot(frame, k)
            merge(c[PARTS] + (k - 1) * factors * size, count, factors, data_address(st, out), slot_of(st, out).numel)
        give_block(st, c[PARTS], index)
        return status

    return kernel


# ---- references ----


def _forward_reference(x: Any, w: Any, b: Any, *, attributes: Any) -> Any:
    x_hat, mean, rstd = standardized(x, attributes)
    return x_hat * (1 if w is None else w) + (0 if b is None else b), mean, rstd


def _backward_reference(g: Any, x: Any, w: Any, mean: Any, rstd: Any, *, attributes: Any) -> Any:
    axes = axes_of(attributes[MASK])
    x_hat = standardized(x, attributes)[0]
    rstd = standardized(x, attributes)[2]
    a = g * (1 if w is None else w)
    middle = a.mean(axes, keepdims=True) * attributes[CENTERED]
    gx = rstd * (a - middle - x_hat * (a * x_hat).mean(axes, keepdims=True))
    return (gx, np.zeros(()), np.zeros(())) if w is None else (gx, _summed_to(g * x_hat, w), _summed_to(g, w))


def _summed_to(values: Any, like: Any) -> Any:
    lead = values.ndim - like.ndim
    axes = tuple(range(lead)) + tuple(lead + d for d in range(like.ndim) if like.shape[d] == 1)
    return values.sum(axes, keepdims=True).reshape(like.shape)


# ---- declarations ----


def _first(results: Any) -> Any:
    return results[0]


def _forward_samples(make: Any) -> Any:
    layer, group = (FLOAT64, 0b10, 1, 0, 0.01), (FLOAT64, 0b1100, 1, 0, 0.01)
    only = {"dtypes": ("float64",), "after": _first, "layouts": ()}
    return [
        ((make(3, 5), make(5), make(5)), {"attributes": (*layer, 1)}, only),
        ((make(3, 5), None, None), {"attributes": (*layer, 1)}, only),
        ((make(3, 5), make(5), None), {"attributes": (*layer, 0)}, only),
        ((make(2, 3, 2, 4), make(3, 2, 1), make(3, 2, 1)), {"attributes": (*group, 1)}, only),
        ((make(0, 5), make(5), make(5)), {"attributes": (*layer, 1)}, {**only, "gradient": False}),
    ]


def _backward_samples(make: Any) -> Any:
    only = {"dtypes": ("float64",), "layouts": (), "gradient": False}
    for shape, weight, mask, centered in [
        ((3, 5), (5,), 0b10, 1),
        ((3, 5), None, 0b10, 0),
        ((2, 2, 3, 4), (2, 3, 1), 0b1100, 1),
    ]:
        x = make(*shape)
        words = (FLOAT64, mask, 1, 0, 0.01, centered)
        _, mean, rstd = standardized(x, words)
        w = None if weight is None else make(*weight)
        yield (make(*shape), x, w, mean, rstd), {"attributes": words}, only


def _backward_rule(h: Any, y: Any, g: Any, x: Any, w: Any, mean: Any, rstd: Any) -> Any:
    """Return the gradients of <h0, gx> + <h1, gw> + <h2, gb>, where gx = P(a), a = g w and gw = sum(g x^).

    For g: P(h0) w + h1 x^ + h2; for w: the sum of P(h0) g; for x, where x^ moves as P says and 1 / std as own_rstd,
    P(h1 g - rstd (h0 m(a x^) + a m(h0 x^))) - rstd x^ m(h0 gx).
    """
    factor = w.present_or_one(x)
    x_hat, scale = own(x, mean, rstd)
    hx = h[0] + x.zeros_like()  # of x's shape, where gx was not asked for too

    def p(values: Any) -> Any:
        return values.norm_rows_project(x, mean, rstd, attributes=OF_ENTRY)

    straight = p(hx)
    bent = bent_by(hx, g * factor, g * h[1], x, x_hat, scale)
    gradient_for_x = p(bent) - scale * x_hat * mean_over(hx * y[0], x)
    return straight * factor + h[1] * x_hat + h[2], gradient_for_x, straight * g, None, None


def _project_reference(q: Any, x: Any, mean: Any, rstd: Any, *, attributes: Any) -> Any:
    return _backward_reference(q, x, None, mean, rstd, attributes=attributes)[0]


def project_infer(st, frame):
    copy_shape(st, input_slot(frame, 1), output_slot(frame, 0))
    return 0 if same_shape(slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))) else BAD_ARGUMENT


def _fits(at: int, weight: int | None = None, bias: int | None = None) -> Rule:
    """The mask has the last dimensions; a weight is as the head of this file says, and a bias as the weight."""

    def rule(x: Operands, a: Attributes) -> bool:
        shape = needed(x, at).shape
        n = len(masked(a[MASK], shape)) if len(a) > CENTERED else 0
        if n == 0 or a[KEEPDIM] != 1 or a[MASK] != (1 << len(shape)) - (1 << (len(shape) - n)):
            return False
        factor = None if weight is None else given(x, weight)
        shift = None if bias is None else given(x, bias)
        if factor is None:
            return shift is None
        shapes = [shape[-n:], (*shape[1:3], 1)] if (len(shape), n) == (4, 2) else [shape[-n:]]
        return factor.shape in shapes and (shift is None or shift.shape == factor.shape)

    return rule


def _rows(at: int) -> Callable[[Operands, Attributes], int]:
    """Return what counts the rows of an operand."""
    return lambda x, a: math.prod(n for d, n in enumerate(needed(x, at).shape) if not a[MASK] >> d & 1)


NORM_ROWS = declare(
    Op(
        name="norm_rows",
        valid=_fits(0, 1, 2),
        inputs=("input", "weight", "bias"),
        optional=("weight", "bias"),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=3,
        spared=(0,),
        infer=forward_infer,
        kernel=_forward_kernel,
        vjp=lambda g, y, x, w, b: g[0].norm_rows_backward(x, w, y[1], y[2], attributes=OF_ENTRY).results(3),
        contiguous=("input", "weight", "bias"),
        public=False,
        reference=_forward_reference,
        samples=_forward_samples,
        math="(x - mean) / sqrt(var + eps) w + b; the mean; 1 / sqrt(var + eps)",
    )
)
declare(
    Op(
        name="norm_rows_backward",
        valid=every(_fits(1, 2), with_numel(_rows(1), 3, 4)),
        inputs=("g", "input", "weight", "mean", "rstd"),
        optional=("weight",),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=3,
        spared=(0,),
        infer=backward_infer,
        kernel=_backward_kernel,
        vjp=_backward_rule,
        contiguous=("g", "input", "weight", "mean", "rstd"),
        public=False,
        reference=_backward_reference,
        samples=_backward_samples,
        math="rstd (a - m(a) - x^ m(a x^)), a = g w; the sum of g x^; the sum of g",
    )
)
declare(
    Op(
        name="norm_rows_project",
        valid=every(_fits(1), with_numel(_rows(1), 2, 3)),
        inputs=("g", "input", "mean", "rstd"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=project_infer,
        kernel=_project_kernel,
        vjp=make_project_rule("norm_rows_project"),
        contiguous=("g", "input", "mean", "rstd"),
        public=False,
        reference=_project_reference,
        samples=lambda make: [((a[0], a[1], a[3], a[4]), *rest) for a, *rest in _backward_samples(make)],
        math="rstd (g - m(g) - x^ m(g x^))",
    )
)

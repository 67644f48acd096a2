"""The ops of batch norm: over all dimensions but the second, in training and in use.

Attributes: those of an op along dimensions (result dtype, mask, keepdim 0, 0), then eps, 1 (the mean is subtracted)
and momentum; a negative momentum stands for the running mean of all batches (1 / the number of batches). The op of
training writes the running statistics and the number of batches, so whatever replays it does so too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.norm_channels import (
    CHANNELS,
    EPS,
    GB,
    GW,
    GX,
    MEAN,
    MOMENTUM,
    RSTD,
    RUNNING_MEAN,
    RUNNING_VAR,
    SAMPLES,
    SHARE,
    SIZE,
    B,
    G,
    W,
    X,
    Y,
    channels_a_task,
    make_affine_channels,
    make_norm_channels,
    make_norm_channels_backward,
)
from tapegrad.kernels.norm_rows import share_of
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, POINTERS, UINT8
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import float64_bits, float64_from_bits, int64_at, stack_words
from tapegrad.ops.normalization_rows import backward_infer, project_infer, result_and_statistics
from tapegrad.ops.normalization_rules import (
    EPSILON,
    address_or_zero,
    bent_by,
    like_first_infer,
    make_project_rule,
    mean_over,
    own,
    spread,
    standardized,
)
from tapegrad.ops.reduction_rules import KEEPDIM, MASK
from tapegrad.ops.references import axes_of
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import (
    Attributes,
    Operands,
    at_least,
    attributes,
    every,
    given,
    int64,
    needed,
    one_dtype,
    with_numel,
)
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    attribute,
    data_address,
    input_slot,
    item_bytes,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    storage_of,
)

_MOMENTUM = 6
uint8_at = POINTERS[UINT8]


@jit
def _describe(st, frame, x, w, context):
    """Write how the operands x and weight (-1 for none) lie into the context; return the number of tasks."""
    c = int64_at(context)
    row = slot_of(st, x)
    size = 1
    for d in range(2, row.ndim):
        size *= shape_in(row)[d]
    c[SAMPLES], c[CHANNELS], c[SIZE] = shape_in(row)[0], shape_in(row)[1], size
    c[X], c[W] = data_address(st, x), address_or_zero(st, w)
    c[EPS] = attribute(frame, EPSILON)
    for k in (B, GW, GB, RUNNING_MEAN, RUNNING_VAR):
        c[k] = 0
    c[SHARE] = channels_a_task(c[SAMPLES], c[CHANNELS], max(size, 1))
    return (c[CHANNELS] + c[SHARE] - 1) // c[SHARE] if row.numel > 0 else 0


@jit
def _clear_if_empty(st, frame):
    """Write zeros where there is one number a channel if there is nothing to compute them from."""
    if slot_of(st, output_slot(frame, 0)).numel > 0:
        return
    for k in range(1, 3):
        y = slot_of(st, output_slot(frame, k))
        bytes_at = uint8_at(data_address(st, output_slot(frame, k)))
        for i in range(y.numel * item_bytes(y.dtype)):
            bytes_at[i] = 0


def training_infer(st, frame):
    for k in range(3, 6):
        slot = input_slot(frame, k)
        if slot < 0:
            continue
        if storage_of(st, slot).read_only:
            return READ_ONLY
        if not slot_of(st, slot).flags & CONTIGUOUS:
            return BAD_ARGUMENT
    return result_and_statistics(st, frame)


def _forward_kernel(dtype: int, result_dtype: int) -> Any:
    forward = make_norm_channels(dtype)

    def kernel(st, frame):
        context = stack_words(18)
        count = _describe(st, frame, input_slot(frame, 0), input_slot(frame, 1), context)
        c = int64_at(context)
        c[B], c[Y] = address_or_zero(st, input_slot(frame, 2)), data_address(st, output_slot(frame, 0))
        c[MEAN], c[RSTD] = data_address(st, output_slot(frame, 1)), data_address(st, output_slot(frame, 2))
        c[RUNNING_MEAN] = address_or_zero(st, input_slot(frame, 3))
        c[RUNNING_VAR] = address_or_zero(st, input_slot(frame, 4))
        c[MOMENTUM] = attribute(frame, _MOMENTUM)
        _clear_if_empty(st, frame)
        if input_slot(frame, 5) >= 0:
            batches = int64_at(data_address(st, input_slot(frame, 5)))
            batches[0] += 1
            if float64_from_bits(c[MOMENTUM]) < 0:
                c[MOMENTUM] = float64_bits(1.0 / batches[0])
        return parallel_for(state_of(st).pool, forward, context, count)

    return kernel


def _backward_kernel(dtype: int, result_dtype: int) -> Any:
    backward = make_norm_channels_backward(dtype)

    def kernel(st, frame):
        context = stack_words(18)
        count = _describe(st, frame, input_slot(frame, 1), input_slot(frame, 2), context)
        c = int64_at(context)
        c[G], c[GX] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        c[MEAN], c[RSTD] = data_address(st, input_slot(frame, 3)), data_address(st, input_slot(frame, 4))
        c[GW], c[GB] = data_address(st, output_slot(frame, 1)), data_address(st, output_slot(frame, 2))
        _clear_if_empty(st, frame)
        return parallel_for(state_of(st).pool, backward, context, count)

    return kernel


def _project_kernel(dtype: int, result_dtype: int) -> Any:
    backward = make_norm_channels_backward(dtype)

    def kernel(st, frame):
        context = stack_words(18)
        count = _describe(st, frame, input_slot(frame, 1), -1, context)
        c = int64_at(context)
        c[G], c[GX] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        c[MEAN], c[RSTD] = data_address(st, input_slot(frame, 2)), data_address(st, input_slot(frame, 3))
        return parallel_for(state_of(st).pool, backward, context, count)

    return kernel


def _affine_kernel(dtype: int, result_dtype: int) -> Any:
    affine = make_affine_channels(dtype)

    def kernel(st, frame):
        context = stack_words(18)
        shift = input_slot(frame, 2) if int64_at(frame)[3] > 2 else -1
        _describe(st, frame, input_slot(frame, 0), input_slot(frame, 1), context)
        c = int64_at(context)
        c[B], c[Y] = address_or_zero(st, shift), data_address(st, output_slot(frame, 0))
        c[SHARE] = share_of(c[SAMPLES], c[CHANNELS] * c[SIZE])
        return parallel_for(state_of(st).pool, affine, context, (c[SAMPLES] + c[SHARE] - 1) // c[SHARE])

    return kernel


# ---- references ----


def _broad(values: Any, x: Any) -> Any:
    return np.reshape(values, (1, -1, *[1] * (x.ndim - 2)))


def _standardized(x: Any, attributes: Any) -> tuple[Any, Any, Any]:
    x_hat, mean, rstd = standardized(x, attributes)
    return x_hat, mean.reshape(-1), rstd.reshape(-1)


def _forward_reference(x: Any, w: Any, b: Any, *running: Any, attributes: Any) -> Any:
    x_hat, mean, rstd = _standardized(x, attributes)
    return x_hat * _broad(w, x) + (0 if b is None else _broad(b, x)), mean, rstd


def _backward_reference(g: Any, x: Any, w: Any, mean: Any, rstd: Any, *, attributes: Any) -> Any:
    axes = axes_of(attributes[MASK])
    x_hat, _, rstd = _standardized(x, attributes)
    a = g * _broad(w, x)
    gx = _broad(rstd, x) * (a - _broad(a.mean(axes), x) - x_hat * _broad((a * x_hat).mean(axes), x))
    return gx, (g * x_hat).sum(axes), g.sum(axes)


def _backward_rule(h: Any, y: Any, g: Any, x: Any, w: Any, mean: Any, rstd: Any) -> Any:
    """Return what normalization_rows' rule does, with factors that are spread over channels."""
    x_hat, scale = own(x, mean, rstd)
    factor = spread(w, x)
    # of the operands' shapes, where a gradient was not asked for too
    hx, hw, hb = h[0] + x.zeros_like(), spread(h[1] + w.zeros_like(), x), spread(h[2] + w.zeros_like(), x)

    def p(values: Any) -> Any:
        return values.norm_channels_project(x, mean, rstd, attributes=OF_ENTRY)

    straight = p(hx)
    bent = bent_by(hx, g * factor, g * hw, x, x_hat, scale)
    gradient_for_x = p(bent) - scale * x_hat * mean_over(hx * y[0], x)
    gradient_for_w = (straight * g).sum(attributes=OF_ENTRY)
    return straight * factor + hw * x_hat + hb, gradient_for_x, gradient_for_w, None, None


# ---- samples ----

_ONLY = {"dtypes": ("float64",), "layouts": ()}


def _words(ndim: int) -> tuple[Any, ...]:
    return (FLOAT64, (1 << ndim) - 3, 0, 0, 0.01, 1, 0.1)


def _forward_samples(make: Any) -> Any:
    for shape, bias in [((4, 3), True), ((2, 3, 5), False), ((2, 2, 14, 14), True)]:
        c = shape[1]
        operands = (make(*shape), make(c), make(c) if bias else None, None, None, None)
        second = {} if len(shape) < 4 else {"gradient": False}
        yield operands, {"attributes": _words(len(shape))}, {**_ONLY, **second, "after": lambda results: results[0]}


def _backward_samples(make: Any) -> Any:
    for shape in [(4, 3), (2, 3, 5), (2, 2, 14, 14)]:
        x, words = make(*shape), _words(len(shape))
        _, mean, rstd = _standardized(x, words)
        operands = (make(*shape), x, make(shape[1]), mean, rstd)
        yield operands, {"attributes": words}, {**_ONLY, "gradient": False}


def _affine_samples(make: Any) -> Any:
    for shape in [(4, 3), (2, 3, 5)]:
        yield (make(*shape), make(3), make(3)), {"attributes": _words(len(shape))}, _ONLY


def _channels(at: int) -> Callable[[Operands, Attributes], int]:
    return lambda x, a: needed(x, at).shape[1]


def _keeps_channels(x: Operands, a: Attributes) -> bool:
    ndim = len(needed(x, 0).shape)
    if (given(x, 3) is None) != (given(x, 4) is None):  # half of the running statistics
        return False
    return len(a) > _MOMENTUM and a[MASK] == (1 << ndim) - 1 & ~0b10 and a[KEEPDIM] == 0


BATCH_NORM = declare(
    Op(
        name="norm_channels",
        valid=every(
            at_least(2),
            _keeps_channels,
            one_dtype(0, 1, 2, 3, 4),
            int64(5),
            with_numel(_channels(0), 1, 2, 3, 4),
            with_numel(lambda x, a: 1, 5),
        ),
        inputs=("input", "weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
        optional=("bias", "running_mean", "running_var", "num_batches_tracked"),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=3,
        infer=training_infer,
        kernel=_forward_kernel,
        vjp=lambda g, y, x, w, b, *_: (
            *g[0].norm_channels_backward(x, w, y[1], y[2], attributes=OF_ENTRY).results(3),
            None,
            None,
            None,
        ),
        unpromoted=("running_mean", "running_var", "num_batches_tracked"),
        contiguous=("input", "weight", "bias"),
        writes=("running_mean", "running_var", "num_batches_tracked"),
        public=False,
        reference=_forward_reference,
        samples=_forward_samples,
        math="(x - mean) / sqrt(var + eps) w + b for each channel; the mean; 1 / sqrt(var + eps)",
    )
)
declare(
    Op(
        name="norm_channels_backward",
        valid=every(at_least(2, 1), attributes(5), with_numel(_channels(1), 2, 3, 4)),
        inputs=("g", "input", "weight", "mean", "rstd"),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=3,
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
        name="norm_channels_project",
        valid=every(at_least(2, 1), attributes(5), with_numel(_channels(1), 2, 3)),
        inputs=("g", "input", "mean", "rstd"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=project_infer,
        kernel=_project_kernel,
        vjp=make_project_rule("norm_channels_project"),
        contiguous=("g", "input", "mean", "rstd"),
        public=False,
        reference=lambda q, x, mean, rstd, *, attributes: _backward_reference(
            q, x, np.ones(x.shape[1]), mean, rstd, attributes=attributes
        )[0],
        samples=lambda make: [((a[0], a[1], a[3], a[4]), *rest) for a, *rest in _backward_samples(make)],
        math="rstd (g - m(g) - x^ m(g x^))",
    )
)
AFFINE_CHANNELS = declare(
    Op(
        name="affine_channels",
        valid=every(at_least(2), attributes(5), with_numel(_channels(0), 1, 2)),
        inputs=("input", "scale", "shift"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=like_first_infer,
        kernel=_affine_kernel,
        vjp=lambda g, y, x, scale, shift: (
            g.scale_channels(scale, attributes=OF_ENTRY),
            (g * x).sum(attributes=OF_ENTRY),
            g.sum(attributes=OF_ENTRY),
        ),
        contiguous=("input", "scale", "shift"),
        public=False,
        reference=lambda x, w, b, *, attributes: x * _broad(w, x) + _broad(b, x),
        samples=_affine_samples,
        math="x w + b for each channel",
    )
)
declare(
    Op(
        name="scale_channels",
        valid=every(at_least(2), attributes(5), with_numel(_channels(0), 1)),
        inputs=("input", "scale"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=like_first_infer,
        kernel=_affine_kernel,
        vjp=lambda g, y, x, scale: (g.scale_channels(scale, attributes=OF_ENTRY), (g * x).sum(attributes=OF_ENTRY)),
        contiguous=("input", "scale"),
        public=False,
        reference=lambda x, w, *, attributes: x * _broad(w, x),
        samples=lambda make: [((a[0], a[1]), *rest) for a, *rest in _affine_samples(make)],
        math="x w for each channel",
    )
)

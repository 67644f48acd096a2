"""The ops of cross entropy and negative log likelihood on class indices; all derivatives of any order are among them.

Operands: logits or log probabilities [rows, classes], int64 targets [rows], weights of the classes or none. Attributes:
those of a softmax along dimension 1, then reduction (none, mean, sum), the target to ignore, label smoothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.cross_entropy import (
    BOTH,
    GRADIENT,
    LOSS,
    MEAN,
    NONE,
    SCALE,
    SCALE_SUM,
    TANGENT,
    bad_target,
    make_cross_entropy,
    make_target_sums,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, INT64, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at
from tapegrad.ops.normalization_rules import copy_shape
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, needed
from tapegrad.runtime.layout import (
    BAD_INDEX,
    GENERAL,
    attribute,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

REDUCTION, IGNORED, SMOOTHING = 4, 5, 6


@jit
def _set_shape(st, frame, rows, classes, target):
    y = slot_of(st, output_slot(frame, 0))
    t = slot_of(st, input_slot(frame, target))
    y.ndim = (1 if rows else 0) + (1 if classes > 0 else 0)
    if rows:
        shape_in(y)[0] = shape_in(t)[0]
    if classes > 0:
        shape_in(y)[1] = classes
    return 0


def loss_infer(st, frame):
    target = input_count(frame) - 2
    return _set_shape(st, frame, attribute(frame, REDUCTION) == NONE, 0, target)


def like_x_infer(st, frame):
    target = input_count(frame) - 2
    x = slot_of(st, input_slot(frame, target - 1))
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 2
    shape_in(y)[0] = shape_in(x)[0]
    shape_in(y)[1] = shape_in(x)[1]
    return 0


def both_infer(st, frame):
    """Set the shapes of the loss and of the gradient for x."""
    copy_shape(st, input_slot(frame, 1), output_slot(frame, 1))
    return _set_shape(st, frame, attribute(frame, REDUCTION) == NONE, 0, 2)


def column_infer(st, frame):
    target = input_count(frame) - 2
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 2
    shape_in(y)[0] = shape_in(slot_of(st, input_slot(frame, target)))[0]
    shape_in(y)[1] = 1
    return 0


@jit
def address_or_zero(st, slot):
    return data_address(st, slot) if slot >= 0 else 0


@jit
def check_targets(st, t_address, rows, classes, ignored):
    """Return BAD_INDEX, with the target for the message, where one is no class."""
    bad = bad_target(t_address, rows, classes, ignored)
    if bad < 0:
        return 0
    state_of(st).error_value0 = int64_at(t_address)[bad]
    state_of(st).error_value1 = classes
    return BAD_INDEX


def _kernel(mode: int) -> Callable[[int, int], Callable[..., int]]:
    gradient = int(mode == BOTH)  # the number of the result that is one

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        run = make_cross_entropy(dtype, mode)

        def kernel(st, frame):
            at = input_count(frame) - 3  # the position of x
            x = slot_of(st, input_slot(frame, at))
            rows, n = shape_in(x)[0], shape_in(x)[1]
            t = data_address(st, input_slot(frame, at + 1))
            status = check_targets(st, t, rows, n, attribute(frame, IGNORED))
            if status < 0:
                return status
            return run(
                state_of(st).pool, data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, at)), t,
                address_or_zero(st, input_slot(frame, at + 2)), data_address(st, output_slot(frame, gradient)),
                data_address(st, output_slot(frame, 0)), rows, n, attribute(frame, REDUCTION),
                attribute(frame, IGNORED), float64_from_bits(attribute(frame, SMOOTHING)),
            )  # fmt: skip

        return kernel

    return make


def _shares(t: Any, w: Any, classes: int, attributes: tuple[Any, ...]) -> Any:
    """Return q, a as a column, and what a gradient is divided by: see kernels/cross_entropy.py."""
    counted = t != attributes[IGNORED]
    w = np.ones(classes) if w is None else w
    row_weights = np.where(counted, w[np.where(counted, t, 0)], 0.0)
    smoothing = attributes[SMOOTHING] if len(attributes) > SMOOTHING else 0.0
    q = (1 - smoothing) * row_weights[:, None] * (np.arange(classes) == t[:, None])
    q = q + smoothing / classes * counted[:, None] * w
    return q, q.sum(1, keepdims=True), row_weights.sum() if attributes[REDUCTION] == MEAN else 1.0


def _reduced(rows: Any, divisor: Any, attributes: tuple[Any, ...]) -> Any:
    return rows if attributes[REDUCTION] == NONE else rows.sum() / divisor


def _softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def _loss_reference(x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    q, a, divisor = _shares(t, w, x.shape[1], attributes)
    return _reduced(a[:, 0] * np.log(np.exp(x).sum(1)) - (q * x).sum(1), divisor, attributes)


def _gradient_reference(g: Any, x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    q, a, divisor = _shares(t, w, x.shape[1], attributes)
    return g.reshape(-1, 1) / divisor * (a * _softmax(x) - q)


def _both_reference(g: Any, *operands: Any, attributes: tuple[Any, ...]) -> Any:
    loss = _loss_reference(*operands, attributes=attributes)
    return loss, _gradient_reference(g, *operands, attributes=attributes)


def _tangent_reference(h: Any, x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    q, a, divisor = _shares(t, w, x.shape[1], attributes)
    return _reduced((h * (a * _softmax(x) - q)).sum(1), divisor, attributes)


def _scale_reference(g: Any, x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    _, a, divisor = _shares(t, w, x.shape[1], attributes)
    return np.broadcast_to(g.reshape(-1, 1) / divisor, a.shape) * a


def _scale_sum_reference(h: Any, x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    _, a, divisor = _shares(t, w, x.shape[1], attributes)
    return _reduced((h * a)[:, 0], divisor, attributes)


def _likelihood_reference(x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    q, _, divisor = _shares(t, w, x.shape[1], attributes)
    return _reduced(-(q * x).sum(1), divisor, attributes)


def _likelihood_gradient(g: Any, x: Any, t: Any, w: Any, *, attributes: tuple[Any, ...]) -> Any:
    q, _, divisor = _shares(t, w, x.shape[1], attributes)
    return g.reshape(-1, 1) / divisor * -q


_SHAPES = {"logits": (4, 5), "column": (4, 1)}


def _samples(*operands: str, smoothing: bool = True) -> Callable[..., Any]:
    """Return samples of all reductions, with and without weights, with an ignored target.

    The operands before the target are named: "logits", a "column" or, like the result of the reduction, a "loss".
    """

    def samples(make: Any) -> Any:
        for reduction, weighted in [(reduction, weighted) for reduction in range(3) for weighted in (False, True)]:
            loss = (4,) if reduction == NONE else ()
            arrays = [make(*_SHAPES.get(name, loss)) for name in operands]
            weight = make(5, low=0.5) if weighted else None
            words = (FLOAT64, 0b10, 1, 0, reduction, 2, 0.1 if smoothing and weighted else 0.0)
            yield (*arrays, np.array([1, 2, 4, 0]), weight), {"attributes": words}, {"fixed": (len(arrays) + 1,)}

    return samples


def _fit(first: str) -> Rule:
    """Operands: one like "logits", "column" or "loss" (or none), x, a target for each row, class weights or none."""

    def rule(x: Operands, a: Attributes) -> bool:
        if len(a) <= SMOOTHING or a[REDUCTION] not in range(3):
            return False
        logits, target, weight = needed(x, len(x) - 3), needed(x, len(x) - 2), x[-1]
        if len(logits.shape) != 2 or logits.shape[1] == 0 or target.dtype != INT64 or target.shape != logits.shape[:1]:
            return False
        if weight is not None and (weight.dtype != logits.dtype or weight.shape != logits.shape[1:]):
            return False
        loss = target.shape if a[REDUCTION] == NONE else ()
        shape = {"logits": logits.shape, "column": (*target.shape, 1), "loss": loss}[first]
        return needed(x, 0).dtype == logits.dtype and needed(x, 0).shape == shape

    return rule


def _declare(
    name: str, inputs: tuple[str, ...], infer: Any, kernel: Any, vjp: Any, math: str, first: str, **more: Any
) -> Op:
    return declare(
        Op(
            name=name,
            inputs=inputs,
            optional=("weight",),
            kind=GENERAL,
            infer=infer,
            valid=_fit(first),
            kernel=kernel,
            vjp=vjp,
            dtypes=FLOATS,
            unpromoted=("target", "weight", *more.get("shape_only", ())),
            contiguous=tuple(i for i in inputs if i not in more.get("shape_only", ())),
            public=False,
            math=math,
            **more,
        )
    )


def _curvature(g: Any, h: Any, x: Any, t: Any, w: Any) -> Any:
    """Return the gradient for x of g.(loss's change along h): u a (p h - p (p.h)), row by row."""
    scaled = h * g.ce_scale(x, t, w, attributes=OF_ENTRY)
    return scaled.softmax_backward(x.softmax(attributes=OF_ENTRY), attributes=OF_ENTRY)


_ROWS = ("input", "target", "weight")
CROSS_ENTROPY = _declare(
    "cross_entropy_rows",
    _ROWS,
    loss_infer,
    _kernel(LOSS),
    lambda g, y, x, t, w: (g.ce_gradient(x, t, w, attributes=OF_ENTRY), None, None),
    "a log(sum(e**x)) - q.x",
    "logits",
    reference=_loss_reference,
    samples=_samples("logits"),
)
_declare(
    "ce_gradient",
    ("g", *_ROWS),
    like_x_infer,
    _kernel(GRADIENT),
    lambda h, y, g, x, t, w: (h.ce_tangent(x, t, w, attributes=OF_ENTRY), _curvature(g, h, x, t, w), None, None),
    "u (a softmax(x) - q)",
    "loss",
    reference=_gradient_reference,
    samples=_samples("loss", "logits"),
)
_declare(
    "cross_entropy_and_gradient",
    ("g", *_ROWS),
    both_infer,
    _kernel(BOTH),
    None,
    "a log(sum(e**x)) - q.x; u (a softmax(x) - q)",
    "loss",
    outputs=2,
    joins=("cross_entropy_rows", "ce_gradient"),
    reference=_both_reference,
    samples=_samples("loss", "logits"),
)
_declare(
    "ce_tangent",
    ("h", *_ROWS),
    loss_infer,
    _kernel(TANGENT),
    lambda g, y, h, x, t, w: (g.ce_gradient(x, t, w, attributes=OF_ENTRY), _curvature(g, h, x, t, w), None, None),
    "h.(a softmax(x) - q)",
    "logits",
    reference=_tangent_reference,
    samples=_samples("logits", "logits"),
)
_declare(
    "ce_scale",
    ("g", *_ROWS),
    column_infer,
    _kernel(SCALE),
    lambda h, y, g, x, t, w: (h.ce_scale_sum(x, t, w, attributes=OF_ENTRY), None, None, None),
    "u a",
    "loss",
    reference=_scale_reference,
    samples=_samples("loss", "logits"),
    shape_only=("input",),
)
_declare(
    "ce_scale_sum",
    ("h", *_ROWS),
    loss_infer,
    _kernel(SCALE_SUM),
    lambda g, y, h, x, t, w: (g.ce_scale(x, t, w, attributes=OF_ENTRY), None, None, None),
    "the transpose of u a",
    "column",
    reference=_scale_sum_reference,
    samples=_samples("column", "logits"),
    shape_only=("input",),
)


def _likelihood_kernel(backward: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        pointer, scalar = POINTERS[dtype], SCALARS[dtype]
        weight_of, weight_sum = make_target_sums(dtype)

        def kernel(st, frame):
            at = input_count(frame) - 3
            row = slot_of(st, input_slot(frame, at))
            rows, n = shape_in(row)[0], shape_in(row)[1]
            reduction, ignored = attribute(frame, REDUCTION), attribute(frame, IGNORED)
            t_address = data_address(st, input_slot(frame, at + 1))
            status = check_targets(st, t_address, rows, n, ignored)
            if status < 0:
                return status
            t = int64_at(t_address)
            w = address_or_zero(st, input_slot(frame, at + 2))
            a = pointer(data_address(st, input_slot(frame, 0)))  # x, or g
            y = pointer(data_address(st, output_slot(frame, 0)))
            divisor = weight_sum(w, t_address, rows, ignored) if reduction == MEAN else 1.0
            if backward:
                for i in range(np.uintp(rows * n)):
                    y[i] = scalar(0)
            total = 0.0
            for r in range(rows):
                value = 0.0
                if t[r] != ignored and backward:
                    u = np.float64(a[r if reduction == NONE else 0])
                    y[r * n + t[r]] = scalar(-u * weight_of(w, t[r]) / divisor)
                elif t[r] != ignored:
                    value = -weight_of(w, t[r]) * np.float64(a[r * n + t[r]])
                if not backward and reduction == NONE:
                    y[r] = scalar(value)
                total += value
            if not backward and reduction != NONE:
                y[0] = scalar(total / divisor)
            return 0

        return kernel

    return make


NLL = _declare(
    "nll_rows",
    _ROWS,
    loss_infer,
    _likelihood_kernel(False),
    lambda g, y, x, t, w: (g.nll_gradient(x, t, w, attributes=OF_ENTRY), None, None),
    "-w_t x_t",
    "logits",
    reference=_likelihood_reference,
    samples=_samples("logits", smoothing=False),
)
_declare(
    "nll_gradient",
    ("g", *_ROWS),
    like_x_infer,
    _likelihood_kernel(True),
    lambda h, y, g, x, t, w: (h.nll_rows(t, w, attributes=OF_ENTRY), None, None, None),
    "-u w_t at t",
    "loss",
    reference=_likelihood_gradient,
    samples=_samples("loss", "logits", smoothing=False),
    shape_only=("input",),
)

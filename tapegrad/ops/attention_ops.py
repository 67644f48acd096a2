"""The ops of attention: the fused one, its backward op, and what only their second derivatives and weights need.

Operands are [batch, heads, length, width], of any strides but with contiguous rows, and may be expanded; the mask is
expanded to [batch, heads, length, keys]. Attributes: those of an op along dimension 3 (result dtype, mask, keepdim 1,
0), then the scale, the probability of dropout, whether causal, and whether the result is [batch, length, heads, width].
The second result holds the logarithms of the rows' sums, and behind them where the generator stood, by which the
backward pass makes the same dropout again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.attention import (
    BATCHES,
    BLOCKS,
    BOOL_MASK,
    CAUSAL,
    DROPOUT,
    FLOAT_MASK,
    G_STRIDES,
    GK,
    GQ,
    GV,
    HEADS,
    K_STRIDES,
    KEYS,
    LENGTH,
    LSE,
    MARK,
    MASK_KIND,
    MASK_STRIDES,
    MOST_WIDTH,
    NO_MASK,
    O_STRIDES,
    Q_STRIDES,
    SCALE,
    SHARE,
    TASK_ROWS,
    TASK_WORK,
    V_STRIDES,
    VALUE_WIDTH,
    WIDTH,
    G,
    K,
    O,
    Q,
    V,
    make_attention,
    make_attention_backward,
    make_attention_drop,
    make_attention_weights,
)
from tapegrad.kernels.attention import (
    MASK as MASK_ADDRESS,
)
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import float64_from_bits, int64_at, stack_words
from tapegrad.ops.normalization_rules import copy_shape
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import (
    Attributes,
    Operands,
    Rule,
    attributes,
    every,
    generator,
    given,
    is_few,
    needed,
    with_numel,
)
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    VIEW,
    attribute,
    data_address,
    input_slot,
    item_bytes,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

_SCALE, _DROPOUT, _CAUSAL, _HEADS_LAST = 4, 5, 6, 7
_MARK_BYTES = 16


@jit
def _set_shape(st, slot, a, b, m, n):
    row = slot_of(st, slot)
    row.ndim = 4
    shape_in(row)[0] = a
    shape_in(row)[1] = b
    shape_in(row)[2] = m
    shape_in(row)[3] = n


@jit
def _fits(st, x, batches, heads, rows, columns, last_contiguous):
    """Return whether an operand has this shape, and contiguous rows where they are wanted."""
    row = slot_of(st, x)
    if row.ndim != 4:
        return False
    shape = shape_in(row)
    if shape[0] != batches or shape[1] != heads or shape[2] != rows or shape[3] != columns:
        return False
    return last_contiguous == 0 or strides_in(row)[3] == 1 or columns <= 1


@jit
def _check(st, q, k, v, mask):
    """Return 0 where the operands fit together, else BAD_ARGUMENT; Python has checked them before in torch's words."""
    if slot_of(st, q).ndim != 4 or slot_of(st, k).ndim != 4:
        return BAD_ARGUMENT
    shape, keys = shape_in(slot_of(st, q)), shape_in(slot_of(st, k))[2]
    if not _fits(st, q, shape[0], shape[1], shape[2], shape[3], 1):
        return BAD_ARGUMENT
    if not _fits(st, k, shape[0], shape[1], keys, shape[3], 1):
        return BAD_ARGUMENT
    if v >= 0 and not _fits(st, v, shape[0], shape[1], keys, shape_in(slot_of(st, v))[3], 1):
        return BAD_ARGUMENT
    if mask >= 0 and not _fits(st, mask, shape[0], shape[1], shape[2], keys, 0):
        return BAD_ARGUMENT
    return 0


@jit
def _stats_length(st, q):
    row = slot_of(st, q)
    return shape_in(row)[0] * shape_in(row)[1] * shape_in(row)[2]


def attention_infer(st, frame):
    q, k, v, mask = input_slot(frame, 0), input_slot(frame, 1), input_slot(frame, 2), input_slot(frame, 3)
    status = _check(st, q, k, v, mask)
    if status < 0:
        return status
    shape = shape_in(slot_of(st, q))
    width = shape_in(slot_of(st, v))[3]
    if attribute(frame, _HEADS_LAST):
        _set_shape(st, output_slot(frame, 0), shape[0], shape[2], shape[1], width)
    else:
        _set_shape(st, output_slot(frame, 0), shape[0], shape[1], shape[2], width)
    stats = slot_of(st, output_slot(frame, 1))
    stats.ndim = 1
    shape_in(stats)[0] = _stats_length(st, q) + _MARK_BYTES // item_bytes(stats.dtype)
    return 0


def backward_infer(st, frame):
    """Operands g, q, k, v, mask, o, stats."""
    q, k, v, mask = input_slot(frame, 1), input_slot(frame, 2), input_slot(frame, 3), input_slot(frame, 4)
    status = _check(st, q, k, v, mask)
    if status < 0:
        return status
    g, o = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 5))
    if g.ndim != 4 or o.ndim != 4:
        return BAD_ARGUMENT
    for d in range(4):
        if shape_in(g)[d] != shape_in(o)[d]:
            return BAD_ARGUMENT
    for j in range(3):
        copy_shape(st, input_slot(frame, 1 + j), output_slot(frame, j))
    return 0


@jit
def _strides_to(c, at, st, slot, heads_last):
    """Write the strides of batch, head and row."""
    strides = strides_in(slot_of(st, slot))
    c[at], c[at + 1], c[at + 2] = strides[0], strides[1], strides[2]
    if heads_last:
        c[at + 1], c[at + 2] = strides[2], strides[1]


@jit
def _describe(st, frame, q, k, v, mask, context):
    """Write sizes and operands into the context, one task for each head or for some small ones; return their number."""
    c = int64_at(context)
    row = slot_of(st, q)
    c[BATCHES], c[HEADS], c[LENGTH], c[WIDTH] = shape_in(row)[0], shape_in(row)[1], shape_in(row)[2], shape_in(row)[3]
    c[KEYS] = shape_in(slot_of(st, k))[2]
    c[VALUE_WIDTH] = shape_in(slot_of(st, v))[3] if v >= 0 else 0
    c[SCALE], c[DROPOUT], c[CAUSAL] = attribute(frame, _SCALE), attribute(frame, _DROPOUT), attribute(frame, _CAUSAL)
    c[Q], c[K] = data_address(st, q), data_address(st, k)
    _strides_to(c, Q_STRIDES, st, q, 0)
    _strides_to(c, K_STRIDES, st, k, 0)
    if v >= 0:
        c[V] = data_address(st, v)
        _strides_to(c, V_STRIDES, st, v, 0)
    c[MASK_ADDRESS], c[MASK_KIND] = 0, NO_MASK
    if mask >= 0:
        c[MASK_ADDRESS] = data_address(st, mask)
        c[MASK_KIND] = BOOL_MASK if slot_of(st, mask).dtype == BOOL else FLOAT_MASK
        for d in range(4):
            c[MASK_STRIDES + d] = strides_in(slot_of(st, mask))[d]
    heads = c[BATCHES] * c[HEADS]
    work = c[LENGTH] * c[KEYS] * (c[WIDTH] + c[VALUE_WIDTH] + 16)
    c[SHARE] = max(heads if work * heads <= TASK_WORK else TASK_WORK // max(work, 1), 1)
    c[BLOCKS] = 1
    return (heads + c[SHARE] - 1) // c[SHARE]


def _forward_kernel(dtype: int, result_dtype: int) -> Any:
    forward = make_attention(dtype)

    def kernel(st, frame):
        context = stack_words(42)
        q, mask, state = input_slot(frame, 0), input_slot(frame, 3), input_slot(frame, 4)
        count = _describe(st, frame, q, input_slot(frame, 1), input_slot(frame, 2), mask, context)
        c = int64_at(context)
        c[O], c[LSE] = data_address(st, output_slot(frame, 0)), data_address(st, output_slot(frame, 1))
        _strides_to(c, O_STRIDES, st, output_slot(frame, 0), attribute(frame, _HEADS_LAST))
        c[MARK] = c[LSE] + _stats_length(st, q) * item_bytes(slot_of(st, q).dtype)
        if state >= 0:
            generator, mark = int64_at(data_address(st, state)), int64_at(c[MARK])
            mark[0], mark[1] = generator[0], generator[1]
            generator[1] += (_stats_length(st, q) * c[KEYS] + 63) // 64 * 16
        if c[SHARE] == 1 and c[LENGTH] > TASK_ROWS:
            c[BLOCKS] = (c[LENGTH] + TASK_ROWS - 1) // TASK_ROWS
            count *= c[BLOCKS]
        return parallel_for(state_of(st).pool, forward, context, count)

    return kernel


def _backward_kernel(dtype: int, result_dtype: int) -> Any:
    backward = make_attention_backward(dtype)

    def kernel(st, frame):
        context = stack_words(42)
        q, o, stats = input_slot(frame, 1), input_slot(frame, 5), input_slot(frame, 6)
        count = _describe(st, frame, q, input_slot(frame, 2), input_slot(frame, 3), input_slot(frame, 4), context)
        c = int64_at(context)
        c[G], c[O], c[LSE] = data_address(st, input_slot(frame, 0)), data_address(st, o), data_address(st, stats)
        _strides_to(c, G_STRIDES, st, input_slot(frame, 0), attribute(frame, _HEADS_LAST))
        _strides_to(c, O_STRIDES, st, o, attribute(frame, _HEADS_LAST))
        c[MARK] = c[LSE] + _stats_length(st, q) * item_bytes(slot_of(st, q).dtype)
        c[GQ], c[GK] = data_address(st, output_slot(frame, 0)), data_address(st, output_slot(frame, 1))
        c[GV] = data_address(st, output_slot(frame, 2))
        return parallel_for(state_of(st).pool, backward, context, count)

    return kernel


# ---- the softmax itself, and what it is multiplied with ----


def weights_infer(st, frame):
    q, k = input_slot(frame, 0), input_slot(frame, 1)
    status = _check(st, q, k, -1, input_slot(frame, 2))
    if status < 0:
        return status
    shape = shape_in(slot_of(st, q))
    _set_shape(st, output_slot(frame, 0), shape[0], shape[1], shape[2], shape_in(slot_of(st, k))[2])
    return 0


def _weights_kernel(dtype: int, result_dtype: int) -> Any:
    weights = make_attention_weights(dtype)

    def kernel(st, frame):
        context = stack_words(42)
        mask = input_slot(frame, 2)
        count = _describe(st, frame, input_slot(frame, 0), input_slot(frame, 1), -1, mask, context)
        int64_at(context)[O] = data_address(st, output_slot(frame, 0))
        return parallel_for(state_of(st).pool, weights, context, count)

    return kernel


def same_infer(st, frame):
    copy_shape(st, input_slot(frame, 0), output_slot(frame, 0))
    return 0 if slot_of(st, input_slot(frame, 0)).ndim == 4 else BAD_ARGUMENT


def _drop_kernel(dtype: int, result_dtype: int) -> Any:
    run = make_attention_drop(dtype)
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        y_address = data_address(st, output_slot(frame, 0))
        if float64_from_bits(attribute(frame, _DROPOUT)) <= 0:
            source, target = pointer(data_address(st, input_slot(frame, 0))), pointer(y_address)
            for i in range(np.uintp(x.numel)):
                target[i] = source[i]
            return 0
        context = stack_words(42)
        c = int64_at(context)
        c[BATCHES], c[HEADS], c[LENGTH], c[KEYS] = shape_in(x)[0], shape_in(x)[1], shape_in(x)[2], shape_in(x)[3]
        c[Q], c[O], c[DROPOUT] = data_address(st, input_slot(frame, 0)), y_address, attribute(frame, _DROPOUT)
        lse = data_address(st, input_slot(frame, 1))
        c[MARK] = lse + c[BATCHES] * c[HEADS] * c[LENGTH] * item_bytes(x.dtype)
        c[SHARE] = 1
        return parallel_for(state_of(st).pool, run, context, c[BATCHES] * c[HEADS])

    return kernel


def _times_scale_kernel(dtype: int, result_dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        x, y = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, output_slot(frame, 0)))
        factor = scalar(float64_from_bits(attribute(frame, _SCALE)))
        for i in range(np.uintp(slot_of(st, input_slot(frame, 0)).numel)):
            y[i] = x[i] * factor
        return 0

    return kernel


def heads_first_infer(st, frame):
    """Exchange heads and length where the attention's result has the heads behind: [batch, length, heads, width]."""
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    if x.ndim != 4:
        return BAD_ARGUMENT
    y.ndim = 4
    for d in range(4):
        source = 3 - d if attribute(frame, _HEADS_LAST) and (d == 1 or d == 2) else d
        shape_in(y)[d] = shape_in(x)[source]
        strides_in(y)[d] = strides_in(x)[source]
    return 0


# ---- what the kernels trust their callers with ----


def is_fused(width: int, value_width: int, code: int) -> bool:
    """Return whether the fused op takes heads of these widths: it reads whole vectors where loads have no masks."""
    tile = host_tile()
    lanes = tile.vector_bytes // ITEM_BYTES[code]
    fits = tile.masks or (width % lanes == 0 and value_width % lanes == 0)
    return fits and max(width, value_width) <= MOST_WIDTH


def _fit(query: int, key: int, value: int | None, mask: int | None = None, rest: Sequence[int] = ()) -> Rule:
    """The heads are of widths that the kernels take; all are of one dtype, the mask of that or bool."""

    def rule(x: Operands, a: Attributes) -> bool:
        q, k = needed(x, query), needed(x, key)
        v = k if value is None else needed(x, value)
        if len(a) <= _HEADS_LAST or not all(len(found.shape) == 4 for found in (q, k, v)):
            return False
        m = None if mask is None else given(x, mask)
        of_one = all(needed(x, at).dtype == q.dtype for at in (key, *rest)) and v.dtype == q.dtype
        masks = m is None or m.dtype in (BOOL, q.dtype)
        few = is_few(*q.shape[:3], k.shape[2] if value is None else v.shape[3])
        return of_one and masks and few and q.dtype >= FLOAT32 and is_fused(q.shape[3], v.shape[3], q.dtype)

    return rule


def _stats_of(at: int) -> Callable[[Operands, Attributes], int]:
    """Return what counts the numbers of the second result, given an operand of as many rows."""
    return lambda x, a: math.prod(needed(x, at).shape[:3]) + _MARK_BYTES // ITEM_BYTES[needed(x, at).dtype]


def _has_result(x: Operands, a: Attributes) -> bool:
    (b, h, n, _), width = needed(x, 1).shape, needed(x, 3).shape[3]
    return needed(x, 0).shape == needed(x, 5).shape == ((b, n, h, width) if a[_HEADS_LAST] else (b, h, n, width))


def _has_stats(x: Operands, a: Attributes) -> bool:
    scores, stats = needed(x, 0), needed(x, 1)
    return len(a) > _HEADS_LAST and len(scores.shape) == 4 and stats.contiguous and stats.dtype == scores.dtype


# ---- rules ----


def _backward_rule(h: Any, y: Any, g: Any, q: Any, k: Any, v: Any, mask: Any, o: Any, stats: Any) -> Any:
    """Return the gradients of <h0, gq> + <h1, gk> + <h2, gv>: see kernels/attention for what these are.

    With W = scale (h0 k^T + q h1^T) the change of gS wanted, w the rows' sums of P W, A = M (g v^T), and P's gradient
    T = W (A - D) - A w + M (g h2^T), the scores' gradient is U = P (T - sum(P T)), and M (g v^T)'s is P (W - w).
    """
    h0, h1, h2 = h[0] + q.zeros_like(), h[1] + k.zeros_like(), h[2] + v.zeros_like()

    def scaled(values: Any) -> Any:
        return values.attention_scale(attributes=OF_ENTRY)

    def dropped(values: Any) -> Any:
        return values.attention_drop(stats, attributes=OF_ENTRY)

    def row_sums(values: Any) -> Any:
        return values.sum(attributes=OF_ENTRY)

    first = g.heads_first(attributes=OF_ENTRY)
    p = q.attention_weights(k, mask, attributes=OF_ENTRY)
    a = dropped(first.bmm_nt(v))
    d = row_sums(p * a)
    w = scaled(h0.bmm_nt(k) + q.bmm_nt(h1))
    pw = p * w
    sums = row_sums(pw)
    t = w * (a - d) - a * sums + dropped(first.bmm_nt(h2))
    pt = p * t
    u, s = scaled(pt - p * row_sums(pt)), scaled(p * (a - d))
    to_product = dropped(pw - p * sums)
    for_g = (to_product.bmm(v) + dropped(p).bmm(h2)).heads_first(attributes=OF_ENTRY)
    return for_g, u.bmm(k) + s.bmm(h1), u.bmm_tn(q) + s.bmm_tn(h0), to_product.bmm_tn(first), None, None, None


def _weights_rule(g: Any, y: Any, q: Any, k: Any, mask: Any) -> Any:
    s = g.softmax_backward(y, attributes=OF_ENTRY).attention_scale(attributes=OF_ENTRY)
    return s.bmm(k), s.bmm_tn(q), None


# ---- references and samples ----


def _weights_reference(q: Any, k: Any, mask: Any, *, attributes: Any) -> Any:
    scores = attributes[_SCALE] * (q @ np.swapaxes(k, -1, -2))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if attributes[_CAUSAL]:
        scores = np.where(np.tri(*scores.shape[2:]) > 0, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _attention_reference(q: Any, k: Any, v: Any, mask: Any, state: Any, *, attributes: Any) -> Any:
    o = _weights_reference(q, k, mask, attributes=attributes) @ v
    return (np.swapaxes(o, 1, 2) if attributes[_HEADS_LAST] else o), None


def _words(causal: int = 0, last: int = 0) -> tuple[Any, ...]:
    return FLOAT64, 0b1000, 1, 0, 0.7, 0.0, causal, last


_ONLY = {"dtypes": ("float64",), "layouts": ("offset", "expanded")}


def _attention_samples(make: Any) -> Any:
    first = {**_ONLY, "after": lambda results: results[0]}
    q, k, v = make(1, 2, 3, 2), make(1, 2, 4, 2), make(1, 2, 4, 3)
    for mask, causal, last in [(None, 0, 0), (make.booleans(1, 2, 3, 4), 0, 1), (None, 1, 0)]:
        yield (q, k, v, mask, None), {"attributes": _words(causal, last)}, first
    yield (q, k, v, make(1, 2, 3, 4), None), {"attributes": _words()}, {**first, "fixed": (3,)}


def _weights_samples(make: Any) -> Any:
    q, k = make(1, 2, 3, 2), make(1, 2, 4, 2)
    yield (q, k, None), {"attributes": _words()}, _ONLY
    yield (q, k, make.booleans(1, 2, 3, 4)), {"attributes": _words(1)}, _ONLY


ATTENTION = declare(
    Op(
        name="attention",
        valid=every(_fit(0, 1, 2, 3), generator(4)),
        inputs=("query", "key", "value", "attn_mask", "state"),
        optional=("attn_mask", "state"),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=2,
        infer=attention_infer,
        kernel=_forward_kernel,
        vjp=lambda g, y, q, k, v, mask, state: (
            *g[0].attention_backward(q, k, v, mask, y[0], y[1], attributes=OF_ENTRY).results(3),
            None,
            None,
        ),
        unpromoted=("attn_mask", "state"),
        writes=("state",),
        public=False,
        reference=_attention_reference,
        samples=_attention_samples,
        math="dropout(softmax(scale q k^T + mask)) v",
    )
)
declare(
    Op(
        name="attention_backward",
        valid=every(_fit(1, 2, 3, 4, (0, 5, 6)), _has_result, with_numel(_stats_of(1), 6)),
        inputs=("g", "query", "key", "value", "attn_mask", "output", "stats"),
        optional=("attn_mask",),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=3,
        infer=backward_infer,
        kernel=_backward_kernel,
        vjp=_backward_rule,
        unpromoted=("attn_mask",),
        contiguous=("g", "output", "stats"),
        public=False,
        samples="its operands come from attention: tested with attention's derivatives",
        math="scale gS k; scale gS^T q; (P M)^T g; gS = P (M (g v^T) - sum(g o))",
    )
)
WEIGHTS = declare(
    Op(
        name="attention_weights",
        valid=_fit(0, 1, None, 2),
        inputs=("query", "key", "attn_mask"),
        optional=("attn_mask",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=weights_infer,
        kernel=_weights_kernel,
        vjp=_weights_rule,
        unpromoted=("attn_mask",),
        public=False,
        reference=_weights_reference,
        samples=_weights_samples,
        math="softmax(scale q k^T + mask)",
    )
)
declare(
    Op(
        name="attention_drop",
        valid=every(_has_stats, with_numel(_stats_of(0), 1)),
        inputs=("input", "stats"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=same_infer,
        kernel=_drop_kernel,
        vjp=lambda g, y, x, stats: (g.attention_drop(stats, attributes=OF_ENTRY), None),
        contiguous=("input",),
        public=False,
        samples="the factors are those of an attention's dropout: tests/test_attention.py",
        math="x M",
    )
)
declare(
    Op(
        name="attention_scale",
        valid=attributes(8),
        inputs=("input",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=same_infer,
        kernel=_times_scale_kernel,
        vjp=lambda g, y, x: g.attention_scale(attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=lambda x, *, attributes: x * attributes[_SCALE],
        samples=lambda make: [((make(1, 2, 3, 2),), {"attributes": _words()}, _ONLY)],
        math="scale x",
    )
)
declare(
    Op(
        name="heads_first",
        inputs=("input",),
        kind=VIEW,
        infer=heads_first_infer,
        vjp=lambda g, y, x: g.heads_first(attributes=OF_ENTRY),
        public=False,
        reference=lambda x, *, attributes: np.swapaxes(x, 1, 2) if attributes[_HEADS_LAST] else x,
        samples=lambda make: [((make(1, 2, 3, 2),), {"attributes": _words(0, k)}, _ONLY) for k in (0, 1)],
        math="x with heads before length",
    )
)

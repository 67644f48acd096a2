"""scaled_dot_product_attention: checks, and the operands in the shape that the fused op takes."""

from __future__ import annotations

import math

from tapegrad.native.dtypes import BOOL, DTYPE_NAMES, FLOAT32
from tapegrad.ops.attention_ops import ATTENTION, is_fused
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.random import default_generator
from tapegrad.runtime.dtype import bool_
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

Shape = tuple[int, ...]


@function(method=False)
def _scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return ``dropout(softmax(scale query key^T + mask)) value`` (Vaswani et al. 2017, arXiv:1706.03762).

    The scores are never in memory as a whole: they are computed in tiles, forward and backward (Dao et al. 2022,
    arXiv:2205.14135). A row of which the mask leaves nothing gives zeros.

    Args:
        query: [..., length, width], float32 or float64.
        key: [..., keys, width]; the leading dimensions broadcast.
        value: [..., keys, value width].
        attn_mask: broadcast to [..., length, keys]: bool, true where attention is paid, or floats that are added.
        dropout_p: with what probability a weight is put to zero (also in evaluation: give 0 there).
        is_causal: whether row i attends to the keys up to i only.
        scale: of the scores, by default ``1 / sqrt(width)``.
        enable_gqa: whether several heads (dimension -3) of the query may share one of key and value.

    Returns:
        [..., length, value width].

    Raises:
        RuntimeError: shapes or dtypes do not fit, or both a mask and ``is_causal`` are given.

    Example:
        >>> import tapegrad as tg
        >>> q, k, v = tg.zeros(1, 2, 4), tg.ones(1, 3, 4), tg.arange(3.0).reshape(1, 3, 1)
        >>> tg.nn.functional.scaled_dot_product_attention(q, k, v).tolist()
        [[[1.0], [1.0]]]
    """
    code = _check(query, key, value, attn_mask, is_causal)
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    width = shape_of(query)[-1]
    scale = (1 / math.sqrt(width) if width > 0 else 1.0) if scale is None else float(scale)
    if enable_gqa and len(shape_of(query)) > 2 and shape_of(query)[-3] != shape_of(key)[-3]:
        return _grouped(query, key, value, attn_mask, dropout_p, is_causal, scale)
    if attn_mask is not None:
        attn_mask = _mask_of(attn_mask, query, code)
    if _needs_products(query, value, attn_mask, code):
        return _by_products(query, key, value, attn_mask, dropout_p, is_causal, scale)
    lead = _leading(query, key, value, attn_mask)
    q, k, v = (_as_heads(tensor, lead) for tensor in (query, key, value))
    mask = None if attn_mask is None else _expanded(attn_mask, (*lead, shape_of(query)[-2], shape_of(key)[-2]))
    result = attend(q, k, v, mask if mask is None else _four(mask), dropout_p, is_causal, scale, code, False)
    return result if len(lead) == 2 else functions["reshape"](result, (*lead, *shape_of(result)[-2:]))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    code: int,
    heads_last: bool,
) -> Tensor:
    """Emit the fused op on operands [batch, heads, length, width] with contiguous rows."""
    state = default_generator._state if dropout_p > 0 else None
    words = (code, 0b1000, 1, 0, scale, float(dropout_p), int(is_causal), int(heads_last))
    return call(ATTENTION, q, k, v, mask, state, attributes=words)


def _needs_products(query: Tensor, value: Tensor, mask: Tensor | None, code: int) -> bool:
    return (mask is not None and mask.requires_grad) or not is_fused(shape_of(query)[-1], shape_of(value)[-1], code)


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> int:
    """Return the dtype's code; RuntimeError where the operands do not fit together."""
    for position, (tensor, name) in enumerate(((query, "query"), (key, "key"), (value, "value"))):
        expect_tensor(tensor, "scaled_dot_product_attention", name, position + 1)
    shapes = [shape_of(tensor) for tensor in (query, key, value)]
    codes = [machine.dtype_of(tensor._handle) for tensor in (query, key, value)]
    if len(set(codes)) > 1:
        names = [DTYPE_NAMES[code] for code in codes]
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{names[0]} key.dtype: {names[1]} and value.dtype: {names[2]} instead."
        )
    if codes[0] < FLOAT32:
        raise RuntimeError(f'"scaled_dot_product_attention" not implemented for {DTYPE_NAMES[codes[0]]!r}')
    if min(len(shape) for shape in shapes) < 2:
        dims = [len(shape) for shape in shapes]
        raise RuntimeError(
            "Expected query, key, and value to all be at least 2 dimensional, but got "
            f"query.dim: {dims[0]}, key.dim: {dims[1]} and value.dim: {dims[2]} instead."
        )
    if shapes[0][-1] != shapes[1][-1] or shapes[1][-2] != shapes[2][-2]:
        raise RuntimeError(
            "scaled_dot_product_attention: expected query [..., length, width], key [..., keys, width] and value "
            f"[..., keys, value width], got {list(shapes[0])}, {list(shapes[1])} and {list(shapes[2])}"
        )
    if mask is not None and is_causal:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True")
    return int(codes[0])


def _mask_of(mask: Tensor, query: Tensor, code: int) -> Tensor:
    expect_tensor(mask, "scaled_dot_product_attention", "attn_mask", 4)
    own = machine.dtype_of(mask._handle)
    if own not in (BOOL, code) and own != FLOAT32:
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{DTYPE_NAMES[own]} and  query.dtype: {DTYPE_NAMES[code]} instead."
        )
    return mask if own in (BOOL, code) else functions["to_dtype"](mask, query.dtype)


def _leading(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Shape:
    """Return the leading dimensions that the operands broadcast to."""
    leads = [shape_of(tensor)[:-2] for tensor in (query, key, value)]
    if leads[0] == leads[1] == leads[2] and mask is None:
        return leads[0]
    if mask is not None:
        leads.append(shape_of(mask)[:-2])
    lead: list[int] = [1] * max(len(shape) for shape in leads)
    for shape in leads:
        for d, length in enumerate(reversed(shape)):
            if length != 1 and lead[-1 - d] not in (1, length):
                raise RuntimeError(
                    f"scaled_dot_product_attention: The size of tensor a ({lead[-1 - d]}) must match the size of "
                    f"tensor b ({length}) at dimension {-3 - d}: the leading dimensions are "
                    f"{', '.join(str(list(other)) for other in leads)}"
                )
            lead[-1 - d] = length if length != 1 else lead[-1 - d]
    return tuple(lead)


def _expanded(tensor: Tensor, shape: Shape) -> Tensor:
    return tensor if shape_of(tensor) == shape else tensor.expand(shape)


def _four(tensor: Tensor) -> Tensor:
    """Bring a tensor to four dimensions."""
    shape = shape_of(tensor)
    if len(shape) == 4:
        return tensor
    lead = (1, 1, *shape[:-2])[-2:] if len(shape) < 4 else (1, math.prod(shape[:-2]))
    return functions["reshape"](tensor, (*lead, *shape[-2:]))


def with_contiguous_rows(tensor: Tensor) -> Tensor:
    """Return the tensor, copied where its last dimension is not contiguous."""
    return tensor if tensor.stride(-1) == 1 or shape_of(tensor)[-1] <= 1 else tensor.contiguous()


def _as_heads(tensor: Tensor, lead: Shape) -> Tensor:
    """Return an operand as [batch, heads, length, width] with contiguous rows."""
    return with_contiguous_rows(_four(_expanded(tensor, (*lead, *shape_of(tensor)[-2:]))))


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float
) -> Tensor:
    """Let each head of key and value serve a group of the query's, along one more dimension."""
    q, k, v = shape_of(query), shape_of(key), shape_of(value)
    if k[-3] == 0 or q[-3] % k[-3] or v[-3] == 0 or q[-3] % v[-3]:
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query, got "
            f"{q[-3]} heads of query, {k[-3]} of key and {v[-3]} of value"
        )
    if k[-3] != v[-3]:
        key, value = (functions["repeat_interleave"](t, q[-3] // shape_of(t)[-3], -3) for t in (key, value))
        return _scaled_dot_product_attention(query, key, value, mask, dropout_p, is_causal, scale)
    reshape, unsqueeze, group = functions["reshape"], functions["unsqueeze"], q[-3] // k[-3]
    query = reshape(query, (*q[:-3], k[-3], group, *q[-2:]))
    if mask is not None and len(shape_of(mask)) > 2:
        m = shape_of(mask)
        heads = (k[-3], group) if m[-3] != 1 else (1, 1)
        mask = reshape(mask, (*m[:-3], *heads, *m[-2:]))
    pair = (unsqueeze(key, -3), unsqueeze(value, -3))
    result = _scaled_dot_product_attention(query, *pair, mask, dropout_p, is_causal, scale)
    return reshape(result, (*shape_of(result)[:-4], q[-3], *shape_of(result)[-2:]))


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float
) -> Tensor:
    """Attention by products and softmax, for a mask that has a gradient and for heads that the fused op cannot take."""
    where, softmax = functions["where"], functions["softmax"]
    scores = (query * scale) @ functions["transpose"](key, -2, -1)
    if is_causal:
        ones = functions["ones"](*shape_of(scores)[-2:], dtype=bool_)
        mask = functions["tril"](ones)
    if mask is not None:
        scores = where(mask, scores, -math.inf) if machine.dtype_of(mask._handle) == BOOL else scores + mask
    empty = functions["all"](scores == -math.inf, -1, True)
    weights = where(empty, 0.0, softmax(where(empty, 0.0, scores), -1))
    return functions["dropout"](weights, dropout_p) @ value


__all__ = ["attend", "is_fused", "with_contiguous_rows"]

"""multi_head_attention_forward: projections, heads, masks, and attention, fused where no weights are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tapegrad.native.dtypes import BOOL
from tapegrad.ops.attention import attend, is_fused, with_contiguous_rows
from tapegrad.ops.attention_ops import WEIGHTS
from tapegrad.ops.calls import call, function, functions, shape_of
from tapegrad.runtime.dtype import bool_
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

Mask = Tensor | None


@dataclass
class Heads:
    """Query, key and value as [batch, heads, length, width], and what may be attended to.

    The mask broadcasts to [batch, heads, length, keys]: bool, true where attention is paid, or floats to add.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask = None
    is_causal: bool = False

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(shape_of(self.q)[-1])


@function(method=False)
def _multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Mask = None,
    need_weights: bool = True,
    attn_mask: Mask = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return multi-head attention's output and, where wanted, its weights (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: [length, batch, embed_dim], or [length, embed_dim].
        key: [keys, batch, key width], or without batch.
        value: [keys, batch, value width], or without batch.
        embed_dim_to_check: the embed_dim that is expected.
        num_heads: a divisor of embed_dim.
        in_proj_weight: [3 embed_dim, embed_dim], of query, key and value.
        in_proj_bias: [3 embed_dim], or none.
        bias_k: [1, 1, embed_dim], a key added to all, or none.
        bias_v: [1, 1, embed_dim], its value.
        add_zero_attn: whether a key and a value of zeros are added.
        dropout_p: with what probability a weight is put to zero in training.
        out_proj_weight: [embed_dim, embed_dim].
        out_proj_bias: [embed_dim], or none.
        training: whether there is dropout.
        key_padding_mask: [batch, keys]: bool, true where a key is to be left out, or floats to add.
        need_weights: whether the weights are returned.
        attn_mask: [length, keys] or [batch * num_heads, length, keys]: bool, true where attention is not allowed, or
            floats to add.
        use_separate_proj_weight: whether the three weights below are used instead of ``in_proj_weight``.
        q_proj_weight: [embed_dim, embed_dim].
        k_proj_weight: [embed_dim, key width].
        v_proj_weight: [embed_dim, value width].
        static_k: [batch * num_heads, keys, width] in place of the projected key.
        static_v: likewise of the value.
        average_attn_weights: whether the weights are the mean over the heads.
        is_causal: a hint that ``attn_mask`` is the causal mask.

    Returns:
        [length, batch, embed_dim], and [batch, length, keys] or [batch, num_heads, length, keys] or None.

    Raises:
        RuntimeError, AssertionError: shapes do not fit.
    """
    batched = _check_dims(query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        query, key, value = _with_batch(query, key, value)
        key_padding_mask = None if key_padding_mask is None else functions["unsqueeze"](key_padding_mask, 0)
    weights = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight
    _check_sizes(query, key, value, embed_dim_to_check, num_heads, weights)
    projected = _project(query, key, value, weights, in_proj_bias, num_heads, False)
    heads = Heads(*projected)
    _replace(heads, static_k, static_v)
    _set_masks(heads, key_padding_mask, attn_mask, is_causal, need_weights)
    _extend(heads, bias_k, bias_v, add_zero_attn)
    output, attention = attend_heads(heads, dropout_p if training else 0.0, need_weights, average_attn_weights)
    output = functions["transpose"](functions["linear"](output, out_proj_weight, out_proj_bias), 0, 1)
    if batched:
        return output, attention
    squeeze = functions["squeeze"]
    return squeeze(output, 1), None if attention is None else squeeze(attention, 0)


def multi_head_batch_first(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    in_proj_weight: Tensor,
    in_proj_bias: Tensor | None,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    dropout_p: float,
    key_padding_mask: Mask,
    attn_mask: Mask,
    is_causal: bool,
) -> Tensor:
    """Return multi-head attention of [batch, length, embed_dim] without moving dimensions about."""
    _check_dims(query, key, value, key_padding_mask, attn_mask, num_heads)
    q, k, v = (functions["transpose"](tensor, 0, 1) for tensor in (query, key, value))
    _check_sizes(q, k, v, shape_of(out_proj_weight)[0], num_heads, in_proj_weight)
    heads = Heads(*_project(query, key, value, in_proj_weight, in_proj_bias, num_heads, True))
    _set_masks(heads, key_padding_mask, attn_mask, is_causal, False)
    output, _ = attend_heads(heads, dropout_p, False, False)
    return functions["linear"](output, out_proj_weight, out_proj_bias)


# ---- checks, in torch's words ----


def _check_dims(query: Tensor, key: Tensor, value: Tensor, padding: Mask, mask: Mask, heads: int) -> bool:
    """Return whether the operands have a batch dimension."""
    dims = [len(shape_of(tensor)) for tensor in (query, key, value)]
    if dims[0] not in (2, 3):
        raise AssertionError(f"query should be unbatched 2D or batched 3D tensor but received {dims[0]}-D query tensor")
    kind = "batched (3-D)" if dims[0] == 3 else "unbatched (2-D)"
    if dims[1] != dims[0] or dims[2] != dims[0]:
        raise AssertionError(
            f"For {kind} `query`, expected `key` and `value` to be {dims[0]}-D but found {dims[1]}-D and "
            f"{dims[2]}-D tensors respectively"
        )
    if padding is not None and len(shape_of(padding)) != dims[0] - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {dims[0] - 1}-D but found "
            f"{len(shape_of(padding))}-D tensor instead"
        )
    if mask is not None and len(shape_of(mask)) not in (2, 3):
        raise AssertionError(
            f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found {len(shape_of(mask))}-D "
            "tensor instead"
        )
    return dims[0] == 3


def _check_sizes(query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int, weights: object) -> None:
    q, k, v = shape_of(query), shape_of(key), shape_of(value)
    if q[2] != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {q[2]}")
    if num_heads <= 0 or embed_dim % num_heads:
        raise AssertionError(f"embed_dim {embed_dim} not divisible by num_heads {num_heads}")
    if k[:2] != v[:2]:
        raise AssertionError(f"key's sequence and batch dims {k[:2]} do not match value's {v[:2]}")
    if isinstance(weights, Tensor) and k != v:
        raise AssertionError(f"key shape {k} does not match value shape {v}")
    if q[1] != k[1]:
        raise RuntimeError(f"multi_head_attention_forward: the query has a batch of {q[1]}, the key one of {k[1]}")


def _with_batch(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put a batch dimension of 1 in; what is one tensor stays one."""
    unsqueeze = functions["unsqueeze"]
    q = unsqueeze(query, 1)
    k = q if key is query else unsqueeze(key, 1)
    return q, k, k if value is key else unsqueeze(value, 1)


# ---- projections ----


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor | tuple[Tensor | None, ...] | None,
    bias: Tensor | None,
    num_heads: int,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value as [batch, heads, length, width], in as few products as they allow."""
    linear, narrow = functions["linear"], functions["narrow"]
    if isinstance(weights, Tensor) and query is key and key is value:
        q, k, v = _split(linear(query, weights, bias), 3, num_heads, batch_first)
        return q, k, v
    embed = shape_of(query)[2]
    biases = [None if bias is None else narrow(bias, 0, k * embed, embed) for k in range(3)]
    if isinstance(weights, Tensor):
        own = narrow(weights, 0, 0, embed)
        (q,) = _split(linear(query, own, biases[0]), 1, num_heads, batch_first)
        if key is value:
            rest = None if bias is None else narrow(bias, 0, embed, 2 * embed)
            joined = linear(key, narrow(weights, 0, embed, 2 * embed), rest)
            k, v = _split(joined, 2, num_heads, batch_first)
            return q, k, v
        matrices = [narrow(weights, 0, k * embed, embed) for k in range(3)]
    else:
        matrices = list(weights or ())
    operands = zip((query, key, value), matrices, biases, strict=True)
    q, k, v = (_split(linear(*operand), 1, num_heads, batch_first)[0] for operand in operands)
    return q, k, v


def _split(projected: Tensor, count: int, num_heads: int, batch_first: bool) -> tuple[Tensor, ...]:
    """Cut [length, batch, count * embed] into ``count`` tensors [batch, heads, length, width], as views."""
    a, b, width = shape_of(projected)
    parts = functions["reshape"](projected, (a, b, count, num_heads, width // count // num_heads))
    order = (2, 0, 3, 1, 4) if batch_first else (2, 1, 3, 0, 4)
    return tuple(functions["unbind"](functions["permute"](parts, order), 0))


def _replace(heads: Heads, static_k: Tensor | None, static_v: Tensor | None) -> None:
    """Put a given key or value [batch * heads, keys, width] in the projected one's place."""
    batch, count, _, width = shape_of(heads.q)
    for name, tensor in (("k", static_k), ("v", static_v)):
        if tensor is None:
            continue
        shape = shape_of(tensor)
        if shape[0] != batch * count:
            raise AssertionError(f"expecting static_{name}.size(0) of {batch * count}, but got {shape[0]}")
        if shape[2] != width:
            raise AssertionError(f"expecting static_{name}.size(2) of {width}, but got {shape[2]}")
        setattr(heads, name, functions["reshape"](tensor, (batch, count, *shape[1:])))


def _extend(heads: Heads, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool) -> None:
    """Add the learned key and value, and those of zeros, behind the others; the mask lets all see them."""
    batch, count, _, width = shape_of(heads.k)
    added = 0
    cat, zeros = functions["cat"], functions["zeros"]
    if bias_k is not None and bias_v is not None:
        for name, bias in (("k", bias_k), ("v", bias_v)):
            row = functions["reshape"](bias, (1, count, 1, width)).expand(batch, count, 1, width)
            setattr(heads, name, cat([getattr(heads, name), row], 2))
        added += 1
    if add_zero_attn:
        row = zeros((batch, count, 1, width), dtype=heads.k.dtype)
        heads.k, heads.v = cat([heads.k, row], 2), cat([heads.v, row], 2)
        added += 1
    if added and heads.is_causal:
        n, m = shape_of(heads.q)[2], shape_of(heads.k)[2] - added
        allowed = functions["ones"]((n, m), dtype=bool_)
        heads.mask, heads.is_causal = functions["reshape"](functions["tril"](allowed), (1, 1, n, m)), False
    if added and heads.mask is not None:
        *lead, _ = shape_of(heads.mask)
        seen = functions["full"]((*lead, added), heads.mask.dtype is bool_, dtype=heads.mask.dtype)
        heads.mask = cat([heads.mask, seen], 3)


# ---- masks ----


def _set_masks(heads: Heads, padding: Mask, mask: Mask, is_causal: bool, need_weights: bool) -> None:
    """Set the mask from torch's two, in which true means to leave out."""
    if is_causal and mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    batch, count, length, _ = shape_of(heads.q)
    keys = shape_of(heads.k)[2]
    reshape = functions["reshape"]
    if is_causal and padding is None and not need_weights:
        heads.is_causal = True
        return
    parts = []
    if mask is not None:
        wanted = (length, keys) if len(shape_of(mask)) == 2 else (batch * count, length, keys)
        if shape_of(mask) != wanted:
            raise RuntimeError(
                f"The shape of the {len(wanted)}D attn_mask is {shape_of(mask)}, but should be {tuple(wanted)}."
            )
        parts.append(reshape(mask, (1, 1, length, keys) if len(wanted) == 2 else (batch, count, length, keys)))
    if padding is not None:
        if shape_of(padding) != (batch, keys):
            raise AssertionError(
                f"expecting key_padding_mask shape of {(batch, keys)}, but got {tuple(shape_of(padding))}"
            )
        parts.append(reshape(padding, (batch, 1, 1, keys)))
    heads.mask = _joined(parts, heads.q)


def _joined(parts: list[Tensor], like: Tensor) -> Mask:
    """Return one mask of those: bool with true where attention is paid if all are bool, else the sum of floats."""
    if not parts:
        return None
    booleans = [machine.dtype_of(part._handle) == BOOL for part in parts]
    if all(booleans):
        left_out = parts[0] if len(parts) == 1 else functions["logical_or"](*parts)
        return functions["logical_not"](left_out)
    zeros, where = functions["zeros"]((), dtype=like.dtype), functions["where"]
    floats = [
        where(part, -math.inf, zeros) if boolean else functions["to_dtype"](part, like.dtype)
        for part, boolean in zip(parts, booleans, strict=True)
    ]
    return floats[0] if len(floats) == 1 else floats[0] + floats[1]


# ---- attention ----


def attend_heads(heads: Heads, dropout_p: float, need_weights: bool, average: bool) -> tuple[Tensor, Tensor | None]:
    """Return [batch, length, embed_dim], and the weights where they are wanted."""
    batch, count, length, _ = shape_of(heads.q)
    reshape, width = functions["reshape"], shape_of(heads.v)[3]
    if not need_weights:
        output = _fused(heads, dropout_p)
        return reshape(output, (batch, length, count * width)), None
    weights = functions["dropout"](_weights(heads), dropout_p)
    output = functions["transpose"](weights @ heads.v, 1, 2)
    shown = functions["mean"](weights, 1) if average else weights
    return reshape(output, (batch, length, count * width)), shown


def _fused(heads: Heads, dropout_p: float) -> Tensor:
    """Return attention as [batch, length, heads, width]."""
    code = machine.dtype_of(heads.q._handle)
    learned = heads.mask is not None and heads.mask.requires_grad
    if learned or not is_fused(shape_of(heads.q)[3], shape_of(heads.v)[3], code):
        attention = functions["_scaled_dot_product_attention"]
        result = attention(heads.q, heads.k, heads.v, heads.mask, dropout_p, heads.is_causal)
        return functions["transpose"](result, 1, 2)
    q, k, v = (with_contiguous_rows(tensor) for tensor in (heads.q, heads.k, heads.v))
    return attend(q, k, v, _spread(heads), dropout_p, heads.is_causal, heads.scale, code, True)


def _spread(heads: Heads) -> Mask:
    """Return the mask expanded to [batch, heads, length, keys], without memory of its own."""
    shape = (*shape_of(heads.q)[:3], shape_of(heads.k)[2])
    return None if heads.mask is None else heads.mask.expand(*shape)


def _weights(heads: Heads) -> Tensor:
    """Return the softmax of the scores, [batch, heads, length, keys]."""
    code = machine.dtype_of(heads.q._handle)
    if heads.mask is not None and heads.mask.requires_grad:
        scores = (heads.q * heads.scale) @ functions["transpose"](heads.k, -2, -1) + heads.mask
        return functions["softmax"](scores, -1)
    q, k = with_contiguous_rows(heads.q), with_contiguous_rows(heads.k)
    words = (code, 0b1000, 1, 0, heads.scale, 0.0, int(heads.is_causal), 0)
    return call(WEIGHTS, q, k, _spread(heads), attributes=words)


__all__ = ["multi_head_batch_first"]

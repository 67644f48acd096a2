"""MultiheadAttention."""

from __future__ import annotations

from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn import init
from tapegrad.nn.linear import Linear, new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import functions
from tapegrad.ops.multihead import multi_head_batch_first
from tapegrad.runtime.handle import Tensor


class NonDynamicallyQuantizableLinear(Linear):
    """Linear, under the name that torch gives the output projection of attention."""


class MultiheadAttention(Module):
    """Attention in several heads between projections (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        embed_dim: the width of the query and the result.
        num_heads: how many heads, a divisor of ``embed_dim``.
        dropout: with what probability a weight is put to zero in training.
        bias: whether the projections have biases.
        add_bias_kv: whether a learned key and value are added to the others.
        add_zero_attn: whether a key and value of zeros are added.
        kdim: the width of the key; ``embed_dim`` by default.
        vdim: the width of the value; ``embed_dim`` by default.
        batch_first: whether operands are (batch, length, width) and not (length, batch, width).
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.

    Raises:
        ValueError: ``embed_dim`` or ``num_heads`` is not positive.
        AssertionError: ``embed_dim`` is not divisible by ``num_heads``.

    Example:
        >>> import tapegrad as tg
        >>> attention = tg.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = tg.ones(3, 5, 8)
        >>> y, weights = attention(x, x, x)
        >>> y.shape, weights.shape
        (tapegrad.Size([3, 5, 8]), tapegrad.Size([3, 5, 5]))
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0, got "
                f"embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        self._make_weights(device, dtype)
        self.register_parameter("in_proj_bias", new_parameter((3 * embed_dim,), device, dtype) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, new_parameter((1, 1, embed_dim), device, dtype) if add_bias_kv else None)
        self._reset_parameters()

    def _make_weights(self, device: Any, dtype: Any) -> None:
        """Make one weight for query, key and value where they are of one width, else three."""
        widths = {"q_proj_weight": self.embed_dim, "k_proj_weight": self.kdim, "v_proj_weight": self.vdim}
        for name, width in widths.items():
            apart = not self._qkv_same_embed_dim
            self.register_parameter(name, new_parameter((self.embed_dim, width), device, dtype) if apart else None)
        shape = (3 * self.embed_dim, self.embed_dim)
        joined = new_parameter(shape, device, dtype) if self._qkv_same_embed_dim else None
        self.register_parameter("in_proj_weight", joined)

    def _reset_parameters(self) -> None:
        """Draw the weights as torch does; the biases are zeros."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for zeros in (self.in_proj_bias, self.out_proj.bias):
            if zeros is not None:
                init.zeros_(zeros)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention of the query to the keys, and its weights.

        Args:
            query: (length, batch, embed_dim), (batch, length, embed_dim) if ``batch_first``, or (length, embed_dim).
            key: (keys, batch, kdim), likewise.
            value: (keys, batch, vdim), likewise.
            key_padding_mask: (batch, keys): bool, true where a key is left out, or floats to add.
            need_weights: whether the weights are returned; without them the attention is computed in one pass.
            attn_mask: (length, keys) or (batch * num_heads, length, keys): bool, true where attention is not allowed,
                or floats to add.
            average_attn_weights: whether the weights are the mean over the heads.
            is_causal: a hint that ``attn_mask`` is the causal mask.

        Returns:
            A tensor like the query, and (batch, length, keys), (batch, num_heads, length, keys) or None.

        Raises:
            RuntimeError, AssertionError: shapes do not fit.
        """
        if self._is_plain(query, need_weights):
            return self._plain(query, key, value, key_padding_mask, attn_mask, is_causal), None
        moved = self.batch_first and query.dim() == 3
        if moved:
            query, key, value = _swapped(query, key, value)
        output, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            self.training,
            key_padding_mask,
            need_weights,
            attn_mask,
            not self._qkv_same_embed_dim,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (functions["transpose"](output, 0, 1) if moved else output), weights

    def _is_plain(self, query: Tensor, need_weights: bool) -> bool:
        """Return whether there is nothing but one projection of (batch, length, width) and the fused attention."""
        simple = self.in_proj_weight is not None and self.bias_k is None and not self.add_zero_attn
        return simple and self.batch_first and not need_weights and query.dim() == 3

    def _plain(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        assert self.in_proj_weight is not None
        return multi_head_batch_first(
            query,
            key,
            value,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.out_proj.weight,
            self.out_proj.bias,
            self.dropout if self.training else 0.0,
            padding,
            mask,
            is_causal,
        )


def _swapped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange batch and length; what is one tensor stays one."""
    transpose = functions["transpose"]
    q = transpose(query, 0, 1)
    k = q if key is query else transpose(key, 0, 1)
    return q, k, k if value is key else transpose(value, 0, 1)

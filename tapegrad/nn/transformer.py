"""The transformer of Vaswani et al. 2017 (arXiv:1706.03762): encoder, decoder and their layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn import init
from tapegrad.nn.attention import MultiheadAttention
from tapegrad.nn.containers import ModuleList
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.linear import Linear
from tapegrad.nn.module import Module
from tapegrad.nn.normalization import LayerNorm
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor

Activation = str | Callable[[Tensor], Tensor]
Mask = Tensor | None


def _activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return getattr(F, activation)


def _clones(module: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(count)])


def _causal_mask(size: int, dtype: Any = None) -> Tensor:
    full = functions["full"]((size, size), float("-inf"), dtype=dtype)
    return functions["triu"](full, 1)


def _is_causal(mask: Mask, hint: bool | None, size: int | None = None) -> bool:
    """Return the hint, or where there is none whether the mask is the causal one."""
    if hint is not None or mask is None:
        return hint is True
    length = mask.shape[-2] if size is None else size
    causal = _causal_mask(length, mask.dtype if mask.is_floating_point() else None)
    return tuple(mask.shape) == (length, length) and bool((mask == causal).all())


class _Layer(Module):
    """What encoder and decoder layers share: attention on oneself, and two linear layers."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: Activation,
        layer_norm_eps: float,
        batch_first: bool,
        norm_first: bool,
        bias: bool,
        device: Any,
        dtype: Any,
        attentions: tuple[str, ...],
    ) -> None:
        super().__init__()
        options = {"bias": bias, "device": device, "dtype": dtype}
        for name in attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, **options)
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **options)
        self.norm_first = norm_first
        for k in range(1, len(attentions) + 2):
            setattr(self, f"norm{k}", LayerNorm(d_model, layer_norm_eps, **options))
        for k in range(1, len(attentions) + 2):
            setattr(self, f"dropout{k}", Dropout(dropout))
        self.activation = _activation(activation)

    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    dropout1: Dropout
    dropout2: Dropout

    def _sa_block(self, x: Tensor, attn_mask: Mask, key_padding_mask: Mask, is_causal: bool = False) -> Tensor:
        attended, _ = self.self_attn(
            x, x, x, key_padding_mask=key_padding_mask, need_weights=False, attn_mask=attn_mask, is_causal=is_causal
        )
        return self.dropout1(attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Attention on oneself and two linear layers, each added to its input and normalised.

    Args:
        d_model: the width of the input.
        nhead: how many heads of attention.
        dim_feedforward: the width between the two linear layers.
        dropout: the probability of dropout.
        activation: between the linear layers: ``"relu"``, ``"gelu"`` or a function.
        layer_norm_eps: added to the variances.
        batch_first: whether the input is (batch, length, d_model) and not (length, batch, d_model).
        norm_first: whether the normalisation comes before attention and linear layers.
        bias: whether linear layers and normalisations have biases.
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.

    Example:
        >>> import tapegrad as tg
        >>> layer = tg.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> layer(tg.ones(3, 5, 8)).shape
        tapegrad.Size([3, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
            device, dtype, ("self_attn",),
        )  # fmt: skip

    def forward(
        self, src: Tensor, src_mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool = False
    ) -> Tensor:
        """Return a tensor like ``src``; see MultiheadAttention for the masks.

        Args:
            src_mask: [s, s], bool (true is masked) or floats that are added to the scores.
            src_key_padding_mask: [batch, s], true where ``src`` is padding.
            is_causal: whether ``src_mask`` is the causal mask.
        """
        if self.norm_first:
            x = src + self._sa_block(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(src + self._sa_block(src, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._ff_block(x))

    def _ff_block(self, x: Tensor) -> Tensor:
        return self.dropout2(self._feed_forward(x))


class TransformerDecoderLayer(_Layer):
    """Attention on oneself, attention to the encoder's output, and two linear layers; see TransformerEncoderLayer."""

    multihead_attn: MultiheadAttention
    norm3: LayerNorm
    dropout3: Dropout

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
            device, dtype, ("self_attn", "multihead_attn"),
        )  # fmt: skip

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor like ``tgt``; ``memory`` is the encoder's output.

        Args:
            tgt_mask: [t, t], bool (true is masked) or floats that are added to the scores.
            memory_mask: [t, s], likewise.
            tgt_key_padding_mask: [batch, t], true where ``tgt`` is padding.
            memory_key_padding_mask: [batch, s], true where ``memory`` is padding.
            tgt_is_causal: whether ``tgt_mask`` is the causal mask.
            memory_is_causal: whether ``memory_mask`` is the causal mask.
        """
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x = tgt + self._sa_block(self.norm1(tgt), *own)
            x = x + self._mha_block(self.norm2(x), memory, *other)
            return x + self._ff_block(self.norm3(x))
        x = self.norm1(tgt + self._sa_block(tgt, *own))
        x = self.norm2(x + self._mha_block(x, memory, *other))
        return self.norm3(x + self._ff_block(x))

    def _mha_block(self, x: Tensor, memory: Tensor, mask: Mask, padding: Mask, is_causal: bool = False) -> Tensor:
        attended, _ = self.multihead_attn(
            x, memory, memory, attn_mask=mask, key_padding_mask=padding, is_causal=is_causal, need_weights=False
        )
        return self.dropout2(attended)

    def _ff_block(self, x: Tensor) -> Tensor:
        return self.dropout3(self._feed_forward(x))


class TransformerEncoder(Module):
    """Copies of an encoder layer one after the other.

    Args:
        encoder_layer: the layer to copy.
        num_layers: how many times.
        norm: a normalisation at the end.
        enable_nested_tensor: accepted for torch's sake.
        mask_check: likewise.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _clones(encoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, src: Tensor, mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool | None = None
    ) -> Tensor:
        """Return a tensor like ``src``; without ``is_causal`` it is found out whether the mask is the causal one.

        Args:
            mask: [s, s], bool (true is masked) or floats that are added to the scores.
            src_key_padding_mask: [batch, s], true where ``src`` is padding.
        """
        causal = _is_causal(mask, is_causal)
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Copies of a decoder layer one after the other.

    Args:
        decoder_layer: the layer to copy.
        num_layers: how many times.
        norm: a normalisation at the end.
    """

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _clones(decoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor like ``tgt``; ``memory`` is the encoder's output.

        Args:
            tgt_mask: [t, t], bool (true is masked) or floats that are added to the scores.
            memory_mask: [t, s], likewise.
            tgt_key_padding_mask: [batch, t], true where ``tgt`` is padding.
            memory_key_padding_mask: [batch, s], true where ``memory`` is padding.
            tgt_is_causal: whether ``tgt_mask`` is the causal mask.
            memory_is_causal: whether ``memory_mask`` is the causal mask.
        """
        causal = _is_causal(tgt_mask, tgt_is_causal)
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, causal,
                memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """Encoder and decoder.

    Args:
        d_model: the width of the inputs.
        nhead: how many heads of attention.
        num_encoder_layers: how many layers the encoder has.
        num_decoder_layers: how many layers the decoder has.
        dim_feedforward: the width between a layer's two linear layers.
        dropout: the probability of dropout.
        activation: between the linear layers: ``"relu"``, ``"gelu"`` or a function.
        custom_encoder: an encoder to use instead.
        custom_decoder: a decoder to use instead.
        layer_norm_eps: added to the variances.
        batch_first: whether the inputs are (batch, length, d_model) and not (length, batch, d_model).
        norm_first: whether the normalisation comes before attention and linear layers.
        bias: whether linear layers and normalisations have biases.
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        options = {"bias": bias, "device": device, "dtype": dtype}
        norms = [LayerNorm(d_model, layer_norm_eps, **options) for _ in range(2)]
        if custom_encoder is None:
            encoder_layer = TransformerEncoderLayer(*layer, device=device, dtype=dtype)
            custom_encoder = TransformerEncoder(encoder_layer, num_encoder_layers, norms[0])
        if custom_decoder is None:
            decoder_layer = TransformerDecoderLayer(*layer, device=device, dtype=dtype)
            custom_decoder = TransformerDecoder(decoder_layer, num_decoder_layers, norms[1])
        self.encoder, self.decoder = custom_encoder, custom_decoder
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Mask = None,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor like ``tgt``; see MultiheadAttention for the masks.

        Raises:
            RuntimeError: batches or widths of the inputs do not fit.
        """
        batch = 0 if self.batch_first else 1
        if src.dim() == 3 and src.shape[batch] != tgt.shape[batch]:
            raise RuntimeError("the batch number of src and tgt must be equal")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise RuntimeError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
            memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """Return the causal mask (sz, sz): zeros, and -inf above the diagonal.

        Args:
            sz: the length of the sequence.
        """
        return _causal_mask(sz, dtype)

    def _reset_parameters(self) -> None:
        for param in self.parameters():
            if param.dim() > 1:
                init.xavier_uniform_(param)

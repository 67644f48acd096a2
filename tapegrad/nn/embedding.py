"""Tables of vectors as modules: Embedding, EmbeddingBag."""

from __future__ import annotations

from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn import init
from tapegrad.nn.factories import new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.embeddings import normal_padding
from tapegrad.runtime.handle import Tensor


class _Table(Module):
    """What both layers have: the table, and the options that concern it."""

    def _set_table(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        weight: Tensor | None,
        frozen: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = normal_padding(padding_idx, num_embeddings)
        if weight is None:
            self.weight = new_parameter((num_embeddings, embedding_dim), device, dtype)
            self.weight.requires_grad_(not frozen)
            self.reset_parameters()
            return
        if tuple(weight.shape) != (num_embeddings, embedding_dim):
            raise AssertionError("Shape of weight does not match num_embeddings and embedding_dim")
        self.weight = Parameter(weight, requires_grad=not frozen)

    def reset_parameters(self) -> None:
        """Draw the table from the normal distribution, with zeros in the row of padding."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.detach()[self.padding_idx].fill_(0)

    def _options(self, defaults: dict[str, Any]) -> str:
        shown = [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join([f"{self.num_embeddings}, {self.embedding_dim}", *shown])


class Embedding(_Table):
    """A table whose rows are taken at indices, begun with normal numbers.

    Args:
        num_embeddings: how many rows there are.
        embedding_dim: how many columns there are.
        padding_idx: an index whose row is zeros in the beginning and gets no gradient.
        max_norm: rows of a larger norm are scaled down to it when they are taken.
        norm_type: the order of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often its index is in the batch.
        sparse: accepted; gradients are dense.
        _weight: the table, if there is one already.
        _freeze: whether the table is not trained.
        device: only ``"cpu"``.
        dtype: the table's dtype; the default dtype by default.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.Embedding(10, 3)(tg.tensor([[1, 2], [3, 9]])).shape
        tapegrad.Size([2, 2, 3])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self._set_table(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., embedding_dim) for indices (...)."""
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        """Return the sizes and the options that are not the defaults."""
        defaults = {"padding_idx": None, "max_norm": None, "norm_type": 2, "scale_grad_by_freq": False, "sparse": False}
        return self._options(defaults)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """Return an embedding with a given table, [rows, columns], that is not trained unless ``freeze`` is false.

        Args:
            embeddings: the table, floats [rows, columns].
        """
        rows, columns = _matrix(embeddings)
        return cls(
            rows,
            columns,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            _weight=embeddings,
            _freeze=freeze,
        )


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the rows of a table at each bag of indices.

    Args:
        num_embeddings: how many rows there are.
        embedding_dim: how many columns there are.
        max_norm: rows of a larger norm are scaled down to it when they are taken.
        norm_type: the order of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often its index is in the batch.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: accepted; gradients are dense.
        _weight: the table, if there is one already.
        include_last_offset: whether offsets end with where the last bag ends.
        padding_idx: an index that does not count.
        device: only ``"cpu"``.
        dtype: the table's dtype; the default dtype by default.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.max_norm, self.norm_type, self.mode = max_norm, norm_type, mode
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.include_last_offset = include_last_offset
        self._set_table(num_embeddings, embedding_dim, padding_idx, _weight, False, device, dtype)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Return (bags, embedding_dim) for indices (bags, n), or (n) with offsets."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Return the sizes and the options that are not the defaults."""
        defaults = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False}
        last = f"mode={self.mode!r}" + (f", padding_idx={self.padding_idx}" if self.padding_idx is not None else "")
        return f"{self._options(defaults)}, {last}"

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """Return a layer with a given table, [rows, columns], that is not trained unless ``freeze`` is false.

        Args:
            embeddings: the table, floats [rows, columns].
        """
        rows, columns = _matrix(embeddings)
        layer = cls(
            rows,
            columns,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            _weight=embeddings,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        layer.weight.requires_grad_(not freeze)
        return layer


def _matrix(embeddings: Tensor) -> tuple[int, ...]:
    if embeddings.dim() != 2:
        raise AssertionError("Embeddings parameter is expected to be 2-dimensional")
    return tuple(embeddings.shape)

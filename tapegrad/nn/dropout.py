"""Dropout as modules."""

from __future__ import annotations

from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor


class _Dropout(Module):
    """A dropout.

    Args:
        p: the probability of an element's being dropped.
        inplace: write into the input.

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """

    _function = ""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape; in evaluation the input."""
        return getattr(F, self._function)(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, zeros with probability ``p`` and 1 / (1 - p) times the others; else the input."""

    _function = "dropout"


class Dropout1d(_Dropout):
    """Dropout of whole channels of [c, n] or [batch, c, n] (Tompson et al. 2015, arXiv:1411.4280)."""

    _function = "dropout1d"


class Dropout2d(_Dropout):
    """Dropout of whole channels of [batch, c, h, w] (Tompson et al. 2015, arXiv:1411.4280)."""

    _function = "dropout2d"


class Dropout3d(_Dropout):
    """Dropout of whole channels of [c, d, h, w] or [batch, c, d, h, w] (Tompson et al. 2015, arXiv:1411.4280)."""

    _function = "dropout3d"


class AlphaDropout(_Dropout):
    """Dropout that keeps mean and variance where ``SELU`` comes before it (Klambauer et al. 2017, arXiv:1706.02515).

    Args:
        p: the probability of an element to be put to SELU's negative limit.
    """

    _function = "alpha_dropout"


class FeatureAlphaDropout(_Dropout):
    """``AlphaDropout`` of whole channels of [batch, c, ...].

    Args:
        p: the probability of a channel to be put to SELU's negative limit.
    """

    _function = "feature_alpha_dropout"

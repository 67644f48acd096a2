"""Windows of images as columns, and back: Unfold and Fold."""

from __future__ import annotations

from collections.abc import Sequence

from tapegrad.nn.module import Module
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor

_unfold, _fold = functions["_unfold"], functions["_fold"]
Lengths = int | Sequence[int]


class Unfold(Module):
    """Every window of images [n, channels, height, width] as a column; see ``nn.functional.unfold``."""

    def __init__(self, kernel_size: Lengths, dilation: Lengths = 1, padding: Lengths = 0, stride: Lengths = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return [n, channels * kernel elements, windows]."""
        return _unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Module):
    """Images of which the columns are the windows, added up where they overlap; see ``nn.functional.fold``."""

    def __init__(
        self, output_size: Lengths, kernel_size: Lengths, dilation: Lengths = 1, padding: Lengths = 0,
        stride: Lengths = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output_size, self.kernel_size, self.dilation = output_size, kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return [n, channels, height, width] for [n, channels * kernel elements, windows]."""
        return _fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )

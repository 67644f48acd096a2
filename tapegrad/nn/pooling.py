"""Pooling layers: maxima, means and norms of windows; each is for signals (1d), images (2d) or volumes (3d)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor

Sizes = int | Sequence[int]


class _MaxPool(Module):
    _pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """Return the maxima [..., channels, *new sizes]; with ``return_indices`` also where they are."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return type(self)._pool(input, *window, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        """Return the sizes and options."""
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{sizes}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"


class _AvgPool(Module):
    _pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """Return the means [..., channels, *new sizes]."""
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        result: Tensor = type(self)._pool(input, *window, self.divisor_override)
        return result

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptivePool(Module):
    _pool: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Any:
        """Return the means [..., channels, *output_size]."""
        return type(self)._pool(input, self.output_size)

    def extra_repr(self) -> str:
        """Return the size."""
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(_AdaptivePool):
    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """Return the maxima [..., channels, *output_size]; with ``return_indices`` also where they are."""
        return type(self)._pool(input, self.output_size, self.return_indices)


class _LPPool(Module):
    _pool: ClassVar[Callable[..., Any]]

    def __init__(
        self, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """Return the norms [..., channels, *new sizes]."""
        result: Tensor = type(self)._pool(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)
        return result

    def extra_repr(self) -> str:
        """Return the norm and the sizes."""
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, ceil_mode={self.ceil_mode}"
        return f"norm_type={self.norm_type}, {sizes}"


class _MaxUnpool(Module):
    _pool: ClassVar[Callable[..., Any]]

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return zeros with the input's elements where the int64 indices say."""
        window = (self.kernel_size, self.stride, self.padding)
        result: Tensor = type(self)._pool(input, indices, *window, output_size)
        return result

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(_MaxPool):
    """The maxima of windows of signals [..., channels, length]; see nn.functional.max_pool2d."""

    _pool = F.max_pool1d


class MaxPool2d(_MaxPool):
    """The maxima of windows of images [..., channels, height, width]; see nn.functional.max_pool2d.
    Args:
        kernel_size: the window's size, one number or one for each dimension; so are the next three.
        stride: from one window to the next; ``kernel_size`` by default.
        padding: how far windows may begin before, and end behind, the input; at most half a window.
        dilation: how far apart a window's elements are.
        return_indices: whether to return also where in its plane each maximum is.
        ceil_mode: whether a last window may end beyond the padding.
    """

    _pool = F.max_pool2d


class MaxPool3d(_MaxPool):
    """The maxima of windows of volumes [..., channels, depth, height, width]; see nn.functional.max_pool2d."""

    _pool = F.max_pool3d


class AvgPool1d(_AvgPool):
    """The means of windows of signals [..., channels, length]; see AvgPool2d."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, input: Tensor) -> Tensor:
        """Return the means [..., channels, new length]."""
        window = (self.kernel_size, self.stride, self.padding)
        return F.avg_pool1d(input, *window, self.ceil_mode, self.count_include_pad)


class AvgPool2d(_AvgPool):
    """The means of windows of images [..., channels, height, width]; see nn.functional.avg_pool2d.
    Args:
        kernel_size: the window's size, one number or one for each dimension; so are the next two.
        stride: from one window to the next; ``kernel_size`` by default.
        padding: how far windows may begin before, and end behind, the input; at most half a window.
        ceil_mode: whether a last window may end beyond the padding.
        count_include_pad: whether zeros in the padding count.
        divisor_override: what sums are divided by, in place of the number of elements.
    """

    _pool = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """The means of windows of volumes [..., channels, depth, height, width]; see nn.functional.avg_pool2d."""

    _pool = F.avg_pool3d


class AdaptiveAvgPool1d(_AdaptivePool):
    """The means of ``output_size`` windows that share out signals; None keeps a size."""

    _pool = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptivePool):
    """The means of ``output_size`` windows that share out images; None keeps a size."""

    _pool = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptivePool):
    """The means of ``output_size`` windows that share out volumes; None keeps a size."""

    _pool = F.adaptive_avg_pool3d


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The maxima of ``output_size`` windows that share out signals; None keeps a size."""

    _pool = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The maxima of ``output_size`` windows that share out images; None keeps a size."""

    _pool = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The maxima of ``output_size`` windows that share out volumes; None keeps a size."""

    _pool = F.adaptive_max_pool3d


class LPPool1d(_LPPool):
    """(sum of x**p)**(1 / p) over windows of signals [..., channels, length], p being ``norm_type``."""

    _pool = F.lp_pool1d


class LPPool2d(_LPPool):
    """(sum of x**p)**(1 / p) over windows of images [..., channels, height, width], p being ``norm_type``."""

    _pool = F.lp_pool2d


class LPPool3d(_LPPool):
    """(sum of x**p)**(1 / p) over windows of volumes [..., channels, depth, height, width], p being ``norm_type``."""

    _pool = F.lp_pool3d


class MaxUnpool1d(_MaxUnpool):
    """Puts the maxima of a MaxPool1d, with its indices, back to where they were; zeros elsewhere."""

    _pool = F.max_unpool1d


class MaxUnpool2d(_MaxUnpool):
    """Puts the maxima of a MaxPool2d, with its indices, back to where they were; zeros elsewhere."""

    _pool = F.max_unpool2d


class MaxUnpool3d(_MaxUnpool):
    """Puts the maxima of a MaxPool3d, with its indices, back to where they were; zeros elsewhere."""

    _pool = F.max_unpool3d

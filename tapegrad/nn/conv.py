"""Convolutional layers: Conv1d to Conv3d, and their transposed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from tapegrad.nn import init
from tapegrad.nn.linear import new_parameter
from tapegrad.nn.module import Module
from tapegrad.ops.calls import functions, shape_of
from tapegrad.ops.convolution import output_padding_of
from tapegrad.runtime.handle import Tensor

Lengths = int | Sequence[int]
_PADDINGS = ("same", "valid")
_MODES = ("zeros", "reflect", "replicate", "circular")


def _each(value: Lengths, ndim: int) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(value)


class _Convolution(Module):
    """What all convolutional layers have."""

    ndim: ClassVar[int]
    transposed: ClassVar[bool] = False

    def _set_up(
        self, in_channels: int, out_channels: int, kernel_size: Lengths, stride: Lengths, padding: Lengths | str,
        output_padding: Lengths, dilation: Lengths, groups: int, bias: bool, padding_mode: str, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _each(kernel_size, self.ndim), _each(stride, self.ndim)
        self.dilation, self.output_padding = _each(dilation, self.ndim), _each(output_padding, self.ndim)
        self.padding = padding if isinstance(padding, str) else _each(padding, self.ndim)
        self.padding_mode = padding_mode
        self._check_padding()
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = new_parameter((first, second // groups, *self.kernel_size), device, dtype)
        self.bias = new_parameter((out_channels,), device, dtype) if bias else None
        self.reset_parameters()

    def _check_padding(self) -> None:
        if isinstance(self.padding, str) and self.padding not in _PADDINGS:
            raise ValueError(f"Invalid padding string {self.padding!r}, should be one of {_PADDINGS}")
        if self.padding == "same" and max(self.stride) > 1:
            raise ValueError("padding='same' is not supported for strided convolutions")
        if self.padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {_MODES}, but got padding_mode='{self.padding_mode}'")

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fans(self.weight)
            if fan_in:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        """Return the arguments that are not torch's defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        defaults = {"padding": (0,) * self.ndim, "dilation": (1,) * self.ndim, "output_padding": (0,) * self.ndim}
        for name, default in {**defaults, "groups": 1}.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Conv(_Convolution):
    """A convolution with a weight [out, in / groups, kernel] and a bias [out]."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Lengths, stride: Lengths = 1,
        padding: Lengths | str = 0, dilation: Lengths = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode, device,
            dtype,
        )  # fmt: skip
        self._convolve = functions[f"conv{self.ndim}d"]

    def _amounts(self) -> list[int]:
        """Return what is padded at both ends, the last dimension first."""
        amounts = []
        for d in reversed(range(self.ndim)):
            if isinstance(self.padding, str):
                both = self.dilation[d] * (self.kernel_size[d] - 1) if self.padding == "same" else 0
            else:
                both = 2 * self.padding[d]
            amounts += [both // 2, both - both // 2]
        return amounts

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of a batch of images, or of one image."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = functions["_pad"](input, self._amounts(), self.padding_mode), 0
        return self._convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _ConvTranspose(_Convolution):
    """A transposed convolution with a weight [in, out / groups, kernel] and a bias [out]."""

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Lengths, stride: Lengths = 1, padding: Lengths = 0,
        output_padding: Lengths = 0, groups: int = 1, bias: bool = True, dilation: Lengths = 1,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._convolve = functions[f"conv_transpose{self.ndim}d"]

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return the transposed convolution; ``output_size`` chooses among the lengths that a stride allows."""
        more = self.output_padding
        if output_size is not None and not isinstance(self.padding, str):
            more = output_padding_of(
                shape_of(input), output_size, self.stride, self.padding, self.dilation, self.kernel_size
            )
        return self._convolve(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )  # fmt: skip


class Conv1d(_Conv):
    """Convolution along one dimension; arguments as of Conv2d."""

    ndim = 1


class Conv2d(_Conv):
    """Convolution of images [n, in_channels, height, width], or of one image, as torch's.

    Parameters begin as torch's do: uniform within ``1 / sqrt(in_channels / groups * kernel elements)``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: the filter's lengths; a single number for all.
        stride: the distances of results.
        padding: how many zeros are put on both sides; ``"same"`` for as many as keep the lengths, ``"valid"`` for none.
        dilation: the distances of the filter's elements.
        groups: into how many groups the channels fall; each is convolved for itself.
        bias: whether there is a bias.
        padding_mode: ``"zeros"``, or ``"reflect"``, ``"replicate"``, ``"circular"`` for what nn.functional.pad does.
        device: only ``"cpu"``.
        dtype: the parameters' dtype, float32 or float64; the default dtype by default.

    Raises:
        ValueError: channels do not fall into groups, or there is no such padding.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.Conv2d(3, 8, 3, padding=1)(tg.ones(2, 3, 28, 28)).shape
        tapegrad.Size([2, 8, 28, 28])
    """

    ndim = 2


class Conv3d(_Conv):
    """Convolution along three dimensions; arguments as of Conv2d."""

    ndim = 3


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution along one dimension; arguments as of ConvTranspose2d."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of images [n, in_channels, height, width]: a convolution's gradient for its input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: the filter's lengths; a single number for all.
        stride, padding, dilation, groups: those of the convolution whose transpose this is.
        output_padding: how much longer the result is, at its ends.
        bias: whether there is a bias.
        padding_mode: only ``"zeros"``.
        device: only ``"cpu"``.
        dtype: the parameters' dtype, float32 or float64; the default dtype by default.

    Raises:
        ValueError: channels do not fall into groups, or a padding mode that there is not.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(tg.ones(2, 3, 14, 14)).shape
        tapegrad.Size([2, 8, 28, 28])
    """

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution along three dimensions; arguments as of ConvTranspose2d."""

    ndim = 3

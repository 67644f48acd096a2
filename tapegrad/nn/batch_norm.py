"""Layers that normalise channels: BatchNorm1d, 2d and 3d, InstanceNorm1d, 2d and 3d."""

from __future__ import annotations

import warnings
from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn import init
from tapegrad.nn.linear import new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import functions
from tapegrad.ops.normalization import normalize_batch
from tapegrad.runtime.dtype import int64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor


class _Channels(Module):
    """A layer with a weight and a bias for each channel, and running statistics."""

    _dims: tuple[int, ...] = ()
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", new_parameter((num_features,), device, dtype) if affine else None)
        self.register_parameter("bias", new_parameter((num_features,), device, dtype) if affine and bias else None)
        for name, make in (("running_mean", functions["zeros"]), ("running_var", functions["ones"])):
            self.register_buffer(name, make(num_features, dtype=dtype, device=device) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", tensor(0, dtype=int64) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running mean to zeros, the running variance to ones, and the number of batches to 0."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Reset the running statistics; set the weight to ones and the bias to zeros."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self._dims:
            wanted = " or ".join(f"{d}D" for d in self._dims)
            raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")

    def extra_repr(self) -> str:
        """Return the number of channels and the options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Channels):
    """Normalises each channel over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167).

    In training by the batch's own mean and biased variance, of which the running statistics keep a moving average (of
    the unbiased variance); in use by the running statistics.

    Args:
        num_features: the number of channels.
        eps: added to the variance.
        momentum: the share of the newest batch in the running statistics; None for the mean of all batches.
        affine: whether each channel has a weight and a bias.
        track_running_stats: whether there are running statistics; without, the batch's own are always used.
        device: only ``"cpu"``.
        dtype: the dtype of the parameters and the running statistics; the default dtype by default.
        bias: whether there is a bias beside the weight.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        self._check_input_dim(input)
        training = self.training or self.running_mean is None or self.running_var is None
        counted = self.training and self.track_running_stats
        return normalize_batch(
            input,
            self.running_mean if not self.training or counted else None,
            self.running_var if not self.training or counted else None,
            self.num_batches_tracked if counted else None,
            self.weight,
            self.bias,
            training,
            self.momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (n, channels) or (n, channels, length).

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.BatchNorm1d(1, eps=0.0)(tg.tensor([[1.0], [3.0]])).tolist()
        [[-1.0], [1.0]]
    """

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (n, channels, height, width).

    Example:
        >>> import tapegrad as tg
        >>> layer = tg.nn.BatchNorm2d(3)
        >>> layer(tg.ones(2, 3, 4, 4)).shape, layer.num_batches_tracked.item()
        (tapegrad.Size([2, 3, 4, 4]), 1)
    """

    _dims = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (n, channels, depth, height, width)."""

    _dims = (5,)


class _InstanceNorm(_Channels):
    """Normalises each channel of each sample (Ulyanov et al. 2016, arXiv:1607.08022).

    Args:
        num_features: the number of channels.
        eps: added to the variance.
        momentum: the share of the newest batch in the running statistics.
        affine: whether each channel has a weight and a bias.
        track_running_stats: whether running statistics are kept, and used when not training.
        device: only ``"cpu"``.
        dtype: the dtype of the parameters and the running statistics; the default dtype by default.
        bias: whether there is a bias beside the weight.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape; one sample without the first dimension is taken too."""
        self._check_input_dim(input)
        dim = input.dim() - max(self._dims) + 1
        if input.shape[dim] != self.num_features:
            self._refuse_features(input.shape[dim], dim)
        if dim == 0:
            return functions["squeeze"](self._normalized(functions["unsqueeze"](input, 0)), 0)
        return self._normalized(input)

    def _refuse_features(self, got: int, dim: int) -> None:
        """Raise, or warn where the layer has no parameters for its channels."""
        wanted = f"input's size at dim={dim} to match num_features ({self.num_features})"
        if self.affine:
            raise ValueError(f"expected {wanted}, but got: {got}.")
        warnings.warn(
            f"input's size at dim={dim} does not match num_features. You can silence this warning by not passing in "
            "num_features, which is not used because affine=False",
            stacklevel=4,
        )

    def _normalized(self, input: Tensor) -> Tensor:
        own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        running = (self.running_mean, self.running_var)
        return F.instance_norm(input, *running, self.weight, self.bias, own, momentum, self.eps)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (n, channels, length) or (channels, length)."""

    _dims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (n, channels, height, width) or (channels, height, width).

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.InstanceNorm2d(3)(tg.ones(2, 3, 4, 4)).shape
        tapegrad.Size([2, 3, 4, 4])
    """

    _dims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (n, channels, depth, height, width) or without n."""

    _dims = (4, 5)

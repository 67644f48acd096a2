"""Batch norms in evaluation made part of the layer before them."""

from __future__ import annotations

import copy
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import functions, ndim_of
from tapegrad.runtime.handle import Tensor


def _scale_and_shift(
    bias: Any, mean: Tensor, var: Tensor, eps: float, weight: Any, shift: Any
) -> tuple[Tensor, Tensor]:
    """Return s and t of batch_norm(y + bias) = s y + t, for each channel."""
    scale = functions["rsqrt"](var + eps) * (1.0 if weight is None else weight)
    moved = (0.0 if bias is None else bias) - mean
    return scale, moved * scale + (0.0 if shift is None else shift)


def _along(scale: Tensor, dim: int, ndim: int) -> Tensor:
    return functions["reshape"](scale, [-1 if d == dim else 1 for d in range(ndim)])


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of a convolution that does what it and a batch norm behind it do in evaluation.

    Args:
        conv_w: the convolution's weight.
        conv_b: its bias, if it has one.
        bn_rm: the batch norm's running mean.
        bn_rv: the batch norm's running variance.
        bn_eps: its eps.
        bn_w: its weight, if it has one.
        bn_b: its bias, if it has one.
        transpose: whether the convolution is a transposed one, with the output's channels in dimension 1.
    """
    with no_grad():
        scale, shift = _scale_and_shift(conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
        weight = conv_w * _along(scale, 1 if transpose else 0, ndim_of(conv_w))
    wanted = conv_w.requires_grad
    return Parameter(weight, wanted), Parameter(shift, conv_b.requires_grad if conv_b is not None else wanted)


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Parameter, Parameter]:
    """Return the weight and bias of a linear layer that does what it and a batch norm behind it do in evaluation.

    Args:
        linear_w: [out, in].
        linear_b: [out], or None.
        bn_rm: the running mean, [out].
        bn_rv: the running variance, [out].
        bn_eps: what is added to the variance.
        bn_w: the batch norm's weight, [out].
        bn_b: the batch norm's bias, [out].
    """
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def _fused(layer: Any, bn: Any, transpose: bool) -> Any:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    fused = copy.deepcopy(layer)
    arguments = (layer.weight, layer.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose)
    fused.weight, fused.bias = fuse_conv_bn_weights(*arguments)
    return fused


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """Return a copy of a convolution that also does what the batch norm behind it does in evaluation.

    Args:
        conv: the convolution, in evaluation.
        bn: the batch norm, in evaluation.
        transpose: whether ``conv`` is a transposed convolution.

    Raises:
        AssertionError: one of them is in training, or ``bn`` has no running statistics.
    """
    return _fused(conv, bn, transpose)


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """Return a copy of a linear layer that also does what the ``BatchNorm1d`` behind it does in evaluation.

    Args:
        linear: a ``Linear`` in evaluation.
        bn: the ``BatchNorm1d`` behind it, in evaluation.
    """
    if linear.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError("To fuse, linear.out_features == bn.num_features or bn.num_features == 1")
    return _fused(linear, bn, False)

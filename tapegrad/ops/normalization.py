"""Normalisation: layer_norm, rms_norm, group_norm, batch_norm and instance_norm."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, FLOAT64
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.normalization_channels import AFFINE_CHANNELS, BATCH_NORM
from tapegrad.ops.normalization_rows import NORM_ROWS
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_NAMES = ("Bool", "Byte", "Int", "Long", "Float", "Double")
_EPS = {code: float(np.finfo(DTYPE_NAMES[code]).eps) for code in (FLOAT32, FLOAT64)}


@function(method=False)
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``(x - mean) / sqrt(var + eps) weight + bias`` over the last dimensions (Ba et al., arXiv:1607.06450).

    Args:
        input: [..., *normalized_shape].
        normalized_shape: the lengths of the dimensions that are normalised together.
        weight: of the normalised shape, or none.
        bias: of the normalised shape, or none.
        eps: added to the variance.

    Returns:
        A tensor of the input's shape.

    Raises:
        RuntimeError: the input does not end in the normalised shape.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.layer_norm(tg.tensor([1.0, 3.0]), (2,), eps=0.0).tolist()
        [-1.0, 1.0]
    """
    wanted = _check_normalized(input, normalized_shape, weight, bias)
    if weight is None and bias is not None:
        return _over_last(input, len(wanted), None, None, eps, 1) + bias
    return _over_last(input, len(wanted), weight, bias, eps, 1)


def _check_normalized(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None, bias: Tensor | None = None
) -> tuple[int, ...]:
    """Return the normalised shape; RuntimeError, in torch's words, where a tensor does not fit it."""
    shape = shape_of(expect_tensor(input, "layer_norm"))
    wanted = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not wanted or shape[-len(wanted) :] != wanted:
        raise RuntimeError(
            f"Given normalized_shape={list(wanted)}, expected input with shape [*, {', '.join(map(str, wanted))}], "
            f"but got input of size {list(shape)}"
        )
    for name, factor in (("weight", weight), ("bias", bias)):
        if factor is not None and shape_of(factor) != wanted:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(shape_of(factor))} and normalized_shape = {list(wanted)}"
            )
    return wanted


def _over_last(
    input: Tensor, count: int, weight: Tensor | None, bias: Tensor | None, eps: float, centered: int
) -> Tensor:
    """Normalise over the last ``count`` dimensions."""
    code, ndim = _float_code(input, weight, bias), len(shape_of(input))
    mask = (1 << ndim) - (1 << ndim - count)
    return call(NORM_ROWS, input, weight, bias, attributes=(code, mask, 1, 0, float(eps), centered))


def _float_code(input: Tensor, *others: Tensor | None) -> int:
    """Return the dtype's code; RuntimeError where the operands are no floats of one dtype."""
    code = machine.dtype_of(input._handle)
    if code < FLOAT32:
        raise RuntimeError(f"a normalisation is not implemented for {DTYPE_NAMES[code]!r}: expected floating point")
    for other in others:
        if other is not None and machine.dtype_of(other._handle) != code:
            raise RuntimeError(
                f"expected scalar type {_NAMES[code]} but found {_NAMES[machine.dtype_of(other._handle)]}: input and "
                "parameters must have one dtype"
            )
    return code


@function(method=False)
def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Return ``x / sqrt(mean(x**2) + eps) weight`` over the last dimensions (Zhang and Sennrich, arXiv:1910.07467).

    Args:
        input: [..., *normalized_shape].
        normalized_shape: the lengths of the dimensions that are normalised together.
        weight: of the normalised shape, or none.
        eps: added to the mean square; the dtype's own by default.

    Raises:
        RuntimeError: the input does not end in the normalised shape.
    """
    wanted = _check_normalized(input, normalized_shape, weight)
    if eps is None:
        eps = _EPS[_float_code(input)]
    return _over_last(input, len(wanted), weight, None, eps, 0)


@function(method=False)
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Return the input normalised over groups of channels, sample by sample (Wu and He, arXiv:1803.08494).

    Args:
        input: [n, channels, ...].
        num_groups: a divisor of the number of channels.
        weight: [channels], or none.
        bias: [channels], or none.
        eps: added to the variance.

    Raises:
        RuntimeError: the number of channels is not divisible by ``num_groups``, or a parameter does not fit it.
        ValueError: a group has one element.
    """
    shape = shape_of(expect_tensor(input, "group_norm"))
    if len(shape) < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {len(shape)}")
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if shape[1] % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(shape)} and num_groups={num_groups}"
        )
    _check_vectors(shape, weight=weight, bias=bias)
    if shape[0] * shape[1] // num_groups * prod(shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(shape)}")
    return _by_groups(input, num_groups, weight, bias, eps)


def _by_groups(input: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    reshape, shape = functions["reshape"], shape_of(input)
    code, width = _float_code(input, weight, bias), shape[1] // groups
    if weight is None and bias is not None:
        weight = functions["ones_like"](bias)
    factors = [None if v is None else reshape(v, (groups, width, 1)) for v in (weight, bias)]
    rows = reshape(input, (shape[0], groups, width, prod(shape[2:])))
    return reshape(call(NORM_ROWS, rows, *factors, attributes=(code, 0b1100, 1, 0, float(eps), 1)), shape)


def _check_vectors(shape: tuple[int, ...], **vectors: Tensor | None) -> None:
    """RuntimeError where one of the vectors has not one number for each channel."""
    for name, vector in vectors.items():
        if vector is not None and shape_of(vector) != (shape[1],):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {list(shape_of(vector))} and input of shape {list(shape)}"
            )


@function(method=False)
def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the input normalised channel by channel (Ioffe and Szegedy, arXiv:1502.03167).

    Args:
        input: [n, channels, ...].
        running_mean: [channels]; used if not ``training``, else moved towards the batch's mean.
        running_var: [channels], likewise; it takes the unbiased variance.
        weight: [channels], or none.
        bias: [channels], or none.
        training: whether the batch's own mean and (biased) variance are used.
        momentum: the share of a batch in the running statistics.
        eps: added to the variance.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or running statistics are missing.
        ValueError: ``training`` with one value per channel.
    """
    return normalize_batch(input, running_mean, running_var, None, weight, bias, training, momentum, eps)


def normalize_batch(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Do what ``batch_norm`` does, count the batch where there is a counter, and take None for the momentum."""
    shape = shape_of(expect_tensor(input, "batch_norm"))
    if len(shape) < 2:
        raise RuntimeError(f"batch_norm: expected an input of at least 2 dimensions, got the shape {list(shape)}")
    operands = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in operands.items():
        if vector is not None and shape_of(vector) != (shape[1],):
            raise RuntimeError(f"{name} should contain {shape[1]} elements not {prod(shape_of(vector))}")
    code = _float_code(input, *operands.values())
    words = (code, (1 << len(shape)) - 3, 0, 0, float(eps), 1)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        return _in_use(input, running_mean, running_var, weight, bias, words)
    if shape[0] * prod(shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(shape)}")
    if weight is None:
        weight = functions["ones"](shape[1], dtype=input.dtype)
    running = (running_mean, running_var, num_batches_tracked)
    if running_mean is None or running_var is None:
        running = (None, None, None)
    share = -1.0 if momentum is None else float(momentum)
    return call(BATCH_NORM, input, weight, bias, *running, attributes=(*words, share))


def _in_use(
    input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, words: tuple[Any, ...]
) -> Tensor:
    """Return x scale + shift, a scale and a shift for each channel from the running statistics."""
    scale = functions["rsqrt"](variance + words[4])
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return call(AFFINE_CHANNELS, input, scale, shift if bias is None else shift + bias, attributes=words)


@function(method=False)
def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the input normalised channel by channel and sample by sample (Ulyanov et al., arXiv:1607.08022).

    Args:
        input: [n, channels, ...].
        running_mean: [channels]; moved towards the samples' mean, or used.
        running_var: [channels], likewise.
        weight: [channels], or none.
        bias: [channels], or none.
        use_input_stats: whether each sample's own statistics are used; if not, the running ones.
        momentum: the share of a batch in the running statistics.
        eps: added to the variance.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or running statistics are missing.
        ValueError: a plane has one element.
    """
    shape = shape_of(expect_tensor(input, "instance_norm"))
    if not use_input_stats:
        return normalize_batch(input, running_mean, running_var, None, weight, bias, False, momentum, eps)
    if prod(shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {list(shape)}")
    _check_vectors(shape, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if running_mean is not None and running_var is not None:
        return _instances_as_channels(input, (running_mean, running_var), (weight, bias), momentum, eps)
    return _by_groups(input, shape[1], weight, bias, eps)


def _instances_as_channels(
    input: Tensor,
    running: tuple[Tensor, Tensor],
    factors: tuple[Tensor | None, Tensor | None],
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise [n, channels, ...] as one sample of n * channels; the running statistics take the samples' mean."""
    reshape, repeat, shape = functions["reshape"], functions["tile"], shape_of(input)
    weight, bias = [None if v is None else repeat(v, (shape[0],)) for v in factors]
    moved = [repeat(v, (shape[0],)) for v in running]
    joined = reshape(input, (1, shape[0] * shape[1], *shape[2:]))
    mean, variance = moved
    result = normalize_batch(joined, mean, variance, None, weight, bias, True, momentum, eps)
    for statistic, values in zip(running, moved, strict=True):
        functions["copy_"](statistic, functions["mean"](reshape(values, shape[:2]), 0))
    return reshape(result, shape)

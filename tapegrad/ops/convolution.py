"""Convolutions as users call them: conv1d to conv3d and their transposed forms.

What an argument means, and what is wrong with one, is found out once for each combination of shapes and arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.convolution_ops import CONVOLUTION_OP, TRANSPOSED_OP, geometry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

Lengths = int | Sequence[int]
Shape = tuple[int, ...]
_C_NAMES = ("bool", "unsigned char", "int", "long", "float", "double")


def _hashable(value: Lengths | str) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _each(value: int | Shape, ndim: int, name: str) -> Shape:
    """Return an argument's number for each spatial dimension."""
    given = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int) for number in given):
        raise TypeError(f"conv{ndim}d(): argument '{name}' must be int or tuple of ints, got {value!r}")
    if len(given) not in (1, ndim):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {ndim} values to match the convolution "
            f"dimensions, but got {name}={list(given)}"
        )
    return given * ndim if len(given) == 1 else given


def _check_numbers(stride: Shape, padding: Shape, dilation: Shape, groups: int) -> None:
    if min(padding) < 0:
        raise RuntimeError("negative padding is not supported")
    if min(stride) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    if min(dilation) <= 0:
        raise RuntimeError("non-positive dilation is not supported")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")


def _check_shapes(input: Shape, weight: Shape, bias: Shape | None, groups: int, transposed: bool) -> None:
    """Compare channels; the input is batched."""
    size = list(weight)
    if weight[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of size "
            f"{size} instead"
        )
    if weight[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size {size} instead"
        )
    channels = weight[0] if transposed else weight[1] * groups
    if input[1] != channels:
        given = f"transposed={int(transposed)}" if transposed else f"groups={groups}"
        raise RuntimeError(
            f"Given {given}, weight of size {size}, expected input{list(input)} to have {channels} channels, but got "
            f"{input[1]} channels instead"
        )
    results = weight[1] * groups if transposed else weight[0]
    if bias is not None and bias != (results,):
        given = "transposed=1, " if transposed else ""
        raise RuntimeError(
            f"Given {given}weight of size {size}, expected bias to be 1-dimensional with {results} elements, but got "
            f"bias of size {list(bias)} instead"
        )
    if min(weight[2:]) == 0:
        raise RuntimeError(f"convolution: expected a kernel of at least one element, got a weight of size {size}")


def _check_ndim(name: str, ndim: int, input: Shape, weight: Shape) -> None:
    if len(input) not in (ndim + 1, ndim + 2):
        raise RuntimeError(
            f"Expected {ndim + 1}D (unbatched) or {ndim + 2}D (batched) input to {name}, but got input of size: "
            f"{list(input)}"
        )
    if len(weight) != ndim + 2:
        raise RuntimeError(f"{name}: expected a weight of {ndim + 2} dimensions, got one of size {list(weight)}")


def _before(
    padding: int | str | Shape, ndim: int, stride: Shape, dilation: Shape, filter: Shape
) -> tuple[Shape, Shape]:
    """Return how much is padded before each dimension, and on both sides together."""
    if padding == "valid":
        return (0,) * ndim, (0,) * ndim
    if padding == "same":
        if max(stride) > 1:
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        both = tuple(d * (k - 1) for d, k in zip(dilation, filter, strict=True))
        return tuple(total // 2 for total in both), both
    if isinstance(padding, str):
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    before = _each(padding, ndim, "padding")
    return before, tuple(2 * p for p in before)


@lru_cache(4096)
def _is_product(attributes: Shape) -> bool:
    """Return whether a convolution is a product of matrices: one window that is the whole image, of one group."""
    groups, rows = attributes[0], [attributes[k : k + 3] for k in range(1, 19, 3)]
    _, padding, dilation, image, filter, result = rows
    return groups == 1 and not any(padding) and image == filter and result == dilation == (1, 1, 1)


@lru_cache(4096)
def _convolution(
    ndim: int, input: Shape, weight: Shape, bias: Shape | None,
    stride: int | Shape, padding: int | str | Shape, dilation: int | Shape, groups: int,
) -> Shape:  # fmt: skip
    """Return the op's attributes; raise what torch raises where arguments do not fit."""
    _check_ndim(f"conv{ndim}d", ndim, input, weight)
    batched = input if len(input) == ndim + 2 else (1, *input)
    stride, dilation = _each(stride, ndim, "stride"), _each(dilation, ndim, "dilation")
    before, both = _before(padding, ndim, stride, dilation, weight[2:])
    _check_numbers(stride, before, dilation, groups)
    _check_shapes(batched, weight, bias, groups, False)
    padded = [n + p for n, p in zip(batched[2:], both, strict=True)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight[2:], strict=True)]
    if any(n < k for n, k in zip(padded, reach, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). Kernel size: "
            f"({' x '.join(map(str, reach))}). Kernel size can't be greater than actual input size"
        )
    if 0 in batched[2:] and batched[0] and batched[1]:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(batched)}"
        )
    result = [(n - k) // s + 1 for n, k, s in zip(padded, reach, stride, strict=True)]
    return geometry(ndim, groups, stride, before, dilation, batched[2:], weight[2:], result)


@lru_cache(4096)
def _transposed(
    ndim: int, input: Shape, weight: Shape, bias: Shape | None,
    stride: int | Shape, padding: int | Shape, output_padding: int | Shape, groups: int, dilation: int | Shape,
) -> Shape:  # fmt: skip
    """Return the op's attributes; raise what torch raises where arguments do not fit."""
    _check_ndim(f"conv_transpose{ndim}d", ndim, input, weight)
    batched = input if len(input) == ndim + 2 else (1, *input)
    stride, dilation = _each(stride, ndim, "stride"), _each(dilation, ndim, "dilation")
    padding, more = _each(padding, ndim, "padding"), _each(output_padding, ndim, "output_padding")
    _check_numbers(stride, padding, dilation, groups)
    if min(more) < 0:
        raise RuntimeError("negative output_padding is not supported")
    _check_shapes(batched, weight, bias, groups, True)
    for extra, s, d in zip(more, stride, dilation, strict=True):
        if extra >= s and extra >= d:
            raise RuntimeError(
                f"output padding must be smaller than either stride or dilation, but got output_padding: {list(more)} "
                f"stride: {list(stride)} dilation: {list(dilation)}"
            )
    if 0 in batched[2:] and batched[0] and batched[1]:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(batched)}"
        )
    result = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(batched[2:], stride, padding, dilation, weight[2:], more, strict=True)
    ]
    if min(result) <= 0:
        raise RuntimeError(
            f"Given input size per channel: {list(batched[2:])}. Calculated output size per channel: {result}. Output "
            "size is too small"
        )
    return geometry(ndim, groups, stride, padding, dilation, result, weight[2:], batched[2:])


def _check_dtypes(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    dtype = machine.dtype_of(input._handle)
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and machine.dtype_of(other._handle) != dtype:
            theirs = machine.dtype_of(other._handle)
            raise RuntimeError(
                f"Input type ({_C_NAMES[dtype]}) and {name} type ({_C_NAMES[theirs]}) should be the same"
            )


def _expect(name: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    expect_tensor(input, name)
    expect_tensor(weight, name, "weight", 2)
    if bias is not None:
        expect_tensor(bias, name, "bias", 3)
    _check_dtypes(input, weight, bias)


def _unbatched(result: Tensor) -> Tensor:
    return functions["squeeze"](result, 0)


def _emit_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, attributes: Shape) -> Tensor:
    if not _is_product(attributes):
        return call(CONVOLUTION_OP, input, weight, bias, attributes=attributes)
    reshape, images = functions["reshape"], shape_of(input)
    channels = shape_of(weight)[0]
    length = math.prod(images[1:])
    result = functions["linear"](reshape(input, (images[0], length)), reshape(weight, (channels, length)), bias)
    return reshape(result, (images[0], channels, *[1] * (len(images) - 2)))


def _emit_transposed(input: Tensor, weight: Tensor, bias: Tensor | None, attributes: Shape) -> Tensor:
    if not _is_product(attributes):
        return call(TRANSPOSED_OP, input, weight, bias, attributes=attributes)
    reshape, filters = functions["reshape"], shape_of(weight)
    images = shape_of(input)[0]
    rows = reshape(weight, (filters[0], math.prod(filters[1:])))
    result = reshape(functions["mm"](reshape(input, (images, filters[0])), rows), (images, *filters[1:]))
    return result if bias is None else result + reshape(bias, (-1, *[1] * (len(filters) - 2)))


def _run_convolution(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Lengths, padding: Lengths | str, dilation: Lengths, groups: int,
) -> Tensor:  # fmt: skip
    _expect(f"conv{ndim}d", input, weight, bias)
    shape = shape_of(input)
    attributes = _convolution(
        ndim, shape, shape_of(weight), None if bias is None else shape_of(bias),
        _hashable(stride), _hashable(padding), _hashable(dilation), groups,
    )  # fmt: skip
    if len(shape) == ndim + 1:
        return _unbatched(_emit_convolution(functions["unsqueeze"](input, 0), weight, bias, attributes))
    return _emit_convolution(input, weight, bias, attributes)


def _run_transposed(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Lengths, padding: Lengths, output_padding: Lengths, groups: int, dilation: Lengths,
) -> Tensor:  # fmt: skip
    _expect(f"conv_transpose{ndim}d", input, weight, bias)
    shape = shape_of(input)
    attributes = _transposed(
        ndim, shape, shape_of(weight), None if bias is None else shape_of(bias),
        _hashable(stride), _hashable(padding), _hashable(output_padding), groups, _hashable(dilation),
    )  # fmt: skip
    if len(shape) == ndim + 1:
        return _unbatched(_emit_transposed(functions["unsqueeze"](input, 0), weight, bias, attributes))
    return _emit_transposed(input, weight, bias, attributes)


@function(method=False)
def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths | str = 0,
    dilation: Lengths = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Return the convolution (torch's: without turning the filter round) along one dimension.

    Args:
        input: [n, channels, length], or without n; float32 or float64.
        weight: [out, channels / groups, kernel], of the same dtype.
        bias: [out], or none.
        stride: the distance of results.
        padding: zeros on both sides; ``"valid"`` for none, ``"same"`` for as many as keep the length.
        dilation: the distance of the filter's elements.
        groups: into how many groups channels fall; each is convolved for itself.

    Returns:
        [n, out, (length + 2 padding - dilation (kernel - 1) - 1) // stride + 1].

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.conv1d(tg.tensor([[[1.0, 2.0, 3.0]]]), tg.ones(1, 1, 2)).tolist()
        [[[3.0, 5.0]]]
    """
    return _run_convolution(1, input, weight, bias, stride, padding, dilation, groups)


@function(method=False)
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths | str = 0,
    dilation: Lengths = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Return the convolution along two dimensions; arguments as of conv1d, with pairs where lengths differ.

    Args:
        input: [n, channels, height, width], or without n.
        weight: [out, channels / groups, kernel height, kernel width].
        bias: [out], or none.
        stride, padding, dilation, groups: see conv1d.

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.conv2d(tg.ones(1, 3, 8, 8), tg.ones(4, 3, 3, 3), padding=1, stride=2).shape
        tapegrad.Size([1, 4, 4, 4])
    """
    return _run_convolution(2, input, weight, bias, stride, padding, dilation, groups)


@function(method=False)
def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths | str = 0,
    dilation: Lengths = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Return the convolution along three dimensions of [n, channels, depth, height, width]; arguments as of conv1d.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    return _run_convolution(3, input, weight, bias, stride, padding, dilation, groups)


@function(method=False)
def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths = 0,
    output_padding: Lengths = 0, groups: int = 1, dilation: Lengths = 1,
) -> Tensor:  # fmt: skip
    """Return the transposed convolution along one dimension: conv1d's gradient for its input, as a function.

    Args:
        input: [n, channels, length], or without n; float32 or float64.
        weight: [channels, out / groups, kernel], of the same dtype.
        bias: [out], or none.
        stride, padding, dilation, groups: those of the convolution whose transpose this is.
        output_padding: how much longer the result is at its end: where the stride is more than 1, convolutions of
            several lengths have results of one.

    Returns:
        [n, out, (length - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1].

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.conv_transpose1d(tg.tensor([[[1.0, 2.0]]]), tg.ones(1, 1, 2), stride=2).tolist()
        [[[1.0, 1.0, 2.0, 2.0]]]
    """
    return _run_transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@function(method=False)
def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths = 0,
    output_padding: Lengths = 0, groups: int = 1, dilation: Lengths = 1,
) -> Tensor:  # fmt: skip
    """Return the transposed convolution along two dimensions; arguments as of conv_transpose1d.

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.conv_transpose2d(tg.ones(1, 3, 8, 8), tg.ones(3, 4, 4, 4), stride=2, padding=1).shape
        tapegrad.Size([1, 4, 16, 16])
    """
    return _run_transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@function(method=False)
def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Lengths = 1, padding: Lengths = 0,
    output_padding: Lengths = 0, groups: int = 1, dilation: Lengths = 1,
) -> Tensor:  # fmt: skip
    """Return the transposed convolution along three dimensions; arguments as of conv_transpose1d.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    return _run_transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def output_padding_of(
    input: Shape, size: Sequence[int], stride: Shape, padding: Shape, dilation: Shape, filter: Shape
) -> Shape:
    """Return the output padding with which a transposed convolution has results of the length ``size``.

    Raises:
        ValueError: no output padding does.
    """
    ndim = len(filter)
    lead = 2 if len(input) == ndim + 2 else 1
    wanted = list(size)[lead:] if len(size) == lead + ndim else list(size)
    if len(wanted) != ndim:
        raise ValueError(
            f"ConvTranspose{ndim}D: for {len(input)}D input, output_size must have {ndim} or {lead + ndim} elements "
            f"(got {len(wanted)})"
        )
    rows = zip(input[lead:], stride, padding, dilation, filter, strict=True)
    least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in rows]
    most = [low + s - 1 for low, s in zip(least, stride, strict=True)]
    if any(not low <= n <= high for low, n, high in zip(least, wanted, most, strict=True)):
        raise ValueError(
            f"requested an output size of {tuple(wanted)}, but valid sizes range from {least} to {most} (for an input "
            f"of {list(input[lead:])})"
        )
    return tuple(n - low for n, low in zip(wanted, least, strict=True))

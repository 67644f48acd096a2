"""Pooling (nn.functional): maxima, means and norms of windows, and the undoing of max pooling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import FLOAT32, INT64, UINT8
from tapegrad.ops.calls import TORCH_NAMES, call, call_several, expect_tensor, functions, shape_of
from tapegrad.ops.lookups import IndexRangeError, call_at
from tapegrad.ops.max_pool_ops import ADAPTIVE_MAX_POOL, MAX_POOL, MAX_UNPOOL, PLANE_MEAN, window_attributes
from tapegrad.ops.registry import registry
from tapegrad.ops.resampling import Windows, mean_windows, resample, resample_dim, tables_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

Sizes = int | Sequence[int]
_PLACES = 1 << 31  # a place in a plane is an int32
_Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_NAMES = ("T", "H", "W")


def sizes_of(value: Sizes, count: int, name: str, argument: str) -> tuple[int, ...]:
    """Return one number for each of ``count`` dimensions; RuntimeError where there is another number of them."""
    given = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(number, int | np.integer) for number in given):
        raise TypeError(f"{name}(): argument '{argument}' must be tuple of ints, not {value!r}")
    if len(given) not in (1, count):
        raise RuntimeError(f"{name}: {argument} must either be a single int, or a tuple of {count} ints")
    return tuple(int(number) for number in given) * (count if len(given) == 1 else 1)


def check_dtype(code: int, name: str, least: int = FLOAT32) -> None:
    """Raise NotImplementedError where the dtype of this code comes before ``least``."""
    if code < least:
        raise NotImplementedError(f'"{name}" not implemented for {TORCH_NAMES[code]!r}')


def _check_input(shape: tuple[int, ...], code: int, name: str, spatial: int, least: int = FLOAT32) -> tuple[int, ...]:
    """Return the sizes of a plane of a tensor [channels, *plane] or [batch, channels, *plane]."""
    if len(shape) not in (spatial + 1, spatial + 2):
        raise RuntimeError(
            f"{name}: non-empty {spatial + 1}D or {spatial + 2}D (batch mode) tensor expected for input, but got: "
            f"{list(shape)}"
        )
    if 0 in shape[-1 - spatial :]:
        raise RuntimeError(
            f"{name}: Expected {spatial + 1}D or {spatial + 2}D (batch mode) tensor with optional 0 dim batch size for "
            f"input, but got: {list(shape)}"
        )
    check_dtype(code, name, least)
    return shape[-spatial:]


def _window(
    name: str, spatial: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes = 1
) -> _Window:
    """Return kernel sizes, strides, paddings and dilations, after checking each by itself."""
    kernel = sizes_of(kernel_size, spatial, name, "kernel_size")
    steps = kernel if stride is None or stride == [] or stride == () else sizes_of(stride, spatial, name, "stride")
    pads, apart = sizes_of(padding, spatial, name, "padding"), sizes_of(dilation, spatial, name, "dilation")
    for what, numbers in (("kernel size", kernel), ("stride", steps), ("dilation", apart)):
        if min(numbers) < 1:
            raise RuntimeError(f"{name}: {what} should be greater than zero, but got {_listed(numbers)}")
    for k, p in zip(kernel, pads, strict=True):
        if p < 0:
            raise RuntimeError(f"{name}: pad must be non-negative, but got pad: {p}")
        if p > k // 2:
            raise RuntimeError(
                f"{name}: pad should be at most half of kernel size, but got pad={p} and kernel_size={k}"
            )
    return kernel, steps, pads, apart


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(f"{name}: {number}" for name, number in zip(_NAMES[-len(numbers) :], numbers, strict=True))


def pooled_size(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return how many windows there are along a dimension; none starts in the padding after it."""
    m = (n + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil else 0)) // stride + 1
    return m - 1 if ceil and (m - 1) * stride >= n + padding else m


def _check_result(channels: int, name: str, plane: tuple[int, ...], window: _Window, ceil: bool) -> None:
    result = [pooled_size(n, k, s, p, d, ceil) for n, k, s, p, d in zip(plane, *window, strict=True)]
    if min(result) < 1:
        sizes = ["x".join(map(str, (channels, *numbers))) for numbers in (plane, result)]
        raise RuntimeError(
            f"{name}: Given input size: ({sizes[0]}). Calculated output size: ({sizes[1]}). Output size is too small"
        )


# ---- maxima ----


def planned(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with a cache of what it makes of the same shape, dtype and arguments; lists become tuples."""
    cached = functools.lru_cache(maxsize=1024, typed=True)(make)  # 2.0 is no 2

    def plan(input: Tensor, name: str, *arguments: Any) -> Any:
        code, shape = machine.dtype_of(expect_tensor(input, name)._handle), machine.shape_of(input._handle)
        try:
            return cached(shape, code, name, *arguments)
        except TypeError:  # a list, or what is refused
            plain = (tuple(value) if isinstance(value, list) else value for value in arguments)
            return make(shape, code, name, *plain)

    return plan


@planned
def _max_pool_attributes(
    shape: tuple[int, ...], code: int, name: str, spatial: int, *arguments: Any
) -> tuple[int, ...]:
    """Return a max pooling's attributes, after checking its arguments."""
    *window_arguments, ceil_mode = arguments
    plane = _check_input(shape, code, name, spatial, UINT8)
    window = _window(name, spatial, *window_arguments)
    _check_result(shape[-1 - spatial], name, plane, window, ceil_mode)
    _check_places(name, plane)
    return window_attributes(*window, ceil_mode)


def _max_pool(
    spatial: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    window = (kernel_size, stride, padding, dilation)
    attributes = _max_pool_attributes(input, f"max_pool{spatial}d", spatial, *window, ceil_mode)
    return _finish(call_several(MAX_POOL, input, attributes=attributes), return_indices)


def _check_places(name: str, plane: tuple[int, ...]) -> None:
    if math.prod(plane) >= _PLACES:
        raise RuntimeError(f"{name}: a plane has at most 2**31 - 1 elements, got one of {list(plane)}")


def _finish(found: tuple[Tensor, ...], return_indices: bool) -> Any:
    return (found[0], call(registry["cast"], found[1], attributes=(INT64,))) if return_indices else found[0]


def max_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maxima of windows of signals [..., channels, length]; see max_pool2d."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maxima of windows of images.

    Args:
        input: [batch, channels, height, width] or [channels, height, width] of numbers.
        kernel_size: the window's size: one number, or one for each dimension. So are the next three.
        stride: from one window to the next; ``kernel_size`` by default.
        padding: how far windows may begin before, and end behind, the image; at most half a window.
        dilation: how far apart a window's elements are.
        ceil_mode: whether a last window may end beyond the padding; it must begin before it.
        return_indices: whether to return also where in its plane each maximum is.

    Returns:
        [batch, channels, m, n] with m = (height + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1; where
        asked for, int64 indices of the same shape. Of equal maxima the first is taken; nan counts as a maximum.

    Raises:
        RuntimeError: a size, stride, padding or shape that leaves no window.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.max_pool2d(tg.tensor([[[1.0, 2.0], [4.0, 3.0]]]), 2).tolist()
        [[[4.0]]]
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maxima of windows of volumes [..., channels, depth, height, width]; see max_pool2d."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@planned
def _adaptive_sizes(shape: tuple[int, ...], code: int, name: str, spatial: int, output_size: Any) -> tuple[int, ...]:
    if len(shape) not in (spatial + 1, spatial + 2):
        raise RuntimeError(f"{name}(): Expected {spatial + 1}D or {spatial + 2}D tensor, but got {list(shape)}")
    if 0 in shape[-1 - spatial :]:
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
            f"{list(shape)} with dimension {len(shape) - 1 - spatial + shape[-1 - spatial :].index(0)} being empty"
        )
    given = (output_size,) * spatial if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(given) == 1:
        given = given * spatial
    if len(given) != spatial:
        raise RuntimeError(f"{name}: output_size must be {spatial}")
    sizes = tuple(n if size is None else int(size) for n, size in zip(shape[-spatial:], given, strict=True))
    if min(sizes) < 0:
        raise RuntimeError(f"{name}: elements of output_size must be greater than or equal to 0 but received {sizes}")
    check_dtype(code, name)
    return sizes


def _adaptive_max_pool(spatial: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{spatial}d"
    sizes = _adaptive_sizes(input, name, spatial, output_size)
    _check_places(name, shape_of(input)[-spatial:])
    attributes = (spatial, *(1,) * (3 - spatial), *sizes)
    return _finish(call_several(ADAPTIVE_MAX_POOL, input, attributes=attributes), return_indices)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of ``output_size`` windows that share out signals [..., channels, length]."""
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of windows that share out images: window i of m goes from floor(i n / m) to ceil((i+1) n / m).

    Args:
        input: [batch, channels, height, width] or [channels, height, width] of floats.
        output_size: how many windows, one number or one for each dimension; None for as many as elements.
        return_indices: whether to return also where in its plane each maximum is.
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of windows that share out volumes; see adaptive_max_pool2d."""
    return _adaptive_max_pool(3, input, output_size, return_indices)


# ---- means ----


@tables_of
def _mean_tables(
    n: int, kernel: int, stride: int, padding: int, ceil: bool, include_pad: bool, divisor: int | None
) -> Windows:
    """Return windows along one dimension; ``divisor`` replaces their lengths."""
    start = np.arange(pooled_size(n, kernel, stride, padding, 1, ceil)) * stride - padding
    stop = np.minimum(start + kernel, n + padding)
    inside = np.minimum(stop, n) - np.maximum(start, 0)
    length = np.maximum(stop - start if include_pad else inside, 1)
    by = length if divisor is None else np.full(len(start), divisor)
    return mean_windows(n, np.maximum(start, 0), np.minimum(stop, n), by)


@planned
def _avg_pool_tables(
    shape: tuple[int, ...], code: int, name: str, spatial: int, *arguments: Any
) -> list[tuple[Tensor, Tensor]]:
    """Return an average pooling's tables, after checking its arguments."""
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override = arguments
    plane = _check_input(shape, code, name, spatial)
    window = _window(name, spatial, kernel_size, stride, padding)
    if divisor_override == 0:
        raise RuntimeError(f"{name}: divisor must be not zero")
    _check_result(shape[-1 - spatial], name, plane, window, ceil_mode)
    if spatial == 3 and any(n < kernel for n, kernel in zip(plane, window[0], strict=True)):
        raise RuntimeError(f"{name}: input image ({_listed(plane)}) smaller than kernel size ({_listed(window[0])})")
    tables = []
    for d, (n, kernel, step, pad, _) in enumerate(zip(plane, *window, strict=True)):
        divisor = None if divisor_override is None else divisor_override if d == spatial - 1 else 1
        tables.append(_mean_tables(n, kernel, step, pad, bool(ceil_mode), bool(count_include_pad), divisor))
    return tables


def _avg_pool(spatial: int, input: Tensor, *arguments: Any) -> Tensor:
    return resample(input, _avg_pool_tables(input, f"avg_pool{spatial}d", spatial, *arguments))


def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the means of windows of signals [..., channels, length]; see avg_pool2d."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the means of windows of images.

    Args:
        input: [batch, channels, height, width] or [channels, height, width] of floats.
        kernel_size: the window's size: one number, or one for each dimension. So are the next two.
        stride: from one window to the next; ``kernel_size`` by default.
        padding: how far windows may begin before, and end behind, the image; at most half a window.
        ceil_mode: whether a last window may end beyond the padding; it must begin before it.
        count_include_pad: whether zeros in the padding count.
        divisor_override: what sums are divided by, in place of the number of elements.

    Raises:
        RuntimeError: a size, stride, padding or shape that leaves no window; a divisor of zero.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.avg_pool2d(tg.tensor([[[1.0, 2.0], [4.0, 3.0]]]), 2).tolist()
        [[[2.5]]]
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the means of windows of volumes [..., channels, depth, height, width]; see avg_pool2d."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@tables_of
def _sharing_tables(n: int, m: int) -> Windows:
    index = np.arange(m)
    start, stop = index * n // max(m, 1), -(-(index + 1) * n // max(m, 1))
    return mean_windows(n, start, stop, stop - start)


def adaptive_avg_pool(spatial: int, input: Tensor, output_size: Any) -> Tensor:
    """Return the means of so many windows that share out the last ``spatial`` dimensions."""
    sizes = _adaptive_sizes(input, f"adaptive_avg_pool{spatial}d", spatial, output_size)
    if all(size == 1 for size in sizes):
        return call(PLANE_MEAN, input, attributes=(spatial,))
    return resample(input, [_sharing_tables(n, m) for n, m in zip(shape_of(input)[-spatial:], sizes, strict=True)])


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Return the means of ``output_size`` windows that share out signals [..., channels, length]."""
    return adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Return the means of windows that share out images; the windows are those of adaptive_max_pool2d."""
    return adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Return the means of windows that share out volumes; the windows are those of adaptive_max_pool2d."""
    return adaptive_avg_pool(3, input, output_size)


# ---- norms ----


def _lp_pool(
    spatial: int, input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None, ceil_mode: bool
) -> Tensor:
    if math.isinf(norm_type):
        sign = 1 if norm_type > 0 else -1
        return sign * _max_pool(spatial, sign * functions["abs"](input), kernel_size, stride, 0, 1, ceil_mode, False)
    kernel = sizes_of(kernel_size, spatial, f"lp_pool{spatial}d", "kernel_size")
    mean = _avg_pool(spatial, functions["pow"](input, norm_type), kernel, stride, 0, ceil_mode, True, None)
    total = functions["sign"](mean) * functions["relu"](functions["abs"](mean)) * math.prod(kernel)
    result: Tensor = functions["pow"](total, 1.0 / norm_type)
    return result


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Tensor:
    """Return (sum of x**p)**(1 / p) over windows of signals [..., channels, length], p being ``norm_type``."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Tensor:
    """Return (sum of x**p)**(1 / p) over windows of images [..., channels, height, width], p being ``norm_type``."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> Tensor:
    """Return (sum of x**p)**(1 / p) over windows of volumes, p being ``norm_type``."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


@tables_of
def _neighbour_tables(n: int, size: int) -> Windows:
    start = np.arange(n) - size // 2
    return mean_windows(n, np.maximum(start, 0), np.minimum(start + size, n), np.full(n, size))


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Return x / (k + alpha mean(x**2 of ``size`` neighbouring channels))**beta (Krizhevsky et al. 2012).

    Args:
        input: [batch, channels, ...], of three dimensions or more; channels beyond the first and last count as zeros.
        size: how many channels.
        alpha: the factor of the mean.
        beta: the exponent.
        k: added to the mean.

    Raises:
        ValueError: the input has fewer than three dimensions.
    """
    shape = shape_of(expect_tensor(input, "local_response_norm"))
    if len(shape) < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {len(shape)} dimensions)")
    if size < 1:
        raise RuntimeError(f"local_response_norm: size should be greater than zero, but got {size}")
    if math.prod(shape) == 0:
        return input
    check_dtype(machine.dtype_of(input._handle), "local_response_norm")
    mean = resample_dim(functions["square"](input), _neighbour_tables(shape[1], int(size)), len(shape) - 1)
    return input * functions["pow"](mean * alpha + k, -beta)


# ---- back to where the maxima were ----


def _unpooled_sizes(plane: tuple[int, ...], window: Any, output_size: Sequence[int] | None) -> tuple[int, ...]:
    kernel, stride, padding = window
    usual = [(n - 1) * s + k - 2 * p for n, k, s, p in zip(plane, kernel, stride, padding, strict=True)]
    if output_size is None:
        return tuple(usual)
    spatial, given = len(plane), tuple(output_size)
    if len(given) not in (spatial, spatial + 2):
        raise ValueError(
            f"output_size should be a sequence containing {spatial} or {spatial + 2} elements, but it has a length of "
            f"'{len(given)}'"
        )
    given = given[-spatial:]
    for d, (size, middle, s) in enumerate(zip(given, usual, stride, strict=True)):
        if not middle - s < size < middle + s:
            raise ValueError(f'invalid output_size "{given}" (dim {d} must be between {middle - s} and {middle + s})')
    return given


def _max_unpool(
    spatial: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    output_size: Sequence[int] | None,
) -> Tensor:
    name = f"max_unpool{spatial}d"
    plane = _check_input(shape_of(expect_tensor(input, name)), machine.dtype_of(input._handle), name, spatial)
    shape, code = shape_of(expect_tensor(indices, name, "indices", 2)), machine.dtype_of(indices._handle)
    kernel = sizes_of(kernel_size, spatial, name, "kernel_size")
    steps = kernel if stride is None else sizes_of(stride, spatial, name, "stride")
    pads = sizes_of(padding, spatial, name, "padding")
    sizes = _unpooled_sizes(plane, (kernel, steps, pads), output_size)
    if code != INT64:
        raise RuntimeError(f"{name}: elements in indices should be type int64 but got: {TORCH_NAMES[code]}")
    if shape != shape_of(input):
        raise RuntimeError(
            f"{name}: Expected shape of indices to be same as that of the input tensor ({list(shape_of(input))}) but "
            f"got indices tensor with shape: {list(shape)}"
        )
    if min(sizes) < 0:
        raise ValueError(f"{name}: output_size must contain non-negative sizes, but got {sizes}")
    try:
        return call_at(MAX_UNPOOL, input, indices, attributes=(spatial, *sizes))
    except IndexRangeError:
        bad = int(machine.state["error_value0"])
        volume = "x".join(map(str, sizes))
        raise RuntimeError(f"{name}: Found an invalid max index: {bad} (output volumes are of size {volume})") from None


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros with the maxima of a max_pool1d where they were; see max_unpool2d."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros with the maxima of a max_pool2d where they were.

    Args:
        input: the maxima.
        indices: int64, where in its plane of the result each of them belongs.
        kernel_size, stride, padding: those of the pooling.
        output_size: the sizes of the planes, where several lead to the same pooled size.

    Raises:
        RuntimeError: an index lies outside its plane, or the indices have another shape or dtype.
        ValueError: no plane of the output size is pooled to the input's.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros with the maxima of a max_pool3d where they were; see max_unpool2d."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


def _with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(pool)
    def both(*args: Any, **kwargs: Any) -> Any:
        return pool(*args, **{**kwargs, "return_indices": True})

    both.__name__ = f"{pool.__name__}_with_indices"
    both.__doc__ = f"Return maxima and where they are: ``{pool.__name__}`` with ``return_indices=True``."
    return both


for _pool in (max_pool1d, max_pool2d, max_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d):
    functions[f"_{_pool.__name__}"] = _pool
    functions[f"_{_pool.__name__}_with_indices"] = _with_indices(_pool)
for _function in (
    *(avg_pool1d, avg_pool2d, avg_pool3d),
    *(adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d),
    *(lp_pool1d, lp_pool2d, lp_pool3d),
    *(max_unpool1d, max_unpool2d, max_unpool3d),
    local_response_norm,
):
    functions[f"_{_function.__name__}"] = _function

"""grid_sample and affine_grid (nn.functional): reads of images at places between their elements, made of gathers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import FLOAT32, INT64
from tapegrad.ops.calls import call, expect_tensor, functions, shape_of
from tapegrad.ops.lookups import tensor_of
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_CUBIC = -0.75  # the parameter of the cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711)
_MODES, _PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Return the places, for grid_sample, where an affine map takes the elements of an image or a volume.

    Args:
        theta: float matrices [batch, 2, 3] (images) or [batch, 3, 4] (volumes).
        size: the result's of grid_sample: (batch, channels, height, width) or (batch, channels, depth, height, width).
        align_corners: whether -1 and 1 are the centres of the corner elements, not their outer corners.

    Returns:
        [batch, height, width, 2] or [batch, depth, height, width, 3], x first.

    Raises:
        RuntimeError: a size of zero, or matrices of another shape.
        NotImplementedError: neither images nor volumes.
    """
    shape, code = shape_of(expect_tensor(theta, "affine_grid", "theta")), machine.dtype_of(theta._handle)
    sizes = tuple(int(n) for n in size)
    if code < FLOAT32:
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    if len(sizes) not in (4, 5):
        raise NotImplementedError(f"affine_grid only supports 4D and 5D sizes, got size of {sizes}")
    spatial = len(sizes) - 2
    if shape != (sizes[0], spatial, spatial + 1):
        wanted = f"{sizes[0]}x{spatial}x{spatial + 1}"
        raise ValueError(f"Expected a batch of {spatial}D affine matrices of shape {wanted}, got {list(shape)}")
    if min(sizes) < 1:
        raise ValueError(f"Expected non-zero, positive output size. Got {sizes}")
    axes = [_centres(n, bool(align_corners)) for n in reversed(sizes[2:])]
    grids = np.meshgrid(*axes[::-1], indexing="ij")[::-1]
    base = np.stack([*grids, np.ones(sizes[2:])], -1).reshape(-1, spatial + 1)
    points = functions["to_dtype"](tensor_of(base), theta.dtype)
    result: Tensor = functions["matmul"](points, functions["transpose"](theta, 1, 2))
    grid: Tensor = functions["reshape"](result, (sizes[0], *sizes[2:], spatial))
    return grid


def _centres(n: int, align_corners: bool) -> Any:
    if n == 1:
        return np.zeros(1)
    ends = 1.0 if align_corners else (n - 1) / n
    return np.linspace(-ends, ends, n)


def _unnormalized(x: Tensor, n: int, align_corners: bool) -> Tensor:
    return (x + 1) * ((n - 1) / 2) if align_corners else (x + 1) * (n / 2) - 0.5


def _reflected(x: Tensor, n: int, align_corners: bool) -> Tensor:
    low, span = (0.0, n - 1) if align_corners else (-0.5, n)
    if span == 0:
        return x * 0
    x = functions["abs"](x - low)
    flips = functions["floor"](x / span)
    rest = x - flips * span
    even = functions["eq"](functions["remainder"](flips, 2.0), 0)
    mirrored: Tensor = functions["where"](even, rest + low, span + low - rest)
    return mirrored


def _brought_inside(x: Tensor, n: int, padding_mode: str, align_corners: bool) -> Tensor:
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        x = _reflected(x, n, align_corners)
    clamped: Tensor = functions["clamp"](x, 0.0, float(n - 1))
    return clamped


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """Return the weights of the elements 1 before, 0, 1 and 2 after the place t elements after one."""
    a = _CUBIC
    near = [((a + 2) * s - (a + 3)) * s * s + 1 for s in (t, 1 - t)]
    far = [((a * s - 5 * a) * s + 8 * a) * s - 4 * a for s in (t + 1, 2 - t)]
    return [far[0], near[0], near[1], far[1]]


def _taps(x: Tensor, n: int, mode: str, padding_mode: str, align_corners: bool) -> list[tuple[Tensor, Tensor]]:
    """Return the elements along one dimension that count at the places x, and their weights."""
    x = _unnormalized(x, n, align_corners)
    if mode == "bicubic":
        first = functions["floor"](x)
        weights = _cubic_weights(x - first)
        return [(_brought_inside(first + (k - 1), n, padding_mode, align_corners), w) for k, w in enumerate(weights)]
    x = _brought_inside(x, n, padding_mode, align_corners)
    if mode == "nearest":
        never = functions["logical_and"](x == x, x != x)
        return [(functions["round"](x), functions["where"](never, x, 1.0))]  # the grid's gradient is zeros, not none
    first = functions["floor"](x)
    return [(first, 1 - (x - first)), (first + 1, x - first)]


def _check(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> int:
    """Return how many dimensions an image has."""
    shape, places = (shape_of(expect_tensor(t, "grid_sample")) for t in (input, grid))
    if mode not in _MODES:
        raise ValueError(f"nn.functional.grid_sample(): expected mode to be one of {_MODES}, but got: '{mode}'")
    if padding_mode not in _PADDINGS:
        raise ValueError(
            f"nn.functional.grid_sample(): expected padding_mode to be one of {_PADDINGS}, but got: '{padding_mode}'"
        )
    spatial = len(shape) - 2
    if spatial not in (2, 3) or len(places) != len(shape) or places[-1] != spatial or places[0] != shape[0]:
        raise RuntimeError(
            f"grid_sample(): expected input [N, C, *sizes] and grid [N, *new sizes, len(sizes)] with two or three "
            f"sizes, but got input with sizes {list(shape)} and grid with sizes {list(places)}"
        )
    if 0 in shape[2:]:
        raise RuntimeError(f"grid_sample(): expected input to have non-empty spatial dimensions, got {list(shape)}")
    if machine.dtype_of(input._handle) != machine.dtype_of(grid._handle):
        raise RuntimeError(f"grid_sample(): expected input and grid to have same dtype: {input.dtype}, {grid.dtype}")
    if mode == "bicubic" and spatial == 3:
        raise RuntimeError("grid_sample(): bicubic interpolation only supports 4D input")
    return spatial


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Return images or volumes read at the places of a grid (Jaderberg et al. 2015, arXiv:1506.02025).

    Args:
        input: floats [batch, channels, height, width] or [batch, channels, depth, height, width].
        grid: [batch, *new sizes, 2] or [batch, *new sizes, 3], places from -1 to 1, x first.
        mode: ``"bilinear"``, ``"nearest"`` or, for images, ``"bicubic"``.
        padding_mode: what lies outside: ``"zeros"``, the ``"border"``, or a ``"reflection"``.
        align_corners: whether -1 and 1 are the centres of the corner elements, not their outer corners.

    Returns:
        [batch, channels, *new sizes].

    Raises:
        ValueError: no such mode.
        RuntimeError: shapes or dtypes that do not go together.
    """
    spatial = _check(input, grid, mode, padding_mode)
    batch, channels, *sizes = shape_of(input)
    new_sizes = shape_of(grid)[1:-1]
    count = math.prod(new_sizes)
    flat, places = input.reshape(batch, channels, math.prod(sizes)), grid.reshape(batch, count, spatial)
    axes = [
        _taps(functions["select"](places, 2, spatial - 1 - d), sizes[d], mode, padding_mode, bool(align_corners))
        for d in range(spatial)
    ]
    result: Any = None
    for taps in itertools.product(*axes):
        index = _flat_places([place for place, _ in taps], sizes).unsqueeze(1).expand(batch, channels, count)
        found = call(registry["plane_gather"], flat, index, attributes=(1,))
        weight = taps[0][1]
        for _, other in taps[1:]:
            weight = weight * other
        term = found * weight.unsqueeze(1)
        result = term if result is None else result + term
    reshaped: Tensor = result.reshape(batch, channels, *new_sizes)
    return reshaped


def _flat_places(places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return int64 places in a plane; -1 where one along a dimension is outside or nan."""
    inside: Any = None
    flat: Any = None
    for place, n in zip(places, sizes, strict=True):
        fits = functions["logical_and"](place >= 0, place <= n - 1)
        whole = call(registry["cast"], functions["where"](fits, place, 0.0).detach(), attributes=(INT64,))
        inside = fits if inside is None else functions["logical_and"](inside, fits)
        flat = whole if flat is None else flat * n + whole
    result: Tensor = functions["where"](inside, flat, -1)
    return result


for _function in (affine_grid, grid_sample):
    functions[f"_{_function.__name__}"] = _function

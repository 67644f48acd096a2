"""interpolate (nn.functional): images, signals and volumes in other sizes, by weights along each dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import FLOAT32, FLOAT64, UINT8
from tapegrad.ops.calls import functions
from tapegrad.ops.lookups import look_up, tensor_of
from tapegrad.ops.pooling import adaptive_avg_pool, check_dtype, planned
from tapegrad.ops.resampling import Array, Windows, full_windows, resample, tables_of
from tapegrad.runtime.handle import Tensor

_CUBIC, _SMOOTH_CUBIC = -0.75, -0.5  # the parameter of the cubic convolution (Keys 1981), and with antialiasing
_DIMS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_MODES = "nearest | linear | bilinear | bicubic | trilinear | area | nearest-exact"


def _step(n: int, m: int, align_corners: bool, scale: float | None) -> float:
    """Return how far apart in the input neighbours of the result are."""
    if align_corners:
        return (n - 1) / (m - 1) if m > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else n / m


def nearest_places(n: int, m: int, scale: float | None, exact: bool, double: bool) -> Array:
    """Return which element each of m results takes, rounded as torch rounds for float64 and for other dtypes."""
    kind: Any = np.float64 if double else np.float32
    step = kind(1.0 / scale) if scale is not None and scale > 0 else kind(n) / kind(m)
    places = np.floor(((np.arange(m, dtype=kind) + kind(0.5 * exact)) * step).astype(np.float32))
    return np.minimum(places.astype(np.int64), n - 1)


@tables_of
def _nearest_tables(n: int, m: int, scale: float | None, exact: bool, double: bool) -> Windows:
    return full_windows(n, nearest_places(n, m, scale, exact, double), np.ones((1, m)))


def _merged(n: int, first: Array, weights: Array) -> Windows:
    """Return windows of the taps ``first + t``, those beyond the ends being moved to the ends."""
    taps, m = weights.shape
    places = np.clip(first + np.arange(taps)[:, None], 0, n - 1).astype(np.int64)
    start, count = places[0], places[-1] - places[0] + 1
    merged = np.zeros((max(1, int(count.max(initial=1))), m))
    np.add.at(merged, (places - start, np.arange(m)), weights)
    return Windows(n, start, count, merged, np.ones(m))


@tables_of
def _linear_tables(n: int, m: int, align_corners: bool, scale: float | None) -> Windows:
    step, index = _step(n, m, align_corners, scale), np.arange(m)
    place = index * step if align_corners else np.maximum((index + 0.5) * step - 0.5, 0.0)
    first = np.minimum(np.floor(place), n - 1)
    t = np.clip(place - first, 0.0, 1.0)
    return _merged(n, first, np.stack([1.0 - t, t]))


def _cubic(x: Array, a: float) -> Array:
    """Return the weight at distance x (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@tables_of
def _cubic_tables(n: int, m: int, align_corners: bool, scale: float | None) -> Windows:
    step, index = _step(n, m, align_corners, scale), np.arange(m)
    place = index * step if align_corners else (index + 0.5) * step - 0.5
    first = np.floor(place)
    return _merged(n, first - 1, _cubic(np.arange(-1, 3)[:, None] - (place - first), _CUBIC))


def _smooth_tables(filter: Callable[[Array], Array], reach: float) -> Callable[..., Windows]:
    """Return a maker of windows that widen with the step, so that nothing between the results is left out."""

    def make(n: int, m: int, align_corners: bool, scale: float | None) -> Windows:
        step = _step(n, m, align_corners, scale)
        stretch = max(step, 1.0)
        centre = step * (np.arange(m) + 0.5)
        start = np.maximum((centre - reach * stretch + 0.5).astype(np.int64), 0)
        stop = np.minimum((centre + reach * stretch + 0.5).astype(np.int64), n)
        start = np.minimum(start, n - 1)
        count = np.maximum(stop - start, 1)
        t = np.arange(int(count.max(initial=1)))[:, None]
        weights = np.where(t < count, filter((t + start - centre + 0.5) / stretch), 0.0)
        return Windows(n, start, count, weights / weights.sum(0), np.ones(m))

    return make


_smooth_linear_tables = tables_of(_smooth_tables(lambda x: np.maximum(1.0 - np.abs(x), 0.0), 1.0))
_smooth_cubic_tables = tables_of(_smooth_tables(lambda x: _cubic(x, _SMOOTH_CUBIC), 2.0))


def _check_sizes(plane: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> None:
    if min((*plane, *sizes)) < 1:
        raise RuntimeError(
            f"interpolate: Input and output sizes should be greater than 0, but got input {list(plane)} output "
            f"{list(sizes)}"
        )
    if 0 in shape[1:]:
        raise RuntimeError(f"interpolate: Non-empty {len(shape)}D data tensor expected but got sizes {list(shape)}")


def _sizes_and_scales(
    plane: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    name, given = ("output size", size) if size is not None else ("scale_factor", scale_factor)
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,) * len(plane)
    if len(numbers) != len(plane):
        raise ValueError(
            f"Input and {name} must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {list(plane)} and {name} of {given}"
        )
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        if not all(isinstance(number, int | np.integer) for number in numbers):
            raise TypeError(f"interpolate: expected size to be one int or a tuple of ints, but got {size!r}")
        return tuple(map(int, numbers)), (None,) * len(plane)
    sizes = tuple(math.floor(n * float(number)) for n, number in zip(plane, numbers, strict=True))
    return sizes, (None,) * len(plane) if recompute else tuple(map(float, numbers))


def _check_mode(mode: str, ndim: int, align_corners: bool | None, antialias: bool) -> None:
    if mode in ("nearest", "area", "nearest-exact") and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear"
        )
    if antialias and not (mode in ("bilinear", "bicubic") and ndim == 4):
        raise ValueError("Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D tensor")
    if not 3 <= ndim <= 5 or mode not in ("nearest", "area", "nearest-exact", *_DIMS):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {ndim}D) for the modes: {_MODES} "
            f"(got {mode})"
        )
    if _DIMS.get(mode, ndim - 2) != ndim - 2:
        raise NotImplementedError(f"Got {ndim}D input, but {mode} mode needs {_DIMS[mode] + 2}D input")


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return signals, images or volumes in another size.

    Args:
        input: [batch, channels, *sizes] with one to three sizes, of floats (``"nearest"``: of uint8 too).
        size: the new sizes: one number, or one for each dimension.
        scale_factor: in place of the sizes, what to multiply the old ones by.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"linear"`` (signals), ``"bilinear"`` and ``"bicubic"`` (images),
            ``"trilinear"`` (volumes) or ``"area"``.
        align_corners: whether the centres of the corner elements, not their outer corners, are kept in place.
        recompute_scale_factor: whether the scale is computed anew from the rounded sizes.
        antialias: whether, in making images smaller, all elements count (bilinear and bicubic).

    Raises:
        ValueError: arguments that do not go together.
        NotImplementedError: no such mode, or not for so many dimensions.
        RuntimeError: a size of zero.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.interpolate(tg.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
        [[[1.0, 1.5, 2.5, 3.0]]]
    """
    goal = (size, scale_factor, mode, align_corners, bool(recompute_scale_factor), antialias)
    sizes, found = _plan(input, "interpolate", *goal)
    if mode == "area":
        return adaptive_avg_pool(len(sizes), input, sizes)
    if isinstance(found, tuple):
        for d, places in enumerate(found):
            input = look_up(input, tensor_of(places), d + 2)
        return input
    return resample(input, found)


@planned
def _plan(
    shape: tuple[int, ...],
    code: int,
    name: str,
    size: Any,
    scale_factor: Any,
    mode: str,
    align_corners: bool | None,
    recompute: bool,
    antialias: bool,
) -> tuple[tuple[int, ...], Any]:
    """Return the new sizes and a list of tables, or for integers a tuple of places, after checking the arguments."""
    plane = shape[2:]
    if mode in ("nearest", "area", "nearest-exact") and align_corners is not None:
        _check_mode(mode, len(shape), align_corners, False)
    sizes, scales = _sizes_and_scales(plane, size, scale_factor, recompute)
    _check_mode(mode, len(shape), align_corners, antialias)
    if mode == "area":
        return sizes, None
    _check_sizes(plane, sizes, shape)
    ways = list(zip(plane, sizes, scales, strict=True))
    if mode.startswith("nearest"):
        if code != UINT8:
            check_dtype(code, f"{name}({mode})")
        exact = mode == "nearest-exact"
        if code < FLOAT32:
            return sizes, tuple(nearest_places(n, m, scale, exact, False) for n, m, scale in ways)
        return sizes, [_nearest_tables(n, m, scale, exact, code == FLOAT64) for n, m, scale in ways]
    check_dtype(code, f"{name}({mode})")
    if antialias:
        tables = _smooth_linear_tables if "linear" in mode else _smooth_cubic_tables
    else:
        tables = _linear_tables if "linear" in mode else _cubic_tables
    return sizes, [tables(n, m, bool(align_corners), scale) for n, m, scale in ways]


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """Return what ``interpolate`` does."""
    return interpolate(input, size, scale_factor, mode, align_corners)


for _function in (interpolate, upsample):
    functions[f"_{_function.__name__}"] = _function

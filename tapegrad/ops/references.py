"""NumPy references and samples that the declarations of several ops share; tests/samples.py says how they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import FLOAT32, FLOAT64, INT64

Array = np.ndarray[Any, Any]
Reference = Callable[..., Any]
CODES = {"float64": FLOAT64, "float32": FLOAT32, "int64": INT64}


# ---- ops along dimensions: attributes result dtype, mask of dimensions, keepdim, parameter ----


def axes_of(mask: int) -> tuple[int, ...]:
    """Return the dimensions in a mask."""
    return tuple(d for d in range(mask.bit_length()) if mask >> d & 1)


def axis_of(attributes: Sequence[Any]) -> int:
    """Return the one dimension in an op's mask."""
    return axes_of(attributes[1])[0]


def calls_along(
    arrays: Sequence[Any], mask: int, keepdim: int = 1, parameter: Any = 0, dtypes: str = "float64 float32"
) -> Any:
    """Return one sample of a private op along dimensions for each dtype, which its attributes name."""
    return [
        (tuple(arrays), {"attributes": (CODES[name], mask, keepdim, parameter)}, _options(name))
        for name in dtypes.split()
    ]


def _options(name: str) -> dict[str, Any]:
    return {"dtypes": (name,), "gradient": name == "float64"}


def reducing(reduce: Reference) -> Reference:
    """Return the reference of a public reduction over dimensions by a function of NumPy's."""

    def reference(x: Array, dim: Any = None, keepdim: bool = False) -> Any:
        return reduce(x, axis=tuple(dim) if isinstance(dim, list | tuple) else dim, keepdims=keepdim)

    return reference


def reduced_samples(make: Any) -> Any:
    return [
        ((make(2, 3, 4),), {"dim": 1}),
        ((make(3, 4),),),
        ((make(2, 3, 4),), {"dim": (0, 2), "keepdim": True}),
        ((make(37),), {"dim": -1}),
        ((make(),),),
    ]


def empty_samples(make: Any) -> Any:
    """Reductions that have a result where there is nothing to reduce."""
    return [*reduced_samples(make), ((make(0, 3),), {"dim": 0}), ((make(2, 0),),)]


def along_samples(make: Any) -> Any:
    """Public ops along one dimension."""
    shapes = (((2, 3, 4), 1), ((3, 4), -1), ((37,), 0), ((0, 3), 0))
    return [((make(*shape),), {"dim": dim}) for shape, dim in shapes]


def at_places(x: Array, index: Array, axis: int) -> Array:
    """Return x at the indices along an axis, which they may lack where there is one for each row."""
    if index.ndim < x.ndim:
        return np.take_along_axis(x, np.expand_dims(index, axis), axis).squeeze(axis)
    return np.take_along_axis(x, index, axis)


# ---- the transposes of ops that pick elements ----


def adding_back(pick: Callable[..., Any]) -> Reference:
    """Return the reference of an op that adds values where ``pick`` takes elements of what is like the last operand."""

    def reference(values: Array, *operands: Any, **more: Any) -> Array:
        *indices, like = operands
        result = np.zeros(like.size, values.dtype)
        places = pick(np.arange(like.size).reshape(like.shape), *indices, **more)
        np.add.at(result, places.ravel(), np.broadcast_to(values, places.shape).ravel())
        return result.reshape(like.shape)

    return reference


def combining(combine: Any, pick: Callable[..., Any]) -> Reference:
    """Return the reference of an op that writes values where ``pick`` takes elements: as they are, or by a ufunc."""

    def reference(x: Array, index: Array, values: Array, attributes: tuple[int, ...]) -> Array:
        result = x.copy().ravel()
        places = pick(np.arange(x.size).reshape(x.shape), index, attributes=attributes)
        values = np.broadcast_to(values, places.shape) if values.size == 1 else values.reshape(places.shape)
        if combine is None:
            result[places] = values
        else:
            combine.at(result, places, values)
        return result.reshape(x.shape)

    return reference


def strided_elements(x: Array, attributes: tuple[int, ...]) -> Array:
    """Return a row-major array's elements by the attributes of as_strided: ndim, offset, shape, strides."""
    ndim, offset = attributes[:2]
    flat = np.ascontiguousarray(x).ravel()[offset:]
    strides = [stride * flat.itemsize for stride in attributes[2 + ndim :]]
    return np.lib.stride_tricks.as_strided(flat, attributes[2 : 2 + ndim], strides)


def blocks_at(x: Array, index: Array, attributes: tuple[int, ...]) -> Array:
    """Return x at one index into several dimensions; attributes: the first of them, how many, whether it wraps."""
    dim, count, _ = attributes
    return np.take(x.reshape(*x.shape[:dim], -1, *x.shape[dim + count :]), index, dim)


def elements_at(x: Array, index: Array, attributes: tuple[int]) -> Array:
    """Return the elements whose place along one dimension is the index, and along the others that of the index."""
    grid: list[Any] = list(np.indices(index.shape, sparse=True))
    grid[attributes[0]] = index
    return x[tuple(grid)]


# ---- matrices ----

REGULAR = {"layouts": ("strided", "transposed", "offset")}  # equal rows would make a matrix singular

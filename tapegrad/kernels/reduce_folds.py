"""Reductions that fold with one operation: products, maxima, minima, any and all."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.reduce_lanes import (
    and_nonzero,
    both,
    either,
    greater,
    lesser,
    multiply,
    or_nonzero,
    row_reducer,
    step_of,
)
from tapegrad.kernels.reduce_loops import Reduction
from tapegrad.kernels.reduce_sum import _whole_row
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, FLOAT32, NUMPY_DTYPES


@jit
def _keep(total, count, parameter):
    return total


@jit
def _larger(total, x):
    return x if x > total or x != x else total


@jit
def _smaller(total, x):
    return x if x < total or x != x else total


def bounds(dtype: int) -> tuple[Any, Any]:
    """Return the least and the largest value of a dtype."""
    if dtype == BOOL:
        return False, True
    if dtype >= FLOAT32:
        return -np.inf, np.inf
    info = np.iinfo(NUMPY_DTYPES[dtype])
    return info.min, info.max


def product_parts(dtype: int, result: int) -> Reduction:
    row = _whole_row(dtype, row_reducer(dtype, result, 1, step_of(multiply), multiply))
    each = jit(lambda total, x, c: total * like(x, total))
    return Reduction(dtype, result, result, 1, row, each, jit(lambda a, b: a * b), _keep)


def _extremum(dtype: int, identity: Any, build: Callable[..., Any], choose: Callable[..., Any]) -> Reduction:
    row = _whole_row(dtype, row_reducer(dtype, dtype, identity, step_of(build), build))
    return Reduction(dtype, dtype, dtype, identity, row, jit(lambda total, x, c: choose(total, x)), choose, _keep)


def maximum_parts(dtype: int, result: int) -> Reduction:
    return _extremum(dtype, bounds(dtype)[0], greater, _larger)


def minimum_parts(dtype: int, result: int) -> Reduction:
    return _extremum(dtype, bounds(dtype)[1], lesser, _smaller)


def any_parts(dtype: int, result: int) -> Reduction:
    row = _whole_row(dtype, row_reducer(dtype, BOOL, 0, or_nonzero, either))
    each = jit(lambda total, x, c: total | (x != 0))
    return Reduction(dtype, BOOL, BOOL, False, row, each, jit(lambda a, b: a | b), _keep)


def all_parts(dtype: int, result: int) -> Reduction:
    row = _whole_row(dtype, row_reducer(dtype, BOOL, 1, and_nonzero, both))
    each = jit(lambda total, x, c: total & (x != 0))
    return Reduction(dtype, BOOL, BOOL, True, row, each, jit(lambda a, b: a & b), _keep)

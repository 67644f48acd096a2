"""Data sets that are tensors in memory: a batch of them is one compiled call, with no Python for a sample.

Collating samples of tensors one by one costs torch's loader about 5 us a sample (pytorch#4959).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.ops.calls import functions, shape_of
from tapegrad.ops.lookups import raise_index
from tapegrad.ops.rows import MOST_TENSORS, ROWS
from tapegrad.runtime.dtype import int64
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import as_tensor, from_numpy
from tapegrad.utils.data.dataset import StackDataset, Subset, TensorDataset

Build = Callable[[list[Tensor]], Any]


@dataclass
class Columns:
    """A data set as tensors of one first length.

    Attributes:
        tensors: the rows of all of them at one place are a sample.
        build: makes a batch, as default_collate would, of the tensors' rows.
        chosen: int64 numbers of the rows that the samples are, or None for all in order.
    """

    tensors: list[Tensor]
    build: Build
    chosen: Tensor | None

    def batch(self, order: Tensor, start: int, count: int) -> Any:
        """Return the batch of the samples ``order[start : start + count]``."""
        if self.chosen is not None:
            (order,), start = take_rows([self.chosen], order, start, count), 0
        return self.build(take_rows(self.tensors, order, start, count))


def take_rows(tensors: list[Tensor], order: Tensor, start: int, count: int) -> list[Tensor]:
    """Return the rows of each tensor at the numbers ``order[start : start + count]``; IndexError if there is none."""
    results: list[Tensor] = []
    for first in range(0, len(tensors), MOST_TENSORS):
        part = [tensor._handle for tensor in tensors[first : first + MOST_TENSORS]]
        operands = part + [None] * (MOST_TENSORS - len(part))
        handles = machine.emit_several(ROWS.code, MOST_TENSORS + 1, order._handle, *operands, start, count)
        if not isinstance(handles, tuple):
            raise_index(handles)
        results += [wrap(handle) for handle in handles][: len(part)]
    return results


def columns_of(dataset: Any) -> Columns | None:
    """Return a data set's tensors, or None where it is not made of tensors or arrays alone."""
    chosen = None
    while type(dataset) is Subset:
        inner = as_tensor(np.asarray(dataset.indices, dtype=np.int64).reshape(-1), dtype=int64)
        chosen = inner if chosen is None else inner[chosen]
        dataset = dataset.dataset
    tensors: list[Tensor] = []
    build = _plan(dataset, tensors)
    return Columns(tensors, build, chosen) if build and tensors else None


def _plan(dataset: Any, tensors: list[Tensor]) -> Build | None:
    """Add a data set's tensors to ``tensors``; return what makes its batch of their rows."""
    if isinstance(dataset, Tensor | np.ndarray):
        place = len(tensors)
        column = _column(dataset)
        if column is None:
            return None
        tensors.append(column)
        return lambda rows: rows[place]
    if type(dataset) is TensorDataset:
        return _plan_several(list(dataset.tensors), tensors)
    if type(dataset) is StackDataset and isinstance(dataset.datasets, dict):
        names, build = list(dataset.datasets), _plan_several(list(dataset.datasets.values()), tensors)
        return build and (lambda rows: dict(zip(names, build(rows), strict=True)))
    if type(dataset) is StackDataset:
        return _plan_several(list(dataset.datasets), tensors)
    return None


def _plan_several(parts: list[Any], tensors: list[Tensor]) -> Build | None:
    builds = [_plan(part, tensors) for part in parts]
    if not all(builds):
        return None
    return lambda rows: [build(rows) for build in builds if build]


def _column(part: Tensor | np.ndarray[Any, Any]) -> Tensor | None:
    """Return a tensor or array whose rows need no gradient as a tensor, or None."""
    if isinstance(part, np.ndarray):
        try:
            part = from_numpy(part)
        except (TypeError, ValueError, RuntimeError):  # a dtype or layout that tensors do not have
            return None
    return part if shape_of(part) and not machine.flags_of(part._handle) & REQUIRES_GRAD else None


class OrderedBatches:
    """The batches of an epoch in a given order, but for the first ``skip``.

    Attributes:
        start: where in the order the next batch begins.
        stop: where the last one ends.
    """

    def __init__(self, columns: Columns, order: Tensor, size: int, drop_last: bool, skip: int) -> None:
        length = shape_of(order)[0]
        self.columns, self.order, self.size = columns, order, size
        self.start, self.stop = skip * size, length - length % size if drop_last else length

    def __iter__(self) -> OrderedBatches:
        return self

    def __next__(self) -> Any:
        if self.start >= self.stop:
            raise StopIteration
        start = self.start
        self.start = min(start + self.size, self.stop)
        return self.columns.batch(self.order, start, self.start - start)

    def arrays(self) -> list[Tensor] | None:
        """Return the tensors whose rows are the batches, or None where a batch is not a list of rows of tensors."""
        tensors = self.columns.tensors
        batch = self.columns.build(tensors)
        batch = batch if isinstance(batch, list) else [batch]
        same = len(batch) == len(tensors) and all(map(operator.is_, batch, tensors))
        return tensors if same else None

    def rest(self) -> Tensor | None:
        """Return the numbers of the rows to come; None where there is one that the tensors do not have."""
        order = self.order[self.start : self.stop]
        if self.columns.chosen is not None:
            order = self.columns.chosen[order]
        length = min(shape_of(tensor)[0] for tensor in self.columns.tensors)
        fits = not len(order) or (int(order.min()) >= 0 and int(order.max()) < length)
        return order if fits else None


def listed_batches(columns: Columns, lists: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches of the samples in each list of numbers."""
    for numbers in lists:
        order = functions["_from_array"](np.fromiter(numbers, np.int64))  # numbers, 0-d tensors and arrays alike
        yield columns.batch(order, 0, shape_of(order)[0])

"""Epochs: a captured step on batch after batch of arrays in memory, gathered and run in compiled code.

The first batches go through the captured function itself, so that there is a program; then whole runs of batches are
one compiled call each, short enough that a person notices nothing. Between two calls Ctrl-C is seen, progress is shown
and callbacks run, with everything as after a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from tapegrad.capture.schedules import Ahead
from tapegrad.capture.trees import put_together, take_apart
from tapegrad.capture.variants import Variant
from tapegrad.native.dtypes import ITEM_BYTES, NUMPY_DTYPES
from tapegrad.ops import functions
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import from_numpy
from tapegrad.tensor.convert import array_of
from tapegrad.utils.data.columns import OrderedBatches

_SECONDS = 0.05  # of a compiled call
_INT64 = np.dtype(np.int64)


class Step(Protocol):
    """A captured function."""

    def __call__(self, *args: Any) -> Any:
        """Compute what the function computes."""

    def ready(self, args: tuple[Any, ...]) -> Variant | None:
        """Return the variant that would be replayed for a call with these arguments, or None."""


class Epoch:
    """One pass over arrays.

    Args:
        step: the captured function, of one batch of each array.
        arrays: of the same number of rows.
        batch_size: rows of a batch.
        order: the rows' order, int64, or None for as they lie.
        drop_last: whether rows that do not fill a batch are left out.
        every: call ``callback`` after each so many steps.
        callback: gets the number of steps done and what they returned, see ``run``.
        leading: arguments of the step before the batches.
    """

    def __init__(
        self,
        step: Step,
        arrays: Sequence[Tensor],
        batch_size: int,
        order: Tensor | None,
        drop_last: bool,
        every: int,
        callback: Callable[[int, Any], Any] | None,
        leading: tuple[Any, ...],
    ) -> None:
        self._step, self._leading = step, leading
        self._arrays = [_contiguous(array) for array in arrays]
        self._order = None if order is None else _contiguous(order)
        self._rows, self._batch = len(self._arrays[0] if order is None else order), batch_size
        self._full = self._rows // batch_size
        self._steps = self._full if drop_last else -(-self._rows // batch_size)
        self._every, self._callback = every, callback
        self._done = 0
        self._running: Any = None  # words whose first one counts the steps while compiled code runs
        self.moved: Callable[[int], Any] | None = None  # is told how many steps are done when some are
        self._structure: Any = None
        self._records: list[Any] = []  # of each result an array with a row for each step
        self._batches: list[Tensor] | None = None
        self._chunk = 1

    def run(self) -> Any:
        """Do all steps; return what the step returns, every tensor with a first dimension that counts the steps."""
        while self._done < self._steps:
            variant = self._ready()
            before = self._done
            if variant is None:
                self._one_step()
            else:
                self._many_steps(variant, self._limit())
            if self.moved is not None:
                self.moved(self._done)
            if self._callback is not None and self._done // self._every > before // self._every:
                self._callback(self._done, self._results())
        return self._results()

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return self._steps

    def done(self) -> int:
        """Return how many steps were taken, for whatever thread asks."""
        running = self._running
        return self._done if running is None else int(running[0])

    def _limit(self) -> int:
        """Return how many full batches may go into one compiled call."""
        left = self._full - self._done
        if self._callback is not None:
            left = min(left, self._every - self._done % self._every)
        return min(left, self._chunk)

    def _batch_of(self, k: int) -> list[Tensor]:
        first, last = k * self._batch, min((k + 1) * self._batch, self._rows)
        if self._order is None:
            return [array[first:last].clone() for array in self._arrays]
        return [functions["index_select"](array, 0, self._order[first:last]) for array in self._arrays]

    def _one_step(self) -> None:
        """Take a step through the captured function."""
        result = self._step(*self._leading, *self._batch_of(self._done))
        tensors: list[Tensor] = []
        structure = take_apart(result, tensors)
        if self._structure is None:
            self._structure = structure
            self._records = [
                np.zeros((self._steps, *tensor.shape), NUMPY_DTYPES[machine.dtype_of(tensor._handle)])
                for tensor in tensors
            ]
        for record, tensor in zip(self._records, tensors, strict=True):
            _expect_same(record.shape[1:], tuple(tensor.shape))
            record[self._done] = array_of(tensor)
        self._done += 1

    def _ready(self) -> Variant | None:
        """Return the variant whose program can take the next steps, or None."""
        if self._done >= self._full or self._structure is None:
            return None
        if self._batches is None:
            self._batches = [
                functions["empty"](self._batch, *array.shape[1:], dtype=array.dtype) for array in self._arrays
            ]
        variant = self._step.ready((*self._leading, *self._batches))
        if variant is None or variant.program is None:
            return None
        # every result must be one that the program makes
        return variant if all(kind == "output" for kind, _ in variant.returned) else None

    def _many_steps(self, variant: Variant, count: int) -> None:
        """Replay the program on up to ``count`` batches in one call; schedules that step in it are asked before."""
        assert variant.program is not None
        ahead = Ahead(variant) if variant.program.notes.deferred else None
        before, start = self._done, time.perf_counter()
        try:
            status = self._run(variant, ahead, count)
        finally:  # Ctrl-C may come anywhere in between
            if self._running is not None:
                self._done, self._running = int(self._running[0]), None
            done = self._done - before
            if ahead is not None and done < count:
                ahead.take_back(done)
        if status < 0 and (done > 0 or not variant.refused(status)):
            raise_status(status)
        if done == 0:  # the program was refused, or a number of an optimiser has become 0
            self._one_step()
            return
        taken = time.perf_counter() - start
        self._chunk = max(1, min(4 * self._chunk, int(_SECONDS * done / max(taken, 1e-9))))

    def _run(self, variant: Variant, ahead: Ahead | None, count: int) -> int:
        assert variant.program is not None
        assert self._batches is not None
        if ahead is None:
            variant.refresh()
        else:
            ahead.fill(count)
            count = ahead.count
        words = self._words(variant, count) + ([0] if ahead is None else ahead.words())
        self._running = np.array(words, _INT64)
        return variant.program.run_steps([tensor._handle for tensor in self._batches], self._running.ctypes.data)

    def _words(self, variant: Variant, count: int) -> list[int]:
        assert variant.program is not None
        assert self._batches is not None
        words = [self._done, count, self._batch, 0 if self._order is None else _address(self._order), len(self._arrays)]
        for array, batch in zip(self._arrays, self._batches, strict=True):
            size = array[0].numel() * ITEM_BYTES[machine.dtype_of(array._handle)]
            words += [_address(array), _address(batch), size]
        words.append(len(self._records))
        slots, storages = machine.table("slots"), machine.table("storages")
        for record, (_, place) in zip(self._records, variant.returned, strict=True):
            row = slots[variant.program.output_slots[place]]
            start = int(storages["address"][row["storage"]]) + int(row["offset"]) * record.itemsize
            words += [start, record.ctypes.data, record[0].nbytes]
        return words

    def _results(self) -> Any:
        if self._structure is None:
            return None
        return put_together(self._structure, lambda k: from_numpy(self._records[k][: self._done]))


def epoch_of_batches(rows: OrderedBatches, epoch: Any, step: Step, *options: Any) -> Epoch | None:
    """Return the epoch of a loader whose batches are rows of tensors in memory; None where they are not.

    Args:
        rows: the batches.
        epoch: the loader's iteration, which is told how many batches were taken.
        step: the captured function.
        options: see ``Epoch``, from ``every`` on.
    """
    arrays, order = rows.arrays(), rows.rest()
    if arrays is None or order is None:
        return None
    found = Epoch(step, arrays, rows.size, order, False, *options)
    before = epoch.batches

    def moved(done: int) -> None:
        epoch.batches, rows.start = before + done, min(done * rows.size, len(order))
        epoch.ended = done == found.steps

    found.moved = moved
    return found


def run_batches(
    batches: Iterable[Any], step: Step, every: int, callback: Callable[[int, Any], Any] | None, leading: tuple[Any, ...]
) -> Any:
    """Call a captured function with batches, one by one; return what ``Epoch.run`` returns."""
    structure: Any = None
    records: list[list[Any]] = []

    def results() -> Any:
        return structure and put_together(structure, lambda k: from_numpy(np.stack(records[k])))

    for number, batch in enumerate(batches, 1):
        tensors: list[Tensor] = []
        found = step(*leading, *(batch if isinstance(batch, list | tuple) else (batch,)))
        structure = take_apart(found, tensors)
        records = records or [[] for _ in tensors]
        for record, tensor in zip(records, tensors, strict=True):
            record.append(array_of(tensor).copy())
            _expect_same(record[0].shape, record[-1].shape)
        if callback is not None and number % every == 0:
            callback(number, results())
    return results()


def _expect_same(first: tuple[int, ...], now: tuple[int, ...]) -> None:
    if first != now:
        raise RuntimeError(
            f"epoch: the step returned a tensor of shape {list(first)} first and one of shape {list(now)} now: return "
            "the same shapes for each batch, or use drop_last=True"
        )


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _address(tensor: Tensor) -> int:
    return int(array_of(tensor).ctypes.data)

"""What a worker does, in a thread or a process of its own: it answers lists of numbers with batches or failures."""

from __future__ import annotations

import copy
import random
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tapegrad.ops.random import Generator, manual_seed, use_generator
from tapegrad.tensor.info import set_num_threads
from tapegrad.utils.data.dataset import Dataset, IterableDataset
from tapegrad.utils.data.fetch import Fetch, make_fetch


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker knows of itself.

    Attributes:
        id: its number, from 0.
        num_workers: how many there are.
        seed: of its random numbers; another one in each epoch.
        dataset: its copy of the data set.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


_of_thread = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """Return what the worker that runs this is, or None in the main thread."""
    return getattr(_of_thread, "info", None)


@dataclass(frozen=True)
class Job:
    """What all workers of a loader are given."""

    dataset: Any
    batched: bool
    collate: Callable[[Any], Any]
    drop_last: bool
    init: Callable[[int], None] | None
    seed: int
    count: int


class Exhausted:
    """The answer of a worker whose IterableDataset has ended."""


class Failure:
    """An exception, as text and class, on its way from a worker to the main thread."""

    def __init__(self, error: BaseException, worker: str) -> None:
        text = "".join(traceback.format_exception(error))
        self.kind: type[BaseException] = type(error)
        self.message = f"Caught {self.kind.__name__} in DataLoader {worker}.\nOriginal {text}"

    def reraise(self) -> NoReturn:
        """Raise an exception of the same class, whose message has the worker and its traceback."""
        kind = self.kind
        if kind is KeyError:
            kind = _KeyError  # whose text would be shown with escaped newlines
        if not issubclass(kind, Exception) or issubclass(kind, StopIteration):
            kind = RuntimeError  # StopIteration would end the epoch in silence
        try:
            error = kind(self.message)
        except Exception:  # a class that wants other arguments
            raise RuntimeError(self.message) from None
        try:
            raise error
        finally:
            del error  # else it would be in a cycle with this frame, and with it the workers of an abandoned epoch


class _KeyError(KeyError):
    def __str__(self) -> str:
        return str(self.args[0])


class Worker:
    """Fetches batches where it is made: the first answer sets up the data set's copy and the random numbers.

    Args:
        job: what to do.
        id: the worker's number.
        process: whether it has a process of its own, and with it the generators of Python, NumPy and tapegrad.
    """

    def __init__(self, job: Job, id: int, process: bool) -> None:
        self.job, self.id, self.process = job, id, process
        self.name = f"worker {'process' if process else 'thread'} {id}"
        self.epoch = -1
        self.fetch: Fetch | None = None
        self.failure: Failure | None = None

    def answer(self, epoch: int, numbers: Any) -> Any:
        """Return the batch of the numbers, Exhausted, or a Failure."""
        try:
            if epoch != self.epoch:
                self._begin(epoch)
            assert self.fetch is not None
            return self.fetch(numbers)
        except StopIteration as error:
            if isinstance(self.job.dataset, IterableDataset):
                return Exhausted()
            return Failure(error, self.name)
        except BaseException as error:
            return Failure(error, self.name)

    def _begin(self, epoch: int) -> None:
        """Prepare an epoch: in the first, the worker itself; in each, the iterator over the data set."""
        if get_worker_info() is None:
            self._set_up()
        info = get_worker_info()
        assert info is not None
        self.fetch = make_fetch(info.dataset, self.job.batched, self.job.collate, self.job.drop_last)
        self.epoch = epoch

    def _set_up(self) -> None:
        seed = (self.job.seed + self.id) % 2**63
        dataset = self.job.dataset
        if self.process:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 (the global one, for data sets that use it)
            manual_seed(seed)
            set_num_threads(1)  # the processors are the main process's and the other workers' too
        else:
            use_generator(Generator().manual_seed(seed))
            dataset = _own_copy(dataset)
        _of_thread.info = WorkerInfo(self.id, self.job.count, seed, dataset)
        if self.job.init is not None:
            self.job.init(self.id)


def _own_copy(dataset: Any) -> Any:
    """Return a shallow copy: attributes that a worker sets (its part of a range, an open file) are its own."""
    return copy.copy(dataset) if isinstance(dataset, Dataset) else dataset

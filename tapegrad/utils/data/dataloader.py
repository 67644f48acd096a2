"""DataLoader: the batches of a data set, epoch after epoch, from this thread, from workers, or in compiled calls."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tapegrad.ops.random import Generator, thread_generator
from tapegrad.runtime.handle import Tensor
from tapegrad.utils.data.collate import default_collate, default_convert
from tapegrad.utils.data.columns import OrderedBatches, columns_of, listed_batches
from tapegrad.utils.data.crew import Crew, WorkerBatches
from tapegrad.utils.data.dataset import IterableDataset
from tapegrad.utils.data.fetch import make_fetch
from tapegrad.utils.data.options import check_sampling, check_workers, context_of, default_sampler
from tapegrad.utils.data.sampler import BatchSampler, OrderedSampler, SequentialSampler, draw_seed
from tapegrad.utils.data.worker import Job

_FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")
_KEPT_ORDERS = (OrderedSampler.__iter__, SequentialSampler.__iter__)


class DataLoader:
    """Iterates over the batches of a data set.

    Args:
        dataset: a Dataset (anything with ``__getitem__`` and ``__len__``), an IterableDataset, a tensor or an array.
        batch_size: samples in a batch; None for single samples.
        shuffle: a new random order in each epoch.
        sampler: numbers of samples, in place of ``shuffle``.
        batch_sampler: lists of numbers, in place of ``batch_size``, ``shuffle``, ``sampler`` and ``drop_last``.
        num_workers: how many workers fetch batches ahead; 0: batches are fetched when they are asked for.
        collate_fn: makes a batch of a list of samples; by default `default_collate`.
        drop_last: leave out a last batch that is not full.
        timeout: seconds to wait for a batch of a worker; 0: for ever.
        worker_init_fn: called in each worker with its number before its first batch.
        multiprocessing_context: None or ``"thread"``: workers are threads; ``"spawn"``, ``"forkserver"`` or a context
            of multiprocessing: they are processes; data set and functions must be picklable.
        generator: where orders and workers' seeds come from; by default the generator that ``manual_seed`` sets.
        prefetch_factor: how many batches each worker fetches ahead; by default 2.
        persistent_workers: keep the workers between epochs.
        in_order: whether a batch of a worker waits for those before it.
        pin_memory, pin_memory_device: accepted for torch's sake.

    Raises:
        ValueError: arguments that exclude each other, or have a value that makes no sense.

    A `TensorDataset` (also a `StackDataset` or `Subset` of tensors, a tensor, a NumPy array, `numpy.memmap` included)
    with the default collation needs no workers: whole batches are gathered by a compiled call.

    Differs from torch: workers are threads by default. They share the memory and the global random generators of Python
    and NumPy with the main thread, but have a shallow copy of the data set, and a default generator of their own, each.

    Example:
        >>> import tapegrad as tg
        >>> data = tg.utils.data.TensorDataset(tg.arange(5), tg.arange(5) * 0.5)
        >>> for number, half in tg.utils.data.DataLoader(data, batch_size=2):
        ...     print(number.tolist(), half.tolist())
        [0, 1] [0.0, 0.5]
        [2, 3] [1.0, 1.5]
        [4] [2.0]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        check_sampling(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.dataset, self.num_workers, self.timeout, self.generator = dataset, num_workers, timeout, generator
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.worker_init_fn, self.in_order = worker_init_fn, in_order
        self.prefetch_factor = 2 if prefetch_factor is None and num_workers else prefetch_factor
        self.persistent_workers = persistent_workers
        self.multiprocessing_context = multiprocessing_context
        self._context = context_of(multiprocessing_context, num_workers)
        if batch_sampler is not None:
            batch_size, drop_last = None, False
        elif sampler is None:
            sampler = default_sampler(dataset, bool(shuffle), generator)
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(sampler or (), batch_size, drop_last)
        self.batch_size, self.drop_last, self.sampler, self.batch_sampler = (
            batch_size,
            drop_last,
            sampler,
            batch_sampler,
        )
        self._batched = batch_sampler is not None
        self.collate_fn = collate_fn or (default_collate if self._batched else default_convert)
        self._crew: Crew | None = None
        self._latest: weakref.ref[_Epoch] | None = None
        self._resume: dict[str, Any] | None = None
        self._made = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and getattr(self, "_made", False):
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        if isinstance(self.dataset, IterableDataset):
            count = len(self.dataset)  # type: ignore[arg-type]  # TypeError where it has none
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self.batch_sampler if self._batched else self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        resume, self._resume = self._resume, None
        epoch = _Epoch(self, resume or {"generators": self._states(), "batches": 0, "begun": False})
        self._latest = weakref.ref(epoch)
        return epoch

    # ---- resuming ----

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on after the last batch that was handed out.

        Returns:
            generators: states of the generators that the orders come from, when the epoch began.
            batches: how many batches of the epoch were handed out.
            begun: whether an epoch is under way.
        """
        epoch = self._latest() if self._latest else None
        if epoch is not None and not epoch.ended:
            return {"generators": epoch.states, "batches": epoch.batches, "begun": True}
        return self._resume or {"generators": self._states(), "batches": 0, "begun": False}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next iteration go on where the saved one was.

        The default generator is left where it is: `set_rng_state` brings it to where it was. Batches that were handed
        out are skipped without being fetched; an IterableDataset has to go through their samples again. A sampler that
        draws while it is gone through needs a generator of its own, in its attribute ``generator``.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            ValueError: the state was saved with other generators or samplers.
        """
        if len(state_dict["generators"]) != len(self._generators()):
            raise ValueError(
                f"the state is of a DataLoader with {len(state_dict['generators'])} generators, "
                f"this one has {len(self._generators())}"
            )
        self._resume = dict(state_dict)

    def _generators(self) -> list[Generator]:
        """Return the generators that an epoch may draw from; the default one in the place of None."""
        inner = getattr(self.batch_sampler, "sampler", None)
        holders: list[Any] = [
            part for part in (self, self.sampler, self.batch_sampler, inner) if hasattr(part, "generator")
        ]
        found = [holder.generator or thread_generator() for holder in holders]
        return list({id(generator): generator for generator in found}.values())

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    # ---- an epoch ----

    def _batches(self, skip: int) -> Iterator[Any]:
        """Draw what is random in an epoch; return its batches but for the first ``skip``."""
        seed = draw_seed(self.generator)
        collates = self.collate_fn is default_collate and self.worker_init_fn is None
        columns = columns_of(self.dataset) if collates else None
        order = self._whole_order() if columns else None
        if columns and order is not None:
            batch_sampler: Any = self.batch_sampler
            return OrderedBatches(columns, order, batch_sampler.batch_size, batch_sampler.drop_last, skip)
        lists = self._lists(skip)
        if columns:
            return listed_batches(columns, lists)
        if self.num_workers:
            return self._from_workers(lists, seed, skip)
        fetch = make_fetch(self.dataset, self._batched, self.collate_fn, self.drop_last)
        return _skipped(_Fetched(fetch, lists), self._skips_samples(skip))

    def _whole_order(self) -> Tensor | None:
        """Return the order of the whole epoch, where the sampler draws it at once and batches are cut from it."""
        batch_sampler = self.batch_sampler
        if type(batch_sampler) is not BatchSampler or not isinstance(batch_sampler.sampler, OrderedSampler):
            return None
        sampler = batch_sampler.sampler
        return sampler.order() if type(sampler).__iter__ in _KEPT_ORDERS else None

    def _lists(self, skip: int) -> Iterator[Any]:
        """Return the numbers of the batches, or of the samples, but for the first ``skip``; an order is drawn here."""
        if isinstance(self.dataset, IterableDataset):
            return itertools.repeat([0] * self.batch_size if self.batch_size else 0)
        numbers = iter(self.batch_sampler if self._batched else self.sampler)  # type: ignore[arg-type]
        first = list(itertools.islice(numbers, skip + 1))[skip:]
        return itertools.chain(first, numbers)

    def _from_workers(self, lists: Iterator[Any], seed: int, skip: int) -> Iterator[Any]:
        crew = self._crew
        if crew is None:
            job = Job(
                self.dataset,
                self._batched,
                self.collate_fn,
                self.drop_last,
                self.worker_init_fn,
                seed,
                self.num_workers,
            )
            crew = Crew(job, self._context)
        if self.persistent_workers and self._crew is None:
            self._crew = crew
            weakref.finalize(self, crew.close)
        ahead = self.prefetch_factor if self.prefetch_factor is not None else 2
        batches = WorkerBatches(crew, lists, ahead, self.timeout, self.in_order, self.persistent_workers)
        return _skipped(batches, self._skips_samples(skip))

    def _skips_samples(self, skip: int) -> int:
        return skip if isinstance(self.dataset, IterableDataset) else 0


class _Fetched:
    """Batches that are fetched when they are asked for."""

    def __init__(self, fetch: Callable[[Any], Any], lists: Iterator[Any]) -> None:
        self.fetch, self.lists = fetch, lists

    def __iter__(self) -> _Fetched:
        return self

    def __next__(self) -> Any:
        return self.fetch(next(self.lists))


class _Epoch:
    """One iteration over a loader; it knows where it is."""

    def __init__(self, loader: DataLoader, start: dict[str, Any]) -> None:
        self.loader = loader
        self.states, self.batches, self.ended = start["generators"], start["batches"], False
        generators = loader._generators()
        default = thread_generator()
        now = default.get_state()
        for generator, state in zip(generators, self.states, strict=True):
            generator.set_state(state)
        if not start["begun"]:
            default.set_state(now)
        self._rest = loader._batches(self.batches)
        if start["begun"]:  # what the epoch drew from the default generator was drawn before that was saved
            default.set_state(now)

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._rest)
        except StopIteration:
            self.ended = True
            raise
        self.batches += 1
        return batch

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def in_order(self) -> OrderedBatches | None:
        """The batches to come, where they are rows of tensors in memory, in an order that is known."""
        return self._rest if isinstance(self._rest, OrderedBatches) else None


def _skipped(batches: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        next(batches, None)
    return batches

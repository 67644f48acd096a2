"""What a loader's arguments may be, and what they mean where they are left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from tapegrad.ops.random import Generator
from tapegrad.utils.data.dataset import IterableDataset
from tapegrad.utils.data.sampler import RandomSampler, SequentialSampler


def default_sampler(dataset: Any, shuffle: bool, generator: Generator | None) -> Iterable[Any]:
    """Return the sampler of a loader that is not given one."""
    if isinstance(dataset, IterableDataset):
        return itertools.repeat(None)
    return RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)


def context_of(given: Any, num_workers: int) -> Any:
    """Return the context of multiprocessing that workers are started with; None for threads."""
    if given is None or given == "thread":
        return None
    if num_workers == 0:
        raise ValueError("multiprocessing_context can only be used with num_workers > 0, but got num_workers=0")
    import multiprocessing  # takes 10 ms

    methods = [name for name in multiprocessing.get_all_start_methods() if name != "fork"]
    method = given if isinstance(given, str) else given.get_start_method()
    if method not in methods:
        raise ValueError(
            f"multiprocessing_context option should specify a valid start method in {['thread', *methods]}, but got "
            f"{method!r}: a forked copy of a process with threads and compiled code may hang"
        )
    return multiprocessing.get_context(given) if isinstance(given, str) else given


def check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent: bool) -> None:
    """Raise ValueError where the arguments about workers make no sense."""
    if num_workers < 0:
        raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError("prefetch_factor option could only be specified in multiprocessing: let num_workers > 0")
    if prefetch_factor is not None and prefetch_factor < 0:
        raise ValueError("prefetch_factor option should be non-negative")
    if persistent and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def check_sampling(
    dataset: Any, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: bool
) -> None:
    """Raise ValueError where arguments about the order and size of batches exclude each other."""
    if isinstance(dataset, IterableDataset):
        for name, value in (("shuffle", shuffle or None), ("sampler", sampler), ("batch_sampler", batch_sampler)):
            if value is not None:
                raise ValueError(
                    f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
                )
    if sampler is not None and shuffle:
        raise ValueError("sampler option is mutually exclusive with shuffle")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError("batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last")
    if batch_sampler is None and batch_size is None and drop_last:
        raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")

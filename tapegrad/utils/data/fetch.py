"""Gets the samples of a batch from a data set and collates them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tapegrad.utils.data.dataset import IterableDataset

Fetch = Callable[[Any], Any]


def make_fetch(dataset: Any, batched: bool, collate: Callable[[Any], Any], drop_last: bool) -> Fetch:
    """Return a function of a list of numbers (of one number where not ``batched``) that returns their batch.

    That of an IterableDataset takes as many samples as there are numbers, and raises StopIteration at the end.
    """
    if isinstance(dataset, IterableDataset):
        return _fetch_next(dataset, batched, collate, drop_last)
    if not batched:
        return lambda number: collate(dataset[number])
    several = getattr(dataset, "__getitems__", None)
    if several is not None:
        return lambda numbers: collate(several(numbers))
    return lambda numbers: collate([dataset[number] for number in numbers])


def _fetch_next(dataset: Any, batched: bool, collate: Callable[[Any], Any], drop_last: bool) -> Fetch:
    samples = iter(dataset)

    def fetch(numbers: Any) -> Any:
        if not batched:
            return collate(next(samples))
        batch = list(itertools.islice(samples, len(numbers)))
        if not batch or (drop_last and len(batch) < len(numbers)):
            raise StopIteration
        return collate(batch)

    return fetch

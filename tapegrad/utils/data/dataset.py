"""Data sets: something with samples by number, or something that yields them; and what is made of other data sets."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import from_numpy

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """Samples by number: a class of its own gives ``__getitem__`` and, for most samplers, ``__len__``.

    A ``__getitems__`` that takes a list of numbers and returns a list of samples is used where it is there.
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __add__(self, other: Dataset[T_co]) -> ConcatDataset[T_co]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """Samples in the order of ``__iter__``, which a class of its own gives.

    Every worker of a loader iterates over a copy of it: `get_worker_info` tells a worker which part is its own.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError("Subclasses of IterableDataset should implement __iter__.")

    def __add__(self, other: Dataset[T_co]) -> Any:
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Samples that are tuples of rows of tensors.

    Args:
        *tensors: all of one first length. NumPy arrays are used where they lie, those of `numpy.memmap` on the disk.

    Raises:
        AssertionError: the first lengths differ.

    Example:
        >>> import tapegrad as tg
        >>> data = tg.utils.data.TensorDataset(tg.arange(3), tg.tensor([0.0, 0.5, 1.0]))
        >>> data[2]
        (tensor(2), tensor(1.))
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tuple(from_numpy(item) if isinstance(item, np.ndarray) else item for item in tensors)
        shapes = [shape_of(tensor) for tensor in self.tensors]
        lengths = {shape[0] if shape else None for shape in shapes}
        assert len(lengths) == 1 and None not in lengths, f"Size mismatch between tensors: got the shapes {shapes}"

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return shape_of(self.tensors[0])[0]


class StackDataset(Dataset[Any]):
    """Samples that are tuples, or dicts, of the samples of several data sets of one length.

    Args:
        *args: the data sets of tuples; named ones make dicts.

    Raises:
        ValueError: data sets are given both by position and by name, or none is, or their lengths differ.
    """

    datasets: tuple[Any, ...] | dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args and kwargs:
            raise ValueError(
                "Supported either ``tuple``- (via ``args``) or``dict``- (via ``kwargs``) like input/output"
            )
        if not args and not kwargs:
            raise ValueError("At least one dataset should be passed")
        self.datasets = args or kwargs
        parts = list(args or kwargs.values())
        self._length = len(parts[0])
        if any(len(part) != self._length for part in parts):
            raise ValueError(f"Size mismatch between datasets: got the lengths {[len(part) for part in parts]}")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: part[index] for name, part in self.datasets.items()}
        return tuple(part[index] for part in self.datasets)

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[T_co]):
    """The samples of several data sets, one after the other.

    Args:
        datasets: the data sets.

    Raises:
        AssertionError: there are none, or one is an IterableDataset.
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        assert len(self.datasets) > 0, "datasets should not be an empty iterable"
        for part in self.datasets:
            assert not isinstance(part, IterableDataset), "ConcatDataset does not support IterableDataset"
        self.cumulative_sizes = list(itertools.accumulate(len(part) for part in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> T_co:
        if index < 0:
            if -index > len(self):
                raise ValueError("absolute value of index should not exceed dataset length")
            index += len(self)
        number = bisect.bisect_right(self.cumulative_sizes, index)
        if number == len(self.datasets):
            raise IndexError(f"index {index} is out of range for a data set of {len(self)} samples")
        return self.datasets[number][index - (self.cumulative_sizes[number - 1] if number else 0)]


class ChainDataset(IterableDataset[T_co]):
    """The samples of several IterableDatasets, one after the other.

    Args:
        datasets: the IterableDatasets.
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = datasets

    def __iter__(self) -> Iterator[T_co]:
        for part in self.datasets:
            assert isinstance(part, IterableDataset), "ChainDataset only supports IterableDataset"
            yield from part

    def __len__(self) -> int:
        return sum(len(part) for part in self.datasets)


class Subset(Dataset[T_co]):
    """The samples of a data set that have the given numbers.

    Args:
        dataset: the data set.
        indices: the numbers.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[k] for k in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[T_co]:
        chosen = [self.indices[k] for k in indices]
        several = getattr(self.dataset, "__getitems__", None)
        return several(chosen) if several else [self.dataset[k] for k in chosen]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Any = None) -> list[Subset[Any]]:
    """Return subsets of the given lengths without common samples, drawn at random.

    Args:
        dataset: a data set with a length.
        lengths: of the subsets: numbers of samples, or fractions whose sum is 1; what fractions leave over is given to
            the subsets in turn.
        generator: where the random order comes from; by default the one that ``manual_seed`` sets.

    Raises:
        ValueError: the lengths' sum is not the data set's, or a fraction is not in [0, 1].

    Example:
        >>> import tapegrad as tg
        >>> parts = tg.utils.data.random_split(range(10), [0.7, 0.3], generator=tg.Generator().manual_seed(0))
        >>> [len(part) for part in parts]
        [7, 3]
    """
    sizes = _lengths_of_fractions(len(dataset), lengths) if _are_fractions(lengths) else [int(n) for n in lengths]
    if sum(sizes) != len(dataset):
        raise ValueError(
            f"Sum of input lengths does not equal the length of the input dataset! Got {sizes} for {len(dataset)}."
        )
    order = functions["randperm"](len(dataset), generator=generator).tolist()
    ends = itertools.accumulate(sizes)
    return [Subset(dataset, order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def _are_fractions(lengths: Sequence[int | float]) -> bool:
    return math.isclose(sum(lengths), 1) and sum(lengths) <= 1


def _lengths_of_fractions(count: int, fractions: Sequence[int | float]) -> list[int]:
    for number, fraction in enumerate(fractions):
        if not 0 <= fraction <= 1:
            raise ValueError(f"Fraction at index {number} is not between 0 and 1")
    sizes = [math.floor(count * fraction) for fraction in fractions]
    for k in range(count - sum(sizes)):
        sizes[k % len(sizes)] += 1
    return sizes

"""Samplers: the order in which a loader goes through a data set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tapegrad.ops.calls import functions
from tapegrad.ops.random import Generator
from tapegrad.runtime.dtype import float64, int64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import as_tensor

T_co = TypeVar("T_co", covariant=True)


class Sampler(Generic[T_co]):
    """The base of samplers: a class of its own gives ``__iter__``, and ``__len__`` where the number is known."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError


class OrderedSampler(Sampler[int]):
    """A sampler whose whole order is drawn at once, as a tensor."""

    def order(self) -> Tensor:
        """Return the numbers of an epoch as int64 [length]; random ones are drawn here."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()


class SequentialSampler(OrderedSampler):
    """The samples in their own order.

    Args:
        data_source: the data set.
    """

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def order(self) -> Tensor:
        """Return 0 .. length - 1."""
        return functions["arange"](len(self.data_source))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(OrderedSampler):
    """The samples in random order, or drawn at random.

    Args:
        data_source: a data set with a length.
        replacement: draw each sample from all, so that some come several times and others not.
        num_samples: how many samples an epoch has; by default all. More than there are make several rounds.
        generator: where the order comes from. By default a generator of its own for each epoch, which the default
            generator seeds.

    Raises:
        TypeError: ``replacement`` is no bool.
        ValueError: ``num_samples`` is not a positive integer.
    """

    def __init__(
        self, data_source: Any, replacement: bool = False, num_samples: int | None = None, generator: Any = None
    ) -> None:
        self.data_source, self.replacement, self.generator = data_source, replacement, generator
        self._num_samples = num_samples
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got replacement={replacement}")
        if not isinstance(self.num_samples, int) or self.num_samples < 0 or num_samples == 0:
            raise ValueError(f"num_samples should be a positive integer value, but got num_samples={num_samples}")

    @property
    def num_samples(self) -> int:
        """How many samples an epoch has: the data set's length, which may change, unless it was given."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def order(self) -> Tensor:
        """Draw the numbers of an epoch."""
        count, generator = len(self.data_source), self.generator
        if generator is None:
            generator = Generator().manual_seed(draw_seed(None))
        if self.replacement:
            return functions["randint"](count, (self.num_samples,), generator=generator)
        rounds = -(-self.num_samples // count) if count else 0
        orders = [functions["randperm"](count, generator=generator) for _ in range(rounds)]
        if rounds == 1 and self.num_samples == count:
            return orders[0]
        return functions["cat"](orders)[: self.num_samples] if orders else functions["arange"](0)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(OrderedSampler):
    """The given numbers in random order.

    Args:
        indices: the numbers.
        generator: the ``Generator`` of the order; by default the one that ``manual_seed`` sets.
    """

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        self.indices, self.generator = indices, generator

    def order(self) -> Tensor:
        """Draw the numbers of an epoch."""
        order = functions["randperm"](len(self.indices), generator=self.generator)
        return as_tensor(list(self.indices), dtype=int64)[order]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(OrderedSampler):
    """The numbers 0 .. len(weights) - 1, drawn with probabilities in the ratio of the weights.

    Args:
        weights: not negative; their sum need not be 1.
        num_samples: how many numbers an epoch has.
        replacement: whether a number may be drawn more than once.
        generator: where the numbers come from; by default the one that ``manual_seed`` sets.

    Raises:
        ValueError: ``num_samples`` is not a positive integer, ``replacement`` no bool, or the weights not 1-d.
    """

    def __init__(
        self, weights: Sequence[float] | Tensor, num_samples: int, replacement: bool = True, generator: Any = None
    ) -> None:
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(f"num_samples should be a positive integer value, but got num_samples={num_samples}")
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement should be a boolean value, but got replacement={replacement}")
        self.weights = as_tensor(weights, dtype=float64)
        if self.weights.dim() != 1:
            raise ValueError(
                f"weights should be a 1d sequence but given weights have shape {tuple(self.weights.shape)}"
            )
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def order(self) -> Tensor:
        """Draw the numbers of an epoch."""
        return functions["multinomial"](self.weights, self.num_samples, self.replacement, generator=self.generator)

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """The numbers of another sampler in lists of ``batch_size``, the last of them shorter or, by choice, left out.

    Args:
        sampler: the other sampler.

    Raises:
        ValueError: ``batch_size`` is not a positive integer, or ``drop_last`` no bool.

    Example:
        >>> import tapegrad as tg
        >>> list(tg.utils.data.BatchSampler(range(5), batch_size=2, drop_last=False))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last should be a boolean value, but got drop_last={drop_last}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while batch := list(itertools.islice(numbers, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]  # TypeError where it has none
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


def draw_seed(generator: Generator | None) -> int:
    """Draw a seed below 2**63 from a generator, by default the one that ``manual_seed`` sets."""
    return int(functions["randint"](2**63 - 1, (), generator=generator).item())

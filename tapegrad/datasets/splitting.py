"""Cuts data into a part to train on and a part to test with, the same parts every time."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.calls import functions, shape_of
from tapegrad.ops.random import Generator
from tapegrad.runtime.handle import Tensor


def train_test_split(*tensors: Tensor, test_size: float = 0.2, seed: int = 0) -> tuple[Any, ...]:
    """Return the rows to train on and the rows to test with, of each tensor; which these are follows from ``seed``.

    Args:
        *tensors: all of one first length n.
        test_size: the share of rows to test with, rounded to a whole number of them.
        seed: of the random order that is cut.

    Returns:
        For tensors x, y, ...: x_train, x_test, y_train, y_test, ...

    Raises:
        ValueError: the lengths differ, or a part would be empty.

    Example:
        >>> import tapegrad as tg
        >>> x_train, x_test = tg.datasets.train_test_split(tg.arange(10), test_size=0.3)
        >>> len(x_train), len(x_test)
        (7, 3)
    """
    lengths = {shape_of(tensor)[0] for tensor in tensors}
    if len(lengths) != 1:
        raise ValueError(f"train_test_split: expected tensors of one length, got the lengths {sorted(lengths)}")
    (n,) = lengths
    test = round(n * test_size)
    if not 0 < test < n:
        raise ValueError(f"train_test_split: {test} of {n} rows to test with leaves a part empty")
    order = functions["randperm"](n, generator=Generator().manual_seed(seed))
    return tuple(part for tensor in tensors for part in (tensor[order[test:]], tensor[order[:test]]))

"""What kernels trust their callers with, as rules: checked where an op comes from a file, and never in a call.

A rule says, from an op's operands and attributes, whether its kernel would stay within them and come to an end; what
an op's own shape rule checks it need not say again. An op without a rule is refused in files. Functions here make
rules; what only one family of ops needs stands beside the ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapegrad.native.dtypes import FLOAT32, INT64

MOST_ELEMENTS = (1 << 31) - 1  # of a tensor in a file, and of what an op makes there
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """An operand as a rule sees it.

    Attributes:
        dtype: its code, before promotion.
        shape: its shape.
        contiguous: whether its elements lie in row-major order without gaps.
        fixed: whether nothing in the program writes to it, so that what a shape rule has read in it stays true.
    """

    dtype: int
    shape: Shape
    contiguous: bool = True
    fixed: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


Operands = Sequence[Operand | None]  # None for an absent one; those at the end may be missing
Attributes = Sequence[int]
Rule = Callable[[Operands, Attributes], bool]


def checks_itself(x: Operands, a: Attributes) -> bool:
    """The rule of an op whose shape rule checks everything, and whose result is not larger than its operands."""
    return True


def every(*rules: Rule) -> Rule:
    """Return the rule that all of some rules hold."""
    return lambda x, a: all(rule(x, a) for rule in rules)


# ---- what rules are made of ----


def given(x: Operands, k: int) -> Operand | None:
    """Return operand ``k``, None if there is none."""
    return x[k] if k < len(x) else None


def needed(x: Operands, k: int) -> Operand:
    """Return operand ``k``; ValueError, for which the file is refused, if there is none."""
    found = given(x, k)
    if found is None:
        raise ValueError(f"operand {k} is absent")
    return found


def is_few(*lengths: int) -> bool:
    """Return whether lengths are none below 0, and their product is one that a tensor may have."""
    return min(lengths, default=0) >= 0 and math.prod(lengths) <= MOST_ELEMENTS


def is_dim(dim: int, shape: Shape) -> bool:
    return 0 <= dim < len(shape)


def masked(mask: int, shape: Shape) -> list[int]:
    """Return the dimensions of a mask."""
    return [d for d in range(len(shape)) if mask >> d & 1]


def reduced(shape: Shape, mask: int, keepdim: int) -> Shape:
    """Return the shape of a reduction over the dimensions of a mask."""
    kept = [1 if mask >> d & 1 else n for d, n in enumerate(shape) if keepdim or not mask >> d & 1]
    return tuple(kept)


def without(shape: Shape, dim: int) -> Shape:
    return shape[:dim] + shape[dim + 1 :]


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes broadcast to; where they do not, that of the longest lengths."""
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    return tuple(min(lengths) if 0 in lengths else max(lengths) for lengths in zip(*padded, strict=True))


# ---- rules of many ops ----


def attributes(count: int) -> Rule:
    """There are so many attributes, or more."""
    return lambda x, a: len(a) >= count


def no_gaps(x: Operands, a: Attributes) -> bool:
    """No operand is absent but those that are left out at the end."""
    return None not in x


def int64(*at: int) -> Rule:
    """Operands that the op does not promote are int64."""
    return lambda x, a: all(found is None or found.dtype == INT64 for found in (given(x, k) for k in at))


def generator(at: int) -> Rule:
    """An operand, if it is there, is the state of a generator of random numbers."""

    def rule(x: Operands, a: Attributes) -> bool:
        state = given(x, at)
        return state is None or (state.dtype == INT64 and state.shape == (2,) and state.contiguous)

    return rule


def one_dtype(*at: int) -> Rule:
    """Operands have one dtype."""
    return lambda x, a: len({found.dtype for found in (given(x, k) for k in at) if found is not None}) == 1


def same_shape(*at: int) -> Rule:
    """Operands have one shape."""
    return lambda x, a: len({needed(x, k).shape for k in at}) == 1


def with_numel(count: Callable[[Operands, Attributes], int], *at: int) -> Rule:
    """Operands that are there have so many elements."""
    return lambda x, a: all(found is None or found.numel == count(x, a) for found in (given(x, k) for k in at))


def makes(*lengths: Callable[[Operands, Attributes], int]) -> Rule:
    """A result has so many elements, the product of lengths, and these are not too many."""
    return lambda x, a: is_few(*[length(x, a) for length in lengths])


def at_least(ndim: int, at: int = 0) -> Rule:
    """An operand has so many dimensions, or more."""
    return lambda x, a: len(needed(x, at).shape) >= ndim


def matrices(square: bool = False, solved: bool = False, flags: Sequence[int] = ()) -> Rule:
    """The first operand is a batch of matrices, none empty; a second one that is ``solved`` for has as many rows.

    Args:
        square: whether the matrices are.
        flags: what the first attribute may be, if there is one.
    """

    def rule(x: Operands, a: Attributes) -> bool:
        shape = needed(x, 0).shape
        if len(shape) < 2 or min(shape) == 0 or (square and shape[-1] != shape[-2]):
            return False
        other = needed(x, 1).shape if solved else shape
        agrees = len(other) == len(shape) and other[:-1] == shape[:-1] and min(other) > 0
        return agrees and (len(flags) == 0 or (len(a) > 0 and a[0] in flags))

    return rule


# ---- ops along dimensions: attributes result dtype, mask, keepdim, parameter ----


def own(dtype: int) -> int:
    return dtype


def summed(dtype: int) -> int:
    """Return the dtype in which elements are summed."""
    return dtype if dtype >= FLOAT32 else INT64


def result_dtype(of: Callable[[int], int]) -> Rule:
    """The result dtype that the attributes name is that of the operand's, by a function."""
    return lambda x, a: a[0] == of(needed(x, 0).dtype)


def along_one(x: Operands, a: Attributes) -> bool:
    """The mask has one dimension, none for a number."""
    shape = needed(x, 0).shape
    return len(a) >= 4 and a[1] in ([1 << d for d in range(len(shape))] if shape else [0, 1])


def reduces(of: Callable[[int], int]) -> Rule:
    """A reduction over any dimensions, with the dtype of its result."""
    return every(attributes(4), result_dtype(of))


def scans(of: Callable[[int], int]) -> Rule:
    """An op along one dimension, with the dtype of its result."""
    return every(along_one, result_dtype(of))

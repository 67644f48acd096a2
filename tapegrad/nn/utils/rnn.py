"""Sequences of different lengths: packed into one tensor step by step, or padded to one length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences, longest first, packed step by step: the rows of step 0 of all of them, those of step 1, ...

    Attributes:
        data: [rows, ...], the sum of the lengths many rows.
        batch_sizes: int64, how many sequences have each step.
        sorted_indices: the order in which the sequences were taken; None where they came sorted.
        unsorted_indices: the order that undoes it.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> Self:
        """Make the packed sequence from its parts, or from a pair of data and sizes."""
        if batch_sizes is None:
            data, batch_sizes = data
        assert batch_sizes is not None
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the sequences with their data converted as ``Tensor.to`` does."""
        data = self.data.to(*args, **kwargs)
        return self if data is self.data else self._replace(data=data)

    def cpu(self) -> Self:
        """Return the sequences themselves: their memory is the CPU's."""
        return self

    def double(self) -> Self:
        """Return the sequences in float64."""
        return self.to(dtype_of("float64"))

    def float(self) -> Self:
        """Return the sequences in float32."""
        return self.to(dtype_of("float32"))

    def long(self) -> Self:
        """Return the sequences in int64."""
        return self.to(dtype_of("int64"))

    def int(self) -> Self:
        """Return the sequences in int32."""
        return self.to(dtype_of("int32"))

    def byte(self) -> Self:
        """Return the sequences in uint8."""
        return self.to(dtype_of("uint8"))

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU: never."""
        return False

    def is_pinned(self) -> bool:
        """Return whether the data is in pinned memory: never."""
        return False


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """Return the permutation that undoes one.

    Args:
        permutation: int64 [n], or None.
    """
    return None if permutation is None else functions["argsort"](permutation)


def _lengths(lengths: Any) -> list[int]:
    found = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    return [int(length) for length in found]


def _rows(input: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the steps of [time, batch, ...], those rows that there are."""
    return functions["cat"]([input[t, :size] for t, size in enumerate(sizes)], 0)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack padded sequences.

    Args:
        input: [time, batch, ...], or [batch, time, ...].
        lengths: the length of each sequence, at least 1.
        batch_first: whether the batch is the first dimension.
        enforce_sorted: require that the lengths do not grow; otherwise the sequences are sorted.

    Raises:
        RuntimeError: a length below 1 or beyond the padding, lengths not sorted, or not one for each sequence.

    Example:
        >>> import tapegrad as tg
        >>> padded = tg.tensor([[1.0, 2.0], [3.0, 0.0]])  # two steps of two sequences
        >>> tg.nn.utils.rnn.pack_padded_sequence(padded, [2, 1]).data.tolist()
        [1.0, 2.0, 3.0]
    """
    counts = _lengths(lengths)
    order: Tensor | None = None
    if not enforce_sorted:
        _, order = functions["sort"](tensor(counts), descending=True)
        assert order is not None
        input = functions["index_select"](input, 0 if batch_first else 1, order)
        counts = sorted(counts, reverse=True)
    if batch_first:
        input = functions["transpose"](input, 0, 1)
    time, batch = shape_of(input)[:2]
    _check_lengths(counts, time, batch)
    sizes = [sum(length > t for length in counts) for t in range(counts[0])]
    return PackedSequence(_rows(input, sizes), tensor(sizes), order)


def _check_lengths(counts: list[int], time: int, batch: int) -> None:
    if len(counts) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(counts)} (batch_size={batch})"
        )
    if not counts:
        raise RuntimeError("Cannot pack empty tensors.")
    if any(a < b for a, b in pairwise(counts)):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you "
            "do not need ONNX exportability."
        )
    if counts[-1] <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if counts[0] > time:
        raise RuntimeError(f"Expected lengths of at most the padded length {time}, but got {counts[0]}")


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sequences padded to one length, in the order in which they were packed, and their lengths.

    Args:
        sequence: the packed sequences.
        batch_first: whether the result is [batch, time, ...] instead of [time, batch, ...].
        padding_value: what the rest is filled with.
        total_length: the length to pad to; that of the longest sequence by default.

    Raises:
        ValueError: ``total_length`` is shorter than the longest sequence.
    """
    sizes = sequence.batch_sizes.tolist()
    if total_length is not None and total_length < len(sizes):
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {len(sizes)}"
        )
    batch = sizes[0]
    lengths = tensor([sum(size > k for size in sizes) for k in range(batch)])
    steps = functions["split"](sequence.data, sizes, 0)
    parts = [_padded(step, batch, padding_value) for step in steps]
    parts += [functions["full_like"](parts[0], padding_value)] * ((total_length or len(sizes)) - len(sizes))
    padded = functions["stack"](parts, 1 if batch_first else 0)
    order = sequence.unsorted_indices
    if order is None:
        return padded, lengths
    return functions["index_select"](padded, 0 if batch_first else 1, order), lengths[order]


def _padded(rows: Tensor, count: int, value: float) -> Tensor:
    """Return the rows and as many of one value as make ``count`` of them."""
    missing = count - shape_of(rows)[0]
    if missing == 0:
        return rows
    return functions["cat"]([rows, functions["full"]((missing, *shape_of(rows)[1:]), value, dtype=rows.dtype)], 0)


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Return sequences [length, ...] padded to one length: [time, batch, ...], or [batch, time, ...].

    Args:
        sequences: the sequences, whose other dimensions agree.
        batch_first: whether the batch is the first dimension.
        padding_value: what the rest is filled with.
        padding_side: ``right`` or ``left``.

    Raises:
        RuntimeError: there is none, or dimensions do not agree.
    """
    if isinstance(sequences, Tensor):
        sequences = functions["unbind"](sequences, 0)
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: " + str(type(sequences))
        )
    given = list(sequences)
    if not given:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    longest = max(shape_of(sequence)[0] for sequence in given)
    pad: Callable[..., Tensor] = _padded if padding_side == "right" else _padded_left
    return functions["stack"]([pad(sequence, longest, padding_value) for sequence in given], 0 if batch_first else 1)


def _padded_left(rows: Tensor, count: int, value: float) -> Tensor:
    missing = count - shape_of(rows)[0]
    if missing == 0:
        return rows
    return functions["cat"]([functions["full"]((missing, *shape_of(rows)[1:]), value, dtype=rows.dtype), rows], 0)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """Return the sequences of a padded tensor, each of its own length.

    Args:
        padded_sequences: [time, n, ...], or [n, time, ...] with ``batch_first``.
        lengths: int64 [n].
        batch_first: whether the sequences are the first dimension.
    """
    if not batch_first:
        padded_sequences = functions["transpose"](padded_sequences, 0, 1)
    return [sequence[:length] for sequence, length in zip(padded_sequences, _lengths(lengths), strict=False)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences [length, ...]; see pack_padded_sequence.

    Args:
        sequences: tensors [length, ...].
    """
    lengths = [shape_of(sequence)[0] for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Return the sequences that were packed.

    Args:
        packed_sequences: a PackedSequence.
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)

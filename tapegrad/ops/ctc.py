"""ctc_loss: the loss of sequences of labels whose alignment with the steps is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.ctc import (
    ALPHA,
    BATCH,
    BLANK,
    CLASSES,
    GRADIENT,
    LENGTHS,
    LOSS,
    MOST_STATES,
    STATES,
    STEPS,
    TARGETS,
    ZERO_INFINITY,
    G,
    X,
    make_ctc,
)
from tapegrad.native.dtypes import INT32, INT64, UINT8
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.loss_parts import chosen_reduction, dtype_name, is_float
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import machine

# attributes: blank, states, zero_infinity
_OPERANDS = ("log_probs", "targets", "lengths")


def ctc_infer(st, frame):
    x, loss = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    alpha = slot_of(st, output_slot(frame, 1))
    loss.ndim = 1
    shape_in(loss)[0] = shape_in(x)[1]
    alpha.ndim = 3
    shape_in(alpha)[0], shape_in(alpha)[1], shape_in(alpha)[2] = shape_in(x)[1], shape_in(x)[0], attribute(frame, 1)
    return 0


def ctc_gradient_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0))
    y.ndim = 3
    for d in range(3):
        shape_in(y)[d] = shape_in(x)[d]
    return 0


def _kernel(backward: bool) -> Callable[[int, int], Callable[..., int]]:
    at = 1 if backward else 0

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        task = make_ctc(dtype, backward)

        def kernel(st, frame):
            context = stack_words(13)
            w = int64_at(context)
            x = slot_of(st, input_slot(frame, at))
            w[STEPS], w[BATCH], w[CLASSES] = shape_in(x)[0], shape_in(x)[1], shape_in(x)[2]
            w[X], w[TARGETS] = data_address(st, input_slot(frame, at)), data_address(st, input_slot(frame, at + 1))
            w[LENGTHS] = data_address(st, input_slot(frame, at + 2))
            w[BLANK], w[STATES], w[ZERO_INFINITY] = attribute(frame, 0), attribute(frame, 1), attribute(frame, 2)
            if backward:
                w[G], w[ALPHA] = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 4))
                w[GRADIENT] = data_address(st, output_slot(frame, 0))
            else:
                w[LOSS], w[ALPHA] = data_address(st, output_slot(frame, 0)), data_address(st, output_slot(frame, 1))
            return parallel_for(state_of(st).pool, task, context, w[BATCH])

        return kernel

    return make


_CTC = declare(
    Op(
        name="ctc",
        inputs=_OPERANDS,
        kind=GENERAL,
        outputs=2,
        dtypes=FLOATS,
        infer=ctc_infer,
        kernel=_kernel(False),
        vjp=lambda g, y, x, t, lengths: (g[0].ctc_gradient(x, t, lengths, y[1], attributes=OF_ENTRY), None, None),
        unpromoted=_OPERANDS[1:],
        contiguous=_OPERANDS,
        public=False,
        samples="its gradient is right for normalised operands only: tests/test_ctc.py",
        math="-log of the sum over alignments of e**x; the second result is scratch",
    )
)
declare(
    Op(
        name="ctc_gradient",
        inputs=("g", *_OPERANDS, "alpha"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=ctc_gradient_infer,
        kernel=_kernel(True),
        vjp=lambda h, y, g, x, t, lengths, alpha: (None, None, None, None, None),
        unpromoted=_OPERANDS[1:],
        contiguous=("g", *_OPERANDS, "alpha"),
        public=False,
        samples="part of ctc: tests/test_ctc.py",
        math="w (e**x - the share of alignments)",
    )
)


def _length_list(lengths: Any, name: str) -> list[int]:
    if isinstance(lengths, Tensor):
        if machine.dtype_of(lengths._handle) not in (UINT8, INT32, INT64):
            raise RuntimeError(f"{name} must be integral")
        found = lengths.tolist()
        return found if isinstance(found, list) else [found]
    if isinstance(lengths, int):
        return [lengths]
    if not isinstance(lengths, Sequence):
        raise TypeError(f"ctc_loss(): argument '{name}' must be Tensor or ints, not {type(lengths).__name__}")
    return [int(length) for length in lengths]


def _check_lengths(lengths: list[int], batch: int, most: int | None, name: str) -> None:
    if len(lengths) != batch:
        raise RuntimeError(f"ctc_loss: {name} must be of size batch_size, expected {batch}, got {len(lengths)}")
    for length in lengths:
        if length < 0:
            raise RuntimeError(f"ctc_loss: Expected {name} to have value at least 0, but got value {length}")
        if most is not None and length > most:
            raise RuntimeError(f"ctc_loss: Expected {name} to have value at most {most}, but got value {length}")


def _first_labels(targets: Tensor, lengths: list[int], batch: int) -> list[int]:
    """Return the place of each sequence's first label among all; RuntimeError where the targets do not fit."""
    shape = shape_of(targets)
    if len(shape) == 1:
        if shape[0] != sum(lengths):
            raise RuntimeError(
                f"ctc_loss: Expected tensor to have size {sum(lengths)} at dimension 0, but got size {shape[0]} for "
                "argument #2 'targets'"
            )
        return [sum(lengths[:k]) for k in range(batch)]
    if len(shape) != 2 or shape[0] != batch:
        raise RuntimeError(f"ctc_loss: targets should be [{batch}, length] or the labels in a row, got {list(shape)}")
    if max(lengths, default=0) > shape[1]:
        raise RuntimeError(
            f"ctc_loss: Expected tensor to have size at least {max(lengths)} at dimension 1, but got size {shape[1]} "
            "for argument #2 'targets'"
        )
    return [k * shape[1] for k in range(batch)]


def _check_labels(targets: Tensor, first: list[int], lengths: list[int], classes: int) -> None:
    labels = functions["_array_of"](targets).reshape(-1)
    for start, length in zip(first, lengths, strict=True):
        mine = labels[start : start + length]
        if ((mine < 0) | (mine >= classes)).any():
            raise RuntimeError(f"ctc_loss: the targets {mine.tolist()} are not all below {classes}")


@function(method=False)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return the connectionist temporal classification loss (Graves et al. 2006, doi:10.1145/1143844.1143891).

    Args:
        log_probs: log probabilities, [time, batch, classes] or [time, classes], as log_softmax gives them.
        targets: labels, [batch, length], or those of all sequences in one row.
        input_lengths: how many steps each sequence has.
        target_lengths: how many labels each sequence has.
        blank: the class that stands for no label.
        reduction: "none", "mean" (each loss by its number of labels, then over the batch) or "sum".
        zero_infinity: whether losses of sequences too short for their targets, and their gradients, are zero.

    Returns:
        The loss: 0-d, or [batch] without reduction.

    Raises:
        RuntimeError: lengths or shapes do not fit, or a target or the blank is no class.
        NotImplementedError: the log probabilities are not floating point.

    Example:
        >>> import tapegrad as tg
        >>> x = tg.log_softmax(tg.zeros(2, 1, 3), -1)
        >>> round(tg.nn.functional.ctc_loss(x, tg.tensor([[1]]), [2], [1]).item(), 4)  # 3 of 9 paths: 11, 01, 10
        1.0986
    """
    expect_tensor(log_probs, "ctc_loss", "log_probs")
    expect_tensor(targets, "ctc_loss", "targets", 2)
    reduction = chosen_reduction(reduction)
    if not is_float(log_probs):
        raise NotImplementedError(f'"ctc_loss_cpu" not implemented for {dtype_name(log_probs)!r}')
    alone = len(shape_of(log_probs)) == 2
    if alone:
        log_probs = functions["unsqueeze"](log_probs, 1)
        targets = functions["reshape"](targets, (1, -1))
    if len(shape_of(log_probs)) != 3:
        raise RuntimeError(f"ctc_loss: log_probs should have 2 or 3 dimensions, got {list(shape_of(log_probs))}")
    steps, batch, classes = shape_of(log_probs)
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    inputs, counts = _length_list(input_lengths, "input_lengths"), _length_list(target_lengths, "target_lengths")
    _check_lengths(inputs, batch, steps, "input_lengths")
    _check_lengths(counts, batch, None, "target_lengths")
    first = _first_labels(targets, counts, batch)
    _check_labels(targets, first, counts, classes)
    states = 2 * max(counts, default=0) + 1
    if states > MOST_STATES:
        raise RuntimeError(f"ctc_loss: a sequence has at most {MOST_STATES // 2} labels, got {max(counts)}")
    lengths = functions["_from_array"](np.array((inputs, counts, first), np.int64))
    targets = functions["to_dtype"](targets, lengths.dtype)
    loss = call(_CTC, log_probs, targets, lengths, attributes=(blank, states, int(zero_infinity)))
    return _reduced(loss, counts, reduction, zero_infinity, alone)


def _reduced(loss: Tensor, counts: list[int], reduction: str, zero_infinity: bool, alone: bool) -> Tensor:
    if zero_infinity:
        loss = functions["where"](loss == float("inf"), 0.0, loss)
    if reduction == "mean":
        divisors = functions["_from_array"](np.array([max(count, 1) for count in counts], np.int64))
        return functions["mean"](loss / divisors)
    if reduction == "sum":
        return functions["sum"](loss)
    return functions["reshape"](loss, ()) if alone else loss

"""Padding: with a constant in one op, by reflection, replication or wrapping by indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.strided import make_strided_copy
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at, stack_words
from tapegrad.ops.calls import call, expect_tensor, functions, shape_of
from tapegrad.ops.lookups import look_up, tensor_of
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, is_few, needed
from tapegrad.ops.view_ops import INDEX, SLICE
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
    VIEW,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)


def pad_infer(st, frame):
    """Attributes: the value, then how many elements come before and after each dimension."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[d] + attribute(frame, 1 + 2 * d) + attribute(frame, 2 + 2 * d)
    return 0


def crop_infer(st, frame):
    """Undo a padding."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        before = attribute(frame, 1 + 2 * d)
        shape_in(result)[d] = shape_in(source)[d] - before - attribute(frame, 2 + 2 * d)
        strides_in(result)[d] = strides_in(source)[d]
        result.offset += before * strides_in(source)[d]
    return 0


def _pad_kernel(zero: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        copy, pointer, itemsize, scalar = (
            make_strided_copy(dtype),
            POINTERS[dtype],
            ITEM_BYTES[dtype],
            SCALARS[dtype],
        )

        def kernel(st, frame):
            source = slot_of(st, input_slot(frame, 0))
            result = slot_of(st, output_slot(frame, 0))
            value = scalar(0) if zero else scalar(float64_from_bits(attribute(frame, 0)))
            y = pointer(data_address(st, output_slot(frame, 0)))
            for i in range(np.uintp(result.numel)):
                y[i] = value
            if source.numel == 0:
                return 0
            scratch = stack_words(32)
            offset = 0
            for d in range(source.ndim):
                int64_at(scratch)[d] = shape_in(source)[d]
                int64_at(scratch)[8 + d] = strides_in(result)[d]
                int64_at(scratch)[16 + d] = strides_in(source)[d]
                offset += attribute(frame, 1 + 2 * d) * strides_in(result)[d]
            to = data_address(st, output_slot(frame, 0)) + offset * itemsize
            copy(to, data_address(st, input_slot(frame, 0)), source.ndim, scratch)
            return 0

        return kernel

    return make


def _padded(zero: bool) -> Callable[..., Any]:
    def reference(x: Any, *, attributes: tuple[Any, ...]) -> Any:
        value, *amounts = attributes
        pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
        return np.pad(x, pairs, constant_values=np.asarray(0 if zero else value).astype(x.dtype))

    return reference


def _cropped(x: Any, *, attributes: tuple[Any, ...]) -> Any:
    pairs = zip(attributes[1::2], attributes[2::2], strict=True)
    return x[tuple(slice(a, n - b) for (a, b), n in zip(pairs, x.shape, strict=True))]


def _has_amounts(x: Operands, a: Attributes) -> bool:
    shape, amounts = needed(x, 0).shape, a[1:]
    if len(amounts) < 2 * len(shape) or min(amounts, default=0) < 0:
        return False
    return is_few(*[n + amounts[2 * d] + amounts[2 * d + 1] for d, n in enumerate(shape)])


def _declare_pad(name: str, zero: bool) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            infer=pad_infer,
            valid=_has_amounts,
            kernel=_pad_kernel(zero),
            vjp=lambda g, y, x: g.crop(attributes=OF_ENTRY),
            public=False,
            reference=_padded(zero),
            samples=lambda make: [
                ((make(3, 4),), {"attributes": (2.0, 1, 2, 0, 3)}),
                ((make(5),), {"attributes": (-1.0, 2, 0)}),
                ((make(0, 2),), {"attributes": (1.0, 1, 1, 0, 0)}),
            ],
            math="x with a number around it" if not zero else "x with zeros around it",
        )
    )


_PAD = _declare_pad("pad_constant", zero=False)
_declare_pad("pad_zeros", zero=True)
declare(
    Op(
        name="crop",
        inputs=("input",),
        kind=VIEW,
        infer=crop_infer,
        vjp=lambda g, y, x: g.pad_zeros(attributes=OF_ENTRY),
        public=False,
        reference=_cropped,
        samples=lambda make: [
            ((make(6, 7),), {"attributes": (0.0, 1, 2, 0, 3)}),
            ((make(5),), {"attributes": (0.0, 2, 0)}),
        ],
        math="x without what a padding added",
    )
)


def _amounts(pad: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """Return what comes before and after each dimension; ``pad`` starts with the last one."""
    if len(pad) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(pad) > 2 * ndim:
        raise RuntimeError(
            f"Padding length should be less than or equal to two times the input dimension but got padding length "
            f"{len(pad)} and input of dimension {ndim}"
        )
    pairs = [(int(pad[k]), int(pad[k + 1])) for k in range(0, len(pad), 2)]
    return [(0, 0)] * (ndim - len(pairs)) + pairs[::-1]


def _pad_constant(input: Tensor, amounts: list[tuple[int, int]], value: float) -> Tensor:
    shape = shape_of(input)
    for d, (before, after) in enumerate(amounts):
        if shape[d] + min(before, 0) + min(after, 0) < 0:
            raise RuntimeError(
                f"The input size {shape[d]}, plus negative padding {before} and {after} resulted in a negative output "
                f"size, which is invalid. Check dimension {d} of your input."
            )
    if any(amount < 0 for pair in amounts for amount in pair):
        bounds = [(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(amounts, shape, strict=True)]
        input = call(INDEX, input, attributes=[word for start, stop in bounds for word in (SLICE, start, stop, 1)])
    return call(_PAD, input, attributes=(float(value), *(max(amount, 0) for pair in amounts for amount in pair)))


def _reflected(positions: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    return n - 1 - np.abs(n - 1 - np.abs(positions))


_PLACES: dict[str, Callable[..., Any]] = {
    "reflect": _reflected,
    "replicate": lambda positions, n: positions.clip(0, n - 1),
}


def _pad_by_index(input: Tensor, amounts: list[tuple[int, int]], mode: str) -> Tensor:
    shape = shape_of(input)
    for d, (before, after) in enumerate(amounts):
        if (before, after) == (0, 0):
            continue
        n = shape[d]
        kept = n + min(before, 0) + min(after, 0)
        if kept < 0 or n + before + after < 0:
            raise RuntimeError(
                f"pad: dimension {d} of the input {list(shape)} cannot be padded by ({before}, {after}) in mode {mode}"
            )
        if mode == "reflect" and max(before, after) >= n:
            raise RuntimeError(
                f"Padding size should be less than the corresponding input dimension, but got: padding ({before}, "
                f"{after}) at dimension {d} of input {list(shape)}"
            )
        if mode == "circular" and max(before, after) > kept:
            raise RuntimeError("Padding value causes wrapping around more than once.")
        if mode == "circular":  # what is taken away does not come back at the other end
            places = max(-before, 0) + np.arange(-max(before, 0), kept + max(after, 0)) % max(kept, 1)
        else:
            places = _PLACES[mode](np.arange(-before, n + after), n)
        input = look_up(input, tensor_of(places.astype(np.int64)), d)
    return input


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Return a tensor with more elements around it (``nn.functional.pad``).

    Args:
        input: a tensor.
        pad: how many elements come before and after the last dimension, then the one before it, and so on; negative
            numbers take elements away.
        mode: ``"constant"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        value: the constant, 0 by default.

    Raises:
        RuntimeError: ``pad`` is too long or of odd length, reflection would need more elements than there are, or a
            value comes with another mode than ``"constant"``.
        NotImplementedError: no such mode, or not for so many dimensions: except with constants, all dimensions after
            the batch's and the channels' are padded.
    """
    shape = shape_of(expect_tensor(input, "pad"))
    amounts = _amounts(pad, len(shape))
    if mode == "constant":
        return _pad_constant(input, amounts, 0.0 if value is None else value)
    if mode not in (*_PLACES, "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if value not in (None, 0):
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if not len(pad) // 2 + 1 <= len(shape) <= len(pad) // 2 + 2:
        raise NotImplementedError(
            f"Padding size {len(pad)} is not supported for {len(shape)}D input tensor. Supported combinations for "
            "non-constant padding: 2 numbers for a 2D or 3D input, 4 for 3D or 4D, 6 for 4D or 5D"
        )
    if mode != "circular" and 0 in shape[len(shape) - len(pad) // 2 - 1 :]:
        raise RuntimeError(f"pad: Expected non-zero dimensions but the batch's for input, but got: {list(shape)}")
    return _pad_by_index(input, amounts, mode)


functions["_pad"] = pad

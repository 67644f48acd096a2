"""unfold and fold: all windows of images as columns, and columns added up to images; each is the other's transpose.

The ops' attributes are pairs, for height and width: kernel, dilation, padding, stride, the image's lengths, how many
windows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call, expect_tensor, functions, shape_of
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, is_few, needed
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

KERNEL, DILATION, PADDING, STRIDE, IMAGE, WINDOWS = range(0, 12, 2)
_FROM, _TO, _PLANES, _EACH = range(12, 16)
_TASK_BYTES = 256 << 10
Lengths = int | Sequence[int]


def unfold_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = 3
    shape_in(y)[0] = shape_in(x)[0]
    shape_in(y)[1] = shape_in(x)[1] * attribute(frame, KERNEL) * attribute(frame, KERNEL + 1)
    shape_in(y)[2] = attribute(frame, WINDOWS) * attribute(frame, WINDOWS + 1)
    return 0


def fold_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = 4
    shape_in(y)[0] = shape_in(x)[0]
    shape_in(y)[1] = shape_in(x)[1] // (attribute(frame, KERNEL) * attribute(frame, KERNEL + 1))
    shape_in(y)[2] = attribute(frame, IMAGE)
    shape_in(y)[3] = attribute(frame, IMAGE + 1)
    return 0


def _kernel(folding: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        pointer, size = POINTERS[dtype], ITEM_BYTES[dtype]

        @jit
        def row(p, image, columns, place):
            """Move one row of the windows' elements at ``place`` of the kernel's width."""
            stride, shift, count = p[STRIDE + 1], place * p[DILATION + 1] - p[PADDING + 1], p[WINDOWS + 1]
            low = least(greatest((-shift + stride - 1) // stride, 0), count)
            high = least(greatest((p[IMAGE + 1] - shift + stride - 1) // stride, low), count)
            x, y = pointer(image), pointer(columns)
            if folding:
                for b in range(low, high):
                    x[b * stride + shift] += y[b]
                return 0
            for b in range(low):
                y[b] = 0
            for b in range(low, high):
                y[b] = x[b * stride + shift]
            for b in range(high, count):
                y[b] = 0
            return 0

        @jit
        def task(words, index, scratch):
            p = int64_at(words)
            pixels, count = p[IMAGE] * p[IMAGE + 1], p[WINDOWS] * p[WINDOWS + 1]
            for plane in range(index * p[_EACH], least((index + 1) * p[_EACH], p[_PLANES])):
                image = p[_TO if folding else _FROM] + plane * pixels * size
                columns = p[_FROM if folding else _TO] + plane * p[KERNEL] * p[KERNEL + 1] * count * size
                if folding:
                    x = pointer(image)
                    for i in range(np.uintp(pixels)):
                        x[i] = 0
                for i in range(p[KERNEL]):
                    for j in range(p[KERNEL + 1]):
                        for a in range(p[WINDOWS]):
                            h = a * p[STRIDE] + i * p[DILATION] - p[PADDING]
                            if 0 <= h < p[IMAGE]:
                                row(p, image + h * p[IMAGE + 1] * size, columns, j)
                            elif not folding:
                                y = pointer(columns)
                                for b in range(np.uintp(p[WINDOWS + 1])):
                                    y[b] = 0
                            columns += p[WINDOWS + 1] * size
            return 0

        def kernel(st, frame):
            words = stack_words(16)
            p = int64_at(words)
            for k in range(12):
                p[k] = attribute(frame, k)
            p[_FROM], p[_TO] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
            image = slot_of(st, output_slot(frame, 0) if folding else input_slot(frame, 0))
            columns = slot_of(st, input_slot(frame, 0) if folding else output_slot(frame, 0))
            p[_PLANES] = shape_in(image)[0] * shape_in(image)[1]
            if p[_PLANES] == 0:
                return 0
            p[_EACH] = _TASK_BYTES * p[_PLANES] // (columns.numel * size + 1) + 1
            return parallel_for(state_of(st).pool, task, words, (p[_PLANES] + p[_EACH] - 1) // p[_EACH])

        return kernel

    return make


def _places(attributes: tuple[int, ...]) -> list[Any]:
    """Return, for height and width, ones where a place of the kernel, a window and a pixel meet."""
    found = []
    for kernel, dilation, padding, stride, image, windows in np.array(attributes).reshape(6, 2).T:
        t, o, i = np.ogrid[:kernel, :windows, :image]
        found.append((i == o * stride + t * dilation - padding).astype(float))
    return found


def _unfold_reference(x: Any, *, attributes: tuple[int, ...]) -> Any:
    columns = np.einsum("nchw,iah,jbw->ncijab", x, *_places(attributes))
    n, c, i, j, a, b = columns.shape
    return columns.reshape(n, c * i * j, a * b)


def _fold_reference(x: Any, *, attributes: tuple[int, ...]) -> Any:
    kernel, windows = attributes[KERNEL : KERNEL + 2], attributes[WINDOWS : WINDOWS + 2]
    columns = x.reshape(x.shape[0], x.shape[1] // (kernel[0] * kernel[1]), *kernel, *windows)
    return np.einsum("ncijab,iah,jbw->nchw", columns, *_places(attributes))


def _fits(folding: bool) -> Rule:
    """The operand has the shape of the image, or of the windows as columns, that the attributes say."""

    def rule(x: Operands, a: Attributes) -> bool:
        if len(a) < 12 or not all(0 <= n < 1 << 31 for n in a) or 0 in (*a[KERNEL:PADDING], *a[STRIDE:IMAGE]):
            return False
        shape, image, taps = needed(x, 0).shape, tuple(a[IMAGE : IMAGE + 2]), a[KERNEL] * a[KERNEL + 1]
        if len(shape) != (3 if folding else 4) or (folding and shape[1] % taps):
            return False
        channels, places = shape[1] // (taps if folding else 1), a[WINDOWS] * a[WINDOWS + 1]
        images, columns = (shape[0], channels, *image), (shape[0], channels * taps, places)
        return shape == (columns if folding else images) and is_few(*images) and is_few(*columns)

    return rule


_SAMPLES = ((2, 3, 1, 2, 1, 0, 2, 1, 4, 4, 3, 1), (1, 2, 1, 1, 0, 1, 1, 2, 2, 3, 2, 2))
UNFOLD = declare(
    Op(
        name="unfold_windows",
        valid=_fits(False),
        inputs=("input",),
        kind=GENERAL,
        infer=unfold_infer,
        kernel=_kernel(False),
        vjp=lambda g, y, x: g.fold_windows(attributes=OF_ENTRY),
        dtypes=FLOATS,
        contiguous=("input",),
        public=False,
        reference=_unfold_reference,
        samples=lambda make: [((make(2, 2, *a[IMAGE : IMAGE + 2]),), {"attributes": a}) for a in _SAMPLES],
        math="windows of x as columns",
    )
)
FOLD = declare(
    Op(
        name="fold_windows",
        valid=_fits(True),
        inputs=("input",),
        kind=GENERAL,
        infer=fold_infer,
        kernel=_kernel(True),
        vjp=lambda g, y, x: g.unfold_windows(attributes=OF_ENTRY),
        dtypes=FLOATS,
        contiguous=("input",),
        public=False,
        reference=_fold_reference,
        samples=lambda make: [
            ((make(2, a[KERNEL] * a[KERNEL + 1] * 2, a[WINDOWS] * a[WINDOWS + 1]),), {"attributes": a})
            for a in _SAMPLES
        ],
        math="columns added up where their windows are",
    )
)


def _pair(value: Lengths) -> tuple[int, int]:
    first, *rest = (value, value) if isinstance(value, int) else (*value, *value) if len(value) == 1 else tuple(value)
    return first, rest[0]


def _arguments(kernel_size: Lengths, dilation: Lengths, padding: Lengths, stride: Lengths) -> tuple[int, ...]:
    """Return the first attributes; RuntimeError where one is out of range."""
    pairs = {"kernel size": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}
    for name, value in pairs.items():
        lowest, text = (0, "non-negative") if name == "padding" else (1, "greater than zero")
        if min(_pair(value)) < lowest:
            raise RuntimeError(f"{name} should be {text}, but got {name}: {_pair(value)}")
    return tuple(number for value in pairs.values() for number in _pair(value))


def _windows(numbers: tuple[int, ...], image: Sequence[int]) -> tuple[int, int]:
    """Return how many windows there are along height and width."""
    counts = []
    for d in range(2):
        reach = numbers[DILATION + d] * (numbers[KERNEL + d] - 1) + 1
        counts.append((image[d] + 2 * numbers[PADDING + d] - reach) // numbers[STRIDE + d] + 1)
    if min(counts) < 1:
        raise RuntimeError(
            f"Given spatial size {tuple(image)}, kernel_size={numbers[:2]}, dilation={numbers[2:4]}, "
            f"padding={numbers[4:6]}, calculated shape of the array of sliding blocks as {tuple(counts)}, but its "
            "components must be at least one."
        )
    return counts[0], counts[1]


def unfold(
    input: Tensor, kernel_size: Lengths, dilation: Lengths = 1, padding: Lengths = 0, stride: Lengths = 1
) -> Tensor:
    """Return every window of images as a column (``nn.functional.unfold``, known as im2col).

    Args:
        input: [n, channels, height, width], or without n; float32 or float64.
        kernel_size, dilation, padding, stride: those of a convolution that would see these windows.

    Returns:
        [n, channels * kernel height * kernel width, windows].

    Raises:
        RuntimeError: an argument is out of range, or no window fits.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.unfold(tg.ones(1, 3, 4, 4), 2).shape
        tapegrad.Size([1, 12, 9])
    """
    shape = shape_of(expect_tensor(input, "unfold"))
    if len(shape) not in (3, 4):
        raise RuntimeError(
            f"Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for "
            f"input, but got: {list(shape)}"
        )
    numbers = _arguments(kernel_size, dilation, padding, stride)
    attributes = (*numbers, *shape[-2:], *_windows(numbers, shape[-2:]))
    if len(shape) == 3:
        return functions["squeeze"](call(UNFOLD, functions["unsqueeze"](input, 0), attributes=attributes), 0)
    return call(UNFOLD, input, attributes=attributes)


def fold(
    input: Tensor, output_size: Lengths, kernel_size: Lengths, dilation: Lengths = 1, padding: Lengths = 0,
    stride: Lengths = 1,
) -> Tensor:  # fmt: skip
    """Return images of which columns are the windows, added up where these overlap (``nn.functional.fold``).

    Args:
        input: [n, channels * kernel height * kernel width, windows], or without n; float32 or float64.
        output_size: the images' height and width.
        kernel_size, dilation, padding, stride: see unfold.

    Returns:
        [n, channels, height, width].

    Raises:
        RuntimeError: an argument is out of range, or the columns are not as many as the windows.
    """
    shape = shape_of(expect_tensor(input, "fold"))
    if len(shape) not in (2, 3):
        raise RuntimeError(f"Expected 2D or 3D (batch mode) tensor for input, but got: {list(shape)}")
    numbers, image = _arguments(kernel_size, dilation, padding, stride), _pair(output_size)
    if min(image) < 1:
        raise RuntimeError(f"output size should be greater than zero, but got: {image}")
    if shape[-2] % (numbers[0] * numbers[1]):
        raise RuntimeError(
            f"Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={shape[-2]} and kernel_size={numbers[:2]}."
        )
    windows = _windows(numbers, image)
    if shape[-1] != windows[0] * windows[1]:
        raise RuntimeError(
            f"Given output_size={image}, kernel_size={numbers[:2]}, dilation={numbers[2:4]}, padding={numbers[4:6]}, "
            f"stride={numbers[6:8]}, expected size of input's dimension 2 to match the calculated number of sliding "
            f"blocks {windows[0]} * {windows[1]} = {windows[0] * windows[1]}, but got input.size(2)={shape[-1]}."
        )
    attributes = (*numbers, *image, *windows)
    if len(shape) == 2:
        return functions["squeeze"](call(FOLD, functions["unsqueeze"](input, 0), attributes=attributes), 0)
    return call(FOLD, input, attributes=attributes)


functions["_unfold"] = unfold
functions["_fold"] = fold

"""softmax, log_softmax, softmin and logsumexp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.reduce_folds import maximum_parts
from tapegrad.kernels.reduce_plan import output_strides
from tapegrad.kernels.reduce_sum import exponential_parts
from tapegrad.kernels.reduce_tasks import make_reduction
from tapegrad.kernels.softmax import make_softmax, make_softmax_backward
from tapegrad.native.dtypes import FLOAT32, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, normal_dim
from tapegrad.ops.reduction_rules import KEEPDIM, MASK, extents, mask_of, reduced_infer, same_infer
from tapegrad.ops.references import along_samples, axis_of, calls_along
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import along_one, every, own, reduces, same_shape
from tapegrad.runtime.dtype import get_default_dtype
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import machine


def _forward_kernel(logarithm: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        softmax_into = make_softmax(dtype, logarithm)

        def kernel(st, frame):
            words = stack_words(3)
            extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            x, y = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
            return softmax_into(state_of(st).pool, x, y, outer, n, inner)

        return kernel

    return make


def _backward_kernel(logarithm: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        backward_into = make_softmax_backward(dtype, logarithm)

        def kernel(st, frame):
            words = stack_words(3)
            extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
            outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
            g, y = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 1))
            gx = data_address(st, output_slot(frame, 0))
            return backward_into(state_of(st).pool, g, y, gx, outer, n, inner)

        return kernel

    return make


def _declare(
    name: str,
    inputs: tuple[str, ...],
    kernel: Any,
    vjp: Any,
    math: str,
    reference: Any,
    samples: Any,
    public: bool = False,
) -> Op:
    return declare(
        Op(
            name=name,
            inputs=inputs,
            kind=GENERAL,
            infer=same_infer,
            valid=every(along_one, same_shape(*range(len(inputs)))),
            kernel=kernel,
            vjp=vjp,
            dtypes=FLOATS,
            contiguous=inputs,
            public=public,
            reference=reference,
            samples=samples,
            math=math,
        )
    )


def _softmax(x: Any, dim: int) -> Any:
    e = np.exp(x)
    return e / e.sum(dim, keepdims=True)


def _softmax_backward(g: Any, y: Any, *, attributes: tuple[int, ...]) -> Any:
    return y * (g - (g * y).sum(axis_of(attributes), keepdims=True))


def _log_softmax_backward(g: Any, y: Any, *, attributes: tuple[int, ...]) -> Any:
    return g - np.exp(y) * g.sum(axis_of(attributes), keepdims=True)


def _backward_samples(make: Any) -> Any:
    return [*calls_along([make(2, 3, 4), make(2, 3, 4)], 0b10), *calls_along([make(3, 4), make(3, 4)], 0b10)]


def _softmax_backward_rule(h: Any, q: Any, g: Any, y: Any) -> Any:
    # q = y (g - g.y); its gradients: y (h - h.y), and h (g - g.y) - g (h.y)
    gy = h * (g - (g * y).sum(attributes=OF_ENTRY)) - g * (h * y).sum(attributes=OF_ENTRY)
    return h.softmax_backward(y, attributes=OF_ENTRY), gy


def _log_softmax_backward_rule(h: Any, q: Any, g: Any, y: Any) -> Any:
    # q = g - e**y sum(g); its gradients: h - sum(h e**y), and -h e**y sum(g)
    p = h * y.exp()
    return h - p.sum(attributes=OF_ENTRY), -(p * g.sum(attributes=OF_ENTRY))


_SOFTMAX = _declare(
    "softmax",
    ("input",),
    _forward_kernel(False),
    lambda g, y, x: g.softmax_backward(y, attributes=OF_ENTRY),
    "e**x / sum(e**x)",
    _softmax,
    along_samples,
    public=True,
)
_LOG_SOFTMAX = _declare(
    "log_softmax",
    ("input",),
    _forward_kernel(True),
    lambda g, y, x: g.log_softmax_backward(y, attributes=OF_ENTRY),
    "x - log(sum(e**x))",
    lambda x, dim: np.log(_softmax(x, dim)),
    along_samples,
    public=True,
)
_declare(
    "softmax_backward",
    ("g", "y"),
    _backward_kernel(False),
    _softmax_backward_rule,
    "w (x - sum(x w))",
    _softmax_backward,
    _backward_samples,
)
_declare(
    "log_softmax_backward",
    ("g", "y"),
    _backward_kernel(True),
    _log_softmax_backward_rule,
    "x - e**w sum(x)",
    _log_softmax_backward,
    _backward_samples,
)


def _logsumexp_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    largest = make_reduction(maximum_parts(dtype, dtype))
    summed = make_reduction(exponential_parts(dtype, dtype))
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        row = slot_of(st, output_slot(frame, 0))
        x_address, y_address = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        centre_address = data_address(st, output_slot(frame, 1))
        strides = stack_words(8)
        output_strides(x, row, attribute(frame, MASK), attribute(frame, KEEPDIM), strides)
        scratch = state_of(st).workspace
        largest(state_of(st).pool, x, x_address, centre_address, row.numel, strides, centre_address, 0, scratch)
        centre, y = pointer(centre_address), pointer(y_address)
        for i in range(np.uintp(row.numel)):
            centre[i] = scalar(0) if abs(centre[i]) == np.inf else centre[i]
        summed(state_of(st).pool, x, x_address, y_address, row.numel, strides, centre_address, 0, scratch)
        for i in range(np.uintp(row.numel)):
            y[i] += centre[i]
        return 0

    return kernel


_LOGSUMEXP = declare(
    Op(
        name="logsumexp",
        valid=reduces(own),
        inputs=("input",),
        kind=GENERAL,
        result=FROM_ATTRIBUTE,
        outputs=2,
        infer=reduced_infer,
        kernel=_logsumexp_kernel,
        dtypes=FLOATS,
        vjp=lambda g, y, x: (
            g[0].expand_reduced(x, attributes=OF_ENTRY) * x.exp_difference(y[0].expand_reduced(x, attributes=OF_ENTRY))
        ),
        reference=lambda x, dim, keepdim=False: np.log(np.sum(np.exp(x), dim, keepdims=keepdim)),
        samples=lambda make: [
            ((make(2, 3, 4),), {"dim": 1}),
            ((make(37),), {"dim": 0}),
            ((make(2, 3, 4),), {"dim": (0, 2), "keepdim": True}),
            ((make(0, 3),), {"dim": 0}, {"gradient": False}),
        ],
        math="log(sum(e**x)); the second result is scratch",
    )
)


def _along(op: Op, input: Tensor, dim: int, dtype: Any) -> Tensor:
    input = expect_tensor(input, op.name)
    if dtype is not None:
        input = functions["to_dtype"](input, dtype)
    code = machine.dtype_of(input._handle)
    if code < FLOAT32:
        raise NotImplementedError(f'"{op.name}" not implemented for {TORCH_NAMES[code]!r}')
    ndim = len(machine.shape_of(input._handle))
    dim = normal_dim(dim, ndim)
    return call(op, input, attributes=(code, 1 << dim if ndim else 0, 1, 0))


@function()
def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along a dimension.

    Args:
        input: float tensor of any shape.
        dim: the dimension along which the results sum to one.
        dtype: a dtype to convert the input to first.

    Raises:
        IndexError: there is no such dimension.
        NotImplementedError: the input is not floating point.

    Example:
        >>> import tapegrad as tg
        >>> tg.softmax(tg.tensor([0.0, 0.0]), dim=0)
        tensor([0.5000, 0.5000])
    """
    return _along(_SOFTMAX, input, dim, dtype)


@function()
def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return the logarithm of softmax along a dimension, without overflow."""
    return _along(_LOG_SOFTMAX, input, dim, dtype)


@function(method=False)
def softmin(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Return softmax of ``-input`` along a dimension."""
    return softmax(-input, dim, dtype)


@function()
def logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """Return log(sum(exp(x))) over the given dimensions, without overflow; -inf where there is nothing to sum."""
    input = expect_tensor(input, "logsumexp")
    if machine.dtype_of(input._handle) < FLOAT32:
        input = functions["to_dtype"](input, get_default_dtype())
    code, ndim = machine.dtype_of(input._handle), len(machine.shape_of(input._handle))
    return call(_LOGSUMEXP, input, attributes=(code, mask_of(dim, ndim), int(keepdim), 0))

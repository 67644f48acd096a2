"""The gradients of many tensors at once: which have one, and taking them away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


def with_gradients(params: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Yield the parameters that have a gradient, each with the handle of it."""
    for param in params:
        grad = machine.grad_of(param._handle)
        if grad >= 0:
            yield param, grad


def clear_gradients(params: Iterable[Tensor], set_to_none: bool) -> None:
    """Take the gradients away from parameters, or set them to zero outside of any graph."""
    for param, _ in with_gradients(params):
        if set_to_none:
            param.grad = None
        else:
            param.grad = param.grad.detach()
            param.grad.zero_()

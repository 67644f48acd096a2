"""Arguments on a level of differentiation of their own, so that transformations of functions can be nested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.autograd.engine import grad
from tapegrad.autograd.modes import is_grad_enabled
from tapegrad.autograd.trees import leaves, rebuild
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine


class Level:
    """The arguments of one transformation.

    Inside, an argument is a fresh leaf, or, where a graph around the transformation leads to it, a view of itself.
    Results that depend on nothing but the fresh leaves leave the level without a graph.
    """

    def __init__(self) -> None:
        self.records = is_grad_enabled()
        self._own: list[Tensor] = []

    def enter(self, tree: Any, name: str = "grad") -> Any:
        """Return the arguments as they are inside of the level."""
        return rebuild(tree, lambda leaf: self._enter(leaf, name))

    def _enter(self, leaf: Any, name: str) -> Any:
        if not isinstance(leaf, Tensor):
            raise ValueError(f"{name}: expected all inputs to be Tensors, got {type(leaf).__name__}")
        if machine.dtype_of(leaf._handle) < FLOAT32:
            raise RuntimeError(f"{name}: expected inputs of floating point dtype, got {leaf.dtype}")
        if self.records and machine.flags_of(leaf._handle) & REQUIRES_GRAD:
            return leaf.view_as(leaf)
        fresh = leaf.detach().requires_grad_()
        self._own.append(fresh)
        return fresh

    def leave(self, tree: Any) -> Any:
        """Return results as they are outside of the level."""
        return rebuild(tree, self._leave)

    def _leave(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not machine.flags_of(leaf._handle) & REQUIRES_GRAD:
            return leaf
        own = [tensor._handle for tensor in self._own]
        if self.records and machine.depends_on_others(leaf._handle, *own):
            return leaf
        return leaf.detach()

    def gradients(
        self, output: Tensor, inputs: Any, cotangent: Tensor | None = None, *, again: bool = False
    ) -> list[Tensor]:
        """Return the gradients by all tensors of a nest, zeros where there is none.

        Args:
            output: what to differentiate.
            inputs: the nest.
            cotangent: of the output's shape; None for a scalar.
            again: whether there will be another call for the same graph.
        """
        by = list(leaves(inputs))
        if not by:
            return []
        if not machine.flags_of(output._handle) & REQUIRES_GRAD:
            return [functions["zeros_like"](tensor) for tensor in by]
        return list(
            grad(
                output,
                by,
                cotangent,
                retain_graph=again or self.records,
                create_graph=self.records,
                allow_unused=True,
                materialize_grads=True,
            )  # type: ignore[arg-type]
        )


def unit_tensors(like: Tensor) -> Sequence[Tensor]:
    """Return the tensors of a shape and dtype that have a one in one place, in the order of the places."""
    count = like.numel()
    identity = functions["eye"](count, dtype=like.dtype)
    return [identity[k].reshape(shape_of(like)) for k in range(count)]

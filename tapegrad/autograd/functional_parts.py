"""What the functional forms share: arguments and results as tuples, missing gradients, the vectors of products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.autograd.engine import grad
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

Tensors = tuple[Tensor, ...]


def as_tuple(value: Any, what: str, name: str) -> tuple[bool, Tensors]:
    """Return whether a value is a tuple of tensors, and it as one; TypeError in torch's words for anything else."""
    is_tuple = isinstance(value, tuple)
    items = value if is_tuple else (value,)
    for k, item in enumerate(items):
        if isinstance(item, Tensor):
            continue
        if is_tuple:
            raise TypeError(
                f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the value at index {k} "
                f"has type {type(item)}."
            )
        raise TypeError(
            f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the given {what} has type "
            f"{type(item)}."
        )
    return is_tuple, items


def requires_grad(tensor: Tensor) -> bool:
    """Return whether a gradient can reach a tensor."""
    return bool(machine.flags_of(tensor._handle) & REQUIRES_GRAD)


def enter(inputs: Tensors, create_graph: bool) -> Tensors:
    """Return the inputs as the function gets them: views of themselves where a graph around is to reach them."""
    if create_graph:
        return tuple(x.view_as(x) if requires_grad(x) else x.detach().requires_grad_() for x in inputs)
    return tuple(x.detach().requires_grad_() for x in inputs)


def leave(value: Any, create_graph: bool) -> Any:
    """Return results as the caller gets them: without a graph where none was asked for."""
    if isinstance(value, tuple):
        return tuple(leave(item, create_graph) for item in value)
    return value if create_graph else value.detach()


def run(func: Callable[..., Any], inputs: Tensors, what: str, name: str, strict: bool) -> tuple[bool, Tensors]:
    """Run the user's function; return whether it returned a tuple, and its outputs."""
    is_tuple, outputs = as_tuple(func(*inputs), what, name)
    for k, output in enumerate(outputs):
        if strict and not requires_grad(output):
            raise RuntimeError(
                f"Output {k} of the user-provided function does not require gradients. The outputs must be computed in "
                "a differentiable manner from the input when running in strict mode."
            )
    return is_tuple, outputs


def gradients(
    outputs: Sequence[Tensor], inputs: Tensors, cotangents: Sequence[Tensor], create_graph: bool
) -> list[Any]:
    """Return the gradients, None where there is none."""
    known = [(y, v) for y, v in zip(outputs, cotangents, strict=True) if requires_grad(y)]
    if not known:
        return [None] * len(inputs)
    ys, vs = [y for y, _ in known], [v for _, v in known]
    return list(grad(ys, inputs, vs, allow_unused=True, retain_graph=True, create_graph=create_graph))


def fill(found: Sequence[Any], inputs: Tensors, strict: bool, message: str) -> Tensors:
    """Put zeros in the places of missing gradients; in strict mode they are an error."""
    for k, gradient in enumerate(found):
        if strict and gradient is None:
            raise RuntimeError(message.format(k))
    return tuple(
        functions["zeros_like"](x.detach()) if gradient is None else gradient
        for x, gradient in zip(inputs, found, strict=True)
    )


def vector(v: Any, like: Tensors, name: str, whose: str) -> Tensors:
    """Return the vector of a product, ones of the right shape where it was left out."""
    if v is None:
        if len(like) != 1 or any(length != 1 for length in shape_of(like[0])):
            raise RuntimeError(f"The vector v can only be None if {whose} a single Tensor with a single element.")
        return (functions["ones_like"](like[0].detach()),)
    _, vectors = as_tuple(v, "v", name)
    if len(vectors) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(vectors)}.")
    for k, (given, model) in enumerate(zip(vectors, like, strict=True)):
        if shape_of(given) != shape_of(model):
            entry = f"Entry {k} in v" if len(like) > 1 else "v"
            raise RuntimeError(
                f"{entry} has invalid size: should be {list(shape_of(model))} but got {list(shape_of(given))}."
            )
    return vectors


def plain(values: Tensors, is_tuple: bool) -> Any:
    """Return the values as a tuple, or the only one."""
    return values if is_tuple else values[0]


def single_output(func: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """Return the function with its result checked to be one tensor of one element."""

    def checked(*inputs: Tensor) -> Tensor:
        output = func(*inputs)
        is_tuple, outputs = as_tuple(output, "outputs of the user-provided function", name)
        if is_tuple:
            raise RuntimeError(f"The function given to {name} should return a single Tensor")
        if any(length != 1 for length in shape_of(outputs[0])):
            raise RuntimeError(f"The Tensor returned by the function given to {name} should contain a single element")
        return outputs[0].reshape(())

    return checked

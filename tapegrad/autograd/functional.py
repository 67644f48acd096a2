"""Derivatives of functions, as in ``torch.autograd.functional``: jacobian, hessian, vjp, jvp, vhp, hvp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.autograd.engine import grad
from tapegrad.autograd.levels import unit_tensors
from tapegrad.autograd.modes import enable_grad
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

Tensors = tuple[Tensor, ...]


def _as_tuple(value: Any, what: str, name: str) -> tuple[bool, Tensors]:
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


def _requires_grad(tensor: Tensor) -> bool:
    return bool(machine.flags_of(tensor._handle) & REQUIRES_GRAD)


def _enter(inputs: Tensors, create_graph: bool) -> Tensors:
    """Return the inputs as the function gets them: views of themselves where a graph around is to reach them."""
    if create_graph:
        return tuple(x.view_as(x) if _requires_grad(x) else x.detach().requires_grad_() for x in inputs)  # type: ignore[attr-defined]
    return tuple(x.detach().requires_grad_() for x in inputs)  # type: ignore[attr-defined]


def _leave(value: Any, create_graph: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(_leave(item, create_graph) for item in value)
    return value if create_graph else value.detach()


def _call(func: Callable[..., Any], inputs: Tensors, what: str, name: str, strict: bool) -> tuple[bool, Tensors]:
    is_tuple, outputs = _as_tuple(func(*inputs), what, name)
    for k, output in enumerate(outputs):
        if strict and not _requires_grad(output):
            raise RuntimeError(
                f"Output {k} of the user-provided function does not require gradients. The outputs must be computed in "
                "a differentiable manner from the input when running in strict mode."
            )
    return is_tuple, outputs


def _gradients(
    outputs: Sequence[Tensor], inputs: Tensors, cotangents: Sequence[Tensor], create_graph: bool
) -> list[Any]:
    """Return the gradients, None where there is none."""
    known = [(y, v) for y, v in zip(outputs, cotangents, strict=True) if _requires_grad(y)]
    if not known:
        return [None] * len(inputs)
    ys, vs = [y for y, _ in known], [v for _, v in known]
    return list(grad(ys, inputs, vs, allow_unused=True, retain_graph=True, create_graph=create_graph))


def _fill(found: Sequence[Any], inputs: Tensors, strict: bool, message: str) -> Tensors:
    """Put zeros in the places of missing gradients; in strict mode they are an error."""
    for k, gradient in enumerate(found):
        if strict and gradient is None:
            raise RuntimeError(message.format(k))
    return tuple(
        functions["zeros_like"](x.detach()) if gradient is None else gradient  # type: ignore[attr-defined]
        for x, gradient in zip(inputs, found, strict=True)
    )


def _vector(v: Any, like: Tensors, name: str, whose: str) -> Tensors:
    """Return the vector of a product, ones of the right shape where it was left out."""
    if v is None:
        if len(like) != 1 or any(length != 1 for length in shape_of(like[0])):
            raise RuntimeError(f"The vector v can only be None if {whose} a single Tensor with a single element.")
        return (functions["ones_like"](like[0].detach()),)  # type: ignore[attr-defined]
    _, vectors = _as_tuple(v, "v", name)
    if len(vectors) != len(like):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(vectors)}.")
    for k, (given, model) in enumerate(zip(vectors, like, strict=True)):
        if shape_of(given) != shape_of(model):
            entry = f"Entry {k} in v" if len(like) > 1 else "v"
            raise RuntimeError(
                f"{entry} has invalid size: should be {list(shape_of(model))} but got {list(shape_of(given))}."
            )
    return vectors


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the product of ``v`` with its Jacobian.

    Args:
        func: takes and returns tensors.
        inputs: a tensor or a tuple of them.
        v: of the outputs' shapes; may be left out for a single output of one element.
        create_graph: make the results differentiable.
        strict: raise RuntimeError where an output does not depend on the inputs.
    """
    with enable_grad():
        is_tuple, given = _as_tuple(inputs, "inputs", "vjp")
        entered = _enter(given, create_graph)
        out_is_tuple, outputs = _call(func, entered, "outputs of the user-provided function", "vjp", strict)
        vectors = _vector(v, outputs, "vjp", "the user-provided function returns")
        found = _gradients(outputs, entered, vectors, create_graph)
        message = (
            "The vjp of the user-provided function is independent of input {}. This is not allowed in strict mode."
        )
        product = _fill(found, entered, strict, message)
    return _leave(_plain(outputs, out_is_tuple), create_graph), _leave(_plain(product, is_tuple), create_graph)


def _plain(values: Tensors, is_tuple: bool) -> Any:
    return values if is_tuple else values[0]


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the product of its Jacobian with ``v``, by two reverse sweeps; arguments as vjp's."""
    with enable_grad():
        is_tuple, given = _as_tuple(inputs, "inputs", "jvp")
        vectors = _vector(v, given, "jvp", "the input to the user-provided function is")
        entered = _enter(given, create_graph)
        out_is_tuple, outputs = _call(func, entered, "outputs of the user-provided function", "jvp", strict)
        dummies = tuple(functions["zeros_like"](y.detach()).requires_grad_() for y in outputs)  # type: ignore[attr-defined]
        message = (
            "The jvp of the user-provided function is independent of input {}. This is not allowed in strict mode."
        )
        rows = _fill(_gradients(outputs, entered, dummies, True), entered, strict, message)
        found = _gradients(rows, dummies, vectors, create_graph)
        product = _fill(found, outputs, False, "")
    return _leave(_plain(outputs, out_is_tuple), create_graph), _leave(_plain(product, out_is_tuple), create_graph)


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Return the Jacobian of ``func`` at the inputs, computed row by row.

    Args:
        func: takes and returns tensors.
        inputs: a tensor or a tuple of them.
        create_graph: make the Jacobian differentiable.
        strict: raise RuntimeError where an output does not depend on an input.
        vectorize: accepted for torch's sake.
        strategy: accepted for torch's sake; the numbers are the same.

    Returns:
        For each output, for each input, a tensor of the shape of the former and the latter, joined.

    Example:
        >>> import tapegrad as tg
        >>> tg.autograd.functional.jacobian(lambda x: x * x, tg.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    with enable_grad():
        is_tuple, given = _as_tuple(inputs, "inputs", "jacobian")
        entered = _enter(given, create_graph)
        out_is_tuple, outputs = _call(func, entered, "outputs of the user-provided function", "jacobian", strict)
        blocks = [_block(k, output, entered, create_graph, strict) for k, output in enumerate(outputs)]
    found = tuple(_leave(_plain(block, is_tuple), create_graph) for block in blocks)
    return found if out_is_tuple else found[0]


def _block(number: int, output: Tensor, inputs: Tensors, create_graph: bool, strict: bool) -> Tensors:
    """Return the Jacobian of one output by each input."""
    message = f"Output {number} of the user-provided function is independent of input {{}}. This is not allowed in strict mode."
    rows = [
        _fill(_gradients([output], inputs, [unit], create_graph), inputs, strict, message)
        for unit in unit_tensors(output)
    ]
    shape = shape_of(output)
    if not rows:
        return tuple(functions["zeros"]((*shape, *shape_of(x)), dtype=x.dtype) for x in inputs)  # type: ignore[attr-defined]
    return tuple(
        functions["stack"](list(column)).reshape((*shape, *shape_of(x)))
        for x, column in zip(inputs, zip(*rows, strict=True), strict=True)
    )


def _single(func: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """Return the function with its result checked to be one tensor of one element."""

    def checked(*inputs: Tensor) -> Tensor:
        output = func(*inputs)
        is_tuple, outputs = _as_tuple(output, "outputs of the user-provided function", name)
        if is_tuple:
            raise RuntimeError(f"The function given to {name} should return a single Tensor")
        if any(length != 1 for length in shape_of(outputs[0])):
            raise RuntimeError(f"The Tensor returned by the function given to {name} should contain a single element")
        return outputs[0].reshape(())  # type: ignore[attr-defined, no-any-return]

    return checked


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Return the second derivatives of a function of one element; arguments as jacobian's."""
    is_tuple, _ = _as_tuple(inputs, "inputs", "hessian")
    single = _single(func, "hessian")

    def first(*entered: Tensor) -> Any:
        found = jacobian(single, entered, create_graph=True, strict=strict)
        if strict and not all(_requires_grad(part) for part in found):
            raise RuntimeError(
                "The jacobian of the user-provided function is independent of the inputs. This is not allowed in strict "
                "mode."
            )
        return found if is_tuple else found[0]

    return jacobian(first, inputs, create_graph=create_graph, strict=strict)


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the product of ``v`` with its Hessian; arguments as vjp's."""
    return _hessian_product(func, inputs, v, create_graph, strict, "vhp")


def hvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the product of its Hessian, which is symmetric, with ``v``; arguments as vjp's."""
    return _hessian_product(func, inputs, v, create_graph, strict, "hvp")


def _hessian_product(
    func: Callable[..., Any], inputs: Any, v: Any, create_graph: bool, strict: bool, name: str
) -> tuple[Any, Any]:
    with enable_grad():
        is_tuple, given = _as_tuple(inputs, "inputs", name)
        vectors = _vector(v, given, name, "the input to the user-provided function is")
        entered = _enter(given, create_graph)
        output = _single(func, name)(*entered)
        _call(lambda *_: output, entered, "outputs of the user-provided function", name, strict)
        first, second = (
            f"The {what} of the user-provided function is independent of input {{}}. This is not allowed in strict mode."
            for what in ("jacobian", "hessian")
        )
        ones = functions["ones_like"](output.detach())  # type: ignore[attr-defined]
        slopes = _fill(_gradients([output], entered, [ones], True), entered, strict, first)
        product = _fill(_gradients(slopes, entered, vectors, create_graph), entered, strict, second)
    return _leave(output, create_graph), _leave(_plain(product, is_tuple), create_graph)

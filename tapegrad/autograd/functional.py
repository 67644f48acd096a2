"""Derivatives of functions, as in ``torch.autograd.functional``: jacobian, hessian, vjp, jvp, vhp, hvp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.autograd.functional_parts import (
    Tensors,
    as_tuple,
    enter,
    fill,
    gradients,
    leave,
    plain,
    requires_grad,
    run,
    single_output,
    vector,
)
from tapegrad.autograd.levels import unit_tensors
from tapegrad.autograd.modes import enable_grad
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor

_INDEPENDENT = "The {} of the user-provided function is independent of input {}. This is not allowed in strict mode."


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
        is_tuple, given = as_tuple(inputs, "inputs", "vjp")
        entered = enter(given, create_graph)
        out_is_tuple, outputs = run(func, entered, "outputs of the user-provided function", "vjp", strict)
        vectors = vector(v, outputs, "vjp", "the user-provided function returns")
        found = gradients(outputs, entered, vectors, create_graph)
        message = (
            "The vjp of the user-provided function is independent of input {}. This is not allowed in strict mode."
        )
        product = fill(found, entered, strict, message)
    return leave(plain(outputs, out_is_tuple), create_graph), leave(plain(product, is_tuple), create_graph)


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the product of its Jacobian with ``v``, by two sweeps; arguments as vjp's."""
    with enable_grad():
        _, given = as_tuple(inputs, "inputs", "jvp")
        vectors = vector(v, given, "jvp", "the input to the user-provided function is")
        entered = enter(given, create_graph)
        out_is_tuple, outputs = run(func, entered, "outputs of the user-provided function", "jvp", strict)
        dummies = tuple(functions["zeros_like"](y.detach()).requires_grad_() for y in outputs)
        message = (
            "The jvp of the user-provided function is independent of input {}. This is not allowed in strict mode."
        )
        rows = fill(gradients(outputs, entered, dummies, True), entered, strict, message)
        found = gradients(rows, dummies, vectors, create_graph)
        product = fill(found, outputs, False, "")
    return leave(plain(outputs, out_is_tuple), create_graph), leave(plain(product, out_is_tuple), create_graph)


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
        is_tuple, given = as_tuple(inputs, "inputs", "jacobian")
        entered = enter(given, create_graph)
        out_is_tuple, outputs = run(func, entered, "outputs of the user-provided function", "jacobian", strict)
        blocks = [_block(k, output, entered, create_graph, strict) for k, output in enumerate(outputs)]
    found = tuple(leave(plain(block, is_tuple), create_graph) for block in blocks)
    return found if out_is_tuple else found[0]


def _block(number: int, output: Tensor, inputs: Tensors, create_graph: bool, strict: bool) -> Tensors:
    """Return the Jacobian of one output by each input."""
    message = _INDEPENDENT.replace("The {} of", f"Output {number} of")
    rows = [
        fill(gradients([output], inputs, [unit], create_graph), inputs, strict, message)
        for unit in unit_tensors(output)
    ]
    shape = shape_of(output)
    if not rows:
        return tuple(functions["zeros"]((*shape, *shape_of(x)), dtype=x.dtype) for x in inputs)
    return tuple(
        functions["stack"](list(column)).reshape((*shape, *shape_of(x)))
        for x, column in zip(inputs, zip(*rows, strict=True), strict=True)
    )


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Return the second derivatives of a function of one element; arguments as jacobian's.

    Args:
        outer_jacobian_strategy: accepted for torch's sake; the numbers are the same.
    """
    is_tuple, _ = as_tuple(inputs, "inputs", "hessian")
    single = single_output(func, "hessian")

    def first(*entered: Tensor) -> Any:
        found = jacobian(single, entered, create_graph=True, strict=strict)
        if strict and not all(requires_grad(part) for part in found):
            raise RuntimeError(
                "The jacobian of the user-provided function is independent of the inputs. This is not allowed in "
                "strict mode."
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
        is_tuple, given = as_tuple(inputs, "inputs", name)
        vectors = vector(v, given, name, "the input to the user-provided function is")
        entered = enter(given, create_graph)
        output = single_output(func, name)(*entered)
        run(lambda *_: output, entered, "outputs of the user-provided function", name, strict)
        first, second = (_INDEPENDENT.format(what, "{}") for what in ("jacobian", "hessian"))
        ones = functions["ones_like"](output.detach())
        slopes = fill(gradients([output], entered, [ones], True), entered, strict, first)
        product = fill(gradients(slopes, entered, vectors, create_graph), entered, strict, second)
    return leave(output, create_graph), leave(plain(product, is_tuple), create_graph)

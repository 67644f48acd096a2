"""Transformations of functions (``tg.func``): grad, vjp, jvp, jacrev, jacfwd, hessian; they can be nested."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tapegrad.autograd.engine import grad as gradients_of
from tapegrad.autograd.levels import Level, unit_tensors
from tapegrad.autograd.modes import enable_grad
from tapegrad.autograd.trees import leaves, rebuild, refill
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

Argnums = int | tuple[int, ...]


def _pick(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """Return the arguments that argnums names, a tuple for a tuple."""
    names = (argnums,) if isinstance(argnums, int) else argnums
    for name in names:
        if not -len(args) <= name < len(args):
            raise RuntimeError(f"Got argnum={name}, but only {len(args)} positional inputs")
    return args[argnums] if isinstance(argnums, int) else tuple(args[name] for name in argnums)


def _replace(args: tuple[Any, ...], argnums: Argnums, chosen: Any) -> list[Any]:
    """Return the arguments with the chosen ones in their places."""
    replaced = list(args)
    if isinstance(argnums, int):
        replaced[argnums] = chosen
        return replaced
    for name, value in zip(argnums, chosen, strict=True):
        replaced[name] = value
    return replaced


def _split(output: Any, has_aux: bool, name: str) -> tuple[Any, Any]:
    """Return the output and what else the function returned."""
    if not has_aux:
        return output, None
    if not (isinstance(output, tuple) and len(output) == 2):
        raise RuntimeError(f"{name}: output of function f should be a tuple (output, aux) if has_aux is True")
    return output


def _check_scalar(output: Any) -> None:
    where = "grad_and_value(f)(*args): Expected f(*args) to return"
    if not isinstance(output, Tensor):
        raise RuntimeError(f"{where} a Tensor, got {type(output).__name__}")
    if shape_of(output) != ():
        raise RuntimeError(
            f"{where} a scalar Tensor, got tensor with {len(shape_of(output))} dims. Maybe you wanted to use the vjp "
            "or jacrev APIs instead?"
        )


def grad_and_value(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that computes the gradient of ``func`` and its value: ``(gradient, value)``.

    Args:
        func: returns a scalar tensor, or with ``has_aux`` a tuple of it and anything else.
        argnums: the arguments, tensors or nests of them, to differentiate by.
        has_aux: then the result is ``(gradient, (value, aux))``.
    """

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        level = Level()
        with enable_grad():
            chosen = level.enter(_pick(args, argnums))
            output, aux = _split(func(*_replace(args, argnums, chosen), **kwargs), has_aux, "grad_and_value")
            _check_scalar(output)
            found = refill(chosen, iter(level.gradients(output, chosen)))
            found, output, aux = level.leave(found), level.leave(output), level.leave(aux)
        return (found, (output, aux)) if has_aux else (found, output)

    return transformed


def value_and_grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that computes ``(value, gradient)``; with ``has_aux``, ``((value, aux), gradient)``.

    Args:
        func: a function of tensors that returns one element.
        argnums: which argument, or, a tuple, which arguments to differentiate by.
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return value, found

    return transformed


def grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that computes the gradient of ``func``; with ``has_aux``, ``(gradient, aux)``.

    Args:
        argnums: which argument, or, a tuple, which arguments to differentiate by.

    Example:
        >>> import tapegrad as tg
        >>> tg.func.grad(tg.func.grad(lambda x: x * x * x))(tg.tensor(2.0))
        tensor(12.)
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return transformed


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Return ``func(*primals)`` and a function from a cotangent of it to the cotangents of the primals.

    Args:
        func: returns a tensor or a nest of tensors.
        *primals: tensors or nests of tensors.
        has_aux: whether ``func`` returns ``(output, aux)``; then aux is the third result.
    """
    level = Level()
    with enable_grad():
        inside = level.enter(primals, "vjp")
        output, aux = _split(func(*inside), has_aux, "vjp")

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        with enable_grad():
            pairs = zip(leaves(output), leaves(cotangents), strict=True)
            known = [(y, v) for y, v in pairs if machine.flags_of(y._handle) & REQUIRES_GRAD]
            found = _pull(known, list(leaves(inside)), level.records if create_graph is None else create_graph)
            return level.leave(refill(inside, iter(found)))

    return (level.leave(output), pull, level.leave(aux)) if has_aux else (level.leave(output), pull)


def _pull(known: list[tuple[Tensor, Tensor]], by: list[Tensor], create_graph: bool) -> list[Any]:
    if not known:
        return [functions["zeros_like"](tensor) for tensor in by]
    outputs, cotangents = [y for y, _ in known], [v for _, v in known]
    found = gradients_of(outputs, by, cotangents, True, create_graph, allow_unused=True, materialize_grads=True)
    return list(found)


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """Return ``func(*primals)`` and its directional derivative along the tangents.

    Computed as the derivative of the vector-Jacobian product by its vector, which is linear in it: two reverse sweeps.

    Args:
        tangents: a tuple of tensors like ``primals``: the direction.
        strict: accepted for torch's sake.
        has_aux: whether ``func`` returns ``(result, other)`` and only the result is differentiated.
    """
    level = Level()
    with enable_grad():
        inside = level.enter(tuple(primals), "jvp")
        output, aux = _split(func(*inside), has_aux, "jvp")
        along = list(leaves(tuple(tangents)))
        found = [_push(level, y, list(leaves(inside)), along) for y in leaves(output)]
        tangent = level.leave(refill(output, iter(found)))
    return (level.leave(output), tangent, level.leave(aux)) if has_aux else (level.leave(output), tangent)


def _push(level: Level, output: Tensor, by: list[Tensor], along: list[Tensor]) -> Tensor:
    """Return the directional derivative of one output."""
    dummy, products = _linear(level, output, by)
    known = [(g, t) for g, t in zip(products, along, strict=True) if machine.flags_of(g._handle) & REQUIRES_GRAD]
    return _pull(known, [dummy], level.records)[0]


def _linear(level: Level, output: Tensor, by: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return a cotangent of the output and the vector-Jacobian products, recorded as functions of it."""
    dummy = level.enter(functions["zeros_like"](output.detach()))
    if not machine.flags_of(output._handle) & REQUIRES_GRAD:
        return dummy, [functions["zeros_like"](tensor) for tensor in by]
    return dummy, _pull([(output, dummy)], by, True)


def jacrev(
    func: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False, **unused: Any
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func``, row by row.

    Args:
        argnums: which argument, or, a tuple, which arguments to differentiate by.
        has_aux: whether ``func`` returns ``(result, other)`` and only the result is differentiated.

    Returns:
        For each tensor of the output, for each argument, a tensor of the shape of the former and the latter, joined.
    """

    def rows(level: Level, output: Tensor, chosen: Any) -> Any:
        found = [level.gradients(output, chosen, unit, again=True) for unit in unit_tensors(output)]
        columns = [_stack(rows, shape_of(output)) for rows in zip(*found, strict=True)]
        return refill(chosen, iter(columns))

    return _jacobian(func, argnums, has_aux, rows, "jacrev")


def jacfwd(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, **unused: Any) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func``, column by column; see jacrev and jvp.

    Args:
        argnums: which argument, or, a tuple, which arguments to differentiate by.
        has_aux: whether ``func`` returns ``(result, other)`` and only the result is differentiated.
    """

    def columns(level: Level, output: Tensor, chosen: Any) -> Any:
        dummy, products = _linear(level, output, list(leaves(chosen)))
        found = [
            _stack_last([level.gradients(g, [dummy], unit, again=True)[0] for unit in unit_tensors(g)], output, g)
            for g in products
        ]
        return refill(chosen, iter(found))

    return _jacobian(func, argnums, has_aux, columns, "jacfwd")


def _jacobian(
    func: Callable[..., Any], argnums: Argnums, has_aux: bool, one: Callable[..., Any], name: str
) -> Callable[..., Any]:
    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        level = Level()
        with enable_grad():
            chosen = level.enter(_pick(args, argnums), name)
            output, aux = _split(func(*_replace(args, argnums, chosen), **kwargs), has_aux, name)
            found = level.leave(rebuild(output, lambda y: one(level, y, chosen)))
        return (found, level.leave(aux)) if has_aux else found

    return transformed


def _stack(rows: Any, shape: tuple[int, ...]) -> Tensor:
    return functions["stack"](list(rows)).reshape((*shape, *shape_of(rows[0])))


def _stack_last(columns: list[Tensor], output: Tensor, by: Tensor) -> Tensor:
    stacked = functions["stack"](columns, len(shape_of(output)))
    return stacked.reshape((*shape_of(output), *shape_of(by)))


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """Return a function that computes the matrix of second derivatives of ``func``.

    Args:
        argnums: which argument, or, a tuple, which arguments to differentiate by.
    """
    return jacfwd(jacrev(func, argnums), argnums)

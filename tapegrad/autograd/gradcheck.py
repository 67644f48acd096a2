"""Gradients checked against finite differences: gradcheck and gradgradcheck."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.autograd.differences import (
    Array,
    GradcheckError,
    analytical_of,
    differentiable,
    memory_of,
    numerical_of,
    requires_grad,
)
from tapegrad.autograd.engine import grad
from tapegrad.autograd.modes import enable_grad
from tapegrad.native.dtypes import FLOAT64
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


@dataclass
class _Settings:
    eps: float
    atol: float
    rtol: float
    nondet_tol: float


def _check_inputs(inputs: Sequence[Any]) -> None:
    if not any(requires_grad(x) for x in inputs):
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of the them have "
            "requires_grad=True."
        )
    for k, x in enumerate(inputs):
        if not requires_grad(x):
            continue
        if machine.dtype_of(x._handle) != FLOAT64:
            warnings.warn(
                f"Input #{k} requires gradient and is not a double precision floating point or complex. This check "
                "will likely fail if all the inputs are not of double precision floating point or complex. ",
                stacklevel=4,
            )
        if any(s == 0 and n > 1 for s, n in zip(machine.strides_of(x._handle), shape_of(x), strict=True)):
            raise RuntimeError(
                f"The {k}th input has a dimension with stride 0. gradcheck only supports inputs that are "
                "non-overlapping to be able to compute the numerical gradients correctly. You should call .contiguous "
                "on the input before passing it to gradcheck."
            )


def _compare(k: int, j: int, analytical: Array, numerical: Array, settings: _Settings) -> None:
    if np.allclose(analytical, numerical, settings.rtol, settings.atol, equal_nan=True):
        return
    raise GradcheckError(
        f"Jacobian mismatch for output {k} with respect to input {j},\nnumerical:{numerical}\nanalytical:{analytical}\n"
    )


def _check_outputs(func: Callable[..., Any], inputs: Sequence[Any], settings: _Settings) -> None:
    """Compare both Jacobians of each output by each input, and the analytical one with itself."""
    with enable_grad():
        outputs = differentiable(func(*inputs))
    for j, x in enumerate(inputs):
        if not requires_grad(x):
            continue
        for k, (output, numerical) in enumerate(zip(outputs, numerical_of(func, inputs, x, settings.eps), strict=True)):
            if not requires_grad(output):
                if np.abs(numerical).max(initial=0) > settings.atol:
                    raise GradcheckError("Numerical gradient for function expected to be zero")
                continue
            analytical = analytical_of(output, x)
            _compare(k, j, analytical, numerical, settings)
            if np.abs(analytical - analytical_of(output, x)).max(initial=0) > settings.nondet_tol:
                raise GradcheckError(
                    "Backward is not reentrant, i.e., running backward with same input and grad_output multiple times "
                    "gives different values, although analytical gradient matches numerical gradient."
                    f"The tolerance for nondeterminism was {settings.nondet_tol}."
                )


def _check_zero_cotangent(func: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """A gradient of zeros must give zeros: a backward that forgets to multiply by it does not."""
    with enable_grad():
        outputs = [y for y in differentiable(func(*inputs)) if requires_grad(y)]
    by = [x for x in inputs if requires_grad(x)]
    if not outputs:
        return
    zeros = [functions["zeros_like"](y.detach()) for y in outputs]
    for gradient in grad(outputs, by, zeros, retain_graph=True, allow_unused=True):
        if gradient is not None and np.any(memory_of(gradient) != 0):
            raise GradcheckError("backward not multiplied by grad_output")


def _check_missing_cotangents(func: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """An output that no gradient reaches must count as one that zeros reach."""
    with enable_grad():
        outputs = [y for y in differentiable(func(*inputs)) if requires_grad(y)]
    by = [x for x in inputs if requires_grad(x)]
    for k in range(len(outputs) if len(outputs) > 1 else 0):
        ones = [functions["ones_like"](y.detach()) for y in outputs]
        filled = [one if k == j else one * 0 for j, one in enumerate(ones)]
        alone = grad(outputs[k], by, ones[k], retain_graph=True, allow_unused=True)
        all_given = grad(outputs, by, filled, retain_graph=True, allow_unused=True)
        for a, b in zip(alone, all_given, strict=True):
            first, second = (0.0 if g is None else memory_of(g) for g in (a, b))
            if not np.allclose(first, second, equal_nan=True):
                raise GradcheckError("Expected backward function to handle undefined output grads.")


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compare the gradients of a function with central differences.

    Args:
        func: takes tensors, returns a tensor or several.
        inputs: a tensor or a tuple of arguments; those that require a gradient are checked, and should be float64.
        eps: the step of the differences.
        atol: absolute tolerance.
        rtol: relative tolerance.
        raise_exception: raise GradcheckError instead of returning False.
        nondet_tol: how far two runs of the same backward may differ.
        check_undefined_grad: whether outputs that no gradient reaches must be handled.
        check_grad_dtypes: accepted: gradients' dtypes are always checked.
        check_batched_grad: accepted for torch's sake, as are those without a meaning: the check is always complete.
        check_batched_forward_grad: no meaning here.
        check_forward_ad: no meaning here.
        check_backward_ad: whether to check anything.
        fast_mode: no meaning here.
        masked: no meaning here.

    Returns:
        Whether all gradients agree.

    Example:
        >>> import tapegrad as tg
        >>> x = tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)
        >>> tg.autograd.gradcheck(lambda x: x * x, x)
        True
    """
    arguments = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    try:
        _check_inputs(arguments)
        if check_backward_ad:
            _check_outputs(func, arguments, _Settings(eps, atol, rtol, nondet_tol))
            _check_zero_cotangent(func, arguments)
        if check_undefined_grad:
            _check_missing_cotangents(func, arguments)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    **options: Any,
) -> bool:
    """Compare the gradients of a function's gradients with central differences; arguments as gradcheck's.

    Args:
        func: takes tensors, returns a tensor or several.
        inputs: as for gradcheck.
        grad_outputs: the cotangents at which to check; random ones by default.
        eps: the step of the differences.
        atol: absolute tolerance.
        rtol: relative tolerance.
        gen_non_contig_grad_outputs: accepted for torch's sake.
        raise_exception: raise GradcheckError instead of returning False.
        nondet_tol: how far two runs of the same backward may differ.
        check_undefined_grad: whether outputs that no gradient reaches must be handled.
        **options: gradcheck's other arguments.
    """
    arguments = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    cotangents = _random_cotangents(func, arguments) if grad_outputs is None else grad_outputs
    given = tuple(cotangents) if isinstance(cotangents, tuple | list) else (cotangents,)
    count = len(arguments)

    def first(*values: Any) -> tuple[Tensor, ...]:
        inside, vectors = values[:count], values[count:]
        with enable_grad():
            outputs = [y for y in differentiable(func(*inside)) if requires_grad(y)]
            by = [x for x in inside if requires_grad(x)]
            found = grad(outputs, by, vectors, create_graph=True, allow_unused=True)
        return tuple(gradient for gradient in found if gradient is not None)

    return gradcheck(
        first,
        (*arguments, *given),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        **options,
    )


def _random_cotangents(func: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    random = np.random.default_rng(0)
    with enable_grad():
        outputs = [y for y in differentiable(func(*inputs)) if requires_grad(y)]
    return tuple(
        functions["_from_array"](random.standard_normal(shape_of(y))).to(y.dtype).requires_grad_() for y in outputs
    )

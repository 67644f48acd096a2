"""backward and grad: give the roots their cotangents, run a sweep, and hand out what it has found."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from tapegrad.autograd import hooks
from tapegrad.autograd.sweeping import run_sweep
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_CYCLE = (
    "Using backward() with create_graph=True will create a reference cycle between the parameter and its gradient "
    "which can cause a memory leak. We recommend using autograd.grad when creating the graph to avoid this. If you "
    "have to use this function, make sure to reset the .grad fields of your parameters to None after use to break the "
    "cycle and avoid the leak."
)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Tensor) or value is None else tuple(value)


def _root_gradients(roots: Sequence[Tensor], gradients: Any) -> list[Tensor]:
    """Return a cotangent for each root, ones for a scalar without one; RuntimeError in torch's words otherwise."""
    given = _as_tuple(gradients) if gradients is not None else (None,) * len(roots)
    if len(given) != len(roots):
        raise RuntimeError(f"got {len(roots)} tensors and {len(given)} gradients")
    return [_root_gradient(k, root, gradient) for k, (root, gradient) in enumerate(zip(roots, given, strict=True))]


def _root_gradient(k: int, root: Tensor, gradient: Tensor | None) -> Tensor:
    if not machine.flags_of(root._handle) & REQUIRES_GRAD:
        raise RuntimeError(f"element {k} of tensors does not require grad and does not have a grad_fn")
    shape = shape_of(root)
    if gradient is None:
        if any(length != 1 for length in shape):
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        ones = wrap(machine.new_tensor(machine.dtype_of(root._handle), *shape))
        machine.set_item(ones._handle, 1.0)
        return ones
    if not isinstance(gradient, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(gradient).__name__}")
    if shape_of(gradient) != shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[{k}] has a shape of {list(shape_of(gradient))} and output[{k}] has a "
            f"shape of {list(shape)}."
        )
    return gradient


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of the tensors to the ``.grad`` of the leaves that they were computed from.

    Args:
        tensors: the roots, a tensor or a sequence of tensors.
        grad_tensors: the cotangent of each root, of its shape; None stands for 1 where the root has one element.
        retain_graph: keep the values that the graph has saved, so that it can be gone through again; by default as
            ``create_graph``.
        create_graph: record the gradients' own operations, for derivatives of higher order.
        inputs: accumulate into these tensors only, leaves or not.

    Raises:
        RuntimeError: a root needs no gradient, has several elements and no cotangent, or its graph was freed.
    """
    roots = _as_tuple(tensors)
    if not roots:
        return
    if inputs is not None and len(_as_tuple(inputs)) == 0:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    if create_graph:
        warnings.warn(_CYCLE, UserWarning, stacklevel=3)
    gradients = _root_gradients(roots, grad_tensors)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        run_sweep(roots, gradients, None, retain, create_graph, True)
        return
    chosen = _as_tuple(inputs)
    _check_inputs(chosen)
    sweep = run_sweep(roots, gradients, chosen, retain, create_graph, True)
    for tensor, slot in zip(chosen, sweep.inputs, strict=True):
        gradient = sweep.captured[slot]
        if not tensor.is_leaf and gradient is not None:
            hooks.add_to_grad(tensor, gradient)


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    for tensor in inputs:
        if not machine.flags_of(tensor._handle) & REQUIRES_GRAD:
            raise RuntimeError("One of the differentiated Tensors does not require grad")


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the outputs' sum with respect to the inputs; ``.grad`` is left alone.

    Args:
        outputs: the roots, a tensor or a sequence of tensors.
        inputs: the tensors to differentiate by, leaves or not.
        grad_outputs: the cotangent of each root; None stands for 1 where the root has one element.
        retain_graph: keep the graph's saved values; by default as ``create_graph``.
        create_graph: record the gradients' own operations, for derivatives of higher order.
        allow_unused: return None for inputs that the outputs do not depend on, instead of an error.
        is_grads_batched: the first dimension of ``grad_outputs`` counts cotangents; gradients get the same.
        materialize_grads: return zeros instead of None.

    Returns:
        One gradient for each input, of its shape.

    Raises:
        RuntimeError: as backward; and when an input is unused and ``allow_unused`` is not set.
    """
    if is_grads_batched:
        return _batched_grad(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused)
    roots, chosen = _as_tuple(outputs), _as_tuple(inputs)
    gradients = _root_gradients(roots, grad_outputs)
    _check_inputs(chosen)
    retain = create_graph if retain_graph is None else retain_graph
    sweep = run_sweep(roots, gradients, chosen, retain, create_graph, False)
    found = [sweep.captured[slot] for slot in sweep.inputs]
    if materialize_grads:
        return tuple(
            functions["zeros_like"](tensor) if gradient is None else gradient
            for tensor, gradient in zip(chosen, found, strict=True)
        )
    missing = [k for k, gradient in enumerate(found) if gradient is None]
    if missing and not allow_unused:
        raise RuntimeError(
            f"The differentiated Tensor at index {missing[0]} appears to not have been used in the graph. Set "
            "allow_unused=True if this is the desired behavior."
        )
    return tuple(found)


def _batched_grad(
    outputs: Any, inputs: Any, grad_outputs: Any, retain: bool | None, create_graph: bool, allow_unused: bool | None
) -> tuple[Tensor | None, ...]:
    cotangents = _as_tuple(grad_outputs)
    batch = shape_of(cotangents[0])[0]
    rows = [
        grad(
            outputs,
            inputs,
            [cotangent[k] for cotangent in cotangents],
            retain_graph=True if k < batch - 1 else retain,
            create_graph=create_graph,
            allow_unused=allow_unused,
        )
        for k in range(batch)
    ]
    return tuple(None if column[0] is None else functions["stack"](column) for column in zip(*rows, strict=True))


def tensor_backward(
    self: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
    **old: Any,
) -> None:
    """Add the gradients of this tensor to the ``.grad`` of the leaves that it was computed from.

    Args:
        gradient: the cotangent, of this tensor's shape; may be left out where it has one element.
        retain_graph: keep the values that the graph has saved, so that it can be gone through again.
        create_graph: record the gradients' own operations, for derivatives of higher order.
        inputs: accumulate into these tensors only.

    Example:
        >>> import tapegrad as tg
        >>> x = tg.tensor([2.0, 3.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([4., 6.])
    """
    if old:
        hint = " (it is called retain_graph now)" if "retain_variables" in old else ""
        raise TypeError(f"backward() got an unexpected keyword argument '{next(iter(old))}'{hint}")
    backward(self, gradient, retain_graph, create_graph, inputs)


Tensor.backward = tensor_backward  # type: ignore[attr-defined]

"""Parameters as one vector, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return all numbers of the parameters in a row, recorded as any operation.

    Args:
        parameters: tensors of any shapes.
    """
    return functions["cat"]([functions["reshape"](param, (-1,)) for param in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make slices of a vector the parameters' numbers: they are views of it.

    Args:
        parameters: the tensors, in the order of their slices.

    Raises:
        TypeError: ``vec`` is no tensor.
        RuntimeError: the vector has fewer numbers than the parameters; nothing is changed then.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    params = list(parameters)
    counts = [math.prod(shape_of(param)) for param in params]
    if sum(counts) > math.prod(shape_of(vec)):
        raise RuntimeError(
            f"vector_to_parameters: the vector has {math.prod(shape_of(vec))} numbers, the parameters {sum(counts)}"
        )
    start = 0
    for param, count in zip(params, counts, strict=True):
        param.data = functions["reshape"](vec[start : start + count], shape_of(param)).detach()
        start += count

"""Normalisation: layer_norm, made of means and products."""

from __future__ import annotations

from collections.abc import Sequence

from tapegrad.ops.calls import function, functions, shape_of
from tapegrad.runtime.handle import Tensor


@function(method=False)
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``(x - mean) / sqrt(var + eps) weight + bias`` over the last dimensions (Ba et al., arXiv:1607.06450).

    Args:
        input: [..., *normalized_shape].
        normalized_shape: the lengths of the dimensions that are normalised together.
        weight: of the normalised shape, or none.
        bias: of the normalised shape, or none.
        eps: added to the variance.

    Returns:
        A tensor of the input's shape.

    Raises:
        RuntimeError: the input does not end in the normalised shape.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.functional.layer_norm(tg.tensor([1.0, 3.0]), (2,), eps=0.0).tolist()
        [-1.0, 1.0]
    """
    wanted = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    shape = shape_of(input)
    if not wanted or shape[-len(wanted) :] != wanted:
        raise RuntimeError(
            f"Given normalized_shape={list(wanted)}, expected input with shape [*, {', '.join(map(str, wanted))}], "
            f"but got input of size {list(shape)}"
        )
    for name, factor in (("weight", weight), ("bias", bias)):
        if factor is not None and shape_of(factor) != wanted:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(shape_of(factor))} and normalized_shape = {list(wanted)}"
            )
    return _scaled(_standardized(input, len(wanted), eps), weight, bias)


def _standardized(input: Tensor, count: int, eps: float) -> Tensor:
    mean = functions["mean"]
    dims = tuple(range(-count, 0))
    deviation = input - mean(input, dims, True)
    variance = mean(functions["square"](deviation), dims, True)
    return deviation * functions["rsqrt"](variance + eps)


def _scaled(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        return input if bias is None else functions["add"](input, bias)
    if bias is None:
        return functions["mul"](input, weight)
    return functions["addcmul"](bias, input, weight)

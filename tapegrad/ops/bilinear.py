"""bilinear: y_k = x1^T W_k x2 + b_k, as two matrix products."""

from __future__ import annotations

from tapegrad.ops.calls import expect_tensor, function, functions, shape_of
from tapegrad.runtime.handle import Tensor


@function(method=False)
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``input1^T weight_k input2 + bias_k`` for each k.

    Args:
        input1: [..., n].
        input2: [..., m].
        weight: [k, n, m].
        bias: [k].

    Returns:
        [..., k].

    Raises:
        RuntimeError: the shapes do not fit.
    """
    a, b = (
        shape_of(expect_tensor(input1, "bilinear", "input1")),
        shape_of(expect_tensor(input2, "bilinear", "input2", 2)),
    )
    w = shape_of(expect_tensor(weight, "bilinear", "weight", 3))
    if len(a) != len(b):
        raise RuntimeError(f"bilinear(): input dimensions do not match: got {len(a)} and {len(b)}")
    if a[:-1] != b[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got {list(a[:-1])} and {list(b[:-1])}")
    if len(w) != 3 or a[-1:] != w[1:2] or b[-1:] != w[2:]:
        raise RuntimeError(
            f"bilinear(): the weight of shape {list(w)} does not fit inputs of {a[-1:]} and {b[-1:]} columns"
        )
    if bias is not None and shape_of(bias) != w[:1]:
        raise RuntimeError(f"bilinear(): the bias of shape {list(shape_of(bias))} does not fit the weight's {list(w)}")
    rows = functions["reshape"](input2, (-1, w[2])) @ functions["reshape"](weight, (w[0] * w[1], w[2])).t()
    columns = functions["reshape"](input1, (-1, w[1], 1))
    y = functions["reshape"](functions["reshape"](rows, (-1, w[0], w[1])) @ columns, (*a[:-1], w[0]))
    return y if bias is None else y + bias

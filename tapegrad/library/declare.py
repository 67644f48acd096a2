"""A user's op: from a scalar formula, or from a loop over arrays with a signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tapegrad.library.fingerprint import fingerprint
from tapegrad.library.signature import Signature, make_infer, make_kernel, parse
from tapegrad.ops.calls import call, call_several, shape_of
from tapegrad.ops.elementwise import elementwise as declare_elementwise
from tapegrad.ops.registry import FLOATS, Op, declare, finish_rules, registry, withdraw
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import FLOATING, GENERAL

Formula = Callable[..., Any]
_MAX_ELEMENTWISE = 5
_own: set[str] = set()  # ops that were declared here and may be declared anew


def elementwise(*, vjp: Formula | None = None) -> Callable[[Formula], Callable[..., Tensor]]:
    """Make a function of numbers an elementwise op of tensors: a decorator.

    The function is compiled by Numba for each dtype of its operands. The op broadcasts, promotes and handles strides as
    any other; it can be captured, and used in other ops' rules under the function's name. Integers are computed in the
    default float dtype.

    Args:
        vjp: the gradient rule ``vjp(g, y, *operands)``: from the result's gradient, the result and the operands to a
            gradient for each operand, or None. It is called once, with objects that note what is asked of them:
            ``+ - * /`` and ops by their name, as methods. Without it the op has no derivative.

    Raises:
        ValueError: tapegrad has an op of the function's name.

    Example:
        >>> import math
        >>> import tapegrad as tg
        >>> @tg.library.elementwise(vjp=lambda g, y, x: g * x.cos() * 2.0)
        ... def twice_sine(x):
        ...     return 2 * math.sin(x)
        >>> x = tg.tensor([0.0, 1.0], requires_grad=True)
        >>> twice_sine(x).sum().backward()
        >>> x.grad
        tensor([2.0000, 1.0806])
    """

    def enter(formula: Formula) -> Callable[..., Tensor]:
        inputs = _parameters(formula)
        if not 1 <= len(inputs) <= _MAX_ELEMENTWISE:
            raise ValueError(f"{formula.__name__}: an elementwise op has 1 to {_MAX_ELEMENTWISE} operands")

        def make(stamp: str | None) -> Op:
            return declare_elementwise(
                formula.__name__,
                formula,
                inputs=inputs,
                result=FLOATING,
                dtypes=FLOATS,
                vjp=vjp,
                public=False,
                stamp=stamp,
            )

        return _function(formula, _declare(formula, make), len(inputs), None)

    return enter


def op(signature: str, *, vjp: Formula | None = None) -> Callable[[Formula], Callable[..., Any]]:
    """Make a loop over arrays an op of tensors: a decorator.

    The function gets the operands, then the results, as C-contiguous arrays of one float dtype, and fills the results;
    Numba compiles it for each dtype. As with ``numba.guvectorize``, an operand without dimensions comes as a number, a
    result without dimensions as an array of one element, and dimensions before those of the signature are looped over:
    operands have the same ones, or none. Tensors that are not contiguous are copied first.

    The function must write every element of its results, and must not allocate or raise; indices are not checked.

    Args:
        signature: the operands' and results' dimensions: ``"(m,n),(n)->(m)"``.
        vjp: the gradient rule, see `elementwise`. With several results, ``g`` and ``y`` are tuples.

    Raises:
        ValueError: the signature, the number of arguments, the name or the rule is wrong.

    Example:
        >>> import tapegrad as tg
        >>> @tg.library.op("(n)->(n)", vjp=lambda g, y, x: g.suffix_sum())
        ... def prefix_sum(x, y):
        ...     total = x[0] * 0
        ...     for k in range(x.size):
        ...         total += x[k]
        ...         y[k] = total
        >>> @tg.library.op("(n)->(n)", vjp=lambda g, y, x: g.prefix_sum())
        ... def suffix_sum(x, y):
        ...     total = x[0] * 0
        ...     for k in range(x.size - 1, -1, -1):
        ...         total += x[k]
        ...         y[k] = total
        >>> prefix_sum(tg.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 3.],
                [3., 7.]])
    """
    shapes = parse(signature)

    def enter(body: Formula) -> Callable[..., Any]:
        given = _parameters(body)
        if len(given) != len(shapes.inputs) + len(shapes.outputs):
            raise ValueError(f"{body.__name__} has {len(given)} arguments, {shapes.text} has another number")
        inputs = given[: len(shapes.inputs)]

        def make(stamp: str | None) -> Op:
            return declare(
                Op(
                    name=body.__name__,
                    inputs=inputs,
                    kind=GENERAL,
                    dtypes=FLOATS,
                    outputs=len(shapes.outputs),
                    infer=make_infer(shapes),
                    kernel=lambda dtype, result_dtype: make_kernel(shapes, body, dtype),
                    contiguous=inputs,
                    vjp=vjp,
                    public=False,
                    stamp=None if stamp is None else f"{stamp}.{shapes.text}",
                )
            )

        return _function(body, _declare(body, make), len(inputs), shapes)

    return enter


def _parameters(function: Formula) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _declare(function: Formula, make: Callable[[str | None], Op]) -> Op:
    """Declare an op under the function's name, in the place of one that was declared here before."""
    name = function.__name__
    if not name.isidentifier():
        raise ValueError(f"an op is named after its function, and {name!r} is no name")
    if name in registry and name not in _own:
        raise ValueError(f"tapegrad has an op {name!r}: give the function another name")
    before = registry.pop(name, None)
    try:
        made = make(fingerprint(function))
        finish_rules(wait=True)
    except BaseException:
        withdraw(name, before)
        raise
    _own.add(name)
    return made


def _function(formula: Formula, made: Op, count: int, shapes: Signature | None) -> Callable[..., Any]:
    @functools.wraps(formula, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def function(*tensors: Any) -> Any:
        if len(tensors) != count:
            raise TypeError(f"{made.name}() takes {count} tensors, got {len(tensors)}")
        if made.missing:
            raise RuntimeError(
                f"{made.name}: its gradient rule uses {made.missing!r}, which is no op so far: declare it first"
            )
        if shapes is not None:
            shapes.check(made.name, [shape_of(t) if isinstance(t, Tensor) else () for t in tensors])
        return call(made, *tensors) if made.outputs == 1 else call_several(made, *tensors)

    return function

"""Sums of products over named dimensions: einsum, tensordot, kron.

A contraction of two operands is a product of matrices: batch dimensions (in both and kept), free ones (in one),
contracted ones (in both and not kept). More operands are taken two at a time, as ``numpy.einsum_path`` says.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod
from typing import Any

import numpy as np

from tapegrad.ops.calls import call, expect_tensor, function, functions, honours_out, normal_dim, shape_of
from tapegrad.ops.matmul import bmm, mm
from tapegrad.ops.products import DOT
from tapegrad.ops.views import expand
from tapegrad.runtime.handle import Tensor

Labels = list[Hashable]


@function(method=False)
def einsum(equation: Any, *operands: Any) -> Tensor:
    """Return the sum of products of the operands' elements that the equation names (Einstein's notation).

    Args:
        equation: subscripts of each operand, separated by commas, and behind an arrow those of the result, as in
            ``"bij,bjk->bik"``. A letter that the result lacks is summed over; without an arrow the result has the
            letters that occur once, in alphabetical order. A letter twice in one operand takes its diagonal; ``...``
            stands for dimensions that broadcast. Instead, operands and lists of ints (and Ellipsis) may alternate:
            ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.
        *operands: as many tensors, or one list of them.

    Raises:
        RuntimeError: the equation does not fit the operands.

    Example:
        >>> import tapegrad as tg
        >>> tg.einsum("ij,ij->i", tg.ones(2, 3), tg.ones(2, 3)).tolist()
        [3.0, 3.0]
    """
    if not isinstance(equation, str):
        equation, operands = _equation_of_lists([equation, *operands])
    elif len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not operands:
        raise RuntimeError("einsum(): must provide at least one operand")
    for k, tensor in enumerate(operands):
        expect_tensor(tensor, "einsum", "operands", k + 2)
    inputs, output = _parse(equation, operands)
    tensors = [_diagonals(tensor, labels, k) for k, (tensor, labels) in enumerate(zip(operands, inputs, strict=True))]
    _check_sizes(tensors)
    return _contract_all(tensors, output)


# ---- the equation ----


def _equation_of_lists(items: list[Any]) -> tuple[str, tuple[Any, ...]]:
    """Turn alternating operands and lists of ints into an equation and the operands."""
    output = items.pop() if len(items) % 2 else None
    texts = ["".join("..." if item is Ellipsis else _letter(item) for item in labels) for labels in items[1::2]]
    equation = ",".join(texts)
    if output is not None:
        equation += "->" + "".join("..." if item is Ellipsis else _letter(item) for item in output)
    return equation, tuple(items[::2])


def _letter(number: int) -> str:
    if not 0 <= number < 52:
        raise RuntimeError(f"einsum(): subscript {number} in the sublist format is not within the valid range [0, 52)")
    return chr(ord("A") + number) if number < 26 else chr(ord("a") + number - 26)


def _parse(equation: str, operands: Sequence[Tensor]) -> tuple[list[Labels], Labels]:
    """Return the labels of each operand's dimensions and of the result's; an ellipsis becomes numbers from the end."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        few = "fewer" if len(operands) < len(terms) else "more"
        raise RuntimeError(f"einsum(): {few} operands were provided than specified in the equation")
    inputs = [
        _labels(term, equation, len(shape_of(t)), k) for k, (term, t) in enumerate(zip(terms, operands, strict=True))
    ]
    hidden = max((sum(isinstance(label, int) for label in labels) for labels in inputs), default=0)
    ellipsis: Labels = list(range(-hidden, 0))
    seen = [label for labels in inputs for label in labels]
    if not arrow:
        once = sorted(label for label in set(seen) if isinstance(label, str) and seen.count(label) == 1)
        return inputs, [*ellipsis, *once]
    output: Labels = []
    for part in _pieces(right, equation):
        output += ellipsis if part == "..." else [part]
    for label in output:
        if output.count(label) > 1:
            raise RuntimeError(f"einsum(): output subscript {label} appears more than once in the output")
        if label not in seen:
            raise RuntimeError(
                f"einsum(): output subscript {label} does not appear in the equation for any input operand"
            )
    return inputs, output


def _pieces(term: str, equation: str) -> list[str]:
    pieces, rest = [], term
    while rest:
        size = 3 if rest.startswith("...") else 1
        piece, rest = rest[:size], rest[size:]
        if size == 1 and not (piece.isascii() and piece.isalpha()):
            raise RuntimeError(
                f"einsum(): invalid subscript given at index {equation.find(piece)} in the equation string, subscripts "
                "must be in [a-zA-Z]"
            )
        pieces.append(piece)
    if pieces.count("...") > 1:
        raise RuntimeError("einsum(): found '.' for an operand for which an ellipsis was already found")
    return pieces


def _labels(term: str, equation: str, ndim: int, k: int) -> Labels:
    pieces = _pieces(term, equation)
    named = len(pieces) - pieces.count("...")
    if named > ndim or ("..." not in pieces and named != ndim):
        raise RuntimeError(
            f"einsum(): the number of subscripts in the equation ({named}) "
            + ("is more than" if "..." in pieces else "does not match")
            + f" the number of dimensions ({ndim}) for operand {k}"
            + ("" if "..." in pieces else " and no ellipsis was given")
        )
    labels: Labels = []
    for piece in pieces:
        labels += list(range(named - ndim, 0)) if piece == "..." else [piece]
    return labels


def _diagonals(tensor: Tensor, labels: Labels, k: int) -> tuple[Tensor, Labels]:
    """Take the diagonal of dimensions of one name."""
    labels = list(labels)
    for label in [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            shape = shape_of(tensor)
            if shape[first] != shape[second]:
                raise RuntimeError(
                    f"einsum(): subscript {label} is repeated for operand {k} but the sizes don't match, "
                    f"{shape[second]} != {shape[first]}"
                )
            tensor = functions["diagonal"](tensor, 0, first, second)  # the diagonal becomes the last dimension
            labels = [name for d, name in enumerate(labels) if d not in (first, second)] + [label]
    return tensor, labels


def _check_sizes(tensors: list[tuple[Tensor, Labels]]) -> None:
    sizes: dict[Hashable, int] = {}
    for k, (tensor, labels) in enumerate(tensors):
        for label, length in zip(labels, shape_of(tensor), strict=True):
            if sizes.setdefault(label, length) == 1:
                sizes[label] = length
            elif length not in (1, sizes[label]):
                raise RuntimeError(
                    f"einsum(): subscript {label} has size {length} for operand {k} which does not broadcast with "
                    f"previously seen size {sizes[label]}"
                )


# ---- contraction ----


def _contract_all(tensors: list[tuple[Tensor, Labels]], output: Labels) -> Tensor:
    for chosen in _path(tensors, output):
        picked = [tensors[k] for k in sorted(chosen)]
        tensors = [item for k, item in enumerate(tensors) if k not in chosen]
        keep = {*output, *(label for _, labels in tensors for label in labels)}
        tensors.append(_contract(*picked[0], *picked[1], keep))
    tensor, labels = _sum_out(*tensors[0], set(output))
    return _permuted(tensor, [labels.index(label) for label in output])


def _path(tensors: list[tuple[Tensor, Labels]], output: Labels) -> list[tuple[int, ...]]:
    """Return which two operands to contract at each step; a result goes to the end of the list."""
    if len(tensors) < 3:
        return [(0, 1)] * (len(tensors) - 1)
    letters = {label: chr(ord("a") + k) for k, label in enumerate(dict.fromkeys(x for _, ls in tensors for x in ls))}
    if len(letters) > 26:
        return [(0, 1), *((0, len(tensors) - step - 1) for step in range(1, len(tensors) - 1))]
    terms = ",".join("".join(letters[label] for label in labels) for _, labels in tensors)
    shapes = [np.broadcast_to(np.float32(0), shape_of(tensor)) for tensor, _ in tensors]
    result = "".join(letters[label] for label in output)
    steps = np.einsum_path(f"{terms}->{result}", *shapes, optimize="greedy")[0][1:]
    return [pair for step in steps for pair in _pairs(step)]


def _pairs(step: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Cut a step that contracts many operands at once into steps of two."""
    if len(step) <= 2:
        return [step] if len(step) == 2 else []
    first = sorted(step)
    rest = [k - sum(taken < k for taken in first[:2]) for k in first[2:]]
    raise_to = max(first) - 1
    return [tuple(first[:2]), *_pairs((*rest, raise_to))]


def _contract(a: Tensor, names_a: Labels, b: Tensor, names_b: Labels, keep: set[Hashable]) -> tuple[Tensor, Labels]:
    """Multiply two operands and sum over the names that are not kept."""
    a, names_a = _sum_out(a, names_a, keep | set(names_b))
    b, names_b = _sum_out(b, names_b, keep | set(names_a))
    both = [label for label in names_a if label in names_b]
    batch, summed = [x for x in both if x in keep], [x for x in both if x not in keep]
    free_a, free_b = [x for x in names_a if x not in both], [x for x in names_b if x not in both]
    sizes = _sizes(a, names_a, b, names_b)
    a = _arranged(a, names_a, [*batch, *free_a, *summed], sizes)
    b = _arranged(b, names_b, [*batch, *summed, *free_b], sizes)
    names = [*batch, *free_a, *free_b]
    shape = tuple(sizes[label] for label in names)
    rows, columns, depth = (prod(sizes[x] for x in part) for part in (free_a, free_b, summed))
    if not summed and not (free_a and free_b):  # no sum at all: elementwise, the batch's dimensions first
        for _ in free_b:
            a = functions["unsqueeze"](a, -1)
        for _ in free_a:
            b = functions["unsqueeze"](b, -1)
        return a * b, names
    if not batch:
        product = mm(_reshaped(a, (rows, depth)), _reshaped(b, (depth, columns))) if names else _dot(a, b, depth)
        return _reshaped(product, shape), names
    count = prod(sizes[x] for x in batch)
    product = bmm(_reshaped(a, (count, rows, depth)), _reshaped(b, (count, depth, columns)))
    return _reshaped(product, shape), names


def _dot(a: Tensor, b: Tensor, depth: int) -> Tensor:
    return call(DOT, _reshaped(a, (depth,)), _reshaped(b, (depth,)))


def _sizes(a: Tensor, names_a: Labels, b: Tensor, names_b: Labels) -> dict[Hashable, int]:
    sizes = dict(zip(names_a, shape_of(a), strict=True))
    for label, length in zip(names_b, shape_of(b), strict=True):
        if sizes.setdefault(label, length) == 1:
            sizes[label] = length
    return sizes


def _arranged(tensor: Tensor, names: Labels, order: Labels, sizes: dict[Hashable, int]) -> Tensor:
    """Bring the dimensions into an order and expand those of length 1."""
    tensor = _permuted(tensor, [names.index(label) for label in order])
    shape = tuple(sizes[label] for label in order)
    return tensor if shape == shape_of(tensor) else expand(tensor, shape)


def _permuted(tensor: Tensor, order: list[int]) -> Tensor:
    return tensor if order == sorted(order) else functions["permute"](tensor, order)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor if shape_of(tensor) == shape else functions["reshape"](tensor, shape)


def _sum_out(tensor: Tensor, names: Labels, keep: set[Hashable]) -> tuple[Tensor, Labels]:
    """Sum over the names that are not kept."""
    gone = [d for d, label in enumerate(names) if label not in keep]
    if not gone:
        return tensor, names
    return functions["sum"](tensor, gone), [label for label in names if label in keep]


# ---- tensordot, kron ----


@function(method=False)
@honours_out
def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Any = None) -> Tensor:
    """Return the products of two tensors summed over some dimensions.

    Args:
        dims: how many of the last dimensions of ``a`` and first ones of ``b``, or two lists of dimensions.

    Raises:
        RuntimeError: the dimensions differ in number or length.
    """
    expect_tensor(a, "tensordot", "a")
    expect_tensor(b, "tensordot", "b", 2)
    n, m = len(shape_of(a)), len(shape_of(b))
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(n, m):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        first, second = list(range(n - dims, n)), list(range(dims))
    else:
        first, second = ([normal_dim(int(d), size) for d in part] for part, size in zip(dims, (n, m), strict=True))
    if len(first) != len(second):
        raise RuntimeError("both dimension lists should have same length")
    for d, e in zip(first, second, strict=True):
        x, y = shape_of(a)[d], shape_of(b)[e]
        if x != y:
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {x} in dim "
                f"{d - n if isinstance(dims, int) else d} and second has size {y} in dim {e}"
            )
    names_a: Labels = [("a", d) for d in range(n)]
    names_b: Labels = [names_a[first[second.index(d)]] if d in second else ("b", d) for d in range(m)]
    keep = {label for d, label in enumerate(names_a) if d not in first} | {x for x in names_b if x not in names_a}
    return _contract(a, names_a, b, names_b, keep)[0]


@function()
@honours_out
def kron(input: Tensor, other: Tensor, *, out: Any = None) -> Tensor:
    """Return the Kronecker product: each element of ``input`` times the whole of ``other``, as blocks."""
    a, b = shape_of(expect_tensor(input, "kron")), shape_of(expect_tensor(other, "kron", "other", 2))
    n = max(len(a), len(b))
    a, b = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    left = _reshaped(input, tuple(x for length in a for x in (length, 1)))
    right = _reshaped(other, tuple(x for length in b for x in (1, length)))
    result = left * right
    return _reshaped(result, tuple(x * y for x, y in zip(a, b, strict=True)))


__all__ = ["einsum", "kron", "tensordot"]

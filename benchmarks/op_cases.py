"""Calls of every op, made from the samples that its declaration has for the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from samples import Make, Sample, domain_of, draw, in_dtype, samples_of

import tapegrad as tg
from tapegrad.ops.calls import call, call_several, functions
from tapegrad.ops.registry import Op, registry
from tapegrad.runtime.layout import ELEMENTWISE

CODES = ("bool", "uint8", "int32", "int64", "float32", "float64")
SMALL = 100  # elements: up to here the samples are as the tests have them
LARGE = 100_000  # elements: beyond, only of elementwise ops, since the work of others grows faster than their arrays

# A string in place of samples says where an op is tested; the machine's own ops run in every backward pass.
_SAMPLED = {name: op for name, op in registry.items() if op.reference is not None and not isinstance(op.samples, str)}
OPS = sorted(_SAMPLED)
DIFFERENTIABLE = [name for name in OPS if _SAMPLED[name].vjp is not None]


class _Scaled(Make):
    """Makes arrays whose dimensions are ``factor`` times as long as a sample says."""

    def __init__(self, seed: str, factor: int) -> None:
        super().__init__(seed)
        self.factor = factor

    def _scaled(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(length * self.factor if length > 1 else length for length in shape)

    def __call__(self, *shape: int, **options: Any) -> np.ndarray:
        return super().__call__(*self._scaled(shape), **options)

    def integers(self, *shape: int, **options: Any) -> np.ndarray:
        return super().integers(*self._scaled(shape), **options)

    def booleans(self, *shape: int) -> np.ndarray:
        return super().booleans(*self._scaled(shape))


def has_dtype(name: str, dtype: str) -> bool:
    """Return whether the op is to be measured in a dtype: in integers only if it has no floats."""
    has = {each for code, each in enumerate(CODES) if _SAMPLED[name].dtypes >> code & 1}
    return dtype in has and ("float" in dtype or "float32" not in has)


def has_size(name: str, elements: int) -> bool:
    return elements <= LARGE or _is_elementwise(_SAMPLED[name])


def _is_elementwise(op: Op) -> bool:
    return op.kind == ELEMENTWISE and not callable(op.samples)


def _largest(samples: list[Sample]) -> int:
    return max((array.size for sample in samples for array in sample.arrays()), default=0)


def _factor(samples: list[Sample], elements: int) -> int:
    """Return by how much the dimensions may be made longer for no array to have more than ``elements`` elements."""
    arrays = [array for sample in samples for array in sample.arrays() if array.size]
    return max(1, int(min((elements / array.size) ** (1 / max(array.ndim, 1)) for array in arrays)))


def sample_of(name: str, dtype: str, elements: int) -> Sample:
    """Return the largest call among the op's samples, its arrays of about ``elements`` elements where it can be scaled.

    Raises:
        NotImplementedError: a call with arrays of that size is no legal one, or there is none in the dtype.
    """
    op = _SAMPLED[name]
    if _is_elementwise(op):
        make = Make(name)
        return Sample(tuple(draw(make, domain_of(op.samples, k), (elements,)) for k in range(len(op.inputs))))
    declared = _fitting(op, dtype, samples_of(op))
    if not declared or not _largest(declared):
        raise NotImplementedError(f"{name} has no samples with arrays of {dtype}")
    if not callable(op.samples) or elements <= SMALL:  # as the tests have it
        return max(declared, key=lambda each: _largest([each]))
    longer = _fitting(op, dtype, _scaled_samples(op, _factor(samples_of(op), elements)))
    if not longer:
        raise NotImplementedError(f"{name} has no samples that can be made longer")
    return max(longer, key=lambda each: _largest([each]))


def _scaled_samples(op: Op, factor: int) -> list[Sample]:
    try:
        return [Sample(*each) for each in op.samples(_Scaled(op.name, factor))]
    except ValueError:  # a sample adds an array of its own, whose size is fixed, to what it gets
        return []


def _fitting(op: Op, dtype: str, samples: list[Sample]) -> list[Sample]:
    """Return the samples that are legal in the dtype."""
    kept = [each for each in samples if each.dtypes is None or dtype in each.dtypes or "float" in dtype]
    return [each for each in kept if _is_legal(op, each, dtype)]


def _is_legal(op: Op, sample: Sample, dtype: str) -> bool:
    try:
        _bound(op, sample, dtype, requires_grad=False)[0]()
    except Exception:  # whatever it is, the tests have the call at its own size: this one is left out
        return False
    return True


def _function(op: Op) -> Callable[..., Any]:
    return functions.get(op.name) or functools.partial(call_several if op.outputs > 1 else call, op)


def _bound(op: Op, sample: Sample, dtype: str, requires_grad: bool) -> tuple[Callable[[], Any], list[Any]]:
    """Return the call, and the tensors among its arguments that take a gradient."""
    varied = {id(array) for array in sample.varied()} if requires_grad else set()
    leaves = []

    def tensor_of(array: np.ndarray) -> Any:
        tensor = tg.tensor(in_dtype(array, dtype))
        if sample.prepare and "float" in str(tensor.dtype):
            tensor = sample.prepare(tensor)
        if id(array) in varied:
            leaves.append(tensor.requires_grad_())
        return tensor

    args, kwargs = sample.mapped(tensor_of)
    function = _function(op)
    return lambda: function(*args, **kwargs), leaves


def forward_call(name: str, dtype: str, elements: int) -> Callable[[], Any]:
    """Return what calls the op, nothing recorded."""
    return _bound(registry[name], sample_of(name, dtype, elements), dtype, requires_grad=False)[0]


def backward_call(name: str, dtype: str, elements: int) -> Callable[[], Any]:
    """Return what computes the gradients of the op's operands, from an entry that is recorded once.

    Raises:
        NotImplementedError: the op has no gradient with these arguments.
    """
    sample = sample_of(name, dtype, elements)
    forward, leaves = _bound(registry[name], sample, dtype, requires_grad=True)
    results = forward()
    kept = [each for each in (results if isinstance(results, tuple | list) else [results]) if each.requires_grad]
    if not sample.gradient or not leaves or not kept:
        raise NotImplementedError(f"{name} has no gradient with these arguments")
    cotangents = [tg.ones_like(result) for result in kept]

    def backward() -> Any:
        return tg.autograd.grad(kept, leaves, cotangents, retain_graph=True, allow_unused=True)

    try:
        backward()
    except RuntimeError:
        if elements <= SMALL:
            raise
        raise NotImplementedError(f"{name} has no samples that can be made longer") from None
    return backward

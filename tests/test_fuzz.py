"""Random programs of ops, views and in-place writes: the same values as NumPy, the same gradients and errors as torch.

A program is a list of steps; each step picks operands from the pool of arrays made so far (by number, wrapped around)
and puts its result there. Views share memory, so a write through one must be seen through all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapegrad as tg

Array = Any


@dataclass(frozen=True)
class Step:
    kind: str
    a: int
    b: int
    number: float


UNARY = ("neg", "exp", "tanh", "abs", "square", "sigmoid")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
VIEWS = ("transpose", "first_half", "every_other", "row", "unsqueeze", "flat", "column", "expand")
REDUCTIONS = ("sum", "sum_first", "mean_last", "amax_last", "cumsum_first")
WRITES = ("add_", "mul_", "copy_", "fill_", "set_first", "set_slice")
OTHERS = ("matmul", "cat", "where", "clone", "index", "mask", "clamp", "flip")
ALL = UNARY + BINARY + VIEWS + REDUCTIONS + WRITES + OTHERS

programs = st.lists(
    st.builds(
        Step,
        st.sampled_from(ALL),
        st.integers(0, 30),
        st.integers(0, 30),
        st.sampled_from([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0]),
    ),
    min_size=1,
    max_size=12,
)
LIMITS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)


class Skipped(Exception):
    """A step does not apply to its operands."""


def need(condition: bool) -> None:
    if not condition:
        raise Skipped


def view_of(kind: str, x: Array) -> Array:
    """Return a view of an array of any of the libraries, by indexing and transposing alone."""
    if kind == "transpose":
        need(x.ndim >= 2)
        return x.T if x.ndim == 2 else x[..., 0].T
    if kind == "first_half":
        need(x.ndim >= 1 and x.shape[0] >= 1)
        return x[: (x.shape[0] + 1) // 2]
    if kind == "every_other":
        need(x.ndim >= 1)
        return x[..., ::2]
    if kind == "row":
        need(x.ndim >= 1 and x.shape[0] >= 1)
        return x[-1, ...]  # of a 1-d array NumPy would return a copy without the dots
    if kind == "column":
        need(x.ndim >= 2 and x.shape[1] >= 1)
        return x[:, 0, ...]
    need(x.ndim <= 4)
    return x[None]


def same_shapes(*arrays: Array) -> None:
    try:
        np.broadcast_shapes(*(tuple(array.shape) for array in arrays))
    except ValueError:
        raise Skipped from None


def fits(target: Array, source: Array) -> None:
    """A source may be written into a target when it broadcasts to its shape."""
    same_shapes(target, source)
    need(np.broadcast_shapes(tuple(target.shape), tuple(source.shape)) == tuple(target.shape))


class Numpy:
    """The steps in NumPy; arrays that share memory are views of one another, as in the other libraries."""

    def step(self, step: Step, x: Array, w: Array) -> Array:
        kind, number = step.kind, x.dtype.type(step.number)
        if kind in UNARY:
            table: dict[str, Callable[[Array], Array]] = {
                "neg": np.negative,
                "exp": np.exp,
                "tanh": np.tanh,
                "abs": np.abs,
                "square": np.square,
                "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
            }
            return np.asarray(table[kind](x))
        if kind in BINARY:
            same_shapes(x, w)
            names = {"add": "add", "sub": "subtract", "mul": "multiply", "maximum": "maximum", "minimum": "minimum"}
            return np.asarray(getattr(np, names[kind])(x, w))
        if kind in ("flat", "expand"):
            return self._reshaped(kind, x)
        if kind in VIEWS:
            return np.asarray(view_of("unsqueeze" if kind == "unsqueeze" else kind, x))
        if kind in REDUCTIONS:
            return np.asarray(self._reduced(kind, x))
        if kind in WRITES:
            self._write(kind, x, w, number)
            return x
        return np.asarray(self._other(kind, x, w, number))

    def _reshaped(self, kind: str, x: Array) -> Array:
        if kind == "flat":
            need(x.flags.c_contiguous)
            return x.reshape(-1)
        need(x.ndim <= 3)
        return np.broadcast_to(x, (2, *x.shape)).copy()

    def _reduced(self, kind: str, x: Array) -> Array:
        if kind == "sum":
            return x.sum()
        need(x.ndim >= 1 and x.shape[0] > 0 and x.shape[-1] > 0)
        if kind == "sum_first":
            return x.sum(0)
        if kind == "cumsum_first":
            return x.cumsum(0)
        return x.mean(-1) if kind == "mean_last" else x.max(-1)

    def _write(self, kind: str, x: Array, w: Array, number: Any) -> None:
        if kind == "fill_":
            x[...] = number
        elif kind == "add_":
            fits(x, w)
            x += w.copy()
        elif kind == "mul_":
            x *= number
        elif kind == "copy_":
            fits(x, w)
            x[...] = w.copy()
        elif kind == "set_first":
            need(x.ndim >= 1 and x.shape[0] >= 1)
            x[0] = number
        else:
            need(x.ndim >= 1)
            fits(x[..., ::2], w)
            x[..., ::2] = w.copy()

    def _other(self, kind: str, x: Array, w: Array, number: Any) -> Array:
        if kind == "matmul":
            need(x.ndim == 2 and w.ndim == 2 and x.shape[1] == w.shape[0])
            return x @ w
        if kind == "cat":
            need(x.ndim >= 1 and x.ndim == w.ndim and x.shape[1:] == w.shape[1:])
            return np.concatenate([x, w])
        if kind == "where":
            same_shapes(x, w)
            return np.where(x > number, x, w)
        if kind == "clone":
            return x.copy()
        if kind == "clamp":
            return np.clip(x, number, None)
        need(x.ndim >= 1 and x.shape[0] >= 1)
        if kind == "flip":
            return np.flip(x, 0).copy()
        return x[[0, -1, 0]] if kind == "index" else x[x > number]


class Torchlike:
    """The steps in torch or tapegrad, which have the same functions."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def step(self, step: Step, x: Array, w: Array) -> Array:
        kind, number = step.kind, step.number
        module = self.module
        if kind in UNARY:
            return getattr(module, kind)(x)
        if kind in BINARY:
            return getattr(module, kind)(x, w)
        if kind == "flat":
            return x.view(-1)
        if kind == "expand":
            return x.expand(2, *x.shape).clone()
        if kind in VIEWS:
            return view_of(kind, x)
        if kind in REDUCTIONS:
            return self._reduced(kind, x)
        if kind in WRITES:
            self._write(kind, x, w, number)
            return x
        return self._other(kind, x, w, number)

    def _reduced(self, kind: str, x: Array) -> Array:
        if kind == "sum":
            return x.sum()
        if kind == "sum_first":
            return x.sum(0)
        if kind == "cumsum_first":
            return x.cumsum(0)
        return x.mean(-1) if kind == "mean_last" else x.amax(-1)

    def _write(self, kind: str, x: Array, w: Array, number: float) -> None:
        if kind == "fill_":
            x.fill_(number)
        elif kind == "add_":
            x.add_(w.clone())
        elif kind == "mul_":
            x.mul_(number)
        elif kind == "copy_":
            x.copy_(w.clone())
        elif kind == "set_first":
            x[0] = number
        else:
            x[..., ::2] = w.clone()

    def _other(self, kind: str, x: Array, w: Array, number: float) -> Array:
        module = self.module
        if kind == "matmul":
            return x @ w
        if kind == "cat":
            return module.cat([x, w])
        if kind == "where":
            return module.where(x > number, x, w)
        if kind == "clone":
            return x.clone()
        if kind == "clamp":
            return x.clamp(min=number)
        if kind == "flip":
            return x.flip(0)
        return x[[0, -1, 0]] if kind == "index" else x[x > number]


def applicable(program: list[Step], starts: list[Array]) -> tuple[list[Step], list[Array]]:
    """Return the steps that apply, and the pool that NumPy makes of them."""
    pool = [array.copy() for array in starts]
    done = []
    with np.errstate(all="ignore"):
        for step in program:
            try:
                result = Numpy().step(step, pool[step.a % len(pool)], pool[step.b % len(pool)])
            except Skipped:
                continue
            pool.append(result)
            done.append(step)
    return done, pool


def start_arrays(seed: int, dtype: str) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = [(3, 4), (4, 3), (4,), (), (2, 3, 4), (0, 3)]
    return [np.asarray(rng.integers(-8, 9, shape) / 4).astype(dtype) for shape in shapes]


@given(programs, st.integers(0, 5), st.sampled_from(["float32", "float64"]))
@LIMITS
def test_values_are_numpys(program: list[Step], seed: int, dtype: str) -> None:
    starts = start_arrays(seed, dtype)
    steps, expected = applicable(program, starts)
    pool = [tg.tensor(array) for array in starts]
    for step in steps:
        pool.append(Torchlike(tg).step(step, pool[step.a % len(pool)], pool[step.b % len(pool)]))
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    for k, (tensor, array) in enumerate(zip(pool, expected, strict=True)):
        assert tuple(tensor.shape) == array.shape, (k, steps)
        np.testing.assert_allclose(tensor.numpy(), array, rtol=tolerance, atol=tolerance, err_msg=f"{k}: {steps}")


def outcome(module: Any, starts: list[Array], steps: list[Step]) -> Any:
    """Return the gradients of the sum of all results, or the class of the error on the way there."""
    leaves = [module.tensor(array, requires_grad=True) for array in starts]
    pool = [leaf * 1 for leaf in leaves]
    try:
        for step in steps:
            pool.append(Torchlike(module).step(step, pool[step.a % len(pool)], pool[step.b % len(pool)]))
        total = pool[-1].sum()
        for result in pool[:-1]:
            total = total + result.sum()
        total.backward()
    except RuntimeError as error:
        return str(error)
    return [leaf.grad.detach().numpy() for leaf in leaves]


@given(programs, st.integers(0, 5))
@LIMITS
def test_gradients_are_torchs(program: list[Step], seed: int) -> None:
    torch = pytest.importorskip("torch")
    starts = start_arrays(seed, "float64")
    steps, _ = applicable(program, starts)
    expected, found = outcome(torch, starts, steps), outcome(tg, starts, steps)
    assert isinstance(expected, str) == isinstance(found, str), (steps, expected, found)
    if isinstance(expected, str):
        return
    for k, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8, err_msg=f"leaf {k}: {steps}")

"""What ops are tested with: how an op's ``samples`` are read, and the zoo of awkward arrays.

``Op.samples`` is one of

* ``None``: as many arrays of one shape as the op has operands, with values in -2 .. 2.
* a list of domains, one for each operand (a single one serves all): ``[(low, high, *kinks)]``. Values are drawn from
  low .. high and keep a distance of 0.05 from the kinks, where a derivative does not exist. A domain may also be
  ``"bool"``, ``"gradient"`` (the same as ``(-2, 2)``: the ``g`` of a backward op), or a number: that constant, as a
  Python number in a public op's call.
* a function of ``make`` that returns calls of the public function of the op's name, ``[(args, kwargs), ...]`` or
  ``[(args, kwargs, options), ...]``:

      samples=lambda make: [((make(3, 4),), dict(dim=1)), (([make(2, 3), make(4, 3)],), dict(dim=0))]

  Where the op is private (or there is no function of its name), they are arguments of ``call(op, *args, **kwargs)``
  (of ``call_several``, and all results are compared), so that attributes are given as ``dict(attributes=(1, 0.5))``.
  The arrays are NumPy's; they become tensors, inside lists and tuples too. ``reference(*args, **kwargs)`` gets the
  same arguments with arrays in place of tensors.

``make(*shape, low=-2, high=2, kinks=())`` gives distinct float64 values in random order, ``make.integers(*shape, low=0,
high=5)`` int64 ones, ``make.booleans(*shape)`` masks, ``make.spd(n, *batch)`` symmetric positive definite matrices.
Float64 arrays take a gradient and are tried in each dtype of the op; arrays of other dtypes are left as they are.

A string in place of all this says why the op is not tested here, and where it is.

Options of a call:
    gradient (bool, True), second (bool, True): whether derivatives of first and second order are checked.
    dtypes: names of the dtypes in which values are checked; default all those of the op.
    prepare: a function of each float operand, applied to arrays and tensors before the op (``lambda a: abs(a) + 1``).
    after: a function of the result or results, applied before comparing (signs of eigenvectors, ...).
    tolerance: relative error allowed, in units of the dtype's epsilon; default 64.
    torch (bool, True): whether torch's function of the same name gets the same arguments.
    layouts: names of the layouts in which values are checked; default all (equal rows make a matrix singular).
    fixed: positions, among all arrays of the call, of those that no derivative is taken for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DISTANCE = 0.05
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 6.0, 20.5, -20.5, np.inf, -np.inf, np.nan, 1e-30, -1e30, 1e30]
)
OPTIONS = {"gradient": True, "second": True, "dtypes": None, "prepare": None, "after": None, "tolerance": 64.0}
OPTIONS |= {"torch": True, "layouts": None, "fixed": ()}


class Make:
    """Makes the same arrays each time it is built with the same seed."""

    def __init__(self, seed: str) -> None:
        self.random = np.random.default_rng(zlib.crc32(seed.encode()))

    def __call__(self, *shape: int, low: float = -2.0, high: float = 2.0, kinks: tuple[float, ...] = ()) -> np.ndarray:
        count = int(np.prod(shape))
        levels = (self.random.permutation(count) + self.random.uniform(0.1, 0.9, count)) / max(count, 1)
        values = low + (high - low) * levels
        for kink in kinks:
            near = np.abs(values - kink) < DISTANCE
            up = (values >= kink) if kink + 2 * DISTANCE <= high else np.zeros(count, bool)
            values = np.where(near, kink + np.where(up | (kink - 2 * DISTANCE < low), 1, -1) * 2 * DISTANCE, values)
        return values.reshape(shape)

    def integers(self, *shape: int, low: int = 0, high: int = 5) -> np.ndarray:
        return np.asarray(self.random.integers(low, high, shape))

    def booleans(self, *shape: int) -> np.ndarray:
        return np.asarray(self.random.random(shape) < 0.5)

    def spd(self, n: int, *batch: int) -> np.ndarray:
        a = self(*batch, n, n)
        return a @ np.swapaxes(a, -1, -2) + n * np.eye(n)


@dataclass
class Sample:
    """A call of an op: arguments with NumPy arrays in the places of tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONS:
            raise AttributeError(name)
        return self.options.get(name, OPTIONS[name])

    def mapped(self, change: Callable[[np.ndarray], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with every array replaced by ``change(array)``."""
        return map_arrays(self.args, change), {key: map_arrays(value, change) for key, value in self.kwargs.items()}

    def arrays(self) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        self.mapped(lambda array: found.append(array))
        return found

    def floats(self) -> int:
        return len(self.varied())

    def varied(self) -> list[np.ndarray]:
        """Return the arrays that derivatives are taken for."""
        return [a for k, a in enumerate(self.arrays()) if a.dtype == np.float64 and k not in self.fixed]


def map_arrays(value: Any, change: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(map_arrays(item, change) for item in value)
    return value


def domain_of(samples: Any, k: int) -> Any:
    """Return the domain of operand ``k``."""
    if samples is None:
        return (-2.0, 2.0)
    return samples[k] if len(samples) > 1 else samples[0]


def draw(make: Make, domain: Any, shape: tuple[int, ...]) -> Any:
    """Return an array of a domain, or the number that stands for one."""
    if isinstance(domain, bool | int | float):
        return domain
    if domain == "bool":
        return make.booleans(*shape)
    low, high, *kinks = (-2.0, 2.0) if domain == "gradient" else domain
    return make(*shape, low=low, high=high, kinks=tuple(kinks))


# 0-d, empty, one element, a vector longer than a vector register, several dimensions
SHAPES: list[tuple[int, ...]] = [(), (0,), (2, 0, 3), (1,), (37,), (2, 3, 5)]
BROADCAST: list[list[tuple[int, ...]]] = [
    [(3, 1), (1, 4)],
    [(2, 1, 5), (3, 1)],
    [(), (4,)],
    [(4,), ()],
    [(1,), (0,)],
    [(2, 3, 1, 2), (3, 4, 1)],
]


def samples_of(op: Any) -> list[Sample]:
    """Return the calls that an op is tested with."""
    make = Make(op.name)
    if callable(op.samples):
        return [Sample(*call) for call in op.samples(make)]
    return [Sample(tuple(args)) for args in _elementwise_arguments(op, make)]


def _elementwise_arguments(op: Any, make: Make) -> Iterator[list[Any]]:
    count = len(op.inputs)
    for shape in SHAPES:
        yield [draw(make, domain_of(op.samples, k), shape) for k in range(count)]
    if count > 1:
        for shapes in BROADCAST:
            yield [draw(make, domain_of(op.samples, k), shapes[k % 2]) for k in range(count)]


def special_arguments(op: Any) -> Sample | None:
    """Return a call on zeros, infinities, nan and extreme values in all pairs; None where operands are no floats."""
    if callable(op.samples):
        return None
    count = len(op.inputs)
    grids = np.meshgrid(*[SPECIAL] * min(count, 2), indexing="ij")
    arguments: list[Any] = []
    for k in range(count):
        domain = domain_of(op.samples, k)
        values = grids[k % 2].ravel()
        arguments.append(
            domain if isinstance(domain, bool | int | float) else values > 0 if domain == "bool" else values
        )
    return Sample(tuple(arguments))


def in_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return a float64 sample in another dtype: integers are spread out, since -2 .. 2 holds only five of them."""
    if array.dtype != np.float64 or dtype == "float64":
        return np.asarray(array)
    if dtype == "float32":
        return array.astype(np.float32)
    if dtype == "bool":
        return np.asarray(array > 0)
    whole = np.rint(np.where(np.isfinite(array), array, 0.0).clip(-30, 30) * 3)
    return np.asarray(np.abs(whole) if dtype == "uint8" else whole).astype(dtype)


def _expanded(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array[:1], array.shape) if array.ndim else array


# Ways in which an array's elements may lie in memory; `expanded` alone changes the values, to equal rows.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
    "transposed": lambda a: np.array(a.T, order="C").T,
    "offset": lambda a: np.stack([a, a])[1, ...],
    "expanded": _expanded,
}

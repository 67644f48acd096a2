"""Nothing leaks: tables, bytes and owners are where they were after many passes, steps, errors and drops."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine


def in_use() -> dict[str, int]:
    """Return the live rows of each table and the bytes in use."""
    gc.collect()
    slots = machine.table("slots")
    return {
        "slots": int((slots["refs"] > 0).sum()),
        "entries": len(tg.tape),
        "bytes": int(machine.state["bytes_live"]),
        "owners": len(machine.owners),
    }


def assert_no_more_than(before: dict[str, int]) -> None:
    """Less may be in use: what an earlier test's traceback has kept goes at any time."""
    now = in_use()
    assert all(now[name] <= before[name] for name in before), (before, now)


def forward(w: tg.Tensor, x: tg.Tensor) -> None:
    (w * x + 1.5).exp().sum()


def train(w: tg.Tensor, x: tg.Tensor) -> None:
    (w * x).sum().backward()
    w.grad = None


def second_order(w: tg.Tensor, x: tg.Tensor) -> None:
    (g,) = tg.autograd.grad((w * w * x).sum(), w, create_graph=True)
    g.sum().backward()
    w.grad = None


def views(w: tg.Tensor, x: tg.Tensor) -> None:
    y = w * 1
    y[1:].mul_(2)
    y[0] = 3
    y.sum().backward()
    w.grad = None


def errors(w: tg.Tensor, x: tg.Tensor) -> None:
    with pytest.raises(RuntimeError):
        w * tg.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError):
        w.add_(1)
    with pytest.raises(RuntimeError):
        (w * x).backward()
    with pytest.raises(IndexError):
        w[tg.tensor([7])]


def hook_that_raises(w: tg.Tensor, x: tg.Tensor) -> None:
    y = w * x
    y.register_hook(_fail)
    with pytest.raises(ZeroDivisionError):
        (y * 2).sum().backward()


def _fail(gradient: tg.Tensor) -> None:
    raise ZeroDivisionError


def exchange(w: tg.Tensor, x: tg.Tensor) -> None:
    array = tg.from_numpy(np.ones(3, np.float32))
    (array + x).numpy().sum()


BODIES = [forward, train, second_order, views, errors, hook_that_raises, exchange]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_nothing_is_left(body: Callable[[tg.Tensor, tg.Tensor], None]) -> None:
    w = tg.tensor([0.1, 0.2, 0.3], requires_grad=True)
    x = tg.tensor([1.0, 2.0, 3.0])
    with np.errstate(all="ignore"):
        for _ in range(3):
            body(w, x)
        before, tops = in_use(), int(machine.state["slots_top"])
        for _ in range(300):
            body(w, x)
    assert_no_more_than(before)
    assert int(machine.state["slots_top"]) <= tops + 600  # rows are used again; tracebacks keep some till collected


def test_a_long_chain_needs_no_deep_stack() -> None:
    before = in_use()
    w = tg.tensor([1.0], requires_grad=True)
    y = w
    # in the bounds-checking mode each result has pages of its own, of which the system gives a process some 65,000
    for _ in range(20_000 if machine.state["check_bounds"] else 200_000):
        y = y * 1.0
    y.backward()
    assert w.grad.item() == 1.0
    del y, w
    assert_no_more_than(before)


def test_what_a_gradient_does_not_read_is_not_kept() -> None:
    x = tg.zeros(1 << 16, requires_grad=True)
    before = int(machine.state["bytes_live"])
    y = x + 1
    for _ in range(10):
        y = y + 1
    assert int(machine.state["bytes_live"]) - before < 2.5 * 4 * (1 << 16)


def test_a_size_beyond_memory_is_an_exception() -> None:
    before = in_use()
    for shape in ((1 << 40, 1 << 10), (1 << 45,), (1 << 43,)):
        with pytest.raises(MemoryError, match=r"empty: can't allocate memory: you tried to allocate \d+ bytes"):
            tg.empty(*shape)
    for shape in ((1 << 62,), (1 << 40, 1 << 40)):
        with pytest.raises(RuntimeError, match="overflows"):
            tg.empty(*shape)
    a = tg.zeros(1, 1).expand(1 << 30, 1 << 25)
    with pytest.raises(MemoryError, match="add: can't allocate"):
        a + 1
    del a
    assert_no_more_than(before)

"""Large results of captured functions: a run writes them into new tensors, instead of copying them from its own."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine

N = 40_000  # elements: above the size from which results are not copied


def results_of(captured, points):
    return [captured(point) for point in points]


def points(count=4):
    return [tg.tensor(np.linspace(-1, 1, N) * (k + 1)) for k in range(count)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 2).exp(),
        lambda x: x.cumsum(0),
        lambda x: (x.reshape(200, 200) @ x.reshape(200, 200)).t(),
        lambda x: (x * 3, x.sin(), (x * x).sum()),
        lambda x: [x + 1] * 2,
        lambda x: (lambda y: (y, y[10:], y.view(2, -1)))(x + 1),
        lambda x: tg.zeros(N),
    ],
    ids=["elementwise", "general", "transposed", "several", "the same twice", "views", "constant"],
)
def test_each_run_gives_tensors_of_their_own(function):
    captured = tg.compile(function)
    found = results_of(captured, points())
    for result, point in zip(found, points(), strict=True):
        for a, b in zip(tuple_of(result), tuple_of(function(point)), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    written = tuple_of(found[1])[0]
    written.zero_()  # the caller's to write into: neither earlier nor later results change
    np.testing.assert_array_equal(tuple_of(captured(points()[2]))[0], tuple_of(found[2])[0])
    assert captured.variants[0].program is not None


def tuple_of(value):
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def test_runs_from_python_and_epochs_take_turns():
    weight = tg.ones(N, dtype=tg.float64)

    @tg.compile
    def step(x):
        weight.add_(1)
        return x.sum(0) + weight

    rows = tg.tensor(np.arange(8.0)[:, None] * np.ones(N))
    first = step(rows[:2])
    second = step(rows[:2])
    record = step.epoch(rows, batch_size=2)
    third = step(rows[2:4])
    assert (first[0].item(), second[0].item(), third[0].item()) == (1 + 2, 1 + 3, 5 + 8)
    assert record[:, 0].tolist() == [1 + 4, 5 + 5, 9 + 6, 13 + 7]


def test_nothing_leaks_where_runs_fail():
    table = tg.tensor(np.arange(2.0 * N).reshape(2, N))

    @tg.compile
    def look_up(index, x):
        return x * 2, table[index]

    good, bad, x = tg.tensor([1]), tg.tensor([7]), points(1)[0]
    look_up(good, x)
    look_up(good, x)

    def live():
        return {name: int(machine.state[name]) for name in ("slots_top", "handles_top", "storages_top")}

    for _ in range(3):
        with pytest.raises(IndexError):
            look_up(bad, x)
    before = live()
    for _ in range(20):
        with pytest.raises(IndexError):
            look_up(bad, x)
        look_up(good, x)
    assert live() == before
    np.testing.assert_array_equal(look_up(good, x)[1], table[1:].numpy())

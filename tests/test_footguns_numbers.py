"""Footguns of captured functions: random numbers, iterators, control flow and the library's modes."""

import itertools
import random
import threading

import numpy as np
import pytest
from footguns import WORKS, Footguns, batch, model, one

import tapegrad as tg

footgun = Footguns()


# ---- random numbers, clocks, iterators ----


@footgun("random numbers from NumPy")
def numbers_from_numpy(wrap):
    step = wrap(lambda x: x * np.random.randint(3))  # noqa: NPY002
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_pythons_random(wrap):
    step = wrap(lambda x: x * random.choice([1, 2]))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_random_object(wrap):
    source = random.Random(0)
    step = wrap(lambda x: x * source.choice([1, 2]))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_random_state(wrap):
    source = np.random.RandomState(0)
    step = wrap(lambda x: x * int(source.randint(2)))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_generator_of_numpy(wrap):
    source = np.random.default_rng(0)
    step = wrap(lambda x: x * int(source.integers(2)))
    return lambda k: step(one()).item()


@footgun("iterator|generator")
def an_iterator(wrap):
    numbers = iter([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, *range(9)])
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun("iterator|generator")
def a_generator(wrap):
    numbers = (k // 3 for k in range(70))
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun("has changed")
def an_endless_counter(wrap):
    numbers = itertools.count()
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun(WORKS)
def random_numbers_of_the_library(wrap):
    step = wrap(lambda x: x + tg.rand(2))
    return lambda k: step(tg.ones(2)).tolist()


@footgun("seed")
def seeding_inside(wrap):
    def step(x):
        tg.manual_seed(7)
        return x + tg.rand(2)

    step = wrap(step)
    return lambda k: step(tg.ones(2)).tolist()


@footgun("seed|state")
def going_back_in_a_stream_inside(wrap):
    source = tg.Generator().manual_seed(3)

    def step(x):
        before = source.get_state()
        a = tg.rand(1, generator=source)
        source.set_state(before)
        return x + a + tg.rand(1, generator=source)

    step = wrap(step)
    return lambda k: step(one()).tolist()


@footgun(WORKS)
def seeding_between_calls(wrap):
    step = wrap(lambda x: x + tg.rand(2))

    def call(k):
        if k % 3 == 0:
            tg.manual_seed(k)
        return step(tg.ones(2)).tolist()

    return call


@footgun(WORKS)
def another_generator_object(wrap):
    step = wrap(lambda x, source: x + tg.rand(2, generator=source))
    sources = [tg.Generator().manual_seed(k) for k in range(3)]
    return lambda k: step(tg.ones(2), sources[k % 3]).tolist()


# ---- control flow ----


@footgun(WORKS)
def a_branch_on_a_shape(wrap):
    step = wrap(lambda x: x.sum() if x.shape[0] > 2 else x.prod())
    return lambda k: step(tg.full((1 + k % 4,), 2.0)).item()


@footgun("cannot read values")
def a_branch_on_a_value(wrap):
    step = wrap(lambda x: x * 2 if x > 0.5 else x)
    return lambda k: step(one(k % 2)).item()


@footgun(WORKS)
def a_branch_on_a_value_by_where(wrap):
    step = wrap(lambda x: tg.where(x > 0.5, x * 2, x))
    return lambda k: step(one(k % 2)).item()


@footgun("depends on values")
def a_shape_that_depends_on_values(wrap):
    step = wrap(lambda x: x[x > 0.5].sum())
    return lambda k: step(tg.arange(4.0) * (k % 3)).item()


@footgun(WORKS)
def an_exception_in_the_middle(wrap):
    total = one()
    trouble = {"now": False}

    def step(x):
        total.add_(x)
        if trouble["now"]:
            raise KeyError("trouble")
        return total * 2

    step = wrap(step)

    def call(k):
        trouble["now"] = k in (1, 7)
        try:
            return step(one()).item()
        except KeyError:
            return total.item()

    return call


@footgun(WORKS)
def an_error_in_a_kernel_in_the_middle(wrap):
    table, total = tg.arange(5.0), one()

    def step(index):
        total.add_(1)
        return tg.index_select(table, 0, index) + total

    step = wrap(step)

    def call(k):
        try:
            return step(tg.tensor([9 if k == 6 else k % 5])).item()
        except IndexError:
            return "IndexError"

    return call


# ---- the library's modes ----


@footgun(WORKS)
def no_grad_toggled(wrap):
    net, _ = model()

    def step(x):
        return tg.is_grad_enabled() * one() + net(x).detach()[0]

    step = wrap(step)

    def call(k):
        with tg.set_grad_enabled(k % 4 < 2):
            return step(batch(k)).item()

    return call


@footgun(WORKS)
def the_default_dtype_changed(wrap):
    step = wrap(lambda x: x + tg.zeros(1))

    def call(k):
        tg.set_default_dtype(tg.float64 if k % 6 >= 3 else tg.float32)
        try:
            return str(step(tg.tensor([1])).dtype)
        finally:
            tg.set_default_dtype(tg.float32)

    return call


@footgun(WORKS)
def another_thread(wrap):
    total = one()

    def step(x):
        total.add_(x)
        return total * 2

    step = wrap(step)

    def call(k):
        found = []
        thread = threading.Thread(target=lambda: found.append(step(one(k)).item()))
        thread.start()
        thread.join()
        return found

    return call


@footgun("cannot read values")
def printing_a_tensor(wrap):
    def step(x):
        str(x)
        return x * 2

    step = wrap(step)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def a_captured_function_inside(wrap):
    scale = {"by": 2.0}
    inner = wrap(lambda x: x * scale["by"])
    outer = wrap(lambda x: inner(x) + 1)

    def call(k):
        scale["by"] = 2.0 + k // 4
        return outer(one(k)).item()

    return call


@footgun(WORKS)
def tensors_deleted(wrap):
    table = {"w": one(2)}
    step = wrap(lambda x: x * table["w"])

    def call(k):
        if k % 4 == 3:
            del table["w"]
            table["w"] = one(k)
        return step(one()).item()

    return call


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

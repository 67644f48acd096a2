"""Footguns of captured functions: Python's state that they change: counters, lists, attributes."""

import collections

import pytest
from footguns import WORKS, Footguns, one

footgun = Footguns()


@footgun("'n' was")
def a_counter_in_a_dict(wrap):
    state = {"n": 0}

    def step(x):
        state["n"] += 1
        return x * state["n"]

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("was")
def a_counter_in_a_cell(wrap):
    n = 0

    def step(x):
        nonlocal n
        n += 1
        return x * n

    step = wrap(step)
    return lambda k: step(one()).item()


counter = 0


@footgun("'counter' was")
def a_global_counter(wrap):
    global counter
    counter = 0

    def step(x):
        global counter
        counter += 1
        return x * counter

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("was|has changed")
def a_counter_in_a_class(wrap):
    class Model:
        calls = 0

        def step(self, x):
            Model.calls += 1
            return x * (Model.calls // 3)

    step = wrap(Model().step)
    return lambda k: step(one()).item()


@footgun("was|has changed")
def a_counter_in_slots(wrap):
    class Model:
        __slots__ = ("calls",)

        def __init__(self):
            self.calls = 0

        def step(self, x):
            self.calls += 1
            return x * (self.calls // 3)

    step = wrap(Model().step)
    return lambda k: step(one()).item()


@footgun("length|was")
def a_mutable_default_argument(wrap):
    def step(x, seen=[]):  # noqa: B006
        seen.append(1)
        return x * (len(seen) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length|was")
def a_mutable_keyword_default(wrap):
    def step(x, *, seen={"n": 0}):  # noqa: B006
        seen["n"] += 1
        return x * (seen["n"] // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length")
def a_list_that_grows(wrap):
    history = []

    def step(x):
        history.append(1)
        return x * (len(history) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length|has")
def a_deque_and_a_set_that_grow(wrap):
    seen, last = set(), collections.deque(maxlen=3)

    def step(x):
        seen.add(len(seen))
        last.append(1)
        return x * (len(seen) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("'state' was a Tensor")
def an_attribute_swapped_for_a_new_tensor(wrap):
    class Cell:
        def __init__(self):
            self.state = one()

        def step(self, x):
            self.state = self.state * 0.5 + x
            return self.state * 1

    step = wrap(Cell().step)
    return lambda k: step(one()).item()


@footgun("was a Tensor|changed")
def a_tensor_in_a_dict_swapped(wrap):
    state = {"h": one()}

    def step(x):
        state["h"] = state["h"] * 0.5 + x
        return state["h"] * 1

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun(WORKS)
def state_written_in_place(wrap):
    state = one()

    def step(x):
        state.mul_(0.5).add_(x)
        return state * 1

    step = wrap(step)
    return lambda k: step(one()).item()


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

"""Footguns of captured functions: values that change between their calls."""

import dataclasses
import enum
import functools
import sys
import types

import numpy as np
import pytest
from footguns import WORKS, Footguns, one

import tapegrad as tg
from tapegrad import nn

footgun = Footguns()


@footgun(WORKS)
def an_attribute_changed_between_calls(wrap):
    config = types.SimpleNamespace(scale=1.0)
    step = wrap(lambda x: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_class_attribute_changed_between_calls(wrap):
    class Model:
        scale = 1.0

        def step(self, x):
            return x * self.scale

    step = wrap(Model().step)

    def call(k):
        Model.scale = 1.0 + k // 4
        return step(one()).item()

    return call


factor = 1.0


class ReadsAGlobal(nn.Module):
    def forward(self, x):
        return x * factor


@footgun(WORKS)
def a_global_that_a_method_reads(wrap):
    net = ReadsAGlobal()
    step = wrap(lambda x: net(x))

    def call(k):
        global factor
        factor = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_method_replaced_between_calls(wrap):
    class Model:
        def scale(self, x):
            return x * 2

        def step(self, x):
            return self.scale(x)

    step = wrap(Model().step)

    def call(k):
        if k == 5:
            Model.scale = lambda self, x: x * 3
        return step(one()).item()

    return call


settings = types.ModuleType("settings")
sys.modules.setdefault("settings_of_a_footgun", settings)


@footgun(WORKS)
def a_setting_in_a_module(wrap):
    settings.scale = 1.0
    step = wrap(lambda x: x * settings.scale)

    def call(k):
        settings.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_attribute_in_slots_changed_between_calls(wrap):
    @dataclasses.dataclass(slots=True)
    class Config:
        scale: float = 1.0

    config = Config()
    step = wrap(lambda x: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_partial_function(wrap):
    table = {"scale": 1.0}

    def scaled(table, x):
        return x * table["scale"]

    inner = functools.partial(scaled, table)
    step = wrap(lambda x: inner(x))

    def call(k):
        table["scale"] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_decorated_function(wrap):
    table = {"scale": 1.0}

    def decorate(function):
        @functools.wraps(function)
        def decorated(x):
            return function(x) * table["scale"]

        return decorated

    @decorate
    def add(x):
        return x + 1

    step = wrap(add)

    def call(k):
        table["scale"] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_array_of_numpy_that_changes(wrap):
    scales = np.ones(1, np.float32)
    step = wrap(lambda x: x * tg.tensor(scales))

    def call(k):
        scales[0] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_element_of_a_numpy_array(wrap):
    scales = np.ones(3)
    step = wrap(lambda x: x * float(scales[1]))

    def call(k):
        scales[1] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def memory_shared_with_numpy(wrap):
    scales = np.ones(1, np.float32)
    step = wrap(lambda x: x * tg.from_numpy(scales))

    def call(k):
        scales[0] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_set_that_changes(wrap):
    wanted = {"double"}
    step = wrap(lambda x: x * 2 if "double" in wanted else x)

    def call(k):
        (wanted.add if k % 4 < 2 else wanted.discard)("double")
        return step(one()).item()

    return call


@footgun(WORKS)
def zero_and_minus_zero(wrap):
    step = wrap(lambda x, y: 1 / (x * y))
    return lambda k: step(one(), 0.0 if k % 2 else -0.0).item()


@footgun(WORKS)
def plain_arguments_of_equal_value_and_other_type(wrap):
    step = wrap(lambda x, y: x + y)
    return lambda k: str(step(tg.tensor([1]), (1, 1.0, True)[k % 3]).dtype)


class Kind(enum.Enum):
    DOUBLE = 2
    TRIPLE = 3


@footgun(WORKS)
def an_enum_argument(wrap):
    step = wrap(lambda x, kind: x * kind.value)
    return lambda k: step(one(), (Kind.DOUBLE, Kind.TRIPLE)[k % 2]).item()


@footgun(WORKS)
def a_user_object_as_argument(wrap):
    class Config:
        scale = 1.0

    config = Config()
    step = wrap(lambda x, config: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one(), config).item()

    return call


@footgun(WORKS)
def an_array_as_argument(wrap):
    step = wrap(lambda x, y: x * float(y.sum()))
    return lambda k: step(one(), np.full(2, 1.0 + k // 3)).item()


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

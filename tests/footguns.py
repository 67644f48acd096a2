"""What goes wrong with captured functions elsewhere: here each either works or raises, and no number is silently wrong.

Each case makes a function of the call's number that uses a captured function; it is run uncaptured and captured, and
the results must be the same up to where the captured one raises what the case expects.
"""

import random

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim

F = nn.functional
WORKS = None


class Footguns:
    """The cases of one file."""

    def __init__(self):
        self.cases = {}

    def __call__(self, message):
        """Enter a case; ``message`` is what the error must say, WORKS where there must be none."""

        def enter(make):
            self.cases[make.__name__] = (make, message)
            return make

        return enter

    def check(self, name):
        make, message = self.cases[name]
        eager, no_error = outcome(make, lambda f: f)
        assert no_error is None
        captured, error = outcome(make, tg.compile)
        assert captured == eager[: len(captured)], "a silently wrong number"
        if message is WORKS:
            if error is not None:
                raise error
        else:
            with pytest.raises(RuntimeError, match=message):
                raise error or AssertionError("it did not raise")
        assert tg.compile(lambda x: x + 1)(tg.ones(1)).item() == 2  # the library goes on


def outcome(make, wrap, calls=20):
    tg.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    found, error = [], None
    call = make(wrap)
    try:
        for k in range(calls):
            found.append(call(k))
    except Exception as raised:
        error = raised
    return found, error


def one(value=1.0):
    return tg.tensor([float(value)])


def model(optimizer=lambda p: optim.SGD(p, lr=0.1, momentum=0.9)):
    net = nn.Linear(2, 1)
    return net, optimizer(net.parameters())


def steps(wrap, net, opt, zero=True):
    def step(x):
        if zero:
            opt.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    return wrap(step)


def batch(k):
    return tg.tensor([[1.0 + k % 3, -0.5]])

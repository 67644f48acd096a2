"""Footguns of captured functions: hooks and custom functions."""

import numpy as np
import pytest
from footguns import WORKS, Footguns, batch, model, one, steps

import tapegrad as tg
from tapegrad import nn

footgun = Footguns()


@footgun(WORKS)
def a_module_hook_added_later(wrap):
    net = nn.Linear(2, 1)
    step = wrap(lambda x: net(x))

    def call(k):
        if k == 5:
            net.register_forward_hook(lambda module, args, output: output * 2)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_tensor_hook_added_later(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 5:
            net.weight.register_hook(lambda g: g * 0.5)
        if k == 8:
            net.weight.register_hook(lambda g: g * 0.5)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimiser_hook_added_later(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def halve(optimizer, args, kwargs):
        for p in net.parameters():
            p.grad.mul_(0.5)

    def call(k):
        if k == 5:
            opt.register_step_pre_hook(halve)
        return step(batch(k)).item()

    return call


@footgun("length|has")
def a_hook_with_side_effects(wrap):
    net, seen = nn.Linear(2, 1), []
    net.register_forward_hook(lambda module, args, output: seen.append(1))
    step = wrap(lambda x: net(x) * (len(seen) // 3))
    return lambda k: step(batch(k)).item()


class Doubled(tg.autograd.Function):
    scale = 2.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * Doubled.scale

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * Doubled.scale + 0 * x


@footgun(WORKS)
def a_custom_function(wrap):
    weight = one(3).requires_grad_()

    def step(x):
        weight.grad = None
        Doubled.apply(weight * x).sum().backward()
        return weight.grad * 1

    step = wrap(step)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def a_custom_function_that_changes(wrap):
    step = wrap(lambda x: Doubled.apply(x))

    def call(k):
        Doubled.scale = 2.0 + (k // 4) * (k < 19)
        result = step(one(k)).item()
        Doubled.scale = 2.0
        return result

    return call


@footgun("cannot read values")
def a_custom_function_in_numpy(wrap):
    class Sine(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return tg.from_numpy(np.sin(x.numpy()))

        @staticmethod
        def backward(ctx, g):
            return g

    step = wrap(lambda x: Sine.apply(x))
    return lambda k: step(one(k)).item()


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

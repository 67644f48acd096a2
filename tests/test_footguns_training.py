"""Footguns of captured functions: gradients and parameters, and what is done with a model between steps."""

import pytest
from footguns import WORKS, Footguns, batch, model, one, steps

import tapegrad as tg
from tapegrad import nn, optim

footgun = Footguns()


@footgun(WORKS)
def gradients_read_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    return lambda k: (step(batch(k)).item(), net.weight.grad.tolist())


@footgun(WORKS)
def gradients_kept_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    kept = []

    def call(k):
        step(batch(k))
        kept.append(net.weight.grad.clone())
        return [g.tolist() for g in kept]

    return call


@footgun(WORKS)
def gradients_changed_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt, zero=False)

    def call(k):
        if net.weight.grad is not None:
            net.weight.grad.mul_(0.5)
        if k == 6:
            net.weight.grad = tg.ones(1, 2)
        if k == 8:
            net.bias.grad = None
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_parameter_replaced(wrap):
    net, _ = model()

    def make(x):
        return net(x)

    step = wrap(make)

    def call(k):
        if k % 4 == 3:
            net.weight = nn.Parameter(tg.full((1, 2), float(k)))
        return step(batch(k)).tolist()

    return call


@footgun(WORKS)
def the_data_of_a_parameter_replaced(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k % 5 == 4:
            net.weight.data = tg.full((1, 2), 0.25 * k)
        return step(batch(k)).item(), net.weight.tolist()

    return call


@footgun(WORKS)
def parameters_loaded(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    saved = {name: value.clone() for name, value in net.state_dict().items()}

    def call(k):
        if k % 5 == 4:
            net.load_state_dict(saved)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def requires_grad_toggled(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        net.bias.requires_grad_(k % 5 < 3)
        return step(batch(k)).item(), net.bias.tolist()

    return call


@footgun(WORKS)
def training_and_evaluation(wrap):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    step = wrap(lambda x: net(x))

    def call(k):
        net.train(k % 6 < 3)
        if k == 9:
            net[2].p = 0.9
        return step(tg.arange(8.0).reshape(4, 2) * (1 + k)).tolist(), net[1].running_mean.tolist()

    return call


@footgun(WORKS)
def steps_outside_between_steps_inside(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    inside, outside = steps(wrap, net, opt), steps(lambda f: f, net, opt)
    return lambda k: (outside if k % 4 == 3 else inside)(batch(k)).item()


@footgun(WORKS)
def two_captured_functions_of_one_model(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    first, second = steps(wrap, net, opt), steps(wrap, net, opt)
    return lambda k: (first if k % 2 else second)(batch(k)).item()


@footgun(WORKS)
def other_batch_sizes_between(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    step = steps(wrap, net, opt)
    return lambda k: step(tg.full((1 + k % 3, 2), 0.1 * k)).item()


@footgun(WORKS)
def an_average_of_parameters_in_place(wrap):
    net, opt = model()
    mean = [p.detach().clone() for p in net.parameters()]

    def step(x):
        opt.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        opt.step()
        with tg.no_grad():
            for a, p in zip(mean, net.parameters(), strict=True):
                a.mul_(0.9).add_(p, alpha=0.1)
        return loss

    step = wrap(step)
    return lambda k: (step(batch(k)).item(), mean[0].tolist())


@footgun("assigning .data")
def data_swapped_inside(wrap):
    weight = one(2)

    def step(x):
        weight.data = weight.data * 0.5 + x
        return weight * 1

    step = wrap(step)
    return lambda k: step(one()).item()


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

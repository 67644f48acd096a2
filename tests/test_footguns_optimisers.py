"""Footguns of captured functions: optimisers' states, groups and numbers, and their schedules."""

import pytest
from footguns import WORKS, Footguns, batch, model, one, steps

import tapegrad as tg
from tapegrad import nn, optim

footgun = Footguns()


@footgun(WORKS)
def an_optimisers_state_loaded(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    saved = {}

    def call(k):
        if k == 1:
            saved.update(opt.state_dict())
            saved["state"] = {n: {key: v.clone() for key, v in s.items()} for n, s in saved["state"].items()}
        if k in (6, 9):
            opt.load_state_dict(saved)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_state_cleared(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 6:
            opt.state.clear()
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_state_tensor_replaced(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 6:
            opt.state[net.weight]["momentum_buffer"] = tg.ones(1, 2)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_numbers_changed(wrap):
    net, opt = model(lambda p: optim.AdamW(p, lr=0.1))
    step = steps(wrap, net, opt)

    def call(k):
        group = opt.param_groups[0]
        group["lr"] = 0.1 / (1 + k)
        if k == 5:
            group["betas"] = (0.5, 0.9)
        if k == 7:
            group["weight_decay"] = 0.3
        if k == 9:
            group["amsgrad"] = False
            group["maximize"] = True
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def weight_decay_switched_on(wrap):
    net, opt = model(lambda p: optim.SGD(p, lr=0.1))
    step = steps(wrap, net, opt)

    def call(k):
        group = opt.param_groups[0]
        if k == 5:
            group["weight_decay"] = 0.3
        if k == 7:
            group["momentum"] = 0.9
        if k == 9:
            group["nesterov"] = True
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_group_added(wrap):
    net, opt = model()
    extra = nn.Parameter(one())

    def step(x):
        opt.zero_grad()
        loss = ((net(x) + extra) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    step = wrap(step)

    def call(k):
        if k == 5:
            opt.add_param_group({"params": [extra], "lr": 0.5})
        return step(batch(k)).item()

    return call


@footgun("cannot read values")
def a_learning_rate_in_a_tensor(wrap):
    rate = tg.tensor(0.1)
    net, opt = model(lambda p: optim.Adam(p, lr=rate))
    step = steps(wrap, net, opt)

    def call(k):
        if k % 4 == 3:
            rate.mul_(0.5)
        return step(batch(k)).item()

    return call


@footgun("LBFGS.step.* at .*the closure, once")
def lbfgs_inside(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.LBFGS([weight], max_iter=3)

    def step(x):
        def closure():
            opt.zero_grad()
            loss = ((weight - x) ** 2).sum()
            loss.backward()
            return loss

        return opt.step(closure)

    step = wrap(step)
    return lambda k: step(tg.zeros(3)).item()


@footgun(WORKS)
def the_closure_of_lbfgs(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.LBFGS([weight], max_iter=3, lr=0.1)

    def closure():
        opt.zero_grad()
        loss = ((weight - 2) ** 4).sum()
        loss.backward()
        return loss

    closure = wrap(closure)
    return lambda k: opt.step(closure).item()


def scheduled(wrap, schedule, use):
    """Return a call of a step that uses its optimiser's and its schedule's state, with the schedule outside of it."""
    weight = tg.ones(3, requires_grad=True)
    opt = optim.SGD([weight], lr=0.5)
    scheduler = schedule(opt)

    def step(x):
        opt.zero_grad()
        loss = (weight * x).sum()
        loss.backward()
        opt.step()
        return loss + use(opt, scheduler)

    step = wrap(step)

    def call(k):
        found = step(tg.ones(3)).item()
        scheduler.step()
        return found

    return call


@footgun(WORKS)
def a_learning_rate_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: o.param_groups[0]["lr"])


@footgun(WORKS)
def the_last_learning_rate_of_a_schedule_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: s.get_last_lr()[0])


@footgun("'last_epoch' was")
def the_count_of_a_schedule_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: s.last_epoch // 3)


@footgun("'lr' was")
def a_learning_rate_changed_by_hand_in_the_function(wrap):
    def use(opt, scheduler):
        for group in opt.param_groups:
            group["lr"] *= 0.75
        return 0

    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 100), use)


@footgun(WORKS)
def a_schedule_of_ones_own_inside(wrap):
    class Mine(optim.lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

        def step(self, epoch=None):
            super().step(epoch)
            self.extra = self.last_epoch

    return scheduled(wrap, Mine, lambda o, s: s.step() or 0)


@footgun("before its optimiser")
def a_schedule_that_steps_before_its_optimiser(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.SGD([weight], lr=0.5)
    scheduler = optim.lr_scheduler.ExponentialLR(opt, 0.9)
    opt.step()

    def step(x):
        opt.zero_grad()
        (weight * x).sum().backward()
        scheduler.step()
        opt.step()
        return weight.sum()

    step = wrap(step)
    return lambda k: step(tg.ones(3)).item()


@footgun(WORKS)
def two_optimisers_with_schedules_of_their_own(wrap):
    weights = [tg.ones(3, requires_grad=True) for _ in range(2)]
    opts = [optim.SGD([weight], lr=0.5) for weight in weights]
    schedulers = [optim.lr_scheduler.ExponentialLR(opt, 0.9) for opt in opts]

    def step(x):
        for weight, opt, scheduler in zip(weights, opts, schedulers, strict=True):
            opt.zero_grad()
            (weight * x).sum().backward()
            opt.step()
            scheduler.step()
        return weights[0].sum() + weights[1].prod()

    step = wrap(step)
    return lambda k: step(tg.ones(3)).item()


@footgun(WORKS)
def a_schedule_of_warm_restarts_inside(wrap):
    restarts = lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3)  # noqa: E731
    return scheduled(wrap, restarts, lambda o, s: s.step() or 0)


@footgun(WORKS)
def parameters_of_groups_clipped_in_the_function(wrap):
    def use(opt, scheduler):
        for group in opt.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        return 0

    return scheduled(wrap, lambda o: optim.lr_scheduler.ExponentialLR(o, 0.9), use)


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

"""Footguns of captured functions: what goes into them and what comes out."""

import numpy as np
import pytest
from footguns import WORKS, Footguns, one

import tapegrad as tg

footgun = Footguns()


@footgun(WORKS)
def an_in_place_write_to_an_input(wrap):
    def step(x):
        x += 1
        return x * 2

    step = wrap(step)
    kept = one()
    return lambda k: (step(kept).item(), kept.item())


@footgun(WORKS)
def a_result_kept_by_the_caller(wrap):
    step = wrap(lambda x: x * 2)
    kept = []

    def call(k):
        kept.append(step(one(k)))
        return [y.item() for y in kept]

    return call


@footgun(WORKS)
def an_argument_twice(wrap):
    step = wrap(lambda x, y: x.mul_(2) + y)
    return lambda k: step(*([one()] * 2)).item() if k == 4 else step(one(), one()).item()


@footgun("share memory|shares memory")
def an_argument_that_is_a_view_of_another(wrap):
    step = wrap(lambda x, y: x.mul_(2) + y)

    def call(k):
        base = tg.ones(3)
        return step(base[:2], base[1:]).tolist() if k == 4 else step(tg.ones(2), tg.ones(2)).tolist()

    return call


@footgun(WORKS)
def an_argument_that_is_also_found(wrap):
    weight = one(2)

    def step(x):
        weight.mul_(1.5)
        return x * weight

    step = wrap(step)
    return lambda k: step(weight if k == 4 else one()).item()


@footgun(WORKS)
def an_argument_that_becomes_found_without_writes(wrap):
    weight = one(2)
    step = wrap(lambda x: x * weight)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def strides_and_offsets_of_an_input(wrap):
    step = wrap(lambda x: (x * tg.arange(3.0)).sum())
    base = tg.arange(60.0)
    return lambda k: step(base[k : k + 9 : 3] if k % 2 else base[k : k + 3]).item()


@footgun("argument")
def an_input_that_requires_gradients(wrap):
    weight = one(3).requires_grad_()

    def step(x):
        weight.grad = None
        (x * weight).sum().backward()
        return weight.grad * 1

    step = wrap(step)

    def call(k):
        x = one(k).requires_grad_(k % 3 == 0)
        return step(x).item()

    return call


@footgun("argument")
def the_gradient_of_an_argument(wrap):
    def step(x):
        (x * x).sum().backward()

    step = wrap(step)

    def call(k):
        x = one(k).requires_grad_()
        step(x)
        return x.grad.item()

    return call


@footgun("argument")
def backward_into_the_graph_of_an_argument(wrap):
    weight = one(2).requires_grad_()

    def step(x):
        (x * x).sum().backward()

    step = wrap(step)

    def call(k):
        weight.grad = None
        step(weight * k)
        return weight.grad.item()

    return call


@footgun("does not require grad")
def backward_from_a_result(wrap):
    weight = one(2).requires_grad_()
    step = wrap(lambda x: (x * weight).sum())

    def call(k):
        weight.grad = None
        step(one(k)).backward()
        return weight.grad.item()

    return call


@footgun(WORKS)
def a_result_that_is_a_parameter(wrap):
    weight = one(2)

    def step(x):
        weight.add_(x)
        return weight

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun(WORKS)
def one_tensor_given_twice(wrap):
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        x = one(k)
        return step(x, x if k % 3 else one(2)).item(), x.item()

    return call


@footgun("tensors 0 and 1 of the call")
def two_views_of_one_tensor(wrap):
    step = wrap(lambda x, y: x * y)
    return lambda k: step(*tg.full((4,), float(k)).chunk(2)).tolist()


@footgun(WORKS)
def two_views_of_one_tensor_after_others(wrap):
    step = wrap(lambda x, y: x * y)

    def call(k):
        x, y = tg.full((2,), float(k)), tg.arange(2.0)
        return step(*(tg.cat([x, y]).chunk(2) if k > 5 else (x, y))).tolist()

    return call


@footgun("tensors 0 and 1 of the call")
def two_views_of_one_tensor_one_of_them_written(wrap):
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        whole = tg.full((3,), float(k))
        x, y = (whole[:2], whole[1:]) if k > 5 else (whole[:2], whole[1:] * 1)
        return step(x, y).tolist()

    return call


@footgun(WORKS)
def a_view_of_an_argument_returned(wrap):
    step = wrap(lambda x: (x[0], x.sum(), x.T, x.detach()))
    return lambda k: [t.tolist() for t in step(tg.full((2, 2), float(k)))]


@footgun("another tensor, made of the same NumPy array")
def tensors_over_one_numpy_array(wrap):
    numbers = np.zeros(8, np.float32)
    a, b = tg.from_numpy(numbers[:6]), tg.from_numpy(numbers[2:])

    def step(x):
        before = b * 2
        a.add_(x)
        return (before + b * 2).sum()

    step = wrap(step)
    return lambda k: step(tg.ones(6)).item()


@footgun("another tensor, made of the same NumPy array")
def arguments_over_one_numpy_array(wrap):
    numbers = np.zeros(8, np.float32)
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        apart = tg.from_numpy(numbers[2:]) if k > 5 else tg.from_numpy(numbers[2:].copy())
        return step(tg.from_numpy(numbers[:6]), apart).tolist()

    return call


@pytest.mark.parametrize("name", footgun.cases)
def test_footgun(name):
    footgun.check(name)

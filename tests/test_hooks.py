"""Hooks on tensors: order, replacement, errors, nested sweeps, removal; each run on torch too."""

import gc
import weakref

import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine

torch = pytest.importorskip("torch")

BOTH = pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])


def leaf(T, values=(2.0, 3.0)):
    return T.tensor(list(values), requires_grad=True)


@BOTH
def test_hooks_see_and_replace_in_order(T):
    x = leaf(T)
    y = x * x
    seen = []
    y.register_hook(lambda g: seen.append(("first", g.tolist())))
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(("third", g.tolist())))
    x.register_hook(lambda g: seen.append(("leaf", g.tolist())) or g + 1)
    y.sum().backward()
    assert seen == [("first", [1, 1]), ("third", [10, 10]), ("leaf", [40, 60])]
    assert x.grad.tolist() == [41, 61]


@BOTH
def test_a_hook_sees_the_finished_gradient_once(T):
    x = leaf(T)
    y = x * 1
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    (y * 2 + y * 3 + y).sum().backward()
    assert seen == [[6, 6]]


@BOTH
def test_retained_gradient_is_the_one_after_all_hooks(T):
    x = leaf(T)
    y = x * 1
    y.retain_grad()
    y.register_hook(lambda g: g * 5)
    y.sum().backward()
    assert y.grad.tolist() == [5, 5]


@BOTH
def test_removal(T):
    x = leaf(T)
    handle = x.register_hook(lambda g: g * 2)
    x.sum().backward()
    handle.remove()
    handle.remove()
    x.sum().backward()
    assert x.grad.tolist() == [3, 3]
    with x.register_hook(lambda g: g * 100):
        pass
    x.sum().backward()
    assert x.grad.tolist() == [4, 4]


@BOTH
def test_a_hook_that_removes_itself(T):
    x = leaf(T)
    handles = []
    handles.append(x.register_hook(lambda g: handles[0].remove() or g * 2))
    x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [3, 3]


@BOTH
@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (lambda T, g: 3, TypeError, "hook returned 'int'"),
        (lambda T, g: T.ones(5), RuntimeError, "has changed the size of value"),
        (lambda T, g: 1 // 0, ZeroDivisionError, "zero"),
    ],
)
def test_hooks_that_fail_leave_the_state_intact(T, hook, error, message):
    x = leaf(T)
    y = x * x
    handle = y.register_hook(lambda g: hook(T, g))
    with pytest.raises(error, match=message):
        (y * y).sum().backward(retain_graph=True)
    assert T.is_grad_enabled()
    handle.remove()
    x.grad = None
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]


@BOTH
def test_where_hooks_may_not_be(T):
    with pytest.raises(RuntimeError, match="cannot register a hook on a tensor that doesn't require gradient"):
        T.ones(2).register_hook(lambda g: g)
    with pytest.raises(RuntimeError, match="post accumulate grad hooks cannot be registered on non-leaf tensors"):
        (leaf(T) * 1).register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(RuntimeError, match="can't retain_grad on Tensor that has requires_grad=False"):
        T.ones(2).retain_grad()


@BOTH
def test_hooks_after_accumulation_see_the_sum(T):
    x = leaf(T)
    seen = []

    def step(p):
        seen.append((p is x, p.grad.tolist()))
        p.grad = None

    x.register_post_accumulate_grad_hook(step)
    (x * x).sum().backward()
    (x * x * x).sum().backward()
    assert seen == [(True, [4, 6]), (True, [12, 27])]
    assert x.grad is None


@BOTH
def test_backward_inside_a_hook(T):
    """A nested sweep over another graph with the same leaf: both contributions arrive."""
    x = leaf(T)
    y = x * x

    def nested(g):
        with T.enable_grad():
            (x * 10).sum().backward()

    y.register_hook(nested)
    (y + x * 3).sum().backward()
    assert x.grad.tolist() == [17, 19]


@BOTH
def test_grad_inside_a_hook(T):
    x = leaf(T)
    y = x * 2

    def replace(g):
        with T.enable_grad():
            z = leaf(T)
            (slope,) = T.autograd.grad((z * z * z).sum(), z)
        return g * slope

    y.register_hook(replace)
    (y * y).sum().backward()
    assert x.grad.tolist() == [16 * 12, 24 * 27]


@BOTH
def test_a_sweep_in_a_hook_of_a_selective_one(T):
    a, b = leaf(T), leaf(T)
    y = a * b
    others = []

    def nested(g):
        with T.enable_grad():
            others.extend(T.autograd.grad((b * b * 2).sum(), [b, a], allow_unused=True))

    y.register_hook(nested)
    (g,) = T.autograd.grad((y * a).sum(), [a])
    assert g.tolist() == [8, 18]
    assert others[0].tolist() == [8, 12] and others[1] is None


@BOTH
def test_hooks_with_create_graph(T):
    x = leaf(T)
    y = x * x
    y.register_hook(lambda g: g * x)
    (g,) = T.autograd.grad(y.sum(), x, create_graph=True)
    assert g.tolist() == [8, 18]
    (h,) = T.autograd.grad(g.sum(), x)
    assert h.tolist() == [8, 12]


@BOTH
def test_hook_on_an_unused_or_detached_tensor_is_not_called(T):
    x = leaf(T)
    y = x * 2
    seen = []
    y.register_hook(lambda g: seen.append(g))
    (x * 3).sum().backward()
    assert seen == []


def test_hook_after_the_tensor_object_is_gone():
    x = leaf(tg)
    y = x * 1
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.retain_grad()
    z = (y * y).sum()
    del y
    z.backward()
    assert seen == [[4, 6]]


def test_post_hook_after_the_leaf_object_is_gone():
    x = leaf(tg)
    seen = []
    x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.tolist()))
    z = (x * x).sum()
    del x
    gc.collect()
    z.backward()
    assert seen == [[4, 6]]


def test_hooks_of_dead_tensors_are_forgotten():
    x = leaf(tg)
    references = []
    for _ in range(1000):
        hook = type("Hook", (), {"__call__": lambda self, g: None})()
        references.append(weakref.ref(hook))
        (x * 1).register_hook(hook)
        del hook
    assert sum(reference() is not None for reference in references) <= 130


def test_a_slot_used_again_has_no_hooks():
    x = leaf(tg)
    (x * 1).register_hook(lambda g: g * 1000)
    for _ in range(50):
        y = x * 1
        y.sum().backward()
        del y
    assert x.grad.tolist() == [50, 50]


def test_state_after_an_error_in_a_nested_sweep():
    x = leaf(tg)
    y = x * x

    def nested(g):
        with tg.enable_grad():
            z = x * x
            z.register_hook(lambda g: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                z.sum().backward()

    y.register_hook(nested)
    (y * y).sum().backward()
    assert x.grad.tolist() == [32, 108]
    assert int(machine.state["sweeping"]) == 0 and int(machine.state["pending"]) == 0
    assert (machine.table("slots")["cotangent"][machine.table("slots")["refs"] > 0] < 0).all()

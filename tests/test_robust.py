"""Odd and hostile uses end in an exception and leave everything as it was."""

from __future__ import annotations

import pytest

import tapegrad as tg
from tapegrad.ops.registry import registry
from tapegrad.runtime.machine import machine


def test_many_leaves_get_their_gradients() -> None:
    leaves = [tg.tensor(1.0, requires_grad=True) for _ in range(6000)]
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total + leaf
    total.backward()
    assert all(leaf.grad.item() == 1.0 for leaf in leaves)


@pytest.mark.parametrize("call", [tg.add, tg.mul, tg.maximum, tg.Tensor.add_, tg.Tensor.mul_])
def test_none_is_no_operand(call) -> None:
    x = tg.tensor([1.0, 2.0])
    with pytest.raises((TypeError, RuntimeError)):
        call(x, None)
    with pytest.raises((TypeError, RuntimeError)):
        x += None
    assert x.tolist() == [1.0, 2.0]


def test_ints_beyond_64_bits() -> None:
    before = int(machine.state["bytes_live"])
    for value in (2**70, -(2**70)):
        with pytest.raises((RuntimeError, OverflowError)):
            tg.ones(2) + value
    with pytest.raises((RuntimeError, OverflowError)):
        tg.empty(2**64)
    assert int(machine.state["bytes_live"]) == before
    assert (tg.ones(1) + 1).item() == 2.0


def test_a_sweep_that_is_interrupted_leaves_the_graph_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tg.ones(3, requires_grad=True)
    y = (x * 2).sum()

    def interrupted(*args: int) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        _ = machine.sweep
        patch.setitem(machine.__dict__, "sweep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            y.backward()
    y.backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_a_context_does_not_outlive_its_graph() -> None:
    kept = []

    class Double(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, g):
            kept.append(ctx)
            assert ctx.saved_tensors[0].shape == (3,)
            return g * 2

    x = tg.ones(3, requires_grad=True)
    y = Double.apply(x * 5.0)
    y.sum().backward(retain_graph=True)
    del y
    with pytest.raises(RuntimeError):
        _ = kept[0].saved_tensors


def test_hooks_keep_the_dtype() -> None:
    x = tg.ones(2, requires_grad=True)
    x.register_hook(lambda g: g.double())
    with pytest.raises(RuntimeError, match="type of value"):
        (x * 2).sum().backward()


def test_inputs_that_a_hook_rebinds() -> None:
    x = tg.ones(2, requires_grad=True)
    y = x * 1

    def rebind(g: tg.Tensor) -> None:
        with tg.enable_grad():
            y.mul_(2)

    y.register_hook(rebind)
    (found,) = tg.autograd.grad((y * 3).sum(), y)
    assert found.tolist() == [3.0, 3.0]


def test_a_function_is_not_defined_twice_unawares():
    from tapegrad.ops.calls import function, functions

    def relu(input):
        return input

    before = functions["relu"]
    with pytest.raises(ValueError, match="'relu' is defined twice"):
        function(method=False)(relu)
    assert functions["relu"] is before


def test_operands_stay_while_another_thread_replaces_them_during_a_compilation(monkeypatch) -> None:
    """What an op has been given is let go, and its memory used again, before the op's kernel is there."""
    op = registry["hypot"]
    machine.kernels[op.code] = 0
    x = tg.tensor([3.0])
    resolve = machine.resolve
    other, others = tg.tensor([1.0]), []

    def interrupted(code: int, dtype: int, result_dtype: int) -> int:
        monkeypatch.setattr(machine, "resolve", resolve)
        machine.rebind(x._handle, other._handle)
        others.extend(tg.full((1,), 7.0) for _ in range(9))
        return resolve(code, dtype, result_dtype)

    monkeypatch.setattr(machine, "resolve", interrupted)
    assert tg.hypot(x, tg.tensor([4.0])).item() == 5.0
    assert x.item() == 1.0

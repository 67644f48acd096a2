"""gradcheck and gradgradcheck find wrong gradients and pass right ones, as torch's do."""

import sys

import pytest

import tapegrad as tg

torch = pytest.importorskip("torch")

BOTH = pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])


def leaf(T, values=(0.5, 1.5)):
    return T.tensor(list(values), dtype=T.float64, requires_grad=True)


def make(T, forward, backward):
    return type(
        "Made", (T.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    ).apply


def cube(T, factor):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return factor * x * x * g

    return make(T, forward, backward)


def error_of(T):
    return T.autograd.GradcheckError if T is tg else sys.modules["torch.autograd.gradcheck"].GradcheckError


@BOTH
def test_right_gradients_pass(T):
    check = T.autograd.gradcheck
    assert check(lambda x: x * x * x, (leaf(T),))
    assert check(lambda x, y, k: (x * y * k, x.sum()), (leaf(T), leaf(T), 3))
    assert check(cube(T, 3), leaf(T))
    assert T.autograd.gradgradcheck(cube(T, 3), leaf(T))


@pytest.mark.parametrize("order", ["gradcheck", "gradgradcheck"])
def test_every_order_is_checked(order):
    check = getattr(tg.autograd, order)
    with pytest.raises(tg.autograd.GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0"):
        check(cube(tg, 2), leaf(tg)) if order == "gradcheck" else check(first_right(), leaf(tg))
    assert not (
        check(cube(tg, 2), leaf(tg), raise_exception=False)
        if order == "gradcheck"
        else check(first_right(), leaf(tg), raise_exception=False)
    )


def first_right():
    """Return x^2 with a gradient that is right but whose own is not: it takes x for a constant."""

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0].detach() * g

    return make(tg, forward, backward)


@BOTH
def test_a_gradient_that_is_not_multiplied(T):
    bad = make(T, lambda ctx, x: x.sum(), lambda ctx, g: T.ones(2, dtype=T.float64))
    with pytest.raises(error_of(T), match="not multiplied by grad_output"):
        T.autograd.gradcheck(bad, (leaf(T),))


@BOTH
def test_a_backward_that_differs_from_run_to_run(T):
    calls = []

    def backward(ctx, g):
        calls.append(1)
        return g * (2 + 1e-9 * len(calls))

    bad = make(T, lambda ctx, x: x * 2, backward)
    with pytest.raises(error_of(T), match="Backward is not reentrant"):
        T.autograd.gradcheck(bad, (leaf(T),))
    assert T.autograd.gradcheck(bad, (leaf(T),), nondet_tol=1e-3)


@BOTH
def test_inputs_that_cannot_be_checked(T):
    check = T.autograd.gradcheck
    with pytest.raises(ValueError, match="gradcheck expects at least one input tensor to require gradient"):
        check(lambda x: x, (leaf(T).detach(),))
    with pytest.warns(UserWarning, match="Input #0 requires gradient and is not a double precision"):
        check(lambda x: x * 2, (leaf(T).float().detach().requires_grad_(),), eps=1e-2, atol=1e-2)
    wide = T.ones(1, dtype=T.float64).expand(3).requires_grad_()
    with pytest.raises(RuntimeError, match="The 0th input has a dimension with stride 0"):
        check(lambda x: x * 2, (wide,))


def test_outputs_without_gradient_must_not_depend_on_the_input():
    with pytest.raises(tg.autograd.GradcheckError, match="expected to be zero"):
        tg.autograd.gradcheck(lambda x: (x * 2, x.detach() * 3), (leaf(tg),))
    assert tg.autograd.gradcheck(lambda x: (x * 2, x.detach() * 0), (leaf(tg),))


def test_missing_cotangents_must_be_handled():
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    def backward(ctx, g, h):
        return g * 2 if h is None else h * 3 if g is None else g * 2 + h * 3 + (h == 0).double()

    with pytest.raises(tg.autograd.GradcheckError, match=r"undefined output grads|mismatch|not multiplied"):
        tg.autograd.gradcheck(make(tg, forward, backward), (leaf(tg),))

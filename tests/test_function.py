"""Custom Functions: each rule of torch's, run on both libraries."""

import gc
import weakref

import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine

torch = pytest.importorskip("torch")

BOTH = pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])


def leaf(T, values=(2.0, 3.0)):
    return T.tensor(list(values), requires_grad=True)


def make(T, forward, backward, **more):
    """Return a new subclass of T's Function."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Made", (T.autograd.Function,), members | {name: staticmethod(body) for name, body in more.items()})


def square(T, seen=None):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        if seen is not None:
            seen.append(weakref.ref(ctx))
        return x * x

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g

    return make(T, forward, backward)


@BOTH
def test_first_and_higher_orders(T):
    x = leaf(T)
    f = square(T)
    y = f.apply(x)
    assert y.grad_fn.name() == "MadeBackward" and y.requires_grad
    (g,) = T.autograd.grad(y.sum(), x, create_graph=True)
    assert g.tolist() == [4, 6]
    (h,) = T.autograd.grad((g * g).sum(), x, create_graph=True)
    assert h.tolist() == [16, 24]
    (third,) = T.autograd.grad(h.sum(), x)
    assert third.tolist() == [8, 8]


@BOTH
def test_nothing_is_recorded_where_nothing_requires_a_gradient(T):
    f = square(T)
    assert f.apply(T.ones(2)).grad_fn is None
    with T.no_grad():
        assert f.apply(leaf(T)).grad_fn is None


@BOTH
def test_forward_runs_without_recording_and_backward_with_create_graph_only(T):
    modes = []

    def forward(ctx, x):
        modes.append(T.is_grad_enabled())
        return x * 1

    def backward(ctx, g):
        modes.append(T.is_grad_enabled())
        return g

    y = make(T, forward, backward).apply(leaf(T)).sum()
    x = leaf(T)
    z = make(T, forward, backward).apply(x).sum()
    y.backward()
    T.autograd.grad(z, x, create_graph=True)
    assert modes == [False, False, False, True]


@BOTH
def test_separate_setup_of_the_context(T):
    def forward(x, k=2, *, scale=1):
        return x * k

    def setup_context(ctx, inputs, output):
        ctx.k = inputs[1]

    f = make(T, lambda x, k=2: x * k, lambda ctx, g: (g * ctx.k, None), setup_context=setup_context)
    x = leaf(T)
    (f.apply(x) + f.apply(x, k=3)).sum().backward()
    assert x.grad.tolist() == [5, 5]


@BOTH
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda T, g: g, r"function MadeBackward returned an incorrect number of gradients \(expected 2, got 1\)"),
        (lambda T, g: (g, g, g), r"incorrect number of gradients \(expected 2, got 3\)"),
        (
            lambda T, g: (g, g),
            "returned a gradient different than None at position 2, but the corresponding forward input",
        ),
        (lambda T, g: (3, None), r"expected Variable or None \(got int\)"),
        (
            lambda T, g: (T.ones(3), None),
            r"Function MadeBackward returned an invalid gradient at index 0 - got \[3\] but expected shape compatible",
        ),
    ],
)
def test_wrong_gradients(T, answer, message):
    f = make(T, lambda ctx, x, k: x * k, lambda ctx, g: answer(T, g))
    x = leaf(T)
    with pytest.raises(RuntimeError, match=message):
        f.apply(x, 2).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]


@BOTH
def test_further_nones_are_ignored_and_gradients_are_summed_to_shape(T):
    f = make(T, lambda ctx, x, k: x * k, lambda ctx, g: (T.ones(3, 2), None, None, None))
    x = leaf(T)
    f.apply(x, 2).sum().backward()
    assert x.grad.tolist() == [3, 3]


@BOTH
def test_missing_gradient(T):
    f = make(T, lambda ctx, x, y: x * y, lambda ctx, g: (g, None))
    x, y = leaf(T), leaf(T)
    f.apply(x, y).sum().backward()
    assert x.grad.tolist() == [1, 1] and y.grad is None


@BOTH
def test_needs_input_grad(T):
    f = make(
        T,
        lambda ctx, *args: args[0] * 1,
        lambda ctx, g: (g * (ctx.needs_input_grad == (True, False, False)), None, None),
    )
    x = leaf(T)
    f.apply(x, T.ones(2), 3).sum().backward()
    assert x.grad.tolist() == [1, 1]


@BOTH
@pytest.mark.parametrize("count", [2, 3, 4, 20])
def test_many_outputs(T, count):
    def forward(ctx, x):
        return tuple(x * k for k in range(count))

    def backward(ctx, *gradients):
        return sum(k * g for k, g in enumerate(gradients))

    f = make(T, forward, backward)
    x = leaf(T)
    outputs = f.apply(x)
    assert [output.output_nr for output in outputs] == list(range(count))
    (outputs[1] * 2 + outputs[-1]).sum().backward()
    assert x.grad.tolist() == [2 + count - 1] * 2


@BOTH
def test_results_that_no_gradient_reaches_are_zeros_or_none(T):
    seen = []

    def forward(ctx, x, materialize):
        ctx.set_materialize_grads(materialize)
        return x * 1, x * 2, "text", T.tensor([1])

    def backward(ctx, *gradients):
        seen.append([g if g is None else g.tolist() for g in gradients])
        return gradients[0], None

    f = make(T, forward, backward)
    for materialize in (True, False):
        outputs = f.apply(leaf(T), materialize)
        assert outputs[2] == "text" and not outputs[3].requires_grad
        outputs[0].sum().backward()
    assert seen == [[[1, 1], [0, 0], None, [0]], [[1, 1], None, None, None]]


@BOTH
def test_results_without_derivative(T):
    def forward(ctx, x):
        rounded = x.floor()
        ctx.mark_non_differentiable(rounded)
        return x * 1, rounded

    f = make(T, forward, lambda ctx, g, unused: g)
    x = leaf(T)
    y, rounded = f.apply(x)
    assert y.requires_grad and not rounded.requires_grad
    (y * rounded).sum().backward()
    assert x.grad.tolist() == [2, 3]


@BOTH
def test_an_input_returned_as_it_is_becomes_a_view(T):
    f = make(T, lambda ctx, x: x, lambda ctx, g: g * 7)
    x = leaf(T)
    y = f.apply(x)
    assert y is not x and y._is_view() and y._base is x
    y.sum().backward()
    assert x.grad.tolist() == [7, 7]
    with pytest.raises(RuntimeError, match=r"is a view and is being modified inplace. This view was created inside a"):
        f.apply(x * 1).mul_(2)


@BOTH
def test_dirty_inputs(T):
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    f = make(T, forward, lambda ctx, g: g * 2)
    x = leaf(T)
    h = x * 1
    y = f.apply(h)
    assert y is h and h.grad_fn.name() == "MadeBackward" and h.tolist() == [4, 6]
    (y * y).sum().backward()
    assert x.grad.tolist() == [16, 24]
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad has been used in an in-place operation"):
        f.apply(leaf(T))
    g = make(T, lambda ctx, x: ctx.mark_dirty(x) or x * 1, lambda ctx, g: g)
    with pytest.raises(RuntimeError, match="Some elements marked as dirty during the forward method were not returned"):
        g.apply(x * 1)


@BOTH
def test_dirty_view_changes_its_base(T):
    def forward(ctx, x):
        x.mul_(5)
        ctx.mark_dirty(x)
        return x

    f = make(T, forward, lambda ctx, g: g * 5)
    x = leaf(T)
    h = x * 1
    f.apply(h[:1])
    assert h.tolist() == [10, 3]
    h.sum().backward()
    assert x.grad.tolist() == [5, 1]


@BOTH
def test_saved_results_and_intermediates(T):
    def forward(ctx, x):
        y = x.exp()
        z = y + 1
        ctx.save_for_backward(None, x, y, z)
        return y

    def backward(ctx, g):
        nothing, _x, y, z = ctx.saved_tensors
        assert nothing is None
        return g * y * (z - y)

    f = make(T, forward, backward)
    x = T.tensor([0.0], requires_grad=True)
    (g,) = T.autograd.grad(f.apply(x), x, create_graph=True)
    assert g.tolist() == [1]
    (h,) = T.autograd.grad(g, x)
    assert h.tolist() == [0]  # z - y = 1 is a constant, y's derivative and that of z - y cancel: z was saved detached


@BOTH
def test_saved_tensors_are_freed_and_checked(T):
    x = leaf(T)
    f = square(T)
    y = f.apply(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()
    h = x * 1
    y = f.apply(h).sum()
    h.add_(1)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*is at version 1; expected version 0"):
        y.backward()
    with pytest.raises(TypeError, match="save_for_backward can only save variables, but argument 0 is of type int"):
        make(T, lambda ctx, x: ctx.save_for_backward(3), lambda ctx, g: g).apply(x)


@BOTH
def test_saved_tensors_of_a_node(T):
    x = leaf(T)
    y = square(T).apply(x)
    assert y.grad_fn.saved_tensors[0].tolist() == [2, 3]
    assert y.grad_fn.needs_input_grad == (True,)


@BOTH
def test_backward_without_saved_tensors_can_be_repeated(T):
    x = leaf(T)
    y = make(T, lambda ctx, x: x * 3, lambda ctx, g: g * 3).apply(x).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [6, 6]


@BOTH
def test_once_differentiable(T):
    once = T.autograd.function.once_differentiable
    f = make(T, lambda ctx, x: x * 1, once(lambda ctx, g: g * 1))
    x = leaf(T)
    (g,) = T.autograd.grad((f.apply(x) ** 2).sum(), x, create_graph=True)
    assert g.tolist() == [4, 6]
    with pytest.raises(RuntimeError, match="trying to differentiate twice a function that was marked with @once"):
        (g * x).sum().backward()


@BOTH
def test_what_is_missing(T):
    x = leaf(T)

    class Half(T.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

    with pytest.raises(NotImplementedError, match="You must implement either the backward or vjp method"):
        Half.apply(x).sum().backward()
    with pytest.warns(DeprecationWarning, match="should not be instantiated"):
        instance = Half()
    with pytest.raises(RuntimeError, match="Legacy autograd function with non-static forward method is deprecated"):
        instance(x)


@BOTH
def test_an_error_in_backward_passes_through_and_leaves_the_state_intact(T):
    def backward(ctx, g):
        raise KeyError("mine")

    f = make(T, lambda ctx, x: x * 1, backward)
    x = leaf(T)
    with pytest.raises(KeyError, match="mine"):
        (f.apply(x) * x).sum().backward()
    assert T.is_grad_enabled()
    x.grad = None
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]


@BOTH
def test_backward_inside_of_backward(T):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with T.enable_grad():
            inner = x.detach().requires_grad_()
            (slope,) = T.autograd.grad((inner * inner).sum(), inner)
        return slope * g

    x = leaf(T)
    (make(T, forward, backward).apply(x) * x).sum().backward()
    assert x.grad.tolist() == [12, 27]


@BOTH
def test_anomaly_names_the_function(T):
    f = make(T, lambda ctx, x: x * 1, lambda ctx, g: g * float("nan"))
    x = leaf(T)
    with T.autograd.set_detect_anomaly(True):
        y = f.apply(x).sum()
        with (
            pytest.warns(UserWarning, match="Error detected in MadeBackward"),
            pytest.raises(RuntimeError, match=r"Function 'MadeBackward' returned nan values in its 0th output."),
        ):
            y.backward()


def test_context_and_saved_values_die_with_the_graph():
    seen = []
    f = square(tg, seen)
    x = leaf(tg)
    gc.collect()
    slots, owners = int((machine.table("slots")["refs"] > 0).sum()), len(machine.owners)
    y = f.apply(x)
    assert seen[-1]() is not None and len(machine.owners) == owners + 1
    del y
    assert seen[-1]() is None and len(machine.owners) == owners
    y = f.apply(x).sum()
    y.backward()
    del y
    x.grad = None
    assert seen[-1]() is None
    assert int((machine.table("slots")["refs"] > 0).sum()) == slots


def test_saved_intermediates_are_freed_by_backward():
    kept = []

    def forward(ctx, x):
        middle = x * 2
        kept.append(weakref.ref(middle))
        ctx.save_for_backward(middle)
        return middle * 1

    f = make(tg, forward, lambda ctx, g: g * ctx.saved_tensors[0])
    y = f.apply(leaf(tg)).sum()
    assert kept[0]() is not None
    y.backward()
    assert kept[0]() is None


def test_memory_stays_flat_over_many_calls():
    f = square(tg)
    x = leaf(tg)

    def step():
        y = f.apply(x)
        (g,) = tg.autograd.grad(y.sum(), x, create_graph=True)
        tg.autograd.grad(g.sum(), x)

    step()
    gc.collect()
    before = int((machine.table("slots")["refs"] > 0).sum()), int(machine.state["bytes_live"]), len(machine.owners)
    for _ in range(3000):
        step()
    after = int((machine.table("slots")["refs"] > 0).sum()), int(machine.state["bytes_live"]), len(machine.owners)
    assert after == before

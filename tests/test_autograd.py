"""backward and grad, recording modes, leaves, the graph's nodes, anomaly detection: each as in torch."""

import gc
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine

torch = pytest.importorskip("torch")

BOTH = pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])


def leaf(T, values=(2.0, 3.0)):
    return T.tensor(list(values), requires_grad=True)


def live_slots():
    gc.collect()
    return int((machine.table("slots")["refs"] > 0).sum())


@BOTH
def test_gradients_add_up_until_they_are_zeroed(T):
    x = leaf(T)
    for expected in ([4, 6], [8, 12]):
        (x * x).sum().backward()
        assert x.grad.tolist() == expected
    x.grad.zero_()
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]


@BOTH
def test_the_old_tutorial_example(T):
    x = leaf(T)
    out = (3 * (x + 3) ** 2).mean()
    assert out.item() == 91.5
    out.backward()
    assert x.grad.tolist() == [15, 18]


@BOTH
def test_powers_with_a_cotangent_of_ones(T):
    m = leaf(T)
    y = T.stack([m[0] ** 2, m[1] ** 3])
    y.backward(T.ones(2))
    assert m.grad.tolist() == [4, 27]


@BOTH
def test_jacobian_row_by_row(T):
    m = leaf(T)
    y = T.stack([m[0] ** 2 + 3 * m[1], m[1] ** 2 + 2 * m[0]])
    rows = []
    for k in range(2):
        one_hot = T.zeros(2)
        one_hot[k] = 1
        y.backward(one_hot, retain_graph=True)
        rows.append(m.grad.tolist())
        m.grad.zero_()
    assert rows == [[4, 3], [2, 6]]


@BOTH
def test_second_backward_needs_the_graph_only_where_values_were_saved(T):
    x = leaf(T)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [2, 2]
    z = (x * x).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        z.backward()


@BOTH
def test_retained_graph_can_be_gone_through_again(T):
    x = leaf(T)
    z = (x * x * x).sum()
    z.backward(retain_graph=True)
    z.backward()
    assert x.grad.tolist() == [24, 54]


@BOTH
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda T, x: T.ones(2).sum().backward(), RuntimeError, "element 0 of tensors does not require grad"),
        (lambda T, x: (x * 1).backward(), RuntimeError, "grad can be implicitly created only for scalar outputs"),
        (lambda T, x: (x * 1).backward(T.ones(3)), RuntimeError, r"Mismatch in shape: grad_output\[0\] has a shape of"),
        (lambda T, x: (x * 1).sum().backward(inputs=[]), RuntimeError, "cannot be empty"),
        (lambda T, x: T.autograd.grad(x.sum(), T.ones(2)), RuntimeError, "Tensors does not require grad"),
        (
            lambda T, x: T.autograd.grad(x.sum(), [x, leaf(T)]),
            RuntimeError,
            "Tensor at index 1 appears to not have been used in the graph. Set allow_unused=True",
        ),
        (lambda T, x: x.sum().backward(retain_variables=True), TypeError, "retain_variables"),
        (lambda T, x: setattr(x * 1, "requires_grad", False), RuntimeError, "flags of leaf variables"),
        (lambda T, x: T.tensor([1], requires_grad=True), RuntimeError, "Only Tensors of floating point"),
        (lambda T, x: setattr(x, "grad", T.ones(3)), RuntimeError, "attempting to assign a gradient of size"),
        (
            lambda T, x: setattr(x, "grad", T.ones(2).double()),
            RuntimeError,
            "attempting to assign a gradient with dtype",
        ),
        (lambda T, x: setattr(x, "grad", 3), TypeError, "assigned grad expected to be a Tensor or None"),
        (lambda T, x: (x * 1)[:1].detach_(), RuntimeError, "Can't detach views in-place"),
        (lambda T, x: x.add_(1), RuntimeError, "a leaf Variable that requires grad"),
    ],
)
def test_errors_in_torchs_words(T, call, error, message):
    with pytest.raises(error, match=message):
        call(T, leaf(T))


def test_old_argument_names_the_new_one():
    with pytest.raises(TypeError, match="retain_graph"):
        leaf(tg).sum().backward(retain_variables=True)


@BOTH
def test_unused_inputs(T):
    x, unused = leaf(T), leaf(T)
    found = T.autograd.grad((x * x).sum(), [x, unused], allow_unused=True)
    assert found[0].tolist() == [4, 6]
    assert found[1] is None
    found = T.autograd.grad((x * x).sum(), [x, unused], materialize_grads=True)
    assert found[1].tolist() == [0, 0]
    assert x.grad is None


@BOTH
def test_inputs_of_backward_restrict_it(T):
    a, b = leaf(T), leaf(T)
    middle = a * b
    (middle * b).sum().backward(inputs=[a, middle])
    assert a.grad.tolist() == [4, 9]
    assert b.grad is None
    assert middle.grad.tolist() == [2, 3]


@BOTH
def test_gradients_of_intermediate_tensors(T):
    x = leaf(T)
    y = x * x
    (g,) = T.autograd.grad((y * y).sum(), y)
    assert g.tolist() == [8, 18]
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None
    y.retain_grad()
    assert y.retains_grad
    (y * 1).sum().backward()
    assert y.grad.tolist() == [1, 1]


@BOTH
def test_several_roots(T):
    x = leaf(T)
    a, b = x.sum(), x * x
    T.autograd.backward([a, b], [None, T.tensor([1.0, 10.0])])
    assert x.grad.tolist() == [5, 61]


@BOTH
def test_derivatives_of_higher_order(T):
    x = T.tensor(2.0, requires_grad=True)
    y, found = x**5, []
    for _ in range(5):
        (y,) = T.autograd.grad(y, x, create_graph=True)
        found.append(y.item())
    assert found == [80, 160, 240, 240, 120]


@BOTH
def test_a_gradient_that_depends_on_nothing_has_no_graph(T):
    x = leaf(T)
    (g,) = T.autograd.grad(x.sum(), x, create_graph=True)
    assert not g.requires_grad
    (g,) = T.autograd.grad((x * 3).sum(), x, create_graph=True)
    assert not g.requires_grad


@BOTH
def test_create_graph_of_backward_warns(T):
    x = leaf(T)
    with pytest.warns(UserWarning, match="reference cycle") if T is tg else warnings.catch_warnings():
        if T is torch:
            warnings.simplefilter("ignore")  # torch warns once in a process
        (x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    x.grad = None


@BOTH
def test_batched_gradients(T):
    x = leaf(T)
    (g,) = T.autograd.grad(x * x, x, T.tensor([[1.0, 0.0], [0.0, 1.0]]), is_grads_batched=True)
    assert g.tolist() == [[4, 0], [0, 6]]


@BOTH
def test_detach_and_data_share_memory(T):
    x = leaf(T)
    y = x * 1
    d, raw = y.detach(), y.data
    assert not d.requires_grad and not raw.requires_grad
    z = y * y
    d.add_(1)
    assert y.tolist() == [3, 4]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    z = y * y
    raw.add_(1)
    z.sum().backward()
    assert x.grad.tolist() == [8, 10]


@BOTH
def test_detach_in_place(T):
    x = leaf(T)
    y = x * x
    y.detach_()
    assert y.is_leaf and not y.requires_grad and y.grad_fn is None


@BOTH
def test_modes(T):
    x = leaf(T)
    with T.no_grad():
        assert not T.is_grad_enabled()
        assert not (x * 2).requires_grad
        with T.enable_grad():
            assert (x * 2).requires_grad
    with T.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert T.is_grad_enabled()
    with T.inference_mode():
        assert T.is_inference_mode_enabled()
        made = T.ones(2)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        x * made
    with pytest.raises(RuntimeError, match="Setting requires_grad=True on inference tensor outside InferenceMode"):
        made.requires_grad_()
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        made.add_(1)


@BOTH
def test_modes_as_decorators_of_functions_and_generators(T):
    x = leaf(T)

    @T.no_grad()
    def function():
        return x * 2

    @T.no_grad()
    def generator():
        got = yield x * 2
        yield (x * got).requires_grad, T.is_grad_enabled()

    assert not function().requires_grad
    run = generator()
    assert not next(run).requires_grad
    assert T.is_grad_enabled()
    assert run.send(3) == (False, False)


@BOTH
def test_modes_are_restored_after_an_error(T):
    x = leaf(T)
    with pytest.raises(ValueError, match="stop"), T.no_grad():
        raise ValueError("stop")
    assert T.is_grad_enabled()
    y = (x * x).sum()
    with T.no_grad():
        y.backward()
        assert not T.is_grad_enabled()
    assert x.grad.tolist() == [4, 6]


@BOTH
def test_nodes_of_the_graph(T):
    x = leaf(T)
    y = x * 2
    z = y.exp()
    assert x.grad_fn is None
    assert y.grad_fn.name() == "MulBackward0"
    assert repr(z.grad_fn).startswith("<ExpBackward0 object at 0x")
    assert z.grad_fn is z.grad_fn
    assert z.output_nr == 0
    assert z.grad_fn.next_functions == ((y.grad_fn, 0),)
    (first, number), second = y.grad_fn.next_functions
    assert type(first).__name__ == "AccumulateGrad" and number == 0
    assert first.variable is x
    assert second == (None, 0)
    assert first.next_functions == ()


def test_a_node_keeps_the_graph_alive():
    before = live_slots()
    x = leaf(tg)
    node = (x * x).exp().grad_fn
    assert [pair[0].name() for pair in node.next_functions] == ["MulBackward0"]
    assert live_slots() > before + 1
    del node, x
    assert live_slots() == before


@BOTH
def test_views_know_their_base(T):
    x = T.zeros(4)
    v = x[1:3][:1]
    assert v._base is x
    assert x._base is None


@BOTH
def test_anomaly_names_the_op_and_the_forward_line(T):
    x = T.tensor([-1.0], requires_grad=True)
    with T.autograd.set_detect_anomaly(True):
        y = x.sqrt()  # the forward line
        with (
            pytest.warns(UserWarning, match=r"(?s)Error detected in SqrtBackward0.*x.sqrt\(\)  # the forward line"),
            pytest.raises(RuntimeError, match=r"Function 'SqrtBackward0' returned nan values in its 0th output."),
        ):
            y.backward()
    x.sqrt().backward()
    assert np.isnan(x.grad.tolist()).all()


@BOTH
def test_anomaly_without_the_check_for_nan(T):
    x = T.tensor([-1.0], requires_grad=True)
    with T.autograd.set_detect_anomaly(True, check_nan=False):
        x.sqrt().backward()
        y = x.exp()
        y.add_(1)
        with (
            pytest.warns(UserWarning, match="Error detected in ExpBackward0"),
            pytest.raises(RuntimeError, match="modified by an inplace operation"),
        ):
            y.backward()
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"), T.autograd.detect_anomaly():
        assert T.is_anomaly_enabled() if T is torch else T.autograd.is_anomaly_enabled()


@BOTH
def test_anomaly_in_the_gradients_own_graph(T):
    x = T.tensor([0.0], requires_grad=True)
    with T.autograd.set_detect_anomaly(True):
        (g,) = T.autograd.grad(x * x, x, create_graph=True)
        y = g.sqrt() * 0  # 0 * inf
        with (
            pytest.warns(UserWarning, match=r"0 [*] inf|No forward|Error"),
            pytest.raises(RuntimeError, match="returned nan"),
        ):
            y.sum().backward()


@pytest.mark.parametrize(
    "step",
    [
        lambda x: (x * x).exp(),
        lambda x: (x * x).sum().backward(),
        lambda x: tg.autograd.grad((x * x).sum(), x, create_graph=True),
        lambda x: tg.tensor([1.0, 2.0], requires_grad=True) * x.detach(),
    ],
    ids=["forward", "backward", "create graph", "create and drop"],
)
def test_memory_stays_flat(step):
    x = leaf(tg)
    for _ in range(1000):
        step(x)
    before = live_slots(), int(machine.state["bytes_live"]), len(machine.owners)
    capacity = int(machine.state["entries_capacity"])
    for _ in range(100_000):
        step(x)
    assert (live_slots(), int(machine.state["bytes_live"]), len(machine.owners)) == before
    assert int(machine.state["entries_capacity"]) == capacity


def test_a_chain_of_a_million_ops():
    x = leaf(tg)
    before = live_slots()
    y = x
    for _ in range(1_000_000):
        y = y + 1
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    del y
    x.grad = None
    assert live_slots() == before


def test_freed_graph_lets_go_of_its_memory():
    x = tg.ones(1000, requires_grad=True)
    y = (x * x).exp().sum()
    held = int(machine.state["bytes_live"])
    y.backward()
    x.grad = None
    assert int(machine.state["bytes_live"]) < held - 4000


def test_old_constructors():
    assert tg.Tensor([1, 2]).tolist() == [1.0, 2.0]
    assert tg.Tensor(2, 3).shape == (2, 3)
    assert tg.Tensor().shape == (0,)
    assert tg.Tensor(tg.Size([2])).shape == (2,)
    assert [t([1]).dtype for t in (tg.FloatTensor, tg.DoubleTensor, tg.LongTensor)] == [
        tg.float32,
        tg.float64,
        tg.int64,
    ]
    assert [t([1]).dtype for t in (tg.IntTensor, tg.ByteTensor, tg.BoolTensor)] == [tg.int32, tg.uint8, tg.bool]
    assert isinstance(tg.ones(2), tg.FloatTensor) and not isinstance(tg.ones(2), tg.LongTensor)
    with pytest.raises(TypeError, match=r"new\(\): data must be a sequence \(got float\)"):
        tg.Tensor(2.5)


@BOTH
def test_variable(T):
    data = T.ones(2)
    x = T.autograd.Variable(data, requires_grad=True)
    assert isinstance(x, T.autograd.Variable) and x.requires_grad and not data.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 2]
    with pytest.warns(UserWarning, match=r"volatile was removed .*no_grad"):
        T.autograd.Variable(data, volatile=True)

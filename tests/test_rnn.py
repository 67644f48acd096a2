"""Recurrent layers and cells, packed and padded sequences: beside NumPy loops, plain ops and torch."""

import copy
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn.utils import rnn as sequences

KINDS = ["RNN", "LSTM", "GRU"]
LENGTHS = [3, 7, 1, 7, 4]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_step(kind, x, h, c, w_ih, w_hh, b_ih, b_hh):
    """The formulas of torch's documentation, for one step."""
    a, b = x @ w_ih.T + b_ih, h @ w_hh.T + b_hh
    if kind == "RNN":
        return np.tanh(a + b), c
    if kind == "GRU":
        (ar, az, an), (br, bz, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, c
    i, f, g, o = np.split(a + b, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def states_of(kind, result):
    return list(result) if kind == "LSTM" else [result]


# ---- values ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [3, 37])
def test_a_layer_computes_its_formulas(kind, batch):
    layer = getattr(nn, kind)(4, 5, dtype=tg.float64)
    x, h, c = numbers(6, batch, 4), numbers(batch, 5, seed=1), numbers(batch, 5, seed=2)
    weights = [param.detach().numpy() for param in layer.parameters()]
    first = [tg.tensor(s)[None] for s in ([h, c] if kind == "LSTM" else [h])]
    expected = []
    for step in x:
        h, c = one_step(kind, step, h, c, *weights)
        expected.append(h)
    output, last = layer(tg.tensor(x), tuple(first) if kind == "LSTM" else first[0])
    np.testing.assert_allclose(output.detach().numpy(), np.stack(expected), rtol=1e-12, atol=1e-14)
    for mine, reference in zip(states_of(kind, last), [h, c], strict=False):
        np.testing.assert_allclose(mine[0].detach().numpy(), reference, rtol=1e-12, atol=1e-14)
    with tg.no_grad():
        np.testing.assert_array_equal(layer(tg.tensor(x))[0].numpy(), layer(tg.tensor(x))[0].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_computes_a_layer_s_step(kind):
    layer, cell = getattr(nn, kind)(4, 5, dtype=tg.float64), getattr(nn, kind + "Cell")(4, 5, dtype=tg.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = tg.tensor(numbers(3, 2, 4))
    state = None
    for step in x:
        state = cell(step, state)
    _, last = layer(x)
    for mine, reference in zip(states_of(kind, state), states_of(kind, last), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), reference[0].detach().numpy(), rtol=1e-12)
    alone = states_of(kind, cell(x[0, 0]))[0]
    np.testing.assert_allclose(alone.detach().numpy(), states_of(kind, cell(x[0]))[0][0].detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_alone_is_a_batch_of_one(kind):
    layer = getattr(nn, kind)(4, 5, num_layers=2, bidirectional=True)
    x = tg.tensor(numbers(3, 4), dtype=tg.float32)
    (alone, last), (batched, lasts) = layer(x), layer(x[:, None])
    assert alone.tolist() == batched[:, 0].tolist()
    for a, b in zip(states_of(kind, last), states_of(kind, lasts), strict=True):
        assert a.tolist() == b[:, 0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first_moves_the_batch(kind):
    layer = getattr(nn, kind)(4, 5, bidirectional=True)
    x = tg.tensor(numbers(3, 2, 4), dtype=tg.float32)
    expected = layer(x)[0].transpose(0, 1)
    layer.batch_first = True
    np.testing.assert_allclose(
        layer(x.transpose(0, 1))[0].detach().numpy(), expected.detach().numpy(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_are_sequences_one_by_one(kind):
    layer = getattr(nn, kind)(4, 5, num_layers=2, bidirectional=True, dtype=tg.float64)
    parts = [tg.tensor(numbers(length, 4, seed=length)) for length in LENGTHS]
    packed, last = layer(sequences.pack_sequence(parts, enforce_sorted=False))
    for k, (mine, part) in enumerate(zip(sequences.unpack_sequence(packed), parts, strict=True)):
        expected, ends = layer(part)
        np.testing.assert_allclose(mine.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-14)
        for a, b in zip(states_of(kind, last), states_of(kind, ends), strict=True):
            np.testing.assert_allclose(a[:, k].detach().numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_results_do_not_depend_on_the_threads():
    layer = nn.GRU(8, 24, bidirectional=True)
    x = tg.tensor(numbers(9, 50, 8), dtype=tg.float32, requires_grad=True)
    found, before = [], tg.get_num_threads()
    try:
        for threads in (1, 2):
            tg.set_num_threads(threads)
            output, _ = layer(x)
            found.append([output, *tg.autograd.grad((output * output).sum(), [x, *layer.parameters()])])
    finally:
        tg.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert (a == b).all()


# ---- gradients ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_derivatives_of_first_and_second_order(kind, options):
    layer = getattr(nn, kind)(2, 3, dtype=tg.float64, **options)
    rows = layer.num_layers * (1 + layer.bidirectional)
    x = tg.tensor(numbers(3, 2, 2), requires_grad=True)
    states = [tg.tensor(numbers(rows, 2, 3, seed=k), requires_grad=True) for k in range(2 if kind == "LSTM" else 1)]

    def run(x, *rest):
        output, last = layer(x, tuple(rest) if kind == "LSTM" else rest[0])
        return output, *states_of(kind, last)

    assert tg.autograd.gradcheck(run, (x, *states))
    if not options:
        assert tg.autograd.gradgradcheck(run, (x, *states))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_weights_are_those_of_plain_ops(kind):
    layer = getattr(nn, kind)(4, 19, bidirectional=True, dtype=tg.float64)
    packed = sequences.pack_sequence([tg.tensor(numbers(n, 4, seed=n)) for n in LENGTHS], enforce_sorted=False)
    output, last = layer(packed)
    loss = output.data.pow(3).sum() + sum(state.pow(2).sum() for state in states_of(kind, last))
    fused = tg.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    plain = tg.autograd.grad(loss, list(layer.parameters()), create_graph=True)
    for a, b in zip(fused, plain, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_only_what_is_needed_gets_a_gradient():
    layer = nn.LSTM(2, 3)
    layer.weight_hh_l0.requires_grad_(False)
    output, (h, _) = layer(tg.ones(4, 1, 2))
    h.sum().backward()
    assert layer.weight_hh_l0.grad is None
    assert layer.weight_ih_l0.grad is not None
    assert not layer.requires_grad_(False)(tg.ones(4, 1, 2))[0].requires_grad
    assert output.grad_fn is not None


# ---- torch ----


def compare_with_torch(kind, *, lengths=None, dtype="float64", rtol=1e-9, batch=5, hidden=4, **options):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, kind)(3, hidden, dtype=getattr(torch, dtype), **options)
    ours = getattr(nn, kind)(3, hidden, dtype=getattr(tg, dtype), **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({name: tg.tensor(value.numpy()) for name, value in theirs.state_dict().items()})
    first = options.get("batch_first", False)
    rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    x = numbers(batch, 7, 3).astype(dtype) if first else numbers(7, batch, 3).astype(dtype)
    start = [numbers(rows, batch, options.get("proj_size") or hidden, seed=1), numbers(rows, batch, hidden, seed=2)]
    found = []
    for library, layer in ((tg, ours), (torch, theirs)):
        leaves = [library.tensor(a.astype(dtype), requires_grad=True) for a in (x, *start[: 1 + (kind == "LSTM")])]
        given = leaves[0]
        if lengths is not None:
            given = library.nn.utils.rnn.pack_padded_sequence(given, lengths, first, enforce_sorted=False)
        output, last = layer(given, tuple(leaves[1:]) if kind == "LSTM" else leaves[1])
        if lengths is not None:
            output, sizes = library.nn.utils.rnn.pad_packed_sequence(output)
            assert sizes.tolist() == lengths
        results = [output, *states_of(kind, last)]
        results += library.autograd.grad(sum((r * r * r).sum() for r in results), [*leaves, *layer.parameters()])
        found.append([r.detach().numpy() for r in results])
    for mine, reference in zip(*found, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_as_torch(kind):
    compare_with_torch(kind)
    compare_with_torch(kind, batch_first=True, bidirectional=True, num_layers=2)
    compare_with_torch(kind, lengths=LENGTHS, bidirectional=True, num_layers=2)
    compare_with_torch(kind, lengths=LENGTHS, batch_first=True, bias=False)
    compare_with_torch(kind, batch=37, hidden=50)
    compare_with_torch(kind, dtype="float32", rtol=2e-5, batch=17, hidden=33)


def test_special_layers_as_torch():
    compare_with_torch("RNN", nonlinearity="relu")
    compare_with_torch("LSTM", proj_size=2, bidirectional=True, num_layers=2)


# ---- sequences ----


def test_packing_and_padding_are_each_other_s_inverse():
    parts = [tg.tensor(numbers(n, 2, seed=n)) for n in LENGTHS]
    for first in (False, True):
        padded = sequences.pad_sequence(parts, batch_first=first, padding_value=-1.0)
        assert padded.shape == ((5, 7, 2) if first else (7, 5, 2))
        packed = sequences.pack_padded_sequence(padded, LENGTHS, first, enforce_sorted=False)
        assert packed.batch_sizes.tolist() == [5, 4, 4, 3, 2, 2, 2]
        assert packed.data.shape == (sum(LENGTHS), 2)
        again, lengths = sequences.pad_packed_sequence(packed, first, padding_value=-1.0)
        assert (again == padded).all()
        assert lengths.tolist() == LENGTHS
        for mine, part in zip(sequences.unpad_sequence(padded, lengths, first), parts, strict=True):
            assert (mine == part).all()
    assert sequences.pad_packed_sequence(packed, total_length=9)[0].shape == (9, 5, 2)
    assert sequences.pad_sequence(parts, padding_side="left")[0, 0].tolist() == [0.0, 0.0]


def test_a_packed_sequence_converts_its_data():
    packed = sequences.pack_sequence([tg.ones(3), tg.ones(2)])
    assert packed.double().data.dtype is tg.float64
    assert packed.int().data.dtype is tg.int32
    assert packed.float() is packed.cpu()
    assert not packed.is_cuda
    assert sequences.PackedSequence(packed.data, packed.batch_sizes).sorted_indices is None


def test_sequences_as_torch():
    torch = pytest.importorskip("torch")
    arrays = [numbers(n, 2, seed=n) for n in LENGTHS]
    found = []
    for library in (tg, torch):
        rnn = library.nn.utils.rnn
        parts = [library.tensor(a) for a in arrays]
        packed = rnn.pack_sequence(parts, enforce_sorted=False)
        left = rnn.pad_sequence(parts, True, 0.5, "left")
        found.append([*packed, left, *rnn.pad_packed_sequence(packed, True, 2.0, 8), *rnn.unpack_sequence(packed)])
    for mine, reference in zip(*found, strict=True):
        assert mine.tolist() == reference.tolist()


# ---- options, copies, errors ----


def test_dropout_is_between_layers_and_while_training_only():
    layer = nn.GRU(2, 3, num_layers=2, dropout=1.0)
    x = tg.ones(4, 2, 2)
    below = {name: value for name, value in layer.state_dict().items() if name.endswith("l1")}
    silent = nn.GRU(3, 3)
    silent.load_state_dict({name.replace("l1", "l0"): value for name, value in below.items()})
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), silent(tg.zeros(4, 2, 3))[0].detach().numpy(), rtol=1e-6)
    layer.eval()
    assert (layer(x)[0] != silent(tg.zeros(4, 2, 3))[0]).any()
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        nn.LSTM(2, 3, dropout=0.5)


def test_copies_and_dtypes():
    layer = nn.RNN(2, 3, nonlinearity="relu")
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    x = tg.ones(4, 2, 2)
    assert twin(x)[0].tolist() == layer(x)[0].tolist()
    assert twin.double()(x.double())[0].dtype is tg.float64


def test_an_empty_batch_passes():
    for kind in KINDS:
        output, last = getattr(nn, kind)(2, 3)(tg.ones(4, 0, 2))
        assert output.shape == (4, 0, 3)
        assert states_of(kind, last)[0].shape == (1, 0, 3)


def test_the_state_that_is_given_is_left_alone():
    h, c = tg.ones(1, 2, 3), tg.ones(1, 2, 3)
    nn.LSTM(2, 3)(tg.ones(4, 2, 2), (h, c))
    assert h.tolist() == c.tolist() == tg.ones(1, 2, 3).tolist()


def test_gradients_of_a_sum_and_of_the_last_state_alone():
    """Gradients that come expanded, or for one of the results only."""
    layer = nn.LSTM(2, 3, dtype=tg.float64)
    x = tg.tensor(numbers(4, 2, 2), requires_grad=True)
    for pick in (lambda y, h, c: y.sum(), lambda y, h, c: c.sum(), lambda y, h, c: y.transpose(0, 1)[0].sum()):
        output, (h, c) = layer(x)
        leaves = [x, *layer.parameters()]
        loss = pick(output, h, c)
        fused = tg.autograd.grad(loss, leaves, retain_graph=True)
        plain = tg.autograd.grad(loss, leaves, create_graph=True)
        for a, b in zip(fused, plain, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-11, atol=1e-14)


X = np.ones((4, 2, 3), np.float32)
MISTAKES = [
    (ValueError, "hidden_size must be greater", lambda L, t: L.nn.RNN(3, 0)),
    (TypeError, "input_size should be of type int", lambda L, t: L.nn.GRU(3.0, 4)),
    (ValueError, "num_layers must be greater", lambda L, t: L.nn.LSTM(3, 4, 0)),
    (ValueError, "dropout should be a number", lambda L, t: L.nn.LSTM(3, 4, 2, dropout=1.5)),
    (ValueError, "proj_size has to be smaller", lambda L, t: L.nn.LSTM(3, 4, proj_size=4)),
    (ValueError, "only supported for LSTM", lambda L, t: L.nn.GRU(3, 4, proj_size=2)),
    (ValueError, "Unknown nonlinearity 'sin'", lambda L, t: L.nn.RNN(3, 4, nonlinearity="sin")),
    (TypeError, "batch_first should be of type bool", lambda L, t: L.nn.LSTM(3, 4, batch_first=1)),
    (ValueError, "Expected input to be 2D or 3D", lambda L, t: L.nn.LSTM(3, 4)(t(X[0, 0]))),
    (RuntimeError, "Expected 5, got 3", lambda L, t: L.nn.GRU(5, 4)(t(X))),
    (ValueError, "does not match weight dtype", lambda L, t: L.nn.RNN(3, 4)(t(X.astype(np.float64)))),
    (RuntimeError, "Expected hidden size", lambda L, t: L.nn.GRU(3, 4)(t(X), t(np.ones((1, 3, 4), np.float32)))),
    (RuntimeError, "hx should also be 3-D", lambda L, t: L.nn.GRU(3, 4)(t(X), t(X[0]))),
    (RuntimeError, "also be 2-D", lambda L, t: L.nn.LSTM(3, 4)(t(X[0]), (t(X), t(X)))),
    (RuntimeError, r"hidden\[1\] size", lambda L, t: L.nn.LSTM(3, 3)(t(X), (t(X[:1]), t(X[:2])))),
    (RuntimeError, "larger than 0", lambda L, t: L.nn.LSTM(3, 4)(t(X[:0]))),
    (RuntimeError, "inconsistent input_size", lambda L, t: L.nn.GRUCell(5, 4)(t(X[0]))),
    (RuntimeError, "batch size", lambda L, t: L.nn.RNNCell(3, 3)(t(X[0]), t(np.ones((3, 3), np.float32)))),
    (RuntimeError, "inconsistent hidden_size", lambda L, t: L.nn.LSTMCell(3, 4)(t(X[0]), (t(X[0]), t(X[0])))),
    (ValueError, "1D or 2D", lambda L, t: L.nn.LSTMCell(3, 4)(t(X))),
    (RuntimeError, "greater than 0", lambda L, t: L.nn.utils.rnn.pack_padded_sequence(t(X), [4, 0])),
    (RuntimeError, "sorted in decreasing order", lambda L, t: L.nn.utils.rnn.pack_padded_sequence(t(X), [1, 2])),
    (RuntimeError, "equal to batch_size", lambda L, t: L.nn.utils.rnn.pack_padded_sequence(t(X), [1])),
    (RuntimeError, "empty list", lambda L, t: L.nn.utils.rnn.pad_sequence([])),
    (
        ValueError,
        "Expected total_length",
        lambda L, t: L.nn.utils.rnn.pad_packed_sequence(
            L.nn.utils.rnn.pack_padded_sequence(t(X), [4, 2]), total_length=3
        ),
    ),
]


def test_lengths_beyond_the_padding_are_refused():
    with pytest.raises(RuntimeError, match="at most the padded length 4, but got 5"):
        sequences.pack_padded_sequence(tg.tensor(X), [5, 1])


@pytest.mark.parametrize("sizes", [[2, 3], [3, 1], [5, 0], [4, 2, -1], []])
def test_packed_sequences_whose_sizes_do_not_fit_are_refused(sizes):
    packed = sequences.PackedSequence(tg.ones(5, 3), tg.tensor(sizes, dtype=tg.int64))
    with pytest.raises(RuntimeError, match="batch_sizes"):
        nn.GRU(3, 4)(packed)


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_other_shapes_or_dtypes_are_refused(kind, name):
    for change in (lambda p: p[:-1], lambda p: p.double()):
        layer = getattr(nn, kind)(3, 4)
        setattr(layer, name, nn.Parameter(change(getattr(layer, name).detach()).clone()))
        for batch in (1, 9):
            with pytest.raises((RuntimeError, ValueError), match=r"weight|bias"):
                layer(tg.ones(2, batch, 3))


@pytest.mark.parametrize(("error", "message", "mistake"), MISTAKES)
def test_mistakes_are_refused(error, message, mistake):
    with pytest.raises(error, match=message):
        mistake(tg, tg.tensor)


@pytest.mark.parametrize(("error", "message", "mistake"), MISTAKES)
def test_mistakes_raise_what_torch_raises(error, message, mistake):
    torch = pytest.importorskip("torch")
    with pytest.raises(error):
        mistake(torch, torch.tensor)

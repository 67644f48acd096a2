"""MultiheadAttention and the transformer: torch's keys, numbers, gradients and errors."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn

# what torch warns of: masks of two dtypes, and that nested tensors would not be used
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched", "ignore:enable_nested_tensor")


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def load_same(ours, theirs, torch):
    """Give both modules the same random numbers, by torch's keys."""
    state = {key: data(*value.shape, seed=k) * 0.4 for k, (key, value) in enumerate(theirs.state_dict().items())}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({key: tg.tensor(value) for key, value in state.items()})
    theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})


def compare_with_torch(ours, theirs, call, *arrays):
    """Compare ``call(library, module, *tensors)``, its gradients, and those of the parameters."""
    torch = pytest.importorskip("torch")
    load_same(ours, theirs, torch)
    found = []
    for library, module in ((tg, ours), (torch, theirs)):
        leaves = [library.tensor(a, requires_grad=True) for a in arrays]
        results = call(library, module, *leaves)
        results = [r for r in (results if isinstance(results, tuple) else (results,)) if r is not None]
        sum((r * r * r).sum() for r in results).backward()
        grads = [p.grad.numpy() for _, p in sorted(module.named_parameters()) if p.grad is not None]
        found.append([*[r.detach().numpy() for r in results], *[leaf.grad.numpy() for leaf in leaves], *grads])
    assert len(found[0]) == len(found[1])
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


PADDING = np.array([[False, False, False, True, False], [False] * 5, [False, True, True, True, True]])
MULTIHEAD = {
    "plain": ({}, {}),
    "no weights": ({}, {"need_weights": False}),
    "batch first": ({"batch_first": True}, {}),
    "batch first without weights": ({"batch_first": True}, {"need_weights": False}),
    "each head": ({}, {"average_attn_weights": False}),
    "without bias": ({"bias": False}, {}),
    "more keys": ({"add_bias_kv": True, "add_zero_attn": True}, {"key_padding_mask": PADDING}),
    "zero key": ({"add_zero_attn": True, "batch_first": True}, {"need_weights": False, "attn_mask": PADDING[[0] * 5]}),
    "widths": ({"kdim": 6, "vdim": 10}, {}),
    "padding": ({"batch_first": True}, {"need_weights": False, "key_padding_mask": PADDING}),
    "masks": ({}, {"need_weights": False, "key_padding_mask": PADDING, "attn_mask": data(5, 5)}),
    "mask of heads": ({}, {"attn_mask": data(6, 5, 5)}),
    "causal": ({"batch_first": True}, {"need_weights": False, "attn_mask": np.tri(5) < 1, "is_causal": True}),
}


@pytest.mark.parametrize("name", MULTIHEAD)
def test_torch_gives_the_same_attention(name):
    torch = pytest.importorskip("torch")
    options, given = MULTIHEAD[name]
    ours, theirs = (lib.MultiheadAttention(8, 2, **options).double() for lib in (nn, torch.nn))

    def call(library, module, *leaves):
        masks = {key: library.tensor(v) if isinstance(v, np.ndarray) else v for key, v in given.items()}
        return module(*(leaves if len(leaves) > 1 else leaves * 3), **masks)

    shape = (3, 5) if options.get("batch_first") else (5, 3)
    apart = [data(*shape, w, seed=w) for w in (8, options.get("kdim", 8), options.get("vdim", 8))]
    compare_with_torch(ours, theirs, call, *apart)
    if "kdim" not in options:
        compare_with_torch(ours, theirs, call, apart[0])


def test_torch_gives_the_same_without_batch():
    torch = pytest.importorskip("torch")
    ours, theirs = (lib.MultiheadAttention(8, 2).double() for lib in (nn, torch.nn))
    compare_with_torch(ours, theirs, lambda lib, m, q, k: m(q, k, k), data(4, 8), data(5, 8))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torch_gives_the_same_transformer(norm_first, batch_first):
    torch = pytest.importorskip("torch")
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": batch_first, "norm_first": norm_first}
    ours, theirs = (lib.Transformer(8, 2, 2, 1, 12, **options).double() for lib in (nn, torch.nn))

    def call(library, module, source, target):
        mask = module.generate_square_subsequent_mask(4, dtype=library.float64)
        padding = library.tensor(PADDING)
        return module(source, target, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding)

    shapes = [(3, 5, 8), (3, 4, 8)] if batch_first else [(5, 3, 8), (4, 3, 8)]
    compare_with_torch(ours, theirs, call, *[data(*shape, seed=k) for k, shape in enumerate(shapes)])


def test_torch_begins_with_the_same_distribution_and_text():
    torch = pytest.importorskip("torch")
    ours, theirs = (lib.TransformerDecoderLayer(64, 4, 128) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert abs(p.detach().numpy().std() - q.detach().numpy().std()) < 0.01, name


def test_a_causal_encoder_does_not_look_ahead():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, nn.LayerNorm(8)).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    x = data(2, 6, 8).astype("float32")
    y = encoder(tg.tensor(x), mask=mask).detach().numpy()
    x[:, 4:] = 0
    again = encoder(tg.tensor(x), mask=mask).detach().numpy()
    np.testing.assert_allclose(y[:, :4], again[:, :4], atol=1e-5)
    assert np.abs(y[:, 4:] - again[:, 4:]).max() > 0.1


def test_layers_are_copies():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=tg.tanh)
    encoder = nn.TransformerEncoder(layer, 2)
    assert len({id(p) for p in encoder.parameters()}) == 2 * len(list(layer.parameters()))
    assert copy.deepcopy(encoder)(tg.ones(3, 2, 8)).shape == (3, 2, 8)


def test_dropout_of_weights():
    attention = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = tg.tensor(data(5, 3, 8).astype("float32"))
    for need in (False, True):
        first, second = (attention(x, x, x, need_weights=need)[0].detach().numpy() for _ in range(2))
        assert np.abs(first - second).max() > 1e-3
    attention.eval()
    np.testing.assert_allclose(
        *[attention(x, x, x, need_weights=need)[0].detach().numpy() for need in (0, 1)], atol=1e-6
    )


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (ValueError, "greater than 0", lambda x: nn.MultiheadAttention(0, 1)),
        (AssertionError, "divisible", lambda x: nn.MultiheadAttention(8, 3)),
        (AssertionError, "dimension of 8, but got 6", lambda x: nn.MultiheadAttention(8, 2)(*[x[..., :6]] * 3)),
        (AssertionError, "do not match", lambda x: nn.MultiheadAttention(8, 2)(x, x, x[:3])),
        (AssertionError, "expected `key` and `value`", lambda x: nn.MultiheadAttention(8, 2)(x, x[0], x)),
        (RuntimeError, "should be", lambda x: nn.MultiheadAttention(8, 2)(x, x, x, attn_mask=tg.ones(3, 3))),
        (AssertionError, "key_padding_mask", lambda x: nn.MultiheadAttention(8, 2)(x, x, x, tg.ones(3, 3))),
        (RuntimeError, "Need attn_mask", lambda x: nn.MultiheadAttention(8, 2)(x, x, x, is_causal=True)),
        (RuntimeError, "relu/gelu", lambda x: nn.TransformerEncoderLayer(8, 2, activation="tan")),
        (RuntimeError, "batch number", lambda x: nn.Transformer(8, 2, 1, 1, 8)(x, x[:, :1])),
        (RuntimeError, "feature number", lambda x: nn.Transformer(8, 2, 1, 1, 8)(x[..., :6], x)),
    ],
)  # fmt: skip
def test_errors(error, text, call):
    with pytest.raises(error, match=text):
        call(tg.ones(5, 3, 8))

"""Attention: values, masks, dropout, derivatives, errors; torch's numbers."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.nn import functional as F

attention = F.scaled_dot_product_attention


def data(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(q, k, v, mask=None, causal=False, scale=None):
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


SIZES = [(2, 3, 5, 7, 4, 6), (1, 2, 300, 411, 24, 32), (1, 1, 65, 5000, 17, 5), (2, 1, 513, 33, 8, 8)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_values(size, dtype):
    b, h, n, m, e, f = size
    q, k, v = (
        data(b, h, n, e, dtype=dtype),
        data(b, h, m, e, seed=1, dtype=dtype),
        data(b, h, m, f, seed=2, dtype=dtype),
    )
    close = {"atol": 3e-6} if dtype == "float32" else {"atol": 1e-13}
    allowed = data(n, m, seed=3) > -0.5
    allowed[:, 0] = True
    for mask, causal in [(None, False), (None, True), (allowed, False), (data(b, 1, n, m, seed=4, dtype=dtype), False)]:
        got = attention(*map(tg.tensor, (q, k, v)), None if mask is None else tg.tensor(mask), is_causal=causal)
        np.testing.assert_allclose(got.numpy(), reference(q, k, v, mask, causal), **close)


def test_shapes_and_layouts():
    q, k, v = data(5, 4), data(6, 4, seed=1), data(6, 3, seed=2)
    plain = attention(*map(tg.tensor, (q, k, v)), scale=0.3).numpy()
    np.testing.assert_allclose(plain, reference(q, k, v, scale=0.3))
    transposed = [tg.tensor(np.ascontiguousarray(a.T)).t() for a in (q, k, v)]
    np.testing.assert_array_equal(attention(*transposed, scale=0.3).numpy(), plain)
    q, k = data(2, 3, 2, 5, 4), data(3, 1, 6, 4, seed=1)
    np.testing.assert_allclose(attention(*map(tg.tensor, (q, k, v))).numpy(), reference(q, k, v))
    strided = tg.tensor(data(2, 5, 3, 4)).transpose(1, 2)
    np.testing.assert_allclose(attention(strided, strided, strided).numpy(), reference(*[strided.numpy()] * 3))
    assert attention(tg.ones(2, 0, 4), tg.ones(2, 3, 4), tg.ones(2, 3, 5)).shape == (2, 0, 5)
    assert attention(tg.ones(2, 3, 4), tg.ones(2, 0, 4), tg.ones(2, 0, 5)).tolist() == [[[0] * 5] * 3] * 2
    wide = data(3, 1100)
    np.testing.assert_allclose(attention(*[tg.tensor(wide)] * 3).numpy(), reference(wide, wide, wide))


def test_rows_without_keys_are_zero():
    q, mask = tg.tensor(data(1, 1, 3, 4), requires_grad=True), tg.tensor([[True, True, False], [False] * 3, [True] * 3])
    y = attention(q, q, q, mask)
    y.sum().backward()
    assert y[0, 0, 1].tolist() == [0, 0, 0, 0] and np.isfinite(q.grad.numpy()).all()


def test_grouped_heads():
    q, k, v = data(2, 6, 5, 4), data(2, 3, 7, 4, seed=1), data(2, 3, 7, 4, seed=2)
    got = attention(*map(tg.tensor, (q, k, v)), enable_gqa=True)
    np.testing.assert_allclose(got.numpy(), reference(q, np.repeat(k, 2, 1), np.repeat(v, 2, 1)))


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"mask": "bool"}, {"mask": "float"}, {"dropout_p": 0.4}, {"enable_gqa": True}],
    ids=str,
)
def test_first_and_second_derivatives(options):
    options = dict(options)
    heads = 1 if options.get("enable_gqa") else 2
    kind = options.pop("mask", None)
    mask = {"bool": tg.tensor(data(3, 4) > -0.3), "float": tg.tensor(data(3, 4), requires_grad=True)}.get(kind)

    def function(q, k, v, *rest):
        tg.manual_seed(3)
        return attention(q, k, v, rest[0] if rest else mask, **options)

    shapes = [(1, 2, 3, 2), (1, heads, 4, 2), (1, heads, 4, 3)]
    leaves = [tg.tensor(data(*shape, seed=k), requires_grad=True) for k, shape in enumerate(shapes)]
    leaves += [mask] if kind == "float" else []
    assert tg.autograd.gradcheck(function, leaves)
    assert tg.autograd.gradgradcheck(function, leaves)


def test_dropout_drops_and_scales():
    tg.manual_seed(0)
    v = tg.eye(150).reshape(1, 1, 150, 150)
    weights = attention(tg.zeros(1, 1, 400, 8), tg.zeros(1, 1, 150, 8), v, dropout_p=0.25).numpy() * 150
    kept = weights > 0
    np.testing.assert_allclose(weights[kept], 1 / 0.75, rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.01
    again = attention(tg.zeros(1, 1, 400, 8), tg.zeros(1, 1, 150, 8), v, dropout_p=0.25).numpy() > 0
    assert 0.6 < (again == kept).mean() < 0.65


def test_the_number_of_threads_changes_no_bit():
    before, found = tg.get_num_threads(), []
    for threads in (1, 2):
        tg.set_num_threads(threads)
        tg.manual_seed(1)
        q = tg.tensor(data(3, 2, 300, 16, dtype="float32"), requires_grad=True)
        y = attention(q, q, q, is_causal=True, dropout_p=0.1)
        (y * y).sum().backward()
        found.append((y.detach().numpy().copy(), q.grad.numpy().copy()))
    tg.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", SIZES)
def test_torch_gives_the_same_gradients(size):
    torch = pytest.importorskip("torch")
    b, h, n, m, e, f = size
    arrays = [data(b, h, n, e), data(b, h, m, e, seed=1), data(b, h, m, f, seed=2)]
    g, mask = data(b, h, n, f, seed=3), data(n, m, seed=4)
    for options in ({"is_causal": True}, {"attn_mask": mask}, {"scale": 0.2}):
        found = []
        for library in (tg, torch):
            leaves = [library.tensor(a, requires_grad=True) for a in arrays]
            given = {key: library.tensor(o) if isinstance(o, np.ndarray) else o for key, o in options.items()}
            y = library.nn.functional.scaled_dot_product_attention(*leaves, **given)
            y.backward(library.tensor(g))
            found.append([y.detach().numpy(), *[leaf.grad.numpy() for leaf in leaves]])
        for got, wanted in zip(*found, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("same dtype", lambda x: attention(x, x.double(), x)),
        ("not implemented", lambda x: attention(x.long(), x.long(), x.long())),
        ("at least 2 dimensional", lambda x: attention(x[0, 0], x, x)),
        ("expected query", lambda x: attention(x, x[..., :2], x)),
        ("expected query", lambda x: attention(x, x, x[:, :2])),
        ("attn_mask should not be set", lambda x: attention(x, x, x, tg.ones(3, 3), is_causal=True)),
        ("attn_mask dtype", lambda x: attention(x, x, x, tg.ones(3, 3, dtype=tg.int64))),
        ("must match the size", lambda x: attention(x, tg.ones(3, 3, 4), x)),
        ("expand", lambda x: attention(x, x, x, tg.ones(4, 4))),
        (
            "divide the number of heads",
            lambda x: attention(tg.ones(3, 2, 4), tg.ones(2, 2, 4), tg.ones(2, 2, 4), enable_gqa=True),
        ),
    ],
)
def test_errors(text, call):
    with pytest.raises(RuntimeError, match=text):
        call(tg.ones(2, 3, 4))

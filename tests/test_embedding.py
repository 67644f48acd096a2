"""Embedding and EmbeddingBag: values, gradients, padding, frequencies, norms, errors."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F

TABLE = np.random.default_rng(0).standard_normal((7, 5))
INDEX = np.array([[1, 2, 2, 0], [6, 2, 3, 1]])
WEIGHTS = np.cos(np.arange(40.0)).reshape(2, 4, 5)


def embed(lib, index=INDEX, weights=WEIGHTS, **options):
    """Return a layer's output, the gradient of its table, the table afterwards, and its text."""
    layer = lib.nn.Embedding(7, 5, **options, _weight=lib.tensor(TABLE))
    y = layer(lib.tensor(index))
    (y * lib.tensor(weights)).sum().backward()
    return y.detach().numpy(), layer.weight.grad.numpy(), layer.weight.detach().numpy(), repr(layer)


def test_rows_and_their_gradient():
    y, grad, _, _ = embed(tg, padding_idx=2)
    np.testing.assert_array_equal(y, TABLE[INDEX])
    expected = np.zeros_like(TABLE)
    np.add.at(expected, INDEX, WEIGHTS)
    expected[2] = 0
    np.testing.assert_allclose(grad, expected, rtol=1e-12)


OPTIONS = [
    {},
    {"padding_idx": 2},
    {"padding_idx": -1},
    {"scale_grad_by_freq": True},
    {"scale_grad_by_freq": True, "padding_idx": 1},
    {"max_norm": 1.5},
    {"max_norm": 1.0, "norm_type": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("index", [INDEX, INDEX.astype(np.int32)], ids=["int64", "int32"])
def test_embedding_is_torch_s(options, index):
    torch = pytest.importorskip("torch")
    for ours, theirs in zip(embed(tg, index, **options), embed(torch, index, **options), strict=True):
        if isinstance(ours, str):
            assert ours == theirs
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


BAGS = [
    ({"mode": "sum"}, "matrix"),
    ({"mode": "mean"}, "matrix"),
    ({"mode": "max"}, "matrix"),
    ({"mode": "sum"}, "offsets"),
    ({"mode": "mean", "padding_idx": 2}, "offsets"),
    ({"mode": "max", "padding_idx": 2}, "offsets"),
    ({"mode": "sum", "padding_idx": 1, "include_last_offset": True}, "last"),
    ({"mode": "sum", "max_norm": 1.0}, "offsets"),
    ({"mode": "sum"}, "weighted"),
    ({"mode": "sum", "padding_idx": 2}, "weighted"),
]


def bag(lib, options, kind):
    layer = lib.nn.EmbeddingBag(7, 5, **options, _weight=lib.tensor(TABLE))
    factors, arguments = None, (lib.tensor(INDEX),)
    if kind in ("offsets", "last"):
        offsets = [0, 3, 3, 7] if kind == "offsets" else [0, 3, 3, 8]
        arguments = (lib.tensor(INDEX.ravel()), lib.tensor(offsets))
    if kind == "weighted":
        factors = lib.tensor(np.sin(np.arange(8.0)).reshape(2, 4), requires_grad=True)
        arguments = (*arguments, None, factors)
    y = layer(*arguments)
    (y * y * lib.tensor(np.cos(np.arange(y.numel()))).reshape(y.shape)).sum().backward()
    found = [y.detach().numpy(), layer.weight.grad.numpy(), layer.weight.detach().numpy()]
    return [*found, *([factors.grad.numpy()] if factors is not None else [])], repr(layer)


@pytest.mark.parametrize(("options", "kind"), BAGS, ids=lambda case: str(case))
def test_bags_are_torch_s(options, kind):
    torch = pytest.importorskip("torch")
    (ours, text), (theirs, torchs) = bag(tg, options, kind), bag(torch, options, kind)
    assert text == torchs
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_bags_are_sums_of_rows():
    y, offsets = bag(tg, {"mode": "mean"}, "offsets")[0][0], [0, 3, 3, 7, 8]
    for k in range(4):
        rows = TABLE[INDEX.ravel()[offsets[k] : offsets[k + 1]]]
        np.testing.assert_allclose(y[k], rows.mean(0) if len(rows) else 0, rtol=1e-12)


def test_gradients_of_bags_by_frequency():
    """torch 2.13 divides by the frequencies of other rows than the gradient's; its documentation says this."""
    layer = nn.EmbeddingBag(7, 5, mode="mean", scale_grad_by_freq=True, padding_idx=3, _weight=tg.tensor(TABLE))
    y = layer(tg.tensor(INDEX))
    np.testing.assert_allclose(y[1].detach().numpy(), TABLE[[6, 2, 1]].mean(0), rtol=1e-12)
    y.sum().backward()
    expected = np.zeros((7, 1))
    for row, size in zip(INDEX, (4, 3), strict=True):
        np.add.at(expected, row, 1 / size)
    counts = np.bincount(INDEX.ravel(), minlength=7)[:, None]
    expected = expected / np.maximum(counts, 1) * (np.arange(7)[:, None] != 3)
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.tile(expected, (1, 5)), rtol=1e-12)


def test_second_derivatives():
    index, starts = tg.tensor(INDEX.ravel()), tg.tensor([0, 3, 3, 7])
    table = tg.tensor(TABLE, requires_grad=True)
    factors = tg.tensor(np.sin(np.arange(8.0)), requires_grad=True)
    assert tg.autograd.gradgradcheck(
        lambda w, f: F.embedding_bag(index, w * w, starts, mode="sum", per_sample_weights=f * f), (table, factors)
    )
    assert tg.autograd.gradgradcheck(lambda w: F.embedding(index, w * w, padding_idx=1), (table,))


def rows_loss(layer):
    """Return a loss whose gradient is contiguous, as a network's is."""
    return (layer(tg.tensor(INDEX)) * tg.tensor(WEIGHTS)).sum()


def test_gradients_of_several_batches_add_up_in_one_buffer():
    layer = nn.Embedding(7, 5, _weight=tg.tensor(TABLE))
    rows_loss(layer).backward()
    pointer, version = layer.weight.grad.data_ptr(), layer.weight.grad._version
    once = layer.weight.grad.numpy().copy()
    rows_loss(layer).backward()
    assert layer.weight.grad.data_ptr() == pointer and layer.weight.grad._version == version + 1
    np.testing.assert_allclose(layer.weight.grad.numpy(), 2 * once, rtol=1e-12)
    (grad,) = tg.autograd.grad(rows_loss(layer), [layer.weight])
    np.testing.assert_allclose(grad.numpy(), once, rtol=1e-12)
    np.testing.assert_allclose(layer.weight.grad.numpy(), 2 * once, rtol=1e-12)
    seen = []
    layer.weight.register_hook(lambda grad: seen.append(grad.numpy().copy()))
    rows_loss(layer).backward()
    np.testing.assert_allclose(seen[0], once, rtol=1e-12)
    np.testing.assert_allclose(layer.weight.grad.numpy(), 3 * once, rtol=1e-12)


def test_a_gradient_that_is_there_is_added_to_without_a_dense_buffer():
    layer, index = nn.Embedding(100_000, 16), tg.arange(10)
    weights = tg.ones(10, 16)
    (layer(index) * weights).sum().backward()
    tg.empty_cache()
    before = tg.memory_stats()["in_use"]
    seen = []
    result = layer(index) * weights
    result.register_hook(lambda grad: seen.append(tg.memory_stats()["peak"]))
    result.sum().backward()
    assert tg.memory_stats()["peak"] - max(seen[0], before) < 1 << 20  # the table has 6.4 MB
    assert layer.weight.grad[:10].sum().item() == 320 and layer.weight.grad[10:].abs().sum().item() == 0


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("kind", ["strided", "wants a gradient", "its own memory"])
def test_a_gradient_that_cannot_be_added_to_at_once_is_added_to_in_the_end(kind):
    table = tg.tensor(TABLE, requires_grad=True)
    ones = tg.ones(7, 5, dtype=tg.float64)
    table.grad = {"strided": tg.ones(5, 7, dtype=tg.float64).t()}.get(kind, ones)
    weights = tg.tensor(WEIGHTS)
    if kind == "its own memory":  # the result's gradient lies in the buffer that is added to
        y = F.embedding(tg.tensor([1, 1]), table)
        y.backward(ones[:2])
        assert table.grad.tolist() == [[1.0] * 5, [3.0] * 5, *[[1.0] * 5] * 5]
        return
    y = F.embedding(tg.tensor(INDEX), table)
    (y * weights).sum().backward(create_graph=kind == "wants a gradient")
    expected = np.ones_like(TABLE)
    np.add.at(expected, INDEX, WEIGHTS)
    np.testing.assert_allclose(table.grad.detach().numpy(), expected, rtol=1e-12)


def test_a_table_that_is_also_multiplied_with_gets_both_gradients():
    table = tg.tensor(TABLE, requires_grad=True)
    for _ in range(2):  # the second time there is a gradient already
        (F.embedding(tg.tensor(INDEX), table) @ table.t()).sum().backward()
    w = TABLE[INDEX.ravel()].sum(0)
    expected = np.tile(w, (7, 1))
    np.add.at(expected, INDEX.ravel(), TABLE.sum(0))
    np.testing.assert_allclose(table.grad.numpy(), 2 * expected, rtol=1e-12)


def test_large_tables_on_two_threads_have_the_same_bits():
    rng = np.random.default_rng(1)
    index, table = rng.integers(0, 3000, 20_000), rng.standard_normal((3000, 70)).astype(np.float32)
    weights = rng.standard_normal((20_000, 70)).astype(np.float32)
    found = []
    for threads in (1, 2):
        tg.set_num_threads(threads)
        w = tg.tensor(table, requires_grad=True)
        y = F.embedding(tg.tensor(index), w)
        (y * tg.tensor(weights)).sum().backward()
        found.append((y.detach().numpy(), w.grad.numpy()))
    tg.set_num_threads(1)
    np.testing.assert_array_equal(found[0][0], table[index])
    expected = np.zeros((3000, 70))
    np.add.at(expected, index, weights)
    np.testing.assert_allclose(found[0][1], expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_is_refused():
    layer = nn.Embedding(4, 2)
    for index in ([4], [-1]):
        with pytest.raises(IndexError, match=rf"index {index[0]} is out of bounds for dimension 0 with size 4"):
            layer(tg.tensor(index))
    with pytest.raises(RuntimeError, match="to have one of the following scalar types: Long, Int; but got"):
        layer(tg.tensor([1.0]))
    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        nn.Embedding(4, 2, padding_idx=4)
    with pytest.raises(AssertionError, match="Shape of weight does not match"):
        nn.Embedding(4, 2, _weight=tg.zeros(4, 3))
    bags = nn.EmbeddingBag(4, 2, mode="sum")
    with pytest.raises(ValueError, match="offsets has to be a 1D Tensor but got None"):
        bags(tg.tensor([1]))
    with pytest.raises(RuntimeError, match=r"offsets\[0\] has to be 0"):
        bags(tg.tensor([1, 2]), tg.tensor([1]))
    with pytest.raises(RuntimeError, match=r"offsets\[-1\] can not be greater than input's length\(2\)"):
        bags(tg.tensor([1, 2]), tg.tensor([0, 3]))
    with pytest.raises(RuntimeError, match="increasing order"):
        bags(tg.tensor([1, 2]), tg.tensor([0, 2, 1]))
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        bags(tg.tensor([[1, 9]]))
    with pytest.raises(ValueError, match="must have the same shape as the input"):
        bags(tg.tensor([[1, 2]]), None, tg.ones(2))
    with pytest.raises(NotImplementedError, match="only supported for mode='sum'"):
        nn.EmbeddingBag(4, 2)(tg.tensor([[1, 2]]), None, tg.ones(1, 2))


def test_tables_begin_normal_and_can_be_given():
    tg.manual_seed(0)
    layer = nn.Embedding(300, 50, padding_idx=-1)
    numbers = layer.weight.detach().numpy()
    assert layer.padding_idx == 299 and not numbers[299].any()
    assert abs(numbers[:299].mean()) < 0.03 and numbers[:299].std() == pytest.approx(1, abs=0.02)
    given = nn.Embedding.from_pretrained(tg.tensor(TABLE))
    assert not given.weight.requires_grad and given(tg.tensor([3])).tolist() == TABLE[[3]].tolist()
    assert nn.EmbeddingBag.from_pretrained(tg.tensor(TABLE), freeze=False).weight.requires_grad
    assert tuple(layer(tg.zeros(0, 3, dtype=tg.int64)).shape) == (0, 3, 50)


def test_one_hot():
    np.testing.assert_array_equal(F.one_hot(tg.tensor(INDEX)).numpy(), np.eye(7, dtype=np.int64)[INDEX])
    assert tuple(F.one_hot(tg.tensor([1]), 4).shape) == (1, 4)
    assert tuple(F.one_hot(tg.zeros(0, dtype=tg.int64), 4).shape) == (0, 4)
    for index, classes, text in (
        (tg.tensor([1.0]), -1, "only applicable to index tensor of type LongTensor"),
        (tg.tensor([-1]), -1, "Class values must be non-negative"),
        (tg.tensor([3]), 3, "Class values must be smaller than num_classes"),
        (tg.zeros(0, dtype=tg.int64), -1, "Can not infer total number of classes from empty tensor"),
    ):
        with pytest.raises(RuntimeError, match=text):
            F.one_hot(index, classes)

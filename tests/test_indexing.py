"""Square brackets, gather, scatter: values, derivatives and errors against torch; at random against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch_oracle import array, check, check_error, check_values, torch

import tapegrad as tg

R = np.random.default_rng(0)
X = R.normal(size=(3, 4, 5))
ROWS = np.array([2, 0, 2, -1])
COLUMNS = np.array([[1], [-4]])


GET = {
    "int": lambda t, x: x[1],
    "negative": lambda t, x: x[-1, 2],
    "slice": lambda t, x: x[1:, :-1, ::2],
    "slice beyond": lambda t, x: x[5:, -9:2],
    "none and ellipsis": lambda t, x: x[None, ..., 1:3, None],
    "ellipsis": lambda t, x: x[..., -1],
    "bool": lambda t, x: x[True],
    "false": lambda t, x: x[False],
    "list": lambda t, x: x[[0, 2, 0]],
    "empty list": lambda t, x: x[[]],
    "matrix": lambda t, x: x[np.array([[0, 2], [1, 1]])],
    "array": lambda t, x: x[:, np.array([1, 1, -1])],
    "numpy int": lambda t, x: x[np.int64(1), :, np.int32(2)],
    "tensor": lambda t, x: x[t.tensor(ROWS)],
    "int32": lambda t, x: x[t.tensor([1, 0], dtype=t.int32)],
    "0-d tensor": lambda t, x: x[t.tensor(1)],
    "two tensors": lambda t, x: x[t.tensor(ROWS), t.tensor(COLUMNS)],
    "two apart": lambda t, x: x[t.tensor(ROWS), :, t.tensor(COLUMNS)],
    "last two": lambda t, x: x[:, t.tensor(ROWS), t.tensor(COLUMNS)],
    "three": lambda t, x: x[t.tensor(ROWS), 1, t.tensor(COLUMNS)],
    "int and tensor apart": lambda t, x: x[0, :, t.tensor([0, 1])],
    "tensor with none": lambda t, x: x[t.tensor(ROWS), None, 1:3],
    "tensors around none": lambda t, x: x[t.tensor(ROWS), None, t.tensor(ROWS)],
    "mask": lambda t, x: x[x > 0],
    "mask of rows": lambda t, x: x[t.tensor([True, False, True])],
    "mask of two dims": lambda t, x: x[:, x[0] > 0],
    "mask and ints": lambda t, x: x[t.tensor([True, False, True]), t.tensor([1, 2])],
    "mask and slice": lambda t, x: x[1:, t.tensor([True, False, True, True]), ::2],
    "mask apart": lambda t, x: x[t.tensor([True, False, True]), :, t.tensor([1, 2])],
    "0-d mask": lambda t, x: x[t.tensor(True)],
    "of a view": lambda t, x: x.transpose(0, 2)[t.tensor([4, 0]), 1:],
    "iteration": lambda t, x: list(x[0]),
    "reversed": lambda t, x: reversed(x),
    "index_select": lambda t, x: x.index_select(1, t.tensor([3, 0, 3])),
    "index_select 0-d": lambda t, x: x[0, 0, 0].index_select(0, t.tensor([0])),
    "take": lambda t, x: t.take(x, t.tensor([[0, 59], [-1, 7]])),
    "masked_select": lambda t, x: t.masked_select(x, x[0] > 0),
    "gather": lambda t, x: x.gather(1, t.tensor([[[3, 0], [1, 1], [0, 0]]])),
    "gather last": lambda t, x: x.transpose(0, 1).gather(-1, t.tensor([[[3, 0, 4]]])),
    "gather 0-d": lambda t, x: x[0, 0, 0].gather(0, t.tensor(0)),
    "take_along_dim": lambda t, x: t.take_along_dim(x, t.tensor([[[1], [0]]]), 1),
    "take_along_dim flat": lambda t, x: t.take_along_dim(x, t.tensor([1, 5])),
    "index_fill": lambda t, x: x.index_fill(1, t.tensor([0, 2]), -1.5),
    "scatter value": lambda t, x: x.scatter(2, t.tensor([[[0], [4]]]), 1.5),
}


@pytest.mark.parametrize("name", GET)
def test_reads_like_torch(name):
    check(GET[name], X)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32"])
@pytest.mark.parametrize("name", ["tensor", "last two", "mask", "gather", "take", "index_select"])
def test_other_dtypes(name, dtype):
    check(GET[name], (np.abs(X) * 9).astype(dtype))


S = R.normal(size=(3, 4, 5))
K = R.integers(0, 3, size=(3, 4, 5))


def written(write):
    def function(t, x, s):
        y = x * 1
        write(t, y, s)
        return y

    return function


SET = {
    "int": lambda t, y, s: y.__setitem__(1, s[0]),
    "slice": lambda t, y, s: y.__setitem__((slice(1, None), slice(None, None, 2)), s[0, 0]),
    "leading ones": lambda t, y, s: y.__setitem__(1, s[:1]),
    "number": lambda t, y, s: y.__setitem__((Ellipsis, 1), 2),
    "tensor": lambda t, y, s: y.__setitem__(t.tensor([2, -3]), s[:2]),
    "apart": lambda t, y, s: y.__setitem__((t.tensor([0, 1]), slice(None), t.tensor([4, 0])), s[0, 0, 0]),
    "apart values": lambda t, y, s: y.__setitem__((t.tensor([0, 1]), slice(None), t.tensor([4, 0])), s[:2, :, 1]),
    "mask number": lambda t, y, s: y.__setitem__(y > 0, 5.0),
    "mask": lambda t, y, s: y.__setitem__(s > 0, s[s > 0]),
    "mask of rows": lambda t, y, s: y.__setitem__(t.tensor([True, False, True]), s[0]),
    "mask of columns": lambda t, y, s: y.__setitem__((slice(None), s[0] > 0), 3.0),
    "bool": lambda t, y, s: y.__setitem__(True, s),
    "float32 into float64": lambda t, y, s: y.__setitem__(0, s[0].to(t.float32)),
    "index_add": lambda t, y, s: y.index_add_(1, t.tensor([0, 0, 3]), s[:, 1:], alpha=2),
    "index_copy": lambda t, y, s: y.index_copy_(2, t.tensor([4, 1]), s[..., :2]),
    "index_put": lambda t, y, s: y.index_put_((t.tensor([0, 1]), t.tensor([1, 1])), s[0, :2]),
    "index_put accumulate": lambda t, y, s: y.index_put_((t.tensor([0, 0]),), s[:2], accumulate=True),
    "put_": lambda t, y, s: y.put_(t.tensor([5, -1]), s[0, 0, :2]),
    "put_ accumulate": lambda t, y, s: y.put_(t.tensor([5, 5]), s[0, 0, :2], accumulate=True),
    "masked_scatter": lambda t, y, s: y.masked_scatter_(s > 0, s),
    "scatter": lambda t, y, s: y.scatter_(1, t.tensor([[[3, 1, 0]]]), s[:1, :1, :3]),
    "scatter_add": lambda t, y, s: y.scatter_add_(0, t.tensor(K), s),
    "scatter_add strided": lambda t, y, s: y.transpose(0, 2).scatter_add_(
        2, t.tensor(K).transpose(0, 2), s.transpose(0, 2)
    ),
}


@pytest.mark.parametrize("name", SET)
def test_writes_like_torch(name):
    check(written(SET[name]), X, S)


FUNCTIONAL = {
    "index_add": lambda t, x, s: x.index_add(0, t.tensor([0, 0, 1]), s),
    "index_copy": lambda t, x, s: t.index_copy(x, 0, t.tensor([2, 1]), s[:2]),
    "index_put": lambda t, x, s: x.index_put((t.tensor([0, 1]),), s[:2]),
    "masked_scatter": lambda t, x, s: x.masked_scatter(s[0] > 0, s),
    "scatter": lambda t, x, s: x.scatter(1, t.tensor([[[3, 1, 0]]]), s[1:2, 2:3, :3]),
    "scatter_add": lambda t, x, s: x.scatter_add(0, t.tensor(K), s),
    **{
        f"scatter_reduce {kind} {own}": lambda t, x, s, kind=kind, own=own: x.scatter_reduce(
            0, t.tensor(K), s, kind, include_self=own
        )
        for kind in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functions_like_torch(name):
    check(FUNCTIONAL[name], X, S)


@pytest.mark.parametrize("reduce", ["add", "multiply"])
def test_scatter_with_a_reduction(reduce):
    check_values(lambda t, x: x.scatter(0, t.tensor(K), 1.5, reduce=reduce), [X])
    check_values(lambda t, x: x.scatter_(0, t.tensor(K[:1]), 2, reduce=reduce), [X])


def test_source_larger_than_the_index():
    x, s = tg.tensor(X), tg.tensor(S, requires_grad=True)
    x.scatter(0, tg.tensor(K[:2, :3]), s).sum().backward()
    assert np.isin(s.grad.numpy()[:2, :3], [0, 1]).all() and (s.grad.numpy()[2:] == 0).all()
    check_values(lambda t, x, s: x.scatter(0, t.tensor(K[:2, :3]), s), [X, S])


@pytest.mark.parametrize("value", [np.ones(5), [1.0, 2.0, 3.0, 4.0, 5.0], np.float32(2), True])
def test_assigned_arrays_and_lists(value):
    x, expected = tg.tensor(X), X.copy()
    x[0, 1] = value
    x[1, [0, 2]] = value
    expected[0, 1] = value
    expected[1, [0, 2]] = value
    assert np.array_equal(x.numpy(), expected)


def test_ties_share_the_gradient():
    x, s = np.zeros((2, 3)), np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 2.0]])
    index = np.array([[0, 0, 1], [0, 0, 1]])

    def gradients(t):
        a, b = t.tensor(x, requires_grad=True), t.tensor(s, requires_grad=True)
        t.scatter_reduce(a, 0, t.tensor(index), b, "amax").sum().backward()
        return array(a.grad), array(b.grad)

    for mine, theirs in zip(gradients(tg), gradients(torch), strict=True):
        np.testing.assert_allclose(mine, theirs)


COUNTS = {
    "nonzero": lambda t, x: x.nonzero(),
    "nonzero as_tuple": lambda t, x: t.nonzero(x, as_tuple=True),
    "nonzero 0-d": lambda t, x: x[0, 0].nonzero(),
    "argwhere": lambda t, x: t.argwhere(x),
    "count_nonzero": lambda t, x: t.count_nonzero(x),
    "count_nonzero dim": lambda t, x: x.count_nonzero(1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    check(COUNTS[name], np.array([[0, 1, 2], [3, 0, 0]]))


ERRORS = {
    "int": lambda t, x: x[3],
    "int dim 1": lambda t, x: x[0, -5],
    "too many": lambda t, x: x[0, 0, 0, 0],
    "too many tensors": lambda t, x: x[t.tensor([0]), t.tensor([0]), t.tensor([0]), t.tensor([0])],
    "0-d": lambda t, x: x[0, 0, 0][0],
    "negative step": lambda t, x: x[::-1],
    "float index": lambda t, x: x[t.tensor([0.5])],
    "tensor": lambda t, x: x[t.tensor([0, 3])],
    "second tensor": lambda t, x: x[t.tensor([0, 1]), t.tensor([0, -5])],
    "broadcast": lambda t, x: x[t.tensor([0, 1]), t.tensor([0, 1, 2])],
    "mask": lambda t, x: x[t.tensor([True, False])],
    "set": lambda t, x: x.__setitem__(3, 1.0),
    "set tensor": lambda t, x: x.__setitem__(t.tensor([0, 5]), 1.0),
    "set shape": lambda t, x: x.__setitem__(t.tensor([0, 1]), t.ones(3, dtype=t.float64)),
    "set text": lambda t, x: x.__setitem__(0, "a"),
    "index_select range": lambda t, x: x.index_select(0, t.tensor([3])),
    "index_select negative": lambda t, x: x.index_select(0, t.tensor([-1])),
    "index_select dtype": lambda t, x: x.index_select(0, t.tensor([0.0])),
    "index_select 0-d": lambda t, x: x[0, 0, 0].index_select(0, t.tensor([0, 0])),
    "index_select 2-d": lambda t, x: x.index_select(0, t.tensor([[0]])),
    "gather range": lambda t, x: x.gather(0, t.tensor([[[3]]])),
    "gather dims": lambda t, x: x.gather(0, t.tensor([0])),
    "gather shape": lambda t, x: x.gather(0, t.zeros(1, 5, 1, dtype=t.int64)),
    "gather dtype": lambda t, x: x.gather(0, t.zeros(1, 1, 1)),
    "scatter range": lambda t, x: x.scatter_(0, t.tensor([[[5]]]), 1.0),
    "scatter src": lambda t, x: x.scatter_(0, t.zeros(2, 2, 2, dtype=t.int64), t.ones(1, 2, 2, dtype=t.float64)),
    "index_add shape": lambda t, x: x.index_add_(0, t.tensor([0]), x[:2]),
    "index_add range": lambda t, x: x.index_add_(0, t.tensor([7]), x[:1]),
    "index_put dtype": lambda t, x: x.index_put_((t.tensor([0]),), t.ones(4, 5)),
    "take range": lambda t, x: t.take(x, t.tensor([60])),
    "iteration": lambda t, x: list(x[0, 0, 0]),
    "len": lambda t, x: len(x[0, 0, 0]),
    "contains": lambda t, x: "a" in x,
    "masked_scatter": lambda t, x: x.masked_scatter_(x > -9, x[0]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    check_error(ERRORS[name], X)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x[3], "index 3 is out of bounds for dimension 0 with size 3"),
        (lambda x: x[0, -5], "index -5 is out of bounds for dimension"),
        (lambda x: x[0, 0, 0, 0], "too many indices for tensor of dimension 3"),
        (lambda x: x[0, 0, 0][0], "invalid index of a 0-dim tensor"),
        (lambda x: x[[0, 3]], "index 3 is out of bounds for dimension 0 with size 3"),
        (lambda x: x[:, [0, 1], [0, 7]], "index 7 is out of bounds for dimension 2 with size 5"),
        (lambda x: x[tg.tensor([0.5])], "tensors used as indices must be long, int, byte or bool tensors"),
        (lambda x: x[[0, 1], [0, 1, 2]], r"could not be broadcast together with shapes \[2\], \[3\]"),
        (lambda x: x[tg.tensor([True, False])], r"The shape of the mask \[2\] at index 0 does not match"),
        (lambda x: x.gather(1, tg.tensor([[[4]]])), "index 4 is out of bounds for dimension 1 with size 4"),
    ],
)
def test_error_texts(call, text):
    with pytest.raises(IndexError, match=text):
        call(tg.tensor(X))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.__setitem__(tg.tensor([0, 5]), 1.0),
        lambda x: x.scatter_(0, tg.tensor([[[0], [9]]]), 1.0),
        lambda x: x.index_add_(0, tg.tensor([0, 9]), tg.ones(2, 4, 5, dtype=tg.float64)),
        lambda x: x.put_(tg.tensor([0, 99]), tg.ones(2, dtype=tg.float64)),
    ],
)
def test_nothing_is_written_before_indices_are_checked(write):
    x = tg.tensor(X)
    version = x._version
    with pytest.raises(IndexError):
        write(x)
    assert np.array_equal(x.numpy(), X) and x._version == version


def test_len_iter_contains():
    x = tg.tensor([1.0, 2.0, 3.0])
    assert len(x) == 3 and [v.item() for v in x] == [1.0, 2.0, 3.0]
    assert 2 in x and 5 not in x and tg.tensor(3.0) in x


def test_two_ellipses():
    with pytest.raises(IndexError, match="single ellipsis"):
        tg.tensor(X)[..., 0, ...]


def shape_strategy():
    return hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@st.composite
def basic_case(draw):
    shape = draw(shape_strategy())
    index = draw(hnp.basic_indices(shape, allow_ellipsis=True, allow_newaxis=True, max_dims=7))
    items = index if isinstance(index, tuple) else (index,)
    forward = tuple(
        slice(item.start, item.stop, abs(item.step) if item.step else None) if isinstance(item, slice) else item
        for item in items
    )
    return shape, forward if isinstance(index, tuple) else forward[0]


@settings(max_examples=200, deadline=None)
@given(basic_case())
def test_basic_indices_at_random(case):
    shape, index = case
    a = np.arange(float(np.prod(shape))).reshape(shape)
    part = tg.tensor(a)[index]
    np.testing.assert_array_equal(part.numpy(), a[index])
    x, b = tg.tensor(a), a.copy()
    x[index] = -1.0
    b[index] = -1.0
    np.testing.assert_array_equal(x.numpy(), b)
    leaf = tg.tensor(a, requires_grad=True)
    leaf[index].sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy(), (b == -1.0).astype(float))


@st.composite
def advanced_case(draw):
    shape = draw(shape_strategy())
    broadcast = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=3))
    items = []
    for length in shape:
        kind = draw(st.sampled_from(["slice", "index", "mask"]))
        if kind == "slice":
            items.append(slice(draw(st.integers(-4, 4)), draw(st.none() | st.integers(-4, 4)), draw(st.integers(1, 3))))
        elif kind == "index":
            items.append(draw(hnp.arrays(np.int64, broadcast, elements=st.integers(-length, length - 1))))
        else:
            items.append(draw(hnp.arrays(bool, (length,))))
    arrays = [item.nonzero()[0] if item.dtype == bool else item for item in items if isinstance(item, np.ndarray)]
    try:
        np.broadcast_shapes(*[item.shape for item in arrays])
    except ValueError:
        items = [slice(None) if isinstance(item, np.ndarray) and item.dtype == bool else item for item in items]
    return shape, tuple(items)


@settings(max_examples=200, deadline=None)
@given(advanced_case())
def test_advanced_indices_at_random(case):
    shape, index = case
    a = np.arange(float(np.prod(shape))).reshape(shape)
    mine = tuple(tg.tensor(item) if isinstance(item, np.ndarray) else item for item in index)
    part = tg.tensor(a)[mine]
    np.testing.assert_array_equal(part.numpy(), a[index])
    x, b = tg.tensor(a), a.copy()
    x[mine] = -1.0
    b[index] = -1.0
    np.testing.assert_array_equal(x.numpy(), b)
    leaf, expected = tg.tensor(a, requires_grad=True), np.zeros_like(a)
    leaf[mine].sum().backward()
    np.add.at(expected, index, 1.0)
    np.testing.assert_array_equal(leaf.grad.numpy(), expected)
    y, values = tg.tensor(a, requires_grad=True), R.normal(size=a[index].shape)
    z = y * 1
    z[mine] = tg.tensor(values)
    (z * z).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), np.where(b == -1.0, 0.0, 2 * a))


def test_the_gradient_of_a_scattered_product_with_zeros_is_torchs():
    found = []
    for t in (tg, torch):
        x = t.tensor([[2.0, 0, 3], [0, 1, 2], [1, 1, 1]], dtype=t.float64, requires_grad=True)
        v = t.tensor([[0.0, 2, 0], [3, 0, 0], [1, 1, 4]], dtype=t.float64, requires_grad=True)
        index = t.tensor([[0, 1, 2], [0, 1, 2], [2, 2, 2]])
        y = x.scatter_reduce(0, index, v, "prod")
        weights = t.arange(1.0, 10.0, dtype=t.float64).view(3, 3)
        found.append([g.numpy() for g in t.autograd.grad((y * weights).sum(), [x, v])])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)

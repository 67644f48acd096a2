"""Matrix products, einsum, tensordot and kron against NumPy and torch: values, derivatives, errors, strides."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops.registry import op_of_code
from tapegrad.runtime.machine import machine

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)


def both(*arrays, grad=True):
    """Return the arrays as tensors of tapegrad and of torch."""
    return [
        [make(np.array(a), requires_grad=grad and a.dtype.kind == "f") for a in arrays]
        for make in (tg.tensor, torch.tensor)
    ]


def weights(shape):
    return np.cos(1 + np.arange(np.prod(shape, dtype=int))).reshape(shape)


def compare(name, *arrays, call=None, tolerance=1e-12):
    """Compare value, first and second derivatives of a function with torch's."""
    call = call or (lambda module, *tensors: getattr(module, name)(*tensors))
    mine, theirs = both(*arrays)
    y, z = call(tg, *mine), call(torch, *theirs)
    assert tuple(y.shape) == tuple(z.shape)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), tolerance, tolerance)
    for _ in range(2):
        w = weights(tuple(y.shape))
        g = tg.autograd.grad((y * tg.tensor(w)).sum(), mine, create_graph=True, allow_unused=True)
        h = torch.autograd.grad((z * torch.tensor(w)).sum(), theirs, create_graph=True, allow_unused=True)
        assert [a is None for a in g] == [b is None for b in h]
        g, h = ([a for a in part if a is not None] for part in (g, h))
        for a, b in zip(g, h, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 10 * tolerance, 10 * tolerance)
        y = sum((a * a).sum() for a in g)
        z = sum((b * b).sum() for b in h)
        if not z.requires_grad:  # the function is linear
            assert not y.requires_grad
            return


SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((1, 5, 2, 3), (6, 1, 3, 4)),
    ((2, 2, 2, 3), (2, 2, 3, 1)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((0, 2, 3), (3, 4)),
    ((5, 2, 0), (5, 0, 4)),
    ((0,), (0,)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul(a, b):
    compare("matmul", rng.normal(size=a), rng.normal(size=b))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize(("a", "b"), [((7, 9), (9, 5)), ((2, 7, 9), (9, 5)), ((2, 7, 9), (2, 9, 5)), ((9,), (9,))])
def test_matmul_in_every_dtype(dtype, a, b):
    x, w = (rng.integers(0, 9, s).astype(dtype) for s in (a, b))
    got = (tg.tensor(x) @ tg.tensor(w)).numpy()
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x @ w)


def layouts(shape):
    """Yield arrays of a shape: transposed, sliced, expanded, and with gaps between rows."""
    big = rng.normal(size=[2 * n + 1 for n in shape])
    yield big[tuple(slice(1, 1 + 2 * n, 2) for n in shape)]
    yield np.swapaxes(rng.normal(size=(*shape[:-2], shape[-1], shape[-2])), -1, -2)
    yield np.broadcast_to(rng.normal(size=(1, *shape[1:])), shape)
    yield np.moveaxis(rng.normal(size=(*shape[1:], shape[0])), -1, 0)


@pytest.mark.parametrize(("a", "b"), [((4, 3), (3, 5)), ((2, 4, 3), (2, 3, 5)), ((2, 2, 4, 3), (2, 3, 5))])
def test_strided_operands(a, b):
    for x in layouts(a):
        for w in layouts(b):
            np.testing.assert_allclose((tg.from_numpy(x) @ tg.from_numpy(w)).numpy(), x @ w, 1e-12, 1e-12)
            if w.ndim == 3 and x.ndim == 3:
                got = tg.einsum("bij,bjk->ik", tg.from_numpy(x), tg.from_numpy(w)).numpy()
                np.testing.assert_allclose(got, np.einsum("bij,bjk->ik", x, w), 1e-12, 1e-12)
    for x in layouts((2, 4, 3)):
        w = rng.normal(size=(5, 3))
        np.testing.assert_allclose(tg.linear(tg.from_numpy(x), tg.tensor(w)).numpy(), x @ w.T, 1e-12, 1e-12)


def test_no_transposed_copies_are_made():
    """The gradients of a product are two products: no clone, no view."""
    x, w = tg.ones(2, 3, requires_grad=True), tg.ones(4, 3, requires_grad=True)
    y = tg.linear(x, w, tg.ones(4, requires_grad=True))
    before = len(machine.table("entries"))
    gradients = tg.autograd.grad(y, [x, w], tg.ones(2, 4, requires_grad=True), create_graph=True)
    assert [tuple(g.shape) for g in gradients] == [(2, 3), (4, 3)]
    names = [op_of_code(int(row["op"])).name for row in machine.table("entries")[before:]]
    assert names == ["mm", "mm_tn"]


@pytest.mark.parametrize("lead", [(), (4,), (2, 4), (0,)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(lead, bias):
    arrays = [rng.normal(size=(*lead, 3)), rng.normal(size=(5, 3)), *([rng.normal(size=5)] if bias else [])]
    linear = {tg: lambda *t: tg.linear(*t), torch: torch.nn.functional.linear}
    compare("linear", *arrays, call=lambda module, *t: linear[module](*t))


@pytest.mark.parametrize("m", [1, 2, 17, 64])
def test_linear_float32_is_close(m):
    x, w, c = (rng.normal(size=s).astype("f4") for s in ((m, 100), (33, 100), (33,)))
    got = tg.linear(*map(tg.tensor, (x, w, c))).numpy()
    np.testing.assert_allclose(got, x.astype("f8") @ w.T + c, rtol=2e-5, atol=2e-5)


def test_products_by_their_names():
    r = rng.normal
    compare("mm", r(size=(2, 3)), r(size=(3, 4)))
    compare("bmm", r(size=(5, 2, 3)), r(size=(5, 3, 4)))
    compare("mv", r(size=(2, 3)), r(size=3))
    compare("dot", r(size=3), r(size=3))
    compare("vdot", r(size=3), r(size=3))
    compare("outer", r(size=3), r(size=2))
    compare("ger", r(size=3), r(size=2))
    compare("inner", r(size=(2, 3)), r(size=(4, 5, 3)))
    compare("inner", r(size=3), r(size=3))
    compare("inner", r(size=(2, 3)), r(size=()))
    compare("kron", r(size=(2, 3)), r(size=(4, 1)))
    compare("kron", r(size=3), r(size=(2, 2)))


@pytest.mark.parametrize("scales", [{}, {"beta": 0.5}, {"alpha": 2.0}, {"beta": 0.5, "alpha": -1.5}])
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("addmm", [(2, 4), (2, 3), (3, 4)]),
        ("addmm", [(4,), (2, 3), (3, 4)]),
        ("addmm", [(2, 1), (2, 3), (3, 4)]),
        ("addmm", [(), (2, 3), (3, 4)]),
        ("addmv", [(2,), (2, 3), (3,)]),
        ("addbmm", [(2, 4), (5, 2, 3), (5, 3, 4)]),
        ("baddbmm", [(2, 4), (5, 2, 3), (5, 3, 4)]),
    ],
)
def test_added_products(name, shapes, scales):
    compare(name, *(rng.normal(size=s) for s in shapes), call=lambda module, *t: getattr(module, name)(*t, **scales))


def test_beta_zero_ignores_nan():
    x = tg.full((2, 2), float("nan"))
    assert tg.addmm(x, tg.ones(2, 2), tg.ones(2, 2), beta=0).tolist() == [[2, 2], [2, 2]]


def test_operators():
    x = tg.ones(2, 2)
    assert (x @ x).tolist() == [[2, 2], [2, 2]]
    with pytest.raises(TypeError, match="unsupported operand"):
        x @ 3
    with pytest.raises(TypeError):
        3 @ x


f4, f8 = "f4", "f8"
ERRORS = [
    ("mm", [(2, 3), (4, 5)], f4, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ("mm", [(2, 3), (3, 5)], (f4, f8), "expected m1 and m2 to have the same dtype, but got: float != double"),
    ("mm", [(2, 3, 1), (3, 5)], f4, "self must be a matrix"),
    ("mm", [(2, 3), (3,)], f4, "mat2 must be a matrix"),
    ("matmul", [(2, 3), (4, 5)], f4, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ("matmul", [(2, 3), (3, 5)], (f4, f8), "expected m1 and m2 to have the same dtype, but got: float != double"),
    ("matmul", [(2, 3), (4,)], f4, "size mismatch, got input (2), mat (2x3), vec (4)"),
    ("matmul", [(2, 3), (3,)], (f4, f8), "addmv input tensors must have the same dtype, but got Double, Float, and Double"),  # noqa: E501
    ("matmul", [(2,), (4,)], f4, "inconsistent tensor size, expected tensor [2] and src [4] to have the same number of "),  # noqa: E501
    ("matmul", [(2,), (2,)], (f4, f8), "dot : expected both vectors to have same dtype, but found Float and Double"),
    ("matmul", [(2,), (4, 5)], f4, "mat1 and mat2 shapes cannot be multiplied (1x2 and 4x5)"),
    ("matmul", [(), (4, 5)], f4, "both arguments to matmul need to be at least 1D, but they are 0D and 2D"),
    ("matmul", [(7, 2, 3), (7, 4, 5)], f4, "Expected size for first two dimensions of batch2 tensor to be: [7, 3] but got: [7, 4]."),  # noqa: E501
    ("matmul", [(7, 2, 3), (6, 3, 5)], f4, "The size of tensor a (7) must match the size of tensor b (6) at non-singleton dimension 0"),  # noqa: E501
    ("matmul", [(7, 2, 3), (7, 3, 5)], (f4, f8), "expected scalar type Float but found Double"),
    ("matmul", [(7, 2, 3), (4, 5)], f4, "mat1 and mat2 shapes cannot be multiplied (14x3 and 4x5)"),
    ("matmul", [(7, 2, 3), (4,)], f4, "size mismatch, got input (14), mat (14x3), vec (4)"),
    ("bmm", [(7, 2, 3), (6, 3, 5)], f4, "Expected size for first two dimensions of batch2 tensor to be: [7, 3] but got: [6, 3]."),  # noqa: E501
    ("bmm", [(7, 2, 3), (3, 5)], f4, "batch2 must be a 3D tensor"),
    ("mv", [(3,), (3,)], f4, "vector + matrix @ vector expected, got 1, 1, 1"),
    ("dot", [(3, 1), (3,)], f4, "1D tensors expected, but got 2D and 1D tensors"),
    ("inner", [(2, 3), (4,)], f4, "inner() the last dimension must match on both input tensors but got shapes [2, 3] and [4]"),  # noqa: E501
    ("outer", [(2, 3), (4,)], f4, "outer: Expected 1-D argument self, but got 2-D"),
    ("addmm", [(2, 3), (2, 4), (5, 3)], f4, "mat1 and mat2 shapes cannot be multiplied (2x4 and 5x3)"),
    ("addmm", [(7, 3), (2, 4), (4, 3)], f4, "The expanded size of the tensor (2) must match the existing size (7) at non-singleton dimension 0.  Target sizes: [2, 3].  Tensor sizes: [7, 3]"),  # noqa: E501
    ("addmm", [(2, 3), (2, 4), (4, 3)], (f8, f4, f4), "self and mat2 must have the same dtype, but got Double and Float"),  # noqa: E501
    ("linear", [(2, 3), (5, 4), (5,)], f4, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ("linear", [(2, 3), (5, 3), (4,)], f4, "The expanded size of the tensor (5) must match the existing size (4) at non-singleton dimension 1.  Target sizes: [2, 5].  Tensor sizes: [4]"),  # noqa: E501
    ("linear", [(2, 3), (5, 3), (5,)], (f4, f8, f8), "mat1 and mat2 must have the same dtype, but got Float and Double"),  # noqa: E501
    ("linear", [(2, 3), (5, 3), (5,)], (f4, f4, f8), "self and mat2 must have the same dtype, but got Double and Float"),  # noqa: E501
    ("tensordot", [(2, 3), (4, 5), 1], f4, "contracted dimensions need to match, but first has size 3 in dim -1 and second has size 4 in dim 0"),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shapes", "dtypes", "message"), ERRORS, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(ERRORS)]
)
def test_errors_in_torchs_words(name, shapes, dtypes, message):
    dtypes = (dtypes,) * len(shapes) if isinstance(dtypes, str) else dtypes
    arrays = [np.ones(s, d) if isinstance(s, tuple) else s for s, d in zip(shapes, dtypes, strict=False)]
    theirs = torch.nn.functional.linear if name == "linear" else getattr(torch, name)
    for function, make in ((getattr(tg, name), tg.tensor), (theirs, torch.tensor)):
        with pytest.raises(RuntimeError) as error:
            function(*[make(a) if isinstance(a, np.ndarray) else a for a in arrays])
        assert message in str(error.value)


def test_bool_is_refused():
    with pytest.raises(RuntimeError, match="not implemented for"):
        tg.ones(2, 2, dtype=tg.bool) @ tg.ones(2, 2, dtype=tg.bool)


def test_operands_that_are_no_tensors():
    with pytest.raises(TypeError, match=r"mm\(\): argument 'input' \(position 1\) must be Tensor, not int"):
        tg.mm(3, tg.ones(2, 2))
    with pytest.raises(TypeError, match=r"linear\(\): argument 'weight' \(position 2\) must be Tensor, not NoneType"):
        tg.linear(tg.ones(2, 2), None)


EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("bij,bjk->ik", (5, 2, 3), (5, 3, 4)),
    ("bij,bkj->bik", (5, 2, 3), (5, 4, 3)),
    ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("i,j->ij", (2,), (3,)),
    ("i,i->", (3,), (3,)),
    ("i,i->i", (3,), (3,)),
    ("ij,i->ij", (2, 3), (2,)),
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ij->i", (2, 3)),
    ("ii->i", (3, 3)),
    ("ii->", (3, 3)),
    ("ii", (3, 3)),
    ("iji->j", (3, 2, 3)),
    ("iij,jk->ik", (3, 3, 2), (2, 4)),
    ("...ij,...jk->...ik", (2, 5, 2, 3), (5, 3, 4)),
    ("...ij,jk", (5, 2, 3), (3, 4)),
    ("...,...->...", (2, 3), (3,)),
    ("i...->...", (2, 3)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("ij,jk,kl,lm->im", (2, 3), (3, 4), (4, 5), (5, 2)),
    ("i,i,i->i", (3,), (3,), (3,)),
    ("bi,ijk,bk->bj", (5, 2), (2, 3, 4), (5, 4)),
    ("ab,bc->ac", (2, 1), (3, 4)),
    ("ij,jk->ik", (2, 0), (0, 4)),
    (",->", (), ()),
]


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EQUATIONS], ids=[e for e, *_ in EQUATIONS])
def test_einsum(equation, shapes):
    arrays = [rng.normal(size=s) for s in shapes]
    compare("einsum", *arrays, call=lambda module, *t: module.einsum(equation, *t))


def test_einsum_of_lists():
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    got = tg.einsum(tg.tensor(x), [0, 1], tg.tensor(w), [1, 2], [0, 2]).numpy()
    np.testing.assert_allclose(got, x @ w)
    got = tg.einsum(tg.tensor(x), [..., 1], tg.tensor(w), [1, 2], [..., 2]).numpy()
    np.testing.assert_allclose(got, x @ w)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)]),
        ("ij,jk->iz", [(2, 3), (3, 5)]),
        ("ijk,jk->i", [(2, 3), (3, 5)]),
        ("ij->ii", [(2, 3)]),
        ("ii->i", [(2, 3)]),
        ("i1->i", [(2, 3)]),
        ("ij,jk->ik", [(2, 3)]),
        ("ij->ij", [(2, 3), (2, 3)]),
    ],
)
def test_einsum_errors_in_torchs_words(equation, shapes):
    messages = []
    for module in (tg, torch):
        with pytest.raises(RuntimeError) as error:
            module.einsum(equation, *[module.ones(*s) for s in shapes])
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("dims", [0, 1, 2, ([1], [0]), ([0, 1], [1, 0]), ([-1], [0])])
def test_tensordot(dims):
    shapes = {2: [(2, 3, 4), (3, 4, 5)]}.get(dims if isinstance(dims, int) else 0, [(2, 3), (3, 2)])
    compare("tensordot", *(rng.normal(size=s) for s in shapes), call=lambda module, *t: module.tensordot(*t, dims=dims))


def test_large_products_by_tiles():
    """Sizes beyond every block of the kernel."""
    for m, n, k in ((257, 515, 129), (3, 1000, 700), (1000, 3, 2)):
        x, w = rng.normal(size=(m, k)).astype("f4"), rng.normal(size=(k, n)).astype("f4")
        np.testing.assert_allclose((tg.tensor(x) @ tg.tensor(w)).numpy(), x.astype("f8") @ w, rtol=1e-3, atol=1e-3)

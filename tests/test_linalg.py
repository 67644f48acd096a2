"""Linear algebra against torch: values, first and second derivatives, errors."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import linalg, linalg_norms
from tapegrad.ops.calls import call
from tapegrad.ops.registry import registry

torch = pytest.importorskip("torch")
rng = np.random.default_rng(1)
FUNCTIONS = {
    name: getattr(linalg, name, None) or getattr(linalg_norms, name) for name in linalg.__all__ + linalg_norms.__all__
}


def well(*shape):
    return rng.normal(size=shape) + 5 * np.eye(shape[-1])


def symmetric(*shape):
    a = rng.normal(size=shape)
    return a + np.swapaxes(a, -1, -2) + np.diag(np.arange(shape[-1]) * 3.0)


def positive(*shape):
    a = well(*shape)
    return a @ np.swapaxes(a, -1, -2)


def as_list(value):
    return list(value) if isinstance(value, tuple | list) else [value]


def scalar(results, make):
    """Return a sum of all differentiable results with fixed weights."""
    total = 0.0
    for r in results:
        if r.requires_grad:
            total = total + (r * make(np.cos(1 + np.arange(r.numel())).reshape(tuple(r.shape)))).sum()
    return total


def compare(name, *arrays, after=lambda r: r, second=True, tolerance=1e-9, **kwargs):
    """Compare results, gradients and the gradients of gradients with those of torch.linalg's function."""
    mine, theirs = ([make(np.array(a), requires_grad=True) for a in arrays] for make in (tg.tensor, torch.tensor))
    y = as_list(after(FUNCTIONS[name](*mine, **kwargs)))
    z = as_list(after((getattr(torch.linalg, name, None) or getattr(torch, name))(*theirs, **kwargs)))
    for a, b in zip(y, z, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        close(a, b, tolerance)
    g = tg.autograd.grad(scalar(y, tg.tensor), mine, create_graph=second)
    h = torch.autograd.grad(scalar(z, torch.tensor), theirs, create_graph=second)
    for a, b in zip(g, h, strict=True):
        close(a, b, 10 * tolerance)
    if not second or not any(b.requires_grad for b in h):
        return
    g2 = tg.autograd.grad(scalar(g, tg.tensor), mine, allow_unused=True)
    h2 = torch.autograd.grad(scalar(h, torch.tensor), theirs, allow_unused=True)
    for a, b in zip(g2, h2, strict=True):
        if a is not None and b is not None:
            close(a, b, 100 * tolerance)


def close(a, b, tolerance):
    b = b.numpy(force=True)
    np.testing.assert_allclose(a.detach().numpy(), b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max(initial=0)))


squares = lambda r: [r[0] ** 2, *r[1:2]]  # noqa: E731 (signs of vectors are a matter of taste)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 3, 3), (2, 1, 12, 12)])
def test_square_systems(shape):
    compare("inv", well(*shape))
    compare("det", well(*shape), tolerance=1e-7)
    compare("slogdet", well(*shape))
    compare("cholesky", positive(*shape))
    compare("cholesky", positive(*shape), upper=True)
    compare("eigh", symmetric(*shape), after=lambda r: [r[0], r[1] ** 2])
    compare("eigvalsh", symmetric(*shape), UPLO="U", second=False)
    compare("matrix_power", well(*shape) / 4, n=5)
    compare("matrix_power", well(*shape), n=-3)


def test_solve():
    compare("solve", well(3, 3), rng.normal(size=3))
    compare("solve", well(3, 3), rng.normal(size=(3, 2)))
    compare("solve", well(2, 3, 3), rng.normal(size=(2, 3)))
    compare("solve", well(2, 3, 3), rng.normal(size=(3, 4)))
    compare("solve", well(3, 3), rng.normal(size=(2, 3, 4)))
    compare("solve", well(2, 3, 3), rng.normal(size=(2, 4, 3)), left=False)
    compare("solve", well(20, 20), rng.normal(size=(20, 1)))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_solve_triangular(upper, left, unitriangular):
    b = rng.normal(size=(2, 4, 3) if left else (2, 3, 4))
    compare("solve_triangular", well(2, 4, 4), b, upper=upper, left=left, unitriangular=unitriangular)


def test_cholesky_solve():
    L, B = np.linalg.cholesky(positive(3, 3)), rng.normal(size=(3, 2))
    for upper in (False, True):
        factor = np.ascontiguousarray(L.T) if upper else L
        got = tg.cholesky_solve(tg.tensor(B), tg.tensor(factor), upper).numpy()
        np.testing.assert_allclose(got, np.linalg.solve(L @ L.T, B))
    np.testing.assert_allclose(tg.cholesky_inverse(tg.tensor(L)).numpy(), np.linalg.inv(L @ L.T))


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 5, 3), (2, 3, 5), (1, 4)])
def test_decompositions(shape):
    a = rng.normal(size=shape)
    compare("qr", a)
    compare("svd", a, full_matrices=False, after=squares)
    compare("svd", a, after=lambda r: r[1])
    compare("svdvals", a)
    compare("pinv", a)
    b = rng.normal(size=(*shape[:-1], 2))
    compare("lstsq", a, b, after=lambda r: r[0])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_full_matrices_are_orthogonal(shape):
    a = rng.normal(size=shape)
    for grad in (False, True):
        u, s, vh = (r.detach().numpy() for r in linalg.svd(tg.tensor(a, requires_grad=grad)))
        np.testing.assert_allclose(u @ u.T, np.eye(shape[0]), atol=1e-12)
        np.testing.assert_allclose(vh @ vh.T, np.eye(shape[1]), atol=1e-12)
        k = min(shape)
        np.testing.assert_allclose((u[:, :k] * s) @ vh[:k], a, atol=1e-12)
    q, r = linalg.qr(tg.tensor(a), mode="complete")
    np.testing.assert_allclose(q.numpy() @ r.numpy(), a, atol=1e-12)
    assert tuple(q.shape) == (shape[0], shape[0])


def test_lstsq_results():
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    for driver in ("gelsy", "gelsd"):
        got = linalg.lstsq(tg.tensor(a), tg.tensor(b), driver=driver)
        want = torch.linalg.lstsq(torch.tensor(a), torch.tensor(b), driver=driver)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_allclose(x.numpy(), y.numpy(), 1e-10)
    low = np.outer(rng.normal(size=5), rng.normal(size=3))
    assert linalg.lstsq(tg.tensor(low), tg.tensor(b[:5])).rank.item() == 1


@pytest.mark.parametrize("order", ["fro", "nuc", 1, -1, 2, -2, float("inf"), float("-inf")])
def test_matrix_norm(order):
    compare("matrix_norm", rng.normal(size=(2, 3, 4)), ord=order)
    compare("matrix_norm", rng.normal(size=(3, 2, 4)), ord=order, dim=(0, 2), keepdim=True, second=False)


@pytest.mark.parametrize("order", [None, 1, 2, 3, 0.5, float("inf"), float("-inf")])
def test_vector_norm(order):
    compare("norm", rng.normal(size=5), ord=order)
    compare("norm", rng.normal(size=(3, 5)), ord=order, dim=1)


def test_products_and_conditions():
    compare("cond", well(3, 3))
    compare("cond", well(3, 3), p=-2, second=False)
    np.testing.assert_allclose(linalg_norms.cond(tg.eye(3), 1).item(), 1)
    assert linalg_norms.cond(tg.zeros(2, 2), 1).item() == float("inf")
    compare("cross", rng.normal(size=(4, 3)), rng.normal(size=(1, 3)))
    compare("cross", rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), dim=0)
    compare("vander", rng.normal(size=4), N=5)
    compare("vecdot", rng.normal(size=(2, 4)), rng.normal(size=(2, 4)))
    arrays = [rng.normal(size=s) for s in (3, (3, 20), (20, 2), (2, 7), 7)]
    mine, theirs = ([make(a) for a in arrays] for make in (tg.tensor, torch.tensor))
    for part in (slice(None), slice(1, 4), slice(0, 3), slice(2, 5), slice(1, 3)):
        close(linalg_norms.multi_dot(mine[part]), torch.linalg.multi_dot(theirs[part]), 1e-12)


def test_matrix_rank():
    a = np.stack([np.outer([1.0, 2, 3], [1, 2, 3]), np.eye(3), np.zeros((3, 3)), np.diag([1, 1e-3, 0])])
    assert tg.matrix_rank(tg.tensor(a)).tolist() == [1, 3, 0, 2]
    assert tg.matrix_rank(tg.tensor(a), hermitian=True).tolist() == [1, 3, 0, 2]
    assert tg.matrix_rank(tg.tensor(a), atol=0.01).tolist() == [1, 3, 0, 1]
    assert tg.matrix_rank(tg.zeros(2, 0, 3)).tolist() == [0, 0]


def test_the_error_names_the_op_though_a_copy_came_first():
    with pytest.raises(RuntimeError, match=r"^linalg[._]inv: "):
        tg.linalg.inv(tg.zeros(2, 3, 3).transpose(0, 1)[:2, :2].expand(2, 2, 3)[..., :2])


def test_gradient_of_the_determinant_of_singular_matrices():
    """The cofactors are the derivatives, whatever the rank: by minors."""
    for a in (
        [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[1.0, 1, 0], [1, 1, 0], [0, 0, 1]],
        [[1.0, 2, 3], [2, 4, 6], [3, 6, 9]],
        [[0.0] * 3] * 3,
    ):
        a = np.array(a)
        minors = [
            [np.linalg.det(np.delete(np.delete(a, i, 0), j, 1)) * (-1) ** (i + j) for j in range(3)] for i in range(3)
        ]
        x = tg.tensor(a, requires_grad=True)
        tg.det(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), minors, atol=1e-12)


def test_logdet():
    a = well(3, 3)
    np.testing.assert_allclose(tg.logdet(tg.tensor(a)).item(), np.log(np.linalg.det(a)))
    assert np.isnan(tg.logdet(tg.tensor(np.diag([1.0, -1.0]))).item())
    assert tg.logdet(tg.zeros(2, 2)).item() == float("-inf")


@pytest.mark.parametrize("name", ["inv", "det", "cholesky", "eigvalsh", "svdvals", "pinv"])
def test_float32(name):
    a = positive(2, 4, 4).astype("f4")
    got = FUNCTIONS[name](tg.tensor(a)).numpy()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, getattr(torch.linalg, name)(torch.tensor(a)).numpy(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["inv", "det", "slogdet", "cholesky", "eigh", "eigvalsh", "qr", "svd", "svdvals", "pinv"]
)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0)])
def test_empty(name, shape):
    got = as_list(FUNCTIONS[name](tg.zeros(*shape)))
    want = as_list(getattr(torch.linalg, name)(torch.zeros(*shape)))
    for a, b in zip(got, want, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_large_matrices_use_scratch_beyond_the_workspace():
    a = rng.normal(size=(400, 400)) + 30 * np.eye(400)
    np.testing.assert_allclose(linalg.inv(tg.tensor(a)).numpy() @ a, np.eye(400), atol=1e-9)
    np.testing.assert_allclose(linalg.svdvals(tg.tensor(a)).numpy(), np.linalg.svd(a)[1], rtol=1e-10)
    np.testing.assert_allclose(linalg.pinv(tg.tensor(a)).numpy() @ a, np.eye(400), atol=1e-9)


def test_strided_operands():
    a = rng.normal(size=(6, 8)) + 3
    view = tg.from_numpy(a)[::2, 1:7:2].t()
    np.testing.assert_allclose(linalg.inv(view).numpy(), np.linalg.inv(a[::2, 1:7:2].T), rtol=1e-9)


nan = float("nan")
ERRORS = [
    ("inv", [np.zeros((2, 2))], {}),
    ("inv", [np.stack([np.eye(2), np.zeros((2, 2))])], {}),
    ("inv", [np.zeros((3, 2))], {}),
    ("inv", [np.zeros(3)], {}),
    ("inv", [np.zeros((3, 3), int)], {}),
    ("solve", [np.zeros((2, 2)), np.ones(2)], {}),
    ("solve", [np.eye(2), np.ones((3, 1))], {}),
    ("solve", [np.eye(2), np.ones(2, "f4")], {}),
    ("cholesky", [-np.eye(2)], {}),
    ("cholesky", [np.stack([np.eye(2), np.diag([1.0, -1])])], {}),
    ("det", [np.zeros((2, 3))], {}),
    ("svd", [np.full((2, 2), nan)], {}),
    ("qr", [np.zeros(3)], {}),
    ("matrix_power", [np.zeros((2, 2))], {"n": -1}),
    ("solve_triangular", [np.eye(3), np.ones((2, 2))], {"upper": True}),
    ("solve_triangular", [np.eye(3), np.ones(3)], {"upper": True}),
    ("lstsq", [np.ones((3, 2)), np.ones((2, 2))], {}),
    ("cross", [np.ones(2), np.ones(2)], {}),
]


@pytest.mark.parametrize(("name", "arrays", "kwargs"), ERRORS, ids=[f"{e[0]}-{k}" for k, e in enumerate(ERRORS)])
def test_errors_in_torchs_words(name, arrays, kwargs):
    messages = []
    for function, make in ((FUNCTIONS[name], tg.tensor), (getattr(torch.linalg, name), torch.tensor)):
        with pytest.raises(RuntimeError) as error:
            function(*map(make, arrays), **kwargs)
        messages.append((str(error.value), type(error.value).__name__.lstrip("_")))
    assert messages[0] == messages[1]


def test_multi_dot_errors():
    with pytest.raises(RuntimeError, match=r"multi_dot\(\): expected at least 2 tensors but got 1"):
        linalg_norms.multi_dot([tg.ones(2)])
    with pytest.raises(RuntimeError, match=r"multi_dot\(\): the first tensor must be 1D or 2D but got 3D"):
        linalg_norms.multi_dot([tg.ones(2, 2, 2), tg.ones(2, 2)])


def test_nothing_is_left_behind_by_an_error():
    a = tg.zeros(2, 2)
    slots = int(tg.runtime.machine.machine.state["slots_top"])
    for _ in range(3):
        with pytest.raises(linalg.LinAlgError):
            linalg.inv(a)
    assert int(tg.runtime.machine.machine.state["slots_top"]) <= slots + 2


@pytest.mark.parametrize("name", ["weigh_triangles", "triangle_of"])
def test_triangles_are_their_own_adjoints(name):
    """<T x, y> = <x, T* y> by the gradient rule."""
    x, y = (tg.tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(2))
    attributes = (1.0, 0.5, 0.0) if name == "weigh_triangles" else (8,)
    image = call(registry[name], x, attributes=attributes)
    (gradient,) = tg.autograd.grad((image * y).sum(), x)
    np.testing.assert_allclose((image * y).sum().item(), (gradient * x).sum().item())


def test_out_takes_the_results_of_linalg():
    A = tg.tensor([[2.0, 0.0], [0.0, 4.0]])
    out = tg.empty(2, 2)
    assert tg.linalg.inv(A, out=out) is out and out.tolist() == [[0.5, 0.0], [0.0, 0.25]]
    outs = (tg.empty(0), tg.empty(0))
    result = tg.linalg.eigh(A, out=outs)
    assert result.eigenvalues is outs[0] and outs[0].tolist() == [2.0, 4.0]
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        tg.linalg.inv(A.requires_grad_(), out=out)

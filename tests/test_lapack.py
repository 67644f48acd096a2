"""The batched LAPACK kernels against numpy.linalg, with guard bytes around outputs and workspaces."""

import ctypes
import itertools
import subprocess
import sys

import numpy as np
import pytest

from tapegrad.kernels import lapack, lapack_spectral
from tapegrad.kernels.lapack_call import INFO, NOT_FINITE, WORDS, routine_address
from tapegrad.native.cache import compile_function

ROUTINES = lapack.ROUTINES | lapack_spectral.ROUTINES
DTYPES = ["float32", "float64"]
SIZES = [(0, 0), (0, 3), (3, 0), (1, 1), (2, 2), (3, 5), (5, 3), (4, 4), (17, 33), (40, 40), (70, 20)]
BATCHES = [0, 1, 3]
GUARD = 64
INFOS = []  # the word INFO after each run


def tolerance(dtype):
    return {"rtol": 2e-3, "atol": 2e-3} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-9}


class Guarded:
    """Memory of a given size between guard bytes."""

    def __init__(self, size):
        self.size = size
        self.memory = np.full(size + 2 * GUARD, 0xA5, np.uint8)
        self.address = self.memory.ctypes.data + GUARD

    def take(self, shape=None, dtype=np.uint8):
        assert (self.memory[:GUARD] == 0xA5).all() and (self.memory[GUARD + self.size :] == 0xA5).all()
        return None if shape is None else self.memory[GUARD : GUARD + self.size].copy().view(dtype).reshape(shape)


def run(name, dtype, a, b=None, k=0, flags=0, outputs=(), work=0, rcond=0.0):
    """Run a kernel on a batch, return status and results; outputs are (shape, dtype), or None for an address of 0."""
    module = lapack if name in lapack.ROUTINES else lapack_spectral
    kernel = getattr(module, f"make_{name}")(dtype)
    address = compile_function(kernel, f"test_lapack:{name}:{dtype}", "int64(int64)")
    a = np.ascontiguousarray(a, dtype)
    kept = a.copy()
    b = np.ascontiguousarray(np.zeros(1) if b is None else b, dtype)
    results = [None if o is None else Guarded(int(np.prod(o[0])) * np.dtype(o[1]).itemsize) for o in outputs]
    workspace = Guarded(work)
    places = [0 if r is None else r.address for r in results] + [0] * (3 - len(results))
    routines = [routine_address(r, np.dtype(dtype)) for r in ROUTINES[name]] + [0]
    args = [*a.shape, k, flags, workspace.address, work, a.ctypes.data, b.ctypes.data, *places, *routines[:2]]
    args = np.array([*args, int(np.float64(rcond).view(np.int64)), 0], np.int64)
    assert args.size == WORDS
    status = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(args.ctypes.data)
    INFOS.append(int(args[INFO]))
    workspace.take()
    assert np.array_equal(a, kept, equal_nan=True)
    return status, [None if r is None else r.take(*o) for r, o in zip(results, outputs, strict=True)]


def one_of_the_triangles(a, upper):
    """Return a with nan in the triangle that must not be read."""
    return np.where((np.triu if upper else np.tril)(np.ones(a.shape, bool)), a, np.nan)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def positive_definite(batch, n):
    x = random(batch, n, n)
    return x @ x.swapaxes(-1, -2) + n * np.eye(n)


def item(dtype):
    return np.dtype(dtype).itemsize


squares = sorted({m for m, n in SIZES} | {8})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_lu(m, n, batch, dtype):
    a, k = random(batch, m, n), min(m, n)
    outputs = [((batch, m, n), dtype), ((batch, k), "int32"), ((batch, m), "int64")]
    status, (lu, pivots, rows) = run("lu", dtype, a, outputs=outputs, work=lapack.lu_workspace(m, n, item(dtype)))
    assert status == 0
    lower, upper = np.tril(lu[:, :, :k], -1) + np.eye(m, k), np.triu(lu[:, :k])
    for i in range(batch):
        np.testing.assert_allclose(lower[i] @ upper[i], a[i][rows[i]], **tolerance(dtype))
        order = np.arange(m)
        for j, p in enumerate(pivots[i] - 1):
            order[[j, p]] = order[[p, j]]
        assert np.array_equal(order, rows[i])


def test_lu_of_a_singular_matrix_is_written_and_told():
    a = np.stack([np.eye(2), [[1, 2], [2, 4]], np.zeros((2, 2))])
    outputs = [((3, 2, 2), "float64"), ((3, 2), "int32"), None]
    status, (lu, _, _) = run("lu", "float64", a, outputs=outputs, work=lapack.lu_workspace(2, 2, 8))
    assert (status, INFOS[-1]) == (2, 2) and np.array_equal(lu[1], [[2, 4], [0.5, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("n", squares)
def test_solve(n, k, batch, dtype):
    a, b = random(batch, n, n) + n * np.eye(n), random(batch, n, k, seed=1)
    work = lapack.solve_workspace(n, k, item(dtype))
    status, (x,) = run("solve", dtype, a, b, k, outputs=[((batch, n, k), dtype)], work=work)
    assert status == 0
    np.testing.assert_allclose(x, np.linalg.solve(a, b), **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n", squares)
def test_inverse_and_determinants(n, batch, dtype):
    a = random(batch, n, n) + np.eye(n)
    status, (x,) = run(
        "inverse", dtype, a, outputs=[((batch, n, n), dtype)], work=lapack.inverse_workspace(n, item(dtype))
    )
    assert status == 0
    np.testing.assert_allclose(x @ a, np.broadcast_to(np.eye(n), a.shape), **tolerance(dtype))
    work = lapack.lu_workspace(n, n, item(dtype))
    _, (sign, log) = run("slogdet", dtype, a, outputs=[((batch,), dtype)] * 2, work=work)
    expected_sign, expected_log = np.linalg.slogdet(a)
    assert np.array_equal(sign, expected_sign)
    np.testing.assert_allclose(log, expected_log, **tolerance(dtype))
    if n < 20:
        _, (det,) = run("det", dtype, a, outputs=[((batch,), dtype)], work=work)
        np.testing.assert_allclose(det, np.linalg.det(a), **tolerance(dtype))


@pytest.mark.parametrize("n", [3, 12])
@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_matrices(n, dtype):
    a, size, matrix, numbers = np.stack([np.eye(n)] * 4), item(dtype), ((4, n, n), dtype), ((4,), dtype)
    a[1, :, 1] = 0
    a[3, :, 0] = 0
    status, (x,) = run("inverse", dtype, a, outputs=[matrix], work=lapack.inverse_workspace(n, size))
    assert (status, INFOS[-1]) == (2, 2) and np.isnan(x[[1, 3]]).all() and np.array_equal(x[2], np.eye(n))
    b, work = random(4, n, 2).astype(dtype), lapack.solve_workspace(n, 2, size)
    status, (x,) = run("solve", dtype, a, b, 2, outputs=[((4, n, 2), dtype)], work=work)
    assert (status, INFOS[-1]) == (2, 2) and np.isnan(x[[1, 3]]).all() and np.array_equal(x[2], b[2])
    work = lapack.lu_workspace(n, n, size)
    status, (det,) = run("det", dtype, a, outputs=[numbers], work=work)
    assert status == 0 and det.tolist() == [1, 0, 1, 0]
    status, (sign, log) = run("slogdet", dtype, a, outputs=[numbers, numbers], work=work)
    assert status == 0 and sign.tolist() == [1, 0, 1, 0] and log.tolist() == [0, -np.inf, 0, -np.inf]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("n", squares)
def test_cholesky(n, upper, batch, dtype):
    a = positive_definite(batch, n)
    one_triangle = one_of_the_triangles(a, upper)
    status, (x,) = run("cholesky", dtype, one_triangle, flags=upper, outputs=[((batch, n, n), dtype)])
    assert status == 0
    expected = np.linalg.cholesky(a)
    np.testing.assert_allclose(x, expected.swapaxes(1, 2) if upper else expected, **tolerance(dtype))


@pytest.mark.parametrize(
    ("bad", "order"),
    [(-np.eye(9), 1), (np.full((9, 9), np.nan), 1), (np.diag([1.0] * 8 + [0]), 9), (np.diag([1.0] * 8 + [np.nan]), 9)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_refuses(bad, order, dtype):
    a = np.stack([np.eye(9), np.eye(9), bad])
    status, (x,) = run("cholesky", dtype, a, outputs=[((3, 9, 9), dtype)])
    assert (status, INFOS[-1]) == (3, order) and np.array_equal(x[1], np.eye(9)) and np.isnan(x[2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("complete", [0, 1])
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_qr(m, n, complete, batch, dtype):
    a, c = random(batch, m, n), m if complete else min(m, n)
    outputs = [((batch, m, c), dtype), ((batch, c, n), dtype)]
    work = lapack.qr_workspace(m, n, complete, item(dtype))
    status, (q, r) = run("qr", dtype, a, flags=complete, outputs=outputs, work=work)
    assert status == 0 and np.array_equal(r, np.triu(r))
    np.testing.assert_allclose(q @ r, a, **tolerance(dtype))
    np.testing.assert_allclose(q.swapaxes(1, 2) @ q, np.broadcast_to(np.eye(c), (batch, c, c)), **tolerance(dtype))
    for i in range(batch):
        expected = np.linalg.qr(a[i], "complete" if complete else "reduced")
        np.testing.assert_allclose(q[i], expected[0], **tolerance(dtype))
    _, (_, only) = run("qr", dtype, a, flags=complete, outputs=[None, outputs[1]], work=work)
    assert np.array_equal(only, r)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", range(16))
@pytest.mark.parametrize(("n", "k"), [(0, 2), (2, 0), (1, 1), (5, 3), (33, 7)])
def test_triangular(n, k, flags, dtype):
    upper, unit, right, transposed = (flags & f for f in (1, 2, 4, 8))
    full = random(2, n, n) / (n + 1) + 3 * np.eye(n)
    a = (np.triu if upper else np.tril)(full)
    if unit:
        a = a + np.eye(n) * (1 - a)
    b = random(2, k, n) if right else random(2, n, k)
    matrix = a.swapaxes(1, 2) if transposed else a
    status, (x,) = run("triangular", dtype, full, b, k, flags, [(b.shape, dtype)])
    assert status == 0
    np.testing.assert_allclose(x @ matrix if right else matrix @ x, b, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("full", [0, 1])
@pytest.mark.parametrize(("m", "n"), [*SIZES, (200, 12), (12, 200)])
def test_svd(m, n, full, batch, dtype):
    a, k = random(batch, m, n), min(m, n)
    c, d = (m, n) if full else (k, k)
    outputs = [((batch, m, c), dtype), ((batch, k), dtype), ((batch, d, n), dtype)]
    work = lapack_spectral.svd_workspace(m, n, item(dtype))
    status, (u, s, v) = run("svd", dtype, a, flags=full, outputs=outputs, work=work)
    assert status == 0
    np.testing.assert_allclose((u[:, :, :k] * s[:, None]) @ v[:, :k], a, **tolerance(dtype))
    np.testing.assert_allclose(u.swapaxes(1, 2) @ u, np.broadcast_to(np.eye(c), (batch, c, c)), **tolerance(dtype))
    np.testing.assert_allclose(v @ v.swapaxes(1, 2), np.broadcast_to(np.eye(d), (batch, d, d)), **tolerance(dtype))
    _, (_, values, _) = run("svd", dtype, a, outputs=[None, outputs[1], None], work=work)
    for result in (s, values):
        np.testing.assert_allclose(result, np.linalg.svd(a, compute_uv=False), **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("n", squares)
def test_eigh(n, upper, batch, dtype):
    x = random(batch, n, n)
    a = x + x.swapaxes(1, 2)
    one_triangle = one_of_the_triangles(a, upper)
    outputs, work = [((batch, n), dtype), ((batch, n, n), dtype)], lapack_spectral.eigh_workspace(n, item(dtype))
    status, (w, v) = run("eigh", dtype, one_triangle, flags=upper, outputs=outputs, work=work)
    assert status == 0
    np.testing.assert_allclose(w, np.linalg.eigvalsh(a), **tolerance(dtype))
    np.testing.assert_allclose(a @ v, v * w[:, None], **tolerance(dtype))
    np.testing.assert_allclose(v.swapaxes(1, 2) @ v, np.broadcast_to(np.eye(n), a.shape), **tolerance(dtype))
    _, (values, _) = run("eigh", dtype, one_triangle, flags=upper, outputs=[outputs[0], None], work=work)
    np.testing.assert_allclose(values, w, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("driver", ["gelsd", "gelsy"])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(("m", "n", "k"), [(m, n, k) for (m, n), k in itertools.product(SIZES, [0, 1, 3])])
def test_lstsq(m, n, k, rank, driver, dtype):
    low = min(m, n)
    rank = low if rank is None else min(rank, low)
    a, b = random(2, m, rank) @ random(2, rank, n, seed=1) if rank < low else random(2, m, n), random(2, m, k, seed=2)
    rcond = float(np.finfo(dtype).eps) * max(m, n, 1)
    outputs = [((2, n, k), dtype), ((2,), "int64"), ((2, low), dtype) if driver == "gelsd" else None]
    work = lapack_spectral.lstsq_workspace(m, n, k, item(dtype))
    status, (x, ranks, s) = run(f"lstsq_{driver}", dtype, a, b, k, 0, outputs, work, rcond * 10)
    assert status == 0 and (ranks == rank).all()
    expected = np.linalg.pinv(a, rcond=1e-5) @ b
    np.testing.assert_allclose(x, expected, **tolerance(dtype))
    if driver == "gelsd" and low:
        np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_not_finite_is_told_or_flows_through(n, bad, dtype):
    a = np.stack([np.eye(n), np.eye(n), np.eye(n)])
    a[1, n - 1, 0] = a[1, 0, n - 1] = bad
    size, matrix, vector = item(dtype), ((3, n, n), dtype), ((3, n), dtype)
    svd = run("svd", dtype, a, outputs=[matrix, vector, matrix], work=lapack_spectral.svd_workspace(n, n, size))
    eigh = run("eigh", dtype, a, outputs=[vector, matrix], work=lapack_spectral.eigh_workspace(n, size))
    work = lapack_spectral.lstsq_workspace(n, n, n, size)
    outputs = [matrix, ((3,), "int64"), None]
    lstsq = [run(f"lstsq_{d}", dtype, a, a, n, 0, outputs, work, 1e-6) for d in ("gelsd", "gelsy")]
    for status, results in (svd, eigh, *lstsq):
        for result in results:
            if result is not None and result.dtype == dtype:
                assert np.isnan(result[1]).all() and np.isfinite(result[[0, 2]]).all()
        assert status == 2
    assert INFOS[-4:] == [NOT_FINITE] * 4
    _, (q, r) = run("qr", dtype, a, outputs=[matrix, matrix], work=lapack.qr_workspace(n, n, 0, size))
    assert not np.isfinite(r[1]).all() and np.isfinite(q[[0, 2]]).all()
    _, (det,) = run("det", dtype, a, outputs=[((3,), dtype)], work=lapack.lu_workspace(n, n, size))
    assert not np.isfinite(det[1]) and det[2] == 1
    _, (x,) = run("solve", dtype, a, a, n, outputs=[matrix], work=lapack.solve_workspace(n, n, size))
    _, (y,) = run("inverse", dtype, a, outputs=[matrix], work=lapack.inverse_workspace(n, size))
    assert np.isfinite(x[[0, 2]]).all() and np.isfinite(y[[0, 2]]).all()


WORK, OTHER, QUERY = -2, -3, -1


def optimum(name, dtype, *arguments):
    """Return a routine's optimal LWORK, asked of the routine itself."""
    keep = [np.array(ord(v), np.uint8) if isinstance(v, str) else np.array(v, np.int32) for v in arguments]
    work, info, other = np.zeros(1, dtype), np.zeros(1, np.int32), np.zeros(8)
    special = {WORK: work.ctypes.data, OTHER: other.ctypes.data}
    places = [special.get(v, kept.ctypes.data) for v, kept in zip(arguments, keep, strict=True)]
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(places) + 1))(routine_address(name, np.dtype(dtype)))
    function(*places, info.ctypes.data)
    assert info[0] == 0
    return int(work[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n"), [(1, 1), (3, 2), (2, 3), (30, 7), (100, 100), (1000, 40), (40, 1000), (300, 200), (500, 500)]
)
def test_workspaces_hold_the_optimum(m, n, dtype):
    size, low, high = item(dtype), min(m, n), max(m, n)
    work, other, query = WORK, OTHER, QUERY
    for job in "NSA":
        want = optimum("gesdd", dtype, job, m, n, other, m, other, other, m, other, n, work, query, other)
        have = lapack_spectral.svd_workspace(m, n, size) - m * n * size - 8 * low * 4 - 128
        assert have >= want * size - 64
    want = optimum("geqrf", dtype, m, n, other, m, other, work, query)
    assert max(m, n) * 64 >= want
    assert high * 64 >= optimum("orgqr", dtype, high, high, low, other, high, other, work, query)
    assert high * 64 + 1 >= optimum("getri", dtype, high, other, high, other, work, query)
    want = optimum("syevd", dtype, "V", "U", m, other, m, other, work, query, other, query)
    assert 2 * m * m + 70 * m + 1 >= want
    for k in (0, 1, 5, 300):
        total = lapack_spectral.lstsq_workspace(m, n, k, size)
        rest = (
            total
            - (m * n + high * max(1, k) + low) * size
            - 4 * (3 * low * lapack_spectral._levels(low) + 11 * low + n + 2)
        )
        shape = (m, n, max(1, k), other, m, other, high)
        assert rest - 256 >= (optimum("gelsd", dtype, *shape, other, other, other, work, query, other) - 64) * size
        assert rest - 256 >= (optimum("gelsy", dtype, *shape, other, other, other, work, query) - 64) * size


def test_scipy_is_loaded_when_a_routine_is_first_asked_for():
    code = (
        "import sys, tapegrad.kernels.lapack, tapegrad.kernels.lapack_spectral as s; "
        "from tapegrad.kernels.lapack_call import routine_address; before = 'scipy.linalg' in sys.modules; "
        "address = routine_address('getrf', 'float32'); assert address == routine_address('getrf', 'float32'); "
        "assert not before and 'scipy.linalg' in sys.modules and address != routine_address('getrf', 'float64')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""Matrix multiplication: every layout, edge and width against NumPy, and nothing touched outside the operands."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from tapegrad.kernels.gemm import WORKSPACE_BYTES, make_gemm
from tapegrad.kernels.gemm_micro import AVX2, AVX512, GENERIC, NEON, Tile, host_tile
from tapegrad.native.cache import compile_function

DTYPES = (np.float32, np.float64)
HOST = pytest.param(None, id="host")
WIDTHS = [HOST, pytest.param(AVX2, id="avx2"), pytest.param(GENERIC, id="generic")]
EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 64, 65)
LAYOUTS = ("rows", "columns", "gaps", "column gaps", "reversed", "equal rows", "equal columns")

_scratch = np.full(WORKSPACE_BYTES + 256, 0xA5, np.uint8)
_begin = -_scratch.ctypes.data % 64 + 64
WORKSPACE = _scratch.ctypes.data + _begin


@pytest.fixture(autouse=True)
def workspace_stays_in_its_bounds() -> Iterator[None]:
    yield
    assert (_scratch[:_begin] == 0xA5).all()
    assert (_scratch[_begin + WORKSPACE_BYTES :] == 0xA5).all()


@cache
def gemm(dtype: type, tile: Tile | None = None) -> Any:
    key = f"gemm {np.dtype(dtype).name} {tile or host_tile()}"
    address = compile_function(make_gemm(dtype, tile), key, "int64(int64)")
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulate: bool = False, tile: Tile | None = None) -> None:
    """Call the kernel on operands of two dimensions, or of three where the first is the batch."""
    size = c.itemsize
    a3, b3, c3 = (x if x.ndim == 3 else x[None] for x in (a, b, c))
    strides = [[s // size for s in x.strides] for x in (a3, b3, c3)]
    (bsa, rsa, csa), (bsb, rsb, csb), (bsc, rsc, _) = strides
    (batch, m, n), k = c3.shape, a3.shape[2]
    pointers = [x.ctypes.data for x in (a, b, c)]
    words = [m, n, k, pointers[0], rsa, csa, pointers[1], rsb, csb, pointers[2], rsc, accumulate, batch, bsa, bsb, bsc]
    args = np.array([*words, WORKSPACE], np.int64)
    assert gemm(c.dtype.type, tile)(args.ctypes.data) == 0


def laid_out(rng: np.random.Generator, shape: tuple[int, int], dtype: type, layout: str) -> np.ndarray:
    """Return normal numbers in a layout, inside a larger array of nan."""
    m, n = shape
    base = np.full((3 * m + 4, 3 * n + 4), np.nan, dtype)
    x = {
        "rows": base[2 : m + 2, 2 : n + 2],
        "columns": np.full((n + 4, m + 4), np.nan, dtype)[2 : n + 2, 2 : m + 2].T,
        "gaps": base[1 : 2 * m + 1 : 2, 1 : 3 * n + 1 : 3],
        "column gaps": base[1 : m + 1, 2 : 2 * n + 2 : 2],
        "reversed": base[m:0:-1, n:0:-1],
        "equal rows": np.lib.stride_tricks.as_strided(base[1:, 1:], shape, (0, base.itemsize)),
        "equal columns": np.lib.stride_tricks.as_strided(base[1:, 1:], shape, (base.strides[0], 0)),
    }[layout]
    assert x.shape == shape
    x[...] = rng.normal(size=shape)
    return x


def close(c: np.ndarray, a: np.ndarray, b: np.ndarray, c0: Any = 0) -> None:
    """Compare with NumPy's float64 sums within both sides' bound on rounding errors: 2 gamma_k |A| |B|."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = (2 * a.shape[-1] + 8) * np.finfo(c.dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(c0))
    assert (np.abs(c - (a @ b + c0)) <= bound).all()


def check(rng: np.random.Generator, dtype: type, sizes: Any, layouts: Any, accumulate: bool, tile: Tile | None) -> None:
    m, n, k = (int(s) for s in sizes)
    a, b = laid_out(rng, (m, k), dtype, layouts[0]), laid_out(rng, (k, n), dtype, layouts[1])
    around = rng.normal(size=(m + 2, n + 5)).astype(dtype)
    before, c = around.copy(), around[1 : m + 1, 2 : n + 2]
    multiply(a, b, c, accumulate, tile)
    close(c, a, b, before[1 : m + 1, 2 : n + 2] if accumulate else 0)
    before[1 : m + 1, 2 : n + 2] = c
    np.testing.assert_array_equal(around, before)


@pytest.mark.parametrize("tile", [*WIDTHS, pytest.param(NEON, id="neon")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_sizes_in_every_layout(dtype: type, tile: Tile | None) -> None:
    rng = np.random.default_rng(1)
    for a_layout in LAYOUTS:
        for b_layout in LAYOUTS:
            for _ in range(5):
                sizes = rng.choice(EDGES, 3)
                check(rng, dtype, sizes, (a_layout, b_layout), bool(rng.integers(2)), tile)


@pytest.mark.parametrize("tile", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_beyond_the_cache_blocks(dtype: type, tile: Tile | None) -> None:
    rng = np.random.default_rng(2)
    for a_layout in ("rows", "columns", "gaps"):
        for b_layout in ("rows", "columns", "gaps"):
            check(rng, dtype, (61, 300, 1100), (a_layout, b_layout), bool(rng.integers(2)), tile)
            check(rng, dtype, (133, 515, 257), (a_layout, b_layout), bool(rng.integers(2)), tile)


@pytest.mark.parametrize("tile", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_a_whose_columns_fall_on_one_cache_set(dtype: type, tile: Tile | None) -> None:
    rng = np.random.default_rng(10)
    columns = 4096 // np.dtype(dtype).itemsize
    for m, n, k in ((75, 400, 600), (301, 530, 300)):
        for b_layout in ("rows", "columns"):
            a, b = rng.normal(size=(k, columns)).astype(dtype)[:, :m].T, laid_out(rng, (k, n), dtype, b_layout)
            start = rng.normal(size=(m, n)).astype(dtype)
            c = start.copy()
            multiply(a, b, c, accumulate=True, tile=tile)
            close(c, a, b, start)


@pytest.mark.parametrize("tile", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_times_vector_and_dot(dtype: type, tile: Tile | None) -> None:
    rng = np.random.default_rng(3)
    for layouts in [(x, y) for x in LAYOUTS for y in LAYOUTS]:
        for sizes in ((1, 1, 1), (1, 37, 70), (37, 1, 70), (1, 1, 133), (6, 1, 3), (1, 131, 9), (50, 1, 2)):
            check(rng, dtype, sizes, layouts, bool(rng.integers(2)), tile)
    for layouts in [(x, y) for x in ("rows", "columns") for y in ("rows", "gaps")]:
        check(rng, dtype, (9, 1, 5000), layouts, False, tile)
        check(rng, dtype, (5000, 1, 9), layouts, True, tile)
        check(rng, dtype, (5000, 1, 9), layouts, False, tile)
    check(rng, dtype, (2, 1, 2 * WORKSPACE_BYTES // np.dtype(dtype).itemsize + 5), ("rows", "gaps"), False, tile)


@pytest.mark.parametrize("dtype", DTYPES)
def test_column_of_a_wider_matrix_as_result(dtype: type) -> None:
    rng = np.random.default_rng(4)
    for layout in LAYOUTS:
        a, b = laid_out(rng, (50, 40), dtype, layout), laid_out(rng, (40, 1), dtype, "rows")
        around = np.full((50, 7), 5, dtype)
        multiply(a, b, around[:, 3:4])
        close(around[:, 3:4], a, b)
        assert (np.delete(around, 3, axis=1) == 5).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 5, 0), (5, 1, 0), (1, 1, 0), (40, 100, 0)])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_empty_operands(dtype: type, shape: tuple[int, int, int], layout: str) -> None:
    m, n, k = shape
    rng = np.random.default_rng(5)
    a, b = laid_out(rng, (m, k), dtype, layout), laid_out(rng, (k, n), dtype, layout)
    c = np.full((m, n), -0.0, dtype)
    multiply(a, b, c, accumulate=True)
    assert np.signbit(c).all()
    c.fill(np.nan)
    multiply(a, b, c)
    assert (c == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_batches(dtype: type, accumulate: bool) -> None:
    rng = np.random.default_rng(6)
    for m, n, k in ((5, 7, 9), (1, 20, 30), (20, 1, 30), (1, 1, 3), (16, 50, 33)):
        a, b = rng.normal(size=(4, m, k)).astype(dtype), rng.normal(size=(4, k, n)).astype(dtype)
        shared = np.broadcast_to(b[0], b.shape)
        column_major = b.transpose(0, 2, 1).copy().transpose(0, 2, 1)
        for x in (a, a[::-1], np.broadcast_to(a[0], a.shape), a.transpose(0, 2, 1).copy().transpose(0, 2, 1)):
            for y in (b, shared, column_major):
                start = rng.normal(size=(4, m, n)).astype(dtype)
                c = start.copy()
                multiply(x, y, c, accumulate)
                close(c, x, y, start if accumulate else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_batch_does_nothing(dtype: type) -> None:
    c = np.full((0, 3, 3), 7, dtype)
    multiply(np.ones((0, 3, 3), dtype), np.ones((0, 3, 3), dtype), c)


@pytest.mark.parametrize("tile", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_nan_and_infinity_reach_their_row_and_column_only(dtype: type, tile: Tile | None, layout: str) -> None:
    rng = np.random.default_rng(7)
    for m, n, k in ((20, 35, 40), (1, 35, 40), (20, 1, 40), (1, 1, 40)):
        for value in (np.nan, np.inf, -np.inf):
            a, b = laid_out(rng, (m, k), dtype, layout), laid_out(rng, (k, n), dtype, layout)
            a[m // 2, k - 1] = value
            b[1, n - 1] = value
            b[k - 1, 0] = 0  # inf * 0 is nan
            c = np.empty((m, n), dtype)
            multiply(a, b, c, tile=tile)
            with np.errstate(invalid="ignore"):
                expected = a @ b
            np.testing.assert_allclose(c, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_at_any_address(dtype: type) -> None:
    rng = np.random.default_rng(8)
    for m, n, k in ((33, 50, 70), (40, 1, 70), (1, 40, 70), (70, 300, 600)):
        a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
        results = []
        for shift in (0, 1, 3):
            moved = [np.empty(x.size + shift, dtype)[shift:].reshape(x.shape) for x in (a, b)]
            moved[0][...], moved[1][...] = a, b
            c = np.empty(m * n + shift, dtype)[shift:].reshape(m, n)
            multiply(*moved, c)
            results.append(c)
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


class Fenced:
    """Arrays that begin or end at a page that may not be touched."""

    def __init__(self, pages: int = 64) -> None:
        self.size = pages * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size + 2 * mmap.PAGESIZE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (self.base, self.base + mmap.PAGESIZE + self.size):
            assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0

    def array(self, shape: tuple[int, int], dtype: type, at_end: bool) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = mmap.PAGESIZE + (self.size - nbytes if at_end else 0)
        return np.frombuffer(self.memory, dtype, int(np.prod(shape)), start).reshape(shape)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages with Linux's mprotect")
@pytest.mark.parametrize("tile", [*WIDTHS, pytest.param(AVX512, id="avx512")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_outside_the_operands_is_touched(dtype: type, tile: Tile | None) -> None:
    rng = np.random.default_rng(9)
    fences = [Fenced(), Fenced(), Fenced()]
    for _ in range(250):
        m, n, k = (int(s) for s in rng.choice(EDGES, 3))
        at_end, a_turned, b_turned = (bool(flag) for flag in rng.integers(2, size=3))
        a = fences[0].array((k, m) if a_turned else (m, k), dtype, at_end)
        b = fences[1].array((n, k) if b_turned else (k, n), dtype, at_end)
        c = fences[2].array((m, n), dtype, at_end)
        a[...], b[...] = rng.normal(size=a.shape), rng.normal(size=b.shape)
        left, right = a.T if a_turned else a, b.T if b_turned else b
        multiply(left, right, c, tile=tile)
        close(c, left, right)

"""Philox against its published vectors, and the fills' and samplers' distributions, at fixed seeds."""

import ctypes

import numba
import numpy as np
import pytest
from scipy import stats

from tapegrad.kernels import philox, sampling
from tapegrad.kernels.philox_words import GROUP, blocks_used, philox_block
from tapegrad.native.cache import compile_function

SIGNATURE = "int64(int64)"
FILLS = [("uniform", philox.make_uniform, dtype, (-2.0, 3.0), dtype == "float64") for dtype in ("float32", "float64")]
FILLS += [("normal", philox.make_normal, dtype, (1.0, 2.0), dtype == "float64") for dtype in ("float32", "float64")]
FILLS += [
    ("exponential", philox.make_exponential, dtype, (0.5,), dtype == "float64") for dtype in ("float32", "float64")
]
FILLS += [("bernoulli", philox.make_bernoulli, dtype, (0.3,), False) for dtype in ("float32", "int64", "uint8", "bool")]
FILLS += [("randint", philox.make_randint, dtype, (-3, 7), False) for dtype in ("float32", "int32", "int64")]
FILLS += [("randint64", philox.make_randint, "int64", (-3, 2**61), True)]
IDS = [f"{name}-{dtype}" for name, _, dtype, _, _ in FILLS]


def compiled(kernel, key):
    address = compile_function(kernel, f"test_philox:{key}", SIGNATURE)
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)


def words(values):
    integers = [int(np.float64(v).view(np.int64)) if isinstance(v, float) else int(v) for v in values]
    return np.array([v - 2**64 if v >= 2**63 else v for v in integers], np.int64)


def fill(make, dtype, n, parameters, seed=7, offset=0):
    """Return the fill of n elements, having checked that the bytes around it were left alone."""
    size = np.dtype(dtype).itemsize
    memory = np.full(n * size + 128, 0xA5, np.uint8)
    args = words([n, memory.ctypes.data + 64, seed, offset, *parameters, 0])
    assert compiled(make(dtype), f"{make.__name__}:{dtype}")(args.ctypes.data) == 0
    assert (memory[:64] == 0xA5).all() and (memory[64 + n * size :] == 0xA5).all()
    return memory[64 : 64 + n * size].copy().view(dtype)


@numba.njit
def block(number, stream, seed):
    return philox_block(number, stream, seed)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers published with Random123 for philox4x32, 10 rounds
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter, key, expected):
    low, high, seed = (np.uint64(a | b << 32) for a, b in (counter[:2], counter[2:], key))
    assert " ".join(f"{word:08x}" for word in block(low, high, seed)) == expected


def test_a_fill_is_the_groups_of_words_in_order():
    offset = 2**32 - 9  # the counter's carry falls into the first group
    got = fill(philox.make_randint, "int64", 2 * GROUP, (0, 2**32), seed=-5, offset=offset)
    blocks = [block(np.uint64(offset + b), np.uint64(0), np.uint64(2**64 - 5)) for b in range(32)]
    assert got.tolist() == [blocks[i // 64 * 16 + i % 16][i % 64 // 16] for i in range(2 * GROUP)]


@pytest.mark.parametrize(("name", "make", "dtype", "parameters", "wide"), FILLS, ids=IDS)
def test_an_element_depends_only_on_seed_offset_and_place(name, make, dtype, parameters, wide):
    whole = fill(make, dtype, 1000, parameters)
    for n in (0, 1, 31, 32, 63, 64, 65, 255, 256, 257, 999):
        assert np.array_equal(fill(make, dtype, n, parameters), whole[:n])
    for cut in (64, 320, 960):
        rest = fill(make, dtype, 1000 - cut, parameters, offset=blocks_used(cut, wide))
        assert np.array_equal(rest, whole[cut:])


@pytest.mark.parametrize(("name", "make", "dtype", "parameters", "wide"), FILLS, ids=IDS)
def test_seeds_and_offsets_give_other_numbers(name, make, dtype, parameters, wide):
    n = 640
    first = fill(make, dtype, n, parameters)
    for other in (
        fill(make, dtype, n, parameters, seed=8),
        fill(make, dtype, n, parameters, seed=7 + 2**32),
        fill(make, dtype, n, parameters, offset=blocks_used(n, wide)),
    ):
        assert not np.array_equal(first, other)
        if name != "bernoulli":
            assert abs(np.corrcoef(first, other)[0, 1]) < 0.15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("make", "parameters", "distribution"),
    [
        (philox.make_uniform, (-2.0, 3.0), stats.uniform(-2, 5)),
        (philox.make_normal, (1.0, 2.0), stats.norm(1, 2)),
        (philox.make_exponential, (0.5,), stats.expon(scale=2)),
    ],
    ids=["uniform", "normal", "exponential"],
)
def test_distribution(make, parameters, distribution, dtype):
    n = 1_000_000
    x = fill(make, dtype, n, parameters).astype(np.float64)
    assert stats.kstest(x[:200_000], distribution.cdf).pvalue > 1e-3
    deviation = distribution.std()
    for power, spread in ((1, 1.0), (2, 1.5), (3, 4.0), (4, 20.0)):
        standard = ((x - distribution.mean()) / deviation) ** power
        expected = distribution.expect(lambda v, k=power: ((v - distribution.mean()) / deviation) ** k)
        assert abs(standard.mean() - expected) < 4 * standard.std() / n**0.5 + 1e-6, (power, spread)
    for lag in (1, 16, 32, 64):  # words of one block, halves of a pair, neighbouring groups
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4 / n**0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_tails_and_pairs(dtype):
    x = fill(philox.make_normal, dtype, 4_000_000, (0.0, 1.0)).astype(np.float64)
    for limit in (3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(limit) * x.size
        assert abs((np.abs(x) > limit).sum() - expected) < 4 * expected**0.5
    half = 32 if dtype == "float32" else 16
    pairs = x.reshape(-1, 2, half)
    angle = np.arctan2(pairs[:, 1], pairs[:, 0]).ravel()
    assert stats.kstest(angle[:200_000], stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(pairs[:, 0].ravel() ** 2, pairs[:, 1].ravel() ** 2)[0, 1]) < 4 / (x.size / 2) ** 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_stays_below_its_end(dtype):
    low, high = 1.0, float(np.nextafter(np.dtype(dtype).type(1), np.dtype(dtype).type(2)))
    assert (fill(philox.make_uniform, dtype, 1000, (low, high)) == low).all()
    assert (fill(philox.make_uniform, dtype, 1000, (0.5, 0.5)) == 0.5).all()
    x = fill(philox.make_uniform, dtype, 1_000_000, (0.0, 1.0))
    assert x.min() >= 0 and x.max() < 1
    bits = 24 if dtype == "float32" else 53
    assert np.array_equal(x * 2.0**bits, np.floor(x * 2.0**bits)) and (x * 2.0**bits % 2).mean() == pytest.approx(
        0.5, 0.01
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponential_is_positive_and_finite(dtype):
    x = fill(philox.make_exponential, dtype, 1_000_000, (1.0,))
    assert x.min() > 0 and np.isfinite(x).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("p", [0.0, 2.0**-31, 0.3, 0.5, 1.0])
def test_bernoulli(dtype, p):
    n = 200_000
    x = fill(philox.make_bernoulli, dtype, n, (p,))
    assert set(np.unique(x.view(np.uint8) if dtype == "bool" else x).tolist()) <= {0, 1}
    assert abs(float(x.mean(dtype=np.float64)) - p) <= 4 * (p * (1 - p) / n) ** 0.5 + (2e-5 if 0 < p < 1e-6 else 0)


def test_bernoulli_each():
    p = np.tile(np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32), 20_000)
    out = np.empty(p.size, np.float32)
    args = words([p.size, out.ctypes.data, 3, 0, p.ctypes.data])
    kernel = compiled(philox.make_bernoulli_each("float32", "float32"), "bernoulli_each:float32")
    assert kernel(args.ctypes.data) == 0
    assert np.allclose(out.reshape(-1, 5).mean(0), p[:5], atol=0.012) and out[4::5].all() and not out[::5].any()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8"])
def test_randint_is_uniform(dtype):
    x = fill(philox.make_randint, dtype, 200_000, (3, 97))
    counts = np.bincount(x.astype(np.int64))
    assert counts[:3].sum() == 0 and counts.size == 100
    assert stats.chisquare(counts[3:]).pvalue > 1e-3


@pytest.mark.parametrize("span", [3 * 2**30, 2**32 - 1, 2**32, 2**32 + 1, 3 * 2**61, 2**63, 2**63 + 1, 2**64 - 1, 0])
def test_randint_is_unbiased_for_wide_ranges(span):
    """With a plain remainder or without redraws, three quarters of 2**32 or 2**64 would be twice as likely in part."""
    low = -(2**63) if span == 0 or span > 2**63 else 0
    x = fill(philox.make_randint, "int64", 200_000, (low, span))
    unsigned = (x.astype(object) - low) if low else x.astype(object)
    size = span or 2**64
    assert min(unsigned) >= 0 and max(unsigned) < size
    counts = np.bincount([int(v * 60 // size) for v in unsigned], minlength=60)
    assert stats.chisquare(counts).pvalue > 1e-3
    if size > 64:
        low_digits = np.bincount([int(v % 48) for v in unsigned], minlength=48)
        assert stats.chisquare(low_digits).pvalue > 1e-3


def test_randint_is_wide_says_how_many_blocks_are_used():
    assert not philox.randint_is_wide(0, 2**32) and philox.randint_is_wide(-1, 2**32)
    assert [blocks_used(n) for n in (0, 1, 64, 65)] == [0, 16, 16, 32]
    assert [blocks_used(n, True) for n in (0, 1, 32, 33)] == [0, 16, 16, 32]


def permutation(n, seed=0, offset=0):
    out = np.full(n + 1, -7)
    args = words([n, out.ctypes.data, seed, offset])
    assert compiled(sampling.permutation, "permutation")(args.ctypes.data) == 0
    assert out[n] == -7
    return out[:n]


def test_permutation():
    for n in (0, 1, 2, 63, 64, 65, 1000):
        assert np.array_equal(np.sort(permutation(n)), np.arange(n))
    codes = [tuple(permutation(4, seed=s)) for s in range(12_000)]
    counts = list({code: codes.count(code) for code in set(codes)}.values())
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3
    places = np.array([np.flatnonzero(permutation(70, seed=s) == 0)[0] for s in range(7000)])
    assert stats.chisquare(np.bincount(places, minlength=70)).pvalue > 1e-3


def multinomial(weights, samples, replacement, seed=1, offset=0):
    weights = np.ascontiguousarray(weights)
    rows, columns = weights.shape
    out = np.full(rows * samples + 2, -7)
    work = np.empty(sampling.multinomial_workspace(columns, samples, replacement) + 64, np.uint8)
    work[-64:] = 0xA5
    args = words(
        [rows, out.ctypes.data + 8, seed, offset, weights.ctypes.data, columns, samples, replacement, work.ctypes.data]
    )
    kernel = compiled(sampling.make_multinomial(weights.dtype), f"multinomial:{weights.dtype}")
    status = kernel(args.ctypes.data)
    assert out[0] == -7 == out[-1] and (work[-64:] == 0xA5).all()
    return status, out[1:-1].reshape(rows, samples)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multinomial_with_replacement(dtype):
    weights = np.array([[0, 1, 2, 0, 3, 4, 0], [5, 0, 0, 0, 0, 0, 0]], dtype)
    status, out = multinomial(weights, 50_001, True)
    assert status == 0 and (out[1] == 0).all()
    counts = np.bincount(out[0], minlength=7)
    assert (counts[[0, 3, 6]] == 0).all()
    assert stats.chisquare(counts[[1, 2, 4, 5]], 50_001 * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multinomial_without_replacement(dtype):
    weights = np.tile(np.array([0, 1, 2, 3, 4], dtype), (24_000, 1))
    status, out = multinomial(weights, 3, False)
    assert status == 0 and all(len(set(row)) == 3 and 0 not in row for row in out.tolist())
    p = np.array([0, 0.1, 0.2, 0.3, 0.4])
    expected, counts = [], []
    for a in range(1, 5):
        for b in range(1, 5):
            if a != b:  # the first two draws in their order; the third is among the other two
                expected.append(24_000 * p[a] * p[b] / (1 - p[a]))
                counts.append(((out[:, 0] == a) & (out[:, 1] == b)).sum())
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_multinomial_without_replacement_takes_all_when_asked():
    status, out = multinomial(np.ones((1, 1000)), 1000, False)
    assert status == 0 and sorted(out[0].tolist()) == list(range(1000)) and out[0].tolist() != list(range(1000))


def test_multinomial_blocks_lead_to_fresh_numbers():
    weights = np.ones((3, 40))
    _, first = multinomial(weights, 5, False)
    offset = sampling.multinomial_blocks(3, 40, 5, False)
    _, second = multinomial(weights, 5, False, offset=offset)
    assert offset == blocks_used(120, True) and not np.array_equal(first, second)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_multinomial_refuses_bad_weights(bad):
    assert multinomial(np.array([[1, 1.0], [1, bad]]), 1, True)[0] == sampling.INVALID_WEIGHT
    assert multinomial(np.zeros((1, 3)), 1, True)[0] == sampling.NO_WEIGHT
    assert multinomial(np.array([[1.0, 0, 1]]), 3, False)[0] == sampling.TOO_FEW_WEIGHTS

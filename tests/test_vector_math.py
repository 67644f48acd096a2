"""The vector maths: errors in ulp over all exponents, special values, and that the compiled loops are vector code.

The oracles are long doubles of 80 bits and, for the special functions, SciPy (float32) and mpmath (float64).
"""

import ctypes
import re
from functools import cache

import numpy as np
import pytest
from numba import cfunc
from scipy import special

import tapegrad as tg
from tapegrad.kernels import vector_math
from tapegrad.kernels.loops import Repair, make_loop
from tapegrad.kernels.vector_remainder import fmod_near, has_far_quotient, remainder_near
from tapegrad.kernels.vector_trig import cos_near, is_far, sin_near, tan_near
from tapegrad.kernels.vector_trig_far import cos_far, sin_far, tan_far
from tapegrad.native.cache import OPTIONS, compile_function
from tapegrad.native.dtypes import NUMPY_DTYPES
from tapegrad.native.pointers import pointer_to

LONG = np.longdouble
EXTENDED = np.finfo(LONG).nmant >= 63
TYPES = (np.float32, np.float64)
TWO_ARGUMENTS = {"atan2", "pow", "fmod", "remainder"}

# The largest error allowed, in ulp, in float32 and float64.
BOUNDS = {
    "exp": (1.2, 1.2),
    "exp2": (1.0, 1.1),
    "expm1": (1.8, 2.2),
    "log": (1.0, 1.0),
    "log2": (1.8, 1.8),
    "log10": (1.8, 1.8),
    "log1p": (1.0, 1.0),
    "sqrt": (0.5, 0.501),
    "rsqrt": (1.5, 1.5),
    "sin": (3.0, 2.0),
    "cos": (3.0, 2.0),
    "tan": (4.5, 3.5),
    "asin": (2.5, 2.5),
    "acos": (1.5, 1.5),
    "atan": (2.5, 2.5),
    "sinh": (3.5, 3.5),
    "cosh": (3.0, 3.0),
    "tanh": (2.8, 2.8),
    "asinh": (2.0, 2.2),
    "acosh": (2.6, 2.6),
    "atanh": (2.4, 2.4),
    "sigmoid": (2.8, 2.8),
    "silu": (2.8, 2.8),
    "softplus": (2.0, 2.0),
    "log_sigmoid": (2.0, 2.0),
    "erf": (1.5, 1.2),
    "erfc": (3.8, 3.5),
    "erfinv": (3.5, 4.5),
    "gelu": (4.5, 4.0),
    "gelu_tanh": (2.5, 2.8),
    "lgamma": (0.6, 5.0),
    "digamma": (0.6, 5.0),
}


# What the ops declare: a fast formula, and a repair of what it cannot do.
REPAIRED = {
    "sin": (lambda x: sin_near(x), Repair(lambda x: is_far(x), lambda x: sin_far(x))),
    "cos": (lambda x: cos_near(x), Repair(lambda x: is_far(x), lambda x: cos_far(x))),
    "tan": (lambda x: tan_near(x), Repair(lambda x: is_far(x), lambda x: tan_far(x))),
    "fmod": (
        lambda x, z: fmod_near(x, z),
        Repair(lambda x, z: has_far_quotient(x, z), lambda x, z: vector_math.fmod(x, z)),
    ),
    "remainder": (
        lambda x, z: remainder_near(x, z),
        Repair(lambda x, z: has_far_quotient(x, z), lambda x, z: vector_math.remainder(x, z)),
    ),
}


@cache
def compiled_loop(name, dtype):
    """Return the elementwise kernel of the function, as an op has it."""
    function, count = getattr(vector_math, name), 2 if name in TWO_ARGUMENTS else 1
    plain = (lambda x, z: function(x, z)) if count == 2 else (lambda x: function(x))
    formula, repair = REPAIRED.get(name, (plain, None))
    code = NUMPY_DTYPES.index(np.dtype(dtype))
    loop = make_loop(formula, (code,) * count, code, repair=repair)
    address = compile_function(loop, f"test_vector_math.{name}.{np.dtype(dtype).name}", "int64(int64)")
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)


def loop_arguments(y, *operands, step=1):
    """Return what a kernel of kernels/loops.py reads: one row of every ``step``-th element."""
    size = y.size // step
    words = [1, size, y.ctypes.data, 0, step]
    for x in operands:
        words += [x.ctypes.data, 0, step]
    return np.array(words, np.int64)


def kernel(name, dtype):
    """Return ``run(x[, z])`` of the compiled loop."""

    def run(x, z=None):
        x = np.ascontiguousarray(x, dtype)
        z = x if z is None else np.ascontiguousarray(z, dtype)
        y = np.empty_like(x)
        operands = (x, z) if name in TWO_ARGUMENTS else (x,)
        compiled_loop(name, dtype)(loop_arguments(y, *operands).ctypes.data)
        return y

    return run


def bound_call(name, dtype, x, z):
    """Return the compiled loop on these arrays as a function without arguments (for the benchmark)."""
    operands = (x, z) if name in TWO_ARGUMENTS else (x,)
    y = np.empty_like(x)
    words, loop = loop_arguments(y, *operands), compiled_loop(name, dtype)
    address = words.ctypes.data
    return lambda keep=(words, y, *operands): loop(address)


def every_exponent(dtype, count):
    """Return values of both signs with ``count`` mantissas for each exponent, subnormals and both ends included."""
    info = np.finfo(dtype)
    integer = np.dtype(f"u{np.dtype(dtype).itemsize}").type
    mantissas = np.random.default_rng(0).integers(0, 1 << info.nmant, (2**info.nexp - 1, count), dtype=integer)
    mantissas[:, :3] = (0, 1, (1 << info.nmant) - 1)
    exponents = np.arange(2**info.nexp - 1, dtype=integer)[:, None] << integer(info.nmant)
    x = (exponents | mantissas).reshape(-1).view(dtype)
    return np.concatenate([x, -x])


def dense(dtype, *bounds, count=4000):
    """Return ``count`` uniform values in -b .. b for each bound."""
    draw = np.random.default_rng(1)
    return np.concatenate([draw.uniform(-b, b, count) for b in bounds]).astype(dtype)


def ulps(got, want, dtype):
    """Return the errors in units of the last place of ``want``; inf where only one is nan or infinite."""
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        rounded, double = want.astype(dtype), want.astype(np.float64)
        exponent = np.maximum(np.frexp(np.abs(want))[1] - 1, info.minexp)
        error = np.abs(got.astype(LONG) - want) / np.ldexp(LONG(1), exponent - info.nmant)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    error = np.where(same & ~np.isfinite(rounded), 0, error)
    edge = np.isclose(np.abs(double), float(info.max), rtol=1e-6, atol=0)  # overflows by rounding
    error = np.where(edge & (np.isinf(got) | np.isinf(rounded)), 0, error)
    return np.where(np.isnan(error), np.inf, error)


def logistic(x):
    return np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x)))


def log_sigmoid(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def silu(x):
    return np.where(np.isinf(x), np.maximum(x, 0), np.where(x < 0, x * np.exp(x), x) / (1 + np.exp(-np.abs(x))))


LONG_ORACLES = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": logistic,
    "silu": silu,
    "log_sigmoid": log_sigmoid,
    "softplus": lambda x: -log_sigmoid(-x),
}
LONG_ORACLES |= {name: getattr(np, name) for name in BOUNDS if hasattr(np, name)}


def gelu_tanh(x):
    b = np.clip(x, -60, 60)  # b**3 overflows; from here on the factor is 0 or 1
    z = 2 * np.sqrt(2 / LONG(np.pi)) * b * (1 + b * b * (LONG(44715) / LONG(10**6)))
    return np.where(x < 0, np.maximum(x, -1e9) * np.exp(z), x) / (1 + np.exp(-np.abs(z)))


SCIPY_ORACLES = {
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "gelu": lambda x: np.clip(x, -1e9, None) * special.erfc(-x / np.sqrt(2)) / 2,
    "gelu_tanh": gelu_tanh,
    "lgamma": special.gammaln,
    "digamma": special.digamma,
}
DOMAINS = {"erfinv": 1, "asin": 1, "acos": 1, "atanh": 1}


def arguments(name, dtype, count):
    x = np.concatenate([every_exponent(dtype, count), dense(dtype, 0.1, 1, 3, 15, 110, 750, count=800 * count)])
    if name in ("lgamma", "digamma"):
        x = np.abs(x)
        x = x[x < 1e35]  # lgamma overflows
    return x


def worst(name, dtype, x, want):
    errors = ulps(kernel(name, dtype)(x), np.asarray(want), dtype)
    at = int(np.argmax(errors))
    return float(errors[at]), x[at]


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_float32_error(name):
    x = arguments(name, np.float32, 16)
    with np.errstate(all="ignore"):
        want = LONG_ORACLES[name](x.astype(LONG)) if name in LONG_ORACLES else SCIPY_ORACLES[name](x.astype(float))
    error, at = worst(name, np.float32, x, want)
    assert error <= BOUNDS[name][0], f"{name}({at!r}): {error:.3f} ulp"


@pytest.mark.skipif(not EXTENDED, reason="long double is no wider than double here")
@pytest.mark.parametrize("name", sorted(LONG_ORACLES))
def test_float64_error(name):
    x = arguments(name, np.float64, 5)
    with np.errstate(all="ignore"):
        error, at = worst(name, np.float64, x, LONG_ORACLES[name](x.astype(LONG)))
    assert error <= BOUNDS[name][1], f"{name}({at!r}): {error:.3f} ulp"


def multiprecision(mp):
    """Return the functions of mpmath, for arguments that are not extremely large or small."""
    return {
        "erf": mp.erf,
        "erfc": mp.erfc,
        "erfinv": lambda x: mp.erfinv(x) if abs(x) <= 1 else mp.nan,
        "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
        "gelu_tanh": lambda x: x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf(44715) / 10**6 * x**3))),
        "lgamma": lambda x: mp.loggamma(x),
        "digamma": mp.digamma,
    }


def as_long(mp, value):
    if mp.isnan(value) or mp.isinf(value) or value == 0:
        return LONG(str(value).replace("+", ""))
    if abs(value) < mp.mpf(10) ** -4900:
        return LONG(0)
    mantissa, exponent = mp.frexp(value)
    high = float(mantissa)
    return np.ldexp(LONG(high) + LONG(float(mantissa - high)), int(exponent))


def multiprecision_case(name, count):
    """Return float64 arguments and mpmath's values."""
    mpmath = pytest.importorskip("mpmath")
    draw = np.random.default_rng(2)
    x = np.concatenate(
        [draw.uniform(-b, b, 2 * count) for b in (0.05, 1.2, 6, 40)] + [2.0 ** draw.uniform(-60, 3, count)]
    )
    if name in ("lgamma", "digamma"):
        x = np.abs(np.concatenate([3 * x, draw.uniform(1.4, 1.5, count)]))
    if name == "erfinv":
        x = np.concatenate([x, 1 - 2.0 ** -draw.uniform(1, 52, 2 * count)])
        x = x[np.abs(x) <= 1]
    with mpmath.workprec(160):
        function = multiprecision(mpmath.mp)[name]
        return x, np.array([as_long(mpmath.mp, function(mpmath.mpf(float(v)))) for v in x])


@pytest.mark.skipif(not EXTENDED, reason="long double is no wider than double here")
@pytest.mark.parametrize("name", sorted(SCIPY_ORACLES))
def test_float64_error_of_special_functions(name):
    error, at = worst(name, np.float64, *multiprecision_case(name, 100))
    assert error <= BOUNDS[name][1], f"{name}({at!r}): {error:.3f} ulp"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_absolute_error_at_negative_arguments(name, dtype):
    mpmath = pytest.importorskip("mpmath")
    x = np.random.default_rng(5).uniform(-20, 0, 400).astype(dtype)
    with mpmath.workprec(160):
        function = multiprecision(mpmath.mp)[name]
        want = np.array([float(mpmath.re(function(mpmath.mpf(float(v))))) for v in x])
    error = np.abs(kernel(name, dtype)(x).astype(np.float64) - want) / (1 + np.abs(want))
    assert np.max(error) < 8 * np.finfo(dtype).eps


SPECIAL = {  # values at nan, inf, -inf, 0, -0
    "exp": (np.nan, np.inf, 0, 1, 1),
    "exp2": (np.nan, np.inf, 0, 1, 1),
    "expm1": (np.nan, np.inf, -1, 0.0, -0.0),
    "log": (np.nan, np.inf, np.nan, -np.inf, -np.inf),
    "log2": (np.nan, np.inf, np.nan, -np.inf, -np.inf),
    "log10": (np.nan, np.inf, np.nan, -np.inf, -np.inf),
    "log1p": (np.nan, np.inf, np.nan, 0.0, -0.0),
    "sqrt": (np.nan, np.inf, np.nan, 0.0, -0.0),
    "rsqrt": (np.nan, 0, np.nan, np.inf, -np.inf),
    "sin": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "cos": (np.nan, np.nan, np.nan, 1, 1),
    "tan": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "asin": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "acos": (np.nan, np.nan, np.nan, np.pi / 2, np.pi / 2),
    "atan": (np.nan, np.pi / 2, -np.pi / 2, 0.0, -0.0),
    "sinh": (np.nan, np.inf, -np.inf, 0.0, -0.0),
    "cosh": (np.nan, np.inf, np.inf, 1, 1),
    "tanh": (np.nan, 1, -1, 0.0, -0.0),
    "asinh": (np.nan, np.inf, -np.inf, 0.0, -0.0),
    "acosh": (np.nan, np.inf, np.nan, np.nan, np.nan),
    "atanh": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "sigmoid": (np.nan, 1, 0, 0.5, 0.5),
    "silu": (np.nan, np.inf, np.nan, 0.0, -0.0),
    "softplus": (np.nan, np.inf, 0, np.log(2), np.log(2)),
    "log_sigmoid": (np.nan, 0, -np.inf, -np.log(2), -np.log(2)),
    "erf": (np.nan, 1, -1, 0.0, -0.0),
    "erfc": (np.nan, 0, 2, 1, 1),
    "erfinv": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "gelu": (np.nan, np.inf, np.nan, 0, 0),
    "gelu_tanh": (np.nan, np.inf, np.nan, 0, 0),
    "lgamma": (np.nan, np.inf, np.inf, np.inf, np.inf),
    "digamma": (np.nan, np.inf, np.nan, -np.inf, np.inf),
}
SIGNED_ZEROS = ["expm1", "log1p", "sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf", "erfinv"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(SPECIAL))
def test_special_values(name, dtype):
    got = kernel(name, dtype)(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0]))
    np.testing.assert_allclose(got, np.array(SPECIAL[name]).astype(dtype), rtol=2 * np.finfo(dtype).eps)
    if name in SIGNED_ZEROS:
        np.testing.assert_array_equal(np.signbit(got[3:]), [False, True])


@pytest.mark.parametrize("dtype", TYPES)
def test_edges_of_domains(dtype):
    assert kernel("erfinv", dtype)([1, -1]).tolist() == [np.inf, -np.inf]
    assert kernel("atanh", dtype)([1, -1]).tolist() == [np.inf, -np.inf]
    assert kernel("log1p", dtype)([-1]).tolist() == [-np.inf]
    assert kernel("acosh", dtype)([1]).tolist() == [0]
    assert np.isinf(kernel("lgamma", dtype)([-1, -2, -30])).all()
    assert np.isnan(kernel("digamma", dtype)([-1, -2, -30])).all()
    for name in ("asin", "acos", "erfinv", "atanh"):
        assert np.isnan(kernel(name, dtype)([1.5, -1.5])).all()


BEYOND = [1.0, 2.0**40, -2.0, 1e30, np.inf, np.nan, -0.0, -1e37, 3.0, 131073, -(2.0**17), 2.0**32, 2.0**33]


def mixed(name, dtype, size):
    """Return operands of which few, or all of one block, are beyond the fast formula."""
    draw = np.random.default_rng(6)
    x = draw.uniform(-9, 9, size).astype(dtype)
    x[size // 2 : size // 2 + len(BEYOND)] = BEYOND
    x[1024:2048:2] *= dtype(1e9)
    return (x, draw.uniform(0.5, 2, size).astype(dtype)) if name in TWO_ARGUMENTS else (x,)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(REPAIRED))
def test_repairs_find_what_the_fast_formula_cannot_do(name, dtype):
    operands = mixed(name, dtype, 5000)
    with np.errstate(invalid="ignore"):
        want = getattr(np, name)(*(x.astype(LONG) for x in operands))
    assert np.max(ulps(kernel(name, dtype)(*operands), want, dtype)) <= (4.5 if EXTENDED else 6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(REPAIRED))
def test_repairs_do_not_depend_on_layout_neighbours_or_aliasing(name, dtype):
    operands = mixed(name, dtype, 5000)
    want = kernel(name, dtype)(*operands)
    each = [kernel(name, dtype)(*(x[k : k + 1] for x in operands)) for k in range(2490, 2520)]
    np.testing.assert_array_equal(np.concatenate(each), want[2490:2520])
    spread = np.zeros(5000, dtype)
    compiled_loop(name, dtype)(loop_arguments(spread, *operands, step=3).ctypes.data)
    np.testing.assert_array_equal(spread[:4998:3], want[:4998:3])
    compiled_loop(name, dtype)(loop_arguments(operands[0], *operands).ctypes.data)
    np.testing.assert_array_equal(operands[0], want)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_functions_for_fused_kernels_take_every_number(name, dtype):
    (x,) = mixed(name, dtype, 5000)
    np.testing.assert_array_equal(getattr(vector_math, name)(x), kernel(name, dtype)(x))


@pytest.mark.parametrize("dtype", TYPES)
def test_remainders_are_exact(dtype):
    draw = np.random.default_rng(7)
    x, y = (draw.permutation(every_exponent(dtype, 40))[:40000] for _ in range(2))
    with np.errstate(all="ignore"):
        near = y[:20000] * draw.integers(-(2**20), 2**20, 20000).astype(dtype)  # beside a multiple
        near = np.nextafter(near, draw.choice([-np.inf, np.inf], 20000).astype(dtype))
        x = np.concatenate([x, near])
        y = np.concatenate([y, y[:20000]])
        want = np.fmod(x, y)
        shifted = np.where((want != 0) & ((want < 0) != (y < 0)), want + y, want)
    np.testing.assert_array_equal(kernel("fmod", dtype)(x, y), want)
    np.testing.assert_array_equal(kernel("remainder", dtype)(x, y), shifted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "name", ["sin", "cos", "tan", "sigmoid", "silu", "gelu", "gelu_tanh", "softplus", "log_sigmoid", "tanh", "erf"]
)
def test_special_values_are_those_of_torch(name, dtype):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    renamed = {
        "gelu": lambda v: functional.gelu(v),
        "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "silu": functional.silu,
        "softplus": functional.softplus,
        "log_sigmoid": functional.logsigmoid,
    }
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    # one at a time: eight float32 at once give torch's gelu(inf) = nan, one alone gives inf, as the formula does
    want = [renamed.get(name, getattr(torch, name, None))(torch.from_numpy(x[k : k + 1])).item() for k in range(5)]
    got = kernel(name, dtype)(x)
    np.testing.assert_allclose(got, np.array(want, dtype), rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["sin", "cos", "tan", "sinc", "fmod", "remainder", "floor_divide"])
def test_ops_repair_as_torch_what_their_fast_formula_cannot_do(name, dtype):
    torch = pytest.importorskip("torch")
    x = np.array([0.5, 1e9, 1.5, np.finfo(dtype).max, -1e30, np.inf, np.nan, -3], dtype)
    z = np.array([0.3, 1e-5, np.inf, 7, 3, 2, 1, 0], dtype)
    operands = (x,) if name in ("sin", "cos", "tan", "sinc") else (x, z)
    got = getattr(tg, name)(*(tg.tensor(v) for v in operands)).numpy()
    want = getattr(torch, name)(*(torch.from_numpy(v) for v in operands)).numpy()
    np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps)


AWKWARD = [0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, -1.5, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30, 2.0**-140]


def pairs(dtype):
    values = np.array([*AWKWARD, np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal], dtype)
    x, y = np.meshgrid(values, values)
    return x.ravel().copy(), y.ravel().copy()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["pow", "atan2", "fmod"])
def test_special_pairs(name, dtype):
    x, y = pairs(dtype)
    oracle = {"pow": np.power, "atan2": np.arctan2, "fmod": np.fmod}[name]
    with np.errstate(all="ignore"):
        want = oracle(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
    got = kernel(name, dtype)(x, y)
    np.testing.assert_allclose(got, want, rtol=3 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).smallest_subnormal)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(want)[numbers])


@pytest.mark.parametrize("dtype", TYPES)
def test_remainder_has_the_sign_of_the_divisor(dtype):
    x, y = pairs(dtype)
    with np.errstate(all="ignore"):
        want = np.fmod(x, y)
        want = np.where((want != 0) & ((want < 0) != (y < 0)), want + y, want)
    np.testing.assert_array_equal(kernel("remainder", dtype)(x, y), want)
    assert kernel("remainder", dtype)([5, -5, 5, -5], [3, 3, -3, -3]).tolist() == [2, 1, -1, -2]


@pytest.mark.skipif(not EXTENDED, reason="long double is no wider than double here")
@pytest.mark.parametrize("dtype", TYPES)
def test_pow_error(dtype):
    draw = np.random.default_rng(3)
    x = draw.permutation(np.abs(every_exponent(dtype, 20)))[:20000]
    span = 130 if dtype == np.float32 else 1050
    with np.errstate(all="ignore"):
        y = draw.uniform(-span, span, x.size) / np.maximum(np.abs(np.log2(x.astype(LONG))), 1e-9)
        x = np.concatenate([x, draw.uniform(0, 10, 20000).astype(dtype)])
        y = np.concatenate([y, draw.uniform(-50, 50, 20000)]).astype(dtype)
        errors = ulps(kernel("pow", dtype)(x, y), np.power(x.astype(LONG), y.astype(LONG)), dtype)
    assert np.max(errors) <= (0.6 if dtype == np.float32 else 1.2)


@pytest.mark.skipif(not EXTENDED, reason="long double is no wider than double here")
@pytest.mark.parametrize("dtype", TYPES)
def test_atan2_error(dtype):
    draw = np.random.default_rng(4)
    x, y = (draw.permutation(every_exponent(dtype, 20))[:10000] for _ in range(2))
    x = np.concatenate([x, dense(dtype, 3), y[:5000]])
    with np.errstate(all="ignore"):
        y = np.concatenate([y, dense(dtype, 3)[::-1], (y[:5000] * draw.uniform(-4, 4, 5000)).astype(dtype)])
        errors = ulps(kernel("atan2", dtype)(y, x), np.arctan2(y.astype(LONG), x.astype(LONG)), dtype)
    assert np.max(errors) <= 3


@pytest.mark.parametrize("name", ["exp", "gelu", "atan2"])
def test_python_call_equals_the_kernel(name):
    x = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    args = (x, x[::-1]) if name in TWO_ARGUMENTS else (x,)
    got = getattr(vector_math, name)(*args)
    np.testing.assert_array_equal(got.ravel(), kernel(name, np.float32)(*(a.ravel() for a in args)))
    assert got.dtype == np.float32
    assert got.shape == x.shape


MAIN = ["exp", "log", "tanh", "sigmoid", "erf", "gelu", "sin", "cos"]


@pytest.mark.parametrize("name", MAIN)
def test_the_loop_is_vector_code_without_calls(name):
    function, at = getattr(vector_math, name), pointer_to(np.float32)

    def loop(n, x_address, y_address):
        x, y = at(x_address), at(y_address)
        for i in range(np.uintp(n)):
            y[i] = function(x[i])
        return 0

    code = cfunc("int64(int64, int64, int64)", **OPTIONS)(loop).inspect_llvm()
    assert re.search(r"fmul [a-z ]*<\d+ x float>", code)
    called = {callee for callee in re.findall(r"call [^@]*@([\w.]+)", code) if "loop" not in callee}  # cfunc's own call
    assert all(callee.startswith("llvm.") for callee in called), called


def test_every_function_has_a_docstring():
    for name in vector_math.__all__:
        assert getattr(vector_math, name).__doc__

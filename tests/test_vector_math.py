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

from tapegrad.kernels import vector_math
from tapegrad.native.cache import OPTIONS, compile_function
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
    "gelu": (4.0, 4.0),
    "gelu_tanh": (2.5, 2.8),
    "lgamma": (0.6, 5.0),
    "digamma": (0.6, 5.0),
}


@cache
def compiled_loop(name, dtype):
    """Return the function compiled in a loop over pointers."""
    function, at = getattr(vector_math, name), pointer_to(dtype)

    def one(n, x_address, z_address, y_address):
        x, y = at(x_address), at(y_address)
        for i in range(np.uintp(n)):
            y[i] = function(x[i])
        return 0

    def two(n, x_address, z_address, y_address):
        x, z, y = at(x_address), at(z_address), at(y_address)
        for i in range(np.uintp(n)):
            y[i] = function(x[i], z[i])
        return 0

    loop = two if name in TWO_ARGUMENTS else one
    key = f"test_vector_math.{name}.{np.dtype(dtype).name}"
    address = compile_function(loop, key, "int64(int64, int64, int64, int64)")
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(address)


def kernel(name, dtype):
    """Return ``run(x[, z])`` of the compiled loop."""

    def run(x, z=None):
        x = np.ascontiguousarray(x, dtype)
        z = x if z is None else np.ascontiguousarray(z, dtype)
        y = np.empty_like(x)
        compiled_loop(name, dtype)(x.size, x.ctypes.data, z.ctypes.data, y.ctypes.data)
        return y

    return run


def bound_call(name, dtype, x, z):
    """Return the compiled loop on these arrays as a function without arguments (for the benchmark)."""
    y = np.empty_like(x)
    loop, addresses = compiled_loop(name, dtype), (x.ctypes.data, z.ctypes.data, y.ctypes.data)
    return lambda keep=(x, z, y): loop(keep[0].size, *addresses)


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
    if name in ("sin", "cos", "tan") and dtype == np.float64:
        x = x[np.abs(x) < 2.0**51]
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
    "silu": (np.nan, np.inf, -0.0, 0.0, -0.0),
    "softplus": (np.nan, np.inf, 0, np.log(2), np.log(2)),
    "log_sigmoid": (np.nan, 0, -np.inf, -np.log(2), -np.log(2)),
    "erf": (np.nan, 1, -1, 0.0, -0.0),
    "erfc": (np.nan, 0, 2, 1, 1),
    "erfinv": (np.nan, np.nan, np.nan, 0.0, -0.0),
    "gelu": (np.nan, np.inf, 0, 0, 0),
    "gelu_tanh": (np.nan, np.inf, 0, 0, 0),
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


def test_float64_sine_beyond_its_range_is_nan():
    for name in ("sin", "cos", "tan"):
        assert np.isnan(kernel(name, np.float64)([2.0**52, -1e300])).all()


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

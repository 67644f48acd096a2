"""Elementwise functions beside what their op's samples show: operators, forms of arguments, errors, integers, ties."""

import math

import numpy as np
import pytest

import tapegrad as tg


def t(*values, dtype=None):
    return tg.tensor(list(values), dtype=dtype)


def grads(function, *values):
    leaves = [tg.tensor(np.array(value, np.float64), requires_grad=True) for value in values]
    y = function(*leaves)
    return [g.tolist() for g in tg.autograd.grad(y, leaves, tg.tensor(np.ones(y.shape)))]


# ---- arithmetic ----


def test_add_and_sub_scale_the_other_operand():
    x, w = t(1.0, 2.0), t(3.0, 5.0)
    assert tg.add(x, w, alpha=2).tolist() == [7.0, 12.0]
    assert tg.sub(x, w, alpha=2).tolist() == [-5.0, -8.0]
    assert tg.rsub(x, 10).tolist() == [9.0, 8.0]
    assert x.add_(w, alpha=-1) is x
    assert x.tolist() == [-2.0, -3.0]
    assert grads(lambda a, b: tg.sub(a, b, alpha=3), [1.0], [2.0]) == [[1.0], [-3.0]]


def test_a_float_alpha_of_integers_is_refused():
    with pytest.raises(RuntimeError, match="alpha must not be a floating point number"):
        tg.add(t(1), t(2), alpha=0.5)


@pytest.mark.parametrize(
    ("x", "w", "quotient", "rest", "truncated", "c_rest"),
    [(7, 2, 3, 1, 3, 1), (-7, 2, -4, 1, -3, -1), (7, -2, -4, -1, -3, 1), (-7, -2, 3, -1, 3, -1)],
)
@pytest.mark.parametrize("dtype", [tg.int32, tg.int64, tg.float32, tg.float64])
def test_division_that_rounds(x, w, quotient, rest, truncated, c_rest, dtype):
    a, b = t(x, dtype=dtype), t(w, dtype=dtype)
    assert (a // b).tolist() == [quotient]
    assert (a % b).tolist() == [rest]
    assert [part.tolist() for part in divmod(a, b)] == [[quotient], [rest]]
    assert [part.tolist() for part in divmod(a, w)] == [[quotient], [rest]]
    assert [part.tolist() for part in divmod(x, b)] == [[quotient], [rest]]
    assert tg.div(a, b, rounding_mode="trunc").tolist() == [truncated]
    assert tg.div(a, b, rounding_mode="floor").tolist() == [quotient]
    assert tg.fmod(a, b).tolist() == [c_rest]
    assert (a // b).dtype == dtype


@pytest.mark.parametrize(
    "divide", [tg.floor_divide, tg.remainder, tg.fmod, tg.Tensor.remainder_, tg.Tensor.floor_divide_]
)
@pytest.mark.parametrize("zero", [0, t(0), t(0, 1, dtype=tg.uint8), False])
def test_integers_divided_by_zero_raise(divide, zero):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        divide(t(3, 4), zero)


def test_the_smallest_integer_divided_by_minus_one_wraps():
    smallest = t(-(2**63), dtype=tg.int64)
    assert (smallest // -1).tolist() == [-(2**63)]
    assert (smallest % -1).tolist() == [0]


def test_floats_divided_by_zero():
    x = t(1.0, -1.0, 0.0)
    assert (x // 0).tolist()[:2] == [math.inf, -math.inf]
    assert math.isnan((x // 0).tolist()[2])
    assert all(math.isnan(v) for v in (x % 0.0).tolist())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_remainders_are_exact(dtype):
    """Quotients near integers, tiny and huge ones, infinite and nan operands: every bit as in C."""
    random = np.random.default_rng(1)
    x = (random.standard_normal(4000) * 10.0 ** random.integers(-6, 7, 4000)).astype(dtype)
    w = (random.standard_normal(4000) * 10.0 ** random.integers(-3, 3, 4000)).astype(dtype)
    x[:2000] = w[:2000] * random.integers(-40, 40, 2000).astype(dtype)
    edges = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, 3e30], dtype)
    a, b = (np.concatenate([u, v.ravel()]) for u, v in zip((x, w), np.meshgrid(edges, edges), strict=True))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(tg.fmod(tg.tensor(a), tg.tensor(b)).numpy(), np.fmod(a, b))
        remainders = tg.remainder(tg.tensor(a), tg.tensor(b)).numpy()
        np.testing.assert_array_equal(remainders, np.remainder(a, b))


def test_a_rounding_mode_that_does_not_exist():
    with pytest.raises(RuntimeError, match="rounding_mode to be one of"):
        tg.div(t(1.0), 2, rounding_mode="up")


def test_in_place_operators_write_where_they_stand():
    x = t(5.0, 7.0)
    y = x
    y += 1
    y -= 2
    y *= 3
    y /= 2
    y //= 2
    y %= 2
    y **= 2
    assert y is x
    assert x.tolist() == [1.0, 0.0]
    with pytest.raises(RuntimeError, match="can't be cast"):
        t(1, 2).div_(2)


# ---- powers ----


def test_powers_of_numbers_and_tensors():
    x = t(1.0, 2.0, 3.0)
    assert (x**2).tolist() == [1.0, 4.0, 9.0]
    assert (2**x).tolist() == [2.0, 4.0, 8.0]
    assert (x**3).tolist() == [1.0, 8.0, 27.0]
    assert (x**x).tolist() == pytest.approx([1.0, 4.0, 27.0])
    assert (x**0.5).tolist() == pytest.approx([1.0, 2**0.5, 3**0.5])
    assert (t(2, 3) ** 2).tolist() == [4, 9]
    assert (t(2, 3) ** 2.0).dtype == tg.float32
    assert (t(2, -1, 1, 3) ** t(-1, -3, -2, 2)).tolist() == [0, -1, 1, 9]
    assert tg.float_power(t(2, 3), 2).dtype == tg.float64


def test_a_negative_integer_power_of_integers():
    with pytest.raises(RuntimeError, match="Integers to negative integer powers are not allowed"):
        t(2, 3) ** -1


@pytest.mark.parametrize("exponent", [0, 0.0, 1, 2, 2.0, 3, 0.5, -1, 1.5])
def test_gradient_of_powers_at_zero_is_torch_s(exponent):
    torch = pytest.importorskip("torch")
    x = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad((x**exponent).sum(), x)
    np.testing.assert_allclose(grads(lambda a: a**exponent, [0.0, 2.0])[0], wanted.tolist())


def test_gradient_of_the_exponent_at_base_zero():
    assert grads(lambda x, w: x**w, [0.0, 0.0], [0.0, 2.0]) == [[0.0, 0.0], [0.0, 0.0]]


# ---- bounds, ties, masks ----


def test_clamp_takes_numbers_tensors_and_none():
    x = t(-2.0, 0.5, 3.0)
    assert tg.clamp(x, -1, 1).tolist() == [-1.0, 0.5, 1.0]
    assert tg.clip(x, min=0).tolist() == [0.0, 0.5, 3.0]
    assert x.clamp(max=t(-3.0, 1.0, 1.0)).tolist() == [-3.0, 0.5, 1.0]
    assert tg.clamp(x, t(0.0), 2).tolist() == [0.0, 0.5, 2.0]
    assert tg.clamp(x, 2, 1).tolist() == [1.0, 1.0, 1.0]
    assert t(1, 5).clamp(2, 3).dtype == tg.int64
    with pytest.raises(RuntimeError, match="At least one of 'min' or 'max' must not be None"):
        tg.clamp(x)


def test_gradient_of_clamp_includes_the_bounds():
    assert grads(lambda x: x.clamp(-1, 1), [-2.0, -1.0, 0.0, 1.0, 2.0]) == [[0.0, 1.0, 1.0, 1.0, 0.0]]
    assert grads(lambda x: x.clamp(min=0), [-1.0, 0.0, 1.0]) == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize("low", [-1.0, 0.5, 2.0])
def test_gradient_of_clamp_reaches_its_bounds_as_torch_s(low):
    torch = pytest.importorskip("torch")
    values = [[-2.0, 0.7, 1.0, 3.0], [low] * 4, [1.0] * 4]
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    wanted = torch.autograd.grad(torch.clamp(*leaves).sum(), leaves)
    assert grads(tg.clamp, *values) == [g.tolist() for g in wanted]


def test_equal_elements_share_the_gradient_of_maximum():
    assert grads(tg.maximum, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]
    assert grads(tg.minimum, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]


def test_nan_passes_maximum_and_relu_but_not_fmax():
    nan = math.nan
    assert np.isnan(tg.maximum(t(nan, 1.0), t(1.0, nan)).numpy()).all()
    assert tg.fmax(t(nan, 1.0), t(1.0, nan)).tolist() == [1.0, 1.0]
    assert math.isnan(tg.relu(t(nan)).item())
    assert math.isnan(t(nan).clamp(0, 1).item())


def test_subgradients():
    assert grads(tg.abs, [0.0]) == [[0.0]]
    assert grads(tg.relu, [0.0]) == [[0.0]]
    assert grads(tg.sqrt, [0.0]) == [[math.inf]]


def test_where_in_all_its_forms():
    mask, x = t(True, False), t(1.0, 2.0)
    assert tg.where(mask, x, 0.0).tolist() == [1.0, 0.0]
    assert tg.where(mask, 0, x).tolist() == [0.0, 2.0]
    assert tg.where(mask, 1.0, 0.0).dtype == tg.float32
    assert tg.where(mask, 1, 0).dtype == tg.int64
    assert x.where(mask, -x).tolist() == [1.0, -2.0]
    assert tg.where(mask, t(1, 2), t(0.5)).dtype == tg.float32
    with pytest.raises(RuntimeError, match="expected condition to be a boolean tensor"):
        tg.where(x, x, x)


def test_masked_fill_keeps_the_dtype():
    x, mask = t(1, 2), t(True, False)
    assert x.masked_fill(mask, 7.9).tolist() == [7, 2]
    assert x.masked_fill(mask, t(3.5)[0]).dtype == tg.int64
    assert x.masked_fill_(mask, 9) is x
    assert x.tolist() == [9, 2]
    with pytest.raises(RuntimeError, match="boolean"):
        x.masked_fill(x, 0)
    with pytest.raises(RuntimeError, match="0-dimensional value tensor"):
        x.masked_fill(mask, t(1, 2))


def test_nan_to_num_replaces_by_the_largest_numbers():
    x = t(math.nan, math.inf, -math.inf, 1.0)
    largest = float(np.finfo(np.float32).max)
    assert tg.nan_to_num(x).tolist() == [0.0, largest, -largest, 1.0]
    assert x.nan_to_num(nan=2, posinf=3, neginf=4).tolist() == [2.0, 3.0, 4.0, 1.0]
    assert tg.nan_to_num(t(1, 2)).tolist() == [1, 2]


# ---- comparisons, logic ----


def test_comparison_operators():
    x = t(1, 2, 3)
    assert (x < 2).tolist() == [True, False, False]
    assert (x <= 2.5).tolist() == [True, True, False]
    assert (x == t(1, 0, 3)).tolist() == [True, False, True]
    assert (x != 1).tolist() == [False, True, True]
    assert (x == None) is False  # noqa: E711 (what is tested)
    assert len({x, x}) == 1


def test_bit_operators():
    x, mask = t(6, 3), t(True, False)
    assert (x & 3).tolist() == [2, 3]
    assert (x | 1).tolist() == [7, 3]
    assert (5 ^ x).tolist() == [3, 6]
    assert (~x).tolist() == [-7, -4]
    assert (~mask).tolist() == [False, True]
    assert (mask & t(True, True)).tolist() == [True, False]
    assert (x << 1).tolist() == [12, 6]
    assert (x >> 1).tolist() == [3, 1]
    assert (x << 64).tolist() == [0, 0]
    assert (t(-8) >> 70).tolist() == [-1]
    x &= 2
    assert x.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match='"bitwise_and" not implemented for float32'):
        t(1.0) & t(1.0)


def test_tests_of_whole_tensors():
    x = t(1.0, math.nan)
    assert not tg.equal(x, x)
    assert tg.equal(t(1, 2), t(1, 2))
    assert not tg.equal(t(1, 2), t(1))
    assert tg.allclose(t(1.0), t(1.0 + 1e-6))
    assert not tg.allclose(x, x)
    assert tg.allclose(x, x, equal_nan=True)
    assert tg.isclose(t(math.inf, 1.0), t(math.inf, 1.1), rtol=0.2).tolist() == [True, True]
    with pytest.raises(RuntimeError, match="did not match"):
        tg.isclose(t(1.0), t(1))


def test_positive_is_its_operand():
    x = t(1.0)
    assert +x is x
    with pytest.raises(RuntimeError, match="bool"):
        +t(True)


# ---- rounding, activations ----


def test_round_to_decimals():
    assert tg.round(t(0.5, 1.5, 2.5, -0.5)).tolist() == [0.0, 2.0, 2.0, -0.0]
    assert tg.round(t(1.234, 5.678), decimals=1).tolist() == pytest.approx([1.2, 5.7])
    assert tg.round(t(1234.0), decimals=-2).tolist() == [1200.0]


NAMES_AND_ARGUMENTS = [
    ("elu", {}),
    ("elu", {"alpha": 0.5}),
    ("selu", {}),
    ("celu", {}),
    ("celu", {"alpha": 2.0}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("softplus", {}),
    ("softplus", {"beta": 2, "threshold": 1}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("hardtanh", {"min_val": -0.5}),
    ("threshold", {"threshold": 0.1, "value": 20}),
    ("logsigmoid", {}),
    ("mish", {}),
    ("hardswish", {}),
]


@pytest.mark.parametrize(("name", "arguments"), NAMES_AND_ARGUMENTS)
def test_activations_with_arguments_are_torch_s(name, arguments):
    torch = pytest.importorskip("torch")
    values = [-7.0, -1.0, -0.2, 0.0, 0.3, 1.0, 8.0]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    y = getattr(torch.nn.functional, name)(x, **arguments)
    (slope,) = torch.autograd.grad(y.sum(), x)
    function = getattr(tg, name)  # torch loses gelu's tail in 1 + tanh(u): hence the absolute tolerance
    np.testing.assert_allclose(
        function(tg.tensor(np.array(values)), **arguments).numpy(), y.detach().numpy(), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(
        grads(lambda a: function(a, **arguments), values)[0], slope.numpy(), rtol=1e-12, atol=1e-13
    )


def test_arguments_are_checked():
    with pytest.raises(RuntimeError, match="approximate argument"):
        tg.gelu(t(1.0), approximate="erf")
    with pytest.raises(RuntimeError, match="alpha cannot be 0"):
        tg.celu(t(1.0), 0)
    with pytest.raises(TypeError, match="must be Tensor, not float"):
        tg.exp(1.0)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'other'"):
        tg.maximum(t(1.0))
    with pytest.raises(TypeError, match="expected a number"):
        tg.leaky_relu(t(1.0), "x")


@pytest.mark.parametrize("eps", [None, 0.1])
def test_logit_is_torch_s(eps):
    torch = pytest.importorskip("torch")
    values = [-0.5, 0.0, 0.05, 0.3, 1.0, 1.5]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    y = torch.logit(x, eps)
    (slope,) = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(tg.logit(tg.tensor(np.array(values)), eps).numpy(), y.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(grads(lambda a: tg.logit(a, eps), values)[0], slope.numpy(), rtol=1e-12)


def test_prelu_has_a_weight_per_channel():
    x = tg.tensor([[[-1.0, 2.0], [-3.0, -4.0]]], requires_grad=True)
    weight = tg.tensor([0.1, 0.5], requires_grad=True)
    y = tg.prelu(x, weight)
    assert y.tolist() == [[[pytest.approx(-0.1), 2.0], [-1.5, -2.0]]]
    y.backward(tg.tensor(np.ones((1, 2, 2), np.float32)))
    assert weight.grad.tolist() == [-1.0, -7.0]
    with pytest.raises(RuntimeError, match="Mismatch of parameter numbers and input channel size"):
        tg.prelu(x, t(1.0, 2.0, 3.0))


def test_out_receives_the_result():
    out = t(0.0, 0.0)
    assert tg.exp(t(0.0, 0.0), out=out) is out
    assert out.tolist() == [1.0, 1.0]
    assert tg.clamp(t(-1.0, 3.0), 0, 1, out=out) is out
    assert out.tolist() == [0.0, 1.0]


def test_aliases_are_the_same_functions():
    x = t(0.5)
    for name, alias in [
        ("asin", "arcsin"),
        ("acosh", "arccosh"),
        ("atan2", "arctan2"),
        ("trunc", "fix"),
        ("abs", "absolute"),
    ]:
        arguments = (x, x) if name == "atan2" else (x + 1.0,) if name == "acosh" else (x,)
        assert getattr(tg, name)(*arguments).tolist() == getattr(tg, alias)(*arguments).tolist()


@pytest.mark.parametrize("name", ["add", "mul", "sigmoid", "exp", "clamp", "relu", "tanh"])
def test_in_place_on_a_part_is_differentiated(name):
    """The rule of the in-place form reads what was there before, or what was written, as it needs."""
    arguments = {"add": (2.0,), "mul": (3.0,), "clamp": (-1.0, 1.0)}.get(name, ())
    x = tg.tensor([0.5, -2.0, 1.5], requires_grad=True)
    y = x * 1.0
    getattr(y, f"{name}_")(*arguments)
    (got,) = tg.autograd.grad(y, x, t(1.0, 1.0, 1.0))
    (wanted,) = tg.autograd.grad(getattr(tg, name)(x, *arguments), x, t(1.0, 1.0, 1.0))
    assert got.tolist() == wanted.tolist()


def test_constant_operands_of_three_take_fast_rows():
    """A kernel has its own loops for numbers among three operands; rows, columns and numbers must agree."""
    random = np.random.default_rng(0)
    x, mask = random.standard_normal((33, 17)).astype(np.float32), random.random((33, 17)) < 0.5
    for a, b in [(x, 2.0), (2.0, x), (1.0, 0.0), (x[:, :1], x), (x[:1], 1.0), (x, x[0, 0])]:
        operands = [tg.tensor(v) if isinstance(v, np.ndarray) else float(v) for v in (a, b)]
        np.testing.assert_array_equal(
            tg.where(tg.tensor(mask), *operands).numpy(), np.where(mask, a, b).astype(np.float32)
        )
    np.testing.assert_array_equal(
        tg.where(tg.tensor(mask[:, :1]), tg.tensor(x), 0.0).numpy(), np.where(mask[:, :1], x, 0)
    )

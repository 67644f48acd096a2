"""Functions made of others, and in-place forms, against torch: values, gradients, errors."""

import numpy as np
import pytest
from torch_oracle import check_derivatives, check_error, check_values

import tapegrad as tg

X = np.random.default_rng(0).normal(size=(3, 4))
V = np.array([3.0, -1.0, 2.0])
W = np.array([0.5, 4.0])
I = np.array([4, -6, 9])  # noqa: E741
J = np.array([6, 4, 0])

DIFFERENTIABLE = {
    "rad2deg": (lambda t, x: t.rad2deg(x), (X,)),
    "cartesian_prod": (lambda t, x, w: t.cartesian_prod(x, w), (V, W)),
    "combinations": (lambda t, x: t.combinations(x, 2), (V,)),
    "combinations with replacement": (lambda t, x: t.combinations(x, 2, True), (V,)),
    "block_diag": (lambda t, x, v: t.block_diag(x, v, x), (X, V)),
    "cumulative_trapezoid": (lambda t, x: t.cumulative_trapezoid(x, dx=0.5, dim=0), (X,)),
    "cumulative_trapezoid at places": (lambda t, x, v: t.cumulative_trapezoid(x, v, dim=0), (X, V)),
    "trapezoid at places": (lambda t, x, v: t.trapezoid(x, v, dim=0), (X, V)),
    "addr": (lambda t, x, v: t.addr(x[:, :3], v, v, beta=0.5, alpha=2), (X, V)),
    "renorm": (lambda t, x: t.renorm(x, 2, 0, 1.5), (X,)),
    "matrix_exp": (lambda t, x: t.linalg.matrix_exp(x[:, :3]), (X,)),
    "matrix_exp of a large matrix": (lambda t, x: t.matrix_exp(x[:, :3] * 3), (X,)),
    "tensorinv": (lambda t, x: t.linalg.tensorinv(x.view(3, 4)[:2].reshape(4, 2)[:2].reshape(2, 2), 1), (X,)),
    "tensorsolve": (lambda t, x, v: t.linalg.tensorsolve(x[:, :3].reshape(3, 3), v), (X, V)),
    "inv_ex": (lambda t, x: t.linalg.inv_ex(x[:, :3])[0], (X,)),
    "solve_ex": (lambda t, x, v: t.linalg.solve_ex(x[:, :3], v)[0], (X, V)),
    "nanquantile": (lambda t, x: t.nanquantile(x, 0.3, 1), (X,)),
    "nanquantile of all": (lambda t, x: t.nanquantile(x, t.tensor([0.0, 0.6, 1.0], dtype=x.dtype)), (X,)),
    "ndtr": (lambda t, x: t.special.ndtr(x), (X,)),
    "ndtri": (lambda t, x: t.special.ndtri(x.sigmoid()), (X,)),
    "xlog1py": (lambda t, x: t.special.xlog1py(x, x.exp()), (X,)),
    "multigammaln": (lambda t, x: t.special.multigammaln(x.abs() + 2, 3), (X,)),
    "entr": (lambda t, x: t.special.entr(x.exp()), (X,)),
    "t_": (lambda t, x: (x * 1).t_() * 2, (X,)),
    "transpose_, then a write": (lambda t, x: (x * 1).transpose_(0, 1).mul_(3), (X,)),
    "unsqueeze_ and squeeze_": (lambda t, x: (x * 1).unsqueeze_(0).squeeze_(0) * x, (X,)),
    "addmm_": (lambda t, x: (x[:, :3] * 1).addmm_(x[:, :3], x[:, 1:]), (X,)),
    "cumsum_": (lambda t, x: (x * 1).cumsum_(1), (X,)),
    "fill_diagonal_": (lambda t, x: (x * 1).fill_diagonal_(2.0), (X,)),
    "fill_diagonal_ wrapped": (lambda t, x: x.repeat(4, 1)[:, :2].clone().fill_diagonal_(2.0, wrap=True), (X,)),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_values_and_gradients_are_torchs(name):
    function, arrays = DIFFERENTIABLE[name]
    check_values(function, arrays)
    check_derivatives(function, arrays, rtol=1e-7)


PLAIN = {
    "vander": (lambda t, x: t.vander(x), (V,)),
    "vander increasing": (lambda t, x: t.vander(x, 4, increasing=True), (V,)),
    "gcd": (lambda t, i, j: t.gcd(i, j), (I, J)),
    "lcm": (lambda t, i, j: t.lcm(i, j), (I, J)),
    "gcd_": (lambda t, i, j: i.clone().gcd_(j), (I, J)),
    "eq_": (lambda t, x: x.clone().eq_(x), (X,)),
    "lt_": (lambda t, x: x.clone().lt_(0.1), (X,)),
    "logical_and_": (lambda t, i, j: i.clone().logical_and_(j), (I, J)),
    "isin": (lambda t, i, j: t.isin(i, j), (I, J)),
    "isin inverted": (lambda t, i: t.isin(i, 9, invert=True), (I,)),
    "isin nothing": (lambda t, i: t.isin(i, i[:0]), (I,)),
    "unravel_index": (lambda t, j: t.unravel_index(j, (2, 4)), (J,)),
    "nanquantile": (lambda t, x: t.nanquantile(t.where(x > 0, x, float("nan")), 0.4, 0), (X,)),
    "hann": (lambda t, j: t.hann_window(7), (J,)),
    "hann symmetric": (lambda t, j: t.hann_window(7, periodic=False), (J,)),
    "hamming": (lambda t, j: t.hamming_window(8, True, 0.5), (J,)),
    "blackman": (lambda t, j: t.blackman_window(6), (J,)),
    "bartlett": (lambda t, j: t.bartlett_window(6), (J,)),
    "kaiser": (lambda t, j: t.kaiser_window(6), (J,)),
    "window of one": (lambda t, j: t.hann_window(1), (J,)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_values_are_torchs(name):
    function, arrays = PLAIN[name]
    check_values(function, arrays)


@pytest.mark.parametrize(
    "function",
    [
        lambda t, x: t.combinations(x),
        lambda t, x: t.cartesian_prod(x, x),
        lambda t, x: t.renorm(x, 0, 0, 1.0),
        lambda t, x: t.linalg.tensorinv(x, 1),
        lambda t, x: x.requires_grad_().t_(),
        lambda t, x: x[0].clone().eq_(x),
        lambda t, x: x[0].fill_diagonal_(1.0),
        lambda t, x: t.hann_window(-1),
    ],
)
def test_errors_are_torchs(function):
    check_error(function, X)


def test_eig_says_what_to_do():
    with pytest.raises(NotImplementedError, match="no complex dtypes"):
        tg.linalg.eig(tg.eye(2))
    with pytest.raises(NotImplementedError, match="no complex dtypes"):
        tg.linalg.eigvals(tg.eye(2))


def test_checked_forms_report_a_singular_matrix():
    singular = tg.ones(2, 2)
    result = tg.linalg.inv_ex(singular)
    assert result.info.item() == 1 and bool(tg.isnan(result.inverse).all())
    with pytest.raises(tg.linalg.LinAlgError):
        tg.linalg.inv_ex(singular, check_errors=True)


def test_every_in_place_form_has_its_function():
    from tapegrad.ops.in_place_forms import COPIED, RESHAPED

    assert all(hasattr(tg.Tensor, name) and hasattr(tg.Tensor, f"{name}_") for name in (*COPIED, *RESHAPED))

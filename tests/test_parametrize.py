"""Parametrisations, spectral and weight norm, and batch norms that become part of the layer before them."""

import copy
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn.utils import fusion, parametrize
from tapegrad.nn.utils.parametrizations import spectral_norm, weight_norm


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return 2 * x

    def right_inverse(self, y):
        return y / 2


class Shifted(nn.Module):
    def forward(self, x):
        return x + 1


def layer(lib=tg):
    made = lib.nn.Linear(3, 2).double()
    with lib.no_grad():
        made.weight.copy_(lib.tensor(np.arange(6.0).reshape(2, 3) - 2))
        made.bias.copy_(lib.tensor([0.5, -0.5]))
    return made


def test_a_parametrised_weight_is_computed_when_it_is_read():
    made = layer()
    before = made.weight.tolist()
    parametrize.register_parametrization(made, "weight", Doubled())
    assert made.weight.tolist() == before
    assert [name for name, _ in made.named_parameters()] == ["bias", "parametrizations.weight.original"]
    assert made.parametrizations.weight.original.tolist() == (np.array(before) / 2).tolist()
    made(tg.ones(1, 3, dtype=tg.float64)).sum().backward()
    assert made.parametrizations.weight.original.grad.tolist() == [[2.0] * 3] * 2
    made.weight = tg.ones(2, 3, dtype=tg.float64)
    assert made.parametrizations.weight.original.tolist() == [[0.5] * 3] * 2
    assert parametrize.is_parametrized(made, "weight") and not parametrize.is_parametrized(made, "bias")
    assert type(made).__name__ == "ParametrizedLinear" and isinstance(made, nn.Linear)
    assert parametrize.type_before_parametrizations(made) is nn.Linear
    assert not parametrize.is_parametrized(layer())


def test_several_parametrisations_are_applied_in_turn():
    made = layer()
    parametrize.register_parametrization(made, "weight", Doubled())
    parametrize.register_parametrization(made, "weight", Shifted())
    assert made.weight.tolist() == (np.arange(6.0).reshape(2, 3) - 1).tolist()
    assert len(made.parametrizations.weight) == 2


@pytest.mark.parametrize("leave", [True, False])
def test_parametrisations_are_taken_away(leave):
    made = layer()
    original = made.weight
    parametrize.register_parametrization(made, "weight", Doubled())
    parametrize.register_parametrization(made, "bias", Shifted())
    weight, bias = made.weight.tolist(), made.bias.tolist()
    parametrize.remove_parametrizations(made, "weight", leave)
    assert made.weight is original and isinstance(made.weight, nn.Parameter)
    assert made.weight.tolist() == (weight if leave else (np.array(weight) / 2).tolist())
    assert made.bias.tolist() == bias
    parametrize.remove_parametrizations(made, "bias")
    assert type(made) is nn.Linear and "parametrizations" not in made.__dict__
    assert sorted(name for name, _ in made.named_parameters()) == ["bias", "weight"]


def test_cached_values_are_computed_once():
    made = layer()
    parametrize.register_parametrization(made, "weight", Doubled())
    counter = made.parametrizations.weight[0]
    counter.calls = 0
    with parametrize.cached():
        with parametrize.cached():
            assert made.weight is made.weight
        made(tg.ones(1, 3, dtype=tg.float64))
        assert counter.calls == 1
        made.weight = tg.ones(2, 3, dtype=tg.float64)
        assert made.weight.tolist() == [[1.0] * 3] * 2
    assert made.weight is not made.weight


def test_copies_have_parametrisations_of_their_own_and_states_load():
    made = layer()
    parametrize.register_parametrization(made, "weight", Doubled())
    other = copy.deepcopy(made)
    other.weight = tg.zeros(2, 3, dtype=tg.float64)
    assert made.weight.abs().sum().item() > 0 and other.weight.abs().sum().item() == 0
    other.load_state_dict(made.state_dict())
    assert other.weight.tolist() == made.weight.tolist()
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(made)


def test_what_cannot_be_is_refused():
    class Wider(nn.Module):
        def forward(self, x):
            return tg.cat([x, x])

    made = layer()
    with pytest.raises(ValueError, match="may not change the shape of the tensor"):
        parametrize.register_parametrization(made, "weight", Wider())
    assert isinstance(made.weight, nn.Parameter) and type(made) is nn.Linear
    with pytest.raises(ValueError, match="does not have a parameter, a buffer, or a parametrized element"):
        parametrize.register_parametrization(made, "nothing", Wider())
    with pytest.raises(ValueError, match="does not have a parametrization on weight"):
        parametrize.remove_parametrizations(made, "weight")
    with pytest.raises(ValueError, match="n_power_iterations to be positive"):
        spectral_norm(made, n_power_iterations=0)


def test_spectral_norm_brings_the_largest_singular_value_to_one():
    tg.manual_seed(0)
    made = spectral_norm(nn.Linear(20, 30).double())
    for _ in range(60):
        made(tg.ones(1, 20, dtype=tg.float64))
    assert np.linalg.svd(made.weight.detach().numpy())[1][0] == pytest.approx(1, rel=1e-3)
    made.eval()
    u = made.parametrizations.weight[0]._u.tolist()
    made(tg.ones(1, 20, dtype=tg.float64)).sum().backward()
    assert made.parametrizations.weight[0]._u.tolist() == u
    assert made.parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("kind", ["spectral", "weight", "weight of all"])
def test_norms_and_their_gradients_are_torch_s(kind):
    torch = pytest.importorskip("torch")
    results = []
    for lib in (tg, torch):
        made, ready = layer(lib), lib.nn.utils.parametrizations
        if kind == "spectral":
            made = ready.spectral_norm(made)
            part = made.parametrizations.weight[0]
            part._u.copy_(lib.tensor([0.6, 0.8]))
            part._v.copy_(lib.tensor([0.0, 0.6, 0.8]))
        else:
            made = ready.weight_norm(made, dim=0 if kind == "weight" else None)
        x = lib.tensor(np.arange(12.0).reshape(4, 3) / 7)
        loss = sum((made(x) ** 2).sum() for _ in range(2))  # power iterations before one backward
        loss.backward()
        results.append({name: value.detach().numpy() for name, value in made.state_dict().items()})
        results[-1] |= {f"{name}.grad": param.grad.numpy() for name, param in made.named_parameters()}
        results[-1]["loss"] = loss.detach().numpy()
    assert list(results[0]) == list(results[1])
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_weight_norm_loads_the_names_of_its_older_form():
    made = weight_norm(layer())
    weight = made.weight.tolist()
    state = made.state_dict()
    old = {"bias": state["bias"], "weight_g": state["parametrizations.weight.original0"] * 2}
    old["weight_v"] = state["parametrizations.weight.original1"]
    made.load_state_dict(old)
    np.testing.assert_allclose(made.weight.tolist(), 2 * np.array(weight))
    parametrize.remove_parametrizations(made, "weight")
    np.testing.assert_allclose(made.weight.tolist(), 2 * np.array(weight))


NORM = {"rm": np.array([0.3, -0.2]), "rv": np.array([1.5, 0.4]), "w": np.array([0.5, 2.0]), "b": np.array([0.1, 0.7])}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("transpose", [False, True])
def test_fused_weights_are_torch_s(affine, transpose):
    torch = pytest.importorskip("torch")
    shape = (3, 2, 2, 2) if transpose else (2, 3, 2, 2)
    results = []
    for lib in (tg, torch):
        rm, rv, w, b = (lib.tensor(value) for value in NORM.values())
        fuse = fusion.fuse_conv_bn_weights if lib is tg else torch.nn.utils.fusion.fuse_conv_bn_weights
        arguments = (lib.tensor(np.cos(np.arange(24.0)).reshape(shape)), b if affine else None, rm, rv, 1e-5)
        results.append(fuse(*arguments, *((w, b) if affine else (None, None)), transpose=transpose))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12)


def test_what_cannot_be_fused_is_refused():
    made, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    with pytest.raises(AssertionError, match="Fusion only for eval"):
        fusion.fuse_linear_bn_eval(made, norm)
    with pytest.raises(AssertionError, match=r"running_mean and bn\.running_var must not be None"):
        fusion.fuse_linear_bn_eval(made.eval(), nn.BatchNorm1d(4, track_running_stats=False).eval())
    with pytest.raises(AssertionError, match=r"linear\.out_features == bn\.num_features"):
        fusion.fuse_linear_bn_eval(made.eval(), nn.BatchNorm1d(5).eval())


@pytest.mark.parametrize(("kind", "sizes"), [("Conv2d", (3, 4)), ("ConvTranspose2d", (3, 4)), ("Linear", (3, 4))])
def test_a_layer_and_its_batch_norm_become_one(kind, sizes):
    tg.manual_seed(0)
    flat = kind == "Linear"
    made = getattr(nn, kind)(*sizes, **({} if flat else {"kernel_size": 2, "bias": False}))
    norm = nn.BatchNorm1d(4) if flat else nn.BatchNorm2d(4)
    x = tg.randn(5, 3) if flat else tg.randn(5, 3, 4, 4)
    norm(made(x))  # running statistics of its own
    made.eval(), norm.eval()
    fused = fusion.fuse_linear_bn_eval(made, norm) if flat else fusion.fuse_conv_bn_eval(made, norm, "T" in kind)
    np.testing.assert_allclose(fused(x).detach().numpy(), norm(made(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_spectral_norm_of_a_transposed_convolution_is_over_its_outputs():
    made = spectral_norm(nn.ConvTranspose2d(3, 4, 2))
    assert made.parametrizations.weight[0].dim == 1 and tuple(made.parametrizations.weight[0]._u.shape) == (4,)

"""Functional forms of derivatives: autograd.functional against torch's, tg.func against torch.func."""

import warnings

import numpy as np
import pytest

import tapegrad as tg

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(0)
A, B, S = RANDOM.standard_normal((2, 3)), RANDOM.standard_normal((2, 3)), np.array(1.5)


def as_numpy(value):
    """Return a nest of tensors as a nest of arrays."""
    if isinstance(value, tuple | list):
        return [as_numpy(item) for item in value]
    if isinstance(value, dict):
        return {name: as_numpy(item) for name, item in value.items()}
    return value.detach().numpy() if hasattr(value, "detach") else value


def check_equal(ours, theirs):
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            check_equal(a, b)
    elif isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for name in ours:
            check_equal(ours[name], theirs[name])
    else:
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def compare(call):
    """Run ``call(T, tensor)`` on both libraries; compare the results, or the errors' classes and words."""
    found = []
    for T in (tg, torch):
        try:
            with warnings.catch_warnings():
                if T is torch:
                    warnings.simplefilter("ignore", DeprecationWarning)  # its own, of torch.jit
                found.append(as_numpy(call(T, lambda array, T=T: T.tensor(array))))
        except (RuntimeError, TypeError) as error:
            found.append(f"{type(error).__name__}: {error}".replace("tapegrad", "torch"))
    if isinstance(found[0], str) or isinstance(found[1], str):
        assert str(found[0])[:90] == str(found[1]).replace("torch.Size([", "[").replace("])", "]")[:90]
    else:
        check_equal(*found)


SCALAR = {
    "one": (lambda a: (a * a * a).sum(), (A,)),
    "two": (lambda a, b: (a * b * a).sum(), (A, B)),
    "zero": (lambda a, b: (a * 2).sum(), (A, B)),
}
TENSOR = {
    "one": (lambda a: a * a, (A,)),
    "several": (lambda a, b: (a * b * a, a.sum()), (A, B)),
    "constant": (lambda a, b: (a.detach() * 2, b * 1), (A, B)),
}


def put(arrays, tensor, single):
    tensors = tuple(tensor(array) for array in arrays)
    return tensors[0] if single and len(tensors) == 1 else tensors


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", TENSOR)
def test_jacobian(case, strict):
    func, arrays = TENSOR[case]
    compare(lambda T, t: T.autograd.functional.jacobian(func, put(arrays, t, True), strict=strict))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", SCALAR)
def test_hessian(case, strict):
    func, arrays = SCALAR[case]
    if case == "zero" and strict:
        with pytest.raises(RuntimeError, match="not allowed in strict mode"):
            tg.autograd.functional.hessian(func, put(arrays, tg.tensor, True), strict=True)
        return
    compare(lambda T, t: T.autograd.functional.hessian(func, put(arrays, t, True), strict=strict))


@pytest.mark.parametrize("name", ["vhp", "hvp"])
@pytest.mark.parametrize("case", SCALAR)
def test_hessian_products(name, case):
    func, arrays = SCALAR[case]
    compare(lambda T, t: getattr(T.autograd.functional, name)(func, put(arrays, t, True), put(arrays, t, True)))


@pytest.mark.parametrize("case", TENSOR)
def test_jvp(case):
    func, arrays = TENSOR[case]
    compare(lambda T, t: T.autograd.functional.jvp(func, put(arrays, t, True), put(arrays, t, True)))


def test_vjp():
    func, arrays = TENSOR["several"]
    compare(lambda T, t: T.autograd.functional.vjp(func, put(arrays, t, True), (t(A), t(S))))


@pytest.mark.parametrize(
    "call",
    [
        lambda F, t: F.jacobian(lambda a: a, 3),
        lambda F, t: F.jacobian(lambda a: 3, t(A)),
        lambda F, t: F.hessian(lambda a: (a.sum(), a.sum()), t(A)),
        lambda F, t: F.hessian(lambda a: a, t(A)),
        lambda F, t: F.vjp(lambda a: a, t(A)),
        lambda F, t: F.vjp(lambda a: a, t(A), t(S)),
        lambda F, t: F.jvp(lambda a: a, t(A)),
        lambda F, t: F.vjp(lambda a: a.detach(), t(A), t(A), strict=True),
    ],
)
def test_errors(call):
    compare(lambda T, t: call(T.autograd.functional, t))


def test_create_graph():
    for T in (tg, torch):
        x = T.tensor([1.0, 2.0], requires_grad=True)
        jacobian = T.autograd.functional.jacobian(lambda a: a**3, x, create_graph=True)
        jacobian.sum().backward()
        assert x.grad.tolist() == [6, 12]
        assert not T.autograd.functional.jacobian(lambda a: a**3, x).requires_grad


FUNC = {
    "grad": lambda T, t: T.func.grad(lambda a: (a**3).sum())(t(A)),
    "grad of grad": lambda T, t: T.func.grad(T.func.grad(lambda a: a**5))(t(S)),
    "grad of grad of grad": lambda T, t: T.func.grad(T.func.grad(T.func.grad(lambda a: a**5)))(t(S)),
    "argnums": lambda T, t: T.func.grad(lambda a, b: (a * b * b).sum(), argnums=(1, 0))(t(A), t(B)),
    "aux": lambda T, t: T.func.grad(lambda a: ((a * a).sum(), a * 2), has_aux=True)(t(A)),
    "value": lambda T, t: T.func.grad_and_value(lambda a: (a * a).sum())(t(A)),
    "value and aux": lambda T, t: T.func.grad_and_value(lambda a: ((a * a).sum(), a), has_aux=True)(t(A)),
    "nest": lambda T, t: T.func.grad(lambda p: (p["a"] * p["b"][0]).sum())({"a": t(A), "b": [t(B)]}),
    "unused": lambda T, t: T.func.grad(lambda a, b: a.sum(), argnums=1)(t(A), t(B)),
    "vjp": lambda T, t: (lambda pair: (pair[0], pair[1]((t(A), t(B)))))(
        T.func.vjp(lambda a, b: (a * b, a + b), t(A), t(B))
    ),
    "jvp": lambda T, t: T.func.jvp(lambda a, b: (a * b, a.sum()), (t(A), t(B)), (t(B), t(A))),
    "jvp of jvp": lambda T, t: T.func.jvp(lambda x: T.func.jvp(lambda y: y**3, (x,), (t(A),))[1], (t(A),), (t(B),)),
    "jacrev": lambda T, t: T.func.jacrev(lambda a, b: (a * b * a).sum(0), argnums=(0, 1))(t(A), t(B)),
    "jacfwd": lambda T, t: T.func.jacfwd(lambda a, b: (a * b * a).sum(0), argnums=(0, 1))(t(A), t(B)),
    "hessian": lambda T, t: T.func.hessian(lambda a: (a**4).sum())(t(A[0])),
    "jacrev of jacfwd": lambda T, t: T.func.jacrev(T.func.jacfwd(lambda a: a**3))(t(A[0])),
    "no grad around": lambda T, t: T.no_grad()(T.func.grad(lambda a: (a**3).sum()))(t(A)),
    "not a scalar": lambda T, t: T.func.grad(lambda a: a)(t(A)),
}


@pytest.mark.parametrize("case", FUNC)
def test_func(case):
    compare(FUNC[case])


def test_value_and_grad():
    value, gradient = tg.func.value_and_grad(lambda a: (a * a).sum())(tg.tensor([1.0, 2.0]))
    assert value.item() == 5 and gradient.tolist() == [2, 4]
    assert not value.requires_grad and not gradient.requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])
def test_results_are_part_of_the_graph_around(T):
    w = T.tensor([2.0, 3.0], requires_grad=True)
    x = T.tensor([1.0, 1.0])
    g = T.func.grad(lambda x: (w * x * x).sum())(x)
    assert g.requires_grad
    g.sum().backward()
    assert w.grad.tolist() == [2, 2] and x.grad is None
    assert not T.func.grad(lambda x: (x * x).sum())(x).requires_grad
    assert not T.func.hessian(lambda x: (x * x).sum())(x).requires_grad


@pytest.mark.parametrize("T", [tg, torch], ids=["tapegrad", "torch"])
def test_functional_call(T):
    module = T.nn.Sequential(T.nn.Linear(2, 3), T.nn.Tanh(), T.nn.Linear(3, 1))
    other = {name: T.ones_like(param.detach()) for name, param in module.named_parameters()}
    x = T.ones(4, 2)
    before = module(x).detach().numpy().copy()
    expected = 3 * np.tanh(3.0) + 1
    np.testing.assert_allclose(T.func.functional_call(module, other, x).numpy(), np.full((4, 1), expected), rtol=1e-6)
    gradients = T.func.grad(lambda p: T.func.functional_call(module, p, (x,)).sum())(other)
    assert gradients["2.bias"].tolist() == [4]
    np.testing.assert_array_equal(module(x).detach().numpy(), before)

"""The mechanics of modules: each scenario returns what is written beside it, here and with torch where it is there."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn

SCENARIOS = []


def scenario(expected):
    """Enter a function of a library that returns plain values, and what it has to return."""

    def enter(function):
        SCENARIOS.append(pytest.param(function, expected, id=function.__name__))
        return function

    return enter


@pytest.mark.parametrize(("function", "expected"), SCENARIOS)
def test_scenario(function, expected):
    assert function(tg) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "expected"), SCENARIOS)
def test_torch_agrees(function, expected):
    assert function(pytest.importorskip("torch")) == expected


def names(walk):
    return [name for name, _ in walk]


def message(function, *args, **kwargs):
    """Return the class and text of what a call raises, with the library's name taken out."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error).replace("tapegrad", "lib").replace("torch", "lib")
    return None


def shared(lib):
    """Return a model one of whose layers has two names, with a buffer of each kind and one parameter that is None."""
    model = lib.nn.Module()
    model.a = lib.nn.Linear(2, 2, bias=False)
    model.b = lib.nn.Sequential(OrderedDict(x=lib.nn.ReLU(), y=model.a))
    model.register_buffer("kept", lib.zeros(1))
    model.register_buffer("left", lib.zeros(1), persistent=False)
    model.register_parameter("none", None)
    return model


# ---- names ----


@scenario(
    [
        ["a.weight"],
        ["a.weight", "b.y.weight"],
        ["p.a.weight"],
        [],
        ["", "a", "b", "b.x"],
        ["", "a", "b", "b.x", "b.y"],
        ["kept", "left"],
        ["kept", "a.weight", "b.y.weight"],
        ["none"],
    ]
)
def walks(lib):
    model = shared(lib)
    return [
        names(model.named_parameters()),
        names(model.named_parameters(remove_duplicate=False)),
        names(model.named_parameters(prefix="p")),
        names(model.named_parameters(recurse=False)),
        names(model.named_modules()),
        names(model.named_modules(remove_duplicate=False)),
        names(model.named_buffers()),
        list(model.state_dict()),
        list(model._parameters),
    ]


@scenario(["w", "u", ["u", "w"], ["u"], [], False, ["m"], ["u"]])
def attributes_change_kind(lib):
    nn, found = lib.nn, []
    m = nn.Module()
    m.x = 3
    m.x = nn.Parameter(lib.zeros(1))
    del m.x
    m.w = nn.Parameter(lib.zeros(1))
    found += [*m._parameters]
    del m.w
    m.register_parameter("u", None)
    m.u = nn.Parameter(lib.zeros(1))
    found += [*m._parameters]
    m.w = nn.Parameter(lib.zeros(1))
    found.append(names(m.named_parameters()))
    m.w = None
    found.append(names(m.named_parameters()))
    m.m = nn.Identity()
    m.m = None
    found += [names(m.named_children()), "m" in dict(m.named_modules()), [*m._modules]]
    m._parameters["u"] = nn.Parameter(lib.ones(1))
    assert m.u.item() == 1.0
    found.append(names(m.named_parameters()))
    return found


@scenario(
    [
        ("KeyError", "'parameter name can\\'t contain \".\"'"),
        ("KeyError", "'parameter name can\\'t be empty string \"\"'"),
        ("KeyError", "\"attribute 'forward' already exists\""),
        ("TypeError", "cannot assign 'int' as child module 'a' (lib.nn.Module or None expected)"),
        ("TypeError", "parameter name should be a string. Got int"),
        ("AttributeError", "Module has no attribute `q`"),
        ("AttributeError", "`kept` is not an nn.Module"),
        ("AttributeError", "`a` is not an nn.Parameter"),
        ("AttributeError", "`a` is not a buffer"),
        ("ValueError", "training mode is expected to be boolean"),
        ("AttributeError", "'Module' object has no attribute 'nothing'"),
    ]
)
def refusals(lib):
    model = shared(lib)
    return [
        message(model.register_parameter, "a.b", None),
        message(model.register_parameter, "", None),
        message(model.register_buffer, "forward", lib.zeros(1)),
        message(setattr, model, "a", 1),
        message(model.register_parameter, 1, None),
        message(model.get_submodule, "q.r"),
        message(model.get_submodule, "kept"),
        message(model.get_parameter, "a"),
        message(model.get_buffer, "a"),
        message(model.train, 3),
        message(getattr, model, "nothing"),
    ]


@scenario([True, True, True, ["Tanh"], False, True, "kept"])
def finding_by_path(lib):
    model = shared(lib)
    found = [model.get_submodule("b.y") is model.a, model.get_parameter("b.y.weight") is model.a.weight]
    found.append(model.get_buffer("kept") is model.kept)
    model.set_submodule("b.x", lib.nn.Tanh())
    found.append([type(model.b[0]).__name__])
    found += ["0" in dir(lib.nn.Sequential(lib.nn.ReLU())), "kept" in dir(model)]
    return [*found, next(name for name, value in model.named_buffers() if value is model.kept)]


@scenario([[True, False], [False], ["n", "n2"]])
def buffers_by_assignment(lib):
    m = lib.nn.Module()
    m.n = lib.nn.Buffer(lib.zeros(1))
    m.n2 = lib.nn.Buffer(lib.zeros(1), persistent=False)
    found = ["n" in m.state_dict(), "n2" in m.state_dict()]
    m.n = lib.ones(1)  # a plain tensor stays a buffer
    m.plain = lib.ones(1)
    return [found, ["plain" in m.state_dict()], names(m.named_buffers())]


# ---- hooks on forward ----


@scenario([["p2", "p1", "f", "h1", "h2"], 31.0, ["p2", "p1", "f", "h2"], 16.0])
def forward_hooks_in_order(lib):
    seen = []

    class M(lib.nn.Module):
        def forward(self, x, scale=1.0):
            seen.append("f")
            return x * scale

    m = M()
    m.register_forward_pre_hook(lambda m, args: seen.append("p1"))
    m.register_forward_pre_hook(
        lambda m, args, kwargs: (seen.append("p2"), ((args[0] + 1,), {"scale": 5.0}))[1], prepend=True, with_kwargs=True
    )
    handle = m.register_forward_hook(lambda m, args, out: (seen.append("h1"), out * 2)[1])
    m.register_forward_hook(lambda m, args, kwargs, out: (seen.append("h2"), out + 1)[1], with_kwargs=True)
    first = [list(seen)] if m(lib.tensor(2.0)) is None else [m(lib.tensor(2.0)).item()]
    first = [seen[-5:], *first]
    seen.clear()
    handle.remove()
    second = m(lib.tensor(2.0)).item()
    return [*first, list(seen), second]


@scenario([["always"], "ValueError", "RuntimeError"])
def a_hook_is_called_after_an_exception(lib):
    class M(lib.nn.Module):
        def forward(self, x):
            raise ValueError("no")

    m, seen = M(), []
    m.register_forward_hook(lambda m, args, out: seen.append("never"))
    m.register_forward_hook(lambda m, args, out: seen.append("always" if out is None else "?"), always_call=True)
    first = message(m, 1)[0]
    m.register_forward_pre_hook(lambda m, args, kwargs: 1, with_kwargs=True)
    return [list(seen), first, message(m, 1)[0]]


# ---- hooks on gradients ----


def numbers(gradients):
    return [None if g is None else g.tolist() for g in gradients]


@scenario([[("out", [[2.0]]), ("in", [[6.0], None], [[2.0]])] * 2, [6.0], [6.0]])
def backward_hooks_see_gradients(lib):
    class M(lib.nn.Module):
        def forward(self, x, note):
            return x * 3

    m, seen = M(), []
    m.register_full_backward_pre_hook(lambda m, out: seen.append(("out", numbers(out))))
    m.register_full_backward_hook(lambda m, inp, out: seen.append(("in", numbers(inp), numbers(out))))
    x = lib.tensor([1.0], requires_grad=True)
    (m(x, "note") * 2).sum().backward()
    return [seen, x.grad.tolist(), lib.autograd.grad((m(x, "") * 2).sum(), x)[0].tolist()]


@scenario([[30.0], [-1.0], ("RuntimeError", 3)])
def backward_hooks_replace_gradients(lib):
    m = lib.nn.Identity()
    x = lib.tensor([1.0], requires_grad=True)
    pre = m.register_full_backward_pre_hook(lambda m, out: (out[0] * 30,))
    m(x).sum().backward()
    found = [x.grad.tolist()]
    pre.remove()
    handle = m.register_full_backward_hook(lambda m, inp, out: (-inp[0],))
    x.grad = None
    m(x).sum().backward()
    found.append(x.grad.tolist())
    handle.remove()
    m.register_full_backward_hook(lambda m, inp, out: (inp[0], inp[0], inp[0]))
    kind, text = message(m(x).sum().backward)
    return [*found, (kind, int("got 3" in text) * 3)]


@scenario([[([None], [[1.0, 1.0]])], [[1.0, 1.0]], [3.0, 3.0]])
def backward_hooks_of_a_first_layer(lib):
    """No input requires a gradient, the parameters do; several outputs, of which one is used."""
    layer, seen = lib.nn.Linear(1, 2), []
    layer.register_full_backward_hook(lambda m, inp, out: seen.append((numbers(inp), numbers(out)[0])))
    layer(lib.ones(1, 1)).sum().backward()

    class Two(lib.nn.Module):
        def forward(self, x):
            return x * 3, x * 5

    x, two = lib.ones(2, requires_grad=True), Two()
    got = []
    two.register_full_backward_hook(lambda m, inp, out: got.append(numbers(out)))
    two(x)[0].sum().backward()
    assert got[0][1] is None
    return [seen, [got[0][0]], x.grad.tolist()]


# ---- state ----


@scenario(
    [
        (
            "RuntimeError",
            "Error(s) in loading state_dict for Sequential:\n"
            '\tMissing key(s) in state_dict: "0.bias", "2.weight", "2.bias". \n'
            '\tUnexpected key(s) in state_dict: "q", "7.weight", "0.r". \n'
            "\tsize mismatch for 0.weight: copying a param with shape lib.Size([5]) from checkpoint, the shape in "
            "current model is lib.Size([2, 2]).",
        ),
        (["0.bias", "2.weight", "2.bias"], ["q"]),
        "<All keys matched successfully>",
        "TypeError",
    ]
)
def what_does_not_fit(lib):
    model = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU(), lib.nn.Linear(2, 1))
    state = {"q": lib.zeros(1), "0.weight": lib.zeros(5), "0.r": lib.zeros(1), "7.weight": lib.zeros(1)}
    found = [message(model.load_state_dict, state)]
    keys = model.load_state_dict({"0.weight": lib.zeros(2, 2), "q": lib.zeros(1)}, strict=False)
    found.append((keys.missing_keys, keys.unexpected_keys))
    found.append(repr(model.load_state_dict(model.state_dict())))
    return [*found, message(model.load_state_dict, [1])[0]]


@scenario([["pre", "post"], ["weight", "more"], [9.0], [], ["old"], 7, {"version": 1}])
def state_hooks_and_extra_state(lib):
    class M(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = lib.nn.Parameter(lib.zeros(1))
            self.extra = 7

        def get_extra_state(self):
            return {"extra": self.extra}

        def set_extra_state(self, state):
            self.extra = state["extra"]

    m, seen = M(), []
    m.register_state_dict_pre_hook(lambda m, prefix, keep_vars: seen.append("pre"))
    m.register_state_dict_post_hook(lambda m, state, prefix, meta: (seen.append("post"), state.update(more=1))[0])
    state = m.state_dict()
    found = [seen, [name for name in state if name != "_extra_state"]]

    def rename(module, state, prefix, *rest):
        state[prefix + "weight"] = state.pop(prefix + "old")

    other = M()
    other.extra = 0
    other.register_load_state_dict_pre_hook(rename)
    given = {"old": lib.tensor([9.0]), "_extra_state": {"extra": 7}}
    keys = other.load_state_dict(given)
    found += [other.weight.tolist(), keys.missing_keys, [name for name in given if name == "old"], other.extra]
    return [*found, state._metadata[""]]


@scenario([["1.weight", "1.bias"], [], True, 5.0])
def loading_hooks_can_forgive(lib):
    model = lib.nn.Sequential(lib.nn.ReLU(), lib.nn.Linear(1, 1))
    noted = []

    def forgive(module, keys):
        noted.extend(keys.missing_keys)
        keys.missing_keys.clear()

    model.register_load_state_dict_post_hook(forgive)
    keys = model.load_state_dict({})
    other = lib.nn.Linear(1, 1)
    other.load_state_dict({"weight": lib.tensor([[5.0]]), "bias": lib.tensor([0.0])})
    return [noted, keys.missing_keys, other.weight.requires_grad, other.weight.item()]


@scenario([True, True, False, ["float64"], [7.0]])
def loading_by_assignment(lib):
    layer = lib.nn.Linear(1, 1, bias=False)
    before, given = layer.weight, lib.tensor([[7.0]], dtype=lib.float64)
    layer.load_state_dict({"weight": given}, assign=True)
    kept = [isinstance(layer.weight, lib.nn.Parameter), layer.weight.requires_grad, layer.weight is before]
    return [*kept, [str(layer.weight.dtype).split(".")[1]], layer.weight.flatten().tolist()]


def test_nothing_is_loaded_where_something_does_not_fit():
    class Old(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "w")
            super()._load_from_state_dict(state_dict, prefix, *rest)

    model = nn.Sequential(Old(2, 1, bias=False), nn.Linear(2, 2))
    before = model[0].weight.tolist()
    state = {"0.w": tg.ones(1, 2), "1.weight": tg.ones(2, 2), "1.bias": tg.ones(3)}
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.bias"):
        model.load_state_dict(state)
    assert model[0].weight.tolist() == before
    state["1.bias"] = tg.ones(2)
    model.load_state_dict(state)
    assert model[0].weight.tolist() == [[1.0, 1.0]]


# ---- copies ----


@scenario([True, True, False, True, ["kept", "a.weight", "b.y.weight"], ["left"], False])
def copies_and_pickles_keep_what_is_shared(lib):
    model = shared(lib)
    model.a.weight.requires_grad_(False)
    other = copy.deepcopy(model)
    found = [other.a is other.b.y, other.a.weight is other.b[1].weight, other.a.weight is model.a.weight]
    again = pickle.loads(pickle.dumps(model))
    found += [again.a.weight is again.b.y.weight, list(again.state_dict())]
    found.append([name for name in dict(again.named_buffers()) if name not in again.state_dict()])
    return [*found, again.a.weight.requires_grad]


@scenario(["float64", "float64", "int64", "float32", "float64", True, "TypeError"])
def dtypes(lib):
    layer = lib.nn.Linear(1, 1)
    layer.register_buffer("n", lib.zeros(1, dtype=lib.int64))
    layer.register_buffer("x", lib.zeros(1))
    weight = layer.weight
    layer(lib.ones(1, 1)).sum().backward()
    of = lambda t: str(t.dtype).split(".")[1]  # noqa: E731
    layer.double()
    found = [of(layer.weight), of(layer.weight.grad), of(layer.n)]
    found.append(of(layer.to(lib.zeros(1)).x))
    found.append(of(layer.type(lib.float64).bias))
    return [*found, layer.weight is weight, message(layer.to, lib.int64)[0]]


@scenario([[False, True, True], [True, True, True], ["Linear", "Module"]])
def overridden_train_is_called(lib):
    class Frozen(lib.nn.ReLU):
        def train(self, mode=True):
            return super().train(True)

    model = lib.nn.Sequential(Frozen(), lib.nn.Sequential(Frozen()))
    model.eval()
    model[1].train()
    found = [[m.training for m in (model, model[0], model[1])]]
    found.append([m.training for m in model.train().children()] + [model.training])
    seen = []
    outer = lib.nn.Module()
    outer.inner = lib.nn.Linear(1, 1)
    outer.apply(lambda m: seen.append(type(m).__name__))
    return [*found, seen]


# ---- containers ----


@scenario(
    [
        ["1", "2"],
        ["0", "1", "2", "3"],
        ["ReLU", "Tanh", "Sigmoid", "ReLU"],
        4,
        ["ReLU", "Tanh"] * 2,
        "Sigmoid",
        ("IndexError", "index 9 is out of range"),
        "TypeError",
        "ValueError",
        5,
    ]
)
def sequential(lib):
    nn = lib.nn
    model = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    found = [list(model[1:]._modules)]
    model.append(nn.ReLU())
    found += [list(model._modules), [type(m).__name__ for m in model], len(model + nn.Sequential())]
    found.append([type(m).__name__ for m in nn.Sequential(nn.ReLU(), nn.Tanh()) * 2])
    found.append(type(model.pop(2)).__name__)
    found += [message(lambda: model[9]), message(nn.Sequential, 3)[0], message(lambda: model + [1])[0]]
    model.insert(-1, nn.GELU())
    return [*found, len(model.extend([nn.ReLU()]))]


@scenario(
    [
        "ModuleList(\n  (0-1): 2 x Linear(in_features=1, out_features=1, bias=True)\n  (2): ReLU()\n)",
        ["ReLU", "Linear", "Linear", "ReLU"],
        ["Linear"],
        ["0", "1", "2"],
        "NotImplementedError",
        "ModuleList()",
    ]
)
def module_list(lib):
    nn = lib.nn
    layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU()])
    found = [repr(layers)]
    layers.insert(0, nn.ReLU())
    found += [[type(m).__name__ for m in layers], [type(m).__name__ for m in layers[1:2]]]
    layers.pop(-1)
    return [*found, list(layers._modules), message(layers, 1)[0], repr(nn.ModuleList())]


@scenario(
    [
        ["a", "b"],
        True,
        "ReLU",
        ["b", "c"],
        "TypeError",
        "ModuleDict(\n  (b): Tanh()\n  (c): GELU(approximate='none')\n)",
    ]
)
def module_dict(lib):
    nn = lib.nn
    layers = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()})
    found = [list(layers), "a" in layers, type(layers.pop("a")).__name__]
    layers.update([("c", nn.GELU())])
    return [*found, list(layers.keys()), message(layers.update, 3)[0], repr(layers)]


@scenario(
    [
        [True, True, False],
        ["0", "1"],
        3,
        [2.0, 4.0],
        "ParameterList(\n    (0): Parameter containing: [lib.float32 of size 1]\n"
        "    (1): Parameter containing: [lib.float32 of size 2x3]\n    (2): Object of type: str\n)",
        "RuntimeError",
        2,
    ]
)
def parameter_list(lib):
    params = lib.nn.ParameterList([lib.ones(1), lib.nn.Parameter(lib.ones(2, 3))])
    params.append("note")
    found = [[isinstance(value, lib.nn.Parameter) for value in params], names(params.named_parameters()), len(params)]
    params[0] = lib.tensor([2.0])
    found.append([params[0].item(), params[-3].item() * 2])
    found.append(repr(params).replace("tapegrad", "lib").replace("torch", "lib"))
    found.append(message(params, 1)[0])
    return [*found, len(params[1:])]


@scenario(
    [
        ["a", "b"],
        ["a", "b"],
        [True, False],
        "ParameterDict(\n    (a): Parameter containing: [lib.FloatTensor of size 1]\n"
        "    (b): Parameter containing: [lib.FloatTensor of size 2]\n)",
        ["b", "c"],
        7,
        ["c", "b"],
        ["b", "c", "d"],
    ]
)
def parameter_dict(lib):
    params = lib.nn.ParameterDict({"a": lib.ones(1), "b": lib.nn.Parameter(lib.ones(2))})
    found = [list(params), names(params.named_parameters()), ["a" in params, "z" in params]]
    found.append(repr(params).replace("tapegrad", "lib").replace("torch", "lib"))
    params.pop("a")
    params["c"] = lib.ones(3)
    found += [list(params.keys()), params.get("z", 7), list(reversed(params))]
    return [*found, list((params | {"d": lib.ones(1)}).keys())]


@scenario(
    "Outer(\n  extra\n  lines\n  (a): Inner(one)\n  (b): None\n  (c): Sequential(\n    (0): ReLU(inplace=True)\n  )\n)"
)
def text(lib):
    class Inner(lib.nn.Module):
        def extra_repr(self):
            return "one"

    class Outer(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Inner()
            self.register_module("b", None)
            self.c = lib.nn.Sequential(lib.nn.ReLU(inplace=True))

        def extra_repr(self):
            return "extra\nlines"

    return repr(Outer())


def test_a_failed_assignment_changes_nothing():
    layer = nn.Linear(2, 2)
    weight = layer.weight
    with pytest.raises(TypeError, match="cannot assign 'ReLU' as parameter 'weight'"):
        layer.weight = nn.ReLU()
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'bias'"):
        layer.bias = copy.copy(_non_leaf())
    assert layer.weight is weight
    np.testing.assert_array_equal(layer.bias.shape, (2,))


def _non_leaf():
    class Odd(nn.Parameter):
        @property
        def is_leaf(self):
            return False

        def __copy__(self):
            return self

    return Odd(tg.zeros(2))

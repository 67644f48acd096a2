"""Modules: how parts are found, named, saved and loaded; layers' and losses' numbers beside torch's and NumPy's."""

import copy
import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F


class Block(nn.Module):
    """A module with every kind of part."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(tg.tensor(2.0))
        self.register_buffer("mean", tg.tensor([1.0, 2.0]))
        self.register_buffer("scratch", tg.tensor([0.0]), persistent=False)
        self.register_parameter("absent", None)
        self.rest = nn.ModuleList([nn.Linear(4, 2, bias=False), nn.Dropout(0.5)])
        self.note = "no part"

    def forward(self, x):
        for layer in self.rest:
            x = layer(self.first(x) * self.scale if layer is self.rest[0] else x)
        return x


NAMES = ["scale", "first.weight", "first.bias", "rest.0.weight"]


# ---- parts ----


def test_parts_are_found_by_name_and_each_once():
    block = Block()
    block.again = block.first
    assert [name for name, _ in block.named_parameters()] == NAMES
    assert [name for name, _ in block.named_buffers()] == ["mean", "scratch"]
    assert [name for name, _ in block.named_children()] == ["first", "rest"]
    assert [name for name, _ in block.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert len(list(block.parameters())) == len(list(block.parameters(recurse=False))) + 3
    assert [name for name, _ in block.named_parameters("model")] == [f"model.{name}" for name in NAMES]


def test_parts_have_torch_s_names_in_torch_s_order():
    torch = pytest.importorskip("torch")

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.tensor(2.0))
            self.register_buffer("mean", torch.tensor([1.0, 2.0]))
            self.register_buffer("scratch", torch.tensor([0.0]), persistent=False)
            self.register_parameter("absent", None)
            self.rest = torch.nn.ModuleList([torch.nn.Linear(4, 2, bias=False), torch.nn.Dropout(0.5)])

    ours, theirs = Block(), Same()
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [name for name, _ in getattr(ours, walk)()] == [name for name, _ in getattr(theirs, walk)()], walk
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs).replace("Same(", "Block(")


def test_an_attribute_is_a_part_as_long_as_it_holds_one():
    block = Block()
    block.scale = None
    assert [name for name, _ in block.named_parameters()] == NAMES[1:]
    block.absent = nn.Parameter(tg.tensor(1.0))
    assert "absent" in dict(block.named_parameters())
    del block.first
    assert [name for name, _ in block.named_parameters()] == ["absent", "rest.0.weight"]
    with pytest.raises(AttributeError):
        _ = block.first


def test_a_tensor_cannot_take_a_parameter_s_place():
    block = Block()
    with pytest.raises(TypeError, match=r"cannot assign 'Tensor' as parameter 'scale' \(tapegrad.nn.Parameter or None"):
        block.scale = tg.tensor(1.0)
    with pytest.raises(TypeError, match="cannot assign 'int' object to buffer 'mean'"):
        block.mean = 3
    block.mean = tg.tensor([5.0])
    assert block.state_dict()["mean"].tolist() == [5.0]


def test_names_that_cannot_be_are_refused():
    module = nn.Module()
    with pytest.raises(KeyError, match=r'parameter name can\\?\'t contain "\."'):
        module.register_parameter("a.b", None)
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        module.register_buffer("forward", tg.tensor(1.0))
    with pytest.raises(TypeError, match="float is not a Module subclass"):
        module.add_module("a", 1.0)
    with pytest.raises(TypeError, match="cannot assign 'Tensor' object to parameter 'a'"):
        module.register_parameter("a", tg.tensor(1.0))


def test_parts_before_init_are_refused():
    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Early()


def test_results_of_parameters_are_plain_tensors():
    w = nn.Parameter(tg.tensor([1.0]))
    assert isinstance(w, tg.Tensor)
    assert type(w * 2) is type(w.detach()) is tg.Tensor
    assert w.requires_grad
    assert w.is_leaf
    assert not nn.Parameter(tg.tensor([1]), requires_grad=False).requires_grad
    assert "Parameter containing:\ntensor([1.]" in repr(w)


def test_a_parameter_shares_its_data_s_memory():
    data = tg.tensor([1.0, 2.0])
    w = nn.Parameter(data)
    with tg.no_grad():
        w += 1
    assert data.tolist() == [2.0, 3.0]
    assert not data.requires_grad


def test_submodules_and_parameters_are_found_by_path():
    block = Block()
    assert block.get_submodule("rest.0") is block.rest[0]
    assert block.get_parameter("rest.0.weight") is block.rest[0].weight
    with pytest.raises(AttributeError, match=r"`scale` is not an nn\.Module"):
        block.get_submodule("scale")
    with pytest.raises(AttributeError, match=r"`note` is not an nn\.Parameter"):
        block.get_parameter("note")


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r'Module \[Module\] is missing the required "forward" function'):
        nn.Module()(1)


# ---- modes, gradients, dtypes, copies ----


def test_modes_reach_every_module():
    block = Block()
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    block.rest.train()
    assert [module.training for module in block.modules()] == [False, False, True, True, True]


def test_apply_goes_children_first():
    seen = []
    block = Block()
    assert block.apply(lambda module: seen.append(type(module).__name__)) is block
    assert seen == ["Linear", "Linear", "Dropout", "ModuleList", "Block"]


def test_gradients_are_taken_away():
    block = Block().eval()
    block(tg.ones(2, 3)).sum().backward()
    assert all(param.grad is not None for param in block.parameters())
    block.zero_grad(set_to_none=False)
    assert all((param.grad.numpy() == 0).all() for param in block.parameters())
    block.zero_grad()
    assert all(param.grad is None for param in block.parameters())
    block.requires_grad_(False)
    assert not block(tg.ones(2, 3)).requires_grad


def test_dtypes_change_in_place():
    block = Block()
    block.register_buffer("count", tg.tensor([3]))
    weight = block.first.weight
    block.eval()(tg.ones(1, 3)).sum().backward()
    before = weight.detach().numpy().copy()
    assert block.double() is block
    assert block.first.weight is weight
    assert weight.dtype is weight.grad.dtype is block.mean.dtype is tg.float64
    assert weight.requires_grad
    assert weight.is_leaf
    assert block.count.dtype is tg.int64
    np.testing.assert_array_equal(weight.detach().numpy(), before)
    assert block(tg.ones(1, 3, dtype=tg.float64)).dtype is tg.float64
    assert block.to("cpu", tg.float32).first.weight.dtype is tg.float32
    with pytest.raises(TypeError, match="only accepts floating point"):
        block.to(tg.int64)
    with pytest.raises(RuntimeError, match="CPU only"):
        block.to("cuda")


def test_a_deep_copy_is_apart():
    block = Block()
    block.again = block.first
    other = copy.deepcopy(block)
    assert other.again is other.first
    assert isinstance(other.first.weight, nn.Parameter)
    with tg.no_grad():
        other.first.weight.zero_()
    assert block.first.weight.abs().sum().item() > 0


# ---- hooks ----


def test_hooks_see_and_replace_what_goes_in_and_out():
    layer, seen = nn.Identity(), []
    handles = [
        layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
        layer.register_forward_hook(lambda module, args, output: seen.append((module, args[0].item(), output.item()))),
        layer.register_forward_hook(lambda module, args, output: output * 10),
    ]
    assert layer(tg.tensor(1.0)).item() == 20.0
    assert seen == [(layer, 2.0, 2.0)]
    for handle in handles:
        handle.remove()
    assert layer(tg.tensor(1.0)).item() == 1.0


# ---- state ----


def test_state_is_over_the_module_s_memory_and_loads_into_another():
    one, two = Block(), Block()
    state = one.state_dict()
    assert list(state) == ["scale", "mean", "first.weight", "first.bias", "rest.0.weight"]
    assert not any(value.requires_grad for value in state.values())
    weight, pointer = two.first.weight, two.first.weight.data_ptr()
    assert two.load_state_dict(state) == ([], [])
    assert two.first.weight is weight
    assert weight.data_ptr() == pointer
    for name, value in two.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name].numpy())
    state["scale"].fill_(7.0)
    assert one.scale.item() == 7.0


def test_state_that_does_not_fit_is_listed_whole_and_nothing_is_written():
    block = Block()
    before = {name: value.numpy().copy() for name, value in block.state_dict().items()}
    state = {"scale": tg.tensor(9.0), "mean": tg.zeros(3), "first.bias": 1.0, "extra": tg.tensor(0.0)}
    with pytest.raises(RuntimeError) as caught:
        block.load_state_dict(state)
    message = str(caught.value)
    for part in (
        "Error(s) in loading state_dict for Block:",
        'Missing key(s) in state_dict: "first.weight", "rest.0.weight".',
        'Unexpected key(s) in state_dict: "extra".',
        "size mismatch for mean: copying a param with shape tapegrad.Size([3]) from checkpoint, the shape in current "
        "model is tapegrad.Size([2]).",
        'While copying the parameter named "first.bias", expected a Tensor but received float.',
    ):
        assert part in message
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_state_loads_in_part_and_by_assignment():
    block = Block()
    given = tg.tensor(9.0, dtype=tg.float64)
    keys = block.load_state_dict({"scale": given, "extra": given}, strict=False)
    assert keys.missing_keys == ["mean", "first.weight", "first.bias", "rest.0.weight"]
    assert keys.unexpected_keys == ["extra"]
    assert (block.scale.item(), block.scale.dtype) == (9.0, tg.float32)
    block.load_state_dict({"scale": given}, strict=False, assign=True)
    assert block.scale.dtype is tg.float64
    assert isinstance(block.scale, nn.Parameter)


# ---- containers ----


def test_sequential_is_a_list_that_is_called():
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)]
    model = nn.Sequential(*layers)
    x = tg.ones(4, 2)
    np.testing.assert_array_equal(model(x).detach().numpy(), layers[2](layers[1](layers[0](x))).detach().numpy())
    assert len(model) == 3
    assert model[0] is layers[0]
    assert model[-1] is layers[2]
    assert list(model[1:]) == layers[1:]
    model.append(nn.Tanh()).insert(1, nn.Identity())
    assert [type(layer).__name__ for layer in model] == ["Linear", "Identity", "ReLU", "Linear", "Tanh"]
    del model[1]
    model[0] = nn.Linear(2, 5)
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "3"]
    with pytest.raises(IndexError, match="index 4 is out of range"):
        model[4]
    named = nn.Sequential({"a": nn.Identity(), "b": nn.Tanh()})
    assert [name for name, _ in named.named_children()] == ["a", "b"]
    assert nn.Sequential()(x) is x


def test_module_lists_grow():
    layers = nn.ModuleList([nn.Identity()])
    layers += [nn.Tanh(), nn.ReLU()]
    layers.extend([nn.SiLU()])
    assert [name for name, _ in layers.named_children()] == ["0", "1", "2", "3"]
    del layers[1:3]
    assert [type(layer).__name__ for layer in layers] == ["Identity", "SiLU"]


# ---- layers ----


def test_linear_begins_as_torch_does_and_the_same_each_time():
    tg.manual_seed(3)
    one = nn.Linear(100, 300)
    tg.manual_seed(3)
    two = nn.Linear(100, 300)
    np.testing.assert_array_equal(one.weight.detach().numpy(), two.weight.detach().numpy())
    for param in one.parameters():
        numbers = param.detach().numpy()
        assert np.abs(numbers).max() <= 0.1
        assert numbers.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    assert not np.array_equal(one.weight.detach().numpy(), nn.Linear(100, 300).weight.detach().numpy())


def test_linear_is_a_matrix_product():
    layer, x = nn.Linear(3, 2, dtype=tg.float64), np.random.default_rng(0).standard_normal((5, 4, 3))
    w, b = (param.detach().numpy() for param in layer.parameters())
    np.testing.assert_allclose(layer(tg.tensor(x)).detach().numpy(), x @ w.T + b, rtol=1e-12)
    assert nn.Linear(3, 2, bias=False).bias is None
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        layer(tg.ones(2, 4, dtype=tg.float64))


ARRAY = np.random.default_rng(1).standard_normal((3, 4, 5))
LAYERS = [
    ("ReLU", {}),
    ("ReLU", {"inplace": True}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": -1}),
    ("Flatten", {}),
    ("Flatten", {"start_dim": 0, "end_dim": 1}),
    ("Identity", {}),
    ("LayerNorm", {"normalized_shape": 5}),
    ("LayerNorm", {"normalized_shape": [4, 5], "eps": 0.1}),
    ("LayerNorm", {"normalized_shape": (5,), "elementwise_affine": False}),
]


@pytest.mark.parametrize(("name", "options"), LAYERS, ids=lambda case: str(case))
def test_layers_and_their_gradients_are_torch_s(name, options):
    torch = pytest.importorskip("torch")
    results = []
    for library in (tg, torch):
        layer = (
            getattr(library.nn, name)(**options).double() if "Layer" in name else getattr(library.nn, name)(**options)
        )
        x = library.tensor(ARRAY, requires_grad=True)
        y = layer(x * 1)
        (y * library.tensor(np.cos(np.arange(60.0))).reshape(y.shape)).sum().backward()
        results.append([y.detach().numpy(), x.grad.numpy(), *(param.grad.numpy() for param in layer.parameters())])
        results[-1].append(repr(layer))
    for ours, theirs in zip(*results, strict=True):
        if isinstance(ours, str):
            assert ours == theirs
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_dropout_drops_in_training_only():
    tg.manual_seed(0)
    layer, x = nn.Dropout(0.25), tg.ones(10_000)
    y = layer(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        nn.Dropout(1.5)


LOSSES = [
    ("MSELoss", "like", {}),
    ("MSELoss", "like", {"reduction": "sum"}),
    ("L1Loss", "like", {"reduction": "none"}),
    ("BCEWithLogitsLoss", "share", {}),
    ("BCEWithLogitsLoss", "share", {"pos_weight": [1.0, 2.0, 3.0, 4.0, 5.0], "reduction": "sum"}),
    ("NLLLoss", "class", {"weight": [1.0, 2.0, 3.0, 0.5]}),
    ("NLLLoss", "class", {"ignore_index": 2, "reduction": "sum"}),
    ("CrossEntropyLoss", "class", {}),
    ("CrossEntropyLoss", "class", {"weight": [1.0, 2.0, 3.0, 0.5], "ignore_index": 1, "label_smoothing": 0.2}),
    ("CrossEntropyLoss", "class", {"reduction": "none"}),
    ("CrossEntropyLoss", "share", {}),
]
TARGETS = {
    "like": np.sin(ARRAY),
    "share": np.abs(np.sin(ARRAY)),
    "class": np.random.default_rng(2).integers(0, 4, (3, 5)),
}


@pytest.mark.parametrize(("name", "target", "options"), LOSSES, ids=lambda case: str(case))
def test_losses_and_their_gradients_are_torch_s(name, target, options):
    torch = pytest.importorskip("torch")
    results = []
    for library in (tg, torch):
        tensors = {
            key: library.tensor(value, dtype=library.float64) if isinstance(value, list) else value
            for key, value in options.items()
        }
        x = library.tensor(ARRAY, requires_grad=True)
        loss = getattr(library.nn, name)(**tensors)(x, library.tensor(TARGETS[target]))
        loss.sum().backward()
        results.append((loss.detach().numpy(), x.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_cross_entropy_is_the_formula():
    scores, classes = ARRAY[:, 0], np.array([4, 0, 2])
    expected = np.log(np.exp(scores).sum(1)) - scores[range(3), classes]
    loss = nn.CrossEntropyLoss()(tg.tensor(scores), tg.tensor(classes))
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-12)
    assert F.cross_entropy(tg.tensor(scores), tg.tensor(classes), reduction="sum").item() == pytest.approx(
        expected.sum()
    )


def test_layer_norm_is_the_formula():
    layer = nn.LayerNorm((4, 5)).double()
    deviation = ARRAY - ARRAY.mean((1, 2), keepdims=True)
    expected = deviation / np.sqrt((deviation**2).mean((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(tg.tensor(ARRAY)).detach().numpy(), expected, rtol=1e-10)


# ---- beginnings, limits ----


@pytest.mark.parametrize(
    ("fill", "options", "deviation"),
    [
        ("uniform_", {"a": -2.0, "b": 2.0}, 4 / math.sqrt(12)),
        ("normal_", {"mean": 0.0, "std": 3.0}, 3.0),
        ("xavier_uniform_", {"gain": 2.0}, 2 * math.sqrt(2 / 500)),
        ("xavier_normal_", {}, math.sqrt(2 / 500)),
        ("kaiming_uniform_", {"a": math.sqrt(5)}, 1 / math.sqrt(600)),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(2 / 300)),
        ("ones_", {}, 0.0),
        ("zeros_", {}, 0.0),
        ("constant_", {"val": 2.5}, 0.0),
    ],
)
def test_fills_have_their_deviation(fill, options, deviation):
    w = nn.Parameter(tg.zeros(300, 200))
    assert getattr(nn.init, fill)(w, **options) is w
    assert w.requires_grad
    assert w.detach().numpy().std() == pytest.approx(deviation, rel=0.02)


def test_eye_and_gains_are_torch_s():
    np.testing.assert_array_equal(nn.init.eye_(tg.zeros(2, 3)).numpy(), np.eye(2, 3))
    torch = pytest.importorskip("torch")
    for name in ("linear", "tanh", "relu", "leaky_relu", "selu"):
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        nn.init.xavier_uniform_(tg.zeros(3))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_gradients_are_scaled_to_a_norm(norm_type, max_norm):
    arrays = [np.array([3.0, -4.0]), np.array([[2.0]])]
    params = [tg.zeros(array.shape, dtype=tg.float64).requires_grad_() for array in arrays]
    for param, array in zip(params, arrays, strict=True):
        param.grad = tg.tensor(array)
    norm = np.linalg.norm(np.concatenate([array.reshape(-1) for array in arrays]), norm_type)
    assert nn.utils.clip_grad_norm_(params, max_norm, norm_type).item() == pytest.approx(norm)
    factor = min(1, max_norm / (norm + 1e-6))
    for param, array in zip(params, arrays, strict=True):
        np.testing.assert_allclose(param.grad.numpy(), array * factor, rtol=1e-12)


def test_gradients_are_clipped_to_a_range_and_bad_norms_told():
    w = tg.zeros(3).requires_grad_()
    assert nn.utils.clip_grad_norm_(w, 1.0).item() == 0.0
    w.grad = tg.tensor([-3.0, 0.5, math.inf])
    with pytest.raises(RuntimeError, match=r"total norm of order 2\.0 for gradients from `parameters` is non-finite"):
        nn.utils.clip_grad_norm_(w, 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_value_(w, 1.0)
    assert w.grad.tolist() == [-1.0, 0.5, 1.0]


def test_functional_has_every_name_it_promises():
    assert [name for name in F._NAMES if not hasattr(F, name)] == []

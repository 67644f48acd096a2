"""Groups of parameters, their options and names, hooks around steps, and what optimisers refuse."""

import re

import numpy as np
import pytest
from optim_cases import give, parameters, values

import tapegrad as tg
from tapegrad import optim
from tapegrad.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def test_groups_have_options_of_their_own():
    params = parameters([np.ones(2), np.ones(2), np.ones(2)])
    optimizer = optim.SGD([{"params": params[0]}, {"params": [params[1]], "lr": 0.5}], lr=0.1)
    optimizer.add_param_group({"params": params[2:], "weight_decay": 1.0})
    give(params, [np.ones(2)] * 3)
    optimizer.step()
    np.testing.assert_allclose(np.stack(values(params))[:, 0], [0.9, 0.5, 0.8])
    optimizer.param_groups[0]["lr"] = 0.0
    give(params, [np.ones(2)] * 3)
    optimizer.step()
    np.testing.assert_allclose(values(params)[0], [0.9, 0.9])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("SGD", {"momentum": -0.5}, "Invalid momentum value: -0.5"),
        ("SGD", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        ("Adam", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("Adam", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adam", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ("AdamW", {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ("AdamW", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)(parameters([np.ones(2)]), **options)


def test_what_is_no_list_of_leaves_is_refused():
    w = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="should be an iterable of Tensors or dicts, but got Tensor"):
        optim.SGD(w)
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="can only optimize Tensors, but one of the params is float"):
        optim.SGD([1.0])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optim.SGD([w * 2])
    with pytest.raises(ValueError, match="more than once in a parameter group"):
        optim.SGD([w, w])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [w]}, {"params": [w]}])


def test_names_and_text():
    w = tg.nn.Linear(2, 1)
    optimizer = optim.AdamW(w.named_parameters(), lr=0.5)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert "AdamW (\nParameter Group 0\n    amsgrad: False" in repr(optimizer)


def test_hooks_are_called_around_steps_and_states():
    (w,) = parameters([np.ones(2)])
    optimizer = optim.SGD([w], lr=0.5)
    called = []
    hooks = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append(("pre", len(args), kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: called.append(("post", w.tolist()))),
        register_optimizer_step_pre_hook(lambda o, args, kwargs: called.append("any pre")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: called.append("any post")),
    ]
    give([w], [np.ones(2)])
    optimizer.step()
    assert called == ["any pre", ("pre", 1, {}), ("post", [0.5, 0.5]), "any post"]
    for hook in hooks:
        hook.remove()
    optimizer.step()
    assert len(called) == 4
    changed = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((args[0], lambda: 7), {}))
    assert optimizer.step() == 7
    changed.remove()
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


def test_hooks_see_and_change_states():
    (w,) = parameters([np.ones(2)])
    optimizer = optim.SGD([w], lr=0.5)
    order = []
    optimizer.register_state_dict_pre_hook(lambda o: order.append("before"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    optimizer.register_state_dict_post_hook(lambda o, state: order.append("first"), prepend=True)
    state = optimizer.state_dict()
    assert (order, state["more"]) == (["before", "first"], 1)
    other = optim.SGD([w], lr=0.1)

    def doubled(o, state):
        groups = [{**group, "lr": 2 * group["lr"]} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    other.register_load_state_dict_pre_hook(doubled)
    other.register_load_state_dict_post_hook(lambda o: order.append(o.param_groups[0]["lr"]))
    other.load_state_dict(state)
    assert order[-1] == 1.0
    assert state["param_groups"][0]["lr"] == 0.5


def test_optimizers_of_one_s_own_override_step():
    class Signs(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self.state[param]["count"] = self.state[param].get("count", 0) + 1
                        param.data.add_(param.grad.sign(), alpha=-group["lr"])

    (w,) = parameters([np.ones(2)])
    optimizer = Signs([w], 0.25)
    called = []
    optimizer.register_step_post_hook(lambda *args: called.append(1))
    give([w], [np.array([3.0, -3.0])])
    optimizer.step()
    assert (w.tolist(), called) == ([0.75, 1.25], [1])
    state = optimizer.state_dict()
    assert state == {"state": {0: {"count": 1}}, "param_groups": [{"lr": 0.25, "params": [0]}]}
    optimizer.load_state_dict(state)
    assert optimizer.state[w] == {"count": 1}


def test_names_of_parameters_are_kept():
    model = tg.nn.Linear(2, 1)
    optimizer = optim.SGD(model.named_parameters(), lr=0.5)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert state["param_groups"][0]["params"] == [0, 1]
    plain = optim.SGD(model.parameters(), lr=0.1)
    plain.load_state_dict(state)
    assert plain.param_groups[0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    w = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match="cannot add param group without names"):
        optimizer.add_param_group({"params": [w]})
    with pytest.raises(ValueError, match="Some param names are missing"):
        optim.SGD([("a", w), tg.tensor([1.0], requires_grad=True)])
    assert len(optimizer.param_groups) == 1


def test_a_group_is_the_caller_s_dict():
    one, two = parameters([np.ones(1), np.ones(1)])
    group = {"params": two, "lr": 0.25}
    optimizer = optim.SGD([one], lr=0.1)
    optimizer.add_param_group(group)
    assert group["params"] == [two] and group["momentum"] == 0
    group["lr"] = 0.5
    give([one, two], [np.ones(1), np.ones(1)])
    optimizer.step()
    assert (one.item(), two.item()) == (0.9, 0.5)
    with pytest.raises(TypeError, match="ordered collections"):
        optimizer.add_param_group({"params": {tg.tensor([1.0], requires_grad=True)}})
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([one])
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NAdam", {"momentum_decay": -1}, "Invalid momentum_decay value: -1"),
        ("RAdam", {"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ("Adamax", {"eps": -1}, "Invalid epsilon value: -1"),
        ("Adadelta", {"rho": 1.5}, "Invalid rho value: 1.5"),
        ("Adagrad", {"lr_decay": -1}, "Invalid lr_decay value: -1"),
        ("Adagrad", {"initial_accumulator_value": -1}, "Invalid initial_accumulator_value value: -1"),
        ("RMSprop", {"alpha": -1}, "Invalid alpha value: -1"),
        ("RMSprop", {"momentum": -1}, "Invalid momentum value: -1"),
        ("Rprop", {"etas": (1.5, 1.2)}, "Invalid eta values: 1.5, 1.2"),
        ("ASGD", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("Adafactor", {"d": 0.5}, "Clipping threshold d should be >= 1 but is: 0.5"),
        ("Adafactor", {"beta2_decay": 0.5}, "beta2_decay should be <= 0 but is: 0.5"),
        ("Adafactor", {"eps": (-1, 0)}, "epsilon1 should be >= 0 but is: -1"),
        ("Lion", {"lr": float("nan")}, "Invalid learning rate: nan"),
        ("Adam", {"lr": tg.tensor([0.1, 0.2])}, "Tensor lr must be 1-element"),
    ],
)
def test_options_of_the_others_are_checked(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(optim, name)(parameters([np.ones(2)]), **options)


def test_muon_s_options_are_checked():
    matrix, vector = parameters([np.ones((2, 2)), np.ones(2)])
    with pytest.raises(ValueError, match="Learning rate should be >= 0 but is: -1"):
        optim.Muon([matrix], lr=-1)
    with pytest.raises(ValueError, match="Adjust learning rate function x is not supported"):
        optim.Muon([matrix], adjust_lr_fn="x")
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        optim.Muon([matrix, vector])
    optimizer = optim.Muon([matrix])
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        optimizer.add_param_group({"params": [vector]})
    assert len(optimizer.param_groups) == 1


def test_implementations_that_exclude_each_other_are_refused():
    params = parameters([np.ones(2)])
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        optim.Adam(params, fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        optim.SGD(params, fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="differentiable=True is not supported"):
        optim.RMSprop(params, differentiable=True)


def test_every_optimizer_skips_what_has_no_gradient_and_takes_frozen_parameters():
    for name in ("ASGD", "Adadelta", "Adagrad", "Adam", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"):
        used, unused = parameters([np.ones(2), np.ones(2)])
        frozen = tg.tensor([1.0, 1.0])
        optimizer = getattr(optim, name)([{"params": [used, frozen]}, {"params": [unused]}], lr=0.1)
        give([used], [np.ones(2)])
        optimizer.step()
        assert used.tolist() != [1.0, 1.0]
        assert (unused.tolist(), frozen.tolist()) == ([1.0, 1.0], [1.0, 1.0])

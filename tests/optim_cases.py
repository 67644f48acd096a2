"""What the tests of optimisers step with: each algorithm with several options, parameters and gradients."""

import numpy as np
import pytest

import tapegrad as tg

SHAPES = ((3, 4), (5,), (), (0,), (2, 1, 3))
OPTIONS = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "eps": 1e-3, "betas": (0.5, 0.9)}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"weight_decay": 0.1, "betas": (0.8, 0.9), "maximize": True}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1, "eps": 1e-2, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "alpha": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"weight_decay": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 1.5, "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lambd": 0.1, "alpha": 0.5, "t0": 3.0, "weight_decay": 0.1, "maximize": True}),
]
OWN_OPTIONS = [
    ("Lion", {}),
    ("Lion", {"weight_decay": 0.1, "betas": (0.5, 0.8), "maximize": True}),
]
CASES = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda case: str(case))
ALL_CASES = pytest.mark.parametrize(("name", "options"), OPTIONS + OWN_OPTIONS, ids=lambda case: str(case))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def parameters(arrays):
    return [tg.tensor(array, requires_grad=True) for array in arrays]


def give(params, gradients):
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = tg.tensor(gradient)


def values(params):
    return [param.detach().numpy() for param in params]


def draws(seed, dtype="float64", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    while True:
        yield [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]

"""torch.nn.functional's names: the ops' functions that layers and losses are made of."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.calls import functions

_NAMES = (
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "cross_entropy",
    "dropout",
    "elu",
    "elu_",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "mish",
    "mse_loss",
    "nll_loss",
    "pad",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
    "threshold",
)

for _name in _NAMES:
    # one that torch has here only is entered with an underscore
    globals()[_name] = functions.get(_name) or functions[f"_{_name}"]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'tapegrad.nn.functional' has no attribute {name!r}")


__all__ = list(_NAMES)

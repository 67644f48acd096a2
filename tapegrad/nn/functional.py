"""torch.nn.functional's names: the ops' functions that layers and losses are made of."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.calls import functions

_NAMES = (
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "elu",
    "elu_",
    "gaussian_nll_loss",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "margin_ranking_loss",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "pad",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
    "threshold",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
)

for _name in _NAMES:
    # one that torch has here only is entered with an underscore
    globals()[_name] = functions.get(_name) or functions[f"_{_name}"]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'tapegrad.nn.functional' has no attribute {name!r}")


__all__ = list(_NAMES)

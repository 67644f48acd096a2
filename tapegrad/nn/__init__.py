"""Layers, losses and what they are made of, under torch.nn's names."""

from tapegrad.nn import functional, init, utils
from tapegrad.nn.activations import GELU, Dropout, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from tapegrad.nn.containers import ModuleDict, ModuleList, Sequential
from tapegrad.nn.linear import Flatten, Identity, Linear
from tapegrad.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tapegrad.nn.module import Module
from tapegrad.nn.normalization import LayerNorm
from tapegrad.nn.parameter import Buffer, Parameter
from tapegrad.nn.parameter_containers import ParameterDict, ParameterList

__all__ = [
    "GELU",
    "BCEWithLogitsLoss",
    "Buffer",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
    "utils",
]

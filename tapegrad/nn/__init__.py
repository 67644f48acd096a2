"""Layers, losses and what they are made of, under torch.nn's names."""

from tapegrad.nn import functional, init, utils
from tapegrad.nn.activations import GELU, Dropout, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from tapegrad.nn.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from tapegrad.nn.containers import ModuleDict, ModuleList, Sequential
from tapegrad.nn.linear import Flatten, Identity, Linear
from tapegrad.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tapegrad.nn.module import Module
from tapegrad.nn.normalization import GroupNorm, LayerNorm, RMSNorm
from tapegrad.nn.parameter import Buffer, Parameter
from tapegrad.nn.parameter_containers import ParameterDict, ParameterList
from tapegrad.nn.rnn import GRU, LSTM, RNN, RNNBase
from tapegrad.nn.rnn_cells import GRUCell, LSTMCell, RNNCell, RNNCellBase

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "L1Loss",
    "LSTMCell",
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
    "RMSNorm",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
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

"""Optimisers: what is done with the gradients. Each step is one op on all parameters of a group."""

from tapegrad.optim import lr_scheduler
from tapegrad.optim.adam import Adam, AdamW
from tapegrad.optim.optimizer import Optimizer
from tapegrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]

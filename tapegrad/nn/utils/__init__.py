"""What is done with parameters and sequences beside layers, under torch.nn.utils's names."""

from tapegrad.nn.utils import rnn
from tapegrad.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_, get_total_norm

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_total_norm",
    "rnn",
]

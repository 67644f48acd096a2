"""Transformations of functions, as in ``torch.func``; there is no ``vmap``."""

from tapegrad.autograd.func import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, value_and_grad, vjp
from tapegrad.autograd.functional_call import functional_call

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "value_and_grad",
    "vjp",
]

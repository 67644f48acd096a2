"""Transformations of functions, as in ``torch.func``; there is no ``vmap``.

The functions that they return can be called from ``@njit`` code as ``.njit``; see ``capture.NativeFunction``.
"""

from tapegrad.autograd import func as _func
from tapegrad.autograd.func import jvp, vjp
from tapegrad.autograd.functional_call import functional_call
from tapegrad.capture import with_njit

grad, grad_and_value, value_and_grad = map(with_njit, (_func.grad, _func.grad_and_value, _func.value_and_grad))
jacrev, jacfwd, hessian = map(with_njit, (_func.jacrev, _func.jacfwd, _func.hessian))

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

"""``tg.library``: ops of one's own, declared from outside of the package: kernels by Numba, gradient rules as data."""

from tapegrad.kernels.loops import like as like
from tapegrad.library.declare import elementwise, op

__all__ = ["elementwise", "op"]

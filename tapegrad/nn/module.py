"""Module: what holds parameters, buffers and other modules, and is called like a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from tapegrad.nn.state import Stateful
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.dtype import dtype_of, float32, float64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import check_device
from tapegrad.tensor.gradients import clear_gradients


class Module(Stateful):
    """The base of layers and models: a subclass makes its parts in ``__init__`` and computes in ``forward``.

    Its parts are those of its attributes that are parameters, buffers and modules. It can be called, with hooks around
    the call, and its state can be saved and loaded.

    Example:
        >>> import tapegrad as tg
        >>> class Scale(tg.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = tg.nn.Parameter(tg.tensor(3.0))
        ...     def forward(self, x):
        ...         return self.factor * x
        >>> Scale()(tg.tensor(2.0)).item()
        6.0
    """

    training = True

    if TYPE_CHECKING:  # for type checkers: buffers and what hooks of others set

        def __getattr__(self, name: str) -> Any: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's result; what calling it does.

        Args:
            *args: what the module is called with.
        """
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # ---- modes, gradients ----

    def train(self, mode: bool = True) -> Self:
        """Set whether layers such as dropout behave as in training, here and below.

        Args:
            mode: whether they do.
        """
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Set layers such as dropout to behave as in use, here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters are to get gradients.

        Args:
            requires_grad: whether they are.
        """
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take the gradients away from the parameters, or set them to zero.

        Args:
            set_to_none: whether they become None; else zeros.
        """
        clear_gradients(self.parameters(), set_to_none)

    def apply(self, fn: Callable[[Any], Any]) -> Self:
        """Call ``fn`` with every module below, children first, and with this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # ---- dtypes ----

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Put ``fn`` of each parameter's, gradient's and buffer's numbers in their place; parameters stay the same."""
        for module in self.children() if recurse else ():
            module._apply(fn)
        for param in self._parameters.values():
            if param is not None:
                _replace_data(param, fn)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    def to(
        self,
        *args: Any,
        dtype: Any = None,
        device: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
    ) -> Self:
        """Bring parameters and buffers of a floating dtype to another one; the only device is the CPU.

        Args:
            *args: a dtype, a device, both, or a tensor whose dtype is taken.
            dtype: the dtype by name.
            device: the device by name.
            non_blocking: accepted for torch's sake.
            memory_format: accepted for torch's sake.
        """
        for arg in args:
            if isinstance(arg, Tensor | DType):
                dtype = getattr(arg, "dtype", arg)
            elif not isinstance(arg, bool):
                device = arg
        check_device(device)
        return self if dtype is None else self._to_dtype(dtype_of(dtype))

    def _to_dtype(self, dtype: DType) -> Self:
        if not dtype.is_floating_point:
            raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")
        return self._apply(lambda t: t.to(dtype) if t.dtype.is_floating_point else t)

    def float(self) -> Self:
        """Bring floating-point parameters and buffers to float32."""
        return self._to_dtype(float32)

    def double(self) -> Self:
        """Bring floating-point parameters and buffers to float64."""
        return self._to_dtype(float64)

    def type(self, dst_type: Any) -> Self:
        """Bring all parameters and buffers to a dtype.

        Args:
            dst_type: the dtype.
        """
        dtype = dtype_of(dst_type)
        return self._apply(lambda t: t.to(dtype))

    def cpu(self) -> Self:
        """Return the module itself: its memory is the CPU's."""
        return self

    def cuda(self, device: Any = None) -> Self:
        """Raise RuntimeError: there is no such device.

        Args:
            device: left unread.
        """
        check_device("cuda")
        return self

    # ---- text ----

    def extra_repr(self) -> str:
        """Return what the module's line shows between the brackets."""
        return ""

    def _get_name(self) -> str:
        return self.__class__.__name__

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        below = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if len(extra) == 1 and not below:
            return f"{self._get_name()}({extra[0]})"
        lines = extra + below
        return f"{self._get_name()}(" + ("\n  " + "\n  ".join(lines) + "\n" if lines else "") + ")"


def _replace_data(param: Tensor, fn: Callable[[Tensor], Tensor]) -> None:
    numbers, grad = param.detach(), param.grad
    changed = fn(numbers)
    if changed is numbers:
        return
    param.grad = None
    param.data = changed.detach()
    param.grad = None if grad is None else fn(grad.detach()).detach()

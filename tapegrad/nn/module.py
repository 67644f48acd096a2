"""Module: what holds parameters, buffers and other modules, and is called like a function.

A module's parts are its attributes, and nothing else: parameters and modules are those attributes that are one, buffers
the tensors whose names ``register_buffer`` was told. So there are no lists to keep in step, and reading ``self.weight``
costs what reading an attribute costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self, TypeVar

from tapegrad.autograd.hooks import RemovableHandle
from tapegrad.nn.parameter import Parameter
from tapegrad.nn.state import IncompatibleKeys, load_state
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.dtype import dtype_of, float32, float64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import check_device
from tapegrad.tensor.gradients import clear_gradients

T = TypeVar("T")


class Module:
    """The base of layers and models: a subclass makes its parts in ``__init__`` and computes in ``forward``.

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
    _hooks: dict[str, dict[int, Callable[..., Any]]] | None = None  # by kind, then by the handle's number

    def __init__(self) -> None:
        self.__dict__["_buffer_names"] = {}  # name -> whether it is in the state_dict

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's result; what calling it does."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``, and the hooks where there are any."""
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._call_with_hooks(args, kwargs)

    # ---- the parts ----

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter | Module) and "_buffer_names" not in self.__dict__:
            raise AttributeError("cannot assign parameters or modules before Module.__init__() call")
        old = self.__dict__.get(name)
        if isinstance(old, Parameter) and value is not None and not isinstance(value, Parameter | Module):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as parameter '{name}' (tapegrad.nn.Parameter or None expected)"
            )
        if name in self.__dict__.get("_buffer_names", ()) and not isinstance(value, Tensor | None):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        object.__setattr__(self, name, value)

    def _parts(self, kind: type[T]) -> dict[str, T]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, kind)}

    @property
    def _parameters(self) -> Mapping[str, Parameter]:
        return MappingProxyType(self._parts(Parameter))

    @property
    def _modules(self) -> Mapping[str, Module]:
        return MappingProxyType(self._parts(Module))

    @property
    def _buffers(self) -> Mapping[str, Tensor]:
        names = self.__dict__.get("_buffer_names", {})
        return MappingProxyType({name: self.__dict__[name] for name in names if self.__dict__.get(name) is not None})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make ``param`` the parameter ``name``; None is a parameter that there is not."""
        self._check_name(name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        setattr(self, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make ``tensor`` part of the module's state without its being trained.

        Args:
            name: the attribute's name.
            tensor: the buffer; None is one that there is not.
            persistent: whether it is in the ``state_dict``.
        """
        self._check_name(name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        self.__dict__["_buffer_names"][name] = persistent
        object.__setattr__(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Make ``module`` the child ``name``."""
        self._check_name(name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        setattr(self, name, module)

    register_module = add_module

    def _check_name(self, name: str) -> None:
        if "_buffer_names" not in self.__dict__:
            raise AttributeError("cannot assign parameters, buffers or modules before Module.__init__() call")
        if name == "" or "." in name:
            raise KeyError(f"a parameter's, buffer's or module's name can't be empty or contain '.', got {name!r}")
        if hasattr(self, name) and not isinstance(self.__dict__.get(name, ""), Parameter | Module | Tensor | None):
            raise KeyError(f"attribute '{name}' already exists")

    # ---- walking the tree ----

    def named_modules(self, memo: set[int] | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it, each once, with their dotted names."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        memo.add(id(self))
        yield prefix, self
        for name, module in self._parts(Module).items():
            yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly below, each once, with their names."""
        seen: set[int] = set()
        for name, module in self._parts(Module).items():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """Yield the modules directly below, each once."""
        return (module for _, module in self.named_children())

    def _named(
        self, parts: str, prefix: str, recurse: bool, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix=prefix) if recurse else [(prefix, self)]:
            for name, value in getattr(module, parts).items():
                if not remove_duplicate or id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters, each once, with their dotted names."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers, each once, with their dotted names."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """Return the module with a dotted name; AttributeError where there is none."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with a dotted name; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        param = getattr(self.get_submodule(path), name)
        if not isinstance(param, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return param

    # ---- modes, gradients, dtypes ----

    def train(self, mode: bool = True) -> Self:
        """Set whether layers such as dropout behave as in training, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set layers such as dropout to behave as in use, here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters are to get gradients."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take the gradients away from the parameters, or set them to zero."""
        clear_gradients(self.parameters(), set_to_none)

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` with every module below, children first, and with this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self:
        """Bring parameters and buffers of a floating dtype to another one; the only device is the CPU.

        Args:
            *args: a dtype, a device, both, or a tensor whose dtype is taken.
            dtype: the dtype by name.
            device: the device by name.
            non_blocking: accepted for torch's sake.
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
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dtype.is_floating_point and tensor.dtype is not dtype:
                grad = tensor.grad
                tensor.grad = None
                tensor.data = tensor.detach().to(dtype)
                tensor.grad = None if grad is None else grad.detach().to(dtype)
        return self

    def float(self) -> Self:
        """Bring floating-point parameters and buffers to float32."""
        return self._to_dtype(float32)

    def double(self) -> Self:
        """Bring floating-point parameters and buffers to float64."""
        return self._to_dtype(float64)

    def cpu(self) -> Self:
        """Return the module itself: its memory is the CPU's."""
        return self

    # ---- state ----

    def state_dict(
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Return parameters and persistent buffers by their dotted names, over the module's own memory.

        Args:
            destination: a dict to add them to.
            prefix: put before each name.
            keep_vars: give the parameters themselves instead of detached tensors.
        """
        found: dict[str, Any] = {} if destination is None else destination
        for name, value in self._state().items():
            found[prefix + name] = value if keep_vars else value.detach()
        for name, module in self._parts(Module).items():
            module.state_dict(found, f"{prefix}{name}.", keep_vars)
        return found

    def _state(self) -> dict[str, Any]:
        """Return this module's own parameters and persistent buffers."""
        kept = self.__dict__.get("_buffer_names", {})
        return {**self._parameters, **{name: buffer for name, buffer in self._buffers.items() if kept[name]}}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy numbers into parameters and buffers.

        Args:
            state_dict: tensors by the names that ``state_dict`` gives.
            strict: whether names that one side lacks are an error.
            assign: take the tensors themselves instead of copying their numbers.

        Returns:
            The names that are missing from ``state_dict`` and those that the module does not have.

        Raises:
            RuntimeError: names do not match while ``strict``, or shapes differ; lists all that is wrong.
        """
        return load_state(self, state_dict, strict, assign)

    # ---- hooks ----

    def _add_hook(self, kind: str, hook: Callable[..., Any]) -> RemovableHandle:
        if self._hooks is None:
            self.__dict__["_hooks"] = {"before": {}, "after": {}}
        assert self._hooks is not None
        handle = RemovableHandle(self._hooks[kind])
        self._hooks[kind][handle.id] = hook
        return handle

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(module, args)`` called before ``forward``; its result, if not None, becomes the args."""
        return self._add_hook("before", hook)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(module, args, output)`` called after ``forward``; its result, if not None, becomes the output."""
        return self._add_hook("after", hook)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._hooks is not None
        for hook in list(self._hooks["before"].values()):
            replaced = hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        output = self.forward(*args, **kwargs)
        for hook in list(self._hooks["after"].values()):
            replaced = hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    # ---- text ----

    def extra_repr(self) -> str:
        """Return what the module's line shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._parts(Module).items()]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}({extra}", *lines]) + "\n)"

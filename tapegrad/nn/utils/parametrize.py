"""Parametrisations: a parameter that is computed from others by modules, whenever it is read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.nn.containers import ModuleDict, ModuleList
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.runtime.handle import Tensor

_cached = 0  # how many blocks of `cached` are open
_cache: dict[tuple[int, str], Tensor] = {}


@contextmanager
def cached() -> Iterator[None]:
    """Compute each parametrised tensor only once while the block runs.

    Example:
        >>> import tapegrad as tg
        >>> with tg.nn.utils.parametrize.cached():
        ...     pass
    """
    global _cached
    _cached += 1
    try:
        yield
    finally:
        _cached -= 1
        if not _cached:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The parametrisations of one tensor, and what it is computed from: ``original``, or ``original0``, ...

    Args:
        modules: the parametrisations, applied in this order.
        original: the tensor.
        unsafe: whether the checks are left out.
    """

    def __init__(self, modules: Any, original: Tensor, unsafe: bool = False) -> None:
        modules = list(modules)
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            parts = _right_inverse(modules, original)
        self.is_tensor = isinstance(parts, Tensor)
        self.ntensors = 1 if isinstance(parts, Tensor) else len(parts)
        if isinstance(parts, Tensor):
            self._keep_original(original, parts)
        else:
            for k, part in enumerate(parts):
                self._keep(f"original{k}", part, original)
        if not unsafe:
            self._check(original)

    def _keep_original(self, original: Tensor, part: Tensor) -> None:
        if part.dtype != original.dtype:
            raise ValueError(
                "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                f"original.dtype: {original.dtype}\nright_inverse(original).dtype: {part.dtype}"
            )
        if part is not original:
            original.data = part.detach()
        self._keep("original", original, original)

    def _keep(self, name: str, part: Any, original: Tensor) -> None:
        if not isinstance(part, Tensor):
            raise ValueError(
                "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). Got element of type "
                f"{type(part).__name__}"
            )
        if isinstance(original, Parameter):
            made = part if isinstance(part, Parameter) else Parameter(part.detach(), original.requires_grad)
            self.register_parameter(name, made)
        else:
            self.register_buffer(name, part)

    def _check(self, original: Tensor) -> None:
        """Refuse parametrisations that change the tensor's shape or dtype."""
        with no_grad():
            value = self()
        if not isinstance(value, Tensor):
            raise ValueError(f"A parametrization must return a tensor. Got {type(value)}.")
        if value.dtype != original.dtype:
            raise ValueError(
                "Registering a parametrization may not change the dtype of the tensor, unless `unsafe` flag is "
                f"enabled.\nunparametrized dtype: {original.dtype}\nparametrized dtype: {value.dtype}"
            )
        if self.is_tensor and value.shape != original.shape:
            raise ValueError(
                "Registering a parametrization may not change the shape of the tensor, unless `unsafe` flag is "
                f"enabled.\nunparametrized shape: {original.shape}\nparametrized shape: {value.shape}"
            )

    def originals(self) -> list[Any]:
        """Return what the tensor is computed from."""
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{k}") for k in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Set what the tensor is computed from so that it becomes ``value``."""
        with no_grad():
            parts = _right_inverse(list(self), value)
            for own, part in zip(self.originals(), [parts] if self.is_tensor else list(parts), strict=True):
                if not isinstance(part, Tensor):
                    raise ValueError(f"`right_inverse` should return a tensor. Got {type(part).__name__}")
                if part.dtype != own.dtype:
                    raise ValueError(
                        f"The tensor returned by `right_inverse` has dtype {part.dtype} while `original` has dtype "
                        f"{own.dtype}"
                    )
                own.data = part.detach().clone() if part is value else part.detach()

    def forward(self) -> Any:
        """Return the tensor."""
        modules = list(self)
        value = modules[0](*self.originals())
        for module in modules[1:]:
            value = module(value)
        return value


def _right_inverse(modules: list[Any], value: Any) -> Any:
    """Return what the parametrisations would compute ``value`` from; itself where they cannot tell."""
    for module in reversed(modules):
        if hasattr(module, "right_inverse"):
            with suppress(NotImplementedError):
                value = module.right_inverse(value)
    return value


def _inject_property(module: Module, name: str) -> None:
    """Make reading and writing an attribute of the module's own class go through its parametrisations."""

    def read(self: Any) -> Any:
        if not _cached:
            return self.parametrizations[name]()
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = self.parametrizations[name]()
        return _cache[key]

    def write(self: Any, value: Tensor) -> None:
        _cache.pop((id(self), name), None)
        self.parametrizations[name].right_inverse(value)

    setattr(type(module), name, property(read, write))


def _own_class(module: Module) -> None:
    """Give the module a class of its own, in which attributes can be properties."""
    base = type(module)

    def deepcopied(self: Any, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        _own_class_again(copied, base)
        return copied

    def reduced(self: Any, protocol: Any) -> Any:
        raise RuntimeError(
            "Serialization of parametrized modules is only supported through state_dict(). See:\n"
            "https://pytorch.org/tutorials/beginner/saving_loading_models.html"
            "#saving-loading-a-general-checkpoint-for-inference-and-or-resuming-training"
        )

    attributes: dict[str, Any] = {"__reduce_ex__": reduced, "__deepcopy__": deepcopied}
    attributes["__module__"] = base.__module__
    module.__class__ = type(f"Parametrized{base.__name__}", (base,), attributes)


def _own_class_again(copied: Any, base: type) -> None:
    copied.__class__ = base
    _own_class(copied)
    for name in copied.parametrizations:
        _inject_property(copied, name)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let a module compute one of a module's parameters or buffers whenever it is read.

    Args:
        module: the module that has the tensor.
        tensor_name: the tensor's name.
        parametrization: called with the tensor, it returns what stands in its place. Where it has a method
            ``right_inverse``, assigning to the tensor sets what it is computed from.
        unsafe: leave out the checks that shape and dtype stay the same.

    Returns:
        The module.

    Raises:
        ValueError: there is no such tensor, or the parametrisation changes its shape or dtype.

    Example:
        >>> import tapegrad as tg
        >>> class Symmetric(tg.nn.Module):
        ...     def forward(self, x):
        ...         return x.triu() + x.triu(1).mT
        >>> layer = tg.nn.utils.parametrize.register_parametrization(tg.nn.Linear(3, 3), "weight", Symmetric())
        >>> bool((layer.weight == layer.weight.mT).all())
        True
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        _extend(module, tensor_name, parametrization, unsafe)
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        original = getattr(module, tensor_name)
        made = ParametrizationList([parametrization], original, unsafe=unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            _own_class(module)
            module.parametrizations = ModuleDict()
        _inject_property(module, tensor_name)
        module.parametrizations[tensor_name] = made
    else:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{tensor_name}'"
        )
    return module


def _extend(module: Any, name: str, parametrization: Module, unsafe: bool) -> None:
    made = module.parametrizations[name]
    with no_grad():
        before = getattr(module, name)
        if not unsafe:
            after = parametrization(before)
            if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
                raise ValueError("Registering a parametrization may not change the shape or dtype of the tensor")
    made.append(parametrization)
    if hasattr(parametrization, "right_inverse"):
        made.right_inverse(before)
    made.unsafe |= unsafe


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Return whether a module, or one of its tensors, has a parametrisation.

    Args:
        module: the module.
        tensor_name: the name of the tensor; None for any.
    """
    parametrizations = module.__dict__.get("parametrizations")
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Take all parametrisations of a tensor away.

    Args:
        module: the module.
        tensor_name: the tensor's name.
        leave_parametrized: whether it keeps the value it has now; else it becomes what it was computed from.

    Returns:
        The module.

    Raises:
        ValueError: the tensor has no parametrisation, or was computed from several and cannot become one of them.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    made = module.parametrizations[tensor_name]
    if made.is_tensor:
        original = made.original
        if leave_parametrized:
            with no_grad():
                original.data = getattr(module, tensor_name).detach().clone()
    elif leave_parametrized:
        with no_grad():
            value = getattr(module, tensor_name).detach().clone()
        kept = any(isinstance(part, Parameter) for part in made.originals())
        original = Parameter(value, any(p.requires_grad for p in made.originals())) if kept else value
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in "
            "terms of a sequence of tensors."
        )
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    if not is_parametrized(module):
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    return module


def type_before_parametrizations(module: Module) -> type:
    """Return the module's class as it was before it was parametrised.

    Args:
        module: the module.
    """
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]

"""The parts of a module: its parameters, buffers and children, how they become attributes and how they are found.

A part is an attribute like any other, so reading ``self.weight`` costs what reading an attribute costs; beside the
attributes a module keeps the names of each kind in the order in which they were registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from tapegrad.nn.parameter import Buffer, Parameter
from tapegrad.runtime.handle import Tensor

_PARAMETERS, _BUFFERS, _MODULES = "_parameter_names", "_buffer_names", "_module_names"
_KINDS = (_PARAMETERS, _BUFFERS, _MODULES)


class PartsView(MutableMapping[str, Any]):
    """The parts of one kind by name: a dict over the module's attributes.

    Args:
        attributes: the module's ``__dict__``.
        kind: under which name the names of the kind are kept.
    """

    __slots__ = ("_attributes", "_names")

    def __init__(self, attributes: dict[str, Any], kind: str) -> None:
        self._attributes, self._names = attributes, attributes.get(kind, {})

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._attributes[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names.setdefault(name, True)
        self._attributes[name] = value

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        del self._attributes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return repr(dict(self))


class Parts:
    """What ``Module`` is as the holder of its parts."""

    def __init__(self) -> None:
        for kind in _KINDS:
            self.__dict__[kind] = {}

    @property
    def _parameters(self) -> PartsView:
        return PartsView(self.__dict__, _PARAMETERS)

    @property
    def _buffers(self) -> PartsView:
        return PartsView(self.__dict__, _BUFFERS)

    @property
    def _modules(self) -> PartsView:
        return PartsView(self.__dict__, _MODULES)

    @property
    def _non_persistent_buffers_set(self) -> set[str]:
        return {name for name, persistent in self.__dict__[_BUFFERS].items() if not persistent}

    # ---- attributes ----

    def __setattr__(self, name: str, value: Any) -> None:
        attributes = self.__dict__
        if isinstance(value, Parameter):
            self._need_init("parameters")
            self._forget(name, _PARAMETERS)
            self.register_parameter(name, value)
        elif name in attributes.get(_PARAMETERS, ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' "
                    "(tapegrad.nn.Parameter or None expected)"
                )
            attributes[name] = None
        elif isinstance(value, Parts):
            self._need_init("modules")
            self._forget(name, _MODULES)
            attributes[_MODULES][name] = True
            attributes[name] = value
        elif name in attributes.get(_MODULES, ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' "
                    "(tapegrad.nn.Module or None expected)"
                )
            attributes[name] = None
        elif isinstance(value, Buffer) or name in attributes.get(_BUFFERS, ()):
            self._set_buffer(name, value)
        else:
            object.__setattr__(self, name, value)

    def _set_buffer(self, name: str, value: Any) -> None:
        self._need_init("buffers")
        names = self.__dict__[_BUFFERS]
        if name not in names:
            self._forget(name, _BUFFERS)
            self.register_buffer(name, value, value.persistent)
            return
        if not isinstance(value, Tensor | None):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        if isinstance(value, Buffer):
            names[name] = value.persistent
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        for kind in _KINDS:
            if name in self.__dict__.get(kind, ()):
                del self.__dict__[kind][name]
                del self.__dict__[name]
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted(name for name in {*dir(type(self)), *self.__dict__} if not name[:1].isdigit())

    def _need_init(self, what: str) -> None:
        if _BUFFERS not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")

    def _forget(self, name: str, kept: str) -> None:
        """Let an attribute of another kind go."""
        if name in self.__dict__ and name not in self.__dict__[kept]:
            for kind in _KINDS:
                self.__dict__[kind].pop(name, None)
            del self.__dict__[name]

    def _check_name(self, name: Any, what: str, names: str) -> None:
        self._need_init(what + "s")
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain "."')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and name not in self.__dict__[names]:
            raise KeyError(f"attribute '{name}' already exists")

    # ---- registration ----

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make ``param`` the parameter ``name``; None is a parameter that there is not.

        Raises:
            KeyError: the name is empty, has a dot, or is that of another attribute.
            TypeError: ``param`` is no Parameter.
            ValueError: ``param`` is not a leaf.
        """
        self._check_name(name, "parameter", _PARAMETERS)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        if param is not None and not param.is_leaf:
            raise ValueError(
                f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly. To "
                f"express '{name}' as a function of another Tensor, compute the value in the forward() method."
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make ``tensor`` part of the module's state without its being trained.

        Args:
            name: the attribute's name.
            tensor: the buffer; None is one that there is not.
            persistent: whether it is in the ``state_dict``.
        """
        self._check_name(name, "buffer", _BUFFERS)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        self.__dict__[_BUFFERS][name] = persistent
        self.__dict__[name] = tensor

    def add_module(self, name: str, module: Any) -> None:
        """Make ``module`` the child ``name``; None is a child that there is not."""
        if module is not None and not isinstance(module, Parts):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(name, "module", _MODULES)
        self._modules[name] = module

    def register_module(self, name: str, module: Any) -> None:
        """Alias of ``add_module``."""
        self.add_module(name, module)

    # ---- walking the tree ----

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        """Yield this module and all below it with their dotted names.

        Args:
            memo: the modules that are not to be yielded any more.
            prefix: put before each name.
            remove_duplicate: whether a module that has several names is yielded once.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Any]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """Yield the modules directly below, each once, with their names."""
        seen: set[Any] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Any]:
        """Yield the modules directly below, each once."""
        return (module for _, module in self.named_children())

    def _named_members(
        self,
        get_members_fn: Callable[[Any], Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in get_members_fn(module):
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters with their dotted names.

        Args:
            prefix: put before each name.
            recurse: whether those of the modules below are among them.
            remove_duplicate: whether a parameter that has several names is yielded once.
        """
        return self._named_members(lambda module: module._parameters.items(), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers with their dotted names; arguments as ``named_parameters``."""
        return self._named_members(lambda module: module._buffers.items(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    # ---- by dotted name ----

    def get_submodule(self, target: str) -> Any:
        """Return the module with a dotted name; AttributeError where there is none."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = _attribute_of(module, name)
            if not isinstance(module, Parts):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Any, strict: bool = False) -> None:
        """Put a module in the place of the one with a dotted name.

        Args:
            target: the dotted name.
            module: the module.
            strict: whether there must be one already.
        """
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("Cannot set the submodule without a target name!")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{type(parent).__name__} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Parts):
            raise AttributeError(f"`{name}` is not an nn.Module")
        if not isinstance(module, Parts):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with a dotted name; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        param = _attribute_of(self.get_submodule(path), name)
        if not isinstance(param, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return param

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with a dotted name; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        buffer: Tensor = _attribute_of(module, name)
        if name not in module._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return buffer


def _attribute_of(module: Any, name: str) -> Any:
    if not hasattr(module, name):
        raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
    return getattr(module, name)

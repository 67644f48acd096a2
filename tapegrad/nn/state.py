"""A module's state by name: saving it, and loading it, where what does not fit is listed whole before any write."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tapegrad.autograd.hooks import RemovableHandle
from tapegrad.autograd.modes import no_grad
from tapegrad.nn.module_hooks import Hooked
from tapegrad.nn.parameter import Parameter
from tapegrad.nn.parts import Parts
from tapegrad.ops.calls import call_in_place, shape_of
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor

_EXTRA = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """The names that ``load_state_dict(strict=False)`` found no counterpart for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class StateDict(OrderedDict[str, Any]):
    """Tensors by dotted names, and under ``_metadata`` the version of each module's format."""

    _metadata: OrderedDict[str, dict[str, Any]]


class Problems(list[str]):
    """What does not fit while a state is loaded, and the writes that wait until it is known that all fits."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Callable[[], None]] = []


class Stateful(Parts, Hooked):
    """What ``Module`` is as the owner of a state that can be saved and loaded."""

    _version = 1  # of the format of the state, for `_load_from_state_dict`

    # ---- saving ----

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return parameters and persistent buffers by their dotted names, over the module's own memory.

        Args:
            *args: destination, prefix and keep_vars by position, as older programs give them.
            destination: a dict to add them to.
            prefix: put before each name.
            keep_vars: give the parameters themselves instead of detached tensors.
        """
        given = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
        destination, prefix = given.get("destination", destination), given.get("prefix", prefix)
        keep_vars = given.get("keep_vars", keep_vars)
        if destination is None:
            destination = StateDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in self._hooks_of("saving"):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._hooks_of("saved"):
            replaced = hook(self, destination, prefix, local_metadata)
            destination = destination if replaced is None else replaced
        return destination

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put this module's own parameters and persistent buffers into ``destination``."""
        for name, value in self._own_state().items():
            destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Stateful.get_extra_state:
            destination[prefix + _EXTRA] = self.get_extra_state()

    def _own_state(self) -> dict[str, Any]:
        left_out = self._non_persistent_buffers_set
        both = [*self._parameters.items(), *self._buffers.items()]
        return {name: value for name, value in both if value is not None and name not in left_out}

    def get_extra_state(self) -> Any:
        """Return what else belongs into the state; a subclass may define it, with ``set_extra_state``."""
        raise RuntimeError(
            "Reached a code path in Module.get_extra_state() that should never be called. Please file an issue."
        )

    def set_extra_state(self, state: Any) -> None:
        """Take what ``get_extra_state`` returned."""
        raise RuntimeError(
            "Reached a code path in Module.set_extra_state() that should never be called. Please file an issue."
        )

    # ---- loading ----

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy numbers into parameters and buffers: all of them, or none where something does not fit.

        Args:
            state_dict: tensors by the names that ``state_dict`` gives.
            strict: whether names that one side lacks are an error.
            assign: take the tensors themselves instead of copying their numbers.

        Returns:
            The names that are missing from ``state_dict`` and those that the module does not have.

        Raises:
            RuntimeError: names do not match while ``strict``, or shapes differ; lists all that is wrong.
            TypeError: ``state_dict`` is no mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        keys, problems = IncompatibleKeys([], []), Problems()
        metadata = getattr(state_dict, "_metadata", {})
        modules: list[Stateful] = []
        _collect(self, OrderedDict(state_dict), "", metadata, assign, keys, problems, modules)
        written = not problems and not (strict and (keys.missing_keys or keys.unexpected_keys))
        if written:
            _write(problems)
        for module in modules:
            for hook in module._hooks_of("loaded"):
                if hook(module, keys) is not None:
                    raise RuntimeError("Hooks attached to load_state_dict must not return new values")
        lines = [*(_key_errors(keys) if strict else []), *problems]
        if lines:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(lines))
        if not written:  # a hook has taken the offending names away
            _write(problems)
        return keys

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load this module's own part of a state; a subclass may change ``state_dict`` before it calls this."""
        for hook in self._hooks_of("loading"):
            arguments = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
            hook(*arguments) if not hook.with_module else hook(self, *arguments)
        own = self._own_state()
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, value in own.items():
            if prefix + name in state_dict:
                self._load_one(name, prefix + name, value, state_dict[prefix + name], assign, error_msgs)
            elif strict:
                missing_keys.append(prefix + name)
        self._load_extra(state_dict, prefix, strict, missing_keys, unexpected_keys, error_msgs)
        if strict:
            unexpected_keys += [key for key in state_dict if self._is_unexpected(key, prefix, own)]

    def _is_unexpected(self, key: str, prefix: str, own: dict[str, Any]) -> bool:
        if not key.startswith(prefix) or key == prefix + _EXTRA:
            return False
        name, _, rest = key[len(prefix) :].partition(".")
        return name not in self._modules if rest else name not in own

    def _load_one(self, name: str, key: str, own: Any, given: Any, assign: bool, error_msgs: list[str]) -> None:
        if isinstance(given, Tensor) and shape_of(own) == () and len(shape_of(given)) == 1:
            given = given[0]  # what was saved when 0-d tensors had one dimension
        error = _value_error(key, own, given)
        if error:
            error_msgs.append(error)
            return

        def write() -> None:
            _assign(self, name, own, given) if assign else _copy(own, given)

        error_msgs.writes.append(write) if isinstance(error_msgs, Problems) else write()

    def _load_extra(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, has = prefix + _EXTRA, type(self).set_extra_state is not Stateful.set_extra_state
        if has and key in state_dict:
            extra = state_dict[key]
            if isinstance(error_msgs, Problems):
                error_msgs.writes.append(lambda: self.set_extra_state(extra))
            else:
                self.set_extra_state(extra)
        elif strict and has:
            missing_keys.append(key)
        elif strict and key in state_dict:
            unexpected_keys.append(key)

    # ---- hooks ----

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(module, prefix, keep_vars)`` called before the module's state is read."""
        return self._add_hook("saving", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(module, state_dict, prefix, local_metadata)`` called after the module's state was read."""
        return self._add_hook("saved", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have a hook called before the module's own part of a state is loaded; it may change the dict.

        Args:
            hook: called as ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                error_msgs)``.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Have ``hook(module, incompatible_keys)`` called after loading; it may change the lists of names."""
        return self._add_hook("loaded", hook)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        return self._add_hook("saved", hook)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        return self._add_hook("loading", _LoadHook(hook, with_module))


class _LoadHook:
    """A hook that is called before loading, with or without the module."""

    def __init__(self, hook: Callable[..., Any], with_module: bool) -> None:
        self.hook, self.with_module = hook, with_module

    def __call__(self, *args: Any) -> Any:
        return self.hook(*args)


def _collect(
    module: Stateful,
    state: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    assign: bool,
    keys: IncompatibleKeys,
    problems: Problems,
    modules: list[Stateful],
) -> None:
    """Let a module and those below compare a state with what they have; list the modules, children first."""
    local_metadata = dict(metadata.get(prefix[:-1], {}))
    if assign:
        local_metadata["assign_to_params_buffers"] = assign
    module._load_from_state_dict(state, prefix, local_metadata, True, keys.missing_keys, keys.unexpected_keys, problems)
    for name, child in module._modules.items():
        if child is not None:
            below = f"{prefix}{name}."
            part = {key: value for key, value in state.items() if key.startswith(below)}
            _collect(child, part, below, metadata, assign, keys, problems, modules)
    modules.append(module)


def _write(problems: Problems) -> None:
    for write in problems.writes:
        write()
    problems.writes.clear()


def _key_errors(keys: IncompatibleKeys) -> list[str]:
    kinds = (("Missing", keys.missing_keys), ("Unexpected", keys.unexpected_keys))
    quoted = [(kind, ", ".join(f'"{name}"' for name in names)) for kind, names in kinds if names]
    return [f"{kind} key(s) in state_dict: {names}. " for kind, names in quoted]


def _value_error(name: str, own: Tensor, given: Any) -> str:
    if not isinstance(given, Tensor):
        return f'While copying the parameter named "{name}", expected a Tensor but received {type(given).__name__}. '
    if shape_of(own) == shape_of(given):
        return ""
    return (
        f"size mismatch for {name}: copying a param with shape {given.shape} from checkpoint, "
        f"the shape in current model is {own.shape}."
    )


def _copy(own: Tensor, given: Tensor) -> None:
    with no_grad():
        call_in_place(registry["copy"], own, own, given)


def _assign(module: Stateful, name: str, own: Tensor, given: Tensor) -> None:
    if isinstance(own, Parameter):
        wanted = own.requires_grad
        given = given.requires_grad_(wanted) if isinstance(given, Parameter) else Parameter(given, wanted)
    setattr(module, name, given)

"""Loading a module's state: what does not fit is listed whole before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from tapegrad.autograd.modes import no_grad
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import call_in_place, shape_of
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor


class Stateful(Protocol):
    """What loading needs of a module; module.py, which has the class, imports this file."""

    def state_dict(self, *, keep_vars: bool) -> dict[str, Any]:
        """Return the parameters and buffers by name."""
        ...

    def get_submodule(self, target: str) -> Any:
        """Return the module with a dotted name."""
        ...


class IncompatibleKeys(NamedTuple):
    """The names that ``load_state_dict(strict=False)`` found no counterpart for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_state(module: Stateful, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Copy numbers into a module's parameters and buffers; see `Module.load_state_dict`."""
    own = module.state_dict(keep_vars=True)
    missing = [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    common = [name for name in own if name in state_dict]
    errors = _key_errors(unexpected, missing) if strict else []
    errors += [error for name in common if (error := _value_error(name, own[name], state_dict[name]))]
    if errors:
        raise RuntimeError(f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(errors))
    for name in common:
        if assign:
            _assign(module, name, own[name], state_dict[name])
        else:
            with no_grad():
                call_in_place(registry["copy"], own[name], own[name], state_dict[name])
    return IncompatibleKeys(missing, unexpected)


def _key_errors(unexpected: list[str], missing: list[str]) -> list[str]:
    kinds = (("Unexpected", unexpected), ("Missing", missing))
    return [f"{kind} key(s) in state_dict: {', '.join(map(repr, names))}. " for kind, names in kinds if names]


def _value_error(name: str, own: Tensor, given: Any) -> str:
    if not isinstance(given, Tensor):
        return f'While copying the parameter named "{name}", expected a Tensor but received {type(given).__name__}. '
    if shape_of(own) == shape_of(given):
        return ""
    return (
        f"size mismatch for {name}: copying a param with shape {given.shape} from checkpoint, "
        f"the shape in current model is {own.shape}."
    )


def _assign(module: Stateful, name: str, own: Tensor, given: Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    wanted = own.requires_grad
    replacement = Parameter(given, wanted) if isinstance(own, Parameter) else given
    setattr(module.get_submodule(path), attribute, replacement)

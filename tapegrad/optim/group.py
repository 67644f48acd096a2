"""Parameter groups: what may be in one, what its options may be, and the update of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.calls import call
from tapegrad.ops.registry import Op, registry
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import RESULT_DTYPE
from tapegrad.runtime.machine import machine

_DONE = -1  # what emit returns for an op without a result
Group = dict[str, Any]
Row = tuple[int, ...]  # the handles of a parameter, its gradient, its state and its group's numbers, by the op's roles
_WORDS = {"lr": "learning rate", "eps": "epsilon value"}


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


def check_numbers(**numbers: Any) -> None:
    """Raise ValueError for the first option that is negative, or a beta or rho beyond its range, in torch's words."""
    for name, value in numbers.items():
        if name == "betas":
            for k, beta in enumerate(value):
                if not 0.0 <= beta < 1.0:
                    raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
            continue
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        if not value >= 0.0 or (name == "rho" and value > 1.0):
            raise ValueError(f"Invalid {_WORDS.get(name, name + ' value')}: {value}")


def check_implementation(foreach: bool | None, fused: bool | None, differentiable: bool) -> None:
    """Raise RuntimeError for torch's forbidden pairs, and for steps that are to be differentiated."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if differentiable:
        raise RuntimeError(
            "differentiable=True is not supported: a step is one op without a derivative. Write the update with "
            "tensor operations to differentiate through it."
        )


def checked_group(param_group: Group, defaults: Group, others: list[Group]) -> Group:
    """Return the group with all options, its parameters a list; raise where it does not fit the other groups."""
    if not isinstance(param_group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
    params, names = _params_and_names(param_group["params"])
    group = {**defaults, **param_group, "params": params}
    if names:
        group["param_names"] = names
    _check_params(params, group)
    for name, value in group.items():
        if value is required:
            raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with names' if 'param_names' in group else 'without names'} to the optimizer"
            )
        if {id(param) for param in params} & {id(param) for param in other["params"]}:
            raise ValueError("some parameters appear in more than one parameter group")
    return group


def _params_and_names(params: Any) -> tuple[list[Any], list[str]]:
    if isinstance(params, set | frozenset):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets "
            "will change between runs. Please use a list instead."
        )
    items = [params] if isinstance(params, Tensor) else list(params)
    names = [item[0] for item in items if isinstance(item, tuple)]
    if names and len(names) != len(items):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    return [item[1] if isinstance(item, tuple) else item for item in items], names


def _check_params(params: list[Any], group: Group) -> None:
    for param in params:
        if not isinstance(param, Tensor):
            raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(param).__name__}")
        if not (param.is_leaf or param.retains_grad):
            raise ValueError("can't optimize a non-leaf Tensor")
    if len({id(param) for param in params}) != len(params):
        raise ValueError("some parameters appear more than once in a parameter group")


def sign_of(group: Group) -> float:
    """Return the factor of the gradient: -1 where the objective is to grow."""
    return -1.0 if group["maximize"] else 1.0


def zeros_like(param: Tensor) -> Tensor:
    """Return zeros of a parameter's shape and dtype, no part of any graph."""
    return call(registry["zeros_like"], param)


def run_update(op: Op, rows: Iterable[Row]) -> None:
    """Emit an update of the parameters in ``rows``; an emission has one dtype."""
    operands = [handle for row in rows for handle in row]
    if not operands:
        return
    status = machine.emit(op.code, len(operands), *operands)
    if status == _DONE:
        return
    rows = list(rows)
    dtypes = {machine.dtype_of(row[0]) for row in rows}
    if status != RESULT_DTYPE or len(dtypes) == 1:
        raise_status(status)
    for dtype in dtypes:
        run_update(op, [row for row in rows if machine.dtype_of(row[0]) == dtype])

"""Declares elementwise ops: from a scalar formula to the function, the method, the operators and the in-place form."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

import numpy as np

from tapegrad.kernels.loops import Repair, make_loop
from tapegrad.native.dtypes import BOOL, FLOAT32
from tapegrad.ops.calls import PYTHON_NUMBERS, call, call_in_place, functions
from tapegrad.ops.describe import dtypes_of
from tapegrad.ops.parameters import MEANINGS
from tapegrad.ops.registry import ALL_DTYPES, FLOATS, INTEGERS, Op, declare
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import FLOATING, SAME, TO_BOOL
from tapegrad.runtime.machine import machine

_emit, _new = machine.emit, object.__new__
families: dict[str, str] = {}  # the module that declares each elementwise function
_OPERANDS = (Tensor, bool, int, float, np.generic)


def elementwise(
    name: str,
    formula: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    *,
    inputs: tuple[str, ...] = ("input",),
    result: int = SAME,
    dtypes: int = ALL_DTYPES,
    vjp: Callable[..., Any] | None = None,
    fixed: Mapping[str, int] | None = None,
    scalars: Mapping[str, float | None] | None = None,
    repair: Repair | None = None,
    in_place: bool = True,
    operators: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    public: bool = True,
    **declared: Any,
) -> Op:
    """Declare an elementwise op and make its function and methods.

    Args:
        name: the op's name.
        formula: the scalar function that Numba compiles, or a mapping of ``bool``, ``integer`` and ``float`` to one.
        inputs: the operands' names, in order.
        result: the rule for the result's dtype.
        dtypes: the dtypes the op computes in, as a mask.
        vjp: the gradient rule; see ops/registry.py.
        fixed: operands that keep a dtype of their own, with its code.
        scalars: further operands that are always numbers, with their defaults (None: no default). A rule gets them
            after the tensors; kernels load them once.
        repair: what computes the floats for which ``formula`` fails.
        in_place: whether there is a form ``name_`` that writes into the first operand.
        operators: special methods that are this function (``__add__``).
        aliases: further names in torch.
        public: whether users see it.
        **declared: ``reference``, ``samples``, ``formula``, ``doc`` of the Op.
    """
    fixed, scalars = fixed or {}, scalars or {}
    operands = (*inputs, *scalars)

    def chosen_for(dtype: int) -> Callable[..., Any]:
        return formula if callable(formula) else formula[_category(dtype, formula)]

    def scalar_formula(dtypes_in: tuple[int, ...], result_dtype: int) -> Callable[..., Any] | None:
        return chosen_for(
            next((d for d, name in zip(dtypes_in, operands, strict=True) if name not in fixed), dtypes_in[0])
        )

    def kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
        chosen = chosen_for(dtype)
        dtypes_in = tuple(fixed.get(operand_name, dtype) for operand_name in operands)
        repaired = repair if 1 << dtype & FLOATS else None
        return make_loop(chosen, dtypes_in, result_dtype, scalars=len(scalars), repair=repaired)

    op = declare(
        Op(
            name=name,
            inputs=operands,
            kernel=kernel,
            formula=scalar_formula,
            repair=repair,
            result=result,
            dtypes=dtypes,
            vjp=vjp,
            unpromoted=tuple(fixed),
            public=public,
            **declared,
        )
    )
    if public:
        families.update(dict.fromkeys((name, *aliases), sys._getframe(1).f_globals["__name__"]))
        _publish(op, scalars, in_place and result != TO_BOOL, operators, aliases)
    return op


def _category(dtype: int, formulas: Mapping[str, Any]) -> str:
    wanted = "float" if 1 << dtype & FLOATS else "integer" if 1 << dtype & INTEGERS else "bool"
    return wanted if wanted in formulas else "integer"


def publish(function: Callable[..., Any], name: str, doc: str, parameters: list[Parameter], *, is_method: bool) -> None:
    """Enter a function under a name into ``tg.`` and, if it is one, among the tensors' methods."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "tapegrad"
    function.__doc__ = doc
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    if not name.startswith("__") and not name.endswith("_"):
        functions[name] = function
    if is_method:
        setattr(Tensor, name, function)


_NAMES = re.compile(r"\w+")
_RESULTS = {
    SAME: "in the promoted dtype",
    FLOATING: "in the promoted dtype; integers and booleans are computed in the default float dtype",
    TO_BOOL: "in bool",
}


def documentation(op: Op, scalars: Mapping[str, float | None]) -> str:
    """Return the docstring that an op's declaration makes: formula, operands, dtypes, errors."""
    several = len(op.inputs) > 1 + len(scalars)
    second = f", ``w`` is ``{op.inputs[1]}``" if several and "w" in _NAMES.findall(op.math) else ""
    operands = {"input": f"a tensor ``x`` of any shape; dtypes: {dtypes_of(op)}."}
    for name in op.inputs[1:]:
        number = "a number" + ("." if scalars.get(name) is None else f"; by default {scalars[name]}.")
        operands[name] = number if name in scalars else "a tensor or a number; it is broadcast with the others."
    operands["out"] = MEANINGS["out"]
    shape = "the shape that the operands broadcast to" if several else "the input's shape"
    args = "\n".join(f"    {name}: {meaning}" for name, meaning in operands.items())
    return f"""{op.doc}

Formula: ``{op.math}``, where ``x`` is ``input``{second}.

Args:
{args}

Returns:
    A tensor of {shape}, {_RESULTS[op.result]}.

Raises:
    TypeError: no operand is a tensor, or one is neither tensor nor number.
    RuntimeError: there is no kernel for the dtype{", or the shapes do not broadcast" if several else ""}.
"""


def _publish(
    op: Op,
    scalars: Mapping[str, float | None],
    in_place: bool,
    operators: tuple[str, ...],
    aliases: tuple[str, ...],
) -> None:
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=Parameter.empty if default is None else default)
        for name, default in ((name, scalars.get(name)) for name in op.inputs)
    ]
    out = Parameter("out", Parameter.KEYWORD_ONLY, default=None)
    for name in (op.name, *aliases):
        doc = f"Do what ``{op.name}`` does: another name of it." if name in aliases else documentation(op, scalars)
        publish(_function(op, scalars, parameters), name, doc, [*parameters, out], is_method=True)
        if in_place:
            writing = f"In-place form of ``{name}``: writes the result into ``input``; other arguments are the same."
            publish(_in_place_function(op, scalars, parameters), f"{name}_", writing, parameters, is_method=True)
            functions[f"{name}_"] = getattr(Tensor, f"{name}_")
    for name in operators:
        setattr(Tensor, name, _operator(op, name))


def _function(op: Op, scalars: Mapping[str, float | None], parameters: list[Parameter]) -> Callable[..., Any]:
    code, name = op.code, op.name

    def unary(input, *, out=None):
        if not isinstance(input, Tensor):
            raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
        handle = _emit(code, 1, input._handle)
        if handle < 0:
            raise_status(handle)
        return wrap(handle) if out is None else _into(out, wrap(handle))

    def two(out, input, other):
        if out is not None or not isinstance(input, Tensor) or not isinstance(other, Tensor):
            return several(out, input, other)
        handle = _emit(code, 2, input._handle, other._handle)
        if handle < 0:
            raise_status(handle)
        return wrap(handle)

    def several(out, *args):
        if not any(isinstance(arg, Tensor) for arg in args):
            raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {type(args[0]).__name__}")
        result = call(op, *args)
        return result if out is None else _into(out, result)

    if len(op.inputs) == 1:
        return unary
    body = two if len(op.inputs) == 2 and not scalars else several
    return _with_signature(body, "out", ["*", "out=None"], scalars, parameters)


def _with_signature(
    body: Callable[..., Any],
    before: str,
    after: list[str],
    scalars: Mapping[str, float | None],
    parameters: list[Parameter],
) -> Callable[..., Any]:
    """Return ``body`` behind a function of the given parameters: Python binds them faster than ``*args, **named``."""
    values = [f"number({p.name})" if p.name in scalars else p.name for p in parameters]
    source = f"lambda {', '.join([*map(str, parameters), *after])}: body({', '.join(filter(None, [before, *values]))})"
    return eval(source, {"body": body, "number": number})


def number(value: Any) -> bool | int | float:
    """Return the Python number that an argument is, or that a tensor of one element holds."""
    if type(value) in PYTHON_NUMBERS:
        return value
    if isinstance(value, Tensor | np.generic):
        return value.item()
    if isinstance(value, PYTHON_NUMBERS):
        return value + 0
    raise TypeError(f"expected a number, got {type(value).__name__}")


def number_for(tensor: Tensor, value: Any) -> bool | int | float:
    """Return a number in the category of the tensor's dtype, so that it does not promote the tensor."""
    dtype = int(machine.dtype_of(tensor._handle))
    return bool(value) if dtype == BOOL else int(value) if dtype < FLOAT32 else number(value)


def _into(out: Tensor, result: Tensor) -> Tensor:
    return functions["_write_out"](out, result)


def _in_place_function(op: Op, scalars: Mapping[str, float | None], parameters: list[Parameter]) -> Callable[..., Any]:
    def in_place(input, *others):
        return call_in_place(op, input, input, *others)

    return _with_signature(in_place, "", [], scalars, parameters)


def _operator(op: Op, name: str) -> Callable[..., Any]:
    """Return a special method: ``__add__``, reflected ``__radd__`` or in-place ``__iadd__``."""
    code = op.code
    if len(op.inputs) == 1:
        return lambda self: call(op, self)
    if name.startswith("__i") and name not in ("__invert__",):

        def in_place(self, other):
            return call_in_place(op, self, self, other)

        return in_place
    if name.startswith("__r") and name not in ("__rshift__",):

        def reflected(self, other):
            return call(op, other, self) if isinstance(other, _OPERANDS) else NotImplemented

        return reflected

    def operator(self, other):
        if isinstance(other, Tensor):
            handle = _emit(code, 2, self._handle, other._handle)
        elif type(other) in PYTHON_NUMBERS:
            handle = _emit(code, 2, self._handle, (other,))
        elif isinstance(other, _OPERANDS):
            return call(op, self, other)
        else:
            return NotImplemented
        if handle < 0:
            raise_status(handle)
        tensor = _new(Tensor)
        tensor._handle = handle
        return tensor

    return operator

"""The registry of ops, and the gradient rules as data.

An op is one declaration; everything else comes from it: the rows of the machine's op table, the compiled kernels (made
when first needed), the gradient rule's rows, the tests, the docs.

A gradient rule is written as a function of references, ``vjp(g, y, x, w)``: the result's gradient, the result, the
operands. It is run once, when the op is declared, on ``Ref`` objects that note what is asked of them, and returns one
gradient for each operand (or None). Ops of several results get ``g`` and ``y`` as tuples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapegrad.kernels.loops import Repair
from tapegrad.native.cache import compile_function
from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, INT32, INT64, UINT8
from tapegrad.ops.validity import Rule
from tapegrad.runtime.errors import op_names
from tapegrad.runtime.layout import (
    ATTRIBUTES_LITERAL,
    ATTRIBUTES_NONE,
    ATTRIBUTES_OF_ENTRY,
    ATTRIBUTES_OF_OPERAND,
    ELEMENTWISE,
    GIVE,
    MACHINE_OPS,
    MAX_OUTPUTS,
    MAX_RULE_OPERANDS,
    MAX_TEMPORARIES,
    REF_CONSTANT,
    REF_COTANGENT,
    REF_INPUT,
    REF_OUTPUT,
    REF_TEMPORARY,
    RULE_ROW,
    SAME,
    ZERO_CONSTANT,
)
from tapegrad.runtime.machine import machine

BOOLEAN = 1 << BOOL
INTEGERS = 1 << UINT8 | 1 << INT32 | 1 << INT64
FLOATS = 1 << FLOAT32 | 1 << FLOAT64
NUMBERS = INTEGERS | FLOATS
ALL_DTYPES = BOOLEAN | NUMBERS


@dataclass
class Op:
    """What is declared of an op.

    Attributes:
        name: the op's name in torch, or a name of its own for ops that only gradient rules emit.
        inputs: names of the operands; names with a ``*`` for any number of them, which take these roles in turn
            (``("*params", "*grads")``: a parameter, its gradient, the next parameter, ...).
        kernel: makes the Python source of a kernel from the operands' dtype code and the result's.
        formula: of an elementwise op, the scalar function that its kernel applies, for the operands' dtypes and the
            result's; None where there is more to it.
        repair: of an elementwise op, what computes the floats for which that function fails.
        infer: the shape rule ``infer(st, frame)`` of an op that is not elementwise.
        vjp: the gradient rule.
        optional: names of operands that may be absent.
        fewest: how many operands there are at least, where the last ones may be left out; by default all.
        shape_only: names of operands whose values neither kernel nor rule read.
        unpromoted: names of operands that keep their dtype.
        contiguous: names of operands that the kernel needs in row-major order.
        accumulates: whether the kernel, where its result is its last operand, adds to that instead of to zeros, so that
            gradients of many parts of one tensor cost as much as the parts.
        shape_from_values: whether the result's shape depends on the operands' values, so that it cannot be replayed.
        writes: names of operands that the kernel writes into (optimisers' updates).
        valid: what the kernel trusts its callers with, checked where a program comes from a file; see validity.py.
            A general op without it is refused there.
        spared: numbers of results that the kernel leaves out where their slot is -1, as a captured program has it for
            what nobody reads.
        joins: two ops of one result each that it does at once, so that a captured program has it in place of both: its
            operands are the second's, of which the last are all of the first's, and its results are theirs.
        reference: the same function in NumPy, for the tests.
        samples: arguments to test with; see tests/samples.py.
        math: how the docs' op table shows it.
        stamp: goes into the keys of its compiled functions in the disk cache; None keeps them out of it.
        missing: an op that the rule uses and that is not declared yet.
    """

    name: str
    inputs: tuple[str, ...]
    kind: int = ELEMENTWISE
    result: int = SAME
    dtypes: int = ALL_DTYPES
    outputs: int = 1
    kernel: Callable[[int, int], Callable[..., int]] | None = None
    formula: Callable[[tuple[int, ...], int], Callable[..., Any] | None] | None = None
    repair: Repair | None = None
    infer: Callable[..., int] | None = None
    vjp: Callable[..., Any] | None = None
    optional: tuple[str, ...] = ()
    fewest: int | None = None
    shape_only: tuple[str, ...] = ()
    unpromoted: tuple[str, ...] = ()
    contiguous: tuple[str, ...] = ()
    accumulates: bool = False
    shape_from_values: bool = False
    writes: tuple[str, ...] = ()
    valid: Rule | None = None
    spared: tuple[int, ...] = ()
    joins: tuple[str, str] | None = None
    reference: Callable[..., Any] | None = None
    samples: Any = None
    math: str = ""
    doc: str = ""
    public: bool = True
    stamp: str | None = ""
    missing: str = ""
    code: int = -1
    rule: list[Row] = field(default_factory=list)

    def mask(self, names: Sequence[str]) -> int:
        """Return the bits of the named operands; all bits where they are all the roles of a variadic op."""
        if self.variadic and tuple(names) == self.inputs:
            return 0xFFFF
        return sum(1 << self.inputs.index(name) for name in names)

    @property
    def variadic(self) -> bool:
        return self.inputs[:1] != () and self.inputs[0].startswith("*")


registry: dict[str, Op] = {}
_by_code: dict[int, Op] = {}


def declare(op: Op) -> Op:
    """Enter an op into the registry and the machine's op table."""
    if op.name in registry:
        raise ValueError(f"the op {op.name!r} is declared twice")
    op.code = MACHINE_OPS.index(op.name) if op.name in MACHINE_OPS else _next_code()
    registry[op.name] = op
    op_names[op.code] = op.name
    _by_code[op.code] = op
    row = machine.ops[op.code]
    row["kind"], row["result_dtype"], row["dtypes"], row["outputs"] = op.kind, op.result, op.dtypes, op.outputs
    row["variadic"] = len(op.inputs) if op.variadic else 0
    row["writes"], row["unpromoted"] = op.mask(op.writes), op.mask(op.unpromoted)
    row["contiguous"] = op.mask(op.contiguous)
    row["accumulates"] = op.accumulates
    # an operand of which only the shape is read does not make the result depend on it
    row["differentiable"] = 0xFFFF & ~op.mask(op.shape_only) if op.vjp is not None else 0
    if op.vjp is not None:
        _unfinished.append(op)
    return op


def withdraw(name: str, before: Op | None) -> None:
    """Take the op of a name, whose declaration has failed, out of the registry; put back what was there before."""
    failed = registry.pop(name, None)
    if failed in _unfinished:
        _unfinished.remove(failed)
    if before is not None:
        registry[name] = before


_codes = itertools.count(len(MACHINE_OPS))


def _next_code() -> int:
    code = next(_codes)
    if code >= len(machine.ops):
        raise RuntimeError(f"there are more than {len(machine.ops)} ops")
    return code


def op_of_code(code: int) -> Op:
    """Return the op that the machine knows by ``code``."""
    return _by_code[code]


def _resolve(code: int, dtype: int, result_dtype: int) -> int:
    """Compile, or load, what the machine asks for: an op's shape rule (dtype -1) or its kernel; return the address."""
    op = _by_code[code]
    return _compile_infer(op) if dtype < 0 else _compile_kernel(op, dtype, result_dtype)


def _compile_infer(op: Op) -> int:
    assert op.infer is not None, op.name
    key = f"infer.{op.infer.__module__}.{op.infer.__qualname__}{op.stamp}"
    return compile_function(op.infer, key, "int64(int64, int64)", on_disk=op.stamp is not None)


def _compile_kernel(op: Op, dtype: int, result_dtype: int) -> int:
    assert op.kernel is not None, op.name
    kernel = op.kernel(dtype, result_dtype)
    signature = "int64(int64)" if op.kind == ELEMENTWISE else "int64(int64, int64)"
    key = f"kernel.{op.name}.{dtype}.{result_dtype}{op.stamp}"
    return compile_function(kernel, key, signature, on_disk=op.stamp is not None)


def kernel_address(op: Op, dtype: int, result_dtype: int) -> int:
    """Return the address of an op's kernel for dtypes, compiled or loaded when it is first asked for."""
    known = machine.kernels[op.code]
    if known[dtype, result_dtype] == 0:
        known[dtype, result_dtype] = _compile_kernel(op, dtype, result_dtype)
    return int(known[dtype, result_dtype])


def compile_op(op: Op, dtype: int, result_dtype: int) -> None:
    """Bring an op's shape rule and its kernel for these dtypes into the disk cache."""
    if op.infer is not None:
        _compile_infer(op)
    _compile_kernel(op, dtype, result_dtype)


machine.resolve = _resolve


# ---- gradient rules as data ----

OF_ENTRY = "attributes of the entry"
OF_OPERAND = "first attribute and the operand's own attribute of the entry"


@dataclass(frozen=True)
class Row:
    """One emission of a rule: an op on references, or (op None) the gradient of operand ``target``.

    An emission's results are the temporaries from ``target`` on.
    """

    op: str | None
    inputs: tuple[int, ...]
    target: int
    attributes: object = None


class Ref:
    """Stands for a slot while a rule is traced: an operand, a result, a gradient, or what an op made of them."""

    __slots__ = ("code", "trace")

    def __init__(self, trace: list[Row], code: int) -> None:
        self.trace = trace
        self.code = code

    def __getattr__(self, name: str) -> Callable[..., Ref]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *operands, attributes=None: emit_ref(name, self, *operands, attributes=attributes)

    def results(self, count: int) -> tuple[Ref, ...]:
        """Return the references of all results of an op of ``count`` of them; this one is the first's."""
        return tuple(Ref(self.trace, self.code + k) for k in range(count))

    def __add__(self, other: Ref | float) -> Ref:
        return emit_ref("add", self, other)

    def __radd__(self, other: float) -> Ref:
        return emit_ref("add", other, self)

    def __sub__(self, other: Ref | float) -> Ref:
        return emit_ref("sub", self, other)

    def __rsub__(self, other: float) -> Ref:
        return emit_ref("sub", other, self)

    def __mul__(self, other: Ref | float) -> Ref:
        return emit_ref("mul", self, other)

    def __rmul__(self, other: float) -> Ref:
        return emit_ref("mul", other, self)

    def __truediv__(self, other: Ref | float) -> Ref:
        return emit_ref("div", self, other)

    def __rtruediv__(self, other: float) -> Ref:
        return emit_ref("div", other, self)

    def __neg__(self) -> Ref:
        return emit_ref("neg", self)


_constants: list[float] = []


def _constant_code(value: float) -> int:
    """Return the reference of a number in a rule; the machine has it as 0-d slots of both float dtypes."""
    if value not in _constants:
        index = len(_constants)
        _constants.append(value)
        for wide, dtype in enumerate((FLOAT32, FLOAT64)):
            handle = machine.new_tensor(dtype)
            machine.set_item(handle, float(value))
            machine.constants[index, wide] = machine.retain_slot(handle)
    return REF_CONSTANT + _constants.index(value)


def constant_of(reference: int) -> float:
    """Return the number that a reference of a rule stands for."""
    return _constants[reference - REF_CONSTANT]


class UndeclaredError(ValueError):
    """A gradient rule uses an op that is not declared."""


def emit_ref(name: str, *operands: Ref | float, attributes: object = None) -> Ref:
    """Note an emission in the trace of the operands' rule; return the reference of its result."""
    if name not in registry:
        raise UndeclaredError(name)
    trace = next(operand.trace for operand in operands if isinstance(operand, Ref))
    codes = tuple(operand.code if isinstance(operand, Ref) else _constant_code(operand) for operand in operands)
    target = _temporaries(trace)
    if target + registry[name].outputs > MAX_TEMPORARIES - MAX_OUTPUTS:
        raise ValueError("a gradient rule has too many rows")
    trace.append(Row(name, codes, target, attributes))
    return Ref(trace, REF_TEMPORARY + target)


def _temporaries(rows: list[Row]) -> int:
    """Return how many results the emissions of a rule have."""
    return sum(registry[row.op].outputs for row in rows if row.op is not None)


def _trace(op: Op) -> list[Row]:
    trace: list[Row] = []
    g = tuple(Ref(trace, REF_COTANGENT + k) for k in range(op.outputs))
    y = tuple(Ref(trace, REF_OUTPUT + k) for k in range(op.outputs))
    inputs = [Ref(trace, REF_INPUT + k) for k in range(len(op.inputs))]
    assert op.vjp is not None
    gradients = op.vjp(g[0], y[0], *inputs) if op.outputs == 1 else op.vjp(g, y, *inputs)
    for k, gradient in enumerate(gradients if isinstance(gradients, tuple) else (gradients,)):
        if gradient is not None:
            trace.append(Row(None, (gradient.code,), k))
    return trace


def _targets(rule: list[Row]) -> list[int]:
    """Return, for each row, the mask of the operands whose gradient needs it."""
    wanted = [0] * len(rule)
    maker = {
        REF_TEMPORARY + row.target + result: k
        for k, row in enumerate(rule)
        if row.op is not None
        for result in range(registry[row.op].outputs)
    }
    for k in reversed(range(len(rule))):
        if rule[k].op is None:
            wanted[k] |= 1 << rule[k].target
        for reference in rule[k].inputs:
            if reference in maker:
                wanted[maker[reference]] |= wanted[k]
    return wanted


def _saves(op: Op, wanted: list[int]) -> list[int]:
    """Return, for each operand, the mask of the values that its gradient needs: operands, and results from bit 16."""
    saves = [0] * MAX_RULE_OPERANDS
    for row, mask in zip(op.rule, wanted, strict=True):
        unread = registry[row.op].shape_only if row.op is not None else ()
        names = registry[row.op].inputs if row.op is not None else ()
        for k, reference in enumerate(row.inputs):
            if reference >= REF_COTANGENT or (k < len(names) and names[k] in unread):
                continue
            for target in range(MAX_RULE_OPERANDS):
                if mask & 1 << min(target, 15):
                    saves[target] |= 1 << reference
    if op.variadic:
        saves = [0xFFFF if saves[0] & 1 else 0] * MAX_RULE_OPERANDS
    return saves


def _store_rule(op: Op) -> None:
    op.rule = _trace(op)
    wanted = _targets(op.rule)
    rows = np.zeros(max(len(op.rule), 1), RULE_ROW)
    for record, row, mask in zip(rows, op.rule, wanted, strict=False):
        record["op"] = GIVE if row.op is None else registry[row.op].code
        record["wanted"], record["target"], record["count"] = mask, row.target, len(row.inputs)
        record["inputs"][: len(row.inputs)] = row.inputs
        _store_attributes(record, row.attributes)
    _tables.append(rows)
    machine.ops[op.code]["rule"] = rows.ctypes.data
    machine.ops[op.code]["rule_rows"] = len(op.rule)
    machine.ops[op.code]["temporaries"] = _temporaries(op.rule)
    machine.ops[op.code]["saves"] = _saves(op, wanted)


def _store_attributes(record: Any, attributes: object) -> None:
    if attributes is None:
        record["attributes"] = ATTRIBUTES_NONE
    elif attributes is OF_ENTRY:
        record["attributes"] = ATTRIBUTES_OF_ENTRY
    elif attributes is OF_OPERAND:
        record["attributes"] = ATTRIBUTES_OF_OPERAND
    else:
        assert isinstance(attributes, tuple)
        record["attributes"] = ATTRIBUTES_LITERAL
        words = [np.float64(word).view(np.int64) if isinstance(word, float) else word for word in attributes]
        record["attribute_count"] = len(words)
        record["literal"][: len(words)] = words


_unfinished: list[Op] = []
_tables: list[Any] = []


def finish_rules(*, wait: bool = False) -> None:
    """Trace the rules of the ops declared since the last call; a rule may emit ops of any file.

    Args:
        wait: whether an op whose rule uses one that is not declared yet is left for a later call.
    """
    assert _constant_code(0.0) == REF_CONSTANT + ZERO_CONSTANT
    ops = _unfinished[::-1]
    _unfinished.clear()
    for op in ops:
        try:
            _store_rule(op)
            op.missing = ""
        except UndeclaredError as error:
            op.missing = str(error)
            if not wait:
                raise
            _unfinished.append(op)


__all__ = [
    "ALL_DTYPES",
    "BOOLEAN",
    "FLOATS",
    "INTEGERS",
    "NUMBERS",
    "OF_ENTRY",
    "OF_OPERAND",
    "Op",
    "Ref",
    "UndeclaredError",
    "declare",
    "finish_rules",
    "kernel_address",
    "op_of_code",
    "registry",
    "withdraw",
]

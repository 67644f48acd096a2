"""Signatures of ops such as ``(m,n),(n)->(m)``, and the shape rules and kernels that are written from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tapegrad.library.arrays import array_of
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, NUMPY_DTYPES, POINTERS
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    MAX_NDIM,
    MAX_OUTPUTS,
    MAX_RULE_OPERANDS,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
)

_LIST = r"\([\w,]*\)(?:,\([\w,]*\))*"
_SIGNATURE = re.compile(rf"({_LIST})->({_LIST})")


@dataclass(frozen=True)
class Signature:
    """The letters of each operand's and each result's last dimensions."""

    text: str
    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]

    def check(self, op: str, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise RuntimeError where shapes do not fit."""
        lead: tuple[int, ...] = ()
        sizes: dict[str, int] = {}
        for letters, shape in zip(self.inputs, shapes, strict=True):
            extra = len(shape) - len(letters)
            before, core = shape[: max(extra, 0)], shape[max(extra, 0) :]
            fits = extra >= 0 and all(sizes.setdefault(letter, n) == n for letter, n in zip(letters, core, strict=True))
            if not fits or (before and lead and before != lead):
                listed = ", ".join(str(list(given)) for given in shapes)
                raise RuntimeError(f"{op}: the shapes {listed} do not fit {self.text}")
            lead = before or lead


def parse(text: str) -> Signature:
    """Return the signature that a text says; ValueError where it says none."""
    text = text.replace(" ", "")
    match = _SIGNATURE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no signature: one looks like '(m,n),(n)->(m)'")
    inputs, outputs = (
        tuple(tuple(filter(None, part.split(","))) for part in re.findall(r"\(([^)]*)\)", side))
        for side in match.groups()
    )
    unknown = {letter for letters in outputs for letter in letters} - {n for letters in inputs for n in letters}
    if unknown:
        raise ValueError(f"{text}: no operand tells the size of {', '.join(sorted(unknown))}")
    if len(inputs) > MAX_RULE_OPERANDS or len(outputs) > MAX_OUTPUTS:
        raise ValueError(f"{text}: an op has at most {MAX_RULE_OPERANDS} operands and {MAX_OUTPUTS} results")
    return Signature(text, inputs, outputs)


def _sizes(signature: Signature) -> dict[str, tuple[int, int]]:
    """Return, for each letter, an operand that has it and its place from the back."""
    return {
        letter: (k, len(letters) - place)
        for k, letters in enumerate(signature.inputs)
        for place, letter in enumerate(letters)
    }


def make_infer(signature: Signature) -> Callable[..., int]:
    """Return the shape rule: sizes of letters agree, and leading dimensions are those of whoever has some."""
    lines = ["def infer(st, frame):", "    lead = 0", "    model = slot_of(st, input_slot(frame, 0))"]
    for k, letters in enumerate(signature.inputs):
        lines += [f"    x{k} = slot_of(st, input_slot(frame, {k}))", f"    if x{k}.ndim < {len(letters)}:"]
        lines += ["        return bad", f"    extra{k} = x{k}.ndim - {len(letters)}"]
        lines += [f"    if extra{k} > 0 and lead == 0:", f"        lead, model = extra{k}, x{k}"]
    for k in range(len(signature.inputs)):
        lines += [f"    if extra{k} > 0 and extra{k} != lead:", "        return bad", f"    for d in range(extra{k}):"]
        lines += [f"        if shape_in(x{k})[d] != shape_in(model)[d]:", "            return bad"]
    sizes = _sizes(signature)
    for letter, (k, back) in sizes.items():
        lines += [f"    n_{letter} = shape_in(x{k})[x{k}.ndim - {back}]"]
    for k, letters in enumerate(signature.inputs):
        for place, letter in enumerate(letters):
            lines += [f"    if shape_in(x{k})[extra{k} + {place}] != n_{letter}:", "        return bad"]
    for k, letters in enumerate(signature.outputs):
        lines += [f"    if lead + {len(letters)} > max_ndim:", "        return bad"]
        lines += [f"    y{k} = slot_of(st, output_slot(frame, {k}))", f"    y{k}.ndim = lead + {len(letters)}"]
        lines += ["    for d in range(lead):", f"        shape_in(y{k})[d] = shape_in(model)[d]"]
        lines += [f"    shape_in(y{k})[lead + {place}] = n_{letter}" for place, letter in enumerate(letters)]
    scope: dict[str, Any] = {"__name__": __name__, "slot_of": slot_of, "shape_in": shape_in, "input_slot": input_slot}
    scope |= {"output_slot": output_slot, "bad": BAD_ARGUMENT, "max_ndim": MAX_NDIM}
    exec("\n".join([*lines, "    return 0"]), scope)
    return scope["infer"]


def make_kernel(signature: Signature, body: Callable[..., None], dtype: int) -> Callable[..., int]:
    """Return the kernel: a loop over the leading dimensions that hands arrays over the tensors' memory to ``body``."""
    lines = ["def kernel(st, frame):", "    first = slot_of(st, output_slot(frame, 0))", "    count = 1"]
    lines += [f"    for d in range(first.ndim - {len(signature.outputs[0])}):", "        count *= shape_in(first)[d]"]
    for k, letters in enumerate(signature.inputs):
        lines += [
            f"    x{k} = slot_of(st, input_slot(frame, {k}))",
            f"    a{k} = data_address(st, input_slot(frame, {k}))",
        ]
        lines += [f"    batched{k} = x{k}.ndim > {len(letters)}"]
    for letter, (k, back) in _sizes(signature).items():
        lines += [f"    n_{letter} = shape_in(x{k})[x{k}.ndim - {back}]"]
    lines += [f"    b{k} = data_address(st, output_slot(frame, {k}))" for k in range(len(signature.outputs))]
    lines += ["    for i in range(count):"]
    arguments = []
    for k, letters in enumerate(signature.inputs):
        step = " * ".join([*(f"n_{letter}" for letter in letters), "item"])
        place = f"a{k} + (i * {step} if batched{k} else 0)"
        shape = f"({' '.join(f'n_{n},' for n in letters)})"
        arguments.append(f"array({place}, {shape})" if letters else f"pointer({place})[0]")
    for k, letters in enumerate(signature.outputs):
        step = " * ".join([*(f"n_{letter}" for letter in letters), "item"])
        shape = f"({' '.join(f'n_{n},' for n in letters)})" if letters else "(1,)"
        arguments.append(f"array(b{k} + i * {step}, {shape})")
    lines += [f"        body({', '.join(arguments)})", "    return 0"]
    scope: dict[str, Any] = {"__name__": __name__, "slot_of": slot_of, "shape_in": shape_in, "input_slot": input_slot}
    scope |= {"output_slot": output_slot, "data_address": data_address}
    scope |= {"pointer": POINTERS[dtype], "item": ITEM_BYTES[dtype], "body": jit(body)}
    scope["array"] = array_of(NUMPY_DTYPES[dtype])
    exec("\n".join(lines), scope)
    return scope["kernel"]

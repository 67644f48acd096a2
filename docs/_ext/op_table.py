"""Writes the op tables from the registry, with what the tests check of each op's derivatives."""

import sys
from pathlib import Path
from typing import Any

import tapegrad as tg
from tapegrad.ops.describe import dtypes_of, gradients
from tapegrad.ops.registry import FLOATS, INTEGERS, NUMBERS, Op, registry

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from samples import samples_of


def orders_checked(op: Op) -> str:
    """Return up to which order tests/test_ops.py compares an op's derivatives with central differences."""
    if op.vjp is None:
        return "none"
    if isinstance(op.samples, str) or op.reference is None:
        return "elsewhere"
    samples = [sample for sample in samples_of(op) if sample.gradient and sample.floats()]
    return "2" if any(sample.second for sample in samples) else "1" if samples else "elsewhere"


def short_dtypes(op: Op) -> str:
    """Return the dtypes of an op, the common sets of them by name."""
    return {NUMBERS: "numbers", INTEGERS: "integers", FLOATS: "floats"}.get(op.dtypes) or dtypes_of(op)


def row(op: Op) -> str:
    """Return the row of an op; a public one leads to its function."""
    name = f"{{py:obj}}`{op.name} <tapegrad.{op.name}>`" if op.public and op.name in tg.__all__ else f"`{op.name}`"
    rules = "<br>".join(f"{operand}: `{text}`" for operand, text in gradients(op).items()) or "none"
    formula = (op.math or op.doc).replace("|", "\\|")
    return f"| {name}<br>{', '.join(op.inputs)} | {formula} | {rules} | {orders_checked(op)} | {short_dtypes(op)} |"


def table(ops: list[Op]) -> str:
    lines = ["| op | computes | gradients | checked | dtypes |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(row(op) for op in sorted(ops, key=lambda op: op.name))]) + "\n"


def write(folder: Path) -> None:
    """Write the tables of public and of private ops as fragments that docs/ops.md includes."""
    folder.mkdir(exist_ok=True)
    for public, name in ((True, "_public_ops.md"), (False, "_private_ops.md")):
        (folder / name).write_text(table([op for op in registry.values() if op.public == public]))


def setup(app: Any) -> dict[str, bool]:
    """Write the tables before Sphinx reads the page."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "api"))
    return {"parallel_read_safe": True}

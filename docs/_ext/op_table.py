"""Writes the op tables from the registry, with what the tests check of each op's derivatives."""

import sys
from pathlib import Path
from typing import Any

from tapegrad.ops.describe import op_table
from tapegrad.ops.registry import Op, registry

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from samples import samples_of


def orders_checked(op: Op) -> str:
    """Return up to which order tests/test_ops.py compares an op's derivatives with central differences."""
    if op.vjp is None:
        return "no gradient"
    if isinstance(op.samples, str) or op.reference is None:
        return "elsewhere"
    samples = [sample for sample in samples_of(op) if sample.gradient and sample.floats()]
    return "2" if any(sample.second for sample in samples) else "1" if samples else "elsewhere"


def write(folder: Path) -> None:
    """Write the tables of public and of private ops as fragments that docs/ops.md includes."""
    folder.mkdir(exist_ok=True)
    orders = {name: orders_checked(op) for name, op in registry.items()}
    for public, name in ((True, "_public_ops.md"), (False, "_private_ops.md")):
        (folder / name).write_text(op_table(public=public, orders=orders) + "\n")


def setup(app: Any) -> dict[str, bool]:
    """Write the tables before Sphinx reads the page."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "api"))
    return {"parallel_read_safe": True}

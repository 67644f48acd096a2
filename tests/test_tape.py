"""tg.tape shows what is kept: counts, slices, text, drawings."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

import tapegrad as tg


def graph() -> tuple[tg.Tensor, tg.Tensor]:
    x = tg.tensor([[1.0, 2.0]], requires_grad=True)
    return x, x * x + x


def test_entries_live_as_long_as_their_results() -> None:
    before = len(tg.tape)
    x, y = graph()
    assert len(tg.tape) == before + 2
    del y
    assert len(tg.tape) == before and x.requires_grad


def test_a_slice_is_a_structured_array() -> None:
    _x, y = graph()
    rows = tg.tape[-2:]
    assert isinstance(rows, np.ndarray) and rows["op"].tolist() == ["mul", "add"]
    assert rows["dtype"].tolist() == ["float32"] * 2
    assert rows["shape"][1, : rows["ndim"][1]].tolist() == [1, 2]
    assert rows["inputs"][1, 0] == rows["outputs"][0, 0]
    assert tg.tape[-1]["op"] == "add" and y.requires_grad
    rows["op"][0] = "changed"
    assert tg.tape[-2]["op"] == "mul"


def test_counts_and_text() -> None:
    before = tg.tape.counts()
    _x, y = graph()
    assert tg.tape.counts() - before == {"mul": 1, "add": 1}
    last = str(tg.tape).splitlines()[-1]
    assert "add(" in last and "float32 [1, 2]" in last and y.requires_grad


def test_a_long_tape_prints_its_ends() -> None:
    y = tg.tensor([1.0], requires_grad=True)
    for _ in range(300):
        y = y * y
    assert "more ..." in str(tg.tape) and len(str(tg.tape).splitlines()) < 110


def test_drawings(tmp_path: Path) -> None:
    _x, y = graph()
    assert y.requires_grad and tg.tape.to_dot(len(tg.tape) - 2).count("->") == 4
    svg = tg.tape.to_svg(str(tmp_path / "tape.svg"), len(tg.tape) - 2)
    root = ElementTree.fromstring((tmp_path / "tape.svg").read_text())
    assert root.tag.endswith("svg") and svg.count("<rect") == 3


def test_lines_are_recorded_on_demand() -> None:
    with tg.tape.record_lines():
        _x, y = graph()
    z = y + 1
    lines = str(tg.tape).splitlines()
    assert "test_tape.py:" in lines[-2] and "test_tape.py:" not in lines[-1] and z.requires_grad

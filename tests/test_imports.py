"""Imports inside the package go down only: no cycle, no arrow from a lower floor to a higher one."""

import importlib.util
from pathlib import Path

import pytest
from floors import FLOOR_OF, Graph, find_cycle, import_graph, part_of, upward_arrows


@pytest.fixture(scope="module")
def graph() -> Graph:
    spec = importlib.util.find_spec("tapegrad")
    return import_graph(Path(spec.origin).parent)


def test_every_module_has_a_floor(graph):
    assert {part_of(module) for module in graph} - set(FLOOR_OF) == set()


def test_no_import_points_up(graph):
    assert upward_arrows(graph) == []


def test_imports_have_no_cycle(graph):
    assert " -> ".join(find_cycle(graph)) == ""


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "tapegrad" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "tapegrad"


def test_checker_sees_an_upward_arrow_inside_a_function(tmp_path):
    files = {"__init__.py": "", "ops/__init__.py": "", "tensor.py": ""}
    files["ops/add.py"] = "def late():\n    from ..tensor import Tensor\n"
    assert upward_arrows(import_graph(write_package(tmp_path, files))) == ["tapegrad.ops.add -> tapegrad.tensor"]


def test_checker_sees_a_cycle(tmp_path):
    files = {"__init__.py": "", "nn/__init__.py": "from tapegrad.nn.a import x\n"}
    files |= {"nn/a.py": "from . import b\n", "nn/b.py": "import tapegrad.nn.a\n"}
    cycle = find_cycle(import_graph(write_package(tmp_path, files)))
    assert cycle == ["tapegrad.nn.a", "tapegrad.nn.b", "tapegrad.nn.a"]

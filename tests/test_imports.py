"""Imports inside the package go down only: no cycle, no arrow from a lower floor to a higher one."""

import ast
import importlib.util
from pathlib import Path

import pytest

# From the top down; a line is a floor, and modules on one floor may import one another as long as no cycle arises.
FLOORS = [
    {"__main__", "cli", "demo", "info", "warmup"},
    {"tapegrad"},  # the package's own __init__, which gathers what is public
    {"cuda", "func", "linalg", "nn", "optim", "special", "utils", "datasets", "serialization", "capture", "viz"}
    | {"profile", "interop", "distributed"},
    {"autograd"},
    {"tensor"},
    {"ops"},
    {"runtime"},
    {"kernels"},
    {"native", "version"},
]
FLOOR_OF = {name: len(FLOORS) - height for height, floor in enumerate(FLOORS) for name in floor}

Graph = dict[str, set[str]]


def module_names(package: Path) -> dict[str, Path]:
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported_names(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """Every dotted name that an import anywhere in the tree, inside functions too, may refer to."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def longest_module(name: str, modules: dict[str, Path]) -> str | None:
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph(package: Path) -> Graph:
    modules = module_names(package)
    graph: Graph = {}
    for module, path in modules.items():
        names = imported_names(ast.parse(path.read_text()), module, path.name == "__init__.py")
        graph[module] = {target for name in names if (target := longest_module(name, modules))} - {module}
    return graph


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "tapegrad"


def upward_arrows(graph: Graph) -> list[str]:
    return [
        f"{module} -> {target}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if FLOOR_OF[part_of(module)] < FLOOR_OF[part_of(target)]
    ]


def find_cycle(graph: Graph) -> list[str]:
    finished: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        path.append(module)
        for target in sorted(graph[module]):
            if cycle := visit(target):
                return cycle
        finished.add(path.pop())
        return []

    return next((cycle for module in graph if (cycle := visit(module))), [])


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

"""The floors of the package, and its import graph: for tests/test_imports.py, and for the docs, which draw them."""

import ast
from pathlib import Path

# From the top down; a line is a floor, and modules on one floor may import one another as long as no cycle arises.
FLOORS = [
    {"__main__", "cli", "demo", "info", "warmup"},
    {"tapegrad"},  # the package's own __init__, which gathers what is public
    {"cuda", "func", "library", "linalg", "nn", "optim", "special", "utils", "datasets", "serialization"}
    | {"capture", "viz"}
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

"""A comparison with torch has torch in its name, by which .ci/run finds it, unless its whole file needs torch."""

import ast
from pathlib import Path

NEEDS_TORCH = 'importorskip("torch")'


def unnamed(source: str) -> list[str]:
    """Return the tests of a file that need torch without saying so."""
    tree = ast.parse(source)
    if any(isinstance(node, ast.Assign) and NEEDS_TORCH in ast.unparse(node).replace("'", '"') for node in tree.body):
        return []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and "torch" not in node.name]
    return [node.name for node in functions if NEEDS_TORCH in ast.unparse(node).replace("'", '"')]


def test_comparisons_with_torch_are_named_so():
    files = {path.name: unnamed(path.read_text()) for path in sorted(Path(__file__).parent.glob("test_*.py"))}
    assert {name: tests for name, tests in files.items() if tests} == {}


def test_an_unnamed_comparison_is_found():
    body = f"    torch = pytest.{NEEDS_TORCH}\n"
    assert unnamed(f"def test_sum():\n{body}") == ["test_sum"]
    assert unnamed(f"def test_sum_is_torch_s():\n{body}") == []

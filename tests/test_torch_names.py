"""The documentation's table of torch's names: what it says of a name is so, and differences.md can be read by it."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(DOCS))
    try:
        import torch_table
    finally:
        sys.path.remove(str(DOCS))
    return torch_table


@pytest.fixture(scope="module")
def by_name(table):
    return {row.name: row for row in table.rows()}


@pytest.mark.parametrize("name", ["torch.exp", "torch.nn.Linear", "torch.nn.functional.softplus", "torch.Tensor.view"])
def test_names_that_are_the_same(by_name, name):
    assert by_name[name].status == "same"


@pytest.mark.parametrize(
    ("name", "note"),
    [("torch.compile", "replays"), ("torch.save", "safetensors"), ("torch.optim.Adam", "accepted")],
)
def test_names_that_differ_say_how(by_name, name, note):
    assert by_name[name].status == "differs"
    assert any(note in text for text in by_name[name].notes)


def test_absent_names_are_absent(by_name):
    assert by_name["torch.fft.fft"].status == "absent"
    assert by_name["torch.fft.fft"].notes != ()


def test_a_missing_argument_is_found(table):
    assert table.missing_arguments(lambda input, *, dim=0: input, ["input", "dim", "out"]) == ["out"]
    assert table.missing_arguments(lambda input, **options: input, ["input", "dim"]) == []


def test_rows_of_differences_are_whole_and_there_once(table):
    rows = table.differences()
    assert len(rows) > 50
    assert len({row.what for row in rows}) == len(rows)
    assert [row.what for row in rows if not row.torch or not row.here] == []


def test_each_pattern_in_differences_names_something_of_torch_s(table):
    names = [name.removeprefix("torch.") for name in table.torch_names()[1]]
    known = [*names, "cuda.*", "nn.Module.to", "autograd.graph.Node"]  # outside of what is listed
    unused = [
        pattern
        for row in table.differences()
        for pattern in row.patterns
        if not any(table.Difference("", "", "", "", (pattern,)).is_about(name) or name == pattern for name in known)
    ]
    assert unused == []


def test_the_page_is_filled(table):
    page = table.fill((DOCS / "torch_names.md").read_text())
    assert "{{" not in page
    assert page.count("<tr class=") == len(table.rows()) > 1500


def test_the_list_is_what_torch_has(table):
    torch = pytest.importorskip("torch")
    version, names = table.torch_names()
    if torch.__version__.partition("+")[0] != version:
        pytest.skip(f"the list is of torch {version}")

    def there(name):
        value = torch
        for part in name.split(".")[1:]:
            value = getattr(value, part)
        return True

    assert all(there(name) for name in names)
    assert len(names) > 1500

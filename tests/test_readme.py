"""The README and the guide say nothing that does not run."""

import re
import tomllib
from pathlib import Path

import pytest

from tapegrad.cli import _parser

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/tour.md", "docs/data.md", "docs/checkpoints.md"]
PAGES += ["docs/differences.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_s_lines_train_a_model(capsys):
    program, captured = blocks("README.md", "python")
    assert len(program.splitlines()) == 15
    names = {}
    exec(program, names)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5
    assert losses[-1] < losses[0] / 50
    exec(captured, names)
    assert names["losses"].shape == (4,)
    assert names["losses"].mean() < losses[0] / 50


def test_the_tour_s_cells_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    cells = blocks("docs/tour.md", r"\{code-cell\} python")
    assert len(cells) > 3
    for cell in cells:
        exec(cell, names)
    assert names["loss"].item() < 0.01


@pytest.mark.parametrize("page", ["docs/data.md", "docs/checkpoints.md"])
def test_a_page_s_cells_run_and_their_claims_hold(page):
    names = {}
    cells = blocks(page, r"\{code-cell\} python")
    assert len(cells) >= 3
    for cell in cells:
        *lines, last = cell.rstrip().split("\n")
        if " == " not in last:
            exec(cell, names)
            continue
        exec("\n".join(lines), names)
        assert eval(last, names), last


def test_commands_name_extras_and_subcommands_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    commands = "\n".join(block for page in PAGES for block in blocks(page, "bash"))
    named = re.findall(r'pip install (?:-e )?"\.\[([a-z,]+)\]"', commands)
    assert len(named) >= 3
    assert {extra for group in named for extra in group.split(",")} <= set(extras)
    for command in set(re.findall(r"tapegrad ([a-z]+)", commands)):
        _parser().parse_args([command])


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_table_of_commands_is_complete():
    listed = set(re.findall(r"^\| `tapegrad ([a-z]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == {"demo", "info", "warmup", "cache", "trace"}


def test_the_table_of_checks_is_complete():
    file = ROOT / "noxfile.py"
    if not file.exists():
        pytest.skip("the checks are not beside the tests")
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)\(", file.read_text(), re.MULTILINE)
    table = re.findall(r"^\| ((?:`\w+`,? ?)+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = re.findall(r"`(\w+)`", "".join(table))
    assert len(sessions) > 10 and set(sessions) <= set(listed)


def test_the_readme_has_the_section_that_the_page_on_performance_shows():
    page, readme = (ROOT / "docs" / "performance.md").read_text(), (ROOT / "README.md").read_text()
    first, last = re.findall(r':(?:start-after|end-before): "(.*)"', page)
    assert first in readme.partition(last)[0]

"""The API reference: what its pages show of a class, and what their sections are called."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest

from tapegrad import nn

EXTENSIONS = Path(__file__).parent.parent / "docs" / "_ext"


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(EXTENSIONS))
    try:
        import reference_pages
    finally:
        sys.path.remove(str(EXTENSIONS))
    return reference_pages


def shown(pages, owner):
    return {name for line in pages.members(owner) for name in line.removeprefix("   :members: ").split(", ")}


def test_what_a_class_has_from_bases_without_a_page_is_shown(pages):
    assert {"parameters", "state_dict", "load_state_dict", "register_buffer", "to"} <= shown(pages, nn.Module)
    assert {"append", "insert", "forward"} <= shown(pages, nn.Sequential)
    assert shown(pages, nn.Linear) == {"forward"}


def test_titles_are_of_files_that_exist_and_are_short(pages):
    for name, title in pages.TITLES.items():
        assert title != pages.first_sentence(importlib.import_module(name))
    lines = [line for page in {**pages.function_pages(), **pages.module_pages()}.values() for line in page]
    titles = [line for line, mark in itertools.pairwise(lines) if mark and not mark.strip("-")]
    assert len(titles) > 100
    assert [
        title for title in titles if len(title) > 85 or title.endswith(",") or ";" in title or "as users" in title
    ] == []

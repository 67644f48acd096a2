"""Every message that the page of errors and cures quotes is still in the source."""

import ast
import re
from pathlib import Path

import pytest

import tapegrad

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
HOLE = "\0"  # where a formatted value stands in a message


def texts_of(tree: ast.AST) -> list[str]:
    """Return the string constants of a source, formatted values replaced by holes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def is_said(message: str, texts: list[str]) -> bool:
    """Whether a message, in which ``...`` stands for anything, is a part of one of the texts."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts)


@pytest.fixture(scope="module")
def texts():
    sources = Path(tapegrad.__file__).parent.rglob("*.py")
    return [text for source in sources for text in texts_of(ast.parse(source.read_text()))]


def quoted() -> list[str]:
    return re.findall(r"^`(.+)`\n: ", PAGE.read_text(), re.MULTILINE)


def test_there_are_many_messages():
    assert len(quoted()) > 40


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_source(texts, message):
    assert is_said(message, texts)


def test_a_message_that_nobody_says_is_found(texts):
    assert not is_said("the tensor is tired ... come back later", texts)
    assert is_said("one ... three", ["one \0 two \0 three"])
    assert not is_said("three ... one", ["one \0 two \0 three"])

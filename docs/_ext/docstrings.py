"""Turns docstrings, which are plain text with sections such as Args, into what Sphinx reads.

What looks like markup outside of backticks and examples is text: ``x ** 2``, ``relu_``, ``|x|``.
"""

import inspect
import re

import tapegrad as tg
from tapegrad.ops.describe import gradients
from tapegrad.ops.registry import registry

TITLE = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Examples?|Differs from torch):$")
ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: \(([^)]*)\))?:(?:\s+(.*)|$)")
REFERENCE = re.compile(r"((?:[Ss]ee|[Aa]s of|those of|form of|as for) )``([\w.]+)``")
FIELDS = {"Args": "param", "Attributes": "ivar", "Raises": "raises"}
PLACES = ("", "nn.", "nn.functional.", "optim.", "autograd.", "func.", "linalg.")


def escaped(line: str) -> str:
    """Return a line of text with markup made text, but for phrases in double backticks."""
    parts = re.split(r"(``.+?``)", line)
    for k in range(0, len(parts), 2):
        text = re.sub(r"`([^`]+)`", r"\1", parts[k])
        parts[k] = re.sub(r"([*|\\])|(?<=\w)_(?!\w)", lambda found: "\\" + found.group(), text)
    return REFERENCE.sub(linked, "".join(parts))


def linked(found: re.Match[str]) -> str:
    """Return "see ``name``" with a link to what the name means, if it is public."""
    name = found.group(2).removeprefix("tapegrad.")
    for place in PLACES:
        value = tg
        for part in f"{place}{name}".split("."):
            value = getattr(value, part, None)
        if callable(value):
            return f"{found.group(1)}:py:obj:`{name} <tapegrad.{place}{name}>`"
    return found.group()


def converted(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    out: list[str] = []
    for title, block in sections(lines):
        body = text_of(block)
        if title in FIELDS:
            out += ["", *entries(FIELDS[title], block)]
        elif title in ("Returns", "Yields"):
            first, *rest = inspect.cleandoc("\n".join(body)).split("\n")
            out += ["", f":{title.lower()}: {first}", *(f"    {line}" if line else "" for line in rest)]
        elif title:
            out += ["", f".. rubric:: {title}", "", *inspect.cleandoc("\n".join(body)).split("\n")]
        else:
            out += body
        out.append("")
    return out


def sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Return the titles and lines of a docstring's sections; what comes first has no title."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        if title := TITLE.match(line):
            found.append((title.group(1), []))
        elif found[-1][0] and line and not line.startswith(" "):
            found.append(("", [line]))  # text behind a section
        else:
            found[-1][1].append(line)
    return found


def text_of(block: list[str]) -> list[str]:
    """Return lines with their text escaped: not in examples, nor in what follows ``::``."""
    out: list[str] = []
    example, quoted = False, -1
    for line in block:
        indent = len(line) - len(line.lstrip())
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        quoted = -1 if line.strip() and indent <= quoted else quoted
        out.append(line if example or quoted >= 0 else escaped(line))
        if line.rstrip().endswith("::"):
            quoted = indent
    return out


def entries(field: str, block: list[str]) -> list[str]:
    """Return the fields that a section's entries make, one for each name."""
    width = min((len(line) - len(line.lstrip()) for line in block if line.strip()), default=0)
    found: list[tuple[list[str], list[str]]] = []
    for line in block:
        entry = ENTRY.match(line[width:])
        if entry and not line[width:].startswith(" "):
            names = [entry.group(1)] if field == "raises" else entry.group(1).split(", ")
            found.append((names, [entry.group(3) or ""]))
        elif found:
            found[-1][1].append(line[width + 4 :] if line[width:].startswith("    ") else line.strip())
    out = []
    for names, lines in found:
        first, *rest = text_of(lines)
        for name in names:
            mark = escaped(name)
            out += [f":{field} {mark}: {first}", *(f"    {line}" if line else "" for line in rest)]
    return out


def derivative(name: str) -> list[str]:
    """Return the gradient of a public op's function as a paragraph."""
    op = registry.get(name.removeprefix("tapegrad."))
    if op is None or not op.public or not (rules := gradients(op)) or max(map(len, rules.values())) > 100:
        return []
    several = f"``g0`` to ``g{op.outputs - 1}`` are the gradients" if op.outputs > 1 else "``g`` is the gradient"
    made = [f"- {operand}: ``{text}``" for operand, text in rules.items()]
    return ["", ".. rubric:: Gradients", "", f"where {several} of the result and ``y`` is the result:", "", *made, ""]


def process(app: object, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Convert a docstring in place: what Sphinx calls for each."""
    lines[:] = converted(lines) + (derivative(name) if what == "function" else [])


class Named:
    """A default value that is shown by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def name_defaults(app: object, function: object, bound: bool) -> None:
    """Have functions that are defaults shown as ``relu``: no signature can be read with ``<function relu>`` in it."""
    if not inspect.isfunction(function):
        return
    signature = inspect.signature(function)
    shown = [
        p.replace(default=Named(p.default.__name__)) if inspect.isroutine(p.default) else p
        for p in signature.parameters.values()
    ]
    if shown != list(signature.parameters.values()):
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]


def setup(app: object) -> dict[str, bool]:
    """Register the conversions; have annotations name two classes as users do, so that they become links."""
    tg.Tensor.__module__, tg.nn.Module.__module__ = "tapegrad", "tapegrad.nn"
    app.connect("autodoc-process-docstring", process)  # type: ignore[attr-defined]
    app.connect("autodoc-before-process-signature", name_defaults)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}

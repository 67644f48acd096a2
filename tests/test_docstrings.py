"""Every public name has a docstring, which explains each parameter or refers to one that does."""

import functools
import importlib
import inspect
import re

import pytest

import tapegrad as tg
from tapegrad.ops.parameters import completed, mentioned
from tapegrad.ops.registry import registry

MODULES = [
    *("tapegrad", "nn", "nn.functional", "nn.init", "nn.utils", "nn.utils.rnn", "nn.utils.parametrize"),
    *("nn.utils.parametrizations", "optim", "optim.lr_scheduler", "optim.swa_utils"),
    *("autograd", "autograd.functional", "func", "linalg", "special", "utils", "utils.data"),
    *("datasets", "serialization", "capture", "viz", "cuda", "library"),
]
# "see ``conv2d``", "arguments as conv2d's", "In-place form of ``relu``", "Return ``empty`` of the shape"
REFERENCE = re.compile(
    r"(?:[Ss]ee(?: also)?|[Aa]rguments (?:are |as )*(?:those )?(?:of|for|as)?|(?:form|name) of|what|does|as|like"
    r"|Return(?= ``))"
    r"\s+(?:the |torch's )?(?:``)?([A-Za-z_][\w.]*\w)"
)

ENTRY = r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)\n]*\))?:\s"


def module_of(name):
    return importlib.import_module("tapegrad" if name == "tapegrad" else f"tapegrad.{name}")


def names_of(module):
    own = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]
    return [name for name in getattr(module, "__all__", None) or own if not name.startswith("_")]


def members(owner):
    """The methods and properties that a class defines itself."""
    for name, value in vars(owner).items():
        body = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and (inspect.isfunction(body) or isinstance(body, property)):
            yield name, body


@functools.cache
def public():
    """Every public function, class, method and property, by its dotted name; those of several names by the first."""
    found, seen = {}, set()

    def add(name, value):
        if id(value) not in seen and not inspect.ismodule(value):
            seen.add(id(value))
            found[name] = value

    for place in MODULES:
        for name in names_of(module_of(place)):
            value = getattr(module_of(place), name)
            if callable(value):
                add(f"{place}.{name}", value)
            if inspect.isclass(value):
                for member, body in members(value):
                    add(f"{place}.{name}.{member}", body)
    return found


@functools.cache
def by_last_name():
    """What a name in a docstring may mean: every public object of that name."""
    table = {}
    for place in MODULES:
        for name in names_of(module_of(place)):
            value = getattr(module_of(place), name)
            table.setdefault(name, []).append(value)
            for member, body in members(value) if inspect.isclass(value) else ():
                table.setdefault(member, []).append(body)
    return table


def own_docstring(value):
    return value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__


def parameters(value):
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):
        return []
    kinds = inspect.Parameter
    return [
        name
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls") and parameter.kind is not kinds.VAR_KEYWORD and not name.startswith("_")
    ]


def referred(doc):
    """The public objects that a docstring refers to."""
    names = {name.rstrip(".").removesuffix("'s").rpartition(".")[2] for name in REFERENCE.findall(doc)}
    return [value for name in sorted(names) for value in by_last_name().get(name, ())]


def explains(doc, name, depth=3):
    """Whether a docstring, or one that it refers to, says something of a parameter."""
    if name in mentioned(inspect.cleandoc(doc)):
        return True
    return depth > 0 and any(
        explains(base_docstrings(value), name, depth - 1) for value in referred(doc) if name in parameters(value)
    )


def base_docstrings(value):
    classes = value.__mro__ if inspect.isclass(value) else ()
    return "\n".join(inspect.cleandoc(own_docstring(k) or "") for k in (classes[:-1] or (value,)))


def says_shapes(doc):
    """Whether the docstring of a layer's ``forward`` says the shape of what goes in: in brackets, or in words."""
    return bool(re.search(r"[\[(][\w., *]+[\])]|shape|of the input|batch", doc))


def unexplained(name, value):
    """The parameters that nothing explains: not the docstring, nor that of the class or of the method it overrides."""
    owner = public().get(name.rpartition(".")[0])
    docs = [base_docstrings(value)]
    if name.startswith("nn.") and name.endswith(".forward") and says_shapes(docs[0]):
        return []
    if inspect.isclass(owner):
        last = name.rpartition(".")[2]
        docs += [base_docstrings(owner), *(k.__dict__[last].__doc__ or "" for k in owner.__mro__ if last in vars(k))]
    return [p for p in parameters(value) if not isinstance(value, property) and not any(explains(d, p) for d in docs)]


def test_every_public_name_has_a_docstring():
    assert [name for name, value in public().items() if not (own_docstring(value) or "").strip()] == []


def test_every_module_says_what_it_is():
    assert [name for name in MODULES if not module_of(name).__doc__] == []


def test_docstrings_begin_with_a_sentence():
    def first(value):
        return inspect.cleandoc(own_docstring(value) or "").split("\n\n")[0]

    assert [name for name, value in public().items() if not first(value).rstrip().endswith((".", ":"))] == []


def test_every_parameter_is_explained():
    found = {name: names for name, value in public().items() if (names := unexplained(name, value))}
    assert found == {}


def test_sections_name_parameters_that_exist():
    """An entry of Args is a parameter of the function: docstrings do not outlive a renamed argument."""
    wrong = {}
    for name, value in public().items():
        section = re.search(r"^Args:\n((?: +.*\n?|\n)+)", inspect.cleandoc(own_docstring(value) or ""), re.MULTILINE)
        entries = re.findall(ENTRY, section.group(1), re.MULTILINE) if section else []
        named = {word for entry in entries for word in re.findall(r"\w+", entry)}
        taken = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(value).parameters.values()) if named else False
        if named and not taken and (extra := named - set(inspect.signature(value).parameters)):
            wrong[name] = sorted(extra)
    assert wrong == {}


@pytest.mark.parametrize("op", [op for op in registry.values() if op.public], ids=lambda op: op.name)
def test_every_op_has_a_formula(op):
    assert op.math


def test_generated_docstrings_have_formula_operands_and_errors():
    doc = tg.hypot.__doc__
    assert "``(x^2 + w^2)^(1/2)``" in doc and "float32, float64" in doc and "    other: a tensor" in doc
    assert "Raises:\n    TypeError" in doc and "the shape that the operands broadcast to" in doc
    assert tg.Tensor.hypot_.__doc__.startswith("In-place form of ``hypot``")


# ---- the checks can fail ----


def test_an_unexplained_parameter_is_found():
    def function(input, other):
        """Return ``input``."""

    assert unexplained("function", function) == ["other"]
    function.__doc__ = "Return what ``hypot`` does with ``input``."
    assert unexplained("function", function) == []


def test_entries_are_read_in_all_their_forms():
    doc = "One.\n\nArgs:\n    a, *b: two.\n    c (int): three.\n    d:\n        four: not this.\n"
    assert mentioned(doc) >= {"a", "b", "c", "d"}


def test_completion_adds_what_is_missing_only():
    doc = "Return a sum.\n\n    Args:\n        input: mine.\n\n    Raises:\n        TypeError: always.\n    "
    done = completed(doc, ["input", "out"], {"input": "a tensor.", "out": "a place."})
    assert done == "Return a sum.\n\nArgs:\n    input: mine.\n    out: a place.\n\nRaises:\n    TypeError: always."
    assert completed(doc, ["input"], {"input": "a tensor."}) is doc

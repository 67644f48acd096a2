"""Writes the pages of the API reference into docs/api from what is public: a new function finds its page by its file.

Each page has sections, one for each file in which something is defined; the file's first line is the section's title,
or what TITLES says where that line is meant for those who read the file.
"""

import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docstrings import escaped

import tapegrad as tg
from tapegrad.ops.elementwise import families

# pages of tg.'s functions: file, title, the files whose functions are on it
FUNCTION_PAGES = [
    ("creation", "Making tensors", "construct exchange creation random windows legacy"),
    (
        "elementwise",
        "Mathematics, element by element",
        "arithmetic combinations division powers exponential trigonometric special rounding extremes number_theory "
        "comparisons logic selection",
    ),
    ("reductions", "Sums, statistics, order", "reductions statistics scans sorting ranking searching uniqueness"),
    ("shapes", "Shapes, parts, indices", "views parts reshaping joining arranging index_functions scatter writing"),
    ("matrices", "Matrices", "matmul einsum linalg linalg_more linalg_norms bilinear distances"),
    (
        "networks",
        "Functions of networks",
        "activations smooth_activations shrinking softmax normalization convolution shuffles dropouts embeddings "
        "losses class_losses probability_losses margin_losses ctc",
    ),
    (
        "settings",
        "Modes, dtypes, settings, files",
        "modes dtype info convert printing properties files compiled saved tape",
    ),
]
# pages of modules: file, title, modules
MODULE_PAGES = [
    ("nn", "nn: layers and losses", "nn"),
    ("functional", "nn.functional", "nn.functional"),
    ("init", "nn.init: how weights begin", "nn.init"),
    ("nn_utils", "nn.utils", "nn.utils nn.utils.rnn nn.utils.parametrize nn.utils.parametrizations"),
    ("optim", "optim: optimisers", "optim"),
    ("lr_scheduler", "optim.lr_scheduler", "optim.lr_scheduler"),
    ("swa_utils", "optim.swa_utils: averages of weights", "optim.swa_utils"),
    ("autograd", "autograd: gradients, custom functions, checks", "autograd"),
    ("autograd_functional", "autograd.functional", "autograd.functional"),
    ("func", "func: transformations of functions", "func"),
    ("linalg", "linalg: linear algebra", "linalg"),
    ("special", "special: special functions", "special"),
    ("data", "utils.data: data sets and loaders", "utils.data"),
    ("datasets", "datasets: real data without downloads", "datasets"),
    ("serialization", "serialization: files", "serialization"),
    ("library", "library: ops of your own", "library"),
    ("capture", "compile, programs and .njit", "capture"),
    ("viz", "The tape, looked at", "viz"),
    ("cuda", "cuda: what there is instead", "cuda"),
]
TITLES = {
    "tapegrad.autograd.differences": "What a failed check raises",
    "tapegrad.capture.pure": ".njit for transformations of functions",
    "tapegrad.datasets.installed": "What is raised where a package is missing",
    "tapegrad.datasets.splitting": "A part to train on and a part to test with",
    "tapegrad.library.declare": "Ops of your own",
    "tapegrad.nn": "Module",
    "tapegrad.nn.activation_functions": "Activation functions",
    "tapegrad.ops.arranging": "Other functions of whole tensors",
    "tapegrad.ops.combinations": "Sums and differences",
    "tapegrad.ops.creation": "Tensors without data",
    "tapegrad.ops.linalg_more": "The matrix exponential, tensor equations, forms that report errors",
    "tapegrad.ops.linalg_norms": "Norms, rank, condition, powers and products",
    "tapegrad.ops.ranking": "Medians, modes, the largest elements",
    "tapegrad.runtime.errors": "What is raised for a matrix that will not do",
    "tapegrad.tensor.exchange": "Memory of other libraries (DLPack)",
    "tapegrad.tensor.info": "Dtypes, memory and threads",
    "tapegrad.utils.data.collate": "Batches of samples",
}
HIDDEN = {"extra_repr", "reset_parameters", "state_dict_hook"}  # of layers: everyone has them, with nothing to say


def titled(text: str, mark: str) -> list[str]:
    text = escaped(text)
    return [text, mark * len(text), ""]


def first_sentence(module: Any, marks: str = ".") -> str:
    """Return what a file says that it is, up to one of the marks."""
    text = inspect.cleandoc(module.__doc__ or module.__name__).split("\n\n")[0].replace("\n", " ")
    return re.split(rf"[{marks}] ", text)[0].rstrip(".").replace("``", "").replace("`", "")


def title_of(module: Any) -> str:
    """Return the title of the section with what a file defines."""
    said = re.sub(",? as users (call|see) (them|it)$", "", first_sentence(module, ".:;"))
    return TITLES.get(module.__name__, said)


def names_of(module: Any) -> list[str]:
    own = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]
    return sorted(name for name in getattr(module, "__all__", None) or own if not name.startswith("_"))


def home(name: str, value: Any) -> str:
    """Return the name of the file that defines a function: for generated ones the file of the declaration."""
    body = inspect.unwrap(value)
    found = body.__module__ if hasattr(body, "__module__") else type(body).__module__
    return families.get(name.rstrip("_"), found) if found == "tapegrad" else found


def by_home(places: Iterable[tuple[str, Any]]) -> dict[str, list[tuple[str, Any]]]:
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, value in places:
        found.setdefault(home(name.rpartition(".")[2], value), []).append((name, value))
    return found


def described(name: str, value: Any) -> list[str]:
    """Return the directive that shows a public object."""
    if inspect.isclass(value):
        return [f".. autoclass:: tapegrad.{name}", *members(value), ""]
    if inspect.isroutine(value) or hasattr(value, "__code__"):
        return [f".. autofunction:: tapegrad.{name}", ""]
    return [f".. autodata:: tapegrad.{name}", "   :no-value:", ""]


def members(owner: type) -> list[str]:
    """Return the options that show a class's public members, and those it has from bases that no page shows.

    Of a layer also the forward that it inherits.
    """
    bases = itertools.takewhile(lambda base: base is owner or base not in shown_classes(), owner.__mro__)
    found = {name: value for base in bases if base is not object for name, value in vars(base).items()}
    own = [n for n, v in found.items() if not n.startswith("_") and n not in HIDDEN and _is_member(v)]
    if owner is not tg.nn.Module and issubclass(owner, tg.nn.Module) and owner.forward is not tg.nn.Module.forward:
        own += [] if "forward" in own else ["forward"]
    return [f"   :members: {', '.join(own)}"] if own else []


@functools.cache
def shown_classes() -> set[type]:
    """Return the classes that have a place on some page."""
    modules = [tg, *(importlib.import_module(f"tapegrad.{p}") for _, _, places in MODULE_PAGES for p in places.split())]
    values = [getattr(module, name) for module in modules for name in names_of(module)]
    return {value for value in values if inspect.isclass(value)}


def _is_member(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)


def another_name(name: str, first: str) -> list[str]:
    """Return the directive for a further name of a function that the page shows already."""
    return [
        f".. py:function:: tapegrad.{name}(...)",
        "",
        f"   The same function as :py:obj:`{first} <tapegrad.{first}>`.",
        "",
    ]


def sections(found: dict[str, list[tuple[str, Any]]], order: list[str]) -> list[str]:
    lines = []
    for module in sorted(found, key=order.index):
        lines += titled(title_of(importlib.import_module(module)), "-")
        shown: dict[int, str] = {}
        for name, value in found[module]:
            first = shown.setdefault(id(value), name)
            lines += described(name, value) if first == name else another_name(name, first)
    return lines


def functions() -> list[tuple[str, Any]]:
    """Return tg.'s own functions and classes: no modules, and not what another page shows."""
    values = [(name, getattr(tg, name)) for name in sorted(tg.__all__) if not name.startswith("_")]
    return [(n, v) for n, v in values if callable(v) and v is not tg.Tensor and not inspect.ismodule(v)]


def function_pages() -> dict[str, list[str]]:
    found = by_home(functions())
    pages = {}
    for file, title, homes in FUNCTION_PAGES:
        order = [module for last in homes.split() for module in found if module.rpartition(".")[2] == last]
        pages[file] = [*titled(title, "="), *sections({module: found.pop(module) for module in order}, order)]
    if found:
        raise RuntimeError(f"no page of the reference shows {found}: add the file to FUNCTION_PAGES")
    return pages


def module_pages() -> dict[str, list[str]]:
    pages = {}
    shown = [value for _, value in functions() if inspect.isclass(value)]  # a class has one page
    for file, title, modules in MODULE_PAGES:
        lines = titled(title, "=")
        for place in modules.split():
            module = importlib.import_module(f"tapegrad.{place}")
            values = [(f"{place}.{n}", getattr(module, n)) for n in names_of(module)]
            found = by_home((n, v) for n, v in values if callable(v) and v not in shown)
            lines += [f"{escaped(first_sentence(module))}.", ""]
            if place == "viz":
                found = {module.__name__: [("tape", tg.tape), *found.get(module.__name__, [])]} | found
            lines += sections(found, sorted(found))
        pages[file] = lines
    return pages


def tensor_page() -> list[str]:
    """Return the page of Tensor: what only it has, and the names of the functions that are methods too."""
    names = [name for name in dir(tg.Tensor) if not name.startswith("_")]
    own = [name for name in names if getattr(tg.Tensor, name) is not getattr(tg, name, None)]
    shared = [name for name in names if name not in own]
    lines = [*titled("Tensor", "="), ".. autoclass:: tapegrad.Tensor", ""]
    for title, kind in (("Attributes", property), ("Methods", object)):
        lines += titled(title, "-")
        for name in [n for n in own if isinstance(getattr(tg.Tensor, n), kind)]:
            own.remove(name)
            directive = "autoattribute" if kind is property else "automethod"
            lines += [f".. {directive}:: tapegrad.Tensor.{name}", ""]
    lines += titled("Functions that are methods too", "-")
    lines += ["``x.exp()`` is ``tapegrad.exp(x)``: the tensor is the first argument.", ""]
    return [*lines, ", ".join(f":py:obj:`{name} <tapegrad.{name}>`" for name in shared), ""]


def index_page() -> list[str]:
    pages = [("tensor", "Tensor"), *((file, title) for file, title, _ in FUNCTION_PAGES + MODULE_PAGES)]
    lines = titled("API", "=")
    lines += [
        "Every public name, from the docstrings; their examples run in the tests. ``tg`` stands for ``tapegrad``.",
        "Names, arguments and exceptions are PyTorch's; where the two differ, :doc:`../differences` says so. Shapes",
        "are in square brackets: ``[batch, features]``; ``[..., n]`` has any dimensions in front. All names in",
        "alphabetical order are in the :ref:`index <genindex>`.",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
    ]
    return [*lines, *(f"   {title} <{file}>" for file, title in pages), ""]


def write(folder: Path) -> None:
    """Write all pages; those that have not changed are left alone, so that Sphinx need not read them again."""
    folder.mkdir(exist_ok=True)
    pages = {"index": index_page(), "tensor": tensor_page(), **function_pages(), **module_pages()}
    for name, lines in pages.items():
        path, text = folder / f"{name}.rst", "\n".join(lines)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "api"))
    return {"parallel_read_safe": True}

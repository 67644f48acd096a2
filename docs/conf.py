"""How Sphinx builds the documentation: Markdown pages whose code cells are run, in the pydata theme."""

import sys
from pathlib import Path

from tapegrad.version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))  # docstrings.py, reference_pages.py, ...

project = "tapegrad"
author = "tapegrad contributors"
copyright = "2026, tapegrad contributors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "reference_pages", "op_table", "floors_drawing"]
exclude_patterns = ["_build", "jupyter_execute", "api/_*", "peers_table.md"]  # notebooks: myst-nb writes them
nitpicky = True
# annotations name what has no page here: Python's and Numba's types, private classes
nitpick_ignore_regex = [(r"py:(class|exc|data)", ".*")]

autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "tapegrad"
_logo = "_static/logo.svg"
html_theme_options = {
    "show_toc_level": 2,
    "logo": {"text": "tapegrad", "image_light": _logo, "image_dark": _logo},
}
html_static_path = ["_static"]
html_favicon = _logo
html_css_files = ["site.css"]

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # cells may write files
nb_execution_timeout = 120  # seconds a cell: the first one may compile
nb_merge_streams = True
suppress_warnings = ["myst-nb.lexer"]  # cells that are not executed tell no lexer
myst_enable_extensions = ["colon_fence", "deflist"]


def setup(app):
    """Fill in the table of torch's names, which is made from three sources."""
    sys.path.insert(0, str(Path(__file__).parent))
    from torch_table import fill

    def read(app, page, source):
        if page == "torch_names":
            source[0] = fill(source[0])

    app.connect("source-read", read)

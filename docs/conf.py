"""How Sphinx builds the documentation: Markdown pages whose code cells are run, in the pydata theme."""

from tapegrad.version import __version__

project = "tapegrad"
author = "tapegrad contributors"
copyright = "2026, tapegrad contributors"
version = release = __version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = "tapegrad"
html_theme_options = {"show_toc_level": 2}
html_static_path = ["_static"]
html_css_files = ["site.css"]

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # cells may write files
nb_execution_timeout = 120  # seconds a cell: the first one may compile
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]

"""The site: guides in Markdown, and a reference made from the package's docstrings. `make docs` builds it."""

import bertwright

project = "Bertwright"
author = "the Bertwright project"
copyright = "the Bertwright project, Apache-2.0"
version = release = bertwright.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["lesson"]
myst_heading_anchors = 3
highlight_language = "none"  # blocks without a language are output of commands

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Bertwright"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_js_files = ["options.js"]
html_css_files = ["options.css"]

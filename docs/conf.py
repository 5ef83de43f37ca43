"""Sphinx configuration. Everything is local: no page, style or inventory is fetched."""

import sys
from pathlib import Path

import mashbill

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mashbill"
author = "the mashbill authors"
copyright = "the mashbill authors; Apache License 2.0"
version = release = mashbill.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build", "_generated/*.md"]
html_theme = "furo"
html_title = f"mashbill {version}"
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of a dataclass are described once, in its docstring
napoleon_attr_annotations = False  # types are in the signature; as text, `*batch` would be markup
napoleon_use_rtype = False

# A class that names itself in a signature is found by its bare name, which the report's schema may share.
suppress_warnings = ["ref.python"]

# Examples in docstrings run in the test suite, where they see their own module; here only the pages' own examples run.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import torch; torch.set_num_threads(1); torch.manual_seed(0)"

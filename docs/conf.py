"""How Sphinx builds this site: `tox -e docs`, or `sphinx-build -W docs build/docs`."""

import pytest_plan

project = "pytest-plan"
author = "pytest-plan contributors"
copyright = author
release = version = pytest_plan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]  # read on their own, and run by the tests
html_theme = "furo"
html_title = "pytest-plan"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

add_module_names = False
default_role = "code"  # our docstrings write code as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # attributes as one list, as the docstrings have them
python_maximum_signature_line_length = 80

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

"""How Sphinx builds this site: `tox -e docs`, or `sphinx-build -W docs build/docs`."""

import pytest_plan

project = "pytest-plan"
author = "pytest-plan contributors"
copyright = author
release = version = pytest_plan.__version__

extensions = ["myst_parser"]
exclude_patterns = ["examples"]  # read on their own, and run by the tests
html_theme = "furo"
html_title = "pytest-plan"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

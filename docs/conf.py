"""Sphinx: the pages of this folder as a site (``make docs``), and pages of a reference that is made from the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = Path(__file__).parent

project = "vit-forgetting-bench"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {release}"

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


OUTSIDE = re.compile(r"(?<=\]\()(?=\.\./[^)#]+\.md\))")
"""Where the address of a Markdown file begins that is no page of the site."""


def setup(app: Sphinx) -> None:
    """Write the reference before pages are looked for."""
    sys.path.insert(0, str(FOLDER))
    import generate

    generate.write(FOLDER / "reference")
    app.connect("source-read", _attach)


def _attach(app: Sphinx, page: str, source: list[str]) -> None:
    """Let the site hold Markdown files from elsewhere as they are, like any other file that a page leads to."""
    source[0] = OUTSIDE.sub("path:", source[0])

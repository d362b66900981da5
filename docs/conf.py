"""The site: `make docs`, offline, every warning an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from fedpeft_reference import read_scores

from fedpeft import __version__

project = "fedpeft"
author = "the fedpeft contributors"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "fedpeft_reference",
]
myst_enable_extensions = ["colon_fence", "substitution"]
myst_substitutions = read_scores()  # {{ FILE_METHOD }}, with _worst and _mib
myst_heading_anchors = 3
exclude_patterns = ["_ext", "_build", "_generated/paper_table.md"]
html_theme = "furo"
html_title = f"fedpeft {__version__}"
html_static_path: list[str] = []
autodoc_typehints = "description"
autodoc_member_order = "bysource"
linkcheck_ignore = [r"https?://.*"]  # links to other sites are not asked for: the site builds without a network

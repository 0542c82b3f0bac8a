"""How Sphinx makes a site of these pages: `make docs`. Each page can be read on GitHub as well."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/OWNER/cookiecutter-django-q2"

project = "cookiecutter-django-q2"
author = "its contributors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nitpicky = True
suppress_warnings = ["myst.header"]  # `make bench` begins its tables a level deeper
linkcheck_ignore = ["https?://localhost.*", rf"{REPOSITORY}.*"]  # OWNER is a placeholder
LINK = re.compile(r"(?<=\]\()(?:\.\./)+[^)#\s]+")


def lead_to_the_repository(app: Any, page: str, source: list[str]) -> None:
    """Let links that leave this folder lead to the repository, as they do on GitHub."""

    def address(link: re.Match[str]) -> str:
        target = (ROOT / "docs" / page).parent.joinpath(link[0]).resolve()
        if target.is_relative_to(ROOT / "docs") or not target.exists():
            return link[0]
        return f"{REPOSITORY}/{'tree' if target.is_dir() else 'blob'}/main/{target.relative_to(ROOT)}"

    source[0] = LINK.sub(address, source[0])


def setup(app: Any) -> None:
    """Have Sphinx do so."""
    app.connect("source-read", lead_to_the_repository)

"""Print the notes of a release, its section of CHANGELOG.md, if the tag is the version and its heading has a day."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notes(tag: str, version: str, changelog: str) -> str:
    """Return the section; end with a sentence that says what does not fit."""
    heading, _, rest = changelog.partition("\n## ")[2].partition("\n")
    if tag != version:
        sys.exit(f"The tag is {tag}, and _version in cookiecutter.json {version}.")
    if not re.fullmatch(rf"{re.escape(tag)} - \d{{4}}-\d\d-\d\d", heading):
        sys.exit(f"The first heading of CHANGELOG.md is {heading!r}: write '## {tag} - ' and the day.")
    return rest.partition("\n## ")[0].strip()


if __name__ == "__main__":
    version = json.loads((ROOT / "cookiecutter.json").read_text())["_version"]
    print(notes(sys.argv[1], version, (ROOT / "CHANGELOG.md").read_text()))

"""Which files of this folder are not as they were released: the next version, which replaces all, would drop that.

It imports nothing of its own, since what makes the manifest, and what replaces the folder, has no Django.
"""

import hashlib
import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NAME = "manifest.json"


def hashes(folder: Path = FOLDER) -> dict[str, str]:
    """Return the hash of each file, by its path in the folder; git may have changed the ends of lines."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        theirs = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)  # caches of tools, say
        if name != NAME and not theirs and path.is_file():
            found[name] = hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    return found


def write() -> None:
    """Take the files as they are for those of the release."""
    (FOLDER / NAME).write_text(json.dumps(hashes(), indent=2) + "\n")


def changed(folder: Path = FOLDER) -> list[str]:
    """Return what has been changed, added or deleted since."""
    there, released = hashes(folder), json.loads((folder / NAME).read_text())
    if not isinstance(released, dict):
        raise ValueError("it holds no object")
    return sorted(name for name in there.keys() | released.keys() if there.get(name) != released.get(name))

"""A module that has everything, and refuses to give it away."""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    """Raise what nobody expects of a module."""
    raise ValueError(f"{name} is not given away")

"""The combinations of answers, read from cookiecutter.json: no choice stands a second time in these tests."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = Path(__file__).resolve().parent.parent
TREE = TEMPLATE / "{{cookiecutter.project_slug}}"
CONTEXT: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
CHOICES: dict[str, list[str]] = {
    key: value for key, value in CONTEXT.items() if isinstance(value, list) and key[0] != "_"
}


@dataclass(frozen=True)
class Combination:
    """One choice for each question that offers some."""

    broker: str
    hosting: str
    queues: str
    django_version: str

    @property
    def answers(self) -> dict[str, str]:
        """What a user would answer."""
        return {question: getattr(self, question) for question in CHOICES}

    @property
    def row(self) -> dict[str, Any]:
        """What cookiecutter.json knows of the broker."""
        row: dict[str, Any] = CONTEXT["_brokers"][self.broker]
        return row

    @property
    def python(self) -> tuple[int, ...]:
        """The oldest Python on which the Django runs."""
        return version(CONTEXT["_djangos"][self.django_version]["python"])

    @property
    def environment(self) -> str:
        """The name of what this combination has in common with all others that install the same packages."""
        return f"{self.broker}-{self.django_version}"

    @property
    def distribution(self) -> str:
        """The project's name where no underscore may be in it, if the name is the one that is offered."""
        return str(CONTEXT["project_name"]).lower().replace(" ", "-")

    def __str__(self) -> str:
        """Return the test's id."""
        return "-".join(self.answers.values())


def version(text: str) -> tuple[int, ...]:
    """Return a version to compare: 3.9 comes before 3.11."""
    return tuple(int(part) for part in text.split("."))


COMBINATIONS = [Combination(*choices) for choices in itertools.product(*CHOICES.values())]


def databases(combination: Combination) -> list[str]:
    """Return the databases on which to try it: all where the queue is in the database, which needs no variable."""
    return ["sqlite"] if combination.row["environment"] else ["sqlite", "postgresql"]


def each(
    names: str, values: Callable[[Combination], Iterator[tuple[Any, ...]]], chosen: list[Combination] = COMBINATIONS
) -> pytest.MarkDecorator:
    """Run a test for each combination and each of its values, those of one environment in the same process."""
    return pytest.mark.parametrize(
        f"combination,{names}".rstrip(","),
        [
            pytest.param(
                combination,
                *value,
                id="-".join(map(str, (combination, *value))),
                marks=pytest.mark.xdist_group(combination.environment),
            )
            for combination in chosen
            for value in values(combination)
        ],
    )


each_combination = each("", lambda combination: iter([()]))

"""Which cells of the matrix, broker by worker, a test goes through."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.combinations import CHOICES
from tests.faults.lab import OURS, UPSTREAM
from tests.test_project_tests import newest

BROKERS = {broker: newest(broker) for broker in CHOICES["broker"]}
VERSION = "django-q2 1.11.1"


@dataclass(frozen=True)
class Fault:
    """What upstream's worker does in the place of what is promised."""

    reason: str
    always: bool = True  #: a race is not lost each time


def race(reason: str) -> Fault:
    """Return a fault that does not show each time, so that nothing follows from a test that passes."""
    return Fault(f"{reason} (a race)", always=False)


SAME = None  #: upstream's worker passes too
ASTRAY = race("its processes share one connection to SQS, and answers go astray")


def each_broker(
    promise: int,
    *,
    upstream: Mapping[str, str | Fault | None] | None = None,
    without: Iterable[str] = (),
    own_server: bool | None = None,
    full: bool = False,
    names: str = "",
    values: Iterable[tuple[Any, ...]] = ((),),
) -> pytest.MarkDecorator:
    """Run a test with our worker over each broker, and with upstream's where it can be compared.

    With `own_server`, only over those that have a server of their own, or only over the others. `upstream` says for a
    broker, for a value ("SIGTERM-all"), or by "*" for the others, what upstream's worker does: the fault for which it
    must fail, or the suite turns red, since what mends it here can then go; or SAME. What is not named is not compared.
    """
    cells = []
    for broker, combination in BROKERS.items():
        if broker in without or own_server not in {None, bool(combination.row["environment"])}:
            continue
        marks = [pytest.mark.xdist_group(f"faults-{broker}"), pytest.mark.promise(promise)]
        for value in values:
            label = "-".join(map(str, (broker, *value)))
            ours = [*marks, pytest.mark.full] if full else marks
            cells.append(pytest.param(combination, OURS, *value, id=f"{label}-ours", marks=ours))
            named = [key for key in (broker, "-".join(map(str, value)), "*") if upstream and key in upstream]
            if not upstream or not named:
                continue
            theirs = [*marks, pytest.mark.full]
            if found := upstream[named[0]]:
                fault = Fault(found) if isinstance(found, str) else found
                theirs.append(pytest.mark.xfail(strict=fault.always, reason=f"{VERSION}: {fault.reason}"))
            cells.append(pytest.param(combination, UPSTREAM, *value, id=f"{label}-upstream", marks=theirs))
    return pytest.mark.parametrize(f"combination,kind,{names}".rstrip(","), cells)

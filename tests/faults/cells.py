"""Which cells of the matrix, broker by worker, a test goes through."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.combinations import CHOICES
from tests.faults.lab import OURS, UPSTREAM
from tests.test_project_tests import newest

BROKERS = {broker: newest(broker) for broker in CHOICES["broker"]}


def each_broker(
    promise: int,
    *,
    upstream: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
    own_server: bool | None = None,
    full: bool = False,
    names: str = "",
    values: Iterable[tuple[Any, ...]] = ((),),
) -> pytest.MarkDecorator:
    """Run a test with our worker over each broker, and with upstream's where that is known to fail.

    With `own_server`, only over those that have a server of their own, or only over the others. `upstream` says for a
    broker, or by "*" for all, what upstream does. Such a test must fail, or the suite turns red: what mends the fault
    can then go.
    """
    cells = []
    for broker, combination in BROKERS.items():
        if broker in without or own_server not in {None, bool(combination.row["environment"])}:
            continue
        marks = [pytest.mark.xdist_group(f"faults-{broker}"), pytest.mark.promise(promise)]
        for value in values:
            label = "-".join(map(str, (broker, *value)))
            cells.append(
                pytest.param(
                    combination, OURS, *value, id=f"{label}-ours", marks=[*marks, *([pytest.mark.full] if full else [])]
                )
            )
            reason = (upstream or {}).get(broker, (upstream or {}).get("*"))
            if reason:
                expected = pytest.mark.xfail(strict=True, reason=f"django-q2 1.11.1: {reason}")
                cells.append(
                    pytest.param(
                        combination,
                        UPSTREAM,
                        *value,
                        id=f"{label}-upstream",
                        marks=[*marks, pytest.mark.full, expected],
                    )
                )
    return pytest.mark.parametrize(f"combination,kind,{names}".rstrip(","), cells)

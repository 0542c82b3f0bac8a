"""How much there is in each queue, as the broker says: asked in a thread, since a frozen server says nothing."""

from typing import NamedTuple

from django.utils.module_loading import import_string
from django_q.brokers import get_broker
from django_q.conf import Conf

from worker.delivery import Depth, Leasing, brief
from worker.processes import clusters
from worker.single_flight import SingleFlight

MOST = 100_000  #: tasks at which counting ends


class Told(NamedTuple):
    """What the broker says of a queue."""

    depth: Depth | None  #: None if it does not answer
    problem: str = ""  #: why
    can_peek: bool = True


def ask() -> dict[str, Told]:
    """Ask of each cluster's queue; once the broker does not answer, it is asked no more."""
    told: dict[str, Told] = {}
    away = ""
    for name in clusters():
        told[name] = Told(None, away) if away else ask_of(name)
        away = away or told[name].problem
    return told


def ask_of(cluster: str) -> Told:
    try:
        broker: Leasing = get_broker(cluster)
        return Told(broker.depth(MOST), can_peek=broker.can_peek)
    except Exception as error:  # each client has exceptions of its own
        return Told(None, f"The broker does not answer ({brief(error)}).")


def is_the_database() -> bool:
    """Say whether tasks wait in the database."""
    return bool(getattr(import_string(Conf.BROKER_CLASS), "transactional", False))


def told_within(seconds: float) -> dict[str, Told]:
    """Return what the broker tells, of each cluster's queue, within so many seconds.

    One that is the database is asked here: whoever wants to know waits for that in any case.
    """
    if is_the_database():
        return ask()
    if found := asked.wait(seconds):
        return dict(found)
    return dict.fromkeys(clusters(), Told(None, "The broker does not answer."))


asked = SingleFlight(ask)

"""The pusher: what becomes of tasks when the broker is away, a lease is lost, a worker dies, or the cluster stops."""

from multiprocessing.connection import wait
from typing import Any

import pytest
from django_q.conf import Conf
from django_q.signing import SignedPackage

from tests.memory_broker import MemoryBroker, a_task
from tests.processes import DEADLINE
from worker.delivery import MAX_DELIVERIES, SUSPECT_AFTER, Delivery
from worker.pipes import CONTEXT, Board, Inbox, Results, Tasks, unpack
from worker.pusher import AHEAD, IDLE, LEAST_AHEAD, SOONEST, Death, Pusher

pytestmark = pytest.mark.django_db  # the pusher looks after its connection


class Cluster:
    """A pusher between real pipes, whose other ends are the test's: it is guard, worker and monitor."""

    def __init__(self) -> None:
        """Make the pipes."""
        self.board, self.tasks, self.results = Board(2), Tasks(), Results()
        orders, self.orders = CONTEXT.Pipe(duplex=False)
        news, self.news = CONTEXT.Pipe(duplex=False)
        self.pusher = Pusher(self.tasks, self.results, self.board, orders, news)
        self.came: list[tuple[int, bytes]] = []  #: what the monitor has found, and the test has not looked at

    @property
    def held(self) -> list[str]:
        """The names of the tasks that the pusher holds."""
        return [task["name"] for task in self.pusher.held.values()]

    def begin(self, seat: int = 0) -> Any:
        """Take a task as the worker in this seat does, and return its name."""
        self.wait_for_tasks()
        return Inbox(self.tasks, self.board, seat).get()["name"]

    def wait_for_tasks(self) -> None:
        """Return once a task can be taken."""
        assert wait([self.tasks.fileno()], DEADLINE)

    def handed_on(self) -> Any:
        """Return what the monitor finds next."""
        self.came = self.came or self.results.get_all(DEADLINE)
        assert self.came
        return unpack(self.came.pop(0)[1])

    def save(self, *tickets: int, unreadable: str | None = None) -> None:
        """Report results as saved, as the monitor does."""
        self.news.send([(ticket, unreadable) for ticket in tickets])
        self.pusher.listen()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Provide the pusher's broker; no try waits for the next one."""
    broker = MemoryBroker()
    monkeypatch.setattr("worker.pusher.get_broker", lambda: broker)
    monkeypatch.setattr("worker.pusher.LONGEST_PAUSE", 0.0)
    return broker


@pytest.fixture
def cluster(broker: MemoryBroker) -> Cluster:
    """Provide a cluster that has claimed three tasks, and begun one."""
    broker.add("first", "second", "third")
    cluster = Cluster()
    cluster.pusher.turn()
    assert cluster.begin() == "first"
    cluster.wait_for_tasks()
    return cluster


def test_a_task_is_held_until_its_result_is_saved(cluster: Cluster) -> None:
    assert cluster.held == ["first", "second", "third"]
    cluster.save(1)
    assert cluster.held == ["second", "third"]


def test_after_an_outage_leases_are_renewed_before_anything_is_claimed(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker.add("a task")
    cluster = Cluster()
    broker.calls, broker.errors = [], 3
    monkeypatch.setattr(broker, "idle", lambda *_: cluster.board.quitting.set())
    cluster.pusher.run()
    assert broker.calls == ["claim", "queue_size", "queue_size", "queue_size", "renew", "claim", "claim", "release"]
    assert caplog.text.count("The broker does not answer (ConnectionError: refused)") == 3
    assert caplog.text.count("The broker answers again") == 1


def test_no_more_is_fetched_ahead_than_workers_take_in_a_second(
    cluster: Cluster, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "QUEUE_LIMIT", 100)
    monkeypatch.setattr(Conf, "WORKERS", 2)
    few, taken = 2 * LEAST_AHEAD, cluster.board.taken
    assert cluster.pusher.ahead() == few + taken
    cluster.board.tickets[0] = taken + 30  # within the same second
    assert cluster.pusher.ahead() == few + taken + 30
    for passed, expected in ((2 * AHEAD, (taken + 30) // 2), (2 * AHEAD, 0)):
        cluster.pusher.paced -= passed
        assert few + expected - 1 <= cluster.pusher.ahead() <= few + expected
    cluster.board.tickets[0] += 1000
    assert cluster.pusher.ahead() == 100


def test_a_full_queue_is_looked_at_again_at_once_while_workers_take_tasks(
    cluster: Cluster, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "QUEUE_LIMIT", 2)
    moments = []
    for take in (True, False, False, True):
        if take:
            cluster.begin()
            cluster.pusher.queue(cluster.pusher.held[1] | {"ticket": cluster.pusher.next_ticket()})
        cluster.pusher.turn()
        moments.append(cluster.pusher.moment)
    assert moments == [SOONEST, 2 * SOONEST, 4 * SOONEST, SOONEST]


def test_a_broker_that_is_away_keeps_nothing_back(broker: MemoryBroker) -> None:
    cluster = Cluster()
    cluster.pusher.looked -= 2 * IDLE
    broker.add("a task")
    cluster.pusher.look_for_waiting()
    assert cluster.board.starving.value
    cluster.pusher.wait_for_broker(ConnectionError("refused"))
    assert not cluster.board.starving.value


def test_a_long_outage_drops_what_is_not_begun(cluster: Cluster, broker: MemoryBroker) -> None:
    cluster.pusher.renewed -= Conf.RETRY
    cluster.pusher.wait_for_broker(ConnectionError("refused"))
    assert cluster.held == ["first"]
    assert cluster.tasks.empty()


def test_after_a_long_outage_other_clusters_may_renew_before_anything_is_claimed(
    cluster: Cluster, broker: MemoryBroker
) -> None:
    cluster.pusher.wait_for_broker(ConnectionError("refused"))
    assert cluster.pusher.cut_off
    cluster.pusher.cut_off -= Conf.RETRY
    cluster.orders.send(None)  # the pusher need not wait
    broker.calls = []
    cluster.pusher.turn()
    assert broker.calls == ["queue_size", "renew"]


def test_a_waiting_task_whose_lease_is_lost_is_not_begun(
    cluster: Cluster, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.taken = {"3": broker.taken["3"]}
    cluster.pusher.renewed -= Conf.RETRY / 2
    cluster.pusher.turn()
    assert cluster.begin() == "third"
    assert cluster.held == ["first", "third"]  # the first runs, and perhaps ends before it is run elsewhere
    assert "The leases of 1 waiting tasks were lost" in caplog.text


def test_a_stop_gives_back_what_is_not_begun_and_then_what_is_cut_off(
    cluster: Cluster, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.board.draining.set()
    cluster.orders.send(None)
    cluster.pusher.turn()
    assert (cluster.held, list(broker.waiting), cluster.board.drained.value) == (["first"], ["2", "3"], True)
    cluster.board.quitting.set()
    cluster.pusher.run()
    assert (cluster.held, list(broker.waiting)) == ([], ["2", "3", "1"])
    assert "first was cut off" in caplog.text


def test_a_stop_leaves_tasks_to_their_leases_while_the_broker_is_away(
    cluster: Cluster, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.board.quitting.set()
    broker.errors = 1
    cluster.pusher.run()
    assert "3 tasks could not be given back (ConnectionError: refused)" in caplog.text


def test_what_is_claimed_while_the_cluster_begins_to_stop_is_given_back(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.add("a task")
    cluster, claim = Cluster(), broker.claim

    def claim_during_a_stop(limit: int) -> list[Delivery]:
        cluster.board.draining.set()
        return claim(limit)

    monkeypatch.setattr(broker, "claim", claim_during_a_stop)
    cluster.pusher.turn()
    assert (cluster.held, list(broker.waiting), cluster.tasks.empty()) == ([], ["1"], True)


@pytest.mark.parametrize(("handed_on", "given_back"), [([1], []), ([], ["1"])])
def test_of_a_worker_that_died_the_task_fails_and_a_result_that_was_lost_is_made_again(
    handed_on: list[int], given_back: list[str], cluster: Cluster, broker: MemoryBroker
) -> None:
    assert [cluster.begin(seat=0), cluster.begin(seat=1)] == ["second", "third"]
    cluster.orders.send(Death(2, "The worker died", cluster.board.taken, frozenset({3})))
    cluster.pusher.listen()
    sign = cluster.handed_on()["ticket"]
    cluster.save(*handed_on, sign)
    failure = cluster.handed_on()
    assert (failure["name"], failure["success"], failure["result"]) == ("second", False, "The worker died")
    cluster.board.draining.set()  # so that it is not claimed anew
    cluster.orders.send(None)
    cluster.pusher.turn()
    assert list(broker.waiting) == given_back
    assert cluster.held == ["second", "third"]
    cluster.save(2)
    assert cluster.held == ["third"]


def test_a_task_whose_result_cannot_be_unpickled_has_failed(cluster: Cluster) -> None:
    cluster.save(1, unreadable="The reason")
    failure = cluster.handed_on()
    assert (failure["name"], failure["success"], failure["result"]) == ("first", False, "The reason")
    assert "first" in cluster.held
    cluster.save(1)
    assert "first" not in cluster.held


@pytest.mark.parametrize("forgets", [True, False])
def test_tasks_of_which_one_may_be_deadly_are_run_alone(broker: MemoryBroker, forgets: bool) -> None:
    broker.forgets_returned = forgets
    names = {"suspect", "other"}
    broker.add("harmless")
    for name in names:
        broker.enqueue(SignedPackage.dumps(a_task(name)), SUSPECT_AFTER + 1)
    cluster = Cluster()
    ran = []
    for _ in range(3):
        while cluster.tasks.empty():
            cluster.orders.send(None)  # the pusher need not wait
            cluster.pusher.turn()
        ran.append(cluster.begin())
        cluster.orders.send(None)
        cluster.pusher.turn()
        assert cluster.tasks.empty()
        cluster.save(cluster.board.taken)
    assert (set(ran), cluster.held) == ({"harmless", *names}, [])


def test_nothing_waits_in_a_cluster_that_tries_a_task_alone(broker: MemoryBroker) -> None:
    broker.add("running", "waiting")
    cluster = Cluster()
    cluster.pusher.turn()
    assert cluster.begin() == "running"
    for name in ("suspect", "other"):
        broker.enqueue(SignedPackage.dumps(a_task(name)), SUSPECT_AFTER + 1)
    for _ in range(2):
        cluster.orders.send(None)
        cluster.pusher.turn()
    assert len(cluster.held) == 2
    assert cluster.held[0] == "running"
    assert len(broker.waiting) == 2


@pytest.mark.parametrize(
    ("payload", "count", "reason"),
    [
        ("nonsense", 1, "The task cannot be read: BadSignature"),
        (SignedPackage.dumps(a_task("deadly")), MAX_DELIVERIES + 1, "each time its cluster died"),
    ],
)
def test_what_cannot_be_run_is_set_aside(payload: str, count: int, reason: str, broker: MemoryBroker) -> None:
    broker.enqueue(payload, count)
    cluster = Cluster()
    cluster.pusher.turn()
    failure = cluster.handed_on()
    assert (failure["success"], failure["set_aside"]) == (False, True)
    assert reason in failure["result"]
    assert cluster.tasks.empty()

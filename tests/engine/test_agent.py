"""The agent: what becomes of what cannot be saved, read or done now, and of a server that does not answer."""

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from django.db import OperationalError, ProgrammingError
from django.utils import timezone
from django_q import signals
from django_q.conf import Conf
from django_q.models import Task as Model
from worker import failures, packages
from worker.cluster import after, rows
from worker.cluster.agent import AGAIN, CUT_AFTER, LONGEST, Agent
from worker.cluster.channels import Channel, pair
from worker.cluster.hand_out import CUT_OFF, OUT_OF_TIME, TRIES, Slot
from worker.cluster.messages import AFTER, GATHER, RESULT, RUN, SCHEDULE, Outcome
from worker.cluster.results import Results
from worker.cluster.scoreboard import RESULTS, THREADS, Scoreboard
from worker.delivery import Delivery
from worker.models import Failure
from worker.retention import prune_to_save_limit

pytestmark = pytest.mark.django_db
Reply = tuple[Any, ...]


@pytest.fixture
def control() -> Iterator[Channel]:
    """Provide the supervisor's channel, and close what it leads to."""
    ours, theirs = pair()
    yield theirs
    ours.close()
    theirs.close()


@pytest.fixture
def agent(control: Channel) -> Iterator[Agent]:
    """Make an agent of one slot, whose broker takes all."""
    made = Agent(Mock(will_pass=lambda error: False), control, Scoreboard(1))
    yield made
    made.wake_up.close()
    made.woken.close()


def row(name: str, **fields: Any) -> packages.Row:
    """Return the row of a success."""
    now = timezone.now()
    task = {"id": uuid4().hex, "name": name, "func": "core.tasks.count_words", "args": (), "kwargs": {}, "result": 1}
    return packages.pack(task | {"started": now, "stopped": now, "success": True} | fields, "")


def replies(agent: Agent, *names: str) -> list[Reply]:
    """Let the agent hold tasks of these names, and return what a worker answers."""
    held = [agent.hold(RUN, payload="", receipt=name) for name in names]
    return [
        (RESULT, each.ticket, tuple(row(name)), "", True, None, False, None, None, (None, None), {})
        for each, name in zip(held, names, strict=True)
    ]


class Database:
    """Stands in for the one that results are saved to: it says something to each row of some names."""

    def __init__(self, results: Results, monkeypatch: pytest.MonkeyPatch, **says: str) -> None:
        """Say the codes of PostgreSQL to rows by their names."""
        self.says, self.tries = says, 0
        self.saved: list[tuple[str, bool]] = []
        self.places: list[tuple[str | None, str | None]] = []  #: the groups and hooks of these
        monkeypatch.setattr(results, "write", self.write)
        monkeypatch.setattr(results, "ask_database", Mock())
        monkeypatch.setattr("worker.cluster.results.time.sleep", Mock())
        self.results = results

    def write(self, outcomes: list[Outcome], locked_for: float) -> None:
        """Take all rows or none."""
        self.tries += 1
        for code in [self.says[each.row.name] for each in outcomes if each.row.name in self.says]:
            raise OperationalError(code) from SimpleError(code)
        for each in outcomes:
            self.results.unsaved.pop(each.held.ticket, None)
            self.saved.append((each.row.name, each.row.success))
            self.places.append((each.row.group, each.row.hook))


class SimpleError(Exception):
    """An error of the driver's."""

    def __init__(self, code: str) -> None:
        """Have a code."""
        super().__init__(code)
        self.sqlstate = code


@pytest.mark.parametrize("code", ["53100", "55P03", "57P01", "58030", "40001"])
def test_what_the_database_does_not_take_now_is_put_aside_alone_and_saved_later(
    code: str, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = agent.results
    database = Database(results, monkeypatch, two=code)
    batch = replies(agent, "one", "two", "three")
    results.settle(batch)
    assert sorted(database.saved) == [("one", True), ("three", True)]
    assert [held.receipt for held in agent.held.values()] == ["two"]
    assert not results.due()
    database.says.clear()
    monkeypatch.setattr("worker.cluster.results.time.monotonic", lambda: time.perf_counter() + 10**6)
    due = results.due()
    assert due == [batch[1]]
    results.settle(due)
    assert ("two", True) in database.saved
    assert not agent.held


def test_a_slow_database_gets_batches_that_it_saves_within_seconds(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cluster.results.time.sleep", Mock())
    results = agent.results
    for _ in range(3000):
        agent.replies.put(())

    def sizes(number: int, seconds: float) -> list[int]:
        """Return those of so many batches, if each row takes so many seconds."""
        found = []
        for _ in range(number):
            found.append(len(results.gather()))
            results.pace(found[-1], found[-1] * seconds)
        return found

    assert sizes(8, 0.0001) == [16, 32, 64, 128, 256, 500, 500, 500]
    assert sizes(3, 0.5) == [500, 4, 4]
    assert sizes(3, 10) == [4, 1, 1]
    assert sizes(4, 0) == [1, 2, 4, 8]
    results.aside.extend([(0.0, ())] * 100)
    assert len(results.due()) == 16
    assert len(results.aside) == 84


def test_a_failure_is_left_to_the_cluster_that_has_the_task_by_now(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(agent.results, monkeypatch)
    agent.broker.renew.return_value = {"lost"}
    soon, batch = time.time() + 60, list[Any]()
    for name in ("lost", "kept"):
        held, failed = agent.hold(RUN, payload="", receipt=name), row(name, success=False, result="no")
        kept = failures.Failed(failed.id, 1, 3, soon, "builtins.OSError", "no", "[]", None)
        batch.append((RESULT, held.ticket, tuple(failed), "no", True, soon, False, None, tuple(kept), (None, None), {}))
    agent.results.settle(batch)
    assert database.saved == [("kept", False)]
    assert list(agent.broker.release.call_args.args[0]) == ["kept"]
    assert not agent.held


def test_the_return_of_the_database_is_told(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    results, gone = agent.results, OperationalError("gone")
    monkeypatch.setattr("worker.cluster.saving.time.sleep", Mock())
    monkeypatch.setattr(results, "ask_database", Mock(side_effect=gone))
    monkeypatch.setattr(results, "write", Mock(side_effect=[gone, gone, None, None]))
    caplog.set_level("INFO")
    results.settle(replies(agent, "one", "two"))
    results.settle(replies(agent, "three"))
    results.tell_return()
    results.tell_return()
    said = [record.getMessage() for record in caplog.records if "answer" in record.getMessage()]
    assert said == ["The database answers again after 0 s, 3 results saved"]


def test_a_broker_that_answers_and_takes_nothing_is_waited_for(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(agent.results, monkeypatch)
    monkeypatch.setattr("worker.cluster.saving.time.sleep", Mock())
    full = OSError("it is full")
    agent.broker.will_pass = lambda error: error is full
    agent.broker.acknowledge_all.side_effect = [*[full] * 10, None]
    agent.results.settle(replies(agent, "one"))
    assert agent.broker.acknowledge_all.call_count == 11
    assert not agent.held


def test_what_comes_after_a_task_waits_for_a_cache_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that is on neither the database's server nor the broker's."""
    refused = ConnectionError("refused")
    cache = Mock(get=Mock(return_value=None), set=Mock(side_effect=refused))
    monkeypatch.setattr(after, "get_broker", lambda: Mock(cache=cache, list_key="here"))
    part = row("part", group=uuid4().hex, hook=packages.PART)
    packages.table().bulk_create([packages.instance(part, 1)])
    with pytest.raises(ConnectionError):  # it answers, so it is this that it refuses
        after.gather(part.group, 1, 60)
    cache.get.side_effect = refused
    with pytest.raises(OperationalError, match=r"The cache does not answer \(ConnectionError: refused\)"):
        after.gather(part.group, 1, 60)
    assert packages.table().filter(pk=part.id).exists()


def test_a_link_is_queued_on_whatever_connection_a_task_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Mock(enqueue=Mock(side_effect=[ProgrammingError("permission denied"), "1"]))
    monkeypatch.setattr(after, "get_broker", lambda *_: broker)
    monkeypatch.setattr(after.connections, "close_all", Mock())
    after.queue_next({"chain": [("core.tasks.count_words", ("a",))]}, row("first"))
    assert broker.enqueue.call_count == 2
    assert not Model.objects.filter(name="after first").exists()


def test_a_task_whose_lease_was_lost_to_nobody_is_held_once(agent: Agent) -> None:
    for again in (False, True):
        agent.leases.take(Delivery("7", "payload", again=again))
    assert [held.receipt for held in agent.held.values()] == ["7"]


def test_a_task_that_comes_again_while_it_is_given_back_is_held_anew(agent: Agent) -> None:
    agent.leases.take(Delivery("7", "payload"))
    (held,) = agent.held.values()
    held.next_try = time.time()
    agent.leases.take(Delivery("7", "payload", again=True))
    assert [it.receipt for it in agent.held.values()] == ["7", "7"]


def test_each_line_of_the_log_may_take_its_time(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(agent.results, monkeypatch)
    late: list[object] = []
    monkeypatch.setattr(agent.scoreboard, "expect", lambda *_: late.clear())
    monkeypatch.setattr("worker.cluster.results.tell", lambda outcome: late.append(outcome))
    agent.results.settle(replies(agent, "one", "two", "three"))
    assert len(late) <= 1


def test_a_lock_is_waited_for_once_and_told_of(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(agent.results, monkeypatch, one="55P03")
    agent.results.settle(replies(agent, "one"))
    assert database.tries == 1
    assert caplog.text.count("though the server answers") == 1
    agent.results.settle(replies(agent, "one"))
    assert caplog.text.count("though the server answers") == 1  # there may be one for each of many rows


def test_what_the_database_refuses_for_good_holds_up_no_other(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(agent.results, monkeypatch, two="23514")
    agent.results.settle(replies(agent, "one", "two", "three"))
    saved = dict(database.saved)
    assert saved.pop("one")
    assert saved.pop("three")
    assert list(saved.values()) == [False]  # what stands for the other one
    assert not agent.held
    database.write = Mock(side_effect=OperationalError("no failures here"))  # type: ignore[method-assign]
    monkeypatch.setattr(agent.results, "write", database.write)
    agent.results.settle(replies(agent, "four"))
    assert [held.receipt for held in agent.held.values()] == ["four"]


def test_a_part_of_an_iterable_that_the_database_refuses_stays_a_part(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, held = Database(agent.results, monkeypatch, odd="23514"), agent.hold(RUN, payload="", receipt="odd")
    odd, part = row("odd", group="all", hook=packages.PART), ("all", 2, None)
    agent.results.settle([(RESULT, held.ticket, tuple(odd), "", True, None, False, part, None, (None, None), {})])
    assert database.places == [("all", packages.PART)]
    assert [each.does for each in agent.urgent] == [GATHER]


def test_old_successes_are_pruned_by_one_query_whatever_they_are_counted_by(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    group = uuid4().hex[:8]
    kept = [row(name, group=f"{group}-{name}") for name in ("one", "two") for _ in range(4)]
    rows.insert(kept, packages.table().db)
    failed = failures.Failed(kept[0].id, 1, 3, None, "E", "", "[]", None)
    failures.write([failed, failed._replace(task=kept[2].id)], packages.table().db)  # of two that succeeded later
    monkeypatch.setattr(Conf, "SAVE_LIMIT", 2)
    monkeypatch.setattr(Conf, "SAVE_LIMIT_PER", "group")
    with django_assert_max_num_queries(4):
        prune_to_save_limit()
    left = Model.objects.filter(group__startswith=group).order_by("started").values_list("id", flat=True)
    assert list(left) == [kept[at].id for at in (2, 3, 6, 7)]
    ids = {each.id for each in kept}
    assert list(Failure.objects.filter(pk__in=ids).values_list("pk", flat=True)) == [kept[2].id]


# What workers had


def slot_of(agent: Agent, control: Channel) -> Slot:
    """Return a worker that nobody has started."""
    return Slot(0, 2**22 + 1, control, control)


def test_a_task_that_had_not_begun_is_not_blamed(agent: Agent, control: Channel) -> None:
    held = agent.hold(RUN, payload="", receipt="one")
    slot = slot_of(agent, control)
    for _ in range(TRIES - 1):
        agent.hand_out.died(held, slot, "The worker ended with code 1", "one", in_user_code=False)
        assert agent.hand_out.unread.pop() is held
        assert held.does == RUN
    agent.hand_out.died(held, slot, "The worker ended with code 1", "one", in_user_code=False)
    reply = agent.replies.get_nowait()
    assert f"{TRIES} workers died of it" in packages.unpickled(packages.Row(*reply[2]).result)


def test_what_waits_for_a_server_until_its_time_is_over_is_tried_again_ever_later(
    agent: Agent, control: Channel
) -> None:
    held = agent.hold(AFTER, extra=(tuple(row("one")), 1, None))
    pauses = []
    for _ in range(2 * TRIES):
        agent.hand_out.died(held, slot_of(agent, control), OUT_OF_TIME, "one", in_user_code=False)
        pauses.append(agent.later.pop()[0] - time.monotonic())
    assert pauses[:2] == pytest.approx([AGAIN, 2 * AGAIN], abs=1)
    assert pauses[-1] == pytest.approx(LONGEST, abs=1)


def test_schedules_and_tasks_take_turns_at_the_only_worker(agent: Agent, control: Channel) -> None:
    slot = slot_of(agent, control)
    for _ in range(3):
        agent.offer(agent.hold(SCHEDULE))
    for _ in range(2):
        agent.offer(agent.hold(RUN, payload="some"))
    given = [agent.hand_out.next(slot) for _ in range(6)]
    assert [held and held.does for held in given] == [SCHEDULE, RUN, SCHEDULE, RUN, SCHEDULE, None]


def test_a_result_is_saved_though_what_comes_after_it_is_given_up(
    agent: Agent, control: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(agent.results, monkeypatch)
    result = tuple(row("one"))
    held = agent.hold(AFTER, extra=(result, 1, None))
    for _ in range(TRIES):
        agent.hand_out.died(held, slot_of(agent, control), "The worker died (SIGKILL)", "one", in_user_code=False)
    agent.results.settle([agent.replies.get_nowait()])
    assert (database.saved, agent.held) == ([("one", True)], {})


@pytest.mark.parametrize("garbage", [b"garbage", b"f", b"\xe9\x01\x00\x00\x00", b"(\x00\x00\x00\x00"])
def test_a_worker_that_says_what_cannot_be_read_is_killed(
    garbage: bytes, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = Mock()
    monkeypatch.setattr("worker.cluster.hand_out.os.kill", kill)
    ours, theirs = pair()
    held = agent.hold(RUN, payload="", receipt="one")
    slot = Slot(0, 2**22 + 1, ours, theirs, [held.ticket])
    theirs.sock.send(garbage)
    theirs.sock.send(garbage)
    agent.hand_out.hear(slot)
    kill.assert_called_once()
    ours.close()
    theirs.close()


def test_what_is_to_be_done_later_leaves_room_for_other_tasks(agent: Agent) -> None:
    for _ in range(1300):
        agent.try_again(agent.hold(AFTER))
    assert agent.leases.room()[0] > 0


def test_a_link_whose_receiver_says_that_a_server_is_away_fails_alone() -> None:
    def refuse(sender: object, task: dict[str, Any], **signal: Any) -> None:
        raise OperationalError("no such column")

    first = row("first")
    signals.pre_enqueue.connect(refuse)
    try:
        after.queue_next({"chain": [("core.tasks.count_words", ("a",))]}, first)
    finally:
        signals.pre_enqueue.disconnect(refuse)
    assert "no such column" in Model.objects.get(name="after first", success=False).result
    Model.objects.filter(name="after first").delete()


# A server that is frozen


def test_the_connection_of_a_thread_that_is_late_is_cut(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Mock(side_effect=[None, None, SystemExit])
    monkeypatch.setattr("worker.cluster.agent.time.sleep", pause)
    ours, theirs = socket.socketpair()
    does = THREADS[RESULTS]
    agent.databases[does] = [SimpleNamespace(connection=None), SimpleNamespace(connection=ours)]
    monkeypatch.setattr(agent.scoreboard, "late", lambda since: iter([(does, CUT_AFTER + 1)]))
    watching = threading.Thread(target=swallow, args=(agent.watch,))
    watching.start()
    ours.settimeout(5)
    assert ours.recv(1) == b""
    watching.join()
    ours.close()
    theirs.close()


def swallow(function: Any) -> None:
    """Run something that ends with SystemExit."""
    with pytest.raises(SystemExit):
        function()


def test_a_task_that_a_stop_cuts_off_is_named_with_the_time_that_it_was_left(
    agent: Agent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cluster.hand_out.Channel.receive", lambda *_, **__: ("stop",))
    agent.hand_out.take_notice()  # by SIGQUIT, which leaves no time, whatever Q_GRACE is
    agent.hand_out.died(agent.hold(RUN), Slot(0, 1, Mock(), Mock()), CUT_OFF, "a-task", in_user_code=True)
    assert "a-task was cut off 0 s after the stop; it is given back, and run again" in caplog.text

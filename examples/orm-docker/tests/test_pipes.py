"""The pipes between a cluster's processes: nothing is torn, however long it is and whoever writes at the same time."""

import os
import time
from collections import Counter

import pytest

from tests.processes import DEADLINE
from worker.pipes import CONTEXT, Board, Flag, Inbox, Results, Tasks, unpack

LONG = 1_000_000  #: bytes, many times what a pipe holds


def read(results: Results, number: int) -> list[tuple[int, bytes]]:
    """Read so many results."""
    came: list[tuple[int, bytes]] = []
    end = time.monotonic() + DEADLINE
    while len(came) < number:
        assert time.monotonic() < end
        came += results.get_all(1.0)
    return came


def test_results_of_several_writers_arrive_whole() -> None:
    results = Results()

    def write(writer: int) -> None:
        for number in range(50):
            results.put({"ticket": number, "result": bytes([writer]) * (LONG if number % 25 == 0 else number)})

    writers = [CONTEXT.Process(target=write, args=(writer,)) for writer in range(3)]
    for process in writers:
        process.start()
    came = read(results, 150)
    for process in writers:
        process.join()
    tasks = [unpack(data) for _, data in came]
    assert [ticket for ticket, _ in came] == [task["ticket"] for task in tasks]
    assert all(len(set(task["result"])) <= 1 for task in tasks)
    assert Counter(len(task["result"]) for task in tasks)[LONG] == 6
    assert results.empty()


@pytest.mark.parametrize("size", [1, LONG])
def test_each_task_goes_to_one_worker_and_in_order(size: int) -> None:
    tasks, board, results = Tasks(), Board(2), Results()

    def work(seat: int) -> None:
        inbox = Inbox(tasks, board, seat)
        while (task := inbox.get()) != "STOP":
            results.put({"ticket": task["ticket"], "size": len(task["payload"]), "by": os.getpid()})

    workers = [CONTEXT.Process(target=work, args=(seat,)) for seat in range(2)]
    for process in workers:
        process.start()
    for ticket in range(1, 31):
        tasks.put({"ticket": ticket, "payload": b"x" * size})
    came = [ticket for ticket, _ in read(results, 30)]
    board.draining.set()
    for process in workers:
        process.join()
        assert process.exitcode == 0
    assert sorted(came) == list(range(1, 31))
    assert board.taken == 30


def test_whoever_asks_for_a_task_in_vain_has_none() -> None:
    assert Tasks().get(timeout=0.01) is None


def test_a_flag_is_set_for_every_process() -> None:
    flag = Flag()
    assert not flag.wait(0.01)
    process = CONTEXT.Process(target=flag.set)
    process.start()
    assert flag.wait(DEADLINE)
    process.join()
    assert flag.is_set()

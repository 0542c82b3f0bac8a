"""Promises in a container of the image that the project's Dockerfile makes. They need a Docker engine on this machine.

They run with --faults, as `make test-faults` does. docker comes from PATH, the engine from DOCKER_HOST if that is set.
"""

import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.combinations import Combination
from tests.faults.cells import each_broker
from tests.faults.containers import KILLED, WORKER, Container, Dock, busy_processors, docker, image
from tests.faults.lab import GRACE, Base
from tests.interpreters import for_combination
from tests.servers import missing

WINDOW = 20  #: seconds after which Docker kills a container that it has told to stop
MEMORY = ("--memory", "256m", "--memory-swap", "256m")
PROBE_LIMIT = 15  #: seconds that the platforms' files leave to a probe
LIMITS: dict[str, Any] = {"max_attempts": 2, "ack_failures": False}


@pytest.fixture(scope="module")
def images(
    bake: Callable[[Combination], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Combination], str]]:
    """The image of each broker's project, built once."""
    built: dict[Combination, str] = {}
    with ExitStack() as stack:

        def name(combination: Combination) -> str:
            if combination not in built:
                folder = tmp_path_factory.mktemp("image")
                built[combination] = stack.enter_context(image(bake(combination), for_combination(combination), folder))
            return built[combination]

        yield name


@pytest.fixture
def lab(
    combination: Combination,
    kind: str,
    images: Callable[[Combination], str],
    bases: Callable[[Combination], Base],
    tmp_path: Path,
) -> Iterator[Dock]:
    """A lab for one test, with containers."""
    name = images(combination)
    base = bases(combination)
    lab = Dock(base, kind, tmp_path, f"lab{base.made}", image=name)
    try:
        yield lab
    finally:
        lab.close()


def busy(lab: Dock, container: Container) -> set[str]:
    """Let two tasks run and ten wait."""
    running = lab.enqueue_many("running", 2, 4.0)
    lab.wait_started(*running, alive=container)
    return running | lab.enqueue_many("waiting", 10)


def check_all_done(lab: Dock, keys: set[str], *alive: Container) -> None:
    """All is done, and more than once only what was interrupted."""
    lab.wait_done(keys, *alive)
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    assert all(lab.starts()[key] == 1 for key in keys if key.startswith("waiting")), lab.report()


@pytest.mark.full
@each_broker(1, names="place", values=[("first-process",), ("under-an-init",)])
def test_a_container_that_is_stopped_at_work_gives_back_what_it_has_not_done(lab: Dock, place: str) -> None:
    lab.lease = 300  # whoever waits for a lease to run out comes too late
    container = lab.launch(*(["--init"] if place == "under-an-init" else []))
    lab.enqueue("work", ("long", GRACE + 5.0), task_name="the-long-one")
    lab.enqueue("work", ("short", 1.5))
    lab.wait_started("long", "short", alive=container)
    waiting = lab.enqueue_many("waiting", 10)
    assert container.stop(WINDOW) < WINDOW, lab.report()
    assert container.ended() == 0, lab.report()
    assert lab.ends() == {"short": 1}, lab.report()
    assert re.search(r"the-long-one was cut off", container.output()), lab.report()
    container.start()
    lab.wait_done(waiting | {"short", "long"}, container)
    assert lab.starts() == {**dict.fromkeys(waiting, 1), "short": 1, "long": 2}, lab.report()
    assert container.stop(WINDOW) < GRACE, "an idle one stops at once"
    assert container.ended() == 0, lab.report()


@pytest.mark.full
@each_broker(2)
def test_a_container_that_is_killed_at_work_loses_nothing(lab: Dock) -> None:
    container = lab.launch()
    keys = busy(lab, container)
    container.kill()
    assert container.ended() == KILLED, lab.report()
    container.start()
    check_all_done(lab, keys, container)


@pytest.mark.full
@each_broker(2)
def test_a_container_whose_cluster_dies_ends_and_is_started_anew_by_its_restart_policy(lab: Dock) -> None:
    container = lab.launch("--restart", "unless-stopped")
    keys = busy(lab, container)
    container.kill_inside(lab.agent(container))
    check_all_done(lab, keys, container)
    assert container.state()["RestartCount"] == 1, lab.report()


@pytest.mark.full
@each_broker(4)
def test_a_task_that_eats_all_memory_is_tried_and_set_aside_and_others_go_on(lab: Dock) -> None:
    if docker("info", "--format", "{{.MemoryLimit}}").strip() != "true":
        missing("Docker engine that can limit memory")
    container = lab.launch(*MEMORY, **LIMITS)
    (identity,) = lab.enqueue("eat", ("eat",))
    keys = lab.enqueue_many("other", 10)
    lab.wait(lambda: keys <= lab.succeeded().keys(), "the results of the others", container)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", container)
    (failed,) = lab.failed()
    assert (failed["id"], failed["attempts"]) == (identity, LIMITS["max_attempts"]), failed
    assert "The worker died (SIGKILL) while it ran this task" in failed["result"], failed
    assert lab.starts() == {**dict.fromkeys(keys, 1), "eat": LIMITS["max_attempts"]}, lab.report()
    assert container.probe()[0] == 0, lab.report()
    assert container.stop(WINDOW) < WINDOW, lab.report()
    assert container.ended() == 0, lab.report()


@pytest.mark.full
@each_broker(4)
def test_a_task_that_takes_its_whole_container_along_is_set_aside_and_others_are_done(lab: Dock) -> None:
    container = lab.launch()
    (identity,) = lab.enqueue("take_all_along", ("poison",))
    keys = lab.enqueue_many("other", 10)
    while not lab.failed():
        starts = lab.starts()["poison"]
        lab.wait(lambda: container.ended() is not None or lab.failed(), "the end of the container")
        if container.ended() is not None:
            assert container.ended() == 1, lab.report()
            assert starts < 60, lab.report()  # it is set aside after fifty hand-outs, some without a start
            container.start()
    lab.wait(lambda: keys <= lab.succeeded().keys(), "the results of the others", container)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", container)
    assert [row["id"] for row in lab.failed()] == [identity], (lab.failed(), lab.starts())
    assert "each time its cluster died" in lab.failed()[0]["result"], lab.failed()


@pytest.mark.full
@each_broker(7)
def test_a_worker_needs_no_more_of_its_files_than_to_read_them_and_a_temporary_folder(lab: Dock) -> None:
    container = lab.launch("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")  # noqa: S108
    lab.wait_done(lab.enqueue_many("task", 10), container)
    assert container.probe() == (0, "worker: ok\n"), lab.report()
    assert container.stop(WINDOW) < WINDOW, lab.report()
    assert container.ended() == 0, lab.report()


@pytest.mark.full
@each_broker(7)
def test_a_worker_without_a_temporary_folder_goes_on_and_its_probe_says_what_is_wrong(lab: Dock) -> None:
    container = lab.launch("--read-only")
    lab.wait_done(lab.enqueue_many("task", 10), container)
    lab.wait(lambda: lab.call("is_alive"), "a sign of life that web sees", container)
    code, printed = container.probe()
    assert code == 1, printed
    assert re.search("nowhere to leave.*tmpfs", printed), printed
    assert container.output().count("sign of life") == 1, lab.report()
    assert container.stop(WINDOW) < WINDOW, lab.report()
    assert container.ended() == 0, lab.report()


@pytest.mark.full
@each_broker(7)
def test_a_worker_runs_as_any_user_and_without_a_home(lab: Dock) -> None:
    container = lab.launch("--user", "12345", command=("env", "--unset=HOME", *WORKER))
    lab.wait_done(lab.enqueue_many("task", 10), container)
    assert container.probe() == (0, "worker: ok\n"), lab.report()
    assert container.stop(WINDOW) < WINDOW, lab.report()
    assert container.ended() == 0, lab.report()


@pytest.mark.full
@each_broker(7)
def test_the_probe_answers_long_before_its_time_is_up(
    lab: Dock, record_property: Callable[[str, object], None]
) -> None:
    container = lab.launch()
    lab.wait_done(lab.enqueue_many("task", 1), container)
    idle = [container.time_of_probe() for _ in range(10)]
    lab.enqueue("burn", ("first", 60.0), ("second", 60.0), timeout=120)
    lab.wait_started("first", "second", alive=container)
    with busy_processors():
        at_work = [container.time_of_probe() for _ in range(10)]
    figures = [f"{statistics.median(each):.1f} s ({max(each):.1f})" for each in (idle, at_work)]
    said = "{}: a probe in a container took {} when idle, and {} with all processors busy; the median, and the slowest"
    record_property("said", said.format(lab.base.combination.broker, *figures))
    assert max(idle + at_work) < PROBE_LIMIT, (idle, at_work)

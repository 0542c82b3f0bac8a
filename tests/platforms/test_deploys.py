"""A deploy as each platform does it: no request fails, no task is lost or runs twice, and nobody has to be killed."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import servers
from tests.combinations import CHOICES, TEMPLATE, Combination
from tests.hostings import MARGIN, READERS
from tests.interpreters import for_combination
from tests.platforms.facts import PLATFORMS, Order
from tests.platforms.platform import URLS, WORK, Ledger, Platform, Visitors, most_connections, wait_until, zombies
from tests.projects import Environments, Workplace

PROCESSES_OF_A_WORKER = 4  #: supervisor, agent, and two that run tasks, however many processors there are


def combination_for(name: str) -> Combination:
    """Return the combination that is deployed there."""
    return Combination(PLATFORMS[name].broker, name, PLATFORMS[name].queues, CHOICES["django_version"][0])


@pytest.fixture
def running(
    bake: Callable[[Combination], Path], environments: Environments, tmp_path: Path
) -> Iterator[Callable[..., Platform]]:
    """A platform on which the first version runs."""
    with ExitStack() as stack:

        def run(name: str, overrides: Mapping[str, str] | None = None, window: int = 0) -> Platform:
            combination = combination_for(name)
            project = bake(combination)
            workplace = Workplace.of(project, for_combination(combination), environments, tmp_path)
            ledger = Ledger(tmp_path / "work")
            (workplace.path / "work.py").write_text(WORK.format(folder=str(ledger.folder)))
            with (workplace.path / "config/urls.py").open("a") as urls:
                urls.write(URLS)
            deployment = READERS[name](project, combination)
            if overrides:
                deployment = replace(
                    deployment,
                    processes={
                        name: replace(it, environment={**it.environment, **overrides}, window=window)
                        for name, it in deployment.processes.items()
                    },
                )
            addresses = dict(stack.enter_context(servers.postgresql(workplace.temporary)))
            addresses |= stack.enter_context(servers.broker(combination, workplace))
            platform = Platform(PLATFORMS[name], deployment, workplace, addresses, stack, ledger)
            platform.first_deploy()
            return platform

        yield run


@contextmanager
def long_work(platform: Platform) -> Iterator[Future[int]]:
    """Have a long request and a long task under way."""
    with ThreadPoolExecutor(1) as pool:
        port = platform.router.ports[0]
        assert platform.ask(port, "/queue/long-task/") == 200
        answer = pool.submit(platform.ask, port, "/page/long-page/")
        try:
            wait_until(
                lambda: platform.ledger.count("begin").keys() >= {"long-task", "long-page"}, "the long task and page"
            )
            yield answer
        finally:
            platform.ledger.let_go("long-task")
            platform.ledger.let_go("long-page")


def on_each_platform() -> pytest.MarkDecorator:
    """Run a test on each platform, with those of one environment in the same process."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=pytest.mark.xdist_group(combination_for(name).environment)) for name in PLATFORMS],
    )


@on_each_platform()
def test_a_deploy_loses_nothing(name: str, running: Callable[..., Platform]) -> None:
    platform = running(name)
    ledger = platform.ledger
    (worker,) = [machine for machine in platform.machines if machine.name == "worker"]
    assert len(worker.process.session()) == PROCESSES_OF_A_WORKER
    with Visitors(platform) as visitors:
        wait_until(lambda: len(visitors.served) > 5, "some visitors")
        assert not platform.release(without="DATABASE_URL")  # so the old version goes on
        with long_work(platform) as answer:
            wait_until(lambda: ledger.count("orphan").keys() >= {"long-task", "long-page"}, "the ends of the orphans")
            for machine in platform.machines:
                wait_until(lambda it=machine.process.popen.pid: not zombies(it), f"the burial by {machine.name}")  # type: ignore[misc]
            platform.deploy(when_told=lambda told: ledger.let_go({"web": "long-page"}.get(told, "long-task")))
            assert answer.result() == 200
        before = len(visitors.served)
        wait_until(lambda: len(visitors.served) > before + 5, "visitors of the new version")
    assert visitors.failures == []
    wait_until(lambda: ledger.count("end").keys() >= {*visitors.served, "long-task"}, "the end of all tasks")
    twice = {task: number for task, number in ledger.count("begin").items() if number > 1}
    assert twice == {}


def test_a_task_that_outlives_the_window_is_given_back_and_runs_again(running: Callable[..., Platform]) -> None:
    platform = running("heroku", {"Q_GRACE": "3", "Q_TIMEOUT": "60"}, 3 + MARGIN)
    ledger = platform.ledger

    with long_work(platform):
        platform.deploy(when_told=lambda told: None)
        # Until now nobody has let it go: the old worker has given it back, and the new one has begun it anew.
        wait_until(lambda: ledger.count("begin")["long-task"] == 2, "the second begin of the task")
    wait_until(lambda: ledger.count("end")["long-task"] == 1, "the end of the task")
    assert ledger.count("begin")["long-task"] == 2


# Connections to the database


def table(heading: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table of the page, by their first cell."""
    page = (TEMPLATE / "docs/connections.md").read_text()
    head, _, *rows = re.findall(r"^\| (.*) \|$", page[page.index(heading) :].partition("\n\n")[0], re.MULTILINE)
    names = head.split(" | ")
    return {row.partition(" | ")[0].strip("`"): dict(zip(names, row.split(" | "), strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("name", "column"), [("dokku", "tasks wait in the database"), ("heroku", "tasks wait elsewhere")]
)
def test_no_process_holds_more_connections_than_the_page_says(
    name: str, column: str, running: Callable[..., Platform]
) -> None:
    platform = running(name)
    told = {process: int(row[column]) for process, row in table("| process").items()}
    assert dict(most_connections(platform)) == {process: told[process] for process in platform.deployment.processes}


def test_the_plans_allow_as_many_connections_as_a_deploy_takes() -> None:
    each = {process: int(row["tasks wait in the database"]) for process, row in table("| process").items()}
    rows = table("| platform")
    assert rows.keys() == PLATFORMS.keys()
    for name, row in rows.items():
        facts, plan = PLATFORMS[name], row["plan in the generated files"]
        web = each["web"] // (2 if "`WEB_CONCURRENCY` is 1" in plan else 1)
        times = 2 if facts.order in {Order.START_FIRST, Order.AT_ONCE} else 1
        pods = 2 if "two pods of web and of worker" in plan else 1
        worker, slow = each["worker"], each["worker-slow"]
        one = times * pods * (facts.webs * web + worker) + web * (facts.order is Order.WEB_FIRST)
        assert [int(row[column]) for column in ("one queue", "two queues", "another web", "another worker")] == [
            one,
            one + times * slow,
            times * web,
            times * worker,
        ], name
        asked = 2 * 2 * pods * facts.webs * (facts.probe == "/readyz")  # two for each process of the webs that start
        allows = [int(number) for number in re.findall(r"\b\d+(?! GB)\b", row["allows"])]
        assert not allows or one < min(allows), name  # one more is for release, or a shell
        assert not allows or one + times * slow + asked < max(allows), name


def test_the_files_ask_for_the_plans_of_the_page(bake: Callable[[Combination], Path]) -> None:
    plans = {name: row["plan in the generated files"] for name, row in table("| platform").items()}
    for name, file in {"heroku": "app.json", "render": "render.yaml"}.items():
        (plan,) = re.findall("`(.+)`", plans[name])
        assert plan in (bake(combination_for(name)) / file).read_text(), name
    environment = READERS["digitalocean"](bake(combination_for("digitalocean")), combination_for("digitalocean"))
    assert environment.processes["web"].environment["WEB_CONCURRENCY"] == "1"

"""What is baked runs in production mode: its processes against real servers, as a browser and a platform see them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests import servers
from tests.browser import Browser, Page, status
from tests.combinations import CHOICES, COMBINATIONS, Combination, databases, each
from tests.interpreters import PROMISED, interpreters
from tests.processes import Command, Process, free_port, started, succeeds
from tests.projects import PRODUCTION, Environments, Workplace
from tests.test_project_tests import newest

TEXT = "three short words"
STAFF = {
    "DJANGO_SUPERUSER_EMAIL": "ada@example.com",
    "DJANGO_SUPERUSER_PASSWORD": "a password of hers",
    "DJANGO_SUPERUSER_USERNAME": "ada",
}
ADD_SCHEDULE = "/admin/django_q/schedule/add/"
AT_ONCE = 8  #: how often each button is pressed before the first result is awaited
# It stands there twice for a cluster with a name, which begins again under the same pid.


@dataclass
class Site:
    """A project whose processes run."""

    workplace: Workplace
    environment: dict[str, str]
    port: int
    processes: list[Process]

    @property
    def web(self) -> Process:
        """The process that answers browsers."""
        return next(process for process in self.processes if process.name == "web")

    def is_healthy(self, process: Process) -> bool:
        """Ask the project itself how a process is."""
        command: Command = [self.workplace.python, "manage.py", "health_check", process.name]
        return succeeds(command, self.workplace.path, self.variables)

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of the processes."""
        return dict(self.workplace.environment(self.environment))


@contextmanager
def production(workplace: Workplace, addresses: dict[str, str]) -> Iterator[Site]:
    """Release the project as a platform would, start all its processes, and wait until they are well."""
    port = free_port()
    site = Site(workplace, {**PRODUCTION, **addresses, "PORT": str(port)}, port, [])
    workplace.manage("release", environment=site.environment)
    workplace.manage("collectstatic", "--noinput", environment=site.environment)
    listed = workplace.manage("prodserver", "--list", environment=site.environment).splitlines()
    names = [line for line in listed if not line.startswith("worker/ ")]
    assert len(names) == len(listed) - 1, "the version is not shown"
    with ExitStack() as stack:
        for name in names:
            command: Command = [workplace.python, "manage.py", "prodserver", name]
            it = started(name, command, workplace.path, site.variables, workplace.temporary)
            site.processes.append(stack.enter_context(it))
        site.web.wait_until(lambda: status(port, "/livez") == 200, "an answer to /livez")
        for process in site.processes:
            process.wait_until(partial(site.is_healthy, process), f"the health of {process.name}")
        yield site


def check_stranger(browser: Browser) -> None:
    """Go through what somebody is shown whom the site does not know, and what is refused."""
    start = browser.get("/")
    assert start.status == 200, start
    assert 'href="/admin/login/?next=/"' in start.text
    assert "<form" not in start.text
    assert "prodserver" not in start.text
    browser.get("/admin/login/")
    form = {"text": TEXT, "offer": "count", "csrfmiddlewaretoken": browser.cookies["csrftoken"].value}
    for answer, code, heading in (
        (browser.get("/nowhere/"), 404, "Not found"),
        (browser.post("/tasks/", form), 403, "Not allowed"),
        (browser.post("/tasks/", {**form, "csrfmiddlewaretoken": "expired"}), 403, "Not allowed"),
        (browser.get(f"/tasks/{uuid4()}/", accept="application/json"), 403, "Not allowed"),
    ):
        assert answer.status == code, answer
        assert f"<h1>{heading}</h1>" in answer.text
        assert Page(answer.text).files == Page(start.text).files, "the page has not the look of the others"


def check_schedules(browser: Browser) -> None:
    """Add schedules in the admin: one of a function of the project's, and one that could do anything."""
    form = {"func": "core.tasks.count_words", "next_run_0": "2999-01-01", "next_run_1": "12:00:00"}
    form |= {"repeats": "-1", "schedule_type": "D"}
    assert browser.get(ADD_SCHEDULE).status == 200
    form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"].value
    refused = browser.post(ADD_SCHEDULE, {**form, "func": "os.abort"})
    assert "A schedule may not run &#x27;os.abort&#x27;: Q_SCHEDULE_MODULES allows core." in refused.text
    assert browser.post(ADD_SCHEDULE, form).location == "/admin/django_q/schedule/"


def page_shows_that_all_run(site: Site, browser: Browser) -> Page:
    """Return the start page, once it has heard of every worker."""

    def page() -> Page | None:
        answer = browser.get("/")
        assert answer.status == 200, answer
        return None if 'class="missing"' in answer.text else Page(answer.text)

    return site.web.wait_until(page, "a sign of life of every worker on the start page")


def send_task(browser: Browser, page: Page, button: tuple[str, str]) -> str:
    """Press a button, and return where the task's page is."""
    answer = browser.post(page.action, {**page.fields, "text": TEXT, **dict([button])})
    assert answer.status == 302, answer
    assert answer.location is not None
    return answer.location


def result_of(site: Site, browser: Browser, task: str) -> str:
    """Return the text that stands on a task's page when it is done."""

    def done() -> str | None:
        state = json.loads(browser.get(task, accept="application/json").text)
        return str(state["text"]) if state["done"] else None

    result = site.web.wait_until(done, f"the result of {task}")
    assert result in browser.get(task).text, "the page without a script shows another result"
    return result


def stop_in_order(process: Process) -> None:
    """Stop a process as a platform does: it ends with 0, and nothing of it is left."""
    assert process.stop() == 0, process.log()
    process.wait_until_gone()


def events(process: Process) -> list[dict[str, object]]:
    """Return what a process has logged: an event a line, from its first one on."""
    return [json.loads(line) for line in process.out.read_text().splitlines()]


def check_log(process: Process) -> None:
    """Every line on stdout is an event, none comes twice, none is a warning, and nothing goes to stderr."""
    assert process.err.read_text() == ""
    logged = events(process)
    assert logged, f"{process.name} has logged nothing"
    twice = [key for key, number in Counter(map(str, logged)).items() if number > 1]
    assert not twice, f"{process.name} logs twice"
    assert {event["levelname"] for event in logged} == {"INFO"}, process.log()


def check(site: Site) -> None:
    """Go through all that a visitor and a platform do."""
    browser = Browser(site.port)
    assert status(site.port, "/readyz") == 200
    site.workplace.manage("createsuperuser", "--noinput", environment={**site.environment, **STAFF})
    assert browser.log_in(STAFF["DJANGO_SUPERUSER_USERNAME"], STAFF["DJANGO_SUPERUSER_PASSWORD"]).location == "/"
    page = page_shows_that_all_run(site, browser)
    assert page.files
    assert {path: browser.get(path).status for path in page.files} == dict.fromkeys(page.files, 200)
    assert page.buttons
    # Several at once: processes of a worker that share a connection get each other's answers.
    for task in [send_task(browser, page, button) for button in page.buttons * AT_ONCE]:
        result = result_of(site, browser, task)
        assert result.startswith("Result: "), result
        assert str(len(TEXT.split())) in result, result
    for process in site.processes:
        stop_in_order(process)
        check_log(process)


@pytest.mark.usefixtures("once_for_its_python")
@each("database", lambda combination: ((name,) for name in databases(combination)))
def test_its_processes_do_their_work_and_end_in_order(
    combination: Combination, database: str, workplace: Workplace
) -> None:
    with (
        servers.database(database, workplace.temporary) as found,
        servers.broker(combination, workplace) as queue,
        production(workplace, {**found, **queue}) as site,
    ):
        check(site)


@pytest.mark.parametrize(
    "numbers", sorted(PROMISED | interpreters().keys()), ids=lambda numbers: ".".join(map(str, numbers))
)
def test_the_default_project_runs_on_each_python(
    numbers: tuple[int, ...],
    bake: Callable[[Combination], Path],
    environments: Environments,
    tmp_path: Path,
) -> None:
    if numbers not in interpreters():
        pytest.skip(f"not tested: there is no Python {'.'.join(map(str, numbers))} here")
    workplace = Workplace.of(bake(COMBINATIONS[0]), interpreters()[numbers], environments, tmp_path)
    with servers.database("sqlite", workplace.temporary) as found, production(workplace, dict(found)) as site:
        check(site)


#: Takes out of settings all that worker/ has a default for: what is left is where tasks wait, and where web is.
FORGET = """
for name in [name for name in globals() if name.startswith(("MAX_", "METRICS_", "Q_")) and name != "Q_CLUSTER"]:
    del globals()[name]
Q_CLUSTER = {key: Q_CLUSTER[key] for key in ("mongo", "mongo_db", "orm", "redis", "sqs") if key in Q_CLUSTER}
del BASE_DIR
"""


@each("", lambda combination: iter([()]), [it for it in COMBINATIONS if it.broker == "redis"][:1])
def test_a_newer_worker_runs_with_older_settings(combination: Combination, workplace: Workplace) -> None:
    with (workplace.path / "config/settings.py").open("a") as settings:
        settings.write(FORGET)
    with (
        servers.sqlite(workplace.temporary) as found,
        servers.broker(combination, workplace) as queue,
        production(workplace, {**found, **queue}) as site,
    ):
        check(site)


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_older_settings_are_sound_with_each_broker(combination: Combination, workplace: Workplace) -> None:
    with (workplace.path / "config/settings.py").open("a") as settings:
        settings.write(FORGET)
    assert "no issues" in workplace.manage("check", environment={**PRODUCTION, "DEBUG": "true"})

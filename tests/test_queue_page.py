"""The page of the queue, in a browser and beside a real worker of each broker: what happens shows on it by itself."""

import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Locator, expect

from tests import servers
from tests.chromium import DESKTOP, PHONE, Window, chromium, window
from tests.combinations import COMBINATIONS, Combination, each
from tests.projects import Workplace
from tests.test_run import STAFF, Site, production

NAME, PASSWORD = STAFF["DJANGO_SUPERUSER_USERNAME"], STAFF["DJANGO_SUPERUSER_PASSWORD"]
PAGE = "/admin/queue/"
SECONDS = 20  #: that this may take: by what it has written last, a worker that has died would be shown after 90
AT_LOCALHOST = {"ALLOWED_HOSTS": "localhost,www.example.com", "SECURE_SSL_REDIRECT": "false"}
#: What the start page offers beside its own task; its text is the path of a file.
TASKS = """

@task(max_attempts=1)
def need(path: str) -> str:
    with open(path):
        return "It is there."


@task
def wait_for(path: str) -> str:
    from os.path import exists
    from time import sleep

    while not exists(path):
        sleep(0.1)
    return "It came."


OFFERS |= {"need": Offer("Need it", need), "wait": Offer("Wait for it", wait_for)}
"""


def with_both_djangos() -> list[Combination]:
    """Return a combination of each broker, by turns with one Django and the other."""
    alike = [it for it in COMBINATIONS if (it.hosting, it.queues) == ("docker", "single")]
    brokers = list(dict.fromkeys(it.broker for it in alike))
    djangos = list(dict.fromkeys(it.django_version for it in alike))
    return [it for it in alike if it.django_version == djangos[brokers.index(it.broker) % len(djangos)]]


@dataclass
class Queue:
    """The page, which is never loaded anew unless a button does so."""

    window: Window

    def section(self, name: str) -> Locator:
        """Return one of its sections."""
        return self.window.page.locator(f"section[aria-labelledby={name}]")

    def press(self, button: str, *, sure: bool = False) -> str:
        """Press a button by what it is called aloud, answer its question, and return what the page says then."""
        self.window.page.get_by_role("button", name=button).first.click()
        if sure:
            self.window.page.get_by_role("button", name="Yes").click()
        return self.window.page.locator("ul.messagelist li").inner_text()


def send(window: Window, button: str, text: str) -> str:
    """Let the start page queue a task, in a tab of its own, and return the path of its result."""
    page = window.page.context.new_page()
    page.goto(window.url)
    page.fill("#text", text)
    with page.expect_response(lambda it: "/tasks/" in it.url and it.request.method == "GET") as answer:
        page.get_by_role("button", name=button).click()
    path = answer.value.url
    page.close()
    return str(path)


def result(window: Window, path: str) -> str:
    """Return what became of a task."""
    page = window.page.context.new_page()
    page.goto(path)
    words = page.locator("#result").inner_text()
    page.close()
    return words


@each("", lambda combination: iter([()]), with_both_djangos())
def test_the_page_shows_what_happens_and_acts_on_it(combination: Combination, workplace: Workplace) -> None:
    with (workplace.path / "core/tasks.py").open("a") as tasks:
        tasks.write(TASKS)
    with (
        servers.database("sqlite", workplace.temporary) as database,
        servers.broker(combination, workplace) as queue,
        production(workplace, {**database, **queue, **AT_LOCALHOST}) as site,
        chromium() as browser,
    ):
        workplace.manage("createsuperuser", "--noinput", environment={**site.environment, **STAFF})
        with window(browser, site.port) as shown:
            shown.log_in(NAME, PASSWORD)
            shown.open(PAGE)
            check_that_all_is_well(Queue(shown))
            check_failures(Queue(shown), workplace.temporary / "needed")
            check_a_pause(Queue(shown), site)
            check_a_schedule(Queue(shown))
            check_a_cancellation(Queue(shown), workplace.temporary / "never")
            check_looks(shown)
            check_that_a_dead_worker_is_seen(Queue(shown), site)
            assert shown.complaints == []


def check_that_all_is_well(queue: Queue) -> None:
    """Find the worker alive."""
    expect(queue.section("workers")).to_contain_text("Alive")
    expect(queue.section("failed")).to_contain_text("Nothing has failed.")
    expect(queue.section("running")).to_contain_text("Nothing runs at the moment.")


def check_failures(queue: Queue, needed: Path) -> None:
    """Let a task fail, and run it again once what it needs is there; what was opened stays open meanwhile."""
    send(queue.window, "Need it", str(needed))
    failed = queue.section("failed")
    expect(failed).to_contain_text("FileNotFoundError")
    failed.locator("summary").click()
    send(queue.window, "Need it", str(needed))
    expect(failed.locator("li")).to_have_count(2)
    expect(failed.locator("details")).to_have_attribute("open", "")
    needed.touch()
    failed.locator("li button").first.click()
    expect(failed.locator("li")).to_have_count(1)
    assert NAME not in queue.press("Run all again", sure=True)
    expect(failed).to_contain_text("Nothing has failed.")


def check_a_pause(queue: Queue, site: Site) -> None:
    """Queue a task while the queue is paused: it runs once that is over.

    Where nobody can be told, the worker looks each second, and may begin one that comes before.
    """
    queue.press("Pause default")
    row = queue.section("queues").locator("tbody tr").first
    expect(row).to_contain_text(f"Paused by {NAME}")
    for _ in range(3):
        task = send(queue.window, "Count its words", "two words")
        with suppress(AssertionError):
            expect(row.locator("[data-label=Waiting]")).to_have_text("1", timeout=5_000)
            break
    assert result(queue.window, task) == "Waiting for a worker …"
    queue.press("Resume default")
    expect(row).not_to_contain_text("Paused")
    expect(row.locator("[data-label=Waiting]")).to_have_text("0")
    site.web.wait_until(lambda: result(queue.window, task) == "Result: 2", "its result")


def check_without_script(browser: Browser, site: Site) -> None:
    """Pause and resume in a browser that runs no script."""
    with window(browser, site.port, script=False) as plain:
        plain.log_in(NAME, PASSWORD)
        plain.open(PAGE)
        expect(plain.page.get_by_role("link", name="Refresh")).to_be_visible()
        for button in "Pause default", "Resume default":
            assert Queue(plain).press(button)


def check_a_schedule(queue: Queue) -> None:
    """Run one now."""
    last = queue.section("schedules").locator("[data-label=Last]")
    expect(last).not_to_contain_text("ago")
    queue.press("Run now core.tasks.tidy")
    expect(last).to_have_text(re.compile(r"\d+ s ago"))


def check_a_cancellation(queue: Queue, never: Path) -> None:
    """Cancel a task that runs, and would not end."""
    send(queue.window, "Wait for it", str(never))
    expect(queue.section("running")).to_contain_text("core.tasks.wait_for")
    queue.press("Cancel core.tasks.wait_for", sure=True)
    expect(queue.section("running")).to_contain_text("Nothing runs at the moment.")
    expect(queue.section("failed")).to_contain_text(f"Cancelled by {NAME}")


def check_looks(window: Window) -> None:
    """Find nothing that hinders anybody, on a desk and on a telephone, by day and by night."""
    for size in DESKTOP, PHONE:
        for dark in False, True:
            window.look(dark=dark, size=size)
            assert window.obstacles() == []
            assert not window.is_too_wide()
    window.look()


def check_that_a_dead_worker_is_seen(queue: Queue, site: Site) -> None:
    """Kill the whole worker, and find that it does not answer, here and on the start page."""
    (worker,) = (it for it in site.processes if it.name == "worker")
    for pid in worker.session():
        os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    expect(queue.section("workers")).to_contain_text("Does not answer")
    expect(queue.section("queues")).to_contain_text("python manage.py prodserver worker")
    assert time.monotonic() - begun < SECONDS
    queue.window.open("/")
    expect(queue.window.page.locator(".missing")).to_contain_text("python manage.py prodserver worker")

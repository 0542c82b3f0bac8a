"""Take the pictures of the queue's page for the README: of a shop whose slow worker was killed, by day and by night.

It needs Debian's Chromium, and writes docs/images/queue-*.png.
"""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import expect

from scripts.examples import ROOT, bake
from tests import servers
from tests.chromium import PHONE, Window, chromium, window
from tests.combinations import COMBINATIONS
from tests.interpreters import for_combination
from tests.projects import Environments, Workplace
from tests.test_queue_page import AT_LOCALHOST, NAME, PAGE, PASSWORD
from tests.test_run import STAFF, Site, production

IMAGES = ROOT / "docs" / "images"
LARGEST = 150_000  #: bytes
TASKS = """
import smtplib
import time

from worker.schedules import schedule
from worker.tasks import exponential, task


@task(queue_name="slow")
def export_orders(): pass


@task
def thank(): pass


@task(max_attempts=1)
def send_invoice(): raise smtplib.SMTPRecipientsRefused("550 no such user here")


@task(max_attempts=1)
def resize_picture(): raise OSError("image file is truncated (43 bytes not processed)")


@task(max_attempts=5, backoff=exponential(first=300))
def charge_card(): raise ConnectionError("payment.example.com refused the connection")


@task(timeout=900)
def import_catalogue(): time.sleep(600)


@schedule(daily_at="07:00")
@task
def send_digest(): pass
"""
ENQUEUE = "from shop import tasks; [getattr(tasks, name).enqueue() for name, n in {} for _ in range(n)]"


def main() -> None:
    """Bake a project, let it work, and take the pictures."""
    combination = next(it for it in COMBINATIONS if (it.broker, it.queues) == ("redis", "fast_and_slow"))
    with TemporaryDirectory() as folder:
        project = bake({**combination.answers, "project_name": "My Shop"}, Path(folder))
        environments = Environments(Path(folder, "environments"))
        workplace = Workplace.of(project, for_combination(combination), environments, Path(folder))
        app = workplace.path / "shop"
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "tasks.py").write_text(TASKS)
        settings = workplace.path / "config" / "settings.py"
        settings.write_text(settings.read_text().replace('    "core",\n', '    "core",\n    "shop",\n', 1))
        with (
            servers.sqlite(Path(folder)) as database,
            servers.broker(combination, workplace) as broker,
            production(workplace, {**database, **broker, **AT_LOCALHOST, "Q_GRACE": "1"}) as site,
            chromium() as browser,
            window(browser, site.port) as shown,
        ):
            workplace.manage("createsuperuser", "--noinput", environment={**site.environment, **STAFF})
            shown.log_in(NAME, PASSWORD)
            shown.open(PAGE)
            work(shown, site)
            take(shown)


def work(shown: Window, site: Site) -> None:
    """Let some tasks end well, others fail, two run, and more wait."""

    def enqueue(*tasks: tuple[str, int]) -> None:
        site.workplace.manage("shell", "-c", ENQUEUE.format(tasks), environment=site.environment)

    (slow,) = (it for it in site.processes if it.name == "worker-slow")
    for pid in slow.session():
        os.kill(pid, signal.SIGKILL)
    enqueue(("send_invoice", 12), ("resize_picture", 1), ("charge_card", 2), ("thank", 1204))
    expect(shown.page.locator("[data-label='Done in 5 min']").first).to_have_text("1,204")
    enqueue(("import_catalogue", 2))
    expect(shown.page.locator("section[aria-labelledby=running] tbody tr")).to_have_count(2)
    enqueue(("thank", 38), ("export_orders", 4))
    expect(shown.page.locator("[data-label=Waiting]").first).to_have_text("38")
    expect(shown.page.locator("#queue")).to_contain_text("Does not answer")


def take(shown: Window) -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, size in ("desktop", (1280, 1150)), ("phone", PHONE):
        for dark in False, True:
            shown.look(dark=dark, size=size)
            file = IMAGES / f"queue-{name}-{'dark' if dark else 'light'}.png"
            shown.page.screenshot(path=file)
            if file.stat().st_size > LARGEST:
                raise SystemExit(f"{file} is larger than {LARGEST:,} bytes: make the window smaller.")
            print(f"✓ Wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Debian's Chromium, as somebody drives it who looks at a site on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import servers

DESKTOP, PHONE = (1280, 900), (360, 740)
PATIENCE = 30_000  #: milliseconds that a condition may take to come true
#: Django 5.2's own breadcrumbs: a link that differs from the text around it by its colour alone. Gone with 6.1.
UPSTREAM = {("link-in-text-block", ".breadcrumbs > a")}

expect.set_options(timeout=PATIENCE)


@dataclass
class Window:
    """A window of the browser, with cookies of its own, and what it has complained about."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Go to a page of the site."""
        self.page.goto(f"{self.url}{path}")

    def log_in(self, name: str, password: str) -> None:
        """Fill the admin's form."""
        self.open("/admin/login/")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", password)
        self.page.click("[type=submit]")

    def look(self, *, dark: bool = False, size: tuple[int, int] = DESKTOP) -> None:
        """Change the theme and the size."""
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        # Colours change little by little.
        self.page.evaluate("Promise.allSettled(document.getAnimations().map((it) => it.finished))")

    def is_too_wide(self) -> bool:
        """Say whether the page scrolls to the side."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def obstacles(self) -> list[Any]:
        """Return what axe finds in the page, apart from what Django itself does."""
        found = [
            (violation["id"], node["target"][0], node["failureSummary"])
            for violation in Axe().run(self.page).response["violations"]
            for node in violation["nodes"]
        ]
        return [it for it in found if not any(it[0] == rule and it[1].startswith(at) for rule, at in UPSTREAM)]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=servers.program("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def window(browser: Browser, port: int, *, script: bool = True) -> Iterator[Window]:
    """Open a window on the site of a port."""
    with browser.new_context(java_script_enabled=script) as context:
        context.set_default_timeout(PATIENCE)
        context.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # browsers ask where none is named
        window = Window(context.new_page(), f"http://localhost:{port}")
        window.page.on(
            "console", lambda it: window.complaints.append(it.text) if it.type in {"warning", "error"} else None
        )
        window.page.on("pageerror", lambda it: window.complaints.append(str(it)))
        yield window

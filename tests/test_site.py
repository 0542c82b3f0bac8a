"""What strangers, broken proxies and servers that are away do to a site that runs as in production."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

from tests.browser import HOST, Browser, Page, ask, status
from tests.clients import BEHIND_PROXY, Site, longest_wait, on
from tests.hostings import settings
from tests.projects import PRODUCTION
from tests.test_mail_and_files import Letterbox, letterbox


@on("5.2")
def test_a_frozen_broker_holds_up_no_probe_and_no_page_that_does_without(site: Site) -> None:
    browser = site.signed_in()
    page = Page(browser.get("/").text)
    form = {**page.fields, "text": "some words", **dict(page.buttons[:1])}
    with ThreadPoolExecutor(40) as pool, site.frozen_broker():
        ready = [pool.submit(status, site.port, "/readyz") for _ in range(40)]
        waited = longest_wait(lambda: browser.get("/").status, lambda: all(it.done() for it in ready), lambda: None)
        assert waited < 1.8
        assert {it.result() for it in ready} == {503}
        sent = [pool.submit(browser.post, page.action, form) for _ in range(8)]
        waited = longest_wait(lambda: status(site.port, "/livez"), lambda: all(it.done() for it in sent), lambda: None)
        assert waited < 1.8
        answers = {(it.result().status, it.result().text) for it in sent}
    assert answers == {(503, "A server that this page needs does not answer. Try again in a minute.\n")}
    lines = site.logged(f"POST {page.action}: a server does not answer (TimeoutError: ")
    assert len(lines) == len(sent)
    assert lines[0]["levelname"] == "ERROR"
    assert "traceback" not in lines[0]
    site.process.wait_until(lambda: status(site.port, "/readyz") == 200, "an answer of the broker")


@on("5.2", "6.1")
def test_what_fails_in_a_page_is_mailed_if_that_can_be(site: Site) -> None:
    with (
        letterbox() as port,
        site.another(EMAIL_URL=f"smtp://127.0.0.1:{port}", ADMINS="ada@example.com, bob@example.com") as other,
    ):
        browser = Browser(other.port)
        assert browser.get("/away/").status == 503, "which is told in a line, and not mailed"
        page = browser.get("/broken/")
        assert (page.status, "Traceback" in page.text) == (500, False)
        (letter,) = Letterbox.letters
        Letterbox.letters.clear()
    assert b"ZeroDivisionError" in letter
    assert b"To: ada@example.com, bob@example.com" in letter
    with site.another(EMAIL_URL="smtp://127.0.0.1:1", ADMINS="ada@example.com") as other:
        assert Browser(other.port).get("/broken/").text == page.text
        lines = other.complaints()
    assert [(line["message"], "ZeroDivisionError" in str(line["traceback"])) for line in lines] == [
        ("Internal Server Error: /broken/", True)
    ]


@on("5.2")
def test_a_client_cannot_say_where_the_site_is(site: Site) -> None:
    headers = {**BEHIND_PROXY, "SCRIPT_NAME": "/elsewhere", "X-Script-Name": "/elsewhere"}
    assert ask(site.port, "GET", "/admin/", headers).location == "/admin/login/?next=/admin/"
    assert ask(site.port, "GET", "/elsewhere/admin/", headers).status == 404


@on("5.2")
def test_what_came_by_http_in_part_did_not_come_by_https(site: Site) -> None:
    for said, location in {
        "https": None,
        "https, https": None,
        "https,http": f"https://{HOST}/",
        "http,https": f"https://{HOST}/",
        "http": f"https://{HOST}/",
    }.items():
        assert ask(site.port, "GET", "/", {"Host": HOST, "X-Forwarded-Proto": said}).location == location, said


@on("5.2")
def test_a_redirect_without_end_ends_in_a_sentence(site: Site) -> None:
    # As a browser sees it that comes by HTTPS to a proxy that goes on by HTTP, and says so.
    browser = Browser(site.port)
    said = {"X-Forwarded-Proto": "http"}
    redirect = browser.ask("GET", "/", said)
    assert (redirect.status, redirect.location) == (301, f"https://{HOST}/")
    (cookie,) = browser.cookies.values()
    assert cookie.key.startswith("__Host-"), "a browser would keep it though it came by HTTP"
    assert (cookie["secure"], cookie["path"], cookie["domain"]) == (True, "/", "")
    end = browser.ask("GET", "/", said)
    assert end.status == 500
    assert end.text.startswith("The browser came by HTTPS, but the proxy before this site says 'http' in X-Forwarded-P")
    assert browser.get("/").status == 200, "once the proxy is mended"


@on("5.2", "6.1")
def test_the_policy_is_strict_and_the_admin_lives_with_it(site: Site) -> None:
    browser, seen, left = (
        site.signed_in(),
        set[str](),
        {"/", "/admin/", "/admin/queue/", "/admin/login/", "/admin/password_change/"},
    )
    while left:
        path = left.pop()
        seen.add(path)
        answer = browser.get(path)
        assert answer.status in {200, 302}, f"{path}: {answer}"
        policy = dict(it.split(" ", 1) for it in answer.policy.split("; "))
        assert policy == {
            "default-src": "'self'",
            "img-src": "'self' data:",
            "base-uri": "'none'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "object-src": "'none'",
        }, path
        page = Page(answer.text)
        assert page.inline == [], path
        assert all(file.startswith(("/", "data:")) for file in page.files), path
        links = (urljoin(path, link).partition("?")[0] for link in page.links if "logout" not in link)
        left |= {link for link in links if link.startswith("/admin/") and "jsi18n" not in link} - seen
    assert len(seen) > 20, seen


@on("5.2")
def test_https_can_be_left_to_others(site: Site) -> None:
    environment = {**PRODUCTION, "DATABASE_URL": "postgres://me:pw@db/site", "DEBUG": "false"}
    off, year = {"SECURE_SSL_REDIRECT": "false", "SECURE_HSTS_SECONDS": "0"}, {"SECURE_HSTS_SECONDS": "31536000"}
    check = ["check", "--deploy", "--fail-level", "WARNING"]
    site.workplace.manage(*check, environment=environment | off)
    for said, redirect, seconds in ({}, True, 3600), (off, False, 0), (year, True, 31536000):
        found = settings(site.workplace.path, said)
        assert (found["SECURE_SSL_REDIRECT"], found["SECURE_HSTS_SECONDS"]) == (redirect, seconds)

"""What strangers, slow clients and broken proxies do to a site that runs as in production, by its real server."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urljoin

import pytest

from tests.browser import HOST, Browser, Page, ask, status
from tests.clients import (
    BEHIND_PROXY,
    BODY,
    CHUNKS,
    GET,
    HEAD,
    POST,
    SIZE,
    USER,
    Site,
    longest_wait,
    on,
    raw,
    send_all,
    serve,
    slow_clients,
    steadily,
)
from tests.combinations import COMBINATIONS, Combination
from tests.hostings import settings
from tests.interpreters import for_combination
from tests.processes import free_port
from tests.projects import PRODUCTION, Environments, Workplace
from tests.test_docs import caddy, caddyfile


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest,
    bake: Callable[[Combination], Path],
    environments: Environments,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run web, with some pages of the tests' own, alone with the servers that it needs."""
    combination = next(
        it for it in COMBINATIONS if (it.broker, it.hosting, it.django_version) == ("redis", "docker", request.param)
    )
    folder = tmp_path_factory.mktemp("site")
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, folder)
    with serve(workplace, folder) as site:
        yield site


@on("5.2")
def test_slow_clients_hold_up_nobody_and_are_cut_off(site: Site) -> None:
    connect = partial(socket.create_connection, ("127.0.0.1", site.port))
    with slow_clients(connect, HEAD, BODY, CHUNKS) as clients:

        def each_second() -> None:
            send_all(clients)
            assert Browser(site.port).get("/").status == 200, "the pages are there as well"

        waited = longest_wait(
            lambda: status(site.port, "/livez"), lambda: not any(it.is_open for it in clients), each_second
        )
    assert waited < 1


@on("5.2")
def test_slow_clients_hold_up_nobody_behind_the_proxy_of_the_page(site: Site, tmp_path: Path) -> None:
    block = caddyfile(site.workplace.path, site.port, free_port())
    assert {"read_header 10s", "read_body 2m"} <= {line.strip() for line in block.splitlines()}
    with caddy(block.replace("read_header 10s", "read_header 2s").replace("2m", "3s"), tmp_path) as (visitor, _):

        def connect() -> socket.socket:
            here = socket.create_connection(("127.0.0.1", visitor.port))
            return visitor.context.wrap_socket(here, server_hostname=HOST)

        with slow_clients(connect, HEAD, BODY) as clients:
            waited = longest_wait(
                lambda: visitor.get("/livez").status,
                lambda: not any(it.is_open for it in clients),
                partial(send_all, clients),
            )
        assert waited < 1
        headers = {"Content-Length": "10000001", "Origin": f"https://{HOST}"}
        assert visitor.ask("POST", "/", headers).status == 413


@on("5.2")
def test_what_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    said = raw(site.port, f"{POST}Expect: 100-continue\r\nContent-Length: 10000001\r\n\r\n")
    assert said.startswith("HTTP/1.1 413 ")
    assert "No more than 10 MB can be sent at once.\n" in said
    (line,) = site.logged("POST /nowhere/: ")
    assert line["message"] == "POST /nowhere/: No more than 10 MB can be sent at once. MAX_UPLOAD_MB raises that."
    assert line["levelname"] == "WARNING"
    said = raw(site.port, f"{POST}Transfer-Encoding: chunked\r\n\r\n{10_100_000:x}\r\n{'x' * 10_100_000}")
    assert said.startswith("HTTP/1.1 413 ")


@on("5.2")
def test_what_is_not_too_large_is_read(site: Site) -> None:
    fields = urlencode(USER | {"text": "x" * 200_000}).encode()
    head = f"{POST.replace('/nowhere/', '/admin/login/')}Connection: close\r\n"
    continued = f"{head}Expect: 100-continue\r\nContent-Length: {len(fields)}\r\n\r\n"
    said = raw(site.port, continued, fields)
    assert said.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 ")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(fields), fields)
    said = raw(site.port, f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks.decode()}")
    assert said.startswith("HTTP/1.1 403 ")


@on("5.2")
def test_whoever_takes_a_large_answer_steadily_gets_it_whole(site: Site) -> None:
    with ThreadPoolExecutor() as pool:
        for count in pool.map(lambda path: steadily(site, path, SIZE / 3), ("/large/", "/file/", "/stream/")):
            assert count > SIZE


@on("5.2")
def test_whoever_takes_nothing_of_an_answer_is_cut_off_without_a_word(site: Site) -> None:
    logged = len(site.complaints())
    with ExitStack() as stack:
        for path in ("/large/", "/file/", "/stream/") * 4:
            stack.enter_context(site.connect()).sendall(f"{GET.format(path)}\r\n".encode())
        site.process.wait_until(lambda: Browser(site.port).get("/").status == 200, "a thread that is free")
    assert site.complaints()[logged:] == []


@on("5.2")
def test_a_page_that_waits_in_vain_while_it_is_sent_is_logged(site: Site) -> None:
    assert raw(site.port, f"{GET.format('/late/')}\r\n").startswith("HTTP/1.1 200 ")
    (line,) = site.logged("Socket error processing request.")
    assert "the page's own" in str(line["exc_info"])


@on("5.2")
def test_large_bodies_wait_for_each_other_and_small_ones_for_none(site: Site) -> None:
    most, head = b"x" * 150_000, f"{POST}Connection: close\r\nContent-Length: 200000\r\n\r\n".encode()
    with ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(8)]
        for client in clients:
            client.sendall(head + most)
        site.process.wait_until(lambda: max(site.bodies()) >= 2, "files of bodies")
        for _ in range(8):
            assert raw(site.port, f"{POST}Connection: close\r\nContent-Length: 1\r\n\r\nx").startswith("HTTP/1.1 404 ")
        assert max(site.bodies()) == 2
        for client in clients:
            client.sendall(b"x" * 50_000)
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
    site.process.wait_until(lambda: sum(site.bodies()) == 0, "an end of the files")


@on("5.2")
def test_a_body_for_which_there_is_no_room_is_answered_and_logged_in_a_line(site: Site) -> None:
    logged = len(site.complaints())
    with site.small_disk():
        said = raw(site.port, f"{POST}Content-Length: 350000\r\n\r\n{'x' * 350_000}")
    assert said.startswith("HTTP/1.1 503 ")
    assert "There is no room for this. Try again in a minute." in said
    (line,) = site.complaints()[logged:]
    assert str(line["message"]).startswith("POST /nowhere/: no room for the body (")
    assert (line["levelname"], "exc_info" in line) == ("ERROR", False)


@on("5.2")
def test_one_connection_takes_many_requests_however_they_are_cut(site: Site) -> None:
    one = f"{GET.format('/livez')}\r\n{GET.format('/elsewhere/').replace('GET', 'HEAD')}\r\n"
    one += f"{POST}Content-Length: 3\r\n\r\nabc{POST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    all_of_it = (one * 2 + f"{GET.format('/livez')}Content-Length: 3\r\n\r\nabc{one}").encode()
    for size in 7, 100, 1000:
        with site.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(all_of_it), size):
                connection.sendall(all_of_it[start : start + size])
            said = b"".join(iter(partial(connection.recv, 1000), b""))
        codes = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
        assert codes == [200, 404, 404, 404] * 2 + [200], "and no more: nobody has read that body"


@on("5.2")
def test_what_proxies_may_read_in_two_ways_is_refused(site: Site) -> None:
    for second in "Transfer-Encoding: chunked", "Content-Length: 4", "Content-Length : 3":
        said = raw(site.port, f"{POST}Content-Length: 3\r\n{second}\r\n\r\n0\r\n\r\n")
        assert said.startswith("HTTP/1.1 400 "), second


@on("5.2")
def test_a_connection_without_a_request_does_not_hold_up_a_stop(site: Site) -> None:
    with site.another() as other, other.connect(), other.connect() as begun:
        begun.sendall(HEAD.encode())
        start = time.monotonic()
        assert other.process.stop() == 0
        assert time.monotonic() - start < 10, "Q_GRACE is 20"


@on("5.2")
def test_connections_need_not_be_kept(site: Site) -> None:
    with site.another(KEEP_ALIVE="0") as other:
        for _ in range(10):
            assert raw(other.port, f"{GET.format('/elsewhere/')}\r\n").startswith("HTTP/1.1 404 ")
        for pid in other.servers():
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (4096, 8192), "1000 connections take more than 1024"


@on("5.2")
def test_a_frozen_broker_holds_up_no_probe_and_no_page_that_does_without(site: Site) -> None:
    browser = site.signed_in()
    page = Page(browser.get("/").text)
    form = {**page.fields, "text": "some words", **dict(page.buttons[:1])}
    with ThreadPoolExecutor(40) as pool, site.frozen_broker():
        ready = [pool.submit(status, site.port, "/readyz") for _ in range(40)]
        waited = longest_wait(lambda: browser.get("/").status, lambda: all(it.done() for it in ready), lambda: None)
        assert waited < 1
        assert {it.result() for it in ready} == {503}
        sent = [pool.submit(browser.post, page.action, form) for _ in range(8)]
        waited = longest_wait(lambda: status(site.port, "/livez"), lambda: all(it.done() for it in sent), lambda: None)
        assert waited < 1
        answers = {(it.result().status, it.result().text) for it in sent}
    assert answers == {(503, "A server that this page needs does not answer. Try again in a minute.\n")}
    lines = site.logged(f"POST {page.action}: a server does not answer (TimeoutError: ")
    assert len(lines) == len(sent)
    assert lines[0]["levelname"] == "ERROR"
    assert "exc_info" not in lines[0]
    site.process.wait_until(lambda: status(site.port, "/readyz") == 200, "an answer of the broker")


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
    browser, seen, left = site.signed_in(), set[str](), {"/", "/admin/", "/admin/login/", "/admin/password_change/"}
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

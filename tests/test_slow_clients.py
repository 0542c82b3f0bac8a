"""What slow clients, large bodies and odd requests do to a site that runs as in production, by its real server."""

import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from tests.browser import HOST, Browser, status
from tests.clients import (
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
    slow_clients,
    steadily,
)
from tests.processes import free_port
from tests.test_docs import caddy, caddyfile


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
    assert waited < 1.8


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
        assert waited < 1.8
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
    assert "the page's own" in str(line["traceback"])


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
def test_a_large_body_does_not_wait_for_those_that_fall_silent(site: Site) -> None:
    logged, most = len(site.complaints()), b"x" * 800_000
    with ExitStack() as stack:

        def is_full() -> bool:
            stack.enter_context(site.connect()).sendall(BODY.encode() + most)  # one of the two takes it
            return site.bodies() == [2, 2]

        site.process.wait_until(is_full, "files of bodies")
        begun = time.monotonic()
        said = raw(site.port, f"{POST}Content-Length: 800000\r\n\r\n{'x' * 800_000}")
        assert said.startswith("HTTP/1.1 503 "), "not when the others are cut off, 18 s after they came"
        assert time.monotonic() - begun < 12
    lines = {str(line["message"]) for line in site.complaints()[logged:]}
    assert lines == {"POST /nowhere/: no room for the body (others take all files)"}
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

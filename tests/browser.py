"""A browser behind a proxy that ends TLS, as in production: it keeps cookies, and knows forms from links.

It runs nothing, and so judges by rule what a browser's content security policy would let run.
"""

import http.client
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode

HOST = "www.example.com"


class Page(HTMLParser):
    """What a browser sees in a page: its form and the files that it asks for."""

    def __init__(self, text: str) -> None:
        """Read the page."""
        super().__init__()
        self.text = text
        self.action = ""
        self.fields: dict[str, str] = {}
        self.buttons: list[tuple[str, str]] = []
        self.files: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag means, and what a policy without 'unsafe-inline' would not let run."""
        found = {name: value or "" for name, value in attrs}
        self.inline += [name for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found and found.get("type") != "application/json"):
            self.inline.append(tag)
        match tag:
            case "form":
                self.action = found.get("action", "")
            case "input":
                self.fields[found.get("name", "")] = found.get("value", "")
            case "button" if "name" in found:
                self.buttons.append((found["name"], found["value"]))
            case "a":
                self.links.append(found.get("href", ""))
            case "link" | "script" | "img":
                self.files += [found[name] for name in ("href", "src") if name in found]


@dataclass(frozen=True)
class Response:
    """An answer of the server."""

    status: int
    location: str | None
    text: str
    policy: str = ""


@dataclass
class Browser:
    """Asks the server on a port of this machine."""

    port: int
    cookies: SimpleCookie = field(default_factory=SimpleCookie)

    def get(self, path: str, accept: str = "text/html") -> Response:
        """Ask for a path."""
        return self.ask("GET", path, {"Accept": accept})

    def post(self, path: str, fields: dict[str, str]) -> Response:
        """Send a form, from a page of the site."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://{HOST}"}
        return self.ask("POST", path, headers, urlencode(fields))

    def log_in(self, name: str, password: str) -> Response:
        """Send the admin's login form; it leads to the start page."""
        self.get("/admin/login/")
        form = {"username": name, "password": password, "next": "/"}
        return self.post("/admin/login/", {**form, "csrfmiddlewaretoken": self.cookies["csrftoken"].value})

    def ask(self, method: str, path: str, headers: dict[str, str], body: str | None = None) -> Response:
        """Send a request as the proxy would hand it on, and keep the cookies of the answer."""
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in self.cookies.items())
        behind_proxy = {"Host": HOST, "X-Forwarded-Proto": "https", "Cookie": cookies}
        return ask(self.port, method, path, {**behind_proxy, **headers}, body, self.cookies)


def ask(
    port: int,
    method: str,
    path: str,
    headers: dict[str, str],
    body: str | None = None,
    cookies: SimpleCookie | None = None,
) -> Response:
    """Send a request as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            if cookies is not None:
                cookies.load(cookie)
        policy = answer.headers.get("Content-Security-Policy", "")
        return Response(answer.status, answer.headers["Location"], answer.read().decode(), policy)
    finally:
        connection.close()


def status(port: int, path: str) -> int:
    """Ask as a probe does: over plain HTTP, for a host that nobody has heard of; 0 stands for no answer."""
    try:
        return ask(port, "GET", path, {"Host": "10.1.2.3:8000"}).status
    except OSError:
        return 0

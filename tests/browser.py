"""A browser behind a proxy that ends TLS, as in production: it keeps cookies, and knows forms from links."""

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
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag means."""
        found = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self.action = found["action"]
            case "input":
                self.fields[found["name"]] = found.get("value", "")
            case "button":
                self.buttons.append((found["name"], found["value"]))
            case "link" | "script" | "img":
                self.files += [found[name] for name in ("href", "src") if name in found]


@dataclass(frozen=True)
class Response:
    """An answer of the server."""

    status: int
    location: str | None
    text: str


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
        return Response(answer.status, answer.headers["Location"], answer.read().decode())
    finally:
        connection.close()


def status(port: int, path: str) -> int:
    """Ask as a probe does: over plain HTTP, for a host that nobody has heard of; 0 stands for no answer."""
    try:
        return ask(port, "GET", path, {"Host": "10.1.2.3:8000"}).status
    except OSError:
        return 0

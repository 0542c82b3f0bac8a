"""What a site needs before its own pages: answers to probes, a limit, and sentences where something is wrong."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.sessions import middleware as sessions
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.utils.log import log_response

from worker import logs
from worker.conf import setting
from worker.health import why_away
from worker.single_flight import Readiness

PROBES = {"/livez", "/readyz"}
PLAIN = "text/plain; charset=utf-8"
TURNED = "__Host-turned-to-https"  #: a cookie, by its name one that browsers take and send over HTTPS only


def is_probe(path: str) -> bool:
    """Say whether ProbeMiddleware answers, in a time that does not depend on any server."""
    return path in PROBES or (path == "/metrics" and bool(setting("METRICS_TOKEN")))


def upload_limit() -> int:
    """Return the bytes that the body of a request may have."""
    return int(setting("MAX_UPLOAD_SIZE"))


def answer(request: HttpRequest, status: int, sentence: str, log: str = "") -> HttpResponse:
    """Answer with a sentence, and log it, or what is for the log only, in a line."""
    response = HttpResponse(f"{sentence}\n", content_type=PLAIN, headers={"Cache-Control": "no-store"}, status=status)
    log_response("%s %s: %s", request.method, request.path, log or sentence, response=response, request=request)
    return response


class Middleware:
    """Has the rest of the chain."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Hand the request on."""
        return self.get_response(request)


class ProbeMiddleware(Middleware):
    """Serves /livez, /readyz and /metrics; the first in MIDDLEWARE.

    Platforms ask with the Host header of an address, such as 172.19.4.2:8000, and over plain HTTP. Django would answer
    400 or redirect, and the platform would take the site down; so these paths are answered before it looks.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        super().__init__(get_response)
        self.readiness = Readiness()
        self.metrics: Any = None

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a probe, or hand the request on.

        /livez: this process answers; it asks nothing else, so a platform may ask it for ever.
        /readyz: the database and the broker answer as well. For probes at start only: asked for ever, it would turn
        an outage of the broker into one of the site.
        /metrics: what the queues do, for METRICS_TOKEN; where that is unset, it is a path like any other.
        """
        match request.path_info:
            case "/livez":
                problems = []
            case "/readyz":
                problems = [f"the {name} does not answer" for name in self.readiness.silent()]
            case "/metrics" if setting("METRICS_TOKEN"):
                return self.tell(request)
            case _:
                return self.get_response(request)
        return HttpResponse(
            "\n".join(problems or ["ok"]) + "\n",
            content_type=PLAIN,
            headers={"Cache-Control": "no-store"},
            status=503 if problems else 200,
        )

    def tell(self, request: HttpRequest) -> HttpResponse:
        """Answer with the metrics, to who knows the token."""
        from worker.queue import metrics  # which needs models

        if not metrics.may_ask(request.headers.get("Authorization", "")):
            return answer(request, 404, "Not found.", "the token is missing or wrong")
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"], "Ask by GET.\n", content_type=PLAIN)
        self.metrics = self.metrics or metrics.Metrics()
        found = self.metrics.read()
        if not found.text:
            return answer(request, 503, found.problem)
        return HttpResponse(found.text, content_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"})


class RequestIdMiddleware(Middleware):
    """Gives each request an id: in its answer, on each line of its log, and of those of the tasks that it queues."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Take the id that a proxy has given it, if that can be used, or a new one."""
        request_id = logs.request_id(request.META.get("HTTP_X_REQUEST_ID", ""))
        with logs.around(request_id=request_id):
            response = self.get_response(request)
        response.headers["X-Request-ID"] = request_id
        return response


class ProxyMiddleware(Middleware):
    """Reads X-Forwarded-Proto strictly; before Django's SecurityMiddleware."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Take for HTTPS only what all proxies on the way call so, and end a redirect that has no end.

        Of `https,http` Django, 5.2 and 6.1, looks at the first word alone, which may be the client's own.
        """
        header = settings.SECURE_PROXY_SSL_HEADER[0] if settings.SECURE_PROXY_SSL_HEADER else ""
        said = request.META.get(header, "")
        if len({word.strip() for word in said.split(",")}) > 1:
            request.META[header] = "http"
        response = self.get_response(request)
        if request.is_secure() or response.status_code != 301 or not settings.SECURE_SSL_REDIRECT:
            return response
        if TURNED not in request.COOKIES:
            response.set_cookie(TURNED, "1", max_age=60, secure=True, httponly=True, samesite="Lax")
            response.headers["Cache-Control"] = "no-store"  # or browsers would keep what is wrong when it is mended
            return response
        return answer(
            request,
            500,
            f"The browser came by HTTPS, but the proxy before this site says {said!r} in X-Forwarded-Proto, and so "
            "every redirect to HTTPS leads here again. Let the proxy send the browser's own scheme; with Cloudflare, "
            "choose the encryption mode Full (strict).",
        )


class UploadLimitMiddleware(Middleware):
    """Refuses a body that is too large, before anything reads it."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Look at the length that the client has announced, or that gunicorn has counted; Django reads no other."""
        try:
            is_too_large = int(request.META.get("CONTENT_LENGTH") or 0) > upload_limit()
        except ValueError:
            is_too_large = False  # nor such a one
        if not is_too_large:
            return self.get_response(request)
        sentence = f"No more than {upload_limit() / 1_000_000:g} MB can be sent at once."
        return answer(request, 413, sentence, f"{sentence} MAX_UPLOAD_MB raises that.")


class OutageMiddleware(Middleware):
    """Answers 503 for a view that fails since the broker or the database is away."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer, or leave to Django what is another's error."""
        return outage(request, exception)


class SessionMiddleware(sessions.SessionMiddleware):
    """Answers 503 if a session cannot be saved since the database is away: that comes when the view is through."""

    def process_request(self, request: HttpRequest) -> None:
        """Look for the session; Django, 5.2 and 6.1, lets psycopg raise for a key that PostgreSQL cannot hold."""
        if "\0" in request.COOKIES.get(settings.SESSION_COOKIE_NAME, ""):
            raise BadRequest("There is a null character in the key of the session.")
        super().process_request(request)

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        try:
            return super().process_response(request, response)
        except Exception as error:
            cause: BaseException | None = error
            while cause:  # Django makes a session that is gone of it, which would be the visitor's fault
                if answered := outage(request, cause):
                    return answered
                cause = cause.__context__
            raise


def outage(request: HttpRequest, error: BaseException) -> HttpResponse | None:
    """Answer for an error of a server that is away; return nothing for another."""
    if not (reason := why_away(error)):
        return None
    sentence = "A server that this page needs does not answer. Try again in a minute."
    return answer(request, 503, sentence, f"a server does not answer ({reason})")

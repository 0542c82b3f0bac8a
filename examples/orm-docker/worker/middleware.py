"""Answers to probes.

Platforms ask with the Host header of an address, such as 172.19.4.2:8000, and over plain HTTP. Django would answer
400 or redirect, and the platform would take the site down; so these paths are answered before it looks.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from worker import health


class ProbeMiddleware:
    """Serves /livez and /readyz; the first in MIDDLEWARE."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Keep the rest of the chain, for all other paths."""
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a probe, or hand the request on.

        /livez: this process answers; it asks nothing else, so a platform may ask it for ever.
        /readyz: the database and the broker answer as well. For probes at start only: asked for ever, it would turn
        an outage of the broker into one of the site.
        """
        match request.path_info:
            case "/livez":
                problems = []
            case "/readyz":
                problems = [f"the {name} does not answer" for name in health.silent_servers()]
            case _:
                return self.get_response(request)
        return HttpResponse(
            "\n".join(problems or ["ok"]) + "\n",
            content_type="text/plain; charset=utf-8",
            headers={"Cache-Control": "no-store"},
            status=503 if problems else 200,
        )

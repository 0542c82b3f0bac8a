"""The project's addresses, a view that does nothing, and one that waits as for another service."""

import time

from config.urls import urlpatterns as project_urls
from django.http import HttpRequest, HttpResponse
from django.urls import path


def trivial(request: HttpRequest) -> HttpResponse:
    """Answer at once."""
    return HttpResponse("done")


def waiting(request: HttpRequest) -> HttpResponse:
    """Answer after 50 ms."""
    time.sleep(0.05)
    return HttpResponse("done")


urlpatterns = [path("bench/trivial", trivial), path("bench/waiting", waiting), *project_urls]

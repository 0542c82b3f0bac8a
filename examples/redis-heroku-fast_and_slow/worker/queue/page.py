"""The page of the queue in the admin: what there is, and what one may do about it."""

import re
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any
from urllib.parse import unquote

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_safe

from worker.queue import actions
from worker.queue.depths import MOST
from worker.queue.overview import overview
from worker.queue.state import Overview
from worker.single_flight import PATIENCE, SingleFlight

WITHIN = 10.0  #: seconds for which many tasks are queued again while somebody waits for the page
KEY = re.compile(r"\d{1,18}\Z")  #: of a schedule
GROUP = ("function", "exception")  #: what the failed tasks of a group have in common
REVERSING = re.compile("[\u202a-\u202e\u2066-\u2069]")  #: what lets a browser show in another order what follows


@dataclass(frozen=True)
class Action:
    """What a button does: its name is that of the action, its value says to what, and more of that behind slashes."""

    label: Any
    do: Callable[[list[str], str], str]  #: with the value's parts, and for whom; returns a sentence
    question: Any = ""  #: what is asked before
    warning: Any = ""  #: what there is to know before one answers
    destroys: bool = False
    number: Callable[[list[str]], int] | None = None  #: of the tasks that it is about, where they are failed ones


ACTIONS = {
    "pause": Action(_("Pause"), lambda said, by: actions.pause(said[0], by)),
    "resume": Action(_("Resume"), lambda said, by: actions.resume(said[0], by)),
    "purge": Action(
        _("Purge"),
        lambda said, by: actions.purge(said[0], by),
        _("Purge this queue?"),
        _("All its tasks that no worker has fetched are deleted, also those that are due later. Nothing undoes this."),
        destroys=True,
    ),
    "cancel": Action(
        _("Cancel"),
        lambda said, by: actions.cancel(said[0], by),
        _("Cancel this task?"),
        _("If it waits, it is taken out. If it runs, its worker is ended in the middle of it. It is not tried again."),
        destroys=True,
    ),
    "retry": Action(_("Run again"), lambda said, by: actions.retry(by, task=said[0])),
    "retry_group": Action(
        _("Run again"),
        lambda said, by: actions.retry(by, within=WITHIN, **dict(zip(GROUP, said, strict=True))),
        _("Run these tasks again?"),
        _("All tasks of this function that have failed for good by this exception are queued again."),
        number=lambda said: actions.failed_for_good(*said)[:MOST].count(),
    ),
    "retry_all": Action(
        _("Run all again"),
        lambda said, by: actions.retry(by, within=WITHIN),
        _("Run all failed tasks again?"),
        _("All tasks that have failed for good are queued again, but those that somebody has cancelled."),
        number=lambda said: actions.failed_for_good()[:MOST].count(),
    ),
    "run": Action(_("Run now"), lambda said, by: actions.run_schedule(int(said[0]), by)),
}


shared = SingleFlight(lambda: overview())  #: what all requests of this process see


def in_time(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Let a view, its session included, fail where it would wait without end: for a frozen database, or a lock."""

    @wraps(view)
    def answered(request: HttpRequest) -> HttpResponse:
        limit = PATIENCE + (WITHIN if request.method == "POST" else 0)
        found: HttpResponse = SingleFlight(partial(copy_context().run, view, request)).tell(limit)
        return found

    return answered


@require_http_methods(["GET", "HEAD", "POST"])
def queue(request: HttpRequest) -> HttpResponse:
    """Show the page, or do what a button says and show it again."""
    if request.method == "POST":
        return act(request)
    return answer(request, "page", {**around(request, _("Queue")), **seen(request)})


@require_safe
def now(request: HttpRequest) -> HttpResponse:
    """Return the part of the page that its script replaces; messages stay for the page itself."""
    return answer(request, "now", seen(request))


def answer(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    """Return a page; what strangers have sent, and is the name or the reason of a task, cannot turn its text around."""
    return HttpResponse(REVERSING.sub("�", render_to_string(f"admin/queue/{name}.html", context, request)))


def act(request: HttpRequest) -> HttpResponse:
    """Do what a button says, or ask before."""
    if not may_act(request):
        raise PermissionDenied
    name = next((name for name in ACTIONS if request.POST.get(name)), "")
    if not name:
        return HttpResponseBadRequest(f"Send one of these: {', '.join(ACTIONS)}.\n", content_type="text/plain")
    action, value = ACTIONS[name], request.POST[name]
    said = [unquote(part) for part in value.split("/")]
    is_one = len(said) == len(GROUP) if name == "retry_group" else said[0].strip()  # a function may have an empty name
    if not is_one or "\0" in "".join(said) or (name == "run" and not KEY.match(said[0])):
        return HttpResponseBadRequest(f"No button of this page says this to {name}.\n", content_type="text/plain")
    if action.question and "sure" not in request.POST:
        asked = {"name": name, "value": value, "said": said, "warning": action.warning}
        number = action.number(said) if action.number else None
        return answer(request, "sure", {**around(request, action.question), **asked, "number": number})
    try:
        messages.success(request, action.do(said, request.user.get_username()))
    except actions.RefusedError as error:
        messages.error(request, str(error))
    return redirect("queue")


def seen(request: HttpRequest) -> dict[str, Any]:
    """Return what the page shows to somebody who may see it."""
    if not may_see(request):
        raise PermissionDenied
    found: Overview = shared.tell(PATIENCE)
    clusters = [cluster for each in found.queues for cluster in each.clusters]
    return {"queue": found, "clusters": clusters, "may_act": may_act(request)}


def may_see(request: HttpRequest) -> bool:
    """Say whether the page is shown to who asks."""
    user: Any = request.user
    return bool(user.has_perm("django_q.view_task")) or may_act(request)


def may_act(request: HttpRequest) -> bool:
    """Say whether its buttons are."""
    user: Any = request.user
    return bool(user.has_perm("django_q.change_task"))


def around(request: HttpRequest, title: Any) -> dict[str, Any]:
    """Return what the admin's own pages need; in its lists the entry of this page is the current one."""
    context: dict[str, Any] = admin.site.each_context(request)
    for app in context["available_apps"]:
        for model in app["models"]:
            if model["object_name"] == "Queue" and app["app_label"] == "worker":
                model["admin_url"] = reverse("queue")
    return {**context, "title": title}

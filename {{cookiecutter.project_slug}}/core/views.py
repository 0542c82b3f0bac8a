"""The start page, and the task that it runs: in development for everybody, elsewhere for staff.

Strangers would fill the queue, and read what others have sent.
"""

from functools import partial
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django_q.tasks import async_task, fetch

from core.forms import RunForm
from core.tasks import OFFERS
from worker import heartbeat
from worker.processes import workers


@require_safe
@never_cache
def start(request: HttpRequest) -> HttpResponse:
    """Show what runs, and a form that runs a task; to others where they may log in."""
    if not _may_run(request):
        return render(request, "core/stranger.html", {"site_name": settings.SITE_NAME})
    return render(request, "core/start.html", _page())


@require_POST
@transaction.atomic
def run(request: HttpRequest) -> HttpResponse:
    """Queue a task, and lead to the page of its result."""
    if not _may_run(request):
        raise PermissionDenied
    form = RunForm(request.POST)
    if not form.is_valid():
        return HttpResponseBadRequest("Write a text of at most 500 characters.\n", content_type="text/plain")
    offer = OFFERS[form.cleaned_data["offer"]]
    name = uuid4()
    # Only once the transaction is committed: a worker is quick, and would not yet find what was written in it.
    transaction.on_commit(
        partial(async_task, offer.task, form.cleaned_data["text"], cluster=offer.cluster, task_name=str(name))
    )
    return redirect("task", name)


@require_safe
@never_cache
def task(request: HttpRequest, name: UUID) -> HttpResponse:
    """Show how far a task is: as JSON to the page's script, as a page to those who have none."""
    if not _may_run(request):
        raise PermissionDenied
    found = fetch(str(name))
    if found is None:
        state = {"done": False, "text": "Waiting for a worker …"}
    elif found.success:
        state = {"done": True, "text": f"Result: {found.result}"}
    else:
        reason = str(found.result).partition(" : ")[0]  # what follows is the traceback
        state = {"done": True, "text": f"Failed: {reason}"}
    if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
        return JsonResponse(state)
    return render(request, "core/start.html", _page(tasks=[state]))


def _may_run(request: HttpRequest) -> bool:
    return settings.DEBUG or request.user.is_staff


def _page(**context: Any) -> dict[str, Any]:
    reports = [{"process": process, "alive": heartbeat.is_alive(process.cluster)} for process in workers()]
    return {"site_name": settings.SITE_NAME, "offers": OFFERS, "reports": reports, **context}

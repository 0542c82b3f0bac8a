"""The start page, and the task that it runs: in development for everybody, elsewhere for staff.

Strangers would fill the queue, and read what others have sent.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from core.forms import RunForm
from core.tasks import OFFERS
from worker.processes import workers
from worker.queue import signs
from worker.tasks import ResultNoLongerKept, TaskResultDoesNotExist, default_task_backend, in_words


@require_safe
@never_cache
def start(request: HttpRequest) -> HttpResponse:
    """Show what runs, and a form that runs a task; to others where they may log in."""
    if not _may_run(request):
        return render(request, "core/stranger.html", {"site_name": settings.SITE_NAME})
    return render(request, "core/start.html", _page())


@require_POST
def run(request: HttpRequest) -> HttpResponse:
    """Queue a task, and lead to the page of its result."""
    if not _may_run(request):
        raise PermissionDenied
    form = RunForm(request.POST)
    if not form.is_valid():
        return HttpResponseBadRequest("Write a text of at most 500 characters.\n", content_type="text/plain")
    result = OFFERS[form.cleaned_data["offer"]].task.enqueue(form.cleaned_data["text"])
    return redirect("task", result.id)


@require_safe
@never_cache
def task(request: HttpRequest, key: str) -> HttpResponse:
    """Show how far a task is: as JSON to the page's script, as a page to those who have none."""
    if not _may_run(request):
        raise PermissionDenied
    try:
        result = default_task_backend.get_result(key)
    except ResultNoLongerKept:
        state = {"done": True, "text": "Its result is no longer kept, or it was queued again."}
    except TaskResultDoesNotExist:
        raise Http404 from None
    else:
        state = {"done": result.is_finished, "text": in_words(result)}
    if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
        return JsonResponse(state)
    return render(request, "core/start.html", _page(tasks=[state]))


def _may_run(request: HttpRequest) -> bool:
    return settings.DEBUG or request.user.is_staff


def _page(**context: Any) -> dict[str, Any]:
    alive = {sign.name for sign in signs.look() if sign.alive}
    reports = [{"process": process, "alive": process.cluster in alive} for process in workers()]
    return {"site_name": settings.SITE_NAME, "offers": OFFERS, "reports": reports, **context}

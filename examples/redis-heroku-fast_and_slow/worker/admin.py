"""What django-q2's pages in the admin do otherwise."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core import checks
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _
from django_q import admin as upstream
from django_q import models

from worker import failures, packages
from worker.models import Failure, Queue, WaitingTask
from worker.queue import page
from worker.resubmit import resubmit

TEXT = 100_000  #: characters that are shown of a value


@admin.action(permissions=["change"], description=_("Resubmit selected tasks to queue"))
def resubmit_task(model_admin: Any, request: HttpRequest, tasks: Any) -> None:
    """Queue tasks again, and say which cannot be.

    django-q2's own, 1.11.1, is there for who may only look, ends at the first one that is refused, and forgets options.
    """
    for task in tasks:
        if problem := resubmit(task):
            model_admin.message_user(request, problem, messages.ERROR)


class List(ChangeList):
    """A page of rows, which may be of 100 MB each, without what it does not show of them."""

    model_admin: "Errors"

    def get_results(self, request: HttpRequest) -> None:
        self.queryset = self.queryset.defer(*self.model_admin.not_listed)
        super().get_results(request)


class Errors(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows why each attempt has failed."""

    actions = [resubmit_task]
    not_listed: tuple[str, ...] = ("args", "kwargs", "result")
    exclude = ("args", "kwargs", "result")  # what is shown in their place is there for whatever they are

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read where results are written: a replica may lag."""
        return super().get_queryset(request).using(packages.table().db)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return List

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fields = [name for name in super().get_readonly_fields(request, obj) if name not in self.exclude]
        return [*fields, "text_of_args", "text_of_kwargs", "text_of_result", "errors_of_attempts"]

    @admin.display(description=_("args"))
    def text_of_args(self, task: Any) -> str:
        return packages.text_of(task.args, TEXT)

    @admin.display(description=_("kwargs"))
    def text_of_kwargs(self, task: Any) -> str:
        return packages.text_of(task.kwargs, TEXT)

    @admin.display(description=_("result"))
    def text_of_result(self, task: Any) -> str:
        return packages.text_of(task.result, TEXT)

    @admin.display(description=_("Errors"))
    def errors_of_attempts(self, task: Any) -> str:
        """Return a line for each attempt, with its traceback behind it."""
        failure = Failure.objects.using(packages.table().db).filter(pk=task.pk).first()
        rows = [
            (f"{error['exception_class_path']}, {error['stopped']}, {error['worker']}", error["traceback"])
            for error in (failure.errors if failure else [])
        ]
        return format_html_join("", "<details><summary>{}</summary><pre>{}</pre></details>", rows) or "-"

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        ids = list(queryset.values_list("pk", flat=True))
        super().delete_queryset(request, queryset)
        failures.delete(ids, packages.table().db)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        failures.delete([obj.pk], packages.table().db)
        super().delete_model(request, obj)


class SuccessAdmin(Errors, upstream.TaskAdmin):  # type: ignore[misc]
    """Tasks that have succeeded, perhaps not at once."""

    list_filter = ("cluster",)  # not the group: there may be 100,000, and the search finds them


class FailureAdmin(Errors, upstream.FailAdmin):  # type: ignore[misc]
    """Tasks that have failed for good."""

    not_listed = ("args", "kwargs")  # the result is the reason

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(~failures.is_waiting())


@admin.register(WaitingTask)
class WaitingAdmin(Errors, upstream.FailAdmin):  # type: ignore[misc]
    """Tasks that have failed and will be tried again."""

    list_display = ("name", "func", "reason", "attempt", "next_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Add what is kept of their failures; the next ones come first."""
        failure = Failure.objects.filter(task=OuterRef("pk"))
        names = ("reason", "attempts", "max_attempts", "next_try")
        columns = {f"failure_{name}": Subquery(failure.values(name)) for name in names}
        waiting = super().get_queryset(request).filter(failures.is_waiting(), success=False)
        ordered: QuerySet[Any] = waiting.annotate(**columns).order_by("failure_next_try")
        return ordered

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Delete none: its queue would still have it."""
        return False

    @admin.display(description=_("Reason"))
    def reason(self, task: Any) -> str:
        return str(task.failure_reason)

    @admin.display(description=_("Attempt"))
    def attempt(self, task: Any) -> str:
        return failures.ordinal(task.failure_attempts, task.failure_max_attempts)

    @admin.display(description=_("Next at"))
    def next_at(self, task: Any) -> str:
        return failures.clock(task.failure_next_try.timestamp())


def has_page() -> bool:
    """Say whether the project's addresses lead to the page of the queue: those of one generated earlier may not."""
    try:
        return resolve(f"/{reverse('queue').removeprefix(get_script_prefix())}").view_name == "queue"
    except (NoReverseMatch, Resolver404):
        return False


@checks.register(checks.Tags.urls)
def check_page(**_: Any) -> Iterator[checks.CheckMessage]:
    if not has_page():
        problem = f"{settings.ROOT_URLCONF} does not lead to the page of the queue, which the admin then lacks."
        hint = 'Write path("admin/queue/", include("worker.queue.urls")), above the line of "admin/".'
        yield checks.Info(problem, hint=hint, id="worker.I061")


@admin.register(Queue)
class QueueAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Leads from the admin's lists to the page of the queue."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return has_page() and page.may_see(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return has_page() and page.may_see(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_delete_permission = has_change_permission

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not has_page():
            raise Http404
        return redirect("queue")


for model, shown in ((models.Success, SuccessAdmin), (models.Failure, FailureAdmin)):
    admin.site.unregister(model)
    admin.site.register(model, shown)

"""What django-q2's pages in the admin do otherwise."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django_q import admin as upstream


@admin.action(permissions=["change"], description=_("Resubmit selected tasks to queue"))
def resubmit_task(model_admin: Any, request: HttpRequest, tasks: Any) -> None:
    """Queue tasks again, and say which cannot be.

    django-q2's own, 1.11.1, is there for who may only look, and ends at the first one that is refused.
    """
    for task in tasks:
        try:
            upstream.resubmit_task(model_admin, request, [task])
        except (TypeError, ValueError) as error:
            model_admin.message_user(request, f"Could not queue {task.name}: {error}", messages.ERROR)


upstream.TaskAdmin.actions = upstream.FailAdmin.actions = [resubmit_task]

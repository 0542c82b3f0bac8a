"""A task that is queued again by hand: with its name, group, limits and policy, under a new id."""

from typing import Any

from django.db import transaction
from django.utils import timezone
from django_q.tasks import async_task

from worker import failures, packages
from worker.delivery import brief
from worker.models import Failure


def resubmit(task: Any) -> str:
    """Queue a task again, and delete its result if it has failed; return why that is not done, or ""."""
    try:
        return queue_again(task)
    except (TypeError, ValueError) as error:  # of async_task(), which refuses it, or of what cannot be read
        return f"The task {task.name} cannot be queued: {error}"


def queue_again(task: Any) -> str:
    """Do so, or raise why that cannot be done."""
    if not isinstance(task.args or (), list | tuple) or not isinstance(task.kwargs or {}, dict):
        raise ValueError("its arguments cannot be read.")  # the field has returned the text of what it cannot unpickle
    using = packages.table().db
    with transaction.atomic(using):  # whoever is second waits for the first, and finds nothing
        failure = Failure.objects.using(using).select_for_update().filter(pk=task.pk).first()
        if failure and failure.next_try and failure.next_try > timezone.now() - failures.OVERDUE:
            at = failures.clock(failure.next_try.timestamp())
            return f"{task.name} will be tried again by itself at {at}: no second copy of it was queued."
        if not task.success:
            if not packages.table().filter(pk=task.pk, success=False).delete()[0]:
                return f"{task.name} is there no more: it was resubmitted or deleted."
            failures.delete([task.pk], using)
        known = {"task_name": task.name, "kwargs": task.kwargs or {}}
        options = {"cluster": task.cluster, **options_of(task, failure), **known}
        function = options.pop("func", None)
        if packages.is_path(task.func):  # of what was set aside, it is not what the options say
            function = task.func
        elif function is None:
            raise ValueError(f"its function, {task.func}, is no function at the top of a module, and was not kept.")
        async_task(function, *task.args or (), q_options=options)
    return ""


def options_of(task: Any, failure: Failure | None) -> dict[str, Any]:
    """Return what a task was queued with; of one that has never failed, its row tells."""
    if failure is None or failure.options is None:
        return {"group": task.group, **({"hook": task.hook} if task.hook != packages.PART else {})}
    try:
        options: dict[str, Any] = packages.unpickled(failure.options)
    except Exception as error:  # whatever unpickling raises
        raise ValueError(f"its options cannot be read ({brief(error)}).") from error
    return options

"""Tasks that are queued again in the admin: one that is refused holds up no other, and only who may change them can."""

import pytest
from core.models import User
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone
from django_q import admin as pages
from django_q.models import Failure, Task

pytestmark = pytest.mark.django_db
PAGE = "/admin/django_q/failure/"


def failure(name: str, **fields: object) -> Failure:
    """Return a task that has failed."""
    now = timezone.now()
    return Failure.objects.create(
        id=name, name=name, func="math.sqrt", args=(-1,), kwargs={}, started=now, stopped=now, success=False, **fields
    )


def again(client: Client) -> str:
    """Queue all failed tasks again, and return the page that follows."""
    chosen = {"action": "resubmit_task", "_selected_action": list(Failure.objects.values_list("pk", flat=True))}
    return str(client.post(PAGE, chosen, follow=True).content.decode())


def somebody(permission: str) -> Client:
    """Return the browser of somebody with one permission."""
    user = User.objects.create(username=permission, is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename=permission))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Provide the clusters of tasks that are queued."""
    queued: list[str | None] = []
    real = pages.async_task

    def async_task(*args: object, cluster: str | None, **options: object) -> None:
        class Memory:
            list_key = "memory"

            def enqueue(self, payload: str) -> None:
                queued.append(cluster)

        real(*args, cluster=cluster, broker=Memory(), **options)

    monkeypatch.setattr(pages, "async_task", async_task)
    return queued


def test_a_task_that_is_refused_is_named_and_holds_up_no_other(queued: list[str | None]) -> None:
    failure("first", cluster="gone")
    failure("second", cluster=None)
    page = again(somebody("change_failure"))
    assert "Could not queue first: Q_CLUSTER knows no cluster" in page
    assert (queued, [task.name for task in Task.objects.all()]) == ([None], ["first"])


def test_who_may_only_look_can_queue_nothing(queued: list[str | None]) -> None:
    failure("first", cluster=None)
    again(somebody("view_failure"))
    assert (queued, Failure.objects.count()) == ([], 1)

"""The app: registers the system checks, once it is sure that what it needs itself is there."""

import warnings
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

from worker.conf import complete

# Asked here, since a later entry of INSTALLED_APPS, or the project's tasks, would end in a traceback.
for module, package in {"django_q": "django-q2", "croniter": "croniter"}.items():
    if find_spec(module) is None:
        raise ImproperlyConfigured(
            f"{package} is not installed here: run `uv sync`, or `uv add {package}` if it was removed."
        )


complete()

# django-q2 1.11.1 holds that a lease must outlast its task, since it renews none. This can go when it does.
warnings.filterwarnings("ignore", message="Retry and timeout are misconfigured")


class WorkerConfig(AppConfig):
    name = "worker"

    def ready(self) -> None:
        """Register checks and validators, let tasks signed with a former key be read, and begin with Sentry."""
        if not apps.is_installed("django_q"):  # no command could read the migrations
            raise ImproperlyConfigured("'django_q' is missing in INSTALLED_APPS: write it before 'worker'.")
        from django.core import signing
        from django.utils.encoding import force_str
        from django_q import core_signing

        from worker import allowed, announcements, checks, errors, tasks  # noqa: F401

        def loads(value: str | bytes, **options: Any) -> Any:
            return signing.loads(force_str(value), **options)  # some brokers return statuses as bytes

        # django-q2 1.11.1 has a copy of this function that does not know SECRET_KEY_FALLBACKS: after a change of the
        # key, what was queued before could not be verified. This can go when django_q.core_signing names that setting.
        core_signing.loads = loads
        errors.begin()

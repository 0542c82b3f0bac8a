"""The app: registers the system checks, once it is sure that the queue itself is there."""

from importlib.util import find_spec

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

# Asked here, since a later entry of INSTALLED_APPS would end in a traceback.
if find_spec("django_q") is None:
    raise ImproperlyConfigured(
        "django-q2 is not installed here: run `uv sync`, or `uv add django-q2` if it was removed."
    )


class WorkerConfig(AppConfig):
    """Configuration of the app."""

    name = "worker"

    def ready(self) -> None:
        """Register the system checks."""
        from worker import checks  # noqa: F401

"""The app: yours to fill."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """Configuration of the app."""

    name = "core"

"""Celery's application."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "peers.settings")
app = Celery("peers")
app.config_from_object("django.conf:settings", namespace="CELERY")
# By this name, and no other, its integration of Django asks for it.
app.conf["CELERY_DB_REUSE_MAX"] = 1000
app.autodiscover_tasks(["peers"])

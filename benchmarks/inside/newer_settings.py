"""The settings of the other queues that run on a newer Django only, connections kept."""

import os

import dj_database_url

SECRET_KEY = os.environ["SECRET_KEY"]
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=600)}
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:1/0").rpartition("/")[0]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_ox", "threadmill"]
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}
BACKENDS = {
    "django-ox": {"BACKEND": "django_ox.backend.OxBackend"},
    "threadmill": {"BACKEND": "threadmill.backends.redis.RedisTaskBackend", "REDIS_URL": f"{REDIS_URL}/5"},
}
TASKS = {"default": BACKENDS[os.environ["BENCH_SYSTEM"]]}
BENCH_TASK = "django.tasks.task"

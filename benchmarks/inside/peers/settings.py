"""The settings of the other queues, connections kept where they can be."""

import os

import dj_database_url

SECRET_KEY = os.environ["SECRET_KEY"]
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=600)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:1/0").rpartition("/")[0]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_celery_results",
    "django_dramatiq",
    "django_rq",
    "django_tasks_db",
    "huey.contrib.djhuey",
    "peers",
    "procrastinate.contrib.django",
]
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}

CELERY_BROKER_URL = f"{REDIS_URL}/1"
CELERY_WORKER_PREFETCH_MULTIPLIER = 50
if os.environ.get("BENCH_SYSTEM") == "celery-db":
    CELERY_RESULT_BACKEND = "django-db"
else:
    CELERY_TASK_IGNORE_RESULT = True

HUEY = {"huey_class": "huey.RedisHuey", "name": "bench", "url": f"{REDIS_URL}/2", "results": False, "immediate": False}
# What its documentation has, without what keeps a row for each task and without figures for Prometheus: both cost.
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.redis.RedisBroker",
    "OPTIONS": {"url": f"{REDIS_URL}/3"},
    "MIDDLEWARE": [
        "dramatiq.middleware.AgeLimit",
        "dramatiq.middleware.TimeLimit",
        "dramatiq.middleware.Callbacks",
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
    ],
}
RQ_QUEUES = {"default": {"URL": f"{REDIS_URL}/4", "DEFAULT_TIMEOUT": 360}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
BENCH_TASK = "django_tasks.task"

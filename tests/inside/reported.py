"""Tasks that log and fail, and a page that queues them, for tests: part of a project's folder."""
# mypy: disable-error-code="untyped-decorator"

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse
from django_q.tasks import async_chain, async_task
from worker.tasks import exponential, task

logger = logging.getLogger("reported")
soon = exponential(first=0.1, jitter=0)


@task(max_attempts=3, backoff=soon)
def fail() -> None:
    logger.info("a line of its own", extra={"colour": "red"})
    raise ValueError("no luck")


@task(takes_context=True, max_attempts=2, backoff=soon)
def mend(context: Any) -> str:
    if context.attempt == 1:
        raise KeyError("first")
    return "mended"


@task(max_attempts=1)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(max_attempts=1)
def clash() -> None:
    logger.info("a key of logging's own", extra={"levelname": "mine"})


@task
def collide() -> None:
    logger.info("mine", extra={"task_id": "mine", "attempt": object(), "timestamp": "mine", "traceback": ["mine"]})


@task
def odd() -> None:
    logger.warning("half \ud800, none \0, whole \U0001f600")
    circular: list[Any] = []
    circular.append(circular)
    for it in (float("nan"), {"deep": float("inf")}, {("a", 1): "a tuple"}, circular, 10**5000):
        logger.info("odd extra", extra={"it": it})
    no_text: dict[Any, Any] = {("no", "text"): 1, "it": "fine"}
    logger.info("odd extra", extra=no_text)
    other = threading.Thread(target=logger.info, args=["in a thread"])
    other.start()
    other.join()


@task
def queue_another() -> None:
    async_task("reported.link", "queued")


def link(name: str) -> str:
    logger.info("link %s", name)
    return name


def chain() -> None:
    async_chain([("reported.link", ("first",)), ("reported.link", ("last",))])


@task(max_attempts=1)
def last() -> None:
    time.sleep(20)


@task
def imported() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "sentry_sdk"})


def page(request: HttpRequest, name: str) -> HttpResponse:
    """Queue a task, within a span if there are some."""
    logger.info("page %s", name)
    if tracer:
        with tracer.start_as_current_span("request"):
            return HttpResponse(queue(name))
    return HttpResponse(queue(name))


def queue(name: str) -> str:
    """Queue a task, and return its id."""
    found = globals()[name]
    return str(found() if name == "chain" else found.enqueue().id[:32])


def traced(path: str) -> Any:
    """Set OpenTelemetry up: each span becomes a line of a file."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Lines(SpanExporter):  # type: ignore[misc]
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with Path(path).open("a") as file:
                file.writelines(f"{json.dumps(json.loads(span.to_json()))}\n" for span in spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Lines(), schedule_delay_millis=60_000))
    trace.set_tracer_provider(provider)
    return trace.get_tracer("reported")


tracer = traced(os.environ["SPANS"]) if "SPANS" in os.environ else None

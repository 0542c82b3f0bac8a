"""One trace from a request to the tasks that it has queued, where OpenTelemetry is set up.

Whoever sets it up imports it, so nothing is imported for that here, and nothing is done where nobody has.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

KEY = "trace"  #: of a package: the W3C headers of what has queued it
FLUSH = 800  #: milliseconds that a worker which leaves has for what is not sent yet: a stop kills it after a second


def api() -> Any:
    """Return OpenTelemetry's module of traces if somebody has set a provider, else None."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return trace if trace and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider) else None


def inject(package: dict[str, Any]) -> None:
    """Put into the package of a task which trace it is part of."""
    if api():
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        if carrier:
            package[KEY] = carrier


@contextmanager
def carried(package: Mapping[str, Any]) -> Iterator[None]:
    """Let what comes be part of the trace that a package tells of."""
    if not api():
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(package.get(KEY) or {}))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(package: Mapping[str, Any], keys: Mapping[str, Any]) -> Iterator[Any]:
    """Let what comes be a task that is run; yield its span, for end(), or None."""
    if not (trace := api()):
        yield None
        return
    attributes = {
        "messaging.system": "django-q2",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": keys["queue"],
        "messaging.message.id": keys["task_id"],
        "code.function.name": keys["task"],
        "django_q.attempt": keys["attempt"],
    }
    name, kind = f"process {keys['queue']}", trace.SpanKind.CONSUMER
    with carried(package):
        its = trace.get_tracer("worker").start_span(name, kind=kind, attributes=attributes)
        with trace.use_span(its, record_exception=False, set_status_on_exception=False):
            yield its
        end(its, None)


def end(its: Any, error: BaseException | None, at: int | None = None) -> None:
    """End a span, if there is one that goes on, perhaps with what the task has raised."""
    if its is None or not its.is_recording():
        return
    if error:
        trace = api()
        its.record_exception(error)
        its.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
    its.end(at or time.time_ns())


def flush() -> None:
    """Wait a moment for what is not sent yet, since this process is about to end."""
    if (trace := api()) and (force := getattr(trace.get_tracer_provider(), "force_flush", None)):
        force(FLUSH)

"""Django's tasks, run by the clusters of Q_CLUSTER: `@task` and `.enqueue()`, beside async_task() of django-q2.

A task is queued as the dotted path of its function, and its result is django-q2's row: so the admin shows and resubmits
it as any other. Nothing is written down beside that. A result is found by its id, `<id of the row>.<receipt>`: the
row's id begins with the time, and by the receipt the broker finds what waits.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Literal, overload

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django_q.brokers import get_broker

from worker import policy, results
from worker.django_tasks import (
    BaseTaskBackend,
    InvalidTask,
    P,
    R,
    TaskResultDoesNotExist,
    base,
    default_task_backend,
    exceptions,
    signals,
)
from worker.django_tasks import task as declare
from worker.enqueue import Noting, async_task, refuse_call
from worker.policy import Backoff, WorkerDied, exponential
from worker.processes import cluster_of, did_you_mean, queues
from worker.results import ResultNoLongerKept, in_words

__all__ = [
    "Backend",
    "DeclarationError",
    "ResultNoLongerKept",
    "Task",
    "TaskResultDoesNotExist",
    "WorkerDied",
    "default_task_backend",
    "exponential",
    "in_words",
    "task",
]

if not hasattr(base.Task, "__class_getitem__"):  # Django's own, 6.1, is generic to type checkers alone
    setattr(base.Task, "__class_getitem__", classmethod(lambda cls, _: cls))  # noqa: B010 (there is none, to mypy)


OPTIONS = {"backend", "backoff", "max_attempts", "priority", "queue_name", "takes_context", "timeout"}  #: of @task
CHANGES = OPTIONS - {"takes_context"} | {"run_after"}  #: of using()


class DeclarationError(policy.PolicyError, InvalidTask):  # type: ignore[misc, unused-ignore]
    """What is wrong with how a task is declared, in a sentence."""


@contextmanager
def named(function: Any) -> Iterator[None]:
    """Name the function in what is wrong with its task."""
    try:
        yield
    except DeclarationError:
        raise
    except (ImproperlyConfigured, InvalidTask, KeyError, TypeError, ValueError) as error:
        if isinstance(error, KeyError):
            error = ValueError(f"an entry of TASKS has no {error}.")
        path = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        raise DeclarationError(f"The task {path} cannot be used: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(base.Task[P, R]):
    """A task that can be called as the function that it is, and has a policy for its attempts."""

    max_attempts: int | None = None  #: None stands for the default, here and in the next two
    backoff: Backoff | None = None
    timeout: float | None = None  #: seconds of an attempt

    def __post_init__(self) -> None:
        """Refuse what is wrong, where it is written."""
        with named(self.func):
            policy.check({**self.policy, "run_after": self.run_after})
            # A dataclass with slots is a new class, of which super() knows nothing before Python 3.14 (cpython #90562).
            base.Task.__post_init__(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.call(*args, **kwargs)
        return result

    def __str__(self) -> str:
        """Return the path, which is what a schedule keeps of a task."""
        return str(self.module_path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it by its path, as Django 6.1 does, and django-tasks 0.12 does not: with that, this can go."""
        return restored, (str(self), {it.name: getattr(self, it.name) for it in fields(self) if it.name != "func"})

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, for `inspect`."""
        function: Callable[..., Any] = self.func
        return function

    @property
    def policy(self) -> dict[str, Any]:
        """What it says about its attempts."""
        said = {"max_attempts": self.max_attempts, "backoff": self.backoff, "timeout": self.timeout}
        return {name: value for name, value in said.items() if value is not None}

    def using(self, **changes: Any) -> "Task[P, R]":
        """Return a task that differs in this; None changes nothing."""
        with named(self.func):
            for word in changes.keys() - CHANGES:
                raise TypeError(f"using() has no option {word!r}. {did_you_mean(word, CHANGES)}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def get_result(self, result_id: str) -> Any:
        return self._own(self.get_backend().get_result(result_id))

    async def aget_result(self, result_id: str) -> Any:
        return self._own(await self.get_backend().aget_result(result_id))

    def _own(self, result: Any) -> Any:
        """Return a result, if it is this task's; of a broker that cannot be asked it does not say whose it is."""
        if result.task.func is results.unknown and results.mark_of(str(self)) == result.id.partition(".")[2]:
            result.note(task=self)
        if result.task.func != self.func:
            raise exceptions.TaskResultMismatch(f"Task does not match (received {str(result.task)!r})")
        return result


def restored(path: str, values: dict[str, Any]) -> Any:
    return replace(import_string(path), **values)


if TYPE_CHECKING:  # Django's own, 6.1, does not say what keywords go on to task_class

    @overload
    def task(function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        *,
        queue_name: str = ...,
        backend: str = ...,
        takes_context: Literal[True],
        max_attempts: int | None = ...,
        backoff: Backoff | None = ...,
        timeout: float | None = ...,
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...

    @overload
    def task(
        *,
        queue_name: str = ...,
        backend: str = ...,
        takes_context: Literal[False] = ...,
        max_attempts: int | None = ...,
        backoff: Backoff | None = ...,
        timeout: float | None = ...,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(*_: Any, **__: Any) -> Any: ...

else:

    def task(function=None, /, **options):
        """Declare a task, as Django's own decorator does, and refuse an option that there is not."""
        if function is None:
            return partial(task, **options)
        if not callable(function) and not isinstance(function, base.Task):
            given = policy.shown(function)
            raise DeclarationError(f"@task is given {given}: it takes keywords, as in @task(timeout=9).")
        with named(function):
            for word in options.keys() - OPTIONS:
                hint = "It is using(run_after=…)." if word == "run_after" else did_you_mean(word, OPTIONS)
                raise TypeError(f"@task has no option {word!r}. {hint}")
            if not isinstance(backend := options.get("backend", "default"), str):
                raise TypeError(f"backend {policy.shown(backend)} is no name of one in TASKS.")
            return declare(function, **options)


class Backend(BaseTaskBackend):
    """Queues tasks where django-q2 does. A queue is a cluster of Q_CLUSTER: `default` is the first."""

    task_class = Task
    supports_async_task = supports_defer = supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        """Take the queues that there are, if TASKS names none."""
        named = params.get("QUEUES", queues())
        if not isinstance(named, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in named):
            hint = "write a list of names, as in ['default'], or take it out"
            raise ImproperlyConfigured(f"TASKS[{alias!r}]: QUEUES is {policy.shown(named)}: {hint}.")
        super().__init__(alias, {**params, "QUEUES": named})

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Check that a cluster serves each queue."""
        problem = "TASKS[{!r}]: no cluster serves the queue {!r}."
        return [
            Error(problem.format(self.alias, name), hint=did_you_mean(name, queues()), id="worker.E050")
            for name in sorted(self.queues - {*queues()})
        ]

    def validate_task(self, task: Any) -> None:
        if inspect.isgeneratorfunction(task.func) or inspect.isasyncgenfunction(task.func):
            raise InvalidTask(f"{task.name}() is a generator function, whose result is no JSON: return a list.")
        known = {*(self.queues or queues())} & {*queues()}
        if not isinstance(task.queue_name, str) or task.queue_name not in known:
            hint = did_you_mean(str(task.queue_name), known)
            raise InvalidTask(f"Queue '{task.queue_name}' is not valid for backend. {hint}")
        super().validate_task(task)
        if task.func.__qualname__ != task.func.__name__ or task.func.__name__ == "<lambda>":  # of a class, say
            raise InvalidTask("Task function must be defined at a module level.")

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Queue a task: with orm within the transaction under way, elsewhere at once.

        Raises:
            InvalidTask: If it cannot be run.
            TypeError: If an argument is no JSON.
        """
        self.validate_task(task)
        refuse_call(task, args, kwargs)
        args, kwargs = results.strict_json_of(f"An argument of {task.name}()", [list(args), kwargs])
        ready = base.TaskResultStatus.READY
        result = results.Result.of(task, self.alias, "", ready, args=args, kwargs=kwargs)
        broker = Noting(get_broker(cluster_of(task.queue_name)))
        key = async_task(task, *result.args, q_options={"broker": broker, "kwargs": result.kwargs})
        receipt = str(broker.receipt) if broker.broker.can_peek else ""
        result.note(id=results.id_of(key, receipt, str(task)), enqueued_at=results.enqueued_at(key))
        signals.task_enqueued.send_robust(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return what is known of a task.

        Raises:
            TaskResultDoesNotExist: If nothing is; a ResultNoLongerKept if there was one.
        """
        return results.find(self.alias, result_id)

"""Which functions a schedule may run: whoever may add one in the admin could otherwise run any, as the worker's user.

What is typed is checked where it is saved with validation, as the admin and django-q2's schedule() do, and once more by
the worker that queues the task.
"""

import pydoc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ValidationError
from django_q.models import Schedule

from worker.conf import setting
from worker.delivery import brief
from worker.enqueue import refuse
from worker.processes import unknown_cluster
from worker.recurrence import arguments

INSTALLED = {"dist-packages", "site-packages"}  #: folders of what others wrote
OWN = {"overlap", "time_zone"}  #: options in q_options that are the schedule's, and none of its task


def modules() -> Sequence[str]:
    """Return the modules, packages or single functions that Q_SCHEDULE_MODULES names; by default the project's apps."""
    named: Sequence[str] | None = setting("Q_SCHEDULE_MODULES")
    return [app.name for app in apps.get_app_configs() if is_own(app)] if named is None else named


def is_own(app: AppConfig) -> bool:
    """Say whether an app is the project's."""
    return app.name != __package__ and not INSTALLED.intersection(Path(app.path).parts)


def refusal(path: Any) -> str:
    """Return why a schedule may not run what a dotted path names, or ""."""
    allowed = modules()
    if str(path).startswith("<"):  # what a function is as a text
        return f"A schedule cannot run {path}: write its dotted path, as in 'core.tasks.count_words'."
    names = ", ".join(allowed) or "no module"
    problem = f"A schedule may not run {path!r}: Q_SCHEDULE_MODULES allows {names}. Add it there, or write a function."
    if not _is_below(path, allowed):
        return problem
    try:
        function: Any = pydoc.locate(path)
    except Exception as error:  # whatever a module raises when it is imported
        return f"A schedule cannot run {path!r}, since its module cannot be imported: {brief(error)}."
    if hasattr(function, "module_path"):  # a task of django.tasks, whose class is of another module
        function = function.func
    if not callable(function):
        return f"A schedule cannot run {path!r}: there is no such function."
    # The path may lead elsewhere: core.tasks.os.system does, where core.tasks imports os.
    home = getattr(function, "__module__", None)
    if path in allowed or _is_below(home, allowed):
        return ""
    return f"{problem} It is of {home}, whatever its path."


def refusal_of_options(options: Any) -> str:
    """Return why a schedule may not give async_task() these options, or ""."""
    if not isinstance(options, Mapping):
        return f"A schedule's q_options are a dict, not {options!r}."
    for name in ("chain", "iter_count", "iter_cached", "sync"):
        if name in options:
            return f"A schedule may not have the option {name}: let its function queue what has it."
    return refusal(options["hook"]) if options.get("hook") else ""


def _is_below(path: Any, allowed: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{name}.") for name in allowed)


def problem_of_args(text: str) -> str:
    """Return why a schedule's arguments cannot be read, or ""."""
    return _read(Schedule(args=text))[1]


def problem_of_kwargs(text: str) -> str:
    """Return why its keyword arguments, which may hold options of async_task(), cannot be used, or ""."""
    kwargs, problem = _read(Schedule(kwargs=text))
    return problem or refusal_of_options(kwargs) or refusal_of_options(kwargs.get("q_options") or {})


def validator(ask: Callable[[Any], str]) -> Callable[[Any], None]:
    """Return what raises a ValidationError for what this names as wrong."""

    def validate(value: Any) -> None:
        if problem := ask(value):
            raise ValidationError(problem)

    return validate


def clean(schedule: Schedule) -> None:
    """Validate what no field can tell by itself."""
    if schedule.schedule_type == Schedule.MINUTES and not schedule.minutes:
        raise ValidationError("A schedule of type Minutes needs their number, 1 or more.")
    if problem_of_kwargs(schedule.kwargs):
        return  # which the field has told
    keywords = _read(Schedule(kwargs=schedule.kwargs))[0]
    options = keywords.get("q_options") or {}
    try:
        refuse(schedule.func, keywords | {"q_options": {key: options[key] for key in options.keys() - OWN}})
    except (TypeError, ValueError) as error:
        raise ValidationError({"kwargs": f"A schedule cannot be queued: {error}"}) from error


def _read(schedule: Schedule) -> tuple[dict[str, Any], str]:
    try:
        return arguments(schedule)[1], ""
    except ValueError as error:
        return {}, f"A schedule cannot be queued: {error}."


# Where a model is validated, these are asked as well; they are no part of the field's migrations.
for _name, _ask in {
    "func": refusal,
    "hook": refusal,
    "args": problem_of_args,
    "kwargs": problem_of_kwargs,
    "cluster": unknown_cluster,
}.items():
    Schedule._meta.get_field(_name).validators.append(validator(_ask))  # noqa: SLF001 (a documented part of models)
Schedule.clean = clean  # django-q2 1.11.1 has none of its own


@register()
def check_modules(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    named = modules()
    if isinstance(named, list | tuple) and all(isinstance(name, str) and name for name in named):
        return []
    return [
        Error(
            f"Q_SCHEDULE_MODULES is {named!r}, no list of modules.",
            hint="Write ['core'] for core and all below it.",
            id="worker.E040",
        )
    ]

"""Schedules that are declared in code, beside the functions that they run.

    @schedule(daily_at="03:00", time_zone="Europe/Zurich")
    def tidy() -> None: ...

`manage.py release`, and `manage.py schedules` in development, bring the rows of django-q2's table in line.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import router, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from django.utils.module_loading import module_has_submodule
from django_q.models import Schedule

from worker.allowed import is_own, refusal
from worker.delivery import brief
from worker.enqueue import OPTIONS
from worker.models import ScheduleState
from worker.policy import shown
from worker.processes import cluster_named, did_you_mean, nearest, unknown_cluster
from worker.recurrence import following, time_zone_of
from worker.results import strict_json_of

F = TypeVar("F", bound=Callable[..., Any])
MOST_MINUTES, LONGEST_NAME, LONGEST_PATH = 32_767, 100, 256  #: that the table takes
TIMING = {"schedule_type", "cron", "minutes"}  #: what changes the next time of a schedule, beside its time zone

declared: dict[str, "Declared"] = {}  #: by name


class ScheduleError(ImproperlyConfigured, ValueError):
    """What is wrong with a schedule in code, in a sentence: manage.py ends with it."""


@dataclass(frozen=True)
class Declared:
    """A schedule as it is declared in code."""

    name: str
    function: Any  #: the object that was decorated
    fields: dict[str, Any]  #: of its row


def in_a_sentence(decorator: F) -> F:
    """Refuse in a sentence what the decorator does not take."""
    known = inspect.signature(decorator).parameters

    @wraps(decorator)
    def checked(*args: Any, **options: Any) -> Any:
        if args:
            raise ScheduleError("@schedule takes keywords, as in @schedule(daily_at='03:00').")
        for word in options.keys() - known.keys():
            hint = "It is cluster=." if word == "queue_name" else did_you_mean(word, known)
            raise ScheduleError(f"@schedule has no option {word!r}. {hint}")
        return decorator(**options)

    return cast(F, checked)


@in_a_sentence
def schedule(
    *,
    cron: str | None = None,
    every: timedelta | None = None,
    daily_at: str | None = None,
    time_zone: str | None = None,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    overlap: bool = False,
    cluster: str | None = None,
    max_attempts: int | None = None,
    timeout: int | None = None,
) -> Callable[[F], F]:
    """Declare a schedule of a function or a task, which stays as it is.

    It runs at the times of one of these: `cron`, five words as in "*/10 8-17 * * mon-fri"; `every` so many minutes, as
    a timedelta; or `daily_at` a time, as "03:00". The first and the last are what clocks show in `time_zone`, which is
    Q_CLUSTER's by default: what a change of the clocks skips runs after it, and what it repeats runs once,
    but for a cron with `*` or `*/2` in the place of the hours.

    `args` and `kwargs` are what the function is called with: Python literals. `name` is the function's path, where a
    function has no other schedule. While its last task waits, runs or is about to be tried again, no further one is
    queued, except with `overlap`. The other options are those of async_task(); `timeout` is in seconds.

    Raises:
        ScheduleError: If something is wrong with it.
    """

    def declare(function: F) -> F:
        task = getattr(function, "func", function) if hasattr(function, "module_path") else function
        path = path_of(task)
        label = path if name is None else name
        try:
            if not isinstance(label, str) or not 0 < len(label) <= LONGEST_NAME or not label.isprintable():
                what = f"is no text of 1 to {LONGEST_NAME} printable characters"
                raise ValueError(f"its name {shown(label)} {what}: give it another name=")
            if len(path) > LONGEST_PATH:
                raise ValueError(f"the path of its function is longer than {LONGEST_PATH} characters: shorten its name")
            refuse_duplicate(label, path, task)
            zone = zone_of(time_zone)
            options = {"max_attempts": max_attempts, "timeout": timeout, "time_zone": time_zone}
            for option in ("max_attempts", "timeout"):
                if (value := options[option]) is not None and (type(value) is not int or value < 1):
                    raise ValueError(f"{option} is {shown(value)}: write a whole number, at least 1")
            if not isinstance(overlap, bool):
                raise ValueError(f"overlap is {shown(overlap)}: write True or False")
            if not isinstance(cluster, str | None):
                raise ValueError(f"cluster is {shown(cluster)}: write the name of one")
            options = {"overlap": overlap} | {key: value for key, value in options.items() if value is not None}
            fields = {
                "name": label,
                "func": path,
                **timing(cron, every, daily_at, zone),
                **called_with(function, task, *arguments_of(args, kwargs), options),
                "cluster": cluster_named(cluster or None),
            }
        except ValueError as error:
            raise ScheduleError(f"The schedule of {path} cannot be used: {error}.") from None
        declared[label] = Declared(label, task, fields)
        return function

    return declare


# What is wrong with one


def path_of(function: Any) -> str:
    if not inspect.isfunction(function):
        raise ScheduleError(f"A schedule cannot run {function!r}: write @schedule(…) above a function or a @task.")
    path = f"{function.__module__}.{function.__qualname__}"
    if function.__qualname__ != function.__name__ or function.__name__ == "<lambda>":
        kind = "a lambda" if function.__name__ == "<lambda>" else "a method or inside of a function"
        raise ScheduleError(f"A schedule cannot run {path}, {kind}: write a function at the top of its module.")
    return path


def refuse_duplicate(name: str, path: str, function: Any) -> None:
    """Refuse a name that another schedule has, but not a module that is read again."""
    if (other := declared.get(name)) and (other.fields["func"] != path or other.function is function):
        raise ValueError(f"{other.fields['func']} has one of the name {name!r}: give one of them another name=")


def zone_of(name: Any) -> ZoneInfo | None:
    if name is None:
        return None
    if not settings.USE_TZ:
        raise ValueError("it has a time_zone, for which settings need USE_TZ = True")
    if not isinstance(name, str) or name not in available_timezones():
        near = nearest(str(name)[:LONGEST_NAME], available_timezones()).rstrip("?")
        raise ValueError(f"there is no time_zone {shown(name)}, write one such as 'Europe/Zurich'. {near}".rstrip(". "))
    return ZoneInfo(name)


def timing(cron: Any, every: Any, daily_at: Any, zone: ZoneInfo | None) -> dict[str, Any]:
    """Return the fields of a row that say when it is due."""
    if [cron, every, daily_at].count(None) != 2:
        raise ValueError("write one of cron=, every= and daily_at=")
    if every is not None:
        minutes, rest = divmod(every, timedelta(minutes=1)) if isinstance(every, timedelta) else (0, timedelta())
        if rest or not 1 <= minutes <= MOST_MINUTES:
            raise ValueError(f"every is {shown(every)}: write a timedelta of whole minutes, from 1 to {MOST_MINUTES}")
        return {"schedule_type": Schedule.MINUTES, "cron": None, "minutes": minutes}
    if daily_at is not None:
        try:
            at = datetime.strptime(daily_at, "%H:%M")
        except (TypeError, ValueError):
            raise ValueError(f"daily_at is {shown(daily_at)}: write hours and minutes, as in '03:00'") from None
        cron = f"{at.minute} {at.hour} * * *"
    example = "five: minute, hour, day, month and weekday, as in '0 3 * * mon-fri'"
    if not isinstance(cron, str) or len(cron) > 100 or len(cron.split()) != 5:
        words = f" has {len(cron.split())} words" if isinstance(cron, str) else ""
        raise ValueError(f"cron {shown(cron)}{words}: write {example}")
    try:
        croniter(cron, datetime.now(zone)).get_next(datetime)
    except Exception as error:  # whatever it is that croniter raises
        raise ValueError(f"cron {cron!r} cannot be used ({brief(error)}): write {example}") from None
    return {"schedule_type": Schedule.CRON, "cron": cron, "minutes": None}


def arguments_of(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, Iterable) or isinstance(args, str | bytes | Mapping):
        raise ValueError(f"args is {shown(args)}: write a list or a tuple, as in args=['one', 2]")
    if not isinstance(kwargs, Mapping | None):
        raise ValueError(f"kwargs is {shown(kwargs)}: write a dict, as in kwargs=dict(text='one')")
    return tuple(args), dict(kwargs or {})


def called_with(
    function: Any, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> dict[str, str]:
    """Return the fields of a row that say what the function is called with."""
    for value in (*args, *kwargs.values()):
        try:
            if ast.literal_eval(repr(value)) != value:
                raise ValueError
        except Exception:  # whatever a class's own __repr__ raises
            raise ValueError(f"its argument {shown(value)} is no Python literal, such as 1, 'two' or [3]") from None
        if function is not task:
            try:
                strict_json_of(f"its argument {shown(value)}", value)
            except TypeError as error:
                raise ValueError(str(error)) from None
    for word in sorted((OPTIONS | {"q_options"}) & kwargs.keys()):
        raise ValueError(f"its argument {word!r} is an option of async_task(): give the function's another name")
    context = (None,) if getattr(function, "takes_context", False) else ()
    try:
        inspect.signature(task).bind(*context, *args, **kwargs)
    except TypeError as error:
        raise ValueError(f"it cannot be called with args={shown(args)} and kwargs={shown(kwargs)} ({error})") from None
    return {"args": repr(args) if args else "", "kwargs": repr({**kwargs, "q_options": options})}


def find() -> list[Declared]:
    """Import the module `tasks` of each app of the project; return what is declared there, or in what they import."""
    for app in apps.get_app_configs():
        if is_own(app) and module_has_submodule(app.module, "tasks"):
            try:
                import_module(f"{app.name}.tasks")
            except ImproperlyConfigured as error:
                raise CommandError(str(error)) from error
            except Exception as error:  # whatever a module of the project raises
                raise CommandError(f"{app.name}.tasks cannot be imported: {brief(error)}") from error
    for each in declared.values():
        if problem := refusal(each.fields["func"]) or unknown_cluster(each.fields["cluster"]):
            raise CommandError(f"The schedule {each.name} cannot be used: {problem}")
    return list(declared.values())


# The rows


def bring_in_line(found: Iterable[Declared]) -> list[str]:
    """Add, change and remove rows, all or none; return what was done, a sentence each.

    Whether a row is one of these says a table of the worker's own: one of a person's is never touched. What a person
    has changed in one of these becomes again what the code says, but for when it is due next and how often it repeats.
    """
    alias = router.db_for_write(Schedule)
    rows, states = Schedule.objects.using(alias), ScheduleState.objects.using(alias)
    done = []
    with transaction.atomic(alias):
        # Two releases at once: the second one waits for this row, which is there in any database that is migrated.
        list(MigrationRecorder.Migration.objects.using(alias).select_for_update().filter(app="worker"))
        known = {state.name: state.schedule for state in states.exclude(name=None)}
        present = rows.select_for_update().in_bulk(known.values())
        for each in found:
            row = present.get(known.pop(each.name, -1))
            if row is None:
                row = rows.create(**each.fields)
                move(row, [])
                states.filter(name=each.name).delete()  # of a row that somebody has deleted
                states.create(schedule=row.pk, name=each.name)
                done.append(f"Added the schedule {each.name}.")
            elif changed := [field for field, value in each.fields.items() if getattr(row, field) != value]:
                zone = time_zone_of(row)
                for field in changed:
                    setattr(row, field, each.fields[field])
                if TIMING.isdisjoint(changed) and zone == time_zone_of(row):
                    row.save(update_fields=changed)
                else:
                    move(row, changed)
                done.append(f"Changed the schedule {each.name}: {', '.join(changed)}.")
        for name, key in known.items():
            if key in present:
                present[key].delete()
                done.append(f"Removed the schedule {name}.")
            states.filter(name=name).delete()
        states.filter(name=None).exclude(schedule__in=rows.values("pk")).delete()  # of others that are there no more
    return done


def move(row: Schedule, changed: list[str]) -> None:
    """Save what has changed in a row, and when it is due next: no sooner than its first time from now on."""
    row.next_run = timezone.now()
    row.next_run = following(row, row.next_run)
    row.save(update_fields=[*changed, "next_run"])

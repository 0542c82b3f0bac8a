"""`queue` shows what waits, runs and has failed, and does what is to be done about it."""

import json
import logging
import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from worker.checks import require_database
from worker.delivery import brief
from worker.health import sentence_for
from worker.processes import about, did_you_mean
from worker.queue import actions
from worker.queue.actions import UNKNOWN, RefusedError, cluster_named
from worker.queue.overview import overview
from worker.queue.text import plain, text
from worker.single_flight import PATIENCE, SingleFlight

NAMED = {
    "pause": "the name of a queue",
    "resume": "the name of a queue",
    "purge": "the name of a queue",
    "retry": "the id of a task, or its beginning, or --all",
    "cancel": "the id of a task, or its beginning",
    "run-schedule": "the name of a schedule, or its id",
}
DAY = 86_400.0
CLEAR = "\x1b[H\x1b[2J"  #: what empties a terminal, but for the lines before
WIDE = 10_000  #: columns of what is no terminal: nothing is cut there


class Command(BaseCommand):
    """Shows the overview, or carries out an action."""

    help = "Show the queues and their workers; pause, resume, purge, retry, cancel or run-schedule."
    requires_system_checks = []  # at three in the morning, an overview of what is wrong beats a list of warnings

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take an action and what it is about; argparse would answer a wrong one with its usage."""
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign] # an option may come before a name
        actions = "; ".join(f"`{name}` {what}" for name, what in NAMED.items())
        parser.add_argument("action", nargs="?", default="", help=f"nothing shows the overview; {actions}")
        parser.add_argument("name", nargs="?", default="", help="what it is about")
        parser.add_argument("--json", action="store_true", help="the overview as JSON")
        parser.add_argument("--watch", nargs="?", const="2", metavar="SECONDS", help="the overview again and again")
        parser.add_argument("--all", action="store_true", help="retry: all that has failed for good")
        parser.add_argument("--function", metavar="PATH", help="retry --all: only tasks of this function")
        parser.add_argument("--yes", action="store_true", help="do not ask before what cannot be undone")

    def handle(self, *args: Any, action: str, name: str, **options: Any) -> None:
        with suppress(AttributeError):  # an output in memory, say, takes all characters
            self.stdout.reconfigure(errors="replace")
        require_database("worker.E020")
        if problem := misuse(action, name, **options):
            raise CommandError(problem, returncode=2)
        self.looks = SingleFlight(overview)  # one at a time, also where a lock holds it up
        try:
            if action:
                self.stdout.write(plain(self.act(action, name, **options)))
            elif options["watch"]:
                with suppress(KeyboardInterrupt):
                    self.watch(float(options["watch"]))
            else:
                self.show(as_json=options["json"])
            self.stdout.flush()
        except OSError as error:  # of stdout, not of servers; without this Python would complain of it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):  # whoever reads this, such as `head`, has enough
                raise CommandError(f"The output cannot be written ({brief(error)}).", returncode=1) from error
        except RefusedError as error:
            raise CommandError(plain(str(error)), returncode=1) from error
        except CommandError:
            raise
        except Exception as error:
            if problem := sentence_for(error):
                raise CommandError(problem + UNKNOWN * bool(action), returncode=1) from error
            raise

    def show(self, *, as_json: bool = False, before: str = "") -> None:
        if as_json:
            logging.disable()  # lines of the log go to stdout, too
            try:
                found = asdict(self.looks.tell(PATIENCE))
                self.stdout.write(json.dumps(found, cls=DjangoJSONEncoder, indent=2))
            finally:
                logging.disable(logging.NOTSET)
            return
        width = max(80, shutil.get_terminal_size((80 if self.stdout.isatty() else WIDE, 0)).columns)
        self.stdout.write(f"{before}{text(self.looks.tell(PATIENCE), width)}\n\n{about()}")

    def watch(self, seconds: float) -> None:
        """Print it again and again, also while a server is away."""
        before = CLEAR if self.stdout.isatty() and os.environ.get("TERM") != "dumb" else ""
        while True:
            try:
                self.show(before=before)
            except Exception as error:
                if not (problem := sentence_for(error)):
                    raise
                self.stdout.write(f"{before}{problem}")
            self.stdout.flush()
            time.sleep(seconds)

    def act(self, action: str, name: str, **options: Any) -> str:
        """Carry out an action, and return what it says."""
        by = actions.somebody()
        if action in {"pause", "resume", "purge"}:
            cluster_named(name)
        does: dict[str, Callable[[], str]] = {
            "pause": lambda: actions.pause(name, by),
            "resume": lambda: actions.resume(name, by),
            "purge": lambda: actions.purge(name, by),
            "retry": lambda: actions.retry(by, task=name or None, function=options["function"]),
            "cancel": lambda: actions.cancel(name, by),
            "run-schedule": lambda: actions.run_schedule(name, by),
        }
        of = f" of {options['function']}" if options["function"] else ""
        questions = {
            "purge": f"Remove all tasks from the queue {name} that no worker has fetched?",
            "cancel": f"Cancel the task {name}, and end its worker if it runs?",
        } | ({"retry": f"Run again all tasks{of} that have failed for good?"} if options["all"] else {})
        if action in questions and not options["yes"]:
            confirm(questions[action])
        if action in {"purge", "retry"}:  # which take as long as there is much
            return does[action]()
        return str(SingleFlight(does[action]).tell(2 * PATIENCE))


def misuse(action: str, name: str, **options: Any) -> str:
    """Return what is wrong with the arguments, or ""."""
    if not action:
        if options["all"] or options["function"]:
            return "--all and --function belong to `queue retry`."
        if options["json"] and options["watch"]:
            return "Write --json or --watch, not both."
        return wrong_seconds("--watch", options["watch"])
    if action not in NAMED:
        return f"There is no `queue {action}`. {did_you_mean(action, NAMED)}"
    if options["json"] or options["watch"]:
        return f"--json and --watch belong to `queue` alone, not to `queue {action}`."
    if action != "retry" and (options["all"] or options["function"]):
        return "--all and --function belong to `queue retry`."
    if action == "retry" and name and options["all"]:
        return "Write the id of a task, or --all, not both."
    if options["function"] and not options["all"]:
        return "--function needs --all beside it."
    if options["function"] == "":  # of a variable that is not set, say: all tasks would be meant
        return "--function needs the path of a function."
    words = name + (options["function"] or "")
    if any("\ud800" <= each <= "\udfff" for each in words):  # what the shell had no text for
        return f"`queue {action}` needs {NAMED[action]}, in UTF-8."
    if not name and not options["all"]:
        return f"`queue {action}` needs {NAMED[action]}."
    return ""


def wrong_seconds(option: str, given: str | None) -> str:
    """Return what is wrong with a number of seconds, or ""."""
    with suppress(ValueError):
        if given is None or 0 < float(given) <= DAY:
            return ""
    return f"{option} is {given!r}: write seconds, such as 2."


def confirm(question: str) -> None:
    if not (sys.stdin and sys.stdin.isatty()):  # a daemon may have closed it
        raise CommandError(f"{question} Nobody can be asked here: write --yes.", returncode=2)
    answer = ""
    with suppress(EOFError, KeyboardInterrupt):
        answer = input(f"{question} [y/N] ")
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandError("Nothing was done.", returncode=1)

"""How many requests a second gunicorn answers, by its arguments; wrk asks, as it is packaged by Debian and others."""

import json
import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.idle import memory
from benchmarks.systems import System
from tests.browser import HOST
from tests.processes import Command, Process, free_port, listens

CONNECTIONS = 16
SETTLE = 1.5  #: seconds until all of gunicorn's workers accept: the first would else get all connections, and keep them
TRIES = 3  #: of the generated arguments, with new connections each: it is chance how many of them a worker accepts
VIEWS = {"bare": "livez", "trivial": "bench/trivial", "waiting": "bench/waiting"}  #: paths, by name
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}  #: in which wrk writes times, in milliseconds
ASKED = re.compile(r"Requests/sec: +([\d.]+)")
SLOWEST = re.compile(r"99% +([\d.]+)(us|ms|s|m)\b")
BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
HEADERS = ("-H", f"Host: {HOST}", "-H", "X-Forwarded-Proto: https")  #: as a proxy sends them, or all is redirected


@dataclass(frozen=True)
class Arguments:
    """What gunicorn is told."""

    title: str
    options: Mapping[str, str | None] = field(default_factory=dict)
    keeps: bool = True  #: whether they stand beside the generated ones, or in their place

    @property
    def variables(self) -> Mapping[str, str]:
        """Return the environment that bench_web_settings.py reads."""
        return {"BENCH_GUNICORN": json.dumps({"keeps": self.keeps, "options": self.options})}


#: The first two are compared; the others show what each argument does, and need fewer rounds.
GUNICORN = {
    "generated": Arguments("as generated: 2 workers of 4 threads"),
    "sync": Arguments("gunicorn's defaults, 2 workers", {"workers": "2"}, keeps=False),
    "sync5": Arguments("gunicorn's defaults, 5 workers", {"workers": "5"}, keeps=False),
    "sync5-preload": Arguments("the same with preload", {"workers": "5", "preload": None}, keeps=False),
    "one": Arguments("as generated, but 1 worker of 8 threads", {"workers": "1", "threads": "8"}),
    "preload": Arguments("as generated, with preload", {"preload": None}),
    "reuse-port": Arguments("as generated, with reuse-port", {"reuse-port": None}),
    "recycled": Arguments(
        "as generated, workers replaced after 1,000 requests", {"max-requests": "1000", "max-requests-jitter": "100"}
    ),
}
COMPARED = ("generated", "sync")


def program() -> str:
    """Return wrk's path, "" if it is neither there nor can be installed."""
    apt = shutil.which("apt-get")
    if not shutil.which("wrk") and apt and os.getuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "wrk"]):
            subprocess.run([apt, "-qq", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
    return shutil.which("wrk") or ""


def web(bench: Bench, system: System, arguments: Arguments, seconds: int, tries: int) -> dict[str, float]:
    """Serve a project, ask each view some times for so many seconds, and return the medians by name."""
    run, port = bench.run(system), free_port()
    found: dict[str, float] = {}
    own = {"DJANGO_SETTINGS_MODULE": "bench_web_settings", "PORT": str(port), "LOG_LEVEL": "WARNING"}
    command: Command = [bench.python(system), "manage.py", "prodserver", "web"]
    server = Process("web", command, run.place, {**run.environment, **own, **arguments.variables}, run.folder)
    try:
        server.wait_until(lambda: listens(port), "gunicorn's port")
        time.sleep(SETTLE)
        for view, path in VIEWS.items():
            url = f"http://127.0.0.1:{port}/{path}"
            rates, slowest = zip(*(asked(url, seconds) for _ in range(tries)), strict=True)
            found |= {f"{view}, requests/s": statistics.median(rates), f"{view}, p99, ms": statistics.median(slowest)}
        found["memory (PSS), MiB"] = sum(map(memory, server.session())) / 1024
    finally:
        server.kill()
    return found


def asked(url: str, seconds: int) -> tuple[float, float]:
    """Ask for a page without a pause, and return how often a second, and the milliseconds of the slowest hundredth."""
    command = [program(), "--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s", "--latency"]
    printed = subprocess.run([*command, *HEADERS, url], capture_output=True, text=True, check=True).stdout
    rate, slow = ASKED.search(printed), SLOWEST.search(printed)
    if BAD.search(printed) or not rate or not slow:
        raise RuntimeError(printed)
    return float(rate[1]), float(slow[1]) * UNITS[slow[2]]

"""What worker/ adds to the start of each process of a project, of web above all: time and memory of django.setup()."""

import json
import statistics
from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.systems import System

TRIES = 7  #: by turns, of which the median counts
#: The apps that are left out, by what the table calls it.
WITHOUT: Mapping[str, list[str]] = {
    "as generated": [],
    "without `worker`": ["worker"],
    "without `worker` and `django_q`": ["worker", "django_q"],
}


def setup(bench: Bench, system: System) -> dict[str, dict[str, float]]:
    """Return the milliseconds, and the MiB that the process has after it, for each of these."""
    run = bench.run(system)
    tries: dict[str, list[dict[str, float]]] = {title: [] for title in WITHOUT}
    for _ in range(TRIES):
        for title, apps in WITHOUT.items():
            own = {"DJANGO_SETTINGS_MODULE": "bench_fewer_apps_settings", "BENCH_WITHOUT": ",".join(apps)}
            tries[title].append(json.loads(run.call("-m", "bench.setup", **own)))
    return {
        title: {name: statistics.median(it[name] for it in found) for name in found[0]}
        for title, found in tries.items()
    }

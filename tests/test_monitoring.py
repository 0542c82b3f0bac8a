"""What docs/monitoring.md offers to Prometheus, Grafana and KEDA holds, by their own programs where these are here."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from tests import servers
from tests.combinations import TEMPLATE, Combination, each
from tests.processes import run
from tests.projects import PRODUCTION, Workplace
from tests.test_project_tests import newest

PAGE = TEMPLATE / "docs" / "monitoring.md"
FILES = TEMPLATE / "docs" / "monitoring"
NAME = re.compile(r"django_q_[a-z_]+")
TELL = """
from django.test import Client
from django.utils import timezone
from worker.models import BUCKETS, Tally
none = [0] * (len(BUCKETS) + 1)
Tally.objects.create(
    cluster="my_project", func="a", outcome="failed", count=1, ran=1, ran_buckets=none, waited=1, waited_buckets=none
)
print(Client().get("/metrics", headers={"authorization": "Bearer " + "m" * 16}).content.decode())
"""


def promtool(*arguments: str | Path) -> str:
    """Run Prometheus's own checks."""
    return run([servers.program("promtool"), *arguments], FILES, os.environ)


def block(word: str) -> str:
    """Return the block of the page that has this word."""
    found: list[str] = [it for it in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in it]
    assert len(found) == 1
    return found[0]


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    """Return what the dashboard and KEDA ask, as they send it."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    asked.append(yaml.safe_load(block("type: prometheus"))[0]["metadata"]["query"])
    return [expr.replace("$__rate_interval", "5m").replace("$queue", ".*") for expr in asked]


def test_the_alert_rules_fire_when_they_should_and_only_then() -> None:
    assert "9 rules found" in promtool("check", "rules", "alerts.yaml")
    promtool("test", "rules", "alerts_test.yaml")
    rules = [
        rule["alert"]
        for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert {*re.findall(r"alertname: (\w+)", (FILES / "alerts_test.yaml").read_text())} == {*rules}


def test_prometheus_reads_the_page_and_what_the_dashboard_asks(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("m" * 16)
    (tmp_path / "prometheus.yaml").write_text(block("scrape_configs").replace("/etc/prometheus/metrics-token", "token"))
    promtool("check", "config", tmp_path / "prometheus.yaml")
    rules = [{"record": f"panel:{place}", "expr": expr} for place, expr in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_keda_takes_the_trigger_of_the_page() -> None:
    (trigger,) = yaml.safe_load(block("type: prometheus"))
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
    assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["query"] in expressions()


@each("", lambda combination: iter([()]), [newest("orm")])
def test_what_is_asked_for_is_told(combination: Combination, workplace: Workplace) -> None:
    environment = {
        **PRODUCTION,
        "DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}",
        "METRICS_TOKEN": "m" * 16,
    }
    workplace.manage("migrate", "-v0", environment=environment)
    workplace.manage("schedules", environment=environment)
    told = workplace.manage("shell", "-v0", "-c", TELL, environment=environment)
    names = {*re.findall(r"^(django_q_\w+)", told, re.MULTILINE)} | {*re.findall(r"^# TYPE (\w+)", told, re.MULTILINE)}
    asked = {
        name
        for text in (*expressions(), (FILES / "alerts.yaml").read_text(), PAGE.read_text())
        for name in NAME.findall(text)
    }
    assert asked <= names
    described = {*NAME.findall(PAGE.read_text())}
    assert {*re.findall(r"^# TYPE (\w+)", told, re.MULTILINE)} <= {name.removesuffix("_total") for name in described}

"""Settings: each has a default in worker/, so that a newer worker/ runs with the settings of an older project."""

import ast
from pathlib import Path

import worker
from django.conf import global_settings, settings
from worker.conf import CLUSTER, DEFAULTS

REQUIRED = {"PRODUCTION_PROCESSES", "Q_CLUSTER", "ROOT_URLCONF"}  #: without which there is nothing to run


def test_every_setting_that_is_read_has_a_default() -> None:
    read = {
        node.attr
        for path in Path(worker.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "settings"
        and isinstance(node.ctx, ast.Load)
        and node.attr.isupper()
    }
    assert "DEBUG" in read
    assert read - set(dir(global_settings)) == REQUIRED


def test_the_defaults_are_what_the_settings_say() -> None:
    of_this_machine = {"PORT"}
    own = {name: getattr(settings, name) for name in DEFAULTS.keys() - of_this_machine if hasattr(settings, name)}
    assert own == {name: DEFAULTS[name] for name in own}
    assert {key: settings.Q_CLUSTER[key] for key in CLUSTER.keys() - {"ALT_CLUSTERS", "name"}} == {
        key: CLUSTER[key] for key in CLUSTER.keys() - {"ALT_CLUSTERS", "name"}
    }
    assert settings.Q_CLUSTER["timeout"] == DEFAULTS["Q_GRACE"]

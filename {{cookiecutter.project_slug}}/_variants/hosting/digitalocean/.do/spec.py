"""Print the app's specification with the values of its secrets, which stand in no file: doctl reads it.

They come from the specification on stdin, if there is one; what that lacks is asked for.
"""

import json
import secrets
import sys
from getpass import getpass
from pathlib import Path

import yaml

spec = yaml.safe_load(Path(__file__).with_name("app.yaml").read_text())
former = {} if sys.stdin.isatty() else yaml.safe_load(sys.stdin) or {}
values = {variable["key"]: variable.get("value") for variable in former.get("envs", [])}
for variable in spec["envs"]:
    if variable.get("type") == "SECRET":
        key = variable["key"]
        made_up = secrets.token_urlsafe(50) if key == "SECRET_KEY" else ""
        value = values.get(key) or getpass(f"{key}{' (Enter makes one up)' if made_up else ''}: ") or made_up
        variable["value"] = value or sys.exit(f"{key} has no value: type it, or take it out of .do/app.yaml.")
json.dump(spec, sys.stdout, ensure_ascii=False)  # which is YAML, in which any value is quoted

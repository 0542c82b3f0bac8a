"""Lift the files of the chosen variants into the project, drop the others, list worker/, and say what comes next."""

import json
import os
import runpy
import shlex
import shutil
from pathlib import Path

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
variants = Path("_variants")
for question in variants.iterdir():
    chosen = question / answers[question.name]
    if chosen.is_dir():
        shutil.copytree(chosen, ".", dirs_exist_ok=True)
shutil.rmtree(variants)
runpy.run_path("worker/manifest.py")["write"]()
folder = os.path.relpath(Path.cwd(), os.path.realpath(os.environ.get("PWD", "..")))
also = "".join(f"\n\nIt needs {it['name']}: see README.md" for it in answers["_brokers"][answers["broker"]]["services"])
print(f"Next:\n\n    cd {shlex.quote(folder)}\n    git init -b main\n    make run{also}")

"""Lift the files of the chosen variants into the project and drop the others; knows no choice and no file by name."""

import json
import shutil
from pathlib import Path

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
variants = Path("_variants")
for question in variants.iterdir():
    chosen = question / answers[question.name]
    if chosen.is_dir():
        shutil.copytree(chosen, ".", dirs_exist_ok=True)
shutil.rmtree(variants)

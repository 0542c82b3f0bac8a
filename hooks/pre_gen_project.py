"""Refuse answers that the project could not live with: a sentence each, before anything is written."""

import json
import keyword
import re
import sys

answers = json.loads(r"""{{ cookiecutter | tojson }}""")
slug = answers["project_slug"]
# Names that a generated project imports: a folder called so would shadow them.
taken = {"boto3", "config", "core", "django", "django_q", "gunicorn", "pymongo", "redis", "test", "tests", "worker"}
problems = []
for key, limit in (("project_name", 60), ("description", 200)):
    text = re.sub("[\u200c\u200d]", "", answers[key])  # which join letters and emoji
    if not text.strip() or len(text) > limit or not text.isprintable():
        problems.append(f"{key}: write 1 to {limit} characters, in one line and without control characters.")
if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug) or len(slug) > 30:
    problems.append(
        f"project_slug: {slug!r} does not do; write at most 30 lower-case letters, digits and single underscores, "
        "beginning with a letter, such as my_project."
    )
elif keyword.iskeyword(slug) or slug in sys.stdlib_module_names or slug in taken:
    problems.append(f"project_slug: {slug!r} is taken by Python or a package; choose another, such as {slug}_site.")
sys.exit("\n".join(problems) or 0)

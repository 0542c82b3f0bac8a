"""Bake the examples, which are committed so that a change of the template shows in review as a change of projects."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from cookiecutter.main import cookiecutter  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "orm-docker": {"broker": "orm", "hosting": "docker", "queues": "single", "django_version": "6.1"},
    "redis-heroku-fast_and_slow": {
        "broker": "redis",
        "hosting": "heroku",
        "queues": "fast_and_slow",
        "django_version": "6.1",
    },
}


def bake(answers: dict[str, str], output_dir: Path, template: Path = ROOT) -> Path:
    """Bake a project into a folder, whatever the user's ~/.cookiecutterrc says, and return the project's folder."""
    with TemporaryDirectory() as temporary:
        config = Path(temporary, "config.yaml")
        config.write_text(json.dumps({"replay_dir": temporary, "cookiecutters_dir": temporary}))
        project = cookiecutter(
            str(template), no_input=True, extra_context=answers, output_dir=str(output_dir), config_file=str(config)
        )
    return Path(project)


def main() -> None:
    """Write all examples anew: files that the template no longer has go, too."""
    examples = ROOT / "examples"
    for name, answers in EXAMPLES.items():
        with TemporaryDirectory() as temporary:
            project = bake(answers, Path(temporary))  # first: a template that does not bake leaves the examples alone
            shutil.rmtree(examples / name, ignore_errors=True)
            shutil.copytree(project, examples / name)
        print(f"✓ Baked examples/{name}")


if __name__ == "__main__":
    main()

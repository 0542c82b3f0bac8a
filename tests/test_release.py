"""A release has the version of the template as its tag, and what CHANGELOG.md says of it as its notes."""

from pathlib import Path

import check_jsonschema
import pytest
import yaml

from tests.combinations import TEMPLATE
from tests.hostings import validator
from tests.test_examples import load

SCHEMAS = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor"
CHANGELOG = "# Changelog\n\n## 1.1.0 - 2027-01-31\n\n### Added\n\n- This.\n\n## 1.0.0 - 2026-12-01\n\n- That.\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "said"),
    [
        ("1.1.0", "1.1.0", CHANGELOG, ""),
        ("1.1.1", "1.1.0", CHANGELOG, "The tag is 1.1.1, and _version in cookiecutter.json 1.1.0."),
        ("1.1.0", "1.1.0", CHANGELOG.replace("2027-01-31", "unreleased"), "write '## 1.1.0 - ' and the day."),
        ("1.2.0", "1.2.0", CHANGELOG, "write '## 1.2.0 - ' and the day."),
    ],
)
def test_notes_are_the_section_of_the_version(tag: str, version: str, changelog: str, said: str) -> None:
    notes = load(TEMPLATE / "scripts/release.py").notes
    if said:
        with pytest.raises(SystemExit, match=said):
            notes(tag, version, changelog)
    else:
        assert notes(tag, version, changelog) == "### Added\n\n- This."


def test_the_workflow_releases_what_a_push_must_pass() -> None:
    workflow = yaml.safe_load((TEMPLATE / ".github/workflows/release.yml").read_text())
    jobs = workflow["jobs"]
    assert jobs["checks"]["uses"] == "$/.github/workflows/ci.yml"
    assert (jobs["checks"]["needs"], jobs["release"]["needs"]) == ("notes", "checks")


def test_issue_forms_are_forms() -> None:
    forms = sorted((TEMPLATE / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) > 1
    for form in forms:
        schema = SCHEMAS / f"github-issue-{'config' if form.stem == 'config' else 'forms'}.json"
        assert list(validator(schema).iter_errors(yaml.safe_load(form.read_text()))) == [], form

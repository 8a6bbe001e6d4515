"""The generation tests of transformers itself, plain and with DoLa attached: which ones fail only with DoLa?

python tests/transformers_tests.py SOURCE [MODEL ...] [--any-version]

SOURCE is a checkout of transformers, for its `tests` folder; the transformers that is installed runs, and has to be of the same
version. Its tests need datasets, parameterized and timeout-decorator. Each test runs three times: plain, with DoLa
attached to one candidate layer, and with all. A model is attached when the test calls `eval()`, so that every forward in it is
contrasted. A test counts if it passes plainly and attached DoLa to something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODELS = ("llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "opt", "phi3", "qwen3")
LAYERS = {"plain": None, "one": [1], "all": "all"}
TITLES = {"one": "attached, one candidate", "all": "attached, all candidates"}


def pytest_addoption(parser: Any) -> None:
    """Options of the plugin that this file is inside pytest."""
    parser.addoption("--dola-layers", choices=LAYERS, default="plain")
    parser.addoption("--dola-outcomes")


def pytest_configure(config: Any) -> None:
    """Attach DoLa to each model with a head when it is set to `eval()`, and write each test's outcome to a file."""
    if config.getoption("--dola-outcomes"):
        config.pluginmanager.register(Outcomes(Path(config.getoption("--dola-outcomes"))))
    if (layers := LAYERS[config.getoption("--dola-layers")]) is not None:
        _attach_all(layers)


def _attach_all(layers: Any) -> None:
    import transformers

    import dola

    def attaching(model: Any) -> Any:
        model.train(False)
        if isinstance(model, transformers.GenerationMixin) and not hasattr(model, "dola"):
            try:
                dola.attach(model, layers)
            except dola.DolaError:
                return model
            Outcomes.attached += 1
        return model

    transformers.PreTrainedModel.eval = attaching


class Outcomes:
    """Writes a line for each test: its name, how it ended, and to how many models DoLa was attached in it."""

    attached = 0

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def pytest_runtest_setup(self) -> None:
        Outcomes.attached = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            crash = getattr(report.longrepr, "reprcrash", None)
            why = "" if crash is None else crash.message[:400]
            line = {"id": report.nodeid, "outcome": report.outcome, "attached": Outcomes.attached, "why": why}
            print(json.dumps(line), file=self.file, flush=True)


def run(source: Path, models: list[str], way: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The outcomes of one run, by test."""
    found = folder / f"{way}.jsonl"
    files = [str(path) for model in models for path in sorted((source / "tests/models" / model).glob("test_modeling_*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "transformers_tests"]
    command += ["--noconftest", "-c", "/dev/null", "--rootdir", str(source), "-W", "ignore", "-m", "generate"]
    command += ["--dola-layers", way, "--dola-outcomes", str(found), *files]
    paths = [str(Path(__file__).parent), *filter(None, sys.path[1:])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):  # 1: a test failed
        sys.exit(f"{way}: pytest ended with {ended.returncode}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    return {line["id"]: line for line in map(json.loads, found.read_text("utf-8").splitlines())}


def report(ways: dict[str, dict[str, dict[str, Any]]]) -> tuple[list[str], list[str]]:
    """Lines of a table, and the tests that fail only with DoLa, each with its reason.

    A refusal is a test that ended with an error of dola's own: what it asks for cannot be done right, and dola says so.
    """
    plain = {name for name, line in ways["plain"].items() if line["outcome"] == "passed"}
    rows, reasons = [f"plain: {len(plain)} of {len(ways['plain'])} pass; others fail or are skipped"], []
    for way, title in TITLES.items():
        counted = {name: line for name, line in ways[way].items() if name in plain and line["attached"]}
        failed = {name: " ".join(line["why"].split()) for name, line in counted.items() if line["outcome"] == "failed"}
        refused = [name for name, why in failed.items() if why.startswith("dola.errors.")]
        passed, failures = len(counted) - len(failed), len(failed) - len(refused)
        rows.append(f"{title}: {len(counted)} run with it, {passed} pass, {len(refused)} refused, {failures} fail")
        reasons += [f"{way}: {name.partition('::')[2]}\n    {why}" for name, why in failed.items()]
    return rows, reasons


def version_of(source: Path) -> str:
    """The version that a checkout says it is, or "unknown"."""
    file = source / "src" / "transformers" / "__init__.py"
    found = re.search(r'^__version__ = "([^"]+)"', file.read_text("utf-8"), re.MULTILINE) if file.is_file() else None
    return found[1] if found else "unknown"


def main(arguments: list[str]) -> None:
    """Run all three ways and print the report."""
    given = [word for word in arguments if not word.startswith("--")]
    if not given or not (source := Path(given[0]).resolve()).joinpath("tests/generation/test_utils.py").is_file():
        sys.exit("Skipped: it needs a checkout of transformers at the installed version. make transformers-tests SOURCE=FOLDER")
    import transformers

    theirs, ours = version_of(source), transformers.__version__
    if theirs.split(".")[:2] != ours.split(".")[:2] and "--any-version" not in arguments:
        sys.exit(f"{source} is transformers {theirs}, and {ours} is installed. Check out v{ours}, or add --any-version.")
    models = given[1:] or list(MODELS)
    with tempfile.TemporaryDirectory() as folder:
        rows, reasons = report({way: run(source, models, way, Path(folder)) for way in LAYERS})
    print(f"transformers {ours}, tests of {theirs}, models: {', '.join(models)}")
    print(*rows, *reasons, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])

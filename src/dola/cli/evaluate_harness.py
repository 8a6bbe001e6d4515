"""`dola eval lm-eval:TASK`: what of the options applies, and the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dola.cli import evaluation, options
from dola.cli.endings import importing
from dola.errors import MissingExtraError, UsageError
from dola.installed.hints import install_line

if TYPE_CHECKING:
    from dola.evidence.report import Report

PREFIX = "lm-eval:"


def is_harness(task: str) -> bool:
    """Whether a task's name is that of a task of lm-evaluation-harness."""
    return task.startswith(PREFIX)


def run(
    task: str,
    model: str,
    dola: options.MethodOptions,
    *,
    include_path: Path | None,
    limit: int | None,
    seed: int,
    ways: str,
    smallest: float,
    repetition_penalty: float | None,
    batch_size: int | None,
    threads: int | None,
    loading: Mapping[str, Any],
    unused: Mapping[str, Any],
) -> Report:
    """The report of a task.

    Args:
        task: The task's name with PREFIX.
        unused: Options that mean nothing here, by flag.
        **: The options of `dola eval`.

    Raises:
        UsageError: An option that means nothing here, or a task that the harness does not have.
        MissingExtraError: The harness is not installed.
    """
    if given := [name for name, value in unused.items() if value]:
        raise UsageError(f"{given[0]} does not apply to {task}.", hint=f"omit {given[0]}")
    for module, package in (("lm_eval", "lm-eval"), ("datasets", "datasets")):
        if find_spec(module) is None:
            raise MissingExtraError(f"{task} needs the package {package}, which is not installed.", hint=install_line("eval"))
    usual = "high" if dola.is_dola else None
    own = replace(dola, layers=usual if dola.layers in (None, "off") else dola.layers).config()
    assert own is not None
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    with importing():
        from dola.integrations.lm_eval_report import evaluate_harness
        from dola.methods.names import RECOMMENDED_PENALTY
    return evaluate_harness(
        loaded,
        tokenizer,
        task.removeprefix(PREFIX),
        name=model,
        own=own,
        ways=ways,
        limit=limit,
        seed=seed,
        include_path=include_path,
        repetition_penalty=RECOMMENDED_PENALTY if repetition_penalty is None else repetition_penalty,
        batch_size=batch_size or 8,
        smallest=smallest,
    )

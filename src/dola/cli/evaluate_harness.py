"""`dola eval lm-eval:TASK`: checks which options apply, and runs the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dola.cli import evaluation
from dola.cli.endings import importing
from dola.errors import MissingExtraError, UsageError
from dola.installed.hints import install_line

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.ways import Way
    from dola.methods.config import MethodConfig

PREFIX = "lm-eval:"


def is_harness(task: str) -> bool:
    """Whether a name is that of a task in lm-evaluation-harness."""
    return task.startswith(PREFIX)


def check_installed(what: str) -> None:
    """Raise MissingExtraError if packages of lm-evaluation-harness are not installed. `what` needs them, for the message."""
    missing = [package for module, package in (("lm_eval", "lm-eval"), ("datasets", "datasets")) if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs the package {' and '.join(missing)}, which is not installed.", hint=install_line("eval")
        )


def check(task: str, unused: Mapping[str, Any]) -> None:
    """Check before anything is loaded that a task can run with the given options.

    Args:
        task: The task's name with PREFIX.
        unused: Options that do not apply to it, by flag.

    Raises:
        UsageError: One of them was given.
        MissingExtraError: The harness is not installed.
    """
    if given := [name for name, value in unused.items() if value]:
        raise UsageError(f"{given[0]} does not apply to {task}.", hint=f"omit {given[0]}")
    check_installed(task)


def run(
    task: str,
    model: str,
    own: MethodConfig,
    *,
    include_path: Path | None,
    limit: int | None,
    seed: int,
    ways: str | Sequence[Way],
    smallest: float,
    repetition_penalty: float | None,
    batch_size: int | None,
    threads: int | None,
    loading: Mapping[str, Any],
) -> Report:
    """Run a task and return its report.

    Args:
        task: The task's name with PREFIX.
        own: The settings of DoLa's rows.
        **: The options of `dola eval`.

    Raises:
        UsageError: The harness does not have the task.
    """
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

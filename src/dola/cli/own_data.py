"""The user's own questions in `dola eval`: a file instead of a task's name, and what was understood of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.evaluate_harness import is_harness
from dola.cli.output import say
from dola.cli.values import between
from dola.errors import UsageError
from dola.files.records import JSON_SUFFIXES, TABLE_SUFFIXES

if TYPE_CHECKING:
    from dola.evidence.sample import Sample

SHOWN = 3
BIG = 50_000_000
"""Bytes from which a file takes long enough to say so."""

Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="WHAT=NAME",
        help="For a file of your own: what a column is, where its name does not say so (question=Frage). Repeat it for more.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        help="For a file of your own: the prompt, with {question} and {context}.",
        show_default="the question as a chat message, or Q: {question}, A: on a new line",
    ),
]
Shots = Annotated[
    Path | None,
    typer.Option(
        help="For a file of your own: questions with answers, in the same form, to put before each.", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="For a file of your own: length of an answer, at most.", show_default="64", callback=between(1)),
]
Check = Annotated[
    bool, typer.Option("--check", help="Print what was understood of a file of your own, and how many questions are needed.")
]


@dataclass(frozen=True)
class OwnData:
    """What the command line says of a file of one's own.

    Attributes:
        column: `--column`, as typed.
        template: `--prompt-template`.
        shots: `--shots`.
        max_new_tokens: `--max-new-tokens`.
        judged: Whether there is `--judge`.
    """

    column: Sequence[str] = field(default=())
    template: str | None = None
    shots: Path | None = None
    max_new_tokens: int | None = None
    judged: bool = False

    def check_unused(self, task: str) -> None:
        """Refuse options that mean something for a file alone."""
        given: dict[str, Any] = {"--column": self.column, "--prompt-template": self.template, "--shots": self.shots}
        given["--max-new-tokens"] = self.max_new_tokens
        if used := [name for name, value in given.items() if value]:
            raise UsageError(f"{used[0]} is for a file of your own; {task} has its own prompts.", hint=f"leave {used[0]} out")


def is_own(name: str) -> bool:
    """Whether a task's name is a file, standard input, or a data set of the hub."""
    from dola.cli.evaluation import TASK_NAMES

    if name in TASK_NAMES or is_harness(name):
        return False
    return (
        name == "-"
        or name.startswith("hf:")
        or name.endswith((*TABLE_SUFFIXES, *JSON_SUFFIXES))
        or Path(name).exists()  # a pipe, too
        or name.count("/") == 1
    )


def sample_of(task: str, data: list[str] | None, own: OwnData, *, limit: int | None, seed: int) -> Sample:
    """The items of a task, or of a file of the user's own.

    Raises:
        UsageError, DataError, MissingExtraError: See `own_sample` and `evaluation.find_sample`.
    """
    from dola.cli.evaluation import find_sample

    if not is_own(task):
        own.check_unused(task)
        return find_sample(task, data, limit, seed)
    if data:
        raise UsageError(f"{task} is a file of your own, and --data was given too.", hint=f"leave --data out: dola eval {task}")
    return own_sample(task, own, limit=limit, seed=seed)


def say_how(sample: Sample) -> None:
    """Say how the questions of a file are asked. Commands call it last: an error about an option comes alone."""
    from dola.cli.evaluation import TASK_NAMES

    if sample.task.name not in TASK_NAMES:
        for line in understood(sample, shown=1):
            say(line)


def own_sample(name: str, own: OwnData, *, limit: int | None, seed: int) -> Sample:
    """The questions of a file.

    Raises:
        UsageError, DataError, MissingExtraError: See `dola.tasks.own` and `open_data`.
    """
    from dola.evidence.sample import Sample
    from dola.tasks.data import open_data
    from dola.tasks.own import MAX_NEW_TOKENS, Asking, Columns, own_task

    if (path := Path(name)).is_file() and path.stat().st_size >= BIG:
        say(f"reading {name}: {path.stat().st_size / 1e6:,.0f} MB, which takes a while; --limit draws some of its questions")
    data = open_data(name)
    columns = Columns.of(data, _named(own.column))
    shots = () if own.shots is None else _shots(own.shots, columns)
    asking = Asking(own.template, shots, own.max_new_tokens or MAX_NEW_TOKENS)
    task = own_task(data, data.origins[0].name, columns, asking, judged=own.judged)
    return Sample.of_items(task, task.items(data), data.origins, limit=limit, seed=seed)


def understood(sample: Sample, *, shown: int = SHOWN) -> list[str]:
    """Lines on what was understood: how many questions, how they are judged, and how the first ones are asked."""
    from dola.evidence.finding import counted

    generates = sample.task.generates
    kind = ". The model's text is compared with the known answers" if generates else ", each with answers to choose from"
    taken = "" if len(sample.items) == sample.total else f"{len(sample.items)} of "
    groups = {item.group for item in sample.items} - {None}
    lines = [
        f"{sample.task.name}: {taken}{counted(sample.total, 'questions')}{kind}"
        + (f"; {len(groups)} groups, which are judged as wholes." if groups else "."),
        f"The verdict will be on {sample.task.metrics[0].name} ({sample.task.metrics[0].description}).",
    ]
    for item in sample.items[:shown]:
        lines += [f"How item {item.id} is asked{_form(item)}:", *_indented(_asked(item)), *_expected(item)]
    return lines


def needed(sample: Sample, rows: int) -> list[str]:
    """Lines on how many questions differences of some sizes need."""
    from dola.evidence.power import DISCORDANT, power_line, shown_difference
    from dola.evidence.verdict import items_needed

    found = {d: items_needed(DISCORDANT - (d / 100) ** 2, d / 100, family=rows) or 0 for d in (2, 5, 10, 20)}
    said = ", ".join(f"{count:,} for {d} points" for d, count in found.items())
    return [
        f"Questions needed to show a difference: {said} (if a row changes the outcome of every fifth question, and {rows} "
        "rows are judged together; the report counts the outcomes that did change, and its number differs).",
        power_line(sample.total, [shown_difference(DISCORDANT, sample.total, family=rows)] * rows, "questions"),
    ]


def _asked(item: Any) -> str:
    if hasattr(item, "context"):
        return str(item.context)
    return str(item.prompt if item.message is None else item.message)


def _form(item: Any) -> str:
    chat = getattr(item, "message", None) is not None
    return ", as a chat message if the model has a chat template" if chat else ""


def _expected(item: Any) -> list[str]:
    if hasattr(item, "continuations"):
        right = [text for text, correct in zip(item.continuations, item.correct, strict=True) if correct]
        wrong = [text for text, correct in zip(item.continuations, item.correct, strict=True) if not correct]
        return [f"  right:{' |'.join(right)}", f"  wrong:{' |'.join(wrong)}"]
    return [f"  right: {' | '.join(item.answers)}"]


def _indented(text: str) -> list[str]:
    lines = text.splitlines() or [""]
    cut = lines if len(lines) <= 8 else ["...", *lines[-8:]]
    return [f"  > {line if len(line) <= 120 else line[:117] + '...'}" for line in cut]


def _named(given: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for each in given:
        what, equals, name = each.partition("=")
        if not equals or not what.strip() or not name.strip():
            raise UsageError(f"--column {each!r} is not WHAT=NAME.", hint="--column question=Frage")
        if what.strip() in found:
            raise UsageError(f"--column names {what.strip()} twice.", hint="give it once")
        found[what.strip()] = name.strip()
    return found


def _first_answer(item: Any) -> str:
    return str(item.answers[0])


def _shots(path: Path, columns: Any) -> tuple[tuple[Mapping[str, str], str], ...]:
    """Examples with the first of their right answers."""
    from dola.tasks.data import open_data
    from dola.tasks.items import ChoiceItem
    from dola.tasks.own import Asking, Columns, own_task

    data = open_data(str(path))
    wanted = {what: name for what, name in vars(columns).items() if isinstance(name, str)}
    there = {name for row in data.rows for name in row.fields}
    task = own_task(data, str(path), Columns.of(data, {what: name for what, name in wanted.items() if name in there}), Asking())
    found = []
    for row, item in zip(data.rows, task.items(data), strict=True):
        answer = item.continuations[0].strip() if isinstance(item, ChoiceItem) else _first_answer(item)
        context = str(row.fields.get(columns.context) or "") if columns.context else ""
        found.append(({"question": row.text(columns.question), **({"context": context} if context else {})}, answer))
    return tuple(found)

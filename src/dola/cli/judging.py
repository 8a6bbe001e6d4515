"""Options of `dola eval` for models that judge answers, and the judges that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import options
from dola.cli.output import say
from dola.errors import JudgeError, UsageError

if TYPE_CHECKING:
    from dola.evidence.judging import Judges
    from dola.tasks import Task
    from dola.tasks.judge import Judge

JudgeName = Annotated[
    str | None,
    typer.Option(
        help="For a file of your own without wrong answers, and truthfulqa-open: model that judges the answers.",
        show_default=False,
    ),
]
InfoJudge = Annotated[
    str | None,
    typer.Option(
        help="For truthfulqa-open: model that judges whether answers are informative.", show_default="the same as --judge"
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        help="Server of the judges, with OpenAI's interface for chats or completions. OPENAI_API_KEY is sent to it.",
        show_default="on this machine",
    ),
]


def check(task: Task, judge: str | None, info_judge: str | None, url: str | None) -> None:
    """Refuse options that the task does not use, or that mean nothing without another.

    Raises:
        UsageError: See above.
    """
    if judge is None and (url or info_judge) and task.generates and not task.homepage:
        raise UsageError(f"{'--judge-url' if url else '--info-judge'} was given without --judge.", hint="--judge NAME")
    if judge is not None and not task.generates and not task.homepage:
        raise UsageError(
            f"--judge does not apply to {task.name}: it has wrong answers, so that answers are scored and none is written.",
            hint="omit --judge, or leave the column of wrong answers out",
        )
    given = {"--judge": judge, "--info-judge": info_judge, "--judge-url": url}
    for flag, value in given.items():
        used = task.judged and not (flag == "--info-judge" and task.compared)
        if value is not None and not used:
            raise UsageError(f"{flag} does not apply to {task.name}.", hint=f"omit {flag}")


def judges(
    task: Task, judge: str | None, info_judge: str | None, url: str | None, loading: Mapping[str, Any], results: Path | None
) -> Judges | None:
    """The judges that the options name. One on a server is asked a question first, so that mistakes are found at once.

    Raises:
        InputError, JudgeError: The server cannot be asked.
    """
    if judge is None:
        return None
    from dola.evidence.judging import Judges
    from dola.tasks.judge import EndpointJudge, ModelJudge
    from dola.tasks.meaning import meaning_prompt

    def named(name: str) -> Judge:
        return ModelJudge(*options.load_model(name, **loading)) if url is None else EndpointJudge(name, url)

    truth = named(judge)
    if task.compared:
        if url is not None and not Path(f"{results}.judged").exists():  # a run that is complete needs no server
            _check_reply(truth.reply(meaning_prompt("What is the capital of France?", ["Paris"], "It is Paris.")), judge)
        return Judges.of_meaning(truth, judge)
    info = truth if info_judge is None else named(info_judge)
    return Judges(truth, info, (judge, info_judge or judge))


def _check_reply(reply: str, name: str) -> None:
    """Refuse a judge that does not reply in the asked form to the easiest question: it would call every answer wrong.

    Raises:
        JudgeError: The reply is neither yes nor no.
    """
    from dola.tasks.meaning import verdict_of

    if verdict_of(reply) is None:
        raise JudgeError(
            f"The judge {name} was asked a trial question, whose answer is yes, and replied {_short(reply)}.",
            hint="name a model that replies with one word when it is asked to, without thinking aloud",
        )


def _short(reply: str) -> str:
    text = " ".join(reply.split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...") if text else "nothing"


@contextmanager
def kept(results: Path | None) -> Iterator[None]:
    """Run an evaluation inside: Ctrl-C says how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        if results is None:
            say("nothing is kept: with --results FILE, the next run continues where this one ends")
        else:
            say(f"{results} keeps what is done: re-run the same command to continue")
        raise

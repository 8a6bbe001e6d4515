"""The 80 Vicuna questions. Answers are written to a file for FastChat's judges (`fastchat/llm_judge`).

A prompt is the question alone; the generating code applies the model's chat template. voidism/DoLa
(`gpt4_judge_eval.py`) samples at temperature 0.7, up to 1,024 tokens.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from dola.errors import DataError, InputError
from dola.files.json_text import dumps
from dola.files.whole_file import write_whole
from dola.tasks.data import Data, Row
from dola.tasks.items import QuestionItem

PUBLISHED = {"question.jsonl": "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5"}
STOP = ("### Human:",)


def items(data: Data) -> list[QuestionItem]:
    """Each question, by its `question_id`.

    Raises:
        DataError: A row has no id or question, or more than one turn (those of MT-bench have two).
    """
    return [_item(row) for row in data.rows]


def _item(row: Row) -> QuestionItem:
    turns = row.texts("turns")
    if len(turns) != 1:
        raise DataError(
            f"{row.where}: the field 'turns' must be a list of one question, but is {turns!r}.",
            hint="use FastChat's data/vicuna_bench/question.jsonl",
        )
    return QuestionItem(str(row.value("question_id")), turns[0], turns[0])


def answer_line(item: QuestionItem, answer: str, model_id: str, *, when: float | None = None) -> str:
    """One line of FastChat's answer file.

    Args:
        item: The question.
        answer: The model's answer.
        model_id: The model's name in the judge's lists.
        when: Time in seconds since 1970; None means now.
    """
    fields = {
        "question_id": int(item.id) if item.id.isdecimal() else item.id,
        "answer_id": uuid.uuid4().hex,
        "model_id": model_id,
        "choices": [{"index": 0, "turns": [answer]}],
        "tstamp": time.time() if when is None else when,
    }
    return dumps(fields, ensure_ascii=False)


def write_answers(path: Path, answers: Iterable[tuple[QuestionItem, str]], model_id: str) -> None:
    """Write FastChat's answer file: one line for each question.

    Raises:
        InputError: The file cannot be written.
    """
    lines = [answer_line(item, answer, model_id) + "\n" for item, answer in answers]
    try:
        write_whole(path, "".join(lines))
    except OSError as error:
        raise InputError(
            f"The answers cannot be written to {path}: {error.strerror}.", hint=f"mkdir -p {path.parent}"
        ) from None

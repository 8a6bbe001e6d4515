"""StrategyQA (Geva et al. 2021): yes or no, with six chains of thought as demonstrations, as in voidism/DoLa (`strqa_eval.py`).

The paper's 2,290 questions are the published training set, which the authors' repository splits into train.json (2,061) and
dev.json (229): give both files.
"""

from __future__ import annotations

from dola.errors import DataError
from dola.tasks.data import Data, Row
from dola.tasks.items import QuestionItem
from dola.tasks.prompting import before_stop, few_shot_prompt

PUBLISHED = {
    "train.json": "0f72560b8a6fad3db847d2f1a7524fb087297843bb45a8d3245ffd68cbe0de12",
    "dev.json": "0d94842ffb022db8fd5ecd2168b785d5cf67f6faf64f665476bad544a3eb9dde",
}
TRIGGER = "answer is"
STOP = ("Q:", "\n\n##")


def items(data: Data) -> list[QuestionItem]:
    """Each question, with "yes" or "no" as its answer.

    Raises:
        DataError: A row lacks an id or a question, or its answer is neither true nor false.
    """
    return [_item(row) for row in data.rows]


def _item(row: Row) -> QuestionItem:
    answer = row.value("answer")
    if isinstance(answer, str):  # in a table it can only be text
        answer = {"true": True, "false": False}.get(answer.strip().lower(), answer)
    if not isinstance(answer, bool):
        raise DataError(f"{row.where}: the field 'answer' is {answer!r}; it must be true or false.", hint="correct the row")
    question = row.text("question")
    return QuestionItem(row.text("qid"), few_shot_prompt("strategyqa", question), question, "yes" if answer else "no")


def extract(text: str) -> str | None:
    """The answer in a generated text: the words between the first "answer is" and the next full stop, if they are yes or no."""
    said = _said(before_stop(text, STOP).lower())
    return said if said in ("yes", "no") else None


def extract_reference(text: str) -> str:
    """The answer as the reference code extracts it: it guesses if the text does not give one.

    Without "answer is" it takes "no" if these two letters occur anywhere in the text, else "yes". It takes "no" for any other
    answer.
    """
    text = before_stop(text, STOP).lower()
    said = _said(text)
    if said is None:
        return "no" if "no" in text else "yes"
    return "yes" if said == "yes" else "no"


def _said(text: str) -> str | None:
    _, trigger, after = text.partition(TRIGGER)
    return after.split(TRIGGER)[0].split(".")[0].strip() if trigger else None


def metrics(item: QuestionItem, text: str) -> dict[str, float]:
    """accuracy (a missing answer is wrong), accuracy_reference (it is guessed: `extract_reference`), answered; 0 or 1 each."""
    answer = extract(text)
    return {
        "accuracy": float(answer == item.gold),
        "accuracy_reference": float(extract_reference(text) == item.gold),
        "answered": float(answer is not None),
    }

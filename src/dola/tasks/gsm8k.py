"""GSM8K (Cobbe et al. 2021): word problems, after eight chains of thought, as in voidism/DoLa (`gsm8k_eval.py`)."""

from __future__ import annotations

import re

from dola.errors import DataError
from dola.tasks.data import Data, Row
from dola.tasks.items import QuestionItem
from dola.tasks.prompting import before_stop, few_shot_prompt

PUBLISHED = {
    "test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "train.jsonl": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
}
TRIGGER = "the answer is"
STOP = ("Q:", "\\end{code}")
GOLD = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(r"-?\d+\.?\d*")


def items(data: Data) -> list[QuestionItem]:
    """Each question, with the number after "####" as its answer, without commas.

    Raises:
        DataError: A row has no question, or its answer does not end with a number.
    """
    return [_item(row) for row in data.rows]


def _item(row: Row) -> QuestionItem:
    found = GOLD.search(row.text("answer"))
    if found is None:
        raise DataError(f"{row.where}: the field 'answer' has no number after '####'.", hint="complete the row, or remove it")
    question = row.text("question")
    return QuestionItem(str(row.number), few_shot_prompt("gsm8k", question), question, found[1].replace(",", ""))


def extract(text: str) -> str | None:
    """The answer in a generated text: the first number between the first and a second "the answer is", or None."""
    _, _, after = before_stop(text, STOP).lower().partition(TRIGGER)
    numbers = _numbers(after.split(TRIGGER)[0])
    return numbers[0] if numbers else None


def extract_reference(text: str) -> str | None:
    """The answer as the reference code extracts it: in a text without "the answer is" it takes the last number."""
    if TRIGGER in (text := before_stop(text, STOP)).lower():
        return extract(text)
    numbers = _numbers(text)
    return numbers[-1] if numbers else None


def _numbers(text: str) -> list[str]:
    """All numbers of a text, without commas and without a full stop after them."""
    return [number.removesuffix(".") for number in NUMBER.findall(text.replace(",", ""))]


def metrics(item: QuestionItem, text: str) -> dict[str, float]:
    """accuracy (a missing answer is wrong), accuracy_reference (see `extract_reference`) and answered: 0 or 1 each.

    Numbers are compared as strings, as the reference does: "18.00" is not "18".
    """
    answer = extract(text)
    return {
        "accuracy": float(answer == item.gold),
        "accuracy_reference": float(extract_reference(text) == item.gold),
        "answered": float(answer is not None),
    }

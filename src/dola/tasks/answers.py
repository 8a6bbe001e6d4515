"""Compares a generated answer with the known ones, by the rules of open-domain question answering.

Texts are normalized as SQuAD's evaluation does (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single spaces.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from dola.tasks.items import QuestionItem
from dola.tasks.prompting import before_stop
from dola.tasks.task import Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_REFUSALS = re.compile(
    r"\bi (have no comment|(do not|don't) know|(am|'m) not sure|(cannot|can't) answer)"
    r"|\bas an ai\b|\bi('m| am) (sorry|unable|not able)\b|\bno (information|answer) (is )?(available|provided|given)\b",
    re.IGNORECASE,
)

CONTAINS = Metric("contains", "a known answer is in the text, as whole words")
EXACT = Metric("exact_match", "the text is a known answer and nothing else")
F1 = Metric("f1", "words shared with the nearest known answer", binary=False)
ANSWERED = Metric("answered", "the text is not empty")
REFUSED = Metric("refused", "the text declines to answer")
METRICS = (CONTAINS, EXACT, F1, ANSWERED, REFUSED)


def normalized(text: str) -> str:
    """The text in the form that is compared: lower case, without punctuation and articles, with single spaces."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", text).lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(text: str, answers: Sequence[str]) -> bool:
    """Whether a text is one of the answers."""
    return normalized(text) in {normalized(answer) for answer in answers}


def contains(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers is in a text, as whole words."""
    inside = f" {normalized(text)} "
    return any(f" {found} " in inside for answer in answers if (found := normalized(answer)))


def f1(text: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, compared with the nearest answer."""
    return max((_f1(normalized(text).split(), normalized(answer).split()) for answer in answers), default=0.0)


def refuses(text: str) -> bool:
    """Whether a text declines to answer, judged by the usual English phrases."""
    return _REFUSALS.search(text.replace("\u2019", "'")) is not None


def measure(item: QuestionItem, text: str, stop: Sequence[str] = ()) -> dict[str, float]:
    """All metrics of a generated text, cut at the first stop string."""
    answer = before_stop(text, stop)
    return {
        CONTAINS.name: float(contains(answer, item.answers)),
        EXACT.name: float(exact_match(answer, item.answers)),
        F1.name: f1(answer, item.answers),
        ANSWERED.name: float(bool(answer)),
        REFUSED.name: float(refuses(answer)),
    }


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _f1(words: Sequence[str], wanted: Sequence[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted))

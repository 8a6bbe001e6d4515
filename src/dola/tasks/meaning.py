"""Whether an answer means the same as a right one, as a judge model says: for questions whose answers can be put in many words.

The judge reads the question, the right answers and one answer. It does not see which model or which row wrote the answer, or
that there are rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from dola.tasks.task import Metric

JUDGED = Metric("judged", "the judge says that the text means the same as a right answer")

PROMPT = """\
Decide whether an answer to a question means the same as one of its right answers. Wording, length and further true details \
do not matter. An answer that contradicts the right answers, or does not answer, is not the same. Reply with one word, \
yes or no.

Question: Who wrote the play Faust?
Right answers: Goethe
Answer: It was written by Johann Wolfgang von Goethe.
Same meaning: yes

Question: When did the Berlin Wall fall?
Right answers: 1989 | 9 November 1989
Answer: The Berlin Wall fell in 1990.
Same meaning: no

Question: {question}
Right answers: {right}
Answer: {answer}
Same meaning:"""
"""Ends where a word follows, so that models that only continue text can judge as well."""


def meaning_prompt(question: str, right: Sequence[str], answer: str) -> str:
    """What a judge is asked. Each text is put on one line, so that none can be read as a part of the form."""
    words = {"question": question, "right": " | ".join(right), "answer": answer}
    return PROMPT.format(**{name: " ".join(text.split()) for name, text in words.items()})


def verdict_of(reply: str) -> bool | None:
    """Whether a reply is yes or no, and nothing else but quotes, markup and a full stop; None if it is neither."""
    return {"yes": True, "no": False}.get(reply.strip("\"'*`_.! \t\r\n").lower())

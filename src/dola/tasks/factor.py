"""FACTOR (Muhlgay et al. 2023): which of four endings does a model find likeliest, the true one or one of three contradictions?

News, wiki and expert are three files of one layout. As in voidism/DoLa (`factor_eval.py`), news continues the whole text
before the sentence (`full_prefix`), the others the shortened one (`turncated_prefixes`, spelled so), and each ending is
preceded by a space even if the prefix ends with a space or a new line. The benchmark's own script (`eval_factuality.py`)
differs there: it always uses the shortened prefix and keeps one space. `factor_official` applies that script's rule for right
and wrong to the texts as joined here.
"""

from __future__ import annotations

from collections.abc import Sequence

from dola.tasks.data import Data, Row
from dola.tasks.items import ChoiceItem, check_scores, per_token

PUBLISHED = {"news_factor.csv": "f4f3110a66bfca3a1decb88f14ce55b4e9656be80894bcd94216cc2c61be8260"}
ENDINGS = ("completion", "contradiction_0", "contradiction_1", "contradiction_2")


def news_items(data: Data) -> list[ChoiceItem]:
    """The items of news_factor.csv, 1,036 rows. DataError for a row that lacks a text."""
    return [_item(row, "full_prefix") for row in data.rows]


def shortened_items(data: Data) -> list[ChoiceItem]:
    """The items of wiki_factor.csv and expert_factor.csv. DataError for a row that lacks a text."""
    return [_item(row, "turncated_prefixes") for row in data.rows]


def _item(row: Row, prefix: str) -> ChoiceItem:
    continuations = tuple(f" {row.text(name)}" for name in ENDINGS)
    return ChoiceItem(str(row.number), row.text(prefix), continuations, (True, False, False, False), best=0)


def metrics(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """Whether one item is right, 0 or 1, by two rules. In both the true ending wins ties.

    factor: no contradiction has a higher sum of log-likelihoods (voidism/DoLa). factor_official: none has a higher mean per
    token (FACTOR's own script: the smallest mean negative log-likelihood, the first of equals).

    Args:
        item: The item; the true ending is the first.
        scores: Sum of log-likelihoods of each ending, in nats.
        tokens: Number of tokens of each ending.

    Raises:
        InputError: See `check_scores`.
    """
    check_scores(item, scores, tokens)
    means = per_token(scores, tokens)
    return {"factor": float(scores[0] >= max(scores)), "factor_official": float(means[0] >= max(means))}

"""How the verdicts of a report were made, what its intervals mean, and what to check before believing either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dola.evidence.figures import p_words, quoted
from dola.evidence.finding import Finding, Verdict, counted
from dola.evidence.power import power_line, shown_by
from dola.evidence.ways import Role
from dola.tasks import TASKS

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.row_result import WayResult

FIRST = 3
"""So many items at the start that every row gets wrong are worth a look at how they are asked."""

OFTEN_CUT = 0.1
"""Share of a row's answers cut by the length limit from which the report warns of it."""

NEARLY_ALL = 0.95
"""Share of the items to which a model gives one and the same answer if it does not heed the question."""


def how_to_read(report: Report) -> list[str]:
    """Sentences on the metric, the family of rows, the intervals, and the size of difference that the items show."""
    if not report.findings:
        return []
    metric, count = report.metrics[0], len(report.findings)
    described = report.descriptions.get(metric)
    binary = _binary(report)
    shown = [shown_by(each, family=count, binary=binary) for each in report.findings.values()]
    return [
        f"The verdicts are about one metric, fixed before the run: {metric}{f' ({described})' if described else ''}. "
        "Other metrics, controls and chance get no verdict.",
        *_other_columns(report),
        power_line(len(report.item_ids), shown),
        f'"No difference" means that the whole interval lies within ±{100 * report.smallest:g} points. Choose the smallest '
        "difference that matters to you with --smallest.",
        _family(count),
        *_looked(report),
        *(apart(name, each, count) for name, each in report.findings.items() if each.disagrees),
    ]


def _other_columns(report: Report) -> list[str]:
    """What the other metrics of the table are."""
    described = [f"{name}, {report.descriptions[name]}" for name in report.metrics[1:] if report.descriptions.get(name)]
    return [f"The other columns: {'; '.join(described)}."] if described else []


def _family(count: int) -> str:
    if count == 1:
        return "One row was judged, by a test at the 5% level. Its 95% interval belongs to the same comparison."
    return (
        f"Each 95% interval looks at one row alone. The verdicts allow for all {count} judged rows (Holm's correction): the "
        "chance that any row without an effect is called better or worse is 5%. So a verdict can be more cautious than its "
        "interval."
    )


def _looked(report: Report) -> list[str]:
    """How a sequential run went."""
    if not report.looks:
        return []
    *some, last = (f"{end:,}" for end in report.looks)
    planned = f"{', '.join(some)} and {last}" if some else last
    done = len(report.item_ids)
    ended = "all items ran" if done == report.looks[-1] else f"the run ended after {done:,}, when every row was decided"
    return [
        f"Sequential: items in an order drawn with seed {report.seed}, looks after {planned} items; {ended}. Rows stop when "
        "they are decided. Their figures and comparisons are over the items that they have, which the verdicts name.",
        "A row that stops early overstates its difference on average; its interval takes the number of items as fixed.",
    ]


def apart(name: str, found: Finding, count: int) -> str:
    """Why a row's interval and its verdict seem to disagree."""
    if found.verdict in (Verdict.BETTER, Verdict.WORSE):
        return (
            f'"{name}": the interval includes 0, but the test, which decides, finds a difference ({p_words(found.adjusted)}).'
        )
    reason = f"allowing for all {count} rows" if found.adjusted > found.p_value else "by the test, which decides,"
    if found.verdict is Verdict.NO_DIFFERENCE:
        return f'"{name}": the interval excludes 0, but all of it is too small to matter.'
    return f'"{name}": the interval excludes 0, but {reason} that is not enough evidence ({p_words(found.adjusted)}).'


def check_first(report: Report) -> list[str]:
    """Signs that the items, and not the rows, made the result: all answers alike, all wrong, all right, one for all items."""
    rows = [way for way in report.ways if not way.control]
    if not report.metrics or len(rows) < 2 or not report.item_ids:
        return []
    shared = min(len(way.items[report.metrics[0]]) for way in rows)  # rows of a sequential run may have ended early
    answers = [report.answers(way)[:shared] for way in rows]
    found: list[str] = []
    if all(answers):
        plain = next(of for way, of in zip(rows, answers, strict=True) if way.role is Role.VANILLA)
        found = [*_same(rows, answers, plain), *_one_answer(report, plain), *_unfinished(report)]
    if _binary(report) and report.higher_is_better:
        found += _levels(report, rows)
    return found


def _same(rows: Sequence[WayResult], answers: Sequence[Sequence[str]], plain: Sequence[str]) -> list[str]:
    alike = [way.name for way, of in zip(rows, answers, strict=True) if of == plain and way.role is not Role.VANILLA]
    if len(alike) == len(rows) - 1:
        return [f"Every row gives the same answers to all {len(plain)} items, so nothing can differ."]
    return [f"The answers of {quoted(alike)} are vanilla's on all {len(plain)} items."] if alike else []


def _one_answer(report: Report, plain: Sequence[str]) -> list[str]:
    """Whether plain decoding gives one answer to nearly all items that have several: it then chose without the question."""
    (most, times), expected = Counter(plain).most_common(1)[0], {item.right[0] for item in report.items if item.right}
    if len(expected) < 2 or len(plain) < FIRST or times < NEARLY_ALL * len(plain):
        return []
    said = f'vanilla answers "{_short(most) or "nothing"}" to {times} of {counted(len(plain), "items")}, whatever is asked'
    return [f"{said}. A model that cannot do the task shows nothing of a method."]


def _unfinished(report: Report) -> list[str]:
    """Whether the length limit cut so many answers that rows may differ by where they were cut."""
    rows = [way for way in report.ways if way.unfinished]
    if not any(sum(way.unfinished) >= OFTEN_CUT * len(way.unfinished) for way in rows):
        return []
    listed = ", ".join(f'"{way.name}" {sum(way.unfinished)} of {len(way.unfinished)}' for way in rows)
    said = (
        f"The limit of {report.settings.get('max_new_tokens')} tokens cut answers: {listed}. What would have followed does not "
        "count, so rows with longer answers may look worse than they are."
    )
    return [said if report.task in TASKS else f"{said} --max-new-tokens sets the limit."]


def _levels(report: Report, rows: Sequence[WayResult]) -> list[str]:
    values = list(zip(*(way.items[report.metrics[0]] for way in rows), strict=False))
    items = len(values)
    if all(all(each) for each in values):
        return [f"Every row is right on all {items} items: they are too easy to show a difference."]
    wrong = next((i for i, each in enumerate(values) if any(each)), items)
    if wrong < min(FIRST, items):
        return []
    first = f"all {items} items" if wrong == items else f"the first {wrong} items"
    return [f"Every row is wrong on {first}. Look at how they are asked and what is answered{_example(report, rows[0])}."]


def _example(report: Report, way: WayResult) -> str:
    answers, item = report.answers(way), report.items[0] if report.items else None
    if not answers or item is None or not item.right:
        return ""
    asked, given = _short(item.question), _short(answers[0]) or "nothing"
    return f': asked "{asked}", {way.name} answers "{given}"; right is "{_short(item.right[0])}"'


def _short(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _binary(report: Report) -> bool:
    return all(value in (0, 1) for way in report.ways for value in way.items[report.metrics[0]])

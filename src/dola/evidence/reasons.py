"""What explains a row's difference from vanilla: length, refusals, the form of answers, the repetition penalty, flattening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dola.evidence.answer_counts import Counts
from dola.evidence.figures import difference, quoted
from dola.evidence.finding import Verdict
from dola.evidence.statistics import describe
from dola.evidence.ways import Role

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.row_result import WayResult

ISOLATED = {
    "random": "A layer drawn at random",
    "none": "The constraint alone, without a contrast,",
    "flat": "Making the plausible set flat",
    "sharp": "Making the plausible set sharp",
}
"""What controls that replace the contrast show, by `WayResult.isolates`."""


def reasons(report: Report) -> list[str]:
    """Sentences on each row that is proposed for use."""
    plain = report.with_role(Role.VANILLA)
    if plain is None or not report.metrics:
        return []
    rows = [way for way in report.ways if way.role.judged]
    found = [line for way in rows for line in _of_row(report, way, plain)]
    decided = [each for each in report.findings.values() if each.verdict in (Verdict.BETTER, Verdict.WORSE)]
    scored = any(way.mass for way in rows)
    if decided and scored and not any(way.isolates == "flat" for way in report.ways):
        found.append("Whether a flatter plausible set alone does the same was not run; --ways full adds that control.")
    return found


def _of_row(report: Report, way: WayResult, plain: WayResult) -> list[str]:
    others = [metric for metric in report.metrics[1:] if way.comparisons[metric].significant]
    return [
        *_answers(report, way, plain),
        *_against_penalty(report, way),
        *_length_explains(report, way, [report.metrics[0], *others]),
        *_beside_controls(report, way),
        *_other_metrics(way, others),
    ]


def _answers(report: Report, way: WayResult, plain: WayResult) -> list[str]:
    """What the answers are like, beside those of vanilla and of the control that has the most to say on them."""
    mine, base = report.counts.get(way.name), report.counts.get(plain.name)
    if mine is None or base is None:
        return []
    beside = [(plain.name, base)]
    for role in (Role.PENALTY, Role.LENGTH):
        control = report.with_role(role)
        if control is not None and (found := report.counts.get(control.name)) is not None:
            beside.append((control.name, found))
    values = {what: [getattr(each, name) for each in (mine, *(of for _, of in beside))] for name, what in KINDS}
    names = [name for name, _ in beside]
    items = [len(report.answers(report.named(name))) for name in (way.name, *names)]
    sizes = [f" of {each}" if len(set(items)) > 1 else "" for each in items]  # rows of a sequential run may have ended early
    said = ", ".join(_beside(what, of, names, sizes) for what, of in values.items() if any(of))
    return [
        f'Answers of "{way.name}": {said}.',
        *_changes(way.name, mine, len(report.answers(way))),
    ]


KINDS = (
    ("words", "words on average"),
    ("empty", "empty"),
    ("refused", "decline"),
    ("formless", "without the form asked for"),
    ("unfinished", "cut at the length limit"),
)


def _beside(what: str, values: list[float | int | None], names: list[str], sizes: list[str]) -> str:
    """The value of a row, and those of the rows beside it; counts are followed by their `sizes`."""
    shown = [
        f"{value:.1f}" if isinstance(value, float) else f"{value or 0}{size}" for value, size in zip(values, sizes, strict=True)
    ]
    mine, *others = shown
    return f"{mine} {what} ({', '.join(f'{quoted([name])} {value}' for name, value in zip(names, others, strict=True))})"


def _changes(name: str, of: Counts, items: int) -> list[str]:
    """How many answers changed, for better and for worse, and what is amiss in those."""
    if not of.changed:
        return [f'"{name}" changes no answer.']
    said = f'"{name}" changes {of.changed} of {items} answers: {of.better} got better, {of.worse} got worse'
    parts = []
    if of.unanswered_worse:
        parts.append(f"in {of.unanswered_worse} of the worse ones the new answer is empty, declines or lacks the form")
    if of.unanswered_better:
        parts.append(f"in {of.unanswered_better} of the better ones vanilla's did so")
    if of.longer_better or of.longer_worse:
        parts.append(
            f"the new answer is longer in {of.longer_better} of the better ones and {of.longer_worse} of the worse ones"
        )
    return [f"{said}{'; ' if parts else ''}{', '.join(parts)}."]


def _against_penalty(report: Report, way: WayResult) -> list[str]:
    """Also compare with vanilla at the way's repetition penalty: the rest of the difference is not due to the penalty."""
    if (control := report.with_role(Role.PENALTY)) is None:
        return []
    metric = report.metrics[0]
    return [describe(report.against(control, way, metric), metric, method=quoted([way.name]), baseline=quoted([control.name]))]


def _length_explains(report: Report, way: WayResult, metrics: list[str]) -> list[str]:
    """If a way gains: whether a scorer that only counts tokens does as well."""
    if (length := report.with_role(Role.LENGTH)) is None:
        return []
    levels: dict[str, list[tuple[str, float, float]]] = {}
    for metric in metrics:
        gain, against = way.comparisons[metric], report.against(length, way, metric)
        if not gain.significant or gain.difference <= 0:
            continue
        if against.difference <= 0:
            said = f"the number of tokens explains the gain of {way.name}"
        elif against.low > 0:
            said = f"the number of tokens alone does not reach {way.name}"
        else:
            said = f"on these items the gain of {way.name} is indistinguishable from a length-only scorer's"
        levels.setdefault(said, []).append((metric, 100 * against.baseline, 100 * against.method))
    return [_levels(said, of, way.name) for said, of in levels.items()]


def _levels(said: str, of: list[tuple[str, float, float]], name: str) -> str:
    metrics = ", ".join(metric for metric, _, _ in of)
    lengths, mine = " / ".join(f"{low:.1f}" for _, low, _ in of), " / ".join(f"{high:.1f}" for _, _, high in of)
    return f"{metrics}: {said}: {lengths} by counting tokens, {mine} by {name}."


def _beside_controls(report: Report, way: WayResult) -> list[str]:
    """The row minus each control that replaces the contrast, and whether one of them explains a verdict of better or worse."""
    metric = report.metrics[0]
    controls = [each for each in report.ways if each.isolates in ISOLATED]
    if not controls:
        return []
    apart = {control.name: report.against(control, way, metric) for control in controls}
    listed = "; ".join(f'"{name}" {difference(found)}' for name, found in apart.items())
    return [f'{metric} of "{way.name}" minus that of each control: {listed}.', *_explaining(report, way, controls)]


def _explaining(report: Report, way: WayResult, controls: list[WayResult]) -> list[str]:
    metric = report.metrics[0]
    if report.short_verdict(way) not in (Verdict.BETTER.value, Verdict.WORSE.value):
        return []
    found, mine = [], way.comparisons[metric].difference
    for control in controls:
        alone, rest = control.comparisons[metric], report.against(control, way, metric)
        if alone.significant and alone.difference * mine > 0 and rest.low <= 0 <= rest.high:
            found.append(
                f'{ISOLATED[str(control.isolates)]} explains the difference of "{way.name}", as far as these items show: '
                f"alone it has {difference(alone)}."
            )
    return found


def _other_metrics(way: WayResult, metrics: list[str]) -> list[str]:
    """Metrics beside the first whose interval excludes 0."""
    if not metrics:
        return []
    listed = ", ".join(f"{metric} {difference(way.comparisons[metric])}" for metric in metrics)
    return [f'Other metrics of "{way.name}" whose own interval excludes 0, without a verdict: {listed}.']

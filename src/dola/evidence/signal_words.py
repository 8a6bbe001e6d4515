"""The sentences of a report on warning signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dola.evidence.auroc import FEWEST_OF_EACH
from dola.evidence.signals import QUANTITIES, signal_names

if TYPE_CHECKING:
    from dola.evidence.signal_report import SignalReport


def sentence_of(report: SignalReport) -> str:
    """The answer in one sentence."""
    signals = len(signal_names())
    if not report.enough:
        return (
            f"Too few answers to say whether a signal beats the plain token probability: {report.right} right and "
            f"{len(report.answers) - report.right} wrong ones, where {FEWEST_OF_EACH} of each are needed."
        )
    level = f"{report.control}, AUROC {report.separations[report.control].auroc:.2f}"
    if not report.winners:
        what = "separates right from wrong answers better than the plain token probability"
        return f"None of {signals} signals {what} ({level})."
    best = ", ".join(f"{name} ({report.separations[name].auroc:.2f})" for name in report.winners)
    verb = "signals separates" if len(report.winners) == 1 else "signals separate"
    return (
        f"{len(report.winners)} of {signals} {verb} right from wrong answers better than the plain token probability "
        f"({level}): {best}."
    )


def lines_of(report: SignalReport) -> list[str]:
    """How the numbers were made, what else they show, and the notes."""
    count = len(report.answers)
    tokens = sum(answer.tokens for answer in report.answers) / count
    found = [
        f"{report.right} of {count} answers are right: {report.right_means}. They have {tokens:.1f} tokens on average.",
        f"{len(signal_names())} signals were fixed before the run: {len(QUANTITIES)} numbers of each token, each by its "
        "mean and by its worst value over the answer's tokens. So was the direction that is expected of wrong answers.",
        f"Layers are DoLa's candidates {', '.join(map(str, report.candidates))}.",
    ]
    if not report.separations:
        return [*found, *report.notes]
    found.append(
        "AUROC is the probability that a right answer looks better than a wrong one; 0.5 separates nothing. The control to "
        f"beat is {report.control}, the better of two on these answers. A signal beats it if it is "
        "significantly above the control and above 0.5. Intervals are of each signal by itself; p-values are "
        f"of all {len(signal_names())} signals together."
    )
    if report.repeats:
        found.append(_repeated(report))
    if low := [name for name in signal_names() if report.separations[name].high < 0.5]:
        found.append(f"These point the other way than expected, which other data would have to confirm: {'; '.join(low)}.")
    return [*found, *_of_control(report), *report.notes]


def _of_control(report: SignalReport) -> list[str]:
    """What a reader must know of a control that does not point where it should."""
    control = report.separations[report.control]
    if control.high < 0.5:
        return [
            f"The control points the other way: wrong answers have the higher {report.control}. Read backwards it would have "
            f"an AUROC of {1 - control.auroc:.2f}. Beating it as it is says little."
        ]
    if control.low <= 0.5:
        return ["The control itself does not separate right from wrong answers: its interval includes 0.5."]
    return []


def _repeated(report: SignalReport) -> str:
    """How many answers have the same text, and what is left of the signals without them."""
    text, count = report.texts.most_common(1)[0]
    left = [name for name in report.beating if name in report.once.beating] if report.once.enough else []
    said = (
        f"{report.repeats} answers have a text that another one has too ({count} are {text.strip()!r}), which a signal may "
        "recognize without knowing whether it is right. A signal counts only if it beats the control without them as well."
    )
    if not report.beating:
        return said
    without = f"Without them, {report.once.right} of {len(report.once.answers)} answers are right"
    return f"{said} {without}, and {len(left)} of the {len(report.beating)} that beat it with them are left."

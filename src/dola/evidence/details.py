"""What a report says below its table, in sections: one place for the terminal, Markdown, JSON and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dola.evidence.figures import summary
from dola.evidence.reading import check_first, how_to_read
from dola.evidence.reasons import reasons
from dola.evidence.subgroups import group_lines
from dola.evidence.ways import Role

if TYPE_CHECKING:
    from dola.evidence.report import Report


@dataclass(frozen=True)
class Section:
    """Some sentences under a title."""

    title: str
    lines: list[str]


def details(report: Report) -> list[Section]:
    """The sections of a report that have something to say."""
    found = [
        Section("Check this first", check_first(report)),
        Section("How to read it", how_to_read(report)),
        Section("Reasons", reasons(report)),
        Section("Groups", group_lines(report)),
        Section("Layers", layers_chosen(report)),
        Section("Rows", [f"{way.name}{' (control)' if way.control else ''}: {way.description}." for way in report.ways]),
        Section("What was run", [summary(report), *report.notes]),
    ]
    return [section for section in found if section.lines]


def layers_chosen(report: Report) -> list[str]:
    """How often each candidate was contrasted or used, most frequent first, for all ways with a choice except controls."""
    found = []
    for way in report.ways:
        if not way.control and way.role is not Role.VANILLA and len(way.layers) > 1:
            often = sorted(way.layers.items(), key=lambda each: (-each[1], each[0]))
            shares = ", ".join(f"{layer} ({100 * share:.0f}%)" for layer, share in often)
            found.append(f'"{way.name}" used layers {shares}, by share of tokens.')
    return found

"""A report as one self-contained page: verdicts, table, intervals as a plot, and all items to browse and search.

Everything but the items is plain HTML, so it can be read without a script. Texts of the user are escaped here, or put into the
page as text by its script.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.resources import files
from itertools import groupby
from typing import Any

from dola.evidence.changed import telling_row
from dola.evidence.figures import cell, difference
from dola.evidence.report import Report
from dola.evidence.row_result import WayResult
from dola.evidence.statistics import Comparison
from dola.evidence.ways import Role
from dola.plot.html import page as trace_page
from dola.plot.html import page_data as trace_data
from dola.plot.inline import inlined, script_data
from dola.text.token_text import visible


def page(report: Report) -> str:
    """HTML of the whole report."""
    parts = {
        "title": html.escape(f"{report.task}, {report.model}"),
        "style": _file("report_page.css"),
        "script": _file("report_page.js"),
        "data": script_data(page_data(report)),
        "header": _header(report),
        "table": _table(report) if report.metrics else "",
        "plot": _plot(report) if report.metrics else "",
        "details": "".join(f"<h3>{html.escape(section.title)}</h3>{_list(section.lines)}" for section in report.details),
    }
    return inlined(_file("report_page.html"), parts)


def page_data(report: Report) -> dict[str, Any]:
    """What the page's script shows: the items with the answers and values of all rows."""
    if not report.metrics or not report.items:
        return {"rows": [], "items": []}
    first = report.metrics[0]
    traces = _traces(report)
    return {
        "metric": first,
        "sign": 1 if report.higher_is_better else -1,
        "telling": telling_row(report),
        "rows": [{"name": way.name, "control": way.control, "judged": way.role.judged} for way in report.ways],
        "items": [
            {
                "id": report.item_ids[i],
                "question": item.question,
                "right": item.right,
                "wrong": item.wrong,
                "group": item.group,
                "answers": [report.shown_answer(way, i) for way in report.ways],
                "values": [_at(way.items[first], i) for way in report.ways],
                "mass": [_at(way.mass, i) for way in report.ways],
                "traces": traces.get(report.item_ids[i]),
            }
            for i, item in enumerate(report.items)
        ],
        "frame": trace_page([]) if traces else "",
    }


def _traces(report: Report) -> dict[str, dict[str, Any]]:
    """By item: what the page of `dola trace` draws of its answers, each under the name of its row."""
    found: dict[str, dict[str, Any]] = {}
    for item, each in groupby(report.traces, key=lambda answer: answer.item):
        answers = list(each)
        found[item] = trace_data([answer.trace for answer in answers])
        for drawn, answer in zip(found[item]["traces"], answers, strict=True):
            alone = "" if answer.same else " (decoded alone, which gave another text than in its batch)"
            drawn["title"] = visible(f'The answer of "{answer.row}"{alone}, layers read as "{answer.read_as}" reads them')
    return found


def _at(values: list[Any], i: int) -> Any:
    """A value, or None where a row has none for an item."""
    return values[i] if i < len(values) else None


def _header(report: Report) -> str:
    lead = f"<p class=setting>{html.escape(f'{report.task}, {report.model}, {report.dtype}')}</p>"
    verdicts = "".join(
        f'<li><span class="badge {each.verdict.name.lower()}">{html.escape(each.verdict.value)}</span> '
        f"{html.escape(each.sentence(name))}</li>"
        for name, each in report.findings.items()
    )
    return f"{lead}<h1>{html.escape(report.verdict or report.task)}</h1>" + (
        f"<ul class=verdicts>{verdicts}</ul>" if verdicts else ""
    )


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _table(report: Report) -> str:
    first = report.metrics[0]
    head = ["Row", *report.metrics, f"{first} against vanilla", "Verdict"]
    rows = "".join(_row(report, way) for way in report.ways)
    if any(value is not None for value in report.chance.values()):
        cells = [report.chance[metric] for metric in report.metrics]
        shown = "".join(f"<td>{'' if value is None else f'{100 * value:.1f}'}</td>" for value in cells)
        rows += f"<tr class=control><th scope=row>chance</th>{shown}<td></td><td></td></tr>"
    heads = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _row(report: Report, way: WayResult) -> str:
    found = way.comparisons.get(report.metrics[0])
    cells = [*(cell(way.estimates[metric]) for metric in report.metrics), "" if found is None else difference(found)]
    cells.append(report.short_verdict(way))
    kind = " class=control" if way.control else ""
    name = f"{way.name} (control)" if way.control else way.name
    return f"<tr{kind}><th scope=row>{html.escape(name)}</th>{''.join(f'<td>{html.escape(each)}</td>' for each in cells)}</tr>"


def _plot(report: Report) -> str:
    """Differences from vanilla with their intervals: a line of labels, a strip of SVG and numbers for each row."""
    first = report.metrics[0]
    rows = [(way, way.comparisons[first]) for way in report.ways if way.role is not Role.VANILLA]
    if not rows:
        return ""
    most = 1.1 * max(report.smallest, *(max(abs(found.low), abs(found.high)) for _, found in rows))
    strips = "".join(
        f'<li class="{"control" if way.control else "row"}"><span class=name>{html.escape(way.name)}</span>'
        f"{_strip(found, most, report.smallest)}<span class=number>{difference(found)}</span></li>"
        for way, found in rows
    )
    ends = f"<li class=axis aria-hidden=true><span></span><span class=ends><span>{-100 * most:+.0f}</span><span>0</span>"
    return f"<ol class=plot>{strips}{ends}<span>{100 * most:+.0f} points</span></span><span></span></li></ol>"


def _strip(found: Comparison, most: float, smallest: float) -> str:
    """One interval; positions are shares of the width, so it is not distorted at any."""

    def at(value: float) -> str:
        return f"{50 + 50 * value / most:.2f}%"

    band = f'<rect class=band x="{at(-smallest)}" y=0 width="{100 * smallest / most:.2f}%" height=24 />'
    zero = '<line class=zero x1="50%" x2="50%" y1=0 y2=24 />'
    line = f'<line class=interval x1="{at(found.low)}" x2="{at(found.high)}" y1=12 y2=12 />'
    return f'<svg aria-hidden=true>{band}{zero}{line}<circle cx="{at(found.difference)}" cy=12 r=5 /></svg>'


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")

"""`dola methods`: lists the methods, what each costs, and its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.output import print_json

if TYPE_CHECKING:
    from dola.methods.facts import Cost

SCHEMA_NAME = "dola.methods/1"
SCHEMA = {
    "methods[].method": "what --method takes",
    "methods[].summary": "what it does",
    "methods[].costs[].times": "measured time of a token, greedy decoding's being 1",
    "methods[].costs[].where": "what it was measured on",
    "methods[].settings": "its settings with their defaults",
    "methods[].presets": "the settings that its authors use, by task",
    "broken[].method": "a method of an installed package that cannot be used",
    "broken[].error": "why",
    "broken[].hint": "what to do",
}
"""Fields of `dola methods --json`."""


def command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema dola.methods/1.")] = False,
) -> None:
    """List the methods, their costs and their settings.

    \b
    Examples:
      dola methods
      dola methods --json
      dola generate "The capital of Washington State is" --method sled
    """
    from dola.methods.registry import METHODS, broken_methods

    found: list[dict[str, Any]] = [
        {
            "method": name,
            "summary": kind.summary,
            "costs": [asdict(cost) for cost in kind.costs],
            "settings": {each.name: each.default for each in kind.settings()},
            "presets": {task: dict(settings) for task, settings in kind.presets.items()},
        }
        for name, kind in METHODS.items()
    ]
    if json:
        broken = [{"method": name, "error": error.message, "hint": error.hint} for name, error in broken_methods().items()]
        print_json(SCHEMA_NAME, {"methods": found, "broken": broken})
        return
    width = max(len(each["method"]) for each in found)
    usual = _usual([cost for kind in METHODS.values() for cost in kind.costs])
    for each in found:
        print(f"{each['method']:{width}}  {each['summary']}")
        for line in _times(METHODS[each["method"]].costs, usual):
            print(f"{'':{width}}  time: {line}")
        settings = ", ".join(f"{name}={value}" for name, value in each["settings"].items() if name != "lazy")
        print(f"{'':{width}}  settings: {settings}")
        if each["presets"]:
            print(f"{'':{width}}  presets: {', '.join(each['presets'])}")
    print(f"\nTimes were measured with {usual}, where a line names nothing else.")
    for name, error in broken_methods().items():
        print(f"{name:{width}}  cannot be used. {error.message}")
        print(f"{'':{width}}  {error.hint}")


def _usual(costs: Sequence[Cost]) -> str:
    """What most costs were measured with, besides the model, which comes first."""
    return Counter(cost.where.partition(", ")[2] for cost in costs).most_common(1)[0][0]


def _times(costs: Sequence[Cost], usual: str) -> Iterator[str]:
    """The costs of a method: those measured as usual in one line, which names the models alone."""
    models = {cost: cost.where.partition(", ") for cost in costs}
    if alike := [f"{cost.times:.2f} with {model}" for cost, (model, _, rest) in models.items() if rest == usual]:
        yield f"{', '.join(alike)}, where greedy decoding takes 1"
    yield from (str(cost) for cost, (_, _, rest) in models.items() if rest != usual)

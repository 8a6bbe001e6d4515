"""Markdown tables from what `dola bench --json` printed.

python benchmarks/tables.py FILE.json ... > tables.md
"""

import json
import sys
from pathlib import Path

COLUMNS = (
    "case",
    "way",
    "ms per token",
    "over greedy",
    "ms to first token",
    "over greedy",
    "call over greedy",
    "tokens/s",
    "forwards",
    "peak MiB",
    "over greedy",
)


def main(arguments) -> None:
    for name in arguments:
        print(markdown(json.loads(Path(name).read_text(encoding="utf-8"))), end="\n\n")


def markdown(result) -> str:
    """A heading that says what was measured on what, and a row for each way of each case."""
    rows = [cells(case, way) for case in result["cases"] for way in case["ways"]]
    table = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join([*heading(result), "", *("| " + " | ".join(row) + " |" for row in table)])


def heading(result) -> list[str]:
    machine, model, settings = result["machine"], result["model"], result["settings"]
    what = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    environment = "".join(f", {name}={value}" for name, value in machine["environment"].items())
    layers = ", ".join(map(str, model["candidate_layers"]))
    return [
        f"**{model['name']}{' (random weights)' if model['random_weights'] else ''}, {model['dtype']}**, candidate layers "
        f"{layers} of {model['blocks']}, {settings['cache']} cache{', compiled' if settings['compile'] else ''}, "
        f"repetition penalty {settings['repetition_penalty']}, {settings['repeats']} runs {result['schedule']}; "
        f"medians, smallest and largest ratio in brackets. {what}; {versions}{environment}; {machine['date']}.",
    ]


def cells(case, way) -> list[str]:
    memory = way["memory"]
    return [
        case["name"],
        way["way"],
        f"{1000 * way['token_s']['median']:.2f}",
        ratio(way["token_ratio"]),
        f"{1000 * way['first_token_s']['median']:.1f}",
        ratio(way["first_token_ratio"]),
        ratio(way["total_ratio"]),
        f"{way['tokens_per_s']:.1f}",
        str(way["forwards"]),
        f"{memory['peak_bytes'] / 2**20:.0f}" if memory else "",
        f"x{way['memory_ratio']:.3f}" if way["memory_ratio"] else "",
    ]


def ratio(spread) -> str:
    return f"x{spread['median']:.3f} [{spread['min']:.2f}-{spread['max']:.2f}]" if spread else ""


if __name__ == "__main__":
    main(sys.argv[1:])

"""Are the defaults of DoLaConfig better than their alternatives? Final norm and divergence, 2 x 2, on a multiple-choice task.

    python benchmarks/default_check.py truthfulqa-mc TruthfulQA.csv [--model smollm2] [--limit 300] [--json FILE]

Low and high are scored with the final norm and without, and with either divergence, beside vanilla and the constraint alone,
all in one pass. What differs by one setting only is compared item by item, with the intervals and tests of `dola eval`. The
metric is the task's first, or the one asked for; the threshold is that of the paper's run of the task.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
import transformers

import dola
from dola.evidence.choice import measure, score_items
from dola.evidence.figures import difference
from dola.evidence.sample import Sample, find_task
from dola.evidence.statistics import compare

BUCKETS, NORMS, DIVERGENCES = ("low", "high"), (True, False), ("jsd", "reference")
CONSTRAINT = "constraint alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--metric", help="the task's first, if left out")
    parser.add_argument("--results", help="a file that an interrupted run goes on from")
    parser.add_argument("--json", type=Path, help="write every item's value here")
    args = parser.parse_args()
    task = find_task(args.task)
    sample = Sample.of(task, args.data, limit=args.limit)
    model, tokenizer = dola.load(args.model, dtype=args.dtype)
    recipes = make_recipes(task.paper.relative_top)
    scores = score_items(model, tokenizer, sample.items, recipes, results=args.results, facts=sample.facts)
    metric = next(metric for metric in task.metrics if args.metric in (None, metric.name))
    values = {name: measure(task, sample.items, scores, name)[metric.name] for name in recipes}
    print(f"{task.name}, {len(sample.items)} of {sample.total} items, {args.model}, {args.dtype}: {metric.name}, in percent\n")
    print(table(values, binary=metric.binary))
    if args.json:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "dola": dola.__version__}
        head = {"task": task.name, **sample.facts, "metric": metric.name, "model": args.model, "dtype": args.dtype, **versions}
        args.json.write_text(json.dumps({**head, "values": values}) + "\n")


def make_recipes(relative_top: float) -> dict[str, dola.Recipe]:
    """By row: vanilla, the constraint alone where there is one, and each bucket in four ways."""
    recipes = {"vanilla": dola.Recipe(None)}
    if relative_top:
        recipes[CONSTRAINT] = dola.Recipe(dola.DoLaConfig(relative_top=relative_top), premature="none")
    for bucket, norm, divergence in product(BUCKETS, NORMS, DIVERGENCES):
        config = dola.DoLaConfig(bucket, relative_top=relative_top, divergence=divergence, final_norm=norm)
        recipes[row(bucket, norm, divergence)] = dola.Recipe(config)
    return recipes


def row(bucket: str, norm: bool, divergence: str) -> str:
    return f"{bucket}, {'norm' if norm else 'no norm'}, {divergence}"


def table(values: dict[str, list[float]], *, binary: bool) -> str:
    """Markdown: means, and paired differences with 95% intervals; those that are more than noise are bold."""

    def against(name: str, other: str) -> str:
        found = compare(values[other], values[name], binary=binary)
        return f"**{difference(found)}**" if found.significant else difference(found)

    lines = ["| | mean | minus vanilla | minus no norm | minus reference divergence |", "|---|---|---|---|---|"]
    names = {row(*of): of for of in product(BUCKETS, NORMS, DIVERGENCES)}
    for name, of_items in values.items():
        bucket, norm, divergence = names.get(name, (None, False, "reference"))
        rivals = [
            None if name == "vanilla" else "vanilla",
            row(bucket, False, divergence) if norm else None,
            row(bucket, norm, "reference") if divergence == "jsd" else None,
        ]
        cells = ["" if rival is None else against(name, rival) for rival in rivals]
        lines.append(f"| {name} | {100 * sum(of_items) / len(of_items):.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

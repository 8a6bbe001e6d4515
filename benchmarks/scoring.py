"""How much faster `dola.score` is than a forward for each answer and configuration: TruthfulQA-MC, vanilla, low and high.

    python benchmarks/scoring.py TruthfulQA.csv [--model smollm2] [--dtype bfloat16] [--questions 6] [--answers 4]

Some questions are scored in one pass, and of the same questions some answers one by one, with DoLa attached for two of the three
configurations. Both times are carried over to the whole file by tokens and by answers; the pass is charged with the shared
prompt as often as it ran here, which is more than its part of a whole run.
"""

import argparse
import statistics
import sys
import time

import torch

import dola
from dola.tasks import TASKS

CONFIGS = {
    "vanilla": None,
    "low": dola.DoLaConfig("low", relative_top=0.0),
    "high": dola.DoLaConfig("high", relative_top=0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("csv")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--answers", type=int, default=4)
    args = parser.parse_args()
    model, tokenizer = dola.load(args.model, dtype=args.dtype)
    every = TASKS["truthfulqa-mc"].items(args.csv)
    items = every[: args.questions]
    contexts, answers = [item.context for item in items], [item.continuations for item in items]
    start = time.perf_counter()
    scores = dola.score(model, tokenizer, contexts, answers, CONFIGS, progress=False)
    tokens = sum(map(sum, scores.tokens))
    per_token = (time.perf_counter() - start) / tokens
    one_by_one = [
        seconds(model, tokenizer, item.context + answer, config)
        for item in items
        for answer in item.continuations[: args.answers]
        for config in CONFIGS.values()
    ]
    all_tokens = sum(len(tokenizer(answer)["input_ids"]) for item in every for answer in item.continuations)
    all_answers = sum(len(item.continuations) for item in every)
    whole, apart = all_tokens * per_token, all_answers * len(CONFIGS) * statistics.fmean(one_by_one)
    print(
        f"{args.model}, {args.dtype}, {torch.get_num_threads()} threads; {len(items)} of {len(every)} questions",
        file=sys.stderr,
    )
    print(f"one pass: {1000 * per_token:.1f} ms a token of an answer, {whole / 60:.0f} min for the whole file")
    print(f"one by one: {statistics.fmean(one_by_one):.2f} s an answer and configuration, {apart / 60:.0f} min")
    print(f"ratio: {apart / whole:.1f}")


@torch.no_grad()
def seconds(model, tokenizer, text, config) -> float:
    """One forward over a question with an answer, as the reference does it."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = time.perf_counter()
    if config is None:
        model(ids)
    else:
        with dola.attach(model, config):
            model(ids)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

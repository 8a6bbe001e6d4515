"""Is the default of DoLaConfig better than a guess? FACTOR-news, the default against the reference and vanilla.

    python benchmarks/default_check.py FACTOR_CSV [--model smollm2] [--items 300] [--json FILE]

FACTOR gives a passage, its true next sentence and three false ones; a model is right when the true one scores highest, so
chance is 25%. Scores are mean log-probabilities per token, of the distribution that decoding would use: log q_N for vanilla;
for DoLa log_softmax of the contrast on the plausible set, and -1000 for a token outside it. One forward serves all
configurations: the passage runs once, the four sentences as a batch behind it, and the layers are read out from there.
"""

import argparse
import csv
import json
import sys
from itertools import chain
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache

import dola
from dola.contrast import contrast, log_probs, plausible
from dola.layers import candidate_layers

FLOOR = -1000.0
RELATIVE_TOP = 0.1
CONSTRAINED = "vanilla on the plausible set"
CONFIGS = {
    **{f"default {bucket}": dola.DoLaConfig(bucket) for bucket in ("low", "high")},
    **{f"reference {bucket}": dola.DoLaConfig.reference(bucket) for bucket in ("low", "high")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, tokenizer = dola.load(args.model)
    with args.csv.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[: args.items]
    right: dict[str, list[bool]] = {name: [] for name in ["vanilla", CONSTRAINED, *CONFIGS]}
    for number, row in enumerate(rows, 1):
        for name, scores in score_row(model, tokenizer, row).items():
            right[name].append(scores[0] > max(scores[1:]))
        if number % 10 == 0:
            print(f"{number}/{len(rows)}", file=sys.stderr)
    report(args, right)


@torch.no_grad()
def score_row(model, tokenizer, row) -> dict[str, list[float]]:
    """Mean log-probability per token of the four completions (the true one first) under every configuration."""
    anatomy = dola.Anatomy.of(model)
    context = tokenizer(row["full_prefix"], return_tensors="pt")["input_ids"]
    texts = [row["completion"], *(row[f"contradiction_{i}"] for i in (0, 1, 2))]
    endings = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    cache = model(context[:, :-1], past_key_values=DynamicCache(config=model.config), logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(endings))
    # Each completion runs behind the passage's last token; padding on the right is never read.
    longest = max(map(len, endings))
    batch = torch.tensor([[int(context[0, -1]), *ids, *[0] * (longest - len(ids))] for ids in endings])
    out = model(batch, past_key_values=cache, output_hidden_states=True)
    valid = torch.tensor([[i < len(ids) for i in range(longest)] for ids in endings])
    targets, mature = batch[:, 1:][valid], out.logits[:, :-1][valid]
    hidden = [state[:, :-1][valid] for state in out.hidden_states]
    inside = plausible(mature, RELATIVE_TOP)
    # Outside the plausible set the score is the floor, and alone in it 0, whatever any layer says: no readout needed there.
    settled = torch.where(inside.gather(-1, targets[:, None])[:, 0], 0.0, FLOOR)
    open_ = (settled == 0) & (inside.sum(-1) > 1)
    scores = {"vanilla": log_probs(mature).gather(-1, targets[:, None])[:, 0]}
    # The control: the plausibility constraint without any contrast.
    constrained = log_probs(mature.masked_fill(~inside, -torch.inf)).gather(-1, targets[:, None])[:, 0]
    scores[CONSTRAINED] = torch.where(settled == 0, constrained, FLOOR)
    for norm in (True, False):
        configs = {name: config for name, config in CONFIGS.items() if config.final_norm == norm}
        candidates = {name: candidate_layers(c.layers, anatomy.num_layers, tied=anatomy.tied) for name, c in configs.items()}
        logits = {j: anatomy.readout(hidden[j][open_], final_norm=norm) for j in sorted({*chain(*candidates.values())})}
        for name, config in configs.items():
            premature = torch.stack([logits[j] for j in candidates[name]])
            scores[name] = settled.masked_scatter(open_, token_scores(mature[open_], premature, targets[open_], config))
    return {name: [float(part.mean()) for part in scores[name].split([*map(len, endings)])] for name in scores}


def token_scores(mature, premature, targets, config) -> torch.Tensor:
    """Log-probability [T] of target tokens inside the plausible set, a few positions at a time to stay in a cache."""
    pieces = [mature[:0, 0]]
    for p, q, target in zip(mature.split(4), premature.split(4, dim=1), targets.split(4), strict=True):
        contrasted = contrast(p, q, relative_top=RELATIVE_TOP, divergence=config.divergence)
        masked = contrasted.masked_fill(~plausible(p, RELATIVE_TOP), -torch.inf)
        pieces.append(masked.log_softmax(-1).gather(-1, target[:, None])[:, 0])
    return torch.cat(pieces)


def report(args, right) -> None:
    """Accuracy of each configuration, and paired differences with bootstrap intervals."""
    correct = {name: torch.tensor(values, dtype=torch.float64) for name, values in right.items()}
    items = len(correct["vanilla"])
    draws = torch.randint(items, (10_000, items), generator=torch.Generator().manual_seed(0))

    def difference(name, other) -> str:
        """In points, with its 95% interval; the items are resampled in pairs."""
        gain = 100 * (correct[name] - correct[other])
        low, high = gain[draws].mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return f"{float(gain.mean()):+.1f} [{low:+.1f}, {high:+.1f}]"

    print(f"FACTOR-news, first {items} items, {args.model}, float32; chance is 25.0; 95% paired bootstrap intervals\n")
    print("| configuration | accuracy | minus vanilla | minus reference |\n|---|---|---|---|")
    for name, values in correct.items():
        rivals = ["vanilla", name.replace("default", "reference")]
        cells = [difference(name, rival) if rival != name and name != "vanilla" else "" for rival in rivals]
        print(f"| {name} | {100 * float(values.mean()):.1f} | {' | '.join(cells)} |")
    if args.json:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "dola": dola.__version__}
        args.json.write_text(json.dumps({"model": args.model, "items": items, **versions, "right": right}) + "\n")


if __name__ == "__main__":
    main()

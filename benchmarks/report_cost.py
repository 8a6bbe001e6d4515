"""What the likelihood rows of a report cost beside their floor: one vanilla forward, and each distinct layer read out once.

    python benchmarks/report_cost.py factor-news news_factor.csv [--model smollm2] [--items 40] [--ways standard] [--repeats 3]

Each repetition runs all sides one after the other, in an order that rotates, on the same items in the same batches: vanilla
alone; the floor, which reads every layer that the rows need and computes nothing from it; the rows of the report. Ratios are
taken within a repetition, of the CPU seconds of this process; the median and the range are printed. A method that reads one
layer at a time, or a combination of layers, counts as one readout in the floor.
"""

import argparse
import statistics
import time
from unittest.mock import patch

import torch

import dola
from dola.decoding.step import chunk_rows
from dola.evidence.choice import score_items
from dola.evidence.rows import chosen_rows
from dola.evidence.sample import Sample, find_task
from dola.evidence.scored import recipes_of
from dola.evidence.ways import choice_ways
from dola.methods.config import DoLaConfig
from dola.methods.registry import method_of
from dola.scoring.folds import LayerScorer, TokenScores


class ReadsOnly(LayerScorer):
    """Reads what its recipes read, and scores nothing."""

    def score(self, hidden, tokens, uniform):
        last, lenses = self.anatomy.num_layers, self._lenses()
        size = chunk_rows(hidden[last].device.type, self.anatomy.vocabulary)
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            self.anatomy.readout(hidden[last][rows])
            for config, layer in self.readouts():
                maps = lenses[config.lens]
                self.anatomy.premature(hidden[layer][rows], config, maps and maps.of([layer]))
        nothing = torch.zeros(len(tokens), dtype=torch.long)
        return dict.fromkeys(self.recipes, TokenScores(nothing.float(), nothing == 0, nothing == 0, nothing - 1))

    def readouts(self):
        """Each distinct readout of a layer, once: a configuration that reads so, and the layer."""
        found = {}
        for name, layers in self.candidates.items():
            config = self.recipes[name].dola
            one = not isinstance(config, DoLaConfig) and not method_of(config).reads_all
            for layer in layers[-1:] if one else layers:
                found.setdefault((config.read_as, layer), config)
        return [(config, layer) for (_, layer), config in found.items()]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("data")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--ways", default="standard")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = dola.load(args.model, dtype=args.dtype)
    task = find_task(args.task)
    sample = Sample.of(task, [args.data], limit=args.items)
    own = DoLaConfig("high", **task.paper.settings)
    more, standard = chosen_rows(args.ways, own, task.paper.settings, 0)
    recipes = recipes_of(model, choice_ways(task, own, more=more, standard=standard), own)[0]

    def seconds(rows, scorer=LayerScorer):
        start = time.process_time()
        with patch("dola.scoring.score.LayerScorer", scorer):
            score_items(model, tokenizer, sample.items, rows, progress=False)
        return time.process_time() - start

    sides = {
        "vanilla": lambda: seconds({"vanilla": recipes["vanilla"]}),
        "floor": lambda: seconds(recipes, ReadsOnly),
        "report": lambda: seconds(recipes),
    }
    readouts = len(ReadsOnly(dola.Anatomy.of(model), recipes).readouts())
    print(
        f"{args.model}, {args.dtype}, {torch.get_num_threads()} threads; {len(sample.items)} items of {args.task}; "
        f"--ways {args.ways}: {len(recipes)} scored recipes, {readouts} distinct readouts",
        flush=True,
    )
    score_items(model, tokenizer, sample.items[:1], recipes, progress=False)  # kernels are compiled, weights are read
    taken = {name: [] for name in sides}
    for repeat in range(args.repeats):
        order = list(sides)[repeat % 3 :] + list(sides)[: repeat % 3]
        for name in order:
            taken[name].append(sides[name]())
        print("  " + ", ".join(f"{name} {times[-1]:.1f} s" for name, times in taken.items()), flush=True)
    for over in ("floor", "vanilla"):
        ratios = [each / base for each, base in zip(taken["report"], taken[over], strict=True)]
        print(f"report / {over}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

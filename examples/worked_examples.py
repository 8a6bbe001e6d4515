"""The worked examples of the method: real questions, answered greedily and with DoLa, side by side.

    python examples/worked_examples.py                                          # the embedded SmolLM2, no hub needed
    python examples/worked_examples.py meta-llama/Meta-Llama-3-8B-Instruct      # as in the documentation of transformers 4
    python examples/worked_examples.py huggyllama/llama-7b                      # as in the paper

Columns: greedy; greedy with the same repetition penalty, a control that shows the effect of the penalty alone; DoLa.
A 135M-parameter model knows little, and DoLa cannot add knowledge that none of its layers has: expect changes, not miracles.
"""

import argparse
import sys

import torch
from rich.console import Console

import dola
from dola.cli.backend_torch import TorchBackend
from dola.cli.compare import answers, render

EXAMPLES = [
    # From the documentation of transformers 4: short factual answers, so the high layers.
    (
        'Answer with a short answer. Question: What does Darth Vader say to Luke in "The Empire Strikes Back"? Answer: ',
        ["high"],
    ),
    # Vanilla, a bucket, and two late layers by number (28 and 30 of 32).
    ("On what date was the Declaration of Independence officially signed?", ["high", "late"]),
    # The paper's figure 1: "Seattle" is there early, "Olympia" rises in the last layers.
    ("The capital of Washington State is", ["high"]),
    # The paper's figure 2, as a question.
    ("Q: In which year did Wole Soyinka win the Nobel Prize in Literature?\nA:", ["high"]),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2", help="a hub id, a folder, a .gguf file or an alias")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    args = parser.parse_args()
    console = Console()
    console.print(f"Loading {args.model} ...", style="dim")
    try:
        gpu = {"dtype": torch.bfloat16, "device_map": "auto"} if torch.cuda.is_available() else {}
        model, tokenizer = dola.load(args.model, **gpu)
    except dola.DolaError as error:
        print(error, file=sys.stderr)
        return 2
    num_layers = dola.Anatomy.of(model).num_layers
    console.print(f"{type(model).__name__}: {num_layers} layers, {model.num_parameters():,} parameters", style="dim")
    for prompt, buckets in EXAMPLES:
        layers = [[num_layers - 4, num_layers - 2] if bucket == "late" else bucket for bucket in buckets]
        render(
            console, prompt, answers(TorchBackend(model, tokenizer), prompt, layers=layers, max_new_tokens=args.max_new_tokens)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

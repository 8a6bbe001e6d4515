"""The tokens of real models with MLX beside those with torch: every method, in float32, prompt by prompt.

    python tests/apple/mlx_tokens.py smollm2 gemma3-270m      20 prompts, 64 tokens; prints a table for docs/mlx.md

A prompt counts where plain mlx-lm and plain transformers decode the same tokens. mlx-lm rounds the factor of Gemma's embeddings
to bfloat16, which moves all logits: transformers gets the same factor here. Results are kept in benchmarks/results, row by row,
so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import torch

import dola
import dola.mlx
from dola.methods.config import MethodConfig
from dola.mlx.completions import complete
from dola.mlx.skipping import pays

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CONFIGS: dict[str, MethodConfig | None] = {
    "plain": None,
    "DoLa high": dola.DoLaConfig("high"),
    "DoLa low": dola.DoLaConfig("low"),
    "DoLa as a distribution": dola.DoLaConfig("high", scores="distribution", strength=0.5),
    "DoLa, reference": dola.DoLaConfig.reference("high"),
    "Confident Decoding": dola.ConfidentConfig(),
    "SLED": dola.SLEDConfig(),
    "DeLTa": dola.DeLTaConfig(),
}
PROMPTS = [
    "The capital of Washington State is",
    "Q: When did Wole Soyinka win the Nobel Prize in Literature?\nA:",
    "On what date was the Declaration of Independence officially signed? It was",
    "Water boils at",
    "Once upon a time there was a fox who",
    "def add(a, b):\n    return",
    "List three facts about the moon.\n1.",
    "The largest planet in the solar system is",
    "Paris is the capital of France. Rome is the capital of",
    "In 1969, Neil Armstrong",
    "The author of 'Pride and Prejudice' is",
    "Photosynthesis is the process by which",
    "A recipe for pancakes: take",
    "The quick brown fox",
    "Question: What is the boiling point of nitrogen?\nAnswer:",
    "Dear Sir or Madam,",
    "The three primary colors are",
    "import numpy as np\n\n",
    "Shakespeare was born in",
    "If all birds can fly and a penguin is a bird, then",
]
SHORT = ["The capital of Washington State is", "Water boils at"]
"""Prompts of the tests, short ones: on a CPU, MLX takes longest to read a prompt."""


def folder_of(alias: str, folder: Path) -> Path:
    """An embedded model as a folder that both libraries read, in float32."""
    for part in dola.load(alias, progress=lambda line: None):
        part.save_pretrained(folder)
    return folder


class Pair:
    """One model in both libraries."""

    def __init__(self, folder: Path) -> None:
        self.torch, self.tokenizer = dola.load(str(folder), dtype=torch.float32)
        self.torch.generation_config.eos_token_id = None  # all texts get the same length
        self.mlx, _ = dola.mlx.load(str(folder))
        self.mlx.set_dtype(mx.float32)
        for module in self.torch.modules():
            if isinstance(scale := getattr(module, "embed_scale", None), torch.Tensor):
                scale.copy_(scale.to(torch.bfloat16))

    def tokens(self, prompt: str, config: MethodConfig | None, new: int) -> tuple[list[int], list[int]]:
        """The new tokens, with torch and with MLX."""
        ids = self.tokenizer(prompt)["input_ids"]
        batch = torch.tensor([ids])
        how = {"attention_mask": torch.ones_like(batch), "max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        if config is None:
            found = self.torch.generate(batch, **how)
            (other,) = complete(self.mlx, [ids], max_tokens=new, ends=())
        else:
            found = dola.generate(self.torch, batch, dola_layers=config, **how)
            with dola.mlx.attach(self.mlx, config, lazy=pays(self.mlx)):  # as `dola.mlx.generate` does
                (other,) = complete(self.mlx, [ids], max_tokens=new, ends=())
        return found[0, len(ids) :].tolist(), other


def compared(pair: Pair, prompts: list[str], new: int, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One comparison of a way and a prompt after another, without those that are done."""
    there = {(each["way"], each["prompt"]) for each in done}
    for number, prompt in enumerate(prompts):
        for way, config in CONFIGS.items():
            if (way, number) not in there:
                ours, theirs = pair.tokens(prompt, config, new)
                alike = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), new)
                yield {"way": way, "prompt": number, "alike": alike, "of": new}


def table(done: list[dict[str, Any]]) -> str:
    """Prompts with all tokens equal, among those where plain decoding agrees."""
    plain = {each["prompt"] for each in done if each["way"] == "plain" and each["alike"] == each["of"]}
    lines = [f"plain decoding agrees on {len(plain)} prompts", "| method | prompts with equal tokens |", "|---|---|"]
    for way in list(CONFIGS)[1:]:
        rows = [each for each in done if each["way"] == way and each["prompt"] in plain]
        lines.append(f"| {way} | {sum(each['alike'] == each['of'] for each in rows)} of {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=20)
    options = parser.parse_args()
    for name in options.models:
        path = RESULTS / f"mlx-tokens-{name}.jsonl"
        done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        with tempfile.TemporaryDirectory() as folder:
            pair = Pair(folder_of(name, Path(folder)))
            for each in compared(pair, PROMPTS[: options.prompts], options.tokens, done):
                done.append(each)
                with path.open("a") as file:
                    file.write(json.dumps(each) + "\n")
                print(each, file=sys.stderr, flush=True)
        print(f"{name}: {table(done)}\n")


if __name__ == "__main__":
    main()

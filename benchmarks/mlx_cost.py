"""What the methods cost with MLX: seconds a token, and the ratio to mlx-lm's greedy decoding. Prints a table to paste.

python benchmarks/mlx_cost.py mlx-community/SmolLM2-135M-Instruct
"""

import argparse
import platform
import statistics
import time
from contextlib import nullcontext

import mlx.core as mx
from mlx_lm.generate import generate_step

import dola.mlx

CONFIGS = {
    "greedy": None,
    "DoLa high": dola.mlx.DoLaConfig("high"),
    "DoLa low": dola.mlx.DoLaConfig("low"),
    "Confident Decoding": dola.mlx.ConfidentConfig(),
    "SLED": dola.mlx.SLEDConfig(),
    "DeLTa": dola.mlx.DeLTaConfig(),
}


def seconds(model, prompt, tokens):
    """Seconds a token, without the prompt and the first token."""
    steps = generate_step(prompt, model, max_tokens=tokens)
    next(steps)
    start = time.perf_counter()
    count = sum(1 for _ in steps)
    return (time.perf_counter() - start) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model, tokenizer = dola.mlx.load(options.model)
    prompt = mx.array(tokenizer.encode("The capital of Washington State is"))
    found = {name: [] for name in CONFIGS}
    for turn in range(options.rounds + 1):  # ways take turns, so that a slow minute slows all of them
        for name, config in CONFIGS.items():
            with nullcontext() if config is None else dola.mlx.attach(model, config):
                took = seconds(model, prompt, options.tokens)
            if turn:  # the first round warms up
                found[name].append(took)
    print(f"{options.model}, {platform.platform()}, {platform.processor()}, mlx {mx.__version__}, {mx.default_device()}")
    print("\n| way | ms a token | ratio (median of rounds) |\n|---|---|---|")
    for name, times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, found["greedy"], strict=True))
        print(f"| {name} | {1000 * statistics.median(times):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

"""What the methods cost with MLX: milliseconds a token, and the ratio to mlx-lm's greedy decoding. Prints a table to paste.

python benchmarks/mlx_cost.py mlx-community/SmolLM2-135M-Instruct

"skipping" leaves out the layers in steps whose choice they cannot change, and so waits for each step. Ways take turns within
a round; a ratio is taken within a round. No round begins that would not end within --minutes.
"""

import argparse
import platform
import statistics
import time
from contextlib import nullcontext

import mlx.core as mx
import mlx_lm
from mlx_lm.generate import generate_step

import dola.mlx

HIGH = dola.mlx.DoLaConfig("high")
WAYS = {
    "greedy": (None, False),
    "DoLa high": (HIGH, False),
    "DoLa high, skipping": (HIGH, True),
    "DoLa low": (dola.mlx.DoLaConfig("low"), False),
    "DoLa low, skipping": (dola.mlx.DoLaConfig("low"), True),
    "Confident Decoding": (dola.mlx.ConfidentConfig(), False),
    "DeLTa": (dola.mlx.DeLTaConfig(), False),
    "DeLTa, skipping": (dola.mlx.DeLTaConfig(), True),
    "SLED": (dola.mlx.SLEDConfig(), False),
}
PROMPTS = ["The capital of Washington State is", "Once upon a time there was a fox who", "Water boils at"]


def measured(model, prompt, tokens, config, lazy):
    """Seconds a token, without the prompt and the first token; and the share of steps that read no layer."""
    with nullcontext() if config is None else dola.mlx.attach(model, config, lazy=lazy) as attached:
        steps = generate_step(prompt, model, max_tokens=tokens)
        next(steps)
        start = time.perf_counter()
        count = sum(1 for _ in steps)
        took = (time.perf_counter() - start) / count
        skipping = getattr(attached, "skipping", None)
        return took, 0.0 if skipping is None else skipping.saved / skipping.steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="as stored by default")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=4.5)
    options = parser.parse_args()
    begin = time.monotonic()
    model, tokenizer = dola.mlx.load(options.model)
    if options.dtype:
        model.set_dtype(getattr(mx, options.dtype))
    prompts = [mx.array(tokenizer.encode(text)) for text in PROMPTS]
    found, saved, longest = {name: [] for name in WAYS}, dict.fromkeys(WAYS, 0.0), 0.0
    for config, lazy in WAYS.values():  # warms up
        measured(model, prompts[0], 3, config, lazy)
    for turn in range(options.rounds):
        start = time.monotonic()
        if start - begin + longest > 60 * options.minutes:
            break
        for name, way in WAYS.items():
            took, saved[name] = measured(model, prompts[turn % len(prompts)], options.tokens, *way)
            found[name].append(took)
        longest = max(longest, time.monotonic() - start)
    rounds = len(found["greedy"])
    dtype = options.dtype or "as stored"
    print(f"{options.model} ({dtype}), {platform.platform()}, {platform.processor()}, {mx.default_device()}")
    print(f"mlx {mx.__version__}, mlx-lm {mlx_lm.__version__}, {rounds} rounds of {options.tokens} tokens")
    print("\n| way | ms a token | ratio (median of rounds) | steps that read no layer (last round) |\n|---|---|---|---|")
    for name, times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, found["greedy"], strict=True))
        print(f"| {name} | {1000 * statistics.median(times):.1f} | {ratio:.2f} | {saved[name]:.0%} |")


if __name__ == "__main__":
    main()

"""How the time of the LM head's product grows with its rows: torch and the compiled kernel, in reads of the weights.

    python benchmarks/head_product.py [--threads 2]

The table is what `dola.step` models the cost of reading with: time over that of one row by torch, and the memory bandwidth that
one read would need to take so long.
"""

import argparse
import statistics
import time

import torch

from dola import native

SHAPES = {"SmolLM2-135M": (49152, 576), "Gemma 3 270M": (262144, 640)}
ROWS = (1, 2, 4, 6, 9, 16, 24, 36, 40, 64, 72, 128)


def milliseconds(product, repeats):
    product()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if native.why_not():
        print(f"No compiled kernel: {native.why_not()}\n")
    print("| head | dtype | rows | torch, ms | over one row | kernel, ms | over torch's one row |")
    print("|---|---|---|---|---|---|---|")
    for name, (vocabulary, width) in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float32):
            weight = torch.randn(vocabulary, width).to(dtype)
            one = None
            for count in ROWS:
                rows = torch.randn(count, width).to(dtype)
                by_torch = milliseconds(lambda x=rows, w=weight: torch.nn.functional.linear(x, w), args.repeats)
                one = one or by_torch
                kernel = "-"
                if not native.why_not():
                    kernel = milliseconds(lambda x=rows, w=weight: native.head_product(w, x), args.repeats)
                    kernel = f"{kernel:.1f} | {kernel / one:.2f}"
                print(f"| {name} | {str(dtype)[6:]} | {count} | {by_torch:.1f} | {by_torch / one:.2f} | {kernel} |")


if __name__ == "__main__":
    main()

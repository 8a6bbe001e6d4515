"""What each method costs beside greedy decoding, in turns in one run; greedy decoding twice, for the noise of the machine.

    python benchmarks/methods.py --model smollm2 --dtype bfloat16 --batch-sizes 1,8 --lens FILE

Prints the median of the ratios, each within its round, and the smallest and largest of them. Beside it, the same of the ratios
to the method's floor: greedy decoding's time plus that of the head's products that the method adds. (Only where the compiled
kernel makes these products.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from transformers import StoppingCriteriaList

import dola
from dola import native
from dola.bench.cases import cut_case, texts
from dola.bench.ways import Clock
from dola.methods.registry import METHODS, config_of, required_settings
from dola.text.encoding import Encoder


def ways(lens: str | None) -> dict[str, Any]:
    """The rows: greedy decoding, greedy decoding again, DoLa, DoLa through a lens, and each other method with its defaults."""
    found: dict[str, Any] = {"greedy": None, "greedy again": None, "DoLa high": dola.DoLaConfig("high")}
    if lens is not None:
        found["DoLa high, lens"] = dola.DoLaConfig("high", lens=lens)
    for name, kind in METHODS.items():
        if name != "dola" and not required_settings(kind):
            found[name] = config_of({"method": name})
    return found


@dataclass
class Took:
    """Seconds of a token, and those of them that the head's products took."""

    token: float
    head: float


@contextmanager
def head_products(model: Any) -> Iterator[list[float]]:
    """The seconds of each product of the head: the model's own, and the kernel's."""
    found: list[float] = []
    started: list[float] = []

    def timed(weight: torch.Tensor, rows: torch.Tensor) -> native.Product:
        start = time.perf_counter()
        product = kernel(weight, rows)
        found.append(time.perf_counter() - start)
        return product

    def begins(*_: Any) -> None:
        started.append(time.perf_counter())

    def ends(*_: Any) -> None:
        found.append(time.perf_counter() - started.pop())

    kernel, head = native.head_product, model.get_output_embeddings()
    hooks = [] if hasattr(model, "dola") else [head.register_forward_pre_hook(begins), head.register_forward_hook(ends)]
    try:
        with mock.patch.object(native, "head_product", timed):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def measure(model: Any, ids: torch.Tensor, new_tokens: int, config: Any) -> Took:
    """Time a token after the first one."""
    clock = Clock(ids.device)
    with nullcontext() if config is None else dola.attach(model, config), head_products(model) as products:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return Took((time.perf_counter() - clock.first) / (new_tokens - 1), sum(products) / new_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-sizes", default="1")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--lens")
    parser.add_argument("--only", help="a part of the names of the rows to time beside greedy decoding")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model, tokenizer = dola.load(arguments.model, dtype=arguments.dtype)
    encoder = Encoder.of(model, tokenizer)
    rows = ways(arguments.lens)
    if arguments.only:
        rows = {name: config for name, config in rows.items() if config is None or arguments.only in name}
    found = {}
    for size in map(int, arguments.batch_sizes.split(",")):
        ids = cut_case(encoder, texts("mixed"), batch_size=size, length=24, batches=1).prompts[0]
        times: dict[str, list[Took]] = {name: [] for name in rows}
        for config in rows.values():
            measure(model, ids, 4, config)  # warm: kernels, caches of lenses
        names = list(rows)
        for turn in range(arguments.repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(measure(model, ids, arguments.new_tokens, rows[name]))
        for name, own in times.items():
            pairs = list(zip(own, times["greedy"], strict=True))
            found[f"{name}, batch {size}"] = {
                "ratio": spread([one.token / greedy.token for one, greedy in pairs]),
                "of floor": spread([one.token / (greedy.token + one.head - greedy.head) for one, greedy in pairs]),
                "seconds": statistics.median(one.token for one in own),
                "head": statistics.median(one.head for one in own),
            }
    if arguments.json:
        print(
            json.dumps({"model": arguments.model, "dtype": arguments.dtype, "threads": torch.get_num_threads(), "rows": found})
        )
        return
    for name, row in found.items():
        ratio, floor = ("x{:.3f} ({:.3f} to {:.3f})".format(*row[of]) for of in ("ratio", "of floor"))
        token, head = 1000 * row["seconds"], 1000 * row["head"]
        beside_floor = "" if native.why_not() else f"  of its floor {floor}"
        print(f"{name:28} {ratio}{beside_floor}  {token:.1f} ms a token, {head:.1f} the head")


def spread(ratios: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return statistics.median(ratios), min(ratios), max(ratios)


if __name__ == "__main__":
    main()

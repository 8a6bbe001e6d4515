"""How DoLa's cost grows: batch, candidates, vocabulary, width and context varied one at a time, beside sweep.py's model.

    python benchmarks/growth.py [--json FILE] [--chart FILE.svg]
    python benchmarks/growth.py --from FILE --chart FILE.svg     the chart of an earlier run

Models of 12 Llama blocks with random weights in bfloat16. All their positions are undecided, so the share u is 1: an upper
bound of what real models cost.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch
from sweep import measured_bandwidth, measured_rate, row
from transformers import LlamaConfig, LlamaForCausalLM

from dola.bench.cases import random_case
from dola.bench.machine import Machine

BLOCKS = 12
BASE = {"batch": 8, "K": 6, "vocabulary": 32768, "width": 512, "context": 64}
VARIED = {
    "batch": (1, 4, 8, 16, 32),
    "K": (1, 2, 4, 6, 12),
    "vocabulary": (8192, 32768, 131072),
    "width": (256, 512, 1024),
    "context": (64, 512, 2048),
}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args(arguments)
    found = json.loads(args.source.read_text()) if args.source else measured(args)
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.chart:
        chart(found, args.chart)


def measured(args) -> dict:
    """All rows; the base is measured once for each thing that varies, which also shows the machine's noise."""
    device = torch.device("cpu")
    bandwidth, rate = measured_bandwidth(device), measured_rate(device, torch.bfloat16)
    rows = []
    for name, values in VARIED.items():
        for value in values:
            shape = BASE | {name: value}
            model = random_model(shape["vocabulary"], shape["width"])
            case = random_case(shape["vocabulary"], batch_size=shape["batch"], length=shape["context"], batches=1)
            settings = SimpleNamespace(new_tokens=args.new_tokens, repeats=args.repeats)
            rows.append({"varied": name, **shape, **row(model, case, shape["K"], BLOCKS, bandwidth, rate, settings)})
            print(rows[-1], file=sys.stderr)
    return {"machine": asdict(Machine.here(device)), "bandwidth": bandwidth, "rate": rate, "rows": rows}


def random_model(vocabulary: int, width: int):
    """A model with heads of 64 numbers and the usual ratio of widths."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 32 * 32,
        num_hidden_layers=BLOCKS,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        max_position_embeddings=4096,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)


def predicted(one: dict) -> float:
    """The ratio if the contrast cost its floor."""
    return 1 + one["floor_s"] / one["greedy_s"]


def table(found: dict) -> str:
    """A table in Markdown."""
    lines = ["| varied | | greedy, ms | predicted | measured | greedy again |", "|---|---|---|---|---|---|"]
    for one in found["rows"]:
        ratio, noise = (
            f"x{one[name]['median']:.2f} ({one[name]['min']:.2f}-{one[name]['max']:.2f})" for name in ("ratio", "noise")
        )
        value = f"{one[one['varied']]:,}"
        lines.append(
            f"| {one['varied']} | {value} | {1000 * one['greedy_s']:.1f} | x{predicted(one):.2f} | {ratio} | {noise} |"
        )
    return "\n".join(lines)


def chart(found: dict, path: Path) -> None:
    """One panel for each thing that varies: points with ranges, and the model's line."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dola", "font.size": 9}
    figure, panels = plt.subplots(1, len(VARIED), figsize=(11, 2.6), sharey=True, layout="constrained")
    for panel, name in zip(panels, VARIED, strict=True):
        rows = [one for one in found["rows"] if one["varied"] == name]
        x = [one[name] for one in rows]
        middle = [one["ratio"]["median"] for one in rows]
        spread = [[abs(one["ratio"]["median"] - one["ratio"][end]) for one in rows] for end in ("min", "max")]
        panel.plot(x, [predicted(one) for one in rows], color="#999999", label="model: bytes and operations")
        panel.errorbar(x, middle, spread, fmt="o", color="#0969da", markersize=4, linewidth=1, label="measured")
        panel.set_xscale("log", base=2)
        panel.set_xticks(x, [f"{value // 1024}k" if value >= 2048 else str(value) for value in x])
        panel.minorticks_off()
        panel.set_xlabel(name)
        panel.axhline(1, color="#cccccc", linewidth=0.8, zorder=0)
    panels[0].set_ylabel("time per token\nover greedy decoding")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()

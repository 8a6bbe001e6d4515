"""Would drafting with an early layer's readout, and verifying with the contrast, be faster than DoLa alone?

    python benchmarks/self_speculation.py [--model smollm2] [--layers high] [--new-tokens 64]

Nothing is drafted here: DoLa's own tokens are taken, and for each layer j it is counted how often its readout would have
proposed them. A draft of n tokens reads the first j blocks and the head n times, and verifying reads the model once, for
n + 1 rows. In units of one reading of the model's weights, with h the head's share of them:

    rate(j, n) = expected tokens / (n * ((1 - h) j / N + h) + product_cost(n + 1))

Above 1 it would win before any overhead; the bytes are a floor of what drafting costs, so a rate below 1 settles it.
"""

import argparse

import torch

import dola
from dola.bench.cases import texts
from dola.decoding.cost import product_bound, product_cost
from dola.model.hidden import captured


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", default="high")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    args = parser.parse_args()
    model, tokenizer = dola.load(args.model, dtype=args.dtype)
    anatomy = dola.Anatomy.of(model)
    right = {layer: [] for layer in range(1, anatomy.num_layers)}
    for prompt in [*texts("mixed").values(), *texts("copy").values()]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"][:, -512:]
        settings = {"do_sample": False, "repetition_penalty": args.repetition_penalty, "max_new_tokens": args.new_tokens}
        whole = dola.generate(model, ids, attention_mask=torch.ones_like(ids), dola_layers=args.layers, **settings)
        with captured(anatomy, right) as hidden:
            model(whole[:, :-1])
        for layer, found in right.items():
            proposed = anatomy.readout(hidden[layer][0, ids.shape[1] - 1 :]).argmax(-1)
            found.append((proposed == whole[0, ids.shape[1] :]).tolist())
    head = model.get_output_embeddings().weight.numel()
    blocks = sum(p.numel() for block in anatomy.blocks for p in block.parameters())
    share = head / (head + blocks)
    bound = product_bound(model.device.type, model.dtype)
    print(f"{args.model}, {args.layers} layers; head {share:.0%} of the weights; bound by arithmetic above {bound} rows\n")
    print("| layer | proposals that are DoLa's token | best draft length | rate |\n|---|---|---|---|")
    for layer, found in right.items():
        lengths = {n: rate(found, n, share + (1 - share) * layer / anatomy.num_layers, bound) for n in range(1, 9)}
        best = max(lengths, key=lengths.get)
        accepted = sum(map(sum, found)) / sum(map(len, found))
        print(f"| {layer} | {accepted:.1%} | {best} | {lengths[best]:.2f} |")


def rate(found, drafts, cost, bound) -> float:
    """Tokens per reading of the weights: from every position, how many of the next proposals are right in a row."""
    runs = [row for text in found for row in (text[i : i + drafts] for i in range(len(text) - drafts))]
    expected = 1 + sum([*row, False].index(False) for row in runs) / len(runs)
    return expected / (drafts * cost + product_cost(drafts + 1, bound))


if __name__ == "__main__":
    main()

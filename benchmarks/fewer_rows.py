"""Could DoLa read fewer rows of the head, or cheaper ones? Counted on texts that DoLa decodes; nothing is decoded differently.

    python benchmarks/fewer_rows.py [--model smollm2] [--layers high] [--new-tokens 64]

At each position with more than one plausible token, three ways are looked at:

- Same token from every candidate. With greedy decoding and no penalty, only logits of plausible tokens decide between two
  tokens, because a candidate's normalizer falls out of their difference. If all candidates agree, none has to be chosen.
- Cheaper rows, exactly. The layer is chosen from a product of rounded numbers (bfloat16 or int8). The part that p and q share,
  ln 2 - JSD, grows with each q_x, so logits that are wrong by at most e make it wrong by a factor of at most exp(2 e). All
  candidates that may share least are read again, in full precision. e is the bound by the norms of what was rounded away
  (Cauchy-Schwarz), or the largest error that occurs, less what all tokens have in common: the least e that would do. Sums are
  kept in float32, which is the best case: the kernel that is timed rounds them.
- Fewer rows, by choice. The layer is chosen again at the first undecided position n or more after the last choice, or only
  among the few layers that are chosen most often in the other texts. Counted is how often the token, with the penalty, is
  another one.
"""

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

import dola
from dola import native
from dola.bench.cases import texts
from dola.methods.contrast import plausible
from dola.methods.divergences import jsd
from dola.model.hidden import captured

EVERY = {2: "second", 3: "third", 4: "fourth"}
AMONG = (1, 2, 4)
ROWS = 96
"""Rows of the timed products: a batch of 32 has about twice as many, and the kernel gets them in chunks of about this size."""


@dataclass
class Position:
    """What one undecided position shows.

    Attributes:
        place: Its number in the text.
        tokens: The token that the contrast with each candidate would choose, [K].
        agree: Whether all candidates choose the same one without a penalty.
        divergences: Each candidate's divergence less ln 2, [K].
        new: Whether none of these tokens is in the text before: then a penalty, which only lowers others, leaves them first.
        left: Number of candidates that remain, by kind of product and of bound.
        error: Largest error of a logit and its bound, in nats, by kind of product.
    """

    place: int
    tokens: list[int]
    agree: bool
    divergences: list[float]
    new: bool
    left: dict[tuple[str, str], int]
    error: dict[str, tuple[float, float]]

    @property
    def chosen(self) -> int:
        """The candidate that diverges most."""
        return self.chosen_among(range(len(self.divergences)))

    def chosen_among(self, candidates: Iterable[int]) -> int:
        """The one of these that diverges most."""
        return max(candidates, key=self.divergences.__getitem__)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", default="high")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repetition-penalty", type=float, default=1.2)
    args = parser.parse_args()
    model, tokenizer = dola.load(args.model, dtype="float32")
    anatomy = dola.Anatomy.of(model)
    layers = anatomy.candidates(args.layers)
    weight = model.get_output_embeddings().weight.detach()
    rounded = {"bfloat16": (weight.bfloat16().float(), _to_bfloat16), "int8": (_to_int8(weight), _to_int8)}
    away = {kind: (weight - small).norm(dim=-1) for kind, (small, _) in rounded.items()}
    by_text, positions = [], 0
    for prompt in texts("mixed").values():
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"][:, -512:]
        whole = dola.generate(
            model, ids, attention_mask=torch.ones_like(ids), dola_layers=list(layers), do_sample=False,
            max_new_tokens=args.new_tokens, repetition_penalty=args.repetition_penalty,
        )  # fmt: skip
        with captured(anatomy, layers) as hidden:
            mature = model(whole[:, :-1]).logits[0, ids.shape[1] - 1 :]
        states = torch.stack([hidden[layer][0, ids.shape[1] - 1 :] for layer in layers])
        inputs = anatomy.candidate_input(states, dola.DoLaConfig(layers))
        positions += len(mature)
        penalty = RepetitionPenaltyLogitsProcessor(args.repetition_penalty)
        by_text.append(list(_undecided(mature, inputs, whole[0], weight, rounded, away, penalty)))
    _report(args.model, layers, positions, by_text, weight)


def _undecided(
    mature: Tensor,
    states: Tensor,
    text: Tensor,
    weight: Tensor,
    rounded: Mapping[str, tuple[Tensor, Callable[[Tensor], Tensor]]],
    away: Mapping[str, Tensor],
    penalty: RepetitionPenaltyLogitsProcessor,
) -> Iterator[Position]:
    """The positions with more than one plausible token.

    Args:
        mature: Mature logits [T, V].
        states: The head's inputs for the candidates [K, T, d].
        text: The token ids, of which the last T were decoded.
        weight: The head's weight [V, d].
        rounded: By kind of product the rounded weight, and how states are rounded.
        away: By kind of product the norms [V] of what rounding took away.
        penalty: The repetition penalty.
    """
    for place, row in enumerate(mature):
        inside = plausible(row).nonzero()[:, 0]
        if len(inside) == 1:
            continue
        inputs = states[:, place]
        logits = inputs @ weight.T
        log_p, log_q = row.log_softmax(-1), logits.log_softmax(-1)
        before = text[: len(text) - len(mature) + place]
        scores = torch.full_like(log_q, -math.inf)
        scores[:, inside] = log_p[inside] - log_q[:, inside]
        unpenalized = scores.argmax(-1)
        tokens = penalty(before.expand(len(scores), -1), scores).argmax(-1)
        agree = len({*unpenalized.tolist()}) == 1
        new = not torch.isin(unpenalized, before).any()
        divergences = jsd(log_p, log_q)
        left, error = {}, {}
        for kind, (small, rounding) in rounded.items():
            near = rounding(inputs)
            cheap = near @ small.T
            bound = (
                away[kind] * inputs.norm(dim=-1, keepdim=True) + small.norm(dim=-1) * (inputs - near).norm(dim=-1, keepdim=True)
            ).amax(-1)
            wrong = cheap - logits
            largest = (wrong.amax(-1) - wrong.amin(-1)) / 2
            roughly = -jsd(log_p, cheap.log_softmax(-1))
            left[kind, "bound"], left[kind, "largest error"] = _left(roughly, bound), _left(roughly, largest)
            error[kind] = float(largest.max()), float(bound.max())
        yield Position(place, tokens.tolist(), agree, divergences.tolist(), new, left, error)


def _left(shared: Tensor, error: Tensor) -> int:
    """How many candidates may share least, if each logit of candidate k is wrong by at most error[k]."""
    return int((shared * (-2 * error).exp() <= (shared * (2 * error).exp()).min()).sum())


def _to_bfloat16(rows: Tensor) -> Tensor:
    return rows.bfloat16().float()


def _to_int8(rows: Tensor) -> Tensor:
    """Rounded to 255 steps between plus and minus the largest number of each row."""
    step = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
    return (rows / step).round() * step


def _report(model: str, layers: tuple[int, ...], positions: int, by_text: list[list[Position]], weight: Tensor) -> None:
    each = [position for text in by_text for position in text]
    agree = [position for position in each if position.agree]
    print(f"{model}, candidates {', '.join(map(str, layers))}: {positions} positions, {len(each)} undecided")
    new = sum(position.new for position in agree)
    share, of_new = len(agree) / len(each), new / len(each)
    print(f"\nAll candidates choose the same token: {share:.0%} of the undecided; one that is new to the text: {of_new:.0%}.")
    took = _times(weight)
    print(f"\n| product of {ROWS} rows | ms | largest error | its bound | candidates left, by the bound | by the error |")
    print("|---|---|---|---|---|---|")
    print(f"| float32 | {took['float32']:.1f} | | | {len(layers)} of {len(layers)} | |")
    for kind in ("bfloat16", "int8"):
        largest, bound = (max(position.error[kind][which] for position in each) for which in (0, 1))
        cells = [f"{sum(position.left[kind, by] for position in each) / len(each):.1f}" for by in ("bound", "largest error")]
        print(f"| {kind} | {took[kind]:.1f} | {largest:.2f} | {bound:.2f} | {' | '.join(cells)} |")
    counts = Counter(layers[position.chosen] for position in each).most_common()
    print(f"\nChosen: {', '.join(f'layer {layer} at {number}' for layer, number in counts)}.")
    print("\n| by choice | another token | of the undecided | of all positions |\n|---|---|---|---|")
    for n, named in EVERY.items():
        _line(f"a layer chosen at every {named} position", sum(_kept(text, n) for text in by_text), len(each), positions)
    for few in AMONG:
        what = "the layer" if few == 1 else f"the {few} layers"
        _line(f"only {what} chosen most in the other texts", _among(by_text, few), len(each), positions)


def _line(what: str, different: int, undecided: int, positions: int) -> None:
    print(f"| {what} | {different} | {different / undecided:.1%} | {different / positions:.1%} |")


def _kept(text: list[Position], n: int) -> int:
    """Tokens that differ if the layer is chosen again n positions after the last choice, at the first undecided one."""
    different, last, layer = 0, None, 0
    for position in text:
        if last is None or position.place - last >= n:
            last, layer = position.place, position.chosen
        different += position.tokens[layer] != position.tokens[position.chosen]
    return different


def _among(by_text: list[list[Position]], few: int) -> int:
    """Tokens that differ if only the candidates may be chosen that are chosen most often in the other texts."""
    different = 0
    for text in by_text:
        counts = Counter(position.chosen for other in by_text if other is not text for position in other)
        kept = [layer for layer, _ in counts.most_common(few)]
        for position in text:
            layer = position.chosen_among(kept)
            different += position.tokens[layer] != position.tokens[position.chosen]
    return different


def _times(weight: Tensor) -> dict[str, float]:
    """Milliseconds of each product, the median of nine."""
    rows, small = torch.randn(ROWS, weight.shape[1]), weight.bfloat16()
    whole = [(each * 40).round().clamp(-127, 127).to(torch.int8) for each in (rows, weight.T)]
    ways: dict[str, Callable[[], object]] = {
        "float32": lambda: native.head_product(weight, rows),
        "bfloat16": lambda: native.head_product(small, rows.bfloat16()),
        "int8": lambda: torch._int_mm(*whole),
    }
    return {name: _median(way) for name, way in ways.items()}


def _median(way: Callable[[], object]) -> float:
    found = []
    for _ in range(9):
        start = time.perf_counter()
        way()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


if __name__ == "__main__":
    main()

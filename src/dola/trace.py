"""`dola.trace`: what each layer of a model says of each token, for the eye (`layer_trace.py` holds it, `plot/` draws it).

    tokens --one forward--> residual streams of all layers --layer by layer, some positions at a time--> numbers

A token's text and a dozen numbers for each layer are all that is kept: never the distributions of several layers at once. What
is asked of the chosen layer comes last, from one more readout, of each position's own layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dola.anatomy import Anatomy
from dola.attach import as_config
from dola.config import DoLaConfig
from dola.contrast import contrast, plausible
from dola.errors import InputError
from dola.generate import generate as generate_with_dola
from dola.generation import check_not_empty
from dola.hidden import captured, check_eval, few_logits, window
from dola.layer_scores import compare_whole
from dola.layer_trace import LayerTrace, PlausibleToken, TokenTrace
from dola.layers import candidate_layers
from dola.step import chunk_rows
from dola.token_text import token_texts

LISTED = 20
"""Members of a plausible set that are listed, at most: the likeliest, and DoLa's choice."""

BUFFERS = 4
"""Positions are read so many at a time that positions * |V| stays below a quarter of what a decoding step allows itself (16 MiB
of float32 on a CPU). About ten such buffers are alive at the peak."""

DIGITS = 7
"""Significant digits that are kept: those of float32."""


def trace(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[int],
    config: DoLaConfig | str | Sequence[int] = "high",
    *,
    generate: int = 0,
    decode: str = "dola",
    repetition_penalty: float = 1.2,
    top_k: int = 5,
    anatomy: Anatomy | None = None,
    **settings: Any,
) -> LayerTrace:
    """Look at what every layer says of a prompt's own tokens, or of tokens that are generated behind it.

        trace = dola.trace(model, tokenizer, "The capital of Washington State is", "high")
        print(trace.explain(-1))  # how the next token would be chosen

    Without `generate` the text is read as it stands: a column for each token, about how the token behind it is chosen, the
    last one about the token that would come next. With it, `dola.generate` decodes first, with all its rules (penalties, end
    tokens, masks), and its tokens are read in the same way. The contrast is that before such rules, so a token that they
    brought about is not DoLa's choice here, and `explain` says so.

    Args:
        model: A decoder-only Hugging Face model in eval mode, without DoLa on it.
        tokenizer: Its tokenizer.
        prompt: A text, or its tokens.
        config: A DoLaConfig, or just its `layers`.
        generate: How many tokens to generate, at most; 0 reads the prompt.
        decode: How: "dola", or "greedy" for what plain decoding says.
        repetition_penalty: Of the tokens that are generated, in both ways.
        top_k: How many of the likeliest tokens of each layer to keep.
        anatomy: The parts of a model in which they are not found by themselves.
        **settings: More arguments of `generate`.

    Raises:
        InputError: No tokens, more than the model's window holds, a value out of range, a model in training mode, or logits
            that define no distribution.
        AttachError: DoLa is attached to the model.
        LayersError: Layers that this model does not have.
        ReadoutError: The parts of the model that were found do not reproduce its logits.
    """
    anatomy = Anatomy.of(model) if anatomy is None else anatomy
    config = as_config(config, anatomy)
    _check(anatomy.lm, generate, decode, top_k, settings)
    reader = _Reader(anatomy, config, top_k)
    ids = list(tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)
    _check_length(anatomy.lm, ids, generate)
    read, first = ids, 0
    after: list[int | None] = [*ids[1:], None]
    if generate:
        call = {"max_new_tokens": generate, "do_sample": False, "num_beams": 1, "repetition_penalty": repetition_penalty}
        made = _generate(model, tokenizer, ids, config if decode == "dola" else None, {**call, **settings})
        read, first, after = [*ids, *made[:-1]], len(ids) - 1, [*made]
    tokens = reader.read(read, first, after)
    chosen = {"layers": config.layers, "relative_top": config.relative_top, "divergence": config.divergence}
    penalty = {"repetition_penalty": repetition_penalty} if generate else {}
    return LayerTrace(
        model=anatomy.lm.config.name_or_path,
        prompt=prompt if isinstance(prompt, str) else tokenizer.decode(ids),
        mode=decode if generate else "prompt",
        settings={**chosen, "final_norm": config.final_norm, "lazy": config.lazy, **penalty},
        num_layers=anatomy.num_layers,
        candidates=reader.candidates,
        prompt_tokens=len(ids),
        tokens=tuple(tokens),
        texts=token_texts(tokenizer, set().union(*(token.ids() for token in tokens))),
    )


def _check(lm: Any, generate: int, decode: str, top_k: int, settings: Mapping[str, Any]) -> None:
    check_eval(lm)
    if generate < 0 or top_k < 1:
        name, value, least = ("generate", generate, 0) if generate < 0 else ("top_k", top_k, 1)
        raise InputError(f"{name}={value} is out of range; allowed is {least} or more.", hint=f"leave {name} out")
    if decode not in ("dola", "greedy"):
        raise InputError(
            f"decode={decode!r} is not known; allowed are 'dola' and 'greedy'.", hint="leave decode out for 'dola'"
        )
    if fixed := sorted({"max_new_tokens", "max_length", "num_return_sequences"} & settings.keys()):
        raise InputError(
            f"{fixed[0]}={settings[fixed[0]]!r} is not taken: generate= says how many tokens, of one text.",
            hint="use generate=20",
        )
    if settings and not generate:
        raise InputError(
            f"{', '.join(settings)} given without generate=: nothing is generated.", hint="add generate=20, or leave it out"
        )


def _check_length(lm: Any, ids: Sequence[int], generate: int) -> None:
    check_not_empty(torch.tensor([ids]))
    longest = window(lm)
    if longest is not None and len(ids) + generate > longest:
        raise InputError(
            f"The prompt has {len(ids)} tokens and generate={generate}; together the model takes {longest}.",
            hint="shorten the prompt",
        )


def _generate(
    model: Any, tokenizer: Any, ids: Sequence[int], config: DoLaConfig | None, settings: Mapping[str, Any]
) -> list[int]:
    """Tokens behind `ids`, by DoLa or, without a config, by the model alone."""
    prompt = torch.tensor([ids], device=model.device)
    call = {"attention_mask": torch.ones_like(prompt), "pad_token_id": tokenizer.pad_token_id, **settings}
    way = model.generate if config is None else functools.partial(generate_with_dola, model, dola_layers=config)
    output = way(prompt, **call)
    row: list[int] = getattr(output, "sequences", output)[0, len(ids) :].tolist()
    return row


@dataclass
class _Look:
    """One layer at n positions, log-probabilities in nats.

    Attributes:
        order: What orders candidates by their divergence from the mature layer, [n].
        top_ids, top: Its likeliest tokens, [n, k].
        listed: The tokens that are followed through the layers, [n, m].
        rank, token: Rank and log-probability of the token that follows, [n].
    """

    order: Tensor
    top_ids: Tensor
    top: Tensor
    listed: Tensor
    rank: Tensor
    token: Tensor


class _Reader:
    """Reads the layers of one model for one configuration.

    Attributes:
        candidates: The candidate premature layers.
    """

    def __init__(self, anatomy: Anatomy, config: DoLaConfig, top_k: int) -> None:
        self.anatomy, self.config, self._top_k = anatomy, config, top_k
        self.candidates = candidate_layers(config.layers, anatomy.num_layers, tied=anatomy.tied)

    @torch.no_grad()
    def read(self, ids: Sequence[int], first: int, tokens: Sequence[int | None]) -> list[TokenTrace]:
        """How each of `tokens` is chosen: the first behind position `first` of `ids`, the others behind the following ones."""
        lm, last = self.anatomy.lm, self.anatomy.num_layers
        row = torch.tensor([ids], device=lm.device)
        with captured(self.anatomy, range(last)) as hidden:
            logits = lm(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, **few_logits(lm)).logits
            if logits[:, -1].amax().isfinite():  # or `_check_finite` says what is wrong
                self.anatomy.check_readout(hidden[last][:, -1], logits[:, -1])
            streams = {layer: states[0] for layer, states in hidden.items()}
        device = streams[last].device
        size = chunk_rows(device.type, BUFFERS * self.anatomy.vocabulary)
        found: list[TokenTrace] = []
        for start in range(first, len(ids), size):
            positions = range(start, min(start + size, len(ids)))
            chunk = {layer: states[positions.start : positions.stop].to(device) for layer, states in streams.items()}
            after = [tokens[position - first] for position in positions]
            found += self._read(chunk, positions, [ids[position] for position in positions], after)
        return found

    def _read(
        self, hidden: Mapping[int, Tensor], positions: range, before: Sequence[int], after: Sequence[int | None]
    ) -> list[TokenTrace]:
        """One chunk: residual streams [n, d] of all layers."""
        mature = self._readout(hidden, self.anatomy.num_layers)
        _check_finite(mature, positions)
        log_z = _wide(mature).logsumexp(dim=-1)
        known = mature, log_z, _wide(mature) - log_z[:, None]
        tokens = torch.tensor([0 if token is None else token for token in after], device=mature.device)
        listed = mature.topk(min(LISTED, mature.shape[-1])).indices
        layers = range(self.anatomy.num_layers)
        looks = [self._look(self._readout(hidden, layer), known, listed, tokens) for layer in layers]
        order = torch.stack([look.order for look in looks])
        if not order.isfinite().all():
            layer, row = (int(index) for index in (~order.isfinite()).nonzero()[0])
            raise InputError(
                f"The logits of layer {layer} are NaN or infinite at position {positions[row]}.",
                hint="look for overflow (float16?) or a broken checkpoint",
            )
        chosen = torch.tensor(self.candidates, device=order.device)[order[list(self.candidates)].argmax(dim=0)]
        scores = self._contrast(mature, hidden, chosen)
        best = scores.argmax(dim=-1)
        looks.append(self._look(mature, known, listed, tokens))
        self._list(best, hidden, listed, looks)
        table = _Table(looks, listed, scores.gather(-1, listed))
        rows = zip(
            positions,
            before,
            after,
            chosen.tolist(),
            mature.argmax(dim=-1).tolist(),
            best.tolist(),
            plausible(mature, self.config.relative_top).sum(dim=-1).tolist(),
            strict=True,
        )
        divergence = self._in_nats(order).T.tolist()
        return [
            TokenTrace(
                position=position,
                after=previous,
                token=token,
                divergence=tuple(map(_rounded, divergence[row])),
                layer=layer,
                lazy=self.config.lazy and count == 1,
                mature_choice=first,
                dola_choice=choice,
                plausible_count=count,
                plausible=table.members(row, count),
                top=table.top(row),
                rank=None if token is None else tuple(table.rank[row]),
                probability=None if token is None else tuple(map(_rounded, table.token[row])),
            )
            for row, (position, previous, token, layer, first, choice, count) in enumerate(rows)
        ]

    def _readout(self, hidden: Mapping[int, Tensor], layer: int) -> Tensor:
        """Logits [n, V] of a layer: as the contrast reads it, the mature one as the model does."""
        if layer == self.anatomy.num_layers:
            return self.anatomy.readout(hidden[layer])
        return self._premature(hidden[layer])

    def _premature(self, hidden: Tensor) -> Tensor:
        return self.anatomy.readout(hidden, final_norm=self.config.final_norm, logit_transform=not self.config.raw_head)

    def _contrast(self, mature: Tensor, hidden: Mapping[int, Tensor], chosen: Tensor) -> Tensor:
        """Scores [n, V], each position against its own premature layer."""
        rows = torch.stack([hidden[layer][row] for row, layer in enumerate(chosen.tolist())])
        return contrast(mature, self._premature(rows)[None], relative_top=self.config.relative_top)

    def _look(self, logits: Tensor, mature: tuple[Tensor, Tensor, Tensor], listed: Tensor, tokens: Tensor) -> _Look:
        """One layer's logits [n, V] beside the mature ones, given with their log sum exp and their log_softmax."""
        wide = _wide(logits)
        compared = compare_whole(*mature, logits, {self.config.divergence})
        log_z = compared.log_z
        top = wide.topk(min(self._top_k, wide.shape[-1]))
        token = wide.gather(-1, tokens[:, None])
        return _Look(
            order=getattr(compared, self.config.divergence),
            top_ids=top.indices,
            top=top.values - log_z[:, None],
            listed=wide.gather(-1, listed) - log_z[:, None],
            rank=1 + (wide > token).sum(dim=-1),
            token=token[:, 0] - log_z,
        )

    def _list(self, best: Tensor, hidden: Mapping[int, Tensor], listed: Tensor, looks: Sequence[_Look]) -> None:
        """Put DoLa's choice in the last place where it is not listed, among the members of a large plausible set."""
        missing = ~(listed == best[:, None]).any(dim=-1)
        if not missing.any():
            return
        listed[missing, -1] = best[missing]
        some = {layer: states[missing] for layer, states in hidden.items()}
        for layer, look in enumerate(looks):
            log_q = _wide(self._readout(some, layer)).log_softmax(dim=-1)
            look.listed[missing, -1] = log_q.gather(-1, best[missing, None])[:, 0]

    def _in_nats(self, order: Tensor) -> Tensor:
        return (order + math.log(2)).clamp(min=0) if self.config.divergence == "jsd" else order


class _Table:
    """The looks at all layers [N+1] as Python numbers, by position."""

    def __init__(self, looks: Sequence[_Look], listed: Tensor, contrasts: Tensor) -> None:
        def by_position(name: str) -> Any:
            values = torch.stack([getattr(look, name) for look in looks], dim=1)
            return values.double().exp().tolist() if values.is_floating_point() else values.tolist()

        self.rank, self.token = by_position("rank"), by_position("token")
        self._top_ids, self._top = by_position("top_ids"), by_position("top")
        self._ids, self._contrasts, self._listed = listed.tolist(), contrasts.tolist(), by_position("listed")

    def top(self, row: int) -> tuple[tuple[tuple[int, float], ...], ...]:
        """The likeliest tokens of each layer."""
        return tuple(
            tuple((token, _rounded(share)) for token, share in zip(ids, shares, strict=True))
            for ids, shares in zip(self._top_ids[row], self._top[row], strict=True)
        )

    def members(self, row: int, count: int) -> tuple[PlausibleToken, ...]:
        """Those of the plausible set of `count` that are listed, by contrast."""
        members = [
            PlausibleToken(token, _rounded(score), tuple(_rounded(layer[place]) for layer in self._listed[row]))
            for place, (token, score) in enumerate(zip(self._ids[row][:count], self._contrasts[row], strict=False))
        ]
        return tuple(sorted(members, key=lambda member: -member.contrast))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_finite(mature: Tensor, positions: range) -> None:
    broken = ~mature.amax(dim=-1).isfinite()
    if broken.any():
        raise InputError(
            f"The model's logits define no distribution at position {positions[int(broken.nonzero()[0])]}: NaN or infinite.",
            hint="look for overflow (float16?) or a broken checkpoint",
        )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

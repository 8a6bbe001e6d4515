"""Reads what each layer of a model predicts at some positions.

    residual streams of all layers --layer by layer, some positions at a time--> numbers

Only a token's text and a dozen numbers per layer are kept, never the distributions of several layers at once. The numbers of
the chosen layer come last, from one more readout of each position's own layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dola.decoding.candidates import Captured
from dola.decoding.step import chunk_rows
from dola.errors import InputError
from dola.lens.belongs import maps_of
from dola.lens.maps import Maps
from dola.methods.confident import entropy
from dola.methods.config import MethodConfig
from dola.methods.contrast import LARGEST_SCORE
from dola.methods.method import Candidates, only_candidate
from dola.methods.registry import method_of
from dola.methods.vocabulary import wide
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured, few_logits
from dola.model.places import is_hooked_outside
from dola.scoring.comparing import compare_whole
from dola.tracing.data import PlausibleToken, TokenTrace

LISTED = 20
"""Maximum number of listed members of a plausible set: the likeliest ones and DoLa's choice."""

BUFFERS = 4
"""Positions are read in groups: positions * |V| stays below a quarter of a decoding step's limit (16 MiB of float32 on a CPU).
About ten such buffers exist at the peak."""

DIGITS = 7
"""Number of significant digits that are kept, as in float32."""


@dataclass
class _Look:
    """One layer's predictions at n positions, with log-probabilities in nats.

    Attributes:
        order: A value that orders candidates by their divergence from the mature layer, [n].
        top_ids, top: The layer's likeliest tokens and their log-probabilities, [n, k].
        listed: Log-probabilities of the tokens that are followed through the layers, [n, m].
        rank, token: Rank and log-probability of the next token, [n].
    """

    order: Tensor
    top_ids: Tensor
    top: Tensor
    listed: Tensor
    rank: Tensor
    token: Tensor


class LayerReader:
    """Reads the layers of one model for one configuration.

    Attributes:
        candidates: The candidate premature layers.
        num_layers: N, the number of blocks.
    """

    def __init__(self, anatomy: Anatomy, config: MethodConfig, top_k: int) -> None:
        self.anatomy, self.config, self.method, self._top_k = anatomy, config, method_of(config), top_k
        self.candidates, self.num_layers = anatomy.candidates(config.layers), anatomy.num_layers
        self._maps = maps_of(anatomy, config, all_layers=True)

    @torch.no_grad()
    def read(self, ids: Sequence[int], first: int, tokens: Sequence[int | None]) -> list[TokenTrace]:
        """Trace how each of `tokens` is chosen. The first follows position `first` of `ids`, the others the next positions."""
        lm, last = self.anatomy.lm, self.anatomy.num_layers
        row = torch.tensor([ids], device=lm.device)
        with captured(self.anatomy, range(last)) as hidden:
            whole = is_hooked_outside(self.anatomy)
            few = {} if whole else few_logits(lm)
            logits = lm(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, **few).logits
            if logits[:, -1].amax().isfinite():  # otherwise `_check_finite` reports the problem
                rows = slice(None) if whole else slice(-1, None)
                self.anatomy.check_readout(hidden[last][0, rows], logits[0, rows])
            streams = {layer: states[0] for layer, states in hidden.items()}
        device = streams[last].device
        size = chunk_rows(device.type, BUFFERS * self.anatomy.vocabulary)
        found: list[TokenTrace] = []
        for start in range(first, len(ids), size):
            positions = range(start, min(start + size, len(ids)))
            chunk = {layer: states[positions.start : positions.stop].to(device) for layer, states in streams.items()}
            after = [tokens[position - first] for position in positions]
            found += self.read_states(chunk, positions, [ids[position] for position in positions], after)
        return found

    @torch.no_grad()
    def read_states(
        self, hidden: Mapping[int, Tensor], positions: range, before: Sequence[int], after: Sequence[int | None]
    ) -> list[TokenTrace]:
        """Trace how the tokens `after` are chosen, from the residual streams [n, d] of layers 0 to N at `positions`.

        `before` are the tokens at these positions. All positions are read at once, so the caller should pass few.
        """
        mature = self._readout(hidden, self.num_layers)
        _check_finite(mature, positions)
        log_z = wide(mature).logsumexp(dim=-1)
        known = mature, log_z, wide(mature) - log_z[:, None]
        tokens = torch.tensor([0 if token is None else token for token in after], device=mature.device)
        listed = mature.topk(min(LISTED, mature.shape[-1])).indices
        layers = range(self.num_layers)
        looks = [self._look(self._readout(hidden, layer), known, listed, tokens) for layer in layers]
        order = torch.stack([look.order for look in looks])
        if not order.isfinite().all():
            layer, row = (int(index) for index in (~order.isfinite()).nonzero()[0])
            raise InputError(
                f"The logits of layer {layer} are NaN or infinite at position {positions[row]}.",
                hint="look for overflow (float16?) or a broken checkpoint",
            )
        chosen, scores = self._decide(mature, hidden, order, positions)
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
            self.method.contested(mature).sum(dim=-1).tolist(),
            entropy(known[2]).tolist(),
            strict=True,
        )
        divergence = self._in_nats(order).T.tolist()
        return [
            TokenTrace(
                position=position,
                after=previous,
                token=token,
                divergence=tuple(map(_rounded, divergence[row])),
                layer=None if layer < 0 else layer,
                lazy=self.config.lazy and count == 1,
                mature_choice=first,
                dola_choice=choice,
                plausible_count=count,
                plausible=table.members(row, count, layer),
                top=table.top(row),
                rank=None if token is None else tuple(table.rank[row]),
                probability=None if token is None else tuple(map(_rounded, table.token[row])),
                entropy=_rounded(unsure),
            )
            for row, (position, previous, token, layer, first, choice, count, unsure) in enumerate(rows)
        ]

    def _readout(self, hidden: Mapping[int, Tensor], layer: int) -> Tensor:
        """Logits [n, V] of a layer: a candidate read as for the contrast, the mature layer as in the model."""
        if layer == self.anatomy.num_layers:
            return self.anatomy.readout(hidden[layer])
        return self.anatomy.premature(hidden[layer], self.config, self._map_of(layer))

    def _map_of(self, layer: int) -> Maps | None:
        """The lens for a layer. None if it is read through the final norm: without a lens, or if the lens has no map for it."""
        return self._maps.of([layer]) if self._maps is not None and layer in self._maps.layers else None

    def _decide(self, mature: Tensor, hidden: Mapping[int, Tensor], order: Tensor, positions: range) -> tuple[Tensor, Tensor]:
        """The layer [n] that each position used (-1 where several candidates have a weight, or none), and scores [n, V].

        A method that selects by divergence, [N, n] in `order`, needs one more readout of each position's own layer.
        """
        layers = torch.tensor(self.candidates, device=order.device)
        if self.method.selects:
            chosen = layers[order[layers].argmax(dim=0)]
            return chosen, self.method.scores(mature, self._one(hidden, chosen.tolist()))
        scores, weights = self.method.decide(mature, self._every(hidden, torch.tensor(positions, device=mature.device)))
        chosen = only_candidate(weights)
        return layers[chosen].masked_fill(chosen < 0, -1), scores

    def _one(self, hidden: Mapping[int, Tensor], layers: Sequence[int]) -> Candidates:
        """The only candidate of each position, from its own layer."""
        rows = [self._mapped(hidden[layer][row], layer) for row, layer in enumerate(layers)]
        return Captured(self.anatomy, self.config, [torch.stack(rows)], maps=self._maps and self._maps.applied())

    def _every(self, hidden: Mapping[int, Tensor], positions: Tensor) -> Candidates:
        """All candidates of the configuration."""
        return Captured(
            self.anatomy,
            self.config,
            [hidden[layer] for layer in self.candidates],
            layers=(*self.candidates, self.anatomy.num_layers),
            positions=positions,
            maps=self._maps and self._maps.of(self.candidates),
        )

    def _mapped(self, state: Tensor, layer: int) -> Tensor:
        """A candidate's state, mapped by its lens if there is one."""
        return state if self._maps is None else self._maps.of([layer])(state[None])[0]

    def _look(self, logits: Tensor, mature: tuple[Tensor, Tensor, Tensor], listed: Tensor, tokens: Tensor) -> _Look:
        """Compare one layer's logits [n, V] with the mature ones, given with their log sum exp and log_softmax."""
        values = wide(logits)
        compared = compare_whole(*mature, [logits], {self.method.divergence})
        log_z = compared.log_z[0]
        top = values.topk(min(self._top_k, values.shape[-1]))
        token = values.gather(-1, tokens[:, None])
        return _Look(
            order=compared.divergence[self.method.divergence][0],
            top_ids=top.indices,
            top=top.values - log_z[:, None],
            listed=values.gather(-1, listed) - log_z[:, None],
            rank=1 + (values > token).sum(dim=-1),
            token=token[:, 0] - log_z,
        )

    def _list(self, best: Tensor, hidden: Mapping[int, Tensor], listed: Tensor, looks: Sequence[_Look]) -> None:
        """Put DoLa's choice in the last place if a large plausible set does not list it."""
        missing = ~(listed == best[:, None]).any(dim=-1)
        if not missing.any():
            return
        listed[missing, -1] = best[missing]
        some = {layer: states[missing] for layer, states in hidden.items()}
        for layer, look in enumerate(looks):
            log_q = wide(self._readout(some, layer)).log_softmax(dim=-1)
            look.listed[missing, -1] = log_q.gather(-1, best[missing, None])[:, 0]

    def _in_nats(self, order: Tensor) -> Tensor:
        return (order + math.log(2)).clamp(min=0) if self.method.divergence == "jsd" else order


class _Table:
    """The predictions of all layers [N+1] as Python numbers, by position."""

    def __init__(self, looks: Sequence[_Look], listed: Tensor, contrasts: Tensor) -> None:
        def by_position(name: str) -> Any:
            values = torch.stack([getattr(look, name) for look in looks], dim=1)
            return values.double().exp().tolist() if values.is_floating_point() else values.tolist()

        self.rank, self.token = by_position("rank"), by_position("token")
        self._top_ids, self._top = by_position("top_ids"), by_position("top")
        self._ids, self._contrasts, self._listed = listed.tolist(), contrasts.tolist(), by_position("listed")
        self._logs = torch.stack([look.listed for look in looks], dim=1).double().clamp(min=-LARGEST_SCORE).tolist()

    def top(self, row: int) -> tuple[tuple[tuple[int, float], ...], ...]:
        """The likeliest tokens of each layer."""
        return tuple(
            tuple((token, _rounded(share)) for token, share in zip(ids, shares, strict=True))
            for ids, shares in zip(self._top_ids[row], self._top[row], strict=True)
        )

    def members(self, row: int, count: int, layer: int) -> tuple[PlausibleToken, ...]:
        """The listed members of a plausible set of size `count`, ordered by score, with their values in `layer`, if any."""
        logs = self._logs[row]
        members = [
            PlausibleToken(
                token,
                _rounded(score),
                tuple(_rounded(of_layer[place]) for of_layer in self._listed[row]),
                log_p=_rounded(logs[-1][place]),
                log_q=None if layer < 0 else _rounded(logs[layer][place]),
            )
            for place, (token, score) in enumerate(zip(self._ids[row][:count], self._contrasts[row], strict=False))
        ]
        return tuple(sorted(members, key=lambda member: -member.contrast))


def _check_finite(mature: Tensor, positions: range) -> None:
    broken = ~mature.amax(dim=-1).isfinite()
    if broken.any():
        raise InputError(
            f"The model's logits define no distribution at position {positions[int(broken.nonzero()[0])]}: NaN or infinite.",
            hint="look for overflow (float16?) or a broken checkpoint",
        )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

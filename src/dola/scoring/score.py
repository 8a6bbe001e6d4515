"""`dola.score`: log-likelihoods of given continuations, under the model and any number of DoLa configurations, in one pass.

Prefixes that contexts share run once (prefixes.py). Only the positions of continuations reach the LM head, and layers are
read out one after the other (folds.py). Beyond the model, a batch and its cache, memory is limited to a few times 2^24 floats
on a CPU, whatever the number of layers, configurations and tokens.
"""

from __future__ import annotations

import hashlib
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dola.decoding.attach import as_config
from dola.errors import InputError
from dola.lens.belongs import lens_facts
from dola.methods.config import MethodConfig
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured, cut_left, window
from dola.model.identity import what_model
from dola.model.places import is_hooked_outside
from dola.model.prefixes import Batch, Line, Runner, plan, shares_prefixes
from dola.scoring.folds import LayerScorer, TokenScores
from dola.scoring.gauge import Gauge
from dola.scoring.recipe import Recipe
from dola.scoring.results_file import ResultsFile
from dola.text.encoding import Encoder

Text = str | Sequence[int]
"""A text, or its tokens."""

BATCH_TOKENS = {"cpu": 4096}
"""Number of tokens in a batch, including padding and cached tokens."""
BATCH_TOKENS_ELSEWHERE = 32768


@dataclass
class Scores:
    """The results of `score`. An item is a context with its continuations.

    Attributes:
        tokens: Number of tokens of each continuation, `[items][continuations]`.
        values: Score of each continuation in nats, by configuration: `[items][continuations]`.
        greedy: Whether greedy decoding would have written the continuation, by configuration: `[items][continuations]`.
        implausible: Number of tokens of each continuation outside the plausible set, by configuration.
        layers: How often each premature layer was contrasted, by configuration and item; under another method than DoLa, how
            often each candidate was the only one with a weight.
        truncated: Items whose context was cut on the left to fit the model's window.
    """

    tokens: list[list[int]]
    values: dict[str, list[list[float]]]
    greedy: dict[str, list[list[bool]]]
    implausible: dict[str, list[list[int]]]
    layers: dict[str, list[dict[int, int]]]
    truncated: list[int] = field(default_factory=list)

    def layer_shares(self, name: str) -> dict[int, float]:
        """Share of tokens at which each premature layer was contrasted, by layer."""
        counts: Counter[int] = Counter()
        for item in self.layers[name]:
            counts.update(item)
        return {layer: counts[layer] / counts.total() for layer in sorted(counts)}


def score(
    model: Any,
    tokenizer: Any,
    contexts: Sequence[Text],
    continuations: Sequence[Sequence[Text]],
    configs: Mapping[str, MethodConfig | Recipe | str | Sequence[int] | None],
    *,
    results: str | Path | None = None,
    facts: Mapping[str, str] | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
    gauge: Gauge | None = None,
) -> Scores:
    """Compute the log-likelihoods of given continuations after their contexts (teacher forcing).

        scores = dola.score(model, tokenizer, ["The capital of Washington is"], [[" Olympia", " Seattle"]],
                            {"vanilla": None, "dola": dola.DoLaConfig("high")})
        scores.values["dola"][0]  # [-1.1, -3.5]

    Text is tokenized as in the reference: context and continuation together, and the context alone to find where it ends.
    Tokens that the tokenizer appends to a text, such as an end token, are left out.

    Args:
        model: A decoder-only Hugging Face model, without DoLa attached.
        tokenizer: The model's tokenizer. May be None if all texts are given as tokens.
        contexts: One context for each item.
        continuations: A list of continuations for each item.
        configs: What to score with, by name: None for the model's own log-likelihood, the settings of a method, just the
            `layers` of DoLa, or a Recipe.
        results: A file that stores results item by item. If it exists, the run resumes from it.
        facts: Further properties that `results` must match, by name; for instance the SHA-256 of a data set.
        batch_tokens: Number of tokens in a batch, including padding and cached tokens.
        progress: Whether to show a progress bar on stderr.
        gauge: Measures how long the pass takes, for forecasts (`scoring.gauge`).

    Raises:
        InputError: No tokens in a context or a continuation, a token that the model has no embedding for, a continuation longer
            than the model's window, lists that do not match, a model in training mode, or a results file of another run.
        AttachError: DoLa is attached to the model.
        LayersError: The model does not have these layers.
        ReadoutError: The parts of the model that were found do not reproduce its logits.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> contexts, endings = ["The capital of France is"], [[" Paris", " London"]]
        >>> configs = {"vanilla": None, "DoLa": dola.DoLaConfig("high")}
        >>> scores = dola.score(model, tokenizer, contexts, endings, configs, progress=False)
        >>> paris, london = scores.values["vanilla"][0]  # log-likelihoods in nats
        >>> paris > london
        True
    """
    anatomy = Anatomy.of(model)
    recipes = {name: _recipe(config, anatomy) for name, config in configs.items()}
    scorer = LayerScorer(anatomy, recipes)
    lines, truncated = lines_of(anatomy.lm, Encoder.of(model, tokenizer), contexts, continuations)
    if truncated:
        warnings.warn(
            f"{len(truncated)} of {len(contexts)} contexts do not fit the model's window of {window(anatomy.lm)} tokens with "
            "their continuations and were cut on the left.",
            stacklevel=2,
        )
    items = [len(texts) for texts in continuations]
    batch_tokens = batch_tokens or BATCH_TOKENS.get(anatomy.lm.device.type, BATCH_TOKENS_ELSEWHERE)

    def run() -> dict[str, str]:
        return {**(facts or {}), **_what_is_run(anatomy.lm, lines, recipes, batch_tokens)}

    def is_result(item: int, found: Any) -> bool:
        return 0 <= item < len(items) and _is_found(found, items[item], recipes)

    with ResultsFile.open(results, run, is_result) as kept:
        _Run(scorer, lines, items, batch_tokens).finish(kept, progress=progress, gauge=gauge)
    return _scores([kept.items[item] for item in range(len(items))], list(recipes), truncated)


def _recipe(config: MethodConfig | Recipe | str | Sequence[int] | None, anatomy: Anatomy) -> Recipe:
    if isinstance(config, Recipe):
        return config
    return Recipe(None if config is None else as_config(config, anatomy))


@dataclass(frozen=True)
class ScoredLine(Line):
    """A context with one continuation. `tokens` go through the model: all except the last."""

    item: int
    place: int
    targets: tuple[int, ...]


def lines_of(
    lm: Any, encoder: Encoder, contexts: Sequence[Text], continuations: Sequence[Sequence[Text]]
) -> tuple[list[ScoredLine], list[int]]:
    """The lines to score, one for each continuation, and the items that had to be cut.

    Raises:
        InputError: See `score`.
    """
    for name, given in (("contexts", contexts), ("continuations", continuations)):
        if not _is_list(given):
            raise InputError(
                f"{name} is {type(given).__name__}, not a list.", hint='score(..., ["a context"], [[" a text"]], ...)'
            )
    if len(contexts) != len(continuations):
        raise InputError(
            f"{len(contexts)} contexts and {len(continuations)} lists of continuations; one list belongs to each context.",
            hint="give continuations as a list of lists",
        )
    lines, truncated = [], set()
    for item, (context, texts) in enumerate(zip(contexts, continuations, strict=True)):
        if not _is_list(texts) or not len(texts):
            raise InputError(f"item {item} has no list of continuations: {texts!r}.", hint="give at least one, in a list")
        known = encoder.text(context) if isinstance(context, str) else encoder.checked(context)
        for place, text in enumerate(texts):
            before, after = _tokens(encoder, context, known, text)
            where = f"of item {item}, continuation {place}"
            if not before:
                raise InputError(f"the context {where}, has no tokens.", hint="begin it with the beginning-of-sequence token")
            if not after:
                if text:
                    raise InputError(
                        f"the continuation {where}, has no tokens of its own: the tokenizer joins {text!r} with the end of its "
                        "context.",
                        hint="begin it with a space or a new line, or move the end of the context into it",
                    )
                raise InputError(f"the continuation {where}, has no tokens: {text!r}.", hint="leave the item out")
            if (over := len(before) + len(after) - 1 - (window(lm) or sys.maxsize)) > 0:
                if over >= len(before):
                    raise InputError(
                        f"the continuation {where}, has {len(after)} tokens; the model's window is {window(lm)}.",
                        hint="shorten it, or use a model with a longer window",
                    )
                before = cut_left(before, len(before) - over, getattr(encoder.tokenizer, "bos_token_id", None))
                truncated.add(item)
            lines.append(ScoredLine((*before, *after[:-1]), len(before) - 1, item, place, tuple(after)))
    return lines, sorted(truncated)


def _is_list(given: Any) -> bool:
    return hasattr(given, "__len__") and not isinstance(given, (str, bytes, Mapping))


def _tokens(encoder: Encoder, context: Text, before: list[int], continuation: Text) -> tuple[list[int], list[int]]:
    """The tokens of a context, given as `before`, and of its continuation. Two texts are tokenized together."""
    if isinstance(context, str) and isinstance(continuation, str):
        whole = encoder.text(context + continuation)
        return whole[: len(before)], whole[len(before) :]
    return before, encoder.bare(continuation) if isinstance(continuation, str) else encoder.checked(continuation)


class _Run:
    """The pass over the model."""

    def __init__(self, scorer: LayerScorer, lines: list[ScoredLine], items: list[int], batch_tokens: int) -> None:
        self._scorer, self._lines, self._items = scorer, lines, items
        share = shares_prefixes(scorer.anatomy.lm)
        self._tree = plan(lines, batch_tokens=batch_tokens, share=share) if lines else None
        self._spans: list[tuple[int, int]] = []

    def finish(self, kept: ResultsFile, *, progress: bool, gauge: Gauge | None = None) -> None:
        """Score all items that `kept` does not hold yet, and store them there."""
        done = set(kept.items)
        if self._tree is None or len(done) == len(self._items):
            return
        # Batches are formed from the whole run, so that a resumed run gives the same numbers.
        wanted = {batch for batch in self._tree.all_batches() if any(self._lines[row].item not in done for row in batch.rows)}
        anatomy = self._scorer.anatomy
        found: dict[int, dict[int, _Found]] = {}
        whole = is_hooked_outside(anatomy)
        runner = Runner(anatomy.lm, self._lines, wanted, self._select_rows, whole=whole)
        checked = False
        if gauge is not None:
            gauge.begin(
                self._scorer,
                tokens=self._tree.tokens(self._lines, wanted),
                targets=sum(len(self._lines[row].targets) for batch in wanted for row in batch.rows),
            )
        with (
            captured(anatomy, self._scorer.layers, self._rows) as hidden,
            tqdm(total=len(self._items), initial=len(done), unit="item", disable=None if progress else True) as bar,
        ):
            for batch in runner.run(self._tree):
                assert runner.logits is not None
                if gauge is not None:
                    gauge.ran()
                if whole:
                    self._scorer.anatomy.check_readout(hidden[anatomy.num_layers], self._rows(runner.logits))
                elif not checked:
                    self._check_readout(batch, hidden, runner.logits)
                    checked = True
                targets = torch.tensor([token for row in batch.rows for token in self._lines[row].targets])
                scored = self._score(batch, hidden, targets)
                if gauge is not None:
                    gauge.scored(runner.tokens, hidden, targets)
                for row, of_row in zip(batch.rows, scored, strict=True):
                    line = self._lines[row]
                    if line.item not in done:
                        found.setdefault(line.item, {})[line.place] = of_row
                        if len(found[line.item]) == self._items[line.item]:
                            places = found.pop(line.item)
                            kept.add(line.item, [places[place] for place in range(len(places))])
                            bar.update()

    def _select_rows(self, batch: Batch | None) -> None:
        """Store which positions the next forward needs, for each of its rows."""
        lines = [] if batch is None else [self._lines[row] for row in batch.rows]
        start = 0 if batch is None else batch.start
        self._spans = [(line.first - start, len(line.tokens) - start) for line in lines]

    def _rows(self, states: Tensor) -> Tensor:
        """The selected positions of [B, T, d], one after the other: [n, d]."""
        rows = [states[i, start:end] for i, (start, end) in enumerate(self._spans)]
        return torch.cat(rows) if rows else states[:0, 0]

    def _check_readout(self, batch: Batch, hidden: Mapping[int, Tensor], logits: Tensor) -> None:
        """Check that the parts found reproduce the model's own logits, at the last position of the longest row."""
        ends = torch.tensor([end - start for start, end in self._spans]).cumsum(0)
        longest = max(range(len(batch.rows)), key=lambda i: self._spans[i][1])
        row = int(ends[longest]) - 1
        self._scorer.anatomy.check_readout(hidden[self._scorer.anatomy.num_layers][row : row + 1], logits[longest, -1:])

    def _score(self, batch: Batch, hidden: Mapping[int, Tensor], targets: Tensor) -> list[_Found]:
        """The results for each row of a batch that has just run."""
        lines = [self._lines[row] for row in batch.rows]
        uniform = {
            name: torch.tensor([number for line in lines for number in _uniform(line, recipe.seed)])
            for name, recipe in self._scorer.recipes.items()
            if recipe.premature == "random"
        }
        scored = self._scorer.score(hidden, targets, uniform)
        ends = torch.tensor([len(line.targets) for line in lines]).cumsum(0).tolist()
        slices = [slice(end - len(line.targets), end) for line, end in zip(lines, ends, strict=True)]
        return [_found(scored, self._scorer.recipes, tokens) for tokens in slices]


def _uniform(line: ScoredLine, seed: int) -> list[float]:
    """Numbers in [0, 1) that depend only on the continuation's place and the seed."""
    numbers = random.Random(f"{seed} {line.item} {line.place}")
    return [numbers.random() for _ in line.targets]


_Found = dict[str, Any]
"""The JSON form of one continuation's results: the number of `tokens`, and for each recipe the `value`, whether it is `greedy`,
the number of `implausible` tokens, and how often each of the `layers` was contrasted."""


def _is_found(found: Any, count: int, names: Iterable[str]) -> bool:
    """Whether this can be a list of `count` results of `_found`."""
    parts: dict[str, Any] = {"value": (int, float), "greedy": bool, "implausible": int, "layers": dict}
    return (
        isinstance(found, list)
        and len(found) == count
        and all(isinstance(each, dict) and isinstance(each.get("tokens"), int) for each in found)
        and all(isinstance(each.get(name), dict) for each in found for name in names)
        and all(isinstance(each[name].get(part), kind) for each in found for name in names for part, kind in parts.items())
    )


def _found(scored: Mapping[str, TokenScores], recipes: Mapping[str, Recipe], tokens: slice) -> _Found:
    found: _Found = {"tokens": tokens.stop - tokens.start}
    for name, of_all in scored.items():
        values = of_all.score[tokens].double()
        layers = Counter(str(layer) for layer in of_all.layer[tokens].tolist() if layer >= 0)
        found[name] = {
            "value": float(values.mean() if recipes[name].mean else values.sum()),
            "greedy": bool(of_all.greedy[tokens].all()),
            "implausible": int((~of_all.plausible[tokens]).sum()),
            "layers": dict(sorted(layers.items())),
        }
    return found


def _scores(items: list[list[_Found]], names: list[str], truncated: list[int]) -> Scores:
    def table(name: str, what: str) -> list[list[Any]]:
        return [[continuation[name][what] for continuation in item] for item in items]

    return Scores(
        tokens=[[continuation["tokens"] for continuation in item] for item in items],
        values={name: table(name, "value") for name in names},
        greedy={name: table(name, "greedy") for name in names},
        implausible={name: table(name, "implausible") for name in names},
        layers={name: [_sum(counts) for counts in table(name, "layers")] for name in names},
        truncated=truncated,
    )


def _sum(counts: list[dict[str, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for count in counts:
        total.update({int(layer): times for layer, times in count.items()})
    return dict(total)


def _what_is_run(lm: Any, lines: list[ScoredLine], recipes: Mapping[str, Recipe], batch_tokens: int) -> dict[str, str]:
    """The properties that a results file must match before a run resumes from it: everything that the numbers depend on."""
    sequences = repr([(line.item, line.place, line.tokens, line.targets) for line in lines])
    return {
        **what_model(lm),
        "configurations": repr(recipes),
        **lens_facts(recipe.dola for recipe in recipes.values()),
        "texts": hashlib.sha256(sequences.encode()).hexdigest(),
        "batch_tokens": str(batch_tokens),
    }

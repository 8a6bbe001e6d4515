"""Traces of the items whose answers a row changed most: how the tokens of vanilla's answer and of the row's were chosen.

Both are read under the row's settings, as `dola.trace` reads them. Chosen answers are read after their questions. Written ones
are decoded again, one alone: a batch rounds differently and may have written another text, which is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dola.errors import UsageError
from dola.evidence.changed import most_changed, telling_row
from dola.evidence.generation import prompts_of
from dola.evidence.ways import Role, Way
from dola.methods.config import MethodConfig
from dola.model.anatomy import Anatomy
from dola.scoring.score import lines_of
from dola.tasks import GenerationTask, Task
from dola.tasks.items import ChoiceItem
from dola.tasks.prompting import before_stop
from dola.text.chat import has_chat
from dola.text.encoding import Encoder
from dola.text.token_text import token_texts
from dola.tracing.data import SCHEMA_NAME, LayerTrace
from dola.tracing.reader import LayerReader
from dola.tracing.trace import as_trace, trace

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.sample import Sample

LIKELIEST = 5
"""Likeliest tokens of each layer that a trace keeps, as `dola.trace` does."""


@dataclass(frozen=True)
class AnswerTrace:
    """One answer to one item, token by token.

    Attributes:
        item: Id of the item.
        row: The row whose answer it is.
        read_as: The row whose settings the layers were read with.
        trace: The trace.
        same: Whether the traced text is the row's answer; not so where it was written otherwise in its batch.
    """

    item: str
    row: str
    read_as: str
    trace: LayerTrace
    same: bool = True

    def to_json(self) -> dict[str, Any]:
        """The fields in docs/cli.md; the trace as `dola trace --json` prints it."""
        found = {"item": self.item, "row": self.row, "read_as": self.read_as, "same": self.same}
        return {**found, "trace": {"schema": SCHEMA_NAME, **self.trace.as_dict()}}


def check_traceable(task: Task) -> None:
    """Refuse a task whose answers cannot change for the better or the worse, or cannot be written twice.

    Raises:
        UsageError: Another program measures the answers, or they are drawn.
    """
    drawn = isinstance(task, GenerationTask) and task.generation.temperature is not None
    if drawn or task.measure is None:
        why = "draws its answers" if drawn else "is measured by another program"
        raise UsageError(f"--trace-items does not apply to {task.name}, which {why}.", hint="omit --trace-items")


def with_traces(report: Report, model: Any, tokenizer: Any, sample: Sample, ways: Sequence[Way], count: int, *,
                progress: bool = True) -> Report:  # fmt: skip
    """The report with traces of the `count` items that one row changed most, and a note on which these are.

    The row is the one whose changes the report shows, among those that a method's settings describe.

    Args:
        report: The report.
        model: The model that it is about, without a method attached.
        tokenizer: Its tokenizer.
        sample: The items of the report, in its order.
        ways: The rows that were run.
        count: Number of items, at most; 0 leaves the report as it is.
        progress: Whether to show progress on stderr.
    """
    if not count:
        return report
    traced = {way.name: way for way in ways if _config(way) is not None}
    row = telling_row(report, traced)
    places = [] if row is None else most_changed(report, row, count)
    if row is None or not places:
        return replace(report, notes=[*report.notes, "Nothing was traced: no row changed an answer."])
    read = _Reader(model, tokenizer, sample, report)
    plain = next(way for way in ways if way.role is Role.VANILLA)
    found = []
    for place in tqdm(places, unit="item", desc="tracing", disable=None if progress else True):
        found += read.answers(place, plain, traced[row])
    only = f"; no more changed than these {len(places)}" if len(places) < count else ""
    return replace(report, traces=found, notes=[*report.notes, f'Traced: items that "{row}" changed most{only}.'])


def _config(way: Way) -> MethodConfig | None:
    """The settings that decide a row's tokens; None for rows without a method, and for controls, which replace its choice."""
    recipe = way.recipe
    return recipe.dola if recipe is not None and recipe.premature == "divergent" and way.role.judged else None


class _Reader:
    """Traces answers to the items of one report."""

    def __init__(self, model: Any, tokenizer: Any, sample: Sample, report: Report) -> None:
        self._model, self._tokenizer, self._sample, self._report = model, tokenizer, sample, report
        self._anatomy, self._encoder = Anatomy.of(model), Encoder.of(model, tokenizer)

    def answers(self, place: int, plain: Way, way: Way) -> list[AnswerTrace]:
        """Vanilla's answer to an item, and the row's if it is another one."""
        config, item = _config(way), self._sample.items[place]
        assert config is not None
        texts = [self._report.answers(self._report.named(each.name))[place] for each in (plain, way)]
        found = []
        for each, text in zip((plain, way), texts, strict=True):
            if each is way and text == texts[0]:
                break
            if isinstance(item, ChoiceItem):
                traced, same = self._chosen(item, text, config), True
            else:
                traced, same = self._written(item, text, config, each)
            traced = replace(traced, model=self._report.model, without_lens=None)
            found.append(AnswerTrace(self._report.item_ids[place], each.name, way.name, traced, same))
        return found

    def _chosen(self, item: ChoiceItem, text: str, config: MethodConfig) -> LayerTrace:
        """One of the given answers, after its question. The tokens are those that were scored."""
        answer = next(each for each in item.continuations if each.strip() == text)
        [line], _ = lines_of(self._model, self._encoder, [item.context], [[answer]])
        reader = LayerReader(self._anatomy, config, LIKELIEST)
        tokens = reader.read(line.tokens, line.first, line.targets)
        return as_trace(
            reader,
            tokens,
            token_texts(self._tokenizer, set().union(*(token.ids() for token in tokens))),
            prompt=item.context + answer,
            prompt_tokens=len(line.tokens) + 1,
            mode="prompt",
            repetition_penalty=None,
            model="",
        )

    def _written(self, item: Any, text: str, config: MethodConfig, way: Way) -> tuple[LayerTrace, bool]:
        """An answer, decoded again as its row did, and whether it is the same text."""
        task = self._sample.task
        assert isinstance(task, GenerationTask)
        asking, chat = task.generation, task.chat and has_chat(self._tokenizer)
        [prompt], _ = prompts_of(self._model, self._tokenizer, [item], asking.max_new_tokens, chat=chat)
        stops: dict[str, Any] = {"stop_strings": list(asking.stop)} if asking.stop else {}
        found = trace(
            self._model,
            self._tokenizer,
            prompt,
            config,
            generate=asking.max_new_tokens,
            decode="greedy" if way.role is Role.VANILLA else "dola",
            repetition_penalty=way.repetition_penalty,
            top_k=LIKELIEST,
            **stops,
        )
        made = self._tokenizer.decode([token.token for token in found.tokens], skip_special_tokens=True)
        return found, before_stop(made, asking.stop) == text

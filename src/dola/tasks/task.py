"""What a task is, whichever it is: where its data come from, how they become items, and what is measured on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from dola.errors import DataError, UsageError
from dola.tasks.data import Data, HubDataset, Source, open_data
from dola.tasks.items import ChoiceItem, QuestionItem


@dataclass(frozen=True)
class Metric:
    """One number for each item; its mean over the items is what is reported.

    Attributes:
        name: Its key in what `Task.measure` returns.
        description: One line, for people.
        binary: Whether it is 0 or 1 for each item, so that McNemar's test applies.
        chance: What it is for an item, on average, where scores or answers are drawn at random; None where that means nothing.
    """

    name: str
    description: str
    binary: bool = True
    chance: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Generation:
    """How text is generated.

    Attributes:
        max_new_tokens: At most so many tokens.
        stop: Strings that end it. `measure` cuts at them again, so a text may hold them.
        temperature: Sampling temperature; None is greedy decoding.
    """

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float | None = None


@dataclass(frozen=True)
class PaperSettings:
    """How the paper's numbers were made (voidism/DoLa's scripts and their arguments).

    Attributes:
        layers: The bucket of candidate layers.
        relative_top: Of the plausible set; 0 keeps all tokens.
        post_softmax: Whether contrasted scores are normalised over the vocabulary before they are summed. Without meaning where
            text is generated.
        repetition_penalty: Of DoLa, against 1.0 of the paper's baseline: a confound, so that plain decoding with the same
            penalty belongs beside it.
    """

    layers: Literal["low", "high"]
    relative_top: float
    post_softmax: bool = False
    repetition_penalty: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of DoLa in which the paper's runs differ, beside the layers."""
        return {"relative_top": self.relative_top}


@dataclass(frozen=True, kw_only=True)
class BaseTask:
    """What all tasks have.

    Attributes:
        name: Its name on the command line.
        description: One line, for people.
        files: Names of the files that hold it, opened together.
        separate_files: Whether each file is a data set of its own, so that some of them are enough.
        homepage: Where they can be had.
        published: SHA-256 by file name, of the files that published numbers were made with.
        hub: Where the hub has it; None where it does not.
        make_items: Rows to items.
        metrics: What `measure` returns.
        paper: How the paper ran it.
    """

    name: str
    description: str
    files: tuple[str, ...]
    homepage: str
    published: Mapping[str, str]
    hub: HubDataset | None
    make_items: Callable[[Data], list[ChoiceItem]] | Callable[[Data], list[QuestionItem]]
    metrics: tuple[Metric, ...]
    paper: PaperSettings
    separate_files: bool = False

    def open(self, source: Source | Sequence[Source] | None = None) -> Data:
        """The task's rows, and what they were read from.

        Args:
            source: See `open_data`. The id of the task's own hub data set means its config and split; None means the hub.

        Raises:
            DataError: See `open_data`; or no source, and the hub does not have this task.
            MissingExtraError: A hub data set without the package `datasets`.
        """
        if source is None:
            source = self.hub
        elif self.hub is not None:
            given = [source] if isinstance(source, (str, os.PathLike, HubDataset)) else source
            source = [self.hub if one == self.hub.id else one for one in given]
        if source is None:
            raise DataError(
                f"The Hugging Face hub does not have {self.name}; its data are {self._file_names}.",
                hint=f"get them from {self.homepage} and give their path",
            )
        return open_data(source, published=frozenset(self.published.values()))

    @property
    def _file_names(self) -> str:
        """The names of the files, for a sentence."""
        *others, last = self.files
        return f"{', '.join(others)} {'or' if self.separate_files else 'and'} {last}" if others else last

    def items(self, source: Data | Source | Sequence[Source] | None = None) -> list[ChoiceItem] | list[QuestionItem]:
        """The task's items, from rows that were opened before or from a source that is opened now.

        Raises:
            DataError: See `open`; or a row lacks a field or an answer, or two items have the same id.
            MissingExtraError: See `open`.
        """
        found = self.make_items(source if isinstance(source, Data) else self.open(source))
        seen: set[str] = set()
        for item in found:
            if item.id in seen:
                raise DataError(f"Two items of {self.name} have the id {item.id!r}.", hint="give each file once")
            seen.add(item.id)
        return found


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(BaseTask):
    """A task whose continuations are scored.

    Attributes:
        measure: Metric values of one item, by name, from (item, scores, token counts).
        generates, judged, measured_alone: As of GenerationTask.
    """

    measure: Callable[[ChoiceItem, Sequence[float], Sequence[int]], dict[str, float]]
    generates: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    measured_alone: ClassVar[bool] = True

    def check_means(self, judge: object, folder: object) -> None:
        """Nothing is needed."""


@dataclass(frozen=True, kw_only=True)
class GenerationTask(BaseTask):
    """A task that is answered with generated text.

    Attributes:
        generation: How text is generated.
        measure: Metric values of one item, by name, from (item, text), or where it is `judged` from (item, text, truth judge,
            info judge). None where answers are judged elsewhere: they are written to files.
        judged: Whether models judge the answers.
        chat: Whether prompts go through the chat template of a model that has one.
        generates: Whether text is generated.
    """

    generation: Generation
    measure: Callable[..., dict[str, float]] | None
    generates: ClassVar[bool] = True
    judged: bool = False
    chat: bool = False

    @property
    def measured_alone(self) -> bool:
        """Whether `measure` needs no judge."""
        return self.measure is not None and not self.judged

    def check_means(self, judge: object, folder: object) -> None:
        """Raise UsageError where there is no judge, or no folder for answers, and this task needs it."""
        if self.judged and judge is None:
            raise UsageError(f"{self.name} needs a judge of answers.", hint="--judge MODEL, or --judge-url URL --judge NAME")
        if self.measure is None and folder is None:
            raise UsageError(f"{self.name} writes its answers to files, and no folder is named.", hint="--answers FOLDER")


Task: TypeAlias = ChoiceTask | GenerationTask
"""An evaluation task."""

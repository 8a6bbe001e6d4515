"""The definition of a task: the source of its data, how rows become items, and what is measured on each item."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from dola.errors import DataError, UsageError
from dola.methods.names import RECOMMENDED_PENALTY
from dola.tasks.data import Data, HubDataset, Source, open_data
from dola.tasks.items import ChoiceItem, QuestionItem


@dataclass(frozen=True)
class Metric:
    """One number for each item; reports show its mean over the items.

    Attributes:
        name: Its key in what `Task.measure` returns.
        description: One line, for people.
        binary: Whether it is 0 or 1 for each item, so that McNemar's test applies.
        chance: Its average for an item if scores or answers are drawn at random; None if that is undefined.
    """

    name: str
    description: str
    binary: bool = True
    chance: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Generation:
    """How text is generated.

    Attributes:
        max_new_tokens: Maximum number of new tokens.
        stop: Strings that end the text. `measure` cuts at them again, so a text may contain them.
        temperature: Sampling temperature; None means greedy decoding.
    """

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float | None = None


@dataclass(frozen=True)
class PaperSettings:
    """The settings of the paper's runs (voidism/DoLa's scripts and their arguments).

    Attributes:
        layers: The bucket of candidate layers.
        relative_top: Threshold of the plausible set; 0 keeps all tokens.
        post_softmax: Whether contrasted scores are normalized over the vocabulary before they are summed. It has no effect
            on generated text.
        repetition_penalty: Repetition penalty of the DoLa runs. The paper's baseline has 1.0, which is a confound: compare
            with plain decoding at the same penalty.
    """

    layers: Literal["low", "high"]
    relative_top: float
    post_softmax: bool = False
    repetition_penalty: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of DoLa in which the paper's runs differ, except the layers."""
        return {"relative_top": self.relative_top}


NO_PAPER = PaperSettings("high", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY)
"""The usual settings, for tasks that the paper did not run. The penalty adds its control, vanilla with the same penalty."""


@dataclass(frozen=True, kw_only=True)
class BaseTask:
    """The properties that all tasks share.

    Attributes:
        name: Its name on the command line.
        description: One line, for people.
        files: Names of the files that hold its data, opened together.
        separate_files: Whether each file is a data set of its own, so that some of them are enough.
        homepage: Web page with the files.
        published: SHA-256, by file name, of the files that published numbers were made with.
        hub: The data set on the hub; None if the hub does not have it.
        make_items: Turns rows into items.
        metrics: The metrics that `measure` returns.
        paper: The settings of the paper's runs.
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
        """The task's rows, and the sources that they were read from.

        Args:
            source: See `open_data`. The id of the task's own hub data set means its config and split; None means the hub.

        Raises:
            DataError: See `open_data`; or no source was given, and the hub does not have this task.
            MissingExtraError: A hub data set requires the package `datasets`, which is not installed.
        """
        if source is None:
            source = self.hub
        elif self.hub is not None:
            given = [source] if isinstance(source, (str, os.PathLike, HubDataset)) else source
            source = [self.hub if one == self.hub.id else one for one in given]
        if source is None:
            raise DataError(
                f"The Hugging Face hub does not have {self.name}; its data files are {self._file_names}.",
                hint=f"download them from {self.homepage} and give their path",
            )
        return open_data(source, published=frozenset(self.published.values()), homepage=self.homepage)

    @property
    def _file_names(self) -> str:
        """The names of the files, for a sentence."""
        *others, last = self.files
        return f"{', '.join(others)} {'or' if self.separate_files else 'and'} {last}" if others else last

    def items(self, source: Data | Source | Sequence[Source] | None = None) -> list[ChoiceItem] | list[QuestionItem]:
        """The task's items, from opened rows or from a source to open.

        Raises:
            DataError: See `open`; or a row lacks a field or an answer, or two items have the same id.
            MissingExtraError: See `open`.
        """
        found = self.make_items(source if isinstance(source, Data) else self.open(source))
        seen: set[str] = set()
        for item in found:
            if item.id in seen:
                raise DataError(
                    f"Two items of {self.name} have the id {item.id!r}.",
                    hint="give each file once, and each item an id of its own",
                )
            seen.add(item.id)
        return found


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(BaseTask):
    """A task whose continuations are scored.

    Attributes:
        measure: Metric values of one item, by name, from (item, scores, token counts).
        generates, judged, compared, measured_alone: See GenerationTask.
    """

    measure: Callable[[ChoiceItem, Sequence[float], Sequence[int]], dict[str, float]]
    generates: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    compared: ClassVar[bool] = False
    measured_alone: ClassVar[bool] = True

    def check_means(self, judge: object, folder: object) -> None:
        """Accept everything: scores need neither a judge nor a folder."""


@dataclass(frozen=True, kw_only=True)
class GenerationTask(BaseTask):
    """A task that is answered with generated text.

    Attributes:
        generation: How text is generated.
        measure: Metric values of one item, by name, from (item, text), or for a `judged` task from (item, text, truth judge,
            info judge). None if another program judges the answers, which are written to files.
        judged: Whether models judge the answers.
        compared: Whether a judge says which texts mean a right answer (`meaning.JUDGED`); `measure` needs no judge then, and
            returns the other metrics.
        chat: Whether prompts use the model's chat template, if it has one.
        generates: Whether text is generated.
    """

    generation: Generation
    measure: Callable[..., dict[str, float]] | None
    generates: ClassVar[bool] = True
    judged: bool = False
    compared: bool = False
    chat: bool = False

    @property
    def measured_alone(self) -> bool:
        """Whether `measure` works without a judge."""
        return self.measure is not None and not self.judged

    def check_means(self, judge: object, folder: object) -> None:
        """Raise UsageError if this task needs a judge or a folder for answers that was not given."""
        if self.judged and judge is None:
            raise UsageError(f"{self.name} needs a judge of answers.", hint="--judge MODEL, or --judge-url URL --judge NAME")
        if self.measure is None and folder is None:
            raise UsageError(f"{self.name} writes its answers to files and needs a folder.", hint="--answers FOLDER")


Task: TypeAlias = ChoiceTask | GenerationTask
"""An evaluation task."""

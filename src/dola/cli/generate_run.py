"""The work of `dola generate`: decodes prompts in batches, and writes answers to standard output or a file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dola.cli import options
from dola.cli.answer_file import AnswerFile
from dola.cli.decoding import Batch, Decoding
from dola.cli.output import note, print_json, printable, stderr
from dola.cli.prompts import Prompt

if TYPE_CHECKING:
    from dola.cli.backends import Backend
    from dola.methods.config import MethodConfig


@dataclasses.dataclass
class Run:
    """One run of the command, with everything that its options determine.

    Attributes:
        backend: The loaded model.
        name: --model as given.
        layers: The layers used, in the form of --layers.
        config: DoLa's settings, or None if it is off.
        decoding: How tokens are chosen from scores.
        chat: Whether prompts use the chat template.
        batch_size: Prompts at a time.
        prompts: The prompts to complete.
        load_seconds: Seconds for loading the model.
        candidate_layers: The candidate layers of `config` in this model.
    """

    backend: Backend
    name: str
    layers: str
    config: MethodConfig | None
    decoding: Decoding
    chat: bool
    batch_size: int
    prompts: Sequence[Prompt]
    load_seconds: float
    candidate_layers: list[int] | None = None

    def __post_init__(self) -> None:
        # All prompts are checked before hours of work, not after.
        self._rows = [self.backend.encode(each.text, chat=self.chat, where=each.where) for each in self.prompts]
        named = [(prompt.where, len(row)) for prompt, row in zip(self.prompts, self._rows, strict=True)]
        self.backend.check_room(named, self.decoding.max_new_tokens)

    def to_stdout(self, schema: str, *, json: bool, stream: bool) -> None:
        """Print completions; token by token if `stream`, on a terminal."""
        terminal = sys.stdout.isatty()
        stream = stream and terminal and not json
        for start, batch in self._batches(set(), progress=not terminal and len(self.prompts) > 1, stream=stream):
            for record in self._records(start, batch):
                if json:
                    print_json(schema, record)
                elif not stream:
                    print(printable(record["text"]) if terminal else record["text"], flush=True)

    def to_file(self, answers: AnswerFile) -> None:
        """Write the answers that the file lacks."""
        with self._attached():
            settings = self._settings()
        answers.take_up(self.prompts, self.name, settings)
        before = len(answers.done)
        for start, batch in self._batches(answers.done, progress=True):
            answers.write([record for record in self._records(start, batch) if record["index"] not in answers.done])
        written = len(self.prompts) - before
        had = f", which already had {before}" if before else ""
        note(f"{written} answer{'s' * (written != 1)} written to {answers.path}{had}")

    def _attached(self) -> Any:
        """The model, with DoLa attached if requested."""
        attachment = self.backend.attached(self.config)
        self.candidate_layers = None if self.config is None else list(attachment.layers)  # type: ignore[attr-defined]
        return attachment

    def _batches(self, done: set[int], *, progress: bool, stream: bool = False) -> Iterator[tuple[int, Batch]]:
        """Decode batch by batch; yields the index of a batch's first prompt, and the batch. Complete batches are skipped.

        An interrupted batch is decoded again as a whole, so that sampling draws the same tokens as without interruption.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = stderr()
        bar = Progress(
            TextColumn("answers"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        shown = progress and console.is_terminal
        with self._attached(), bar if shown else nullcontext():  # rich 13.0 prints a line for a bar that is switched off
            task = bar.add_task("answers", total=len(self.prompts))
            for start in range(0, len(self.prompts), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(self.prompts)))
                if not done.issuperset(rows):
                    decoding = self.decoding
                    if decoding.seed is not None:
                        decoding = dataclasses.replace(decoding, seed=decoding.seed + start)
                    yield start, self.backend.decode([self._rows[row] for row in rows], decoding, stream=stream)
                bar.advance(task, len(rows))

    def _records(self, start: int, batch: Batch) -> Iterator[dict[str, Any]]:
        timings = {
            "load_seconds": round(self.load_seconds, 3),
            "generate_seconds": round(batch.seconds, 3),
            "tokens_per_second": round(batch.tokens_per_second, 2),
            "batch": len(batch.completions),
        }
        for index, completion in enumerate(batch.completions, start):
            prompt = self.prompts[index]
            yield {
                "model": self.name,
                "index": index,
                "prompt": prompt.text,
                "fields": prompt.fields,
                **dataclasses.asdict(completion),
                "timings": timings,
                "settings": self._settings(),
            }

    def _settings(self) -> dict[str, Any]:
        """The settings used, for the output and to recognize whether an interrupted run is the same."""
        decoding = self.decoding
        return {
            "layers": self.layers,
            "candidate_layers": self.candidate_layers,
            **options.settings_beside_layers(self.config),
            "repetition_penalty": decoding.repetition_penalty,
            "max_new_tokens": decoding.max_new_tokens,
            "sample": decoding.sample,
            "temperature": decoding.temperature if decoding.sample else None,
            "top_p": decoding.top_p if decoding.sample else None,
            "seed": decoding.seed,
            "chat": self.chat,
            "backend": self.backend.name,
            "dtype": self.backend.dtype,
            "device": self.backend.device,
            "batch_size": self.batch_size,
        }

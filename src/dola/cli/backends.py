"""The seam between verbs and the library that runs a model. A verb asks a `Backend`, and imports neither torch nor MLX.

--backend torch -> backend_torch.py        --backend mlx -> backend_mlx.py
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.decoding import Batch, Decoding, check_room, encode_prompt, uses_chat

if TYPE_CHECKING:
    from dola.cli.options import DType
    from dola.methods.config import MethodConfig
    from dola.text.encoding import Encoder
    from dola.tracing.data import LayerTrace


class Name(str, Enum):
    """The libraries that can run a model."""

    torch = "torch"
    mlx = "mlx"


BackendOption = Annotated[
    Name, typer.Option("--backend", help="Library that runs the model. mlx is for Apple silicon: see docs/mlx.md.")
]


class Backend(ABC):
    """A loaded model, and everything that verbs ask of it.

    Attributes:
        name: Value of --backend.
        model, tokenizer: The model and its tokenizer, as the library loads them. The tokenizer is one of transformers.
        encoder: Turns prompts into tokens for this model.
        window: Number of tokens that the model can read, or None if it states none.
        dtype, device: Dtype and device of the weights, as --dtype and --device name them.
    """

    name: str
    model: Any
    tokenizer: Any
    encoder: Encoder
    window: int | None
    dtype: str
    device: str

    @abstractmethod
    def settle_layers(self, config: MethodConfig | None, given: str | None) -> tuple[MethodConfig | None, str]:
        """The configuration and the name of its layers: from `--layers`, or else from the model's generation config."""

    @abstractmethod
    def config(self, chosen: Any) -> MethodConfig:
        """The settings of a method, or DoLa's with these layers.

        Raises:
            LayersError: This model does not have the layers.
            LensError: The lens belongs to another model.
        """

    @abstractmethod
    def attached(self, config: MethodConfig | None) -> AbstractContextManager[Any]:
        """The model with a method on it: yields an attachment with `layers`, or None without a configuration."""

    @abstractmethod
    def decode(self, rows: Sequence[list[int]], decoding: Decoding, *, stream: bool = False) -> Batch:
        """Complete rows of tokens with the model as it is, with a method attached or without.

        Args:
            rows: The tokens of each prompt.
            decoding: How tokens are chosen from scores.
            stream: Print the text of the only row to standard output while it is made.

        Raises:
            ModelError: The model's generation config requests something that cannot be done.
        """

    @abstractmethod
    def trace(
        self,
        row: list[int],
        config: MethodConfig,
        *,
        generate: int,
        decode: str,
        repetition_penalty: float,
        top_k: int,
    ) -> LayerTrace:
        """What each layer predicts for the tokens of a prompt, or for tokens generated after it: see `dola.trace`."""

    def uses_chat(self, chat: bool | None) -> bool:
        """Whether prompts use the chat template; None uses it if the model has one.

        Raises:
            UsageError: A chat template was requested, but the model has none.
        """
        return uses_chat(self.tokenizer, chat)

    def encode(self, prompt: str, *, chat: bool, where: str = "") -> list[int]:
        """The tokens of a prompt. `where` is its file and line, for messages.

        Raises:
            InputError: It has no tokens, or the model has no embedding for one; or the chat template refuses it.
        """
        return encode_prompt(self.encoder, prompt, chat=chat, where=where)

    def check_room(self, prompts: Sequence[tuple[str, int]], max_new_tokens: int, *, option: str = "--max-new-tokens") -> None:
        """Raise UsageError if a prompt leaves no room for its answer: see `decoding.check_room`."""
        check_room(self.window, prompts, max_new_tokens, option=option)


def load(backend: Name, name: str, *, dtype: DType | None, device: str | None, trust_remote_code: bool) -> Backend:
    """Load a model as the options say. Notes on it go to stderr.

    Raises:
        UsageError: This machine does not have the device.
        ModelFileError, ModelError, DownloadError: See `dola.load` and `dola.mlx.load`.
        MissingExtraError: The library is not installed.
    """
    made: Backend = import_module(f"dola.cli.backend_{backend.value}").load(
        name, dtype=dtype, device=device, trust_remote_code=trust_remote_code
    )
    return made

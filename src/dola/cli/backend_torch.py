"""`--backend torch`: models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from dola.cli import options
from dola.cli.backends import Backend
from dola.cli.decoding import Batch, Decoding, decode, window_of
from dola.cli.output import printable
from dola.text.encoding import Encoder

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig
    from dola.tracing.data import LayerTrace


class TorchBackend(Backend):
    """A model of transformers: see `Backend`.

    Args:
        model, tokenizer: As `dola.load` returns them.
    """

    name = "torch"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.encoder, self.window = Encoder.of(model, tokenizer), window_of(model)
        self.dtype, self.device = str(model.dtype).removeprefix("torch."), str(model.device)

    def settle_layers(self, config: MethodConfig | None, given: str | None) -> tuple[MethodConfig | None, str]:
        """See `Backend`."""
        return options.settle_layers(config, given, self.model)

    def config(self, chosen: Any) -> MethodConfig:
        """See `Backend`."""
        from dola.decoding.attach import as_config
        from dola.model.anatomy import Anatomy

        anatomy = Anatomy.of(self.model)
        config = as_config(chosen, anatomy)
        anatomy.candidates(config.layers)
        return config

    def attached(self, config: MethodConfig | None) -> AbstractContextManager[Any]:
        """See `Backend`."""
        import dola

        return nullcontext() if config is None else dola.attach(self.model, config)

    def decode(self, rows: Sequence[list[int]], decoding: Decoding, *, stream: bool = False) -> Batch:
        """See `Backend`."""
        streamer = _streamer(self.tokenizer) if stream else None
        return decode(self.model, self.tokenizer, self.encoder.padded(rows), decoding, streamer=streamer)

    def trace(self, row: list[int], config: MethodConfig, **how: Any) -> LayerTrace:
        """See `Backend`."""
        from dola.tracing.trace import trace

        return trace(self.model, self.tokenizer, row, config, **how)


def load(name: str, **settings: Any) -> TorchBackend:
    """Load a model with transformers: see `options.load_model`."""
    return TorchBackend(*options.load_model(name, **settings))


def _streamer(tokenizer: Any) -> Any:
    """Prints a completion to the terminal while it is made."""
    from transformers import TextStreamer

    class Printer(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            print(printable(text), end="\n" if stream_end else "", flush=True)

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)

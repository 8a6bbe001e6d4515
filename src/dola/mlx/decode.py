"""mlx-lm's ways of generating, for one call with a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mlx_lm
from mlx_lm.generate import batch_generate as plain_batch_generate

from dola.errors import InputError
from dola.methods.config import MethodConfig
from dola.mlx.session import attach
from dola.mlx.skipping import pays

Layers = MethodConfig | str | Sequence[int] | None


def generate(model: Any, tokenizer: Any, prompt: Any, *, dola_layers: Layers = None, **kwargs: Any) -> str:
    """`mlx_lm.generate`, decoding with DoLa.

    Args:
        model: A model of mlx-lm. If DoLa is attached to it already, that is used.
        tokenizer: Its tokenizer.
        prompt: Text or token ids.
        dola_layers: A configuration, or the layers of DoLa; "high" by default.
        **kwargs: Any argument of `mlx_lm.generate`: max_tokens, sampler, logits_processors, prompt_cache, kv_bits,
            draft_model. Drafts of another model are checked with the method's scores, so they change the speed alone.

    Returns:
        The text that follows the prompt.

    Raises:
        InputError: `dola_layers` differs from what is attached, or the draft model is the model itself.
    """
    lazy = not kwargs.get("logits_processors")  # which might compare the plausible token's score with others
    with _attached(model, dola_layers, kwargs.get("draft_model"), lazy=lazy):
        return str(mlx_lm.generate(model, tokenizer, prompt, **kwargs))


def stream_generate(model: Any, tokenizer: Any, prompt: Any, *, dola_layers: Layers = None, **kwargs: Any) -> Iterator[Any]:
    """`mlx_lm.stream_generate`, decoding with DoLa: see `generate`. The model is restored when the iterator ends."""
    with _attached(model, dola_layers, kwargs.get("draft_model")):
        yield from mlx_lm.stream_generate(model, tokenizer, prompt, **kwargs)


def batch_generate(model: Any, tokenizer: Any, prompts: list[list[int]], *, dola_layers: Layers = None, **kwargs: Any) -> Any:
    """`mlx_lm.batch_generate`, decoding with DoLa: see `generate`. Each prompt is decoded as it is alone."""
    with _attached(model, dola_layers):
        return plain_batch_generate(model, tokenizer, prompts, **kwargs)


def _attached(model: Any, dola_layers: Layers, draft: Any = None, *, lazy: bool = False) -> AbstractContextManager[Any]:
    """The model with a method for one call, or as it is where one is attached."""
    if draft is model:
        raise InputError(
            "draft_model is the model itself: its drafts would be made with the method too.", hint="give a smaller draft_model"
        )
    found = getattr(model, "dola", None)
    if found is None:
        return attach(model, dola_layers, lazy=lazy and pays(model))
    same = dola_layers is None or dola_layers == found.config or dola_layers == found.config.layers
    if not same:
        raise InputError(
            f"dola_layers={dola_layers!r} was given, but DoLa is attached to this model with layers={found.config.layers!r}.",
            hint="omit dola_layers, or call model.dola.remove() and attach with these layers",
        )
    return nullcontext()

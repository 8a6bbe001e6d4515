"""Captures residual streams of whole forward passes, for scoring and traces, which read layers without decoding."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dola.errors import AttachError, InputError
from dola.model.anatomy import Anatomy


@contextmanager
def captured(
    anatomy: Anatomy, layers: Iterable[int], select: Callable[[Tensor], Tensor] = lambda states: states
) -> Iterator[dict[int, Tensor]]:
    """Collect the residual streams of this thread's forward passes inside: layer -> the part of [B, T, d] that `select` keeps.

    Layer j is the input of block j, and N is the last block's output, before the final norm.

    Raises:
        AttachError: DoLa is attached to the model, so that its forward passes would contrast needlessly.
        InputError: The model is in training mode.
    """
    check_eval(anatomy.lm)
    if (attached := getattr(anatomy.lm, "dola", None)) is not None:
        raise AttachError(
            f"{type(anatomy.lm).__name__} has DoLa attached: {attached!r}.", hint="call model.dola.remove() first"
        )
    hidden: dict[int, Tensor] = {}
    here = threading.get_ident()

    def keep(layer: int, passed: Any) -> None:
        hidden[layer] = select(anatomy.residual(passed).detach()).clone()  # some blocks add to their input in place

    def keeper(layer: int) -> Any:
        def hook(module: nn.Module, *arguments: Any) -> None:
            if threading.get_ident() == here:  # else torch may omit kwargs: this hook may just be removed
                args, kwargs = arguments
                keep(layer, args[0] if args else kwargs["hidden_states"])

        return hook

    def keep_last(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == here:
            keep(anatomy.num_layers, output)

    with ExitStack() as stack:
        for layer in layers:
            if layer < anatomy.num_layers:
                handle = anatomy.blocks[layer].register_forward_pre_hook(keeper(layer), with_kwargs=True)
                stack.callback(handle.remove)
        stack.callback(anatomy.blocks[-1].register_forward_hook(keep_last).remove)
        yield hidden


def check_eval(lm: Any) -> None:
    """Raise InputError for a model in training mode."""
    if lm.training:
        raise InputError("The model is in training mode; DoLa decodes with dropout off.", hint="call model.eval()")


def window(lm: Any) -> int | None:
    """The longest sequence, in tokens, that a model's config allows; None if it does not say."""
    return getattr(lm.config.get_text_config(), "max_position_embeddings", None)


def cut_left(tokens: Sequence[int], length: int, bos_token_id: int | None) -> list[int]:
    """The last `length` tokens of a longer text; a beginning-of-sequence token at its start is kept as the first one."""
    bos = list(tokens[:1]) if tokens[0] == bos_token_id else []
    return [*bos, *tokens[len(tokens) - length + len(bos) :]]


def few_logits(lm: Any) -> dict[str, int]:
    """Arguments that limit a forward pass of `lm` to the logits of the last position, if it supports that."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(lm.forward).parameters else {}


def cache_name(lm: Any) -> str:
    """The name of the cache in arguments and outputs of `lm`'s forward: transformers 5.24 renamed `past_key_values`."""
    parameters = inspect.signature(lm.forward).parameters
    return "cache" if "cache" in parameters and "past_key_values" not in parameters else "past_key_values"

"""`dola.trace`: records what each layer of a model predicts for each token (`data.py` holds it, `plot/` draws it).

tokens --one forward--> residual streams of all layers --reader.py--> numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dola.decoding.as_asked import as_generate, generate_as_asked
from dola.decoding.attach import as_config
from dola.decoding.call import check_not_empty
from dola.errors import InputError
from dola.methods.config import MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.methods.registry import with_settings
from dola.model.anatomy import Anatomy
from dola.model.hidden import check_eval, window
from dola.text.encoding import Encoder
from dola.text.token_text import token_texts
from dola.tracing.data import LayerTrace, TokenTrace
from dola.tracing.reader import LayerReader


def trace(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[int],
    config: MethodConfig | str | Sequence[int] | None = None,
    *,
    generate: int = 0,
    decode: str = "dola",
    repetition_penalty: float = RECOMMENDED_PENALTY,
    top_k: int = 5,
    anatomy: Anatomy | None = None,
    **settings: Any,
) -> LayerTrace:
    """Record what every layer predicts for a prompt's own tokens, or for tokens that are generated after it.

        trace = dola.trace(model, tokenizer, "The capital of Washington State is", "high")
        print(trace.explain(-1))  # how the next token would be chosen

    Without `generate` the prompt is read as it is. Each entry shows how the token after one of its tokens is chosen; the last
    entry is about the token that would come next. With `generate`, `dola.generate` decodes first, with all its rules
    (penalties, end tokens, masks), and the generated tokens are read the same way. The trace shows the contrast before these
    rules. If a rule changes the token, it differs from DoLa's choice in the trace, and `explain` says so.

    Args:
        model: A decoder-only Hugging Face model in eval mode, without DoLa attached.
        tokenizer: The model's tokenizer.
        prompt: A text, or its tokens.
        config: A DoLaConfig or another method's settings, or just the `layers`; defaults as for `attach`.
        generate: Maximum number of tokens to generate; 0 reads the prompt.
        decode: How to generate: "dola", or "greedy" for plain decoding.
        repetition_penalty: Repetition penalty for generated tokens, with both values of `decode`.
        top_k: Number of likeliest tokens of each layer to keep.
        anatomy: The parts of the model, if dola cannot find them itself.
        **settings: More arguments of `generate`.

    Raises:
        InputError: No tokens, a token that the model has no embedding for, more tokens than the model's window holds, a value
            out of range, a model in training mode, or logits that define no distribution.
        AttachError: DoLa is attached to the model.
        LayersError: The model does not have these layers.
        ReadoutError: The parts of the model that were found do not reproduce its logits.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> trace = dola.trace(model, tokenizer, "The capital of Washington State is", "high")
        >>> len(trace.tokens), trace.num_layers
        (6, 30)
        >>> "Seattle" in trace.explain(-1)  # one sentence on the token that would come next
        True
    """
    anatomy = Anatomy.of(model) if anatomy is None else anatomy
    config = as_config(config, anatomy)
    check_arguments(anatomy.lm, generate, decode, top_k, settings)
    reader = LayerReader(anatomy, config, top_k)
    encoder = Encoder.of(model, tokenizer)
    ids = encoder.text(prompt) if isinstance(prompt, str) else encoder.checked(prompt)
    check_length(anatomy.lm, ids, generate)
    read, first = ids, 0
    after: list[int | None] = [*ids[1:], None]
    if generate:
        settings = {"repetition_penalty": repetition_penalty, "max_new_tokens": generate, **settings}
        made = tokens_behind(model, tokenizer, ids, config if decode == "dola" else None, **settings)
        read, first, after = [*ids, *made[:-1]], len(ids) - 1, [*made]
    bare = None if config.lens is None else LayerReader(anatomy, with_settings(config, lens=None), top_k)

    def traced(reader: LayerReader) -> LayerTrace:
        tokens = reader.read(read, first, after)
        return as_trace(
            reader,
            tokens,
            token_texts(tokenizer, set().union(*(token.ids() for token in tokens))),
            prompt=prompt if isinstance(prompt, str) else tokenizer.decode(ids),
            prompt_tokens=len(ids),
            mode=decode if generate else "prompt",
            repetition_penalty=repetition_penalty if generate else None,
            model=anatomy.lm.config.name_or_path,
        )

    found = traced(reader)
    return found if bare is None else replace(found, without_lens=traced(bare))


def as_trace(
    reader: LayerReader,
    tokens: Sequence[TokenTrace],
    texts: Mapping[int, str],
    *,
    prompt: str,
    prompt_tokens: int,
    mode: str,
    repetition_penalty: float | None,
    model: str,
) -> LayerTrace:
    """A LayerTrace from the tokens that `reader` has read."""
    config = reader.config
    penalty = {} if repetition_penalty is None else {"repetition_penalty": repetition_penalty}
    return LayerTrace(
        model=model,
        prompt=prompt,
        mode=mode,
        settings={**config.as_dict(), **penalty},
        num_layers=reader.num_layers,
        candidates=reader.candidates,
        prompt_tokens=prompt_tokens,
        tokens=tuple(tokens),
        texts=texts,
    )


def check_arguments(lm: Any, generate: int, decode: str, top_k: int, settings: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that cannot be traced."""
    check_eval(lm)
    if generate < 0 or top_k < 1:
        name, value, least = ("generate", generate, 0) if generate < 0 else ("top_k", top_k, 1)
        raise InputError(f"{name}={value} is out of range; the minimum is {least}.", hint=f"omit {name}")
    if decode not in ("dola", "greedy"):
        raise InputError(f"decode={decode!r} is not supported. Allowed: 'dola' and 'greedy'.", hint="omit decode for 'dola'")
    if fixed := sorted({"max_new_tokens", "max_length", "num_return_sequences"} & settings.keys()):
        raise InputError(
            f"{fixed[0]}={settings[fixed[0]]!r} is not supported: generate= sets the number of tokens, for one text.",
            hint="use generate=20",
        )
    if settings and not generate:
        raise InputError(
            f"{', '.join(settings)} given without generate=: nothing is generated.", hint="add generate=20, or leave it out"
        )


def check_length(lm: Any, ids: Sequence[int], generate: int) -> None:
    """Raise InputError for a prompt without tokens, or more than the model's window holds."""
    check_not_empty(torch.tensor([ids]))
    longest = window(lm)
    if longest is not None and len(ids) + generate > longest:
        raise InputError(
            f"The prompt has {len(ids)} tokens and generate={generate}; together the model allows {longest}.",
            hint="shorten the prompt",
        )


def tokens_behind(model: Any, tokenizer: Any, ids: Sequence[int], config: MethodConfig | None, **settings: Any) -> list[int]:
    """Tokens generated after `ids`, with DoLa or, without a config, by the model alone; greedily, with one beam."""
    prompt = torch.tensor([ids], device=model.device)
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    call = {"do_sample": False, "num_beams": 1, **settings}
    (row,) = generate_as_asked(model, tokenizer, inputs, call, generate=as_generate(model, config)).rows
    return row

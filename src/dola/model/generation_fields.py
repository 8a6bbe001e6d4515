"""How verbs treat each field of a model's own generation config: kept, replaced, set aside or refused.

A verb guarantees DoLa, or greedy decoding or sampling, with the options of its call. A model's `generation_config.json` may
request more, and `generate` would do it: beams, several answers, another method. FIELDS is the one place that defines the
treatment of each field of transformers 5.0 to 5.23; `decoding/as_asked.py` applies it. A field that is not listed is reported
and left to transformers. `dola.generate` and `attach` accept everything that transformers does; they use only `own_layers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT, OPTION, ASIDE, REFUSED = "kept", "option", "set aside", "refused"
"""Meanings: done as transformers does it; replaced by an option of the call; not done, with a message; an error."""


@dataclass(frozen=True)
class Field:
    """The meaning of one field.

    Attributes:
        meaning: KEPT, OPTION, ASIDE or REFUSED.
        why: The reason if the field is not kept.
        off: The value that has no effect. None never has one.
        sampling: Whether the field has an effect only when sampling.
        quiet: Whether it is replaced without a message: every call has this option, and its help says so.
    """

    meaning: str
    why: str = ""
    off: Any = None
    sampling: bool = False
    quiet: bool = False

    def asks(self, value: Any) -> bool:
        """Whether a value of this field has an effect."""
        return value is not None and value != self.off


def _all(meaning: str, why: str, fields: Mapping[str, Any], **settings: Any) -> dict[str, Field]:
    """The same meaning for several fields, each with the value that has no effect."""
    return {name: Field(meaning, why, off, **settings) for name, off in fields.items()}


_OPTION = "options of this call replace it"
_FILTER = "this call samples from all tokens except those that its own options exclude"
_REPETITION = "the repetition penalty of this call is its only rule on repetition"
_BEAMS = "one answer is decoded, without beams"
_RETURNED = "only tokens are needed"
_DRAFTS = "tokens are not drafted"
_METHOD = "this is another method of decoding"

FIELDS: dict[str, Field] = {
    # Which tokens may come and which end the text.
    **_all(KEPT, "", {
        "bad_words_ids": None, "begin_suppress_tokens": None, "suppress_tokens": None, "sequence_bias": None,
        "forced_bos_token_id": None, "forced_eos_token_id": None, "min_length": 0, "min_new_tokens": 0,
        "exponential_decay_length_penalty": None, "remove_invalid_values": False, "renormalize_logits": False,
        "watermarking_config": None, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        "decoder_start_token_id": None, "stop_strings": None,
    }),
    # How the forward runs.
    **_all(KEPT, "", {
        "use_cache": True, "cache_implementation": None, "cache_config": None, "max_cache_len": None,
        "compile_config": None, "disable_compile": False, "prefill_chunk_size": None,
    }),
    # What a verb has an option or a rule for.
    **_all(OPTION, _OPTION, {"do_sample": False, "repetition_penalty": 1.0}),
    **_all(OPTION, _OPTION, {"max_length": None, "max_new_tokens": None, "dola_layers": None}, quiet=True),
    **_all(OPTION, _OPTION, {"temperature": 1.0, "top_p": 1.0}, sampling=True),
    **_all(OPTION, _FILTER, {
        "top_k": 0, "min_p": 0.0, "top_h": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    }, sampling=True),
    **_all(OPTION, _REPETITION, {
        "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    }),
    # What a verb does not do.
    **_all(ASIDE, _BEAMS, {
        "num_beams": 1, "num_return_sequences": 1, "early_stopping": False, "length_penalty": 1.0, "num_beam_groups": 1,
        "diversity_penalty": 0.0,
    }),
    **_all(ASIDE, _RETURNED, {
        "return_dict_in_generate": False, "output_scores": False, "output_logits": False, "output_attentions": False,
        "output_hidden_states": False,
    }),
    **_all(ASIDE, _METHOD, {"penalty_alpha": 0.0, "low_memory": False, "guidance_scale": 1}),
    **_all(ASIDE, _DRAFTS, {
        "prompt_lookup_num_tokens": None, "max_matching_ngram_size": None, "use_mtp": False, "speculation_type": None,
        "is_assistant": False, "assistant_early_exit": None, "assistant_ensemble_weight": None, "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.4, "assistant_lookbehind": 10,
        "target_lookbehind": 10,
    }),
    "max_time": Field(ASIDE, "only the number of tokens limits an answer, so that it does not depend on the machine's speed"),
    "token_healing": Field(ASIDE, "the prompt is used as it is", False),
    "continuous_batching_config": Field(ASIDE, "it is for continuous batching"),
    # These cannot be set aside: the answer would lack required words.
    **_all(REFUSED, "constrained beam search forces given words into the answer, which DoLa and greedy decoding cannot do", {
        "force_words_ids": None, "constraints": None,
    }),
}  # fmt: skip

METADATA = ("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash", "_mask_length")
"""Attributes of a GenerationConfig that do not concern decoding."""

HARNESS = tuple(name for name, of in FIELDS.items() if of.meaning == OPTION and not of.quiet)
"""Options that lm-evaluation-harness takes from the generation config: its model type "dola" keeps them, as "hf" does."""

Found = dict[str, Any]
"""Fields and their values in a generation config."""


@dataclass(frozen=True)
class Review:
    """The fields that a generation config sets, by meaning. Values without an effect are left out.

    Attributes:
        kept, option, aside, refused: The fields of each meaning.
        unknown: Fields that the table does not list.
    """

    kept: Found = field(default_factory=dict)
    option: Found = field(default_factory=dict)
    aside: Found = field(default_factory=dict)
    refused: Found = field(default_factory=dict)
    unknown: Found = field(default_factory=dict)


def review(config: Any) -> Review:
    """Sort the fields of a GenerationConfig, or of a dict with its fields, by meaning."""
    found = Review()
    groups = {KEPT: found.kept, OPTION: found.option, ASIDE: found.aside, REFUSED: found.refused}
    for name, value in (config if isinstance(config, Mapping) else vars(config) if config is not None else {}).items():
        if name in METADATA or name.endswith("_tensor"):
            continue
        known = FIELDS.get(name)
        if known is None:
            if value is not None:
                found.unknown[name] = value
        elif known.asks(value):
            groups[known.meaning][name] = value
    return found


def switched_off(found: Review, call: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """Arguments of `generate` that undo the fields that the table does not keep; arguments override a model's own config.

    Args:
        found: The review of the model's generation config.
        call: The call's own arguments, which stay unchanged.
        kept: Fields to keep besides those that the table keeps.
    """
    names = (*found.option, *found.aside, *found.refused)
    return {name: FIELDS[name].off for name in names if name not in call and name not in kept}


def differences(found: Review, call: Mapping[str, Any], kept: Collection[str] = ()) -> list[str]:
    """Messages about the fields that a call ignores.

    Args:
        found, call, kept: See `switched_off`.
    """
    reasons: dict[str, list[str]] = {}
    for name, value in {**found.option, **found.aside}.items():
        known = FIELDS[name]
        idle = known.sampling and not call.get("do_sample") and isinstance(value, (int, float))
        silent = known.quiet or idle or name in kept
        if not silent and (name not in call or call[name] != value):
            reasons.setdefault(known.why, []).append(shown(name, value))
    said = []
    if reasons:
        listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        said.append(f"Not used from the model's generation config: {listed}.")
    if found.unknown:
        listed = ", ".join(shown(name, value) for name, value in found.unknown.items())
        said.append(f"Unknown fields in the model's generation config, left to transformers: {listed}.")
    return said


def shown(name: str, value: Any) -> str:
    """A field with its value; a long value is shortened."""
    text = repr(value)
    return f"{name}={text if len(text) <= 60 else text[:57] + '...'}"


def own_layers(*configs: Any) -> Any:
    """The first `dola_layers` that one of these generation configs sets, or None."""
    found = (getattr(config, "dola_layers", None) for config in configs)
    return next((layers for layers in found if layers is not None), None)


def end_tokens(config: Any) -> set[int]:
    """The tokens that end a text.

    Raises:
        TypeError: `eos_token_id` is neither an id nor a list of ids.
    """
    ends = getattr(config, "eos_token_id", None)
    listed = [] if ends is None else list(ends) if isinstance(ends, (list, tuple, set)) else [ends]
    for end in listed:
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not float(end).is_integer():
            raise TypeError(f"eos_token_id={ends!r} is neither a token id nor a list of token ids")
    return {int(end) for end in listed}

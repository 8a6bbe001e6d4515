"""Finds the parts of a model by structure: `Anatomy.by_structure`. `anatomy.py` shows the structure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from dola.errors import ModelError
from dola.model.adapters import FINAL_NORMS, AltUp, why_not
from dola.model.readout import Chain, Cut, Part, Scale, SoftCap
from dola.model.wrappers import inside

MULTIPLIED_BY_MODEL = ("logit_scale",)  # Cohere: on the module. MPT has it in its config and does not use it.
MULTIPLIED = ("lm_head_multiplier",)  # Falcon H1
DIVIDED = ("logits_scaling", "logits_mup_width_multiplier")  # Granite; Inkling, in front of a head without bias
CAPPED = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")  # Gemma 2 and later, xLSTM, RecurrentGemma
CUT = ("unpadded_vocab_size",)
"""Attributes of a model and of its text config that describe how its forward changes the head's output."""


def parts_of_structure(lm: Any) -> dict[str, Any]:
    """The fields of a causal LM's `Anatomy`.

    Raises:
        ModelError: See `Anatomy.of`.
    """
    _check(lm)
    config, embedding_head = lm.config, lm.get_output_embeddings()
    text_config = config.get_text_config()
    path, blocks = _find_blocks(lm, text_config)
    if len(blocks) < 2:
        raise ModelError(
            f"{type(lm).__name__} has {len(blocks)} layer; DoLa needs at least 2, one to contrast the last with.",
            hint="use a deeper model",
        )
    owner = lm.get_submodule(path.rpartition(".")[0])
    named = FINAL_NORMS.get(config.model_type)
    return {
        "lm": lm,
        "blocks": tuple(blocks),
        "final_norm": lm.get_submodule(named) if named else _find_final_norm(lm, path, blocks),
        "projection": _find_projection(lm, owner),
        "head": _find_head(lm, embedding_head, blocks),
        "logit_transform": _find_logit_transform(lm, text_config),
        "tied": _is_tied(lm, embedding_head, config),
        "stream": _find_stream(owner),
    }


def transform_attributes(lm: Any) -> list[tuple[dict[str, Any], str]]:
    """Where the forward of `lm` reads the numbers of its logit transform: a namespace and a name for each."""
    config = lm.config.get_text_config()
    return [
        *((vars(lm), name) for name in MULTIPLIED_BY_MODEL),
        *((vars(config), name) for name in (*MULTIPLIED, *DIVIDED, *CAPPED, *CUT)),
    ]


def _check(lm: Any) -> None:
    """Raise ModelError unless `lm` is a causal LM of transformers with its own head."""
    name = type(lm).__name__
    config = getattr(lm, "config", None)
    if config is None or not hasattr(lm, "get_output_embeddings"):
        raise ModelError(f"{name} is not a Hugging Face model.", hint=_use(inside(lm)))
    # InstructBLIP says so only in its text config.
    if any(getattr(part, "is_encoder_decoder", False) for part in (config, config.get_text_config())):
        raise ModelError(
            f"{name} is an encoder-decoder; DoLa contrasts the layers of a decoder-only model.",
            hint="use a causal language model, one that AutoModelForCausalLM loads",
        )
    if (reason := why_not(lm)) is not None:
        raise ModelError(f"{name} cannot be contrasted: {reason}.", hint="use a model of another architecture")
    if lm.get_output_embeddings() is None:
        raise ModelError(f"{name} has no LM head, so its layers cannot be read out as tokens.", hint=_use(inside(lm)))


def _find_blocks(lm: Any, config: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks: of the length in the text config, in a part of the model for text, next to the input
    embeddings if possible, otherwise the largest."""
    embeddings = lm.get_input_embeddings()
    texts = {config.model_type, lm.config.model_type}

    def rank(found: tuple[str, nn.ModuleList]) -> tuple[bool, bool, bool, int]:
        path, blocks = found
        owners = [lm.get_submodule(".".join(path.split(".")[:depth])) for depth in range(path.count(".") + 1)]
        kinds = [owner.config.model_type for owner in owners if hasattr(owner, "config")]
        beside_embeddings = any(module is embeddings for module in owners[-1].modules())
        size = sum(p.numel() for p in blocks.parameters())
        as_long = len(blocks) == getattr(config, "num_hidden_layers", None)
        return as_long, kinds[-1] in texts, beside_embeddings, size  # an image encoder has its own config

    lists = [(path, m) for path, m in lm.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not lists:
        raise ModelError(f"{type(lm).__name__} has no list of blocks, so it has no layers to contrast.", hint=_LOAD)
    return max(lists, key=rank)


def _find_final_norm(lm: nn.Module, path: str, blocks: nn.ModuleList) -> Part | None:
    """The norm next to the blocks: the last one registered after them, or one named final. Without one, the norm after the
    module that holds the blocks, as in RoBERTa-PreLayerNorm."""
    norms, after_blocks = [], False
    for name, child in lm.get_submodule(path.rpartition(".")[0]).named_children():
        if _is_norm(name, child) and (after_blocks or "final" in name):
            norms.append((name, child))
        after_blocks = after_blocks or child is blocks
    if norms:
        return next((norm for name, norm in norms if name == "norm"), norms[-1][1])  # Gemma 4 has one for its inputs after it
    above, _, holder = path.rpartition(".")[0].rpartition(".")
    around = dict(lm.get_submodule(above).named_children()) if above else {}
    after = list(around.items())[list(around).index(holder) + 1 :] if holder in around else []
    return next((child for name, child in after if "norm" in type(child).__name__.lower()), None)


def _find_projection(lm: nn.Module, owner: nn.Module) -> Part | None:
    """The part between final norm and head: OPT's project_out, or a prediction head next to the output embedding."""
    beside = (child for child in lm.children() if type(child).__name__.endswith(("PredictionHead", "GeneratorPredictions")))
    projection: Part | None = getattr(owner, "project_out", None)
    return projection if projection is not None else next(beside, None)


def _find_stream(owner: Any) -> Part | None:
    """The part that merges several streams of blocks into one residual stream."""
    if hasattr(owner, "altup_unembed_projections"):
        return AltUp(owner.altup_unembed_projections)
    merges = ("hc_head", "hyper_connection_mixer")  # DeepSeek V4 and on, Qwen 4
    return next((getattr(owner, name) for name in merges if hasattr(owner, name)), None)


def _is_norm(name: str, module: nn.Module) -> bool:
    named = "norm" in type(module).__name__.lower() or "norm" in name or name.startswith("ln_")
    return named and name != "layernorm_embedding" and not isinstance(module, nn.ModuleList)  # which BART's decoder begins with


def _find_head(lm: nn.Module, embedding_head: nn.Module, blocks: nn.ModuleList) -> Part:
    """The output embedding, or the largest module around it without a block (BERT-like prediction heads)."""
    path = next((path for path, module in lm.named_modules() if module is embedding_head), "")
    names = path.split(".")
    for length in range(1, len(names)):
        around = lm.get_submodule(".".join(names[:length]))
        if not any(module is blocks for module in around.modules()):
            return around
    return embedding_head


def _find_logit_transform(lm: nn.Module, config: Any) -> Part | None:
    """The change that the forward of `lm` makes to the head's output, by attributes that architectures share."""
    steps: list[Part] = [Scale(value) for value in (*_numbers(lm, MULTIPLIED_BY_MODEL), *_numbers(config, MULTIPLIED))]
    steps += [Scale(1 / value) for value in _numbers(config, DIVIDED)]
    steps += [SoftCap(value) for value in _numbers(config, CAPPED)]
    unpadded = _numbers(config, CUT)
    if unpadded and unpadded[0] < getattr(config, "vocab_size", 0):
        steps.append(Cut(int(unpadded[0])))
    return steps[0] if len(steps) == 1 else Chain(tuple(steps)) if steps else None


def _numbers(source: Any, names: Iterable[str]) -> list[float]:
    """The values of the attributes that exist and are numbers other than 0."""
    values = [getattr(source, name, None) for name in names]
    return [float(value) for value in values if isinstance(value, (int, float)) and value]


def _is_tied(lm: Any, head: nn.Module, config: Any) -> bool:
    """Whether head and input embedding share weights, according to the config or the parameters themselves."""
    if getattr(config, "tie_word_embeddings", False):
        return True
    weight = getattr(lm.get_input_embeddings(), "weight", None)
    return weight is not None and weight is getattr(head, "weight", None)


def _use(found: str | None) -> str:
    return f"use {found}" if found else _LOAD


_LOAD = "load the model with AutoModelForCausalLM.from_pretrained(...)"

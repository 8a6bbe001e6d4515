"""Why a model does not have the weights of its file, and how to fix it: the usual causes, recognized by weights' names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from dola.loading.weight_lists import SCALES, SHOWN, Lists, numbered

OTHER_HEADS = re.compile(
    r"(^|\.)(score|classifier|classification_head|qa_outputs|v_head|value_head|reward_head|regression_head)\."
)
"""Heads that do not predict text: those of sequence classifiers, reward models, value models, question answering."""
OTHER_TASKS = ("Classification", "Reward", "QuestionAnswering", "ValueModel", "TokenLevel")
UNMERGED = re.compile(r"\.base_layer\.|\.lora_[AB]\b|\.lora_(embedding|magnitude)|\.modules_to_save\.")
MAGNITUDE = ".lora_magnitude_vector."
PACKED = re.compile(r"\.(qweight|weight_packed|weight_shape|weight_blocks|weight\.quant_state\S*)$")

MAKERS_CONFIG = "put the quantization_config of the model's makers into config.json: fetch the model again"
"""The hint if weights are quantized and config.json does not say how."""

Cause = tuple[str, str]
"""A sentence about the cause, and a hint."""


def _prefixed(lists: Lists) -> Cause | None:
    """The file's keys are the model's, each with the same prefix."""
    ends = set(lists.missing)
    prefixes = Counter(
        name[: match.end()]
        for name in lists.unexpected
        for match in re.finditer(r"\.", name)
        if name[match.end() :] in ends  # every part of the name after a dot
    )
    if not prefixes or (most := prefixes.most_common(1)[0])[1] < 0.5 * min(len(ends), len(lists.unexpected)):
        return None
    prefix = most[0]
    return (
        f"The file has them under names that begin with {prefix!r}, which a trainer or a larger model adds.",
        f"remove the prefix: {_strip(lists.source, prefix)}",
    )


def _strip(source: str, prefix: str) -> str:
    """A command that removes the prefix from safetensors in a folder, or instructions for any other file."""
    if not list(Path(source).glob("*.safetensors")):
        return f"save the state dict with key.removeprefix({prefix!r}) for each of its keys"
    return (
        'python -c "import glob; from safetensors.torch import load_file, save_file; '
        f"[save_file({{k.removeprefix('{prefix}'): v for k, v in load_file(f).items()}}, f, metadata={{'format': 'pt'}}) "
        f"for f in glob.glob('{source}/*.safetensors')]\""
    )


def _unmerged(lists: Lists) -> Cause | None:
    if not any(UNMERGED.search(name) for name in lists.unexpected):
        return None
    return (
        "The file holds a model with an adapter that was not merged.",
        "merge it before saving: model.merge_and_unload().save_pretrained(folder)",
    )


def _quantised(lists: Lists) -> Cause | None:
    if not any(PACKED.search(name) or SCALES.search(name) for name in lists.unexpected):
        return None
    return (
        "The file's weights are quantized, and config.json does not say how.",
        MAKERS_CONFIG,
    )


def _other_head(lists: Lists) -> Cause | None:
    heads = [name for name in lists.unexpected if OTHER_HEADS.search(name)]
    tasks = [name for name in lists.architectures if any(task in name for task in OTHER_TASKS)]
    if not (_only_head(lists) and (heads or tasks)):
        return None
    return (
        f"This is a reward model or a classifier ({', '.join([*tasks, *heads[:1]])}); it has no language-modeling head.",
        "use the language model that it was trained from",
    )


def _no_head(lists: Lists) -> Cause | None:
    if not _only_head(lists):
        return None
    return (
        "The head was not saved: a sharded or partial save lost it, or only the body was saved (AutoModel).",
        "save the whole model again with AutoModelForCausalLM; only if its head is the input embedding, set "
        "tie_word_embeddings to true in config.json",
    )


def _only_head(lists: Lists) -> bool:
    return bool(lists.head) and not lists.mismatched and all(name.startswith(f"{lists.head}.") for name in lists.missing)


def _no_layers(lists: Lists) -> Cause | None:
    """Every missing weight belongs to a layer that the file lacks completely."""
    layers: dict[str, set[str]] = {}
    for name in lists.names:
        for path, number, _ in islice(numbered(name), 1):
            layers.setdefault(f"{path}{number}", set()).add(name)
    missing = set(lists.missing)
    whole = [layer for layer, names in layers.items() if names <= missing]
    if not whole or lists.mismatched or missing - set().union(*(layers[layer] for layer in whole)):
        return None
    return (
        f"These are whole layers: {', '.join(whole[:SHOWN])}{', ...' if len(whole) > SHOWN else ''}.",
        "if a file of a sharded model is missing, fetch it; if config.json gives too many layers, correct num_hidden_layers",
    )


def _other_shapes(lists: Lists) -> Cause | None:
    if not lists.mismatched:
        return None
    return (
        "The weights and config.json belong to different models, or the vocabulary was resized and only one of them was saved.",
        "fetch both again, or save both with model.save_pretrained(folder)",
    )


def _wrong_adapter(lists: Lists) -> Cause | None:
    if lists.kind != "adapter":
        return None
    if all(MAGNITUDE in name for name in lists.missing) and not lists.mismatched:
        return (
            "It is a DoRA adapter, and transformers does not find its magnitudes under PEFT's names.",
            'merge it with PEFT: python -c "from peft import AutoPeftModelForCausalLM as Model; '
            f"Model.from_pretrained('{lists.source}').merge_and_unload().save_pretrained('{lists.source}-merged')\", and copy "
            "the tokenizer's files of its base model into that folder",
        )
    return "The adapter is incomplete, or it is for another model.", "save it again, with the base model that it names"


def _unknown(lists: Lists) -> Cause:
    said = f" ({', '.join(lists.architectures)})" if lists.architectures else ""
    return (
        f"The file is incomplete, or its weights belong to another architecture than the one in config.json{said}.",
        "fetch or save the model again, with its config.json; merge the parts of a model that was saved in parts",
    )


CAUSES: tuple[Callable[[Lists], Cause | None], ...] = (
    _wrong_adapter,
    _unmerged,
    _prefixed,
    _quantised,
    _other_head,
    _no_head,
    _no_layers,
    _other_shapes,
    _unknown,
)
"""The usual causes; a message names the first that applies."""


def cause_of(lists: Lists) -> Cause:
    """The most likely cause of missing weights or different shapes, and a hint."""
    return next(cause for each in CAUSES if (cause := each(lists)) is not None)

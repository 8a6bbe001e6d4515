"""Load a model for MLX. transformers 5 writes config fields that mlx-lm does not read; they are translated, or refused.

transformers 5 keeps a model's rotary settings in `rope_parameters`; most of mlx-lm's files read `rope_theta` and
`rope_scaling`, and take defaults where these are missing. Such a folder decodes other tokens, with no message.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import mlx_lm
from mlx_lm import utils

from dola.errors import ModelFileError
from dola.files.json_text import BrokenJSONError, loads

GLOBAL, LOCAL = "full_attention", "sliding_attention"
LOCAL_FIELDS = ("rope_local_base_freq", "local_rope_theta", "rope_local_theta", "swa_rope_theta")
"""Names under which mlx-lm's files read the base of layers with a window."""


def load(name: str, **kwargs: Any) -> Any:
    """`mlx_lm.load`, for folders of transformers 5 too.

    Args:
        name: A folder, or the id of a repository on the hub.
        **kwargs: Arguments of `mlx_lm.load`.

    Returns:
        The model and its tokenizer, and its config too with `return_config=True`.

    Raises:
        ModelFileError: It cannot be loaded, or its config has settings that mlx-lm does not read.
    """
    try:
        folder = utils._download(name, revision=kwargs.get("revision"))
        config = utils.load_config(Path(folder))
        config.update(kwargs.pop("model_config", None) or {})
        changed = translated(config)
        return mlx_lm.load(name, model_config=changed, **kwargs)
    except ModelFileError:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelFileError(
            f"{name!r} cannot be loaded with MLX: {line}",
            hint='give a folder with safetensors, or a repository such as "mlx-community/SmolLM2-135M-Instruct"',
        ) from error


def own_generation(name: str, revision: str | None = None) -> dict[str, Any]:
    """The fields of a model's generation_config.json; empty if it has none.

    Raises:
        ModelFileError: The file does not hold a JSON object.
    """
    path = Path(utils._download(name, revision=revision)) / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        found = loads(path.read_text(encoding="utf-8"))
    except (BrokenJSONError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ModelFileError(f"{str(path)!r} does not hold a JSON object.", hint="correct it, or remove it")
    return found


def translated(config: dict[str, Any]) -> dict[str, Any]:
    """A config, with the fields of transformers 5 under the names that mlx-lm reads.

    Raises:
        ModelFileError: mlx-lm's file for this architecture has no field for what the config says.
    """
    new = _translated(config)
    for part in ("text_config", "language_config", "llm_config"):
        if isinstance(inner := config.get(part), dict):
            new[part] = _translated({"model_type": config.get("model_type"), **inner})
    return new


def _translated(config: dict[str, Any]) -> dict[str, Any]:
    new = dict(config)
    known = _fields(config.get("model_type"))
    pattern = config.get("_sliding_window_pattern")
    if pattern is not None and "sliding_window_pattern" in known:
        new.setdefault("sliding_window_pattern", pattern)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_parameters" in known:
        return new
    kinds = {key: value for key, value in rope.items() if isinstance(value, dict)}
    if not kinds:
        return {**new, **_flat(rope, known, config)}
    if unknown := set(kinds) - {GLOBAL, LOCAL}:
        raise _refusal(config, f"rope_parameters of {', '.join(sorted(unknown))}")
    new.update(_flat(kinds.get(GLOBAL, {}), known, config))
    return {**new, **_local(kinds.get(LOCAL), kinds.get(GLOBAL), known, config)}


def _flat(rope: dict[str, Any], known: set[str], config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings of all layers, or of those without a window."""
    new: dict[str, Any] = {}
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if "rope_theta" in rope:
        name = next((each for each in ("rope_theta", "rope_global_base_freq", "rotary_emb_base") if each in known), None)
        if name is None and known:
            raise _refusal(config, f"rope_theta={rope['rope_theta']}")
        new[name or "rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        new["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if scaling.get("rope_type", "default") != "default":
        if known and "rope_scaling" not in known:
            raise _refusal(config, f"rope_type={scaling['rope_type']!r}")
        new["rope_scaling"] = {**scaling, "type": scaling["rope_type"]}
    return new


def _local(
    rope: dict[str, Any] | None, whole: dict[str, Any] | None, known: set[str], config: dict[str, Any]
) -> dict[str, Any]:
    """Rotary settings of the layers with a window."""
    if rope is None or rope == whole:
        return {}
    name = next((each for each in LOCAL_FIELDS if each in known), None)
    if name is None or rope.get("rope_type", "default") != "default":
        raise _refusal(config, f"rotary settings of layers with a window ({rope})")
    return {name: rope["rope_theta"]}


def _refusal(config: dict[str, Any], what: str) -> ModelFileError:
    return ModelFileError(
        f"The config of this {config.get('model_type')!r} says {what} in a field of transformers 5, and mlx-lm's file for "
        "this architecture reads no such field: it would decode other tokens.",
        hint="use a folder that mlx_lm.convert made, or decode with transformers: dola.load",
    )


def _fields(model_type: Any) -> set[str]:
    """Fields that mlx-lm's file for a model type reads; empty if mlx-lm does not have this file."""
    name = utils.MODEL_REMAPPING.get(model_type, model_type)
    try:
        module = importlib.import_module(f"mlx_lm.models.{name}")
    except ImportError:
        return set()
    kind = getattr(module, "ModelArgs", None)
    return set(inspect.signature(kind).parameters) if kind is not None else set()

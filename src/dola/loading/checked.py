"""Loads models of transformers' auto classes and checks their weights. `dola.load` and the lm-eval types use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dola.files.json_text import loads
from dola.loading.adapter_folder import HUB, Adapter, as_base_of, base_alone, find_adapter, put_on
from dola.loading.embedded import Progress, to_stderr
from dola.loading.generation_file import checked_generation_config, folder_of
from dola.loading.load_errors import in_our_words
from dola.loading.names import check_gguf, gguf_settings, resolve
from dola.loading.weights import WeightsReport
from dola.model.stored import note_dequantized

OnWeights = Callable[[WeightsReport], None]

OURS = {*HUB, "dtype", "torch_dtype", "device_map", "trust_remote_code", "gguf_file", "quantization_config", "max_memory"}
"""Arguments of `from_pretrained` whose values have been checked, or cannot fail unnoticed. With any other argument a failure
may be the caller's mistake, so it is raised unchanged."""


def load_weights(
    auto: Any, source: str, *, progress: Progress | None = None, on_weights: OnWeights | None = None, **kwargs: Any
) -> Any:
    """Load a model of an auto class of transformers and check that it has the weights of its file.

    Args:
        auto: `AutoModelForCausalLM`, or another class with `from_pretrained`.
        source: A hub id or a folder, of a model or of an adapter.
        progress, on_weights: See `dola.load`.
        **kwargs: Passed to `from_pretrained`.

    Raises:
        ModelFileError, ModelError, MissingExtraError: See `dola.load`.
    """
    judge = _Judge(progress, on_weights)
    with in_our_words("model", source, None, ours=_are_ours(kwargs)):
        adapter = None if kwargs.get("gguf_file") else find_adapter(source, kwargs)
    if adapter is None:
        return _load_checked(auto, source, source, judge, kwargs)
    model = _load_base(auto, adapter, judge, kwargs)
    with in_our_words("adapter", source, None, ours=_are_ours(kwargs)):
        info = put_on(model, adapter, kwargs, say=progress or to_stderr)
    judge(WeightsReport.of(source, model, info, adapter=True))
    return model.eval()


class _Judge:
    """Refuses a model with wrong weights, or leaves that to the caller, and passes on notes about its weights."""

    def __init__(self, progress: Progress | None, on_weights: OnWeights | None) -> None:
        self._say, self._on_weights = progress or to_stderr, on_weights

    def __call__(self, report: WeightsReport) -> None:
        if self._on_weights is not None:
            self._on_weights(report)
            return
        report.refuse()
        for note in report.notes:
            self._say(note)


def _load_checked(auto: Any, source: str, shown: str, judge: _Judge, kwargs: dict[str, Any]) -> Any:
    """Load a model and judge its weights. `shown` is its name in messages."""
    name = kwargs.get("gguf_file")
    gguf = Path(source, name) if name and Path(source, name).is_file() else None
    header = check_gguf(gguf) if gguf else None
    kwargs = {**checked_generation_config(source, kwargs), **kwargs}
    asked = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}  # mismatched ones are on the list
    with in_our_words("model", shown, gguf, ours=_are_ours(kwargs)):
        model, info = auto.from_pretrained(source, **asked)
    depths = {"num_hidden_layers", getattr(model.config, "attribute_map", {}).get("num_hidden_layers")}
    on_purpose = bool({"config", *depths} & kwargs.keys())
    shown = str(gguf) if gguf else shown
    folder = None if gguf or kwargs.get("variant") else folder_of(source, kwargs)
    judge(WeightsReport.of(shown, model, info, cut_on_purpose=on_purpose, header=header, folder=folder))
    _give_outputs_names(model)
    if header.is_quantized if header else _was_dequantized(model, folder, kwargs):
        note_dequantized(model)
    return model


def _was_dequantized(model: Any, folder: Path | None, kwargs: dict[str, Any]) -> bool:
    """Whether the weights of a folder are quantized and those of the model are not: transformers drops the setting then."""
    if getattr(model.config, "quantization_config", None) is not None:
        return False
    return kwargs.get("quantization_config") is not None or _config_says_quantized(folder)


def _config_says_quantized(folder: Path | None) -> bool:
    try:
        found = loads((folder / "config.json").read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("quantization_config") is not None


def _give_outputs_names(model: Any) -> None:
    """Make `generate` work with a config.json that has `"return_dict": false`: it reads each part's outputs by name."""
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "return_dict", True) is False:
            config.return_dict = True


def _load_base(auto: Any, adapter: Adapter, judge: _Judge, kwargs: dict[str, Any]) -> Any:
    """Load the model that an adapter is for and judge its weights."""
    own = {
        key: value for key, value in kwargs.items() if key not in ("revision", "subfolder", "adapter_kwargs", "adapter_name")
    }
    if adapter.holds_base:
        with base_alone(adapter) as folder:
            model = _load_checked(auto, folder, adapter.source, judge, own)
        model.config.name_or_path = adapter.source
        return model
    if adapter.revision is not None:
        own["revision"] = adapter.revision
    with as_base_of(adapter):
        source, where = resolve(adapter.base, None)
        return _load_checked(auto, source, source, judge, {**gguf_settings(where), **own, **where})


def load_tokenizer(source: str, where: dict[str, str], kwargs: dict[str, Any]) -> Any:
    """The tokenizer of a model. For an adapter: its own, or else its base model's."""
    from transformers.utils import cached_file

    gguf = Path(source, where["gguf_file"]) if where else None
    code: dict[str, Any] = {
        key: kwargs[key] for key in ("trust_remote_code", "revision", "token", "local_files_only") if key in kwargs
    }
    with in_our_words("tokenizer", source, gguf, ours=_are_ours(kwargs)):
        look = {key: value for key, value in code.items() if key != "trust_remote_code"}
        if not where and not Path(source).is_dir():
            _check_reachable(source, {**look, **{name: kwargs[name] for name in ("cache_dir", "proxies") if name in kwargs}})
        adapter = None if where else find_adapter(source, kwargs)
        if adapter is not None and not adapter.holds_base:
            quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
            if cached_file(source, "tokenizer_config.json", **look, **quiet) is None:
                with as_base_of(adapter):
                    source, where = resolve(adapter.base, None)
                    code.pop("revision", None)
                    return _tokenizer(source, where, code, ours=_are_ours(kwargs))
        return _tokenizer(source, where, code, ours=_are_ours(kwargs))


def _check_reachable(source: str, look: dict[str, Any]) -> None:
    """Fail at once if nothing of a model is in the hub's cache and the hub cannot be reached.

    Otherwise each file of it would be requested in turn, with the hub client's retries for each.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name
    from transformers.utils import cached_file

    if Path(look.get("cache_dir") or HF_HUB_CACHE, repo_folder_name(repo_id=source, repo_type="model"), "snapshots").is_dir():
        return
    try:
        cached_file(source, "config.json", **look)
    except OSError as error:  # for instance an adapter, which has none
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise


def _tokenizer(source: str, where: dict[str, str], code: dict[str, Any], *, ours: bool) -> Any:
    from transformers import AutoConfig, AutoTokenizer

    gguf = Path(source, where["gguf_file"]) if where else None
    with in_our_words("tokenizer", source, gguf, ours=ours):
        try:
            return AutoTokenizer.from_pretrained(source, padding_side="left", **code, **where)
        except Exception:
            if not where:  # it reads config.json, too: check whether that is to blame
                with in_our_words("config.json", source, None, ours=ours):
                    AutoConfig.from_pretrained(source, **code)
            raise


def _are_ours(kwargs: dict[str, Any]) -> bool:
    """Whether the caller passed only checked arguments, so that a failure cannot be the fault of one."""
    return not any(value for name, value in kwargs.items() if name not in OURS)

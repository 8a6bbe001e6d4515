"""Models in folders, engines on them, and the same decoded by transformers."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import command
import torch
from families import spread_logits, tiny

import dola
from dola.methods import MethodConfig

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
"""vLLM's attention on CPUs takes heads of 32 and more."""


def save_tiny(folder: Path, family: str = "llama", **settings: Any) -> Path:
    """A tiny random model with a tokenizer that takes any text. A setting that is None is left out."""
    sizes = {name: value for name, value in {**SIZES, **settings}.items() if value is not None}
    model, tokenizer = tiny(family, **sizes), command.tokenizer()
    if model.config.tie_word_embeddings:
        _say_more_than_the_last_token(model)
    tokenizer.chat_template = command.TEMPLATE
    model.generation_config.eos_token_id = model.config.eos_token_id  # vLLM reads it in config.json too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _say_more_than_the_last_token(model: Any) -> None:
    """Random models with a tied head repeat their last token however they decode. Random norms prevent that."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.add_(3 * torch.randn(parameter.shape, generator=generator))
    spread_logits(model, {"input_ids": torch.arange(3, 40)[None]})


def save_real(loaded: Any, folder: Path) -> Path:
    """An embedded model as safetensors: vLLM reads no GGUF here."""
    model, tokenizer = loaded
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options_for(way: Any) -> dict[str, Any]:
    """A request's options for these layers or this configuration, as flat values; none for a plain request."""
    if not isinstance(way, MethodConfig):
        return {} if way is None else {"dola_layers": way}
    given = {name: value for name, value in way.as_dict().items() if name not in ("lazy", "lens")}
    return {f"dola_{name}": int(value) if isinstance(value, bool) else value for name, value in given.items()}


class Engine:
    """A vLLM engine in this process, float32, greedy unless a call says otherwise; `dola` is its part of additional_config."""

    def __init__(self, folder: Path, dola: dict[str, Any] | None, **settings: Any) -> None:
        from vllm import LLM

        given = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 32, "seed": 0, **settings}
        extra = {} if dola is None else {"additional_config": {"dola": dola}}
        self.folder = folder
        self.llm: Any = LLM(str(folder), **extra, **given)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()

    def outputs(self, prompts: list[Any], options: Any = None, adapters: Any = None, **sampling: Any) -> list[Any]:
        """vLLM's outputs; `options` are a request's DoLa options, `adapters` LoRARequests, for all prompts or one for each.

        `sampling` may have `prompt_logprobs` for each: only plain requests can have them.
        """
        from vllm import SamplingParams

        each = options if isinstance(options, list) else [options] * len(prompts)
        wanted = sampling.pop("prompt_logprobs", None)
        lists = wanted if isinstance(wanted, list) else [wanted] * len(prompts)
        given = {"temperature": 0, "max_tokens": 16, **sampling}
        params = [SamplingParams(**given, extra_args=o, prompt_logprobs=n) for o, n in zip(each, lists, strict=True)]
        found: list[Any] = self.llm.generate(prompts, params, lora_request=adapters, use_tqdm=False)
        return found

    def tokens(self, prompts: list[Any], options: Any = None, adapters: Any = None, **sampling: Any) -> list[list[int]]:
        return [list(output.outputs[0].token_ids) for output in self.outputs(prompts, options, adapters, **sampling)]


class Judge:
    """transformers on the same folder: what the engine's tokens are held against."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = dola.load(folder, dtype="float32")

    def tokens(self, prompt: Any, layers: Any = None, **settings: Any) -> list[int]:
        inputs = self.tokenizer(prompt, return_tensors="pt")
        given = {**inputs, "max_new_tokens": 16, "do_sample": False, **settings}
        out = self.model.generate(**given) if layers is None else dola.generate(self.model, dola_layers=layers, **given)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

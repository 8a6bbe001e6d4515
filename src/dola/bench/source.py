"""The source of a benchmark's model: a name that `dola.load` accepts, or a well-known shape with random weights.

Speed depends on shapes, not on the values of weights, so a machine without a model hub can time an 8B model. One thing does
depend on the weights: how often only one token is plausible. With random weights many always are, so every position pays for
the full contrast, and the times are an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dola.errors import ConfigError, InputError
from dola.loading.models import LoadedModel, load

DTYPES = ("auto", "float32", "bfloat16", "float16")

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3-8b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
    ),
    "qwen3-8b": (
        "qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
    ),
    "llama-3.2-1b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "tie_word_embeddings": True,
        },
    ),
    "tiny": (
        "llama",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        },
    ),
}
"""Architectures and sizes by name. "tiny" is for trying out the benchmark itself."""


@dataclass(frozen=True)
class Source:
    """Model, device and dtype. It can be sent to another process as JSON, to load the same model there.

    Attributes:
        model: A name that `dola.load` accepts or, with `random_weights`, a name in `SHAPES`.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        device: A device of torch, or "auto": CUDA if available, otherwise the CPU.
        random_weights: Whether to create the model with random weights.
        trust_remote_code: Whether the model's own code may run.
    """

    model: str = "smollm2"
    dtype: str = "auto"
    device: str = "auto"
    random_weights: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"dtype={self.dtype!r} is not supported. Allowed: {', '.join(DTYPES)}.", hint="use bfloat16 or float32"
            )
        if self.random_weights and self.model not in SHAPES:
            raise ConfigError(
                f"{self.model!r} is not a shape for random weights. Available: {', '.join(SHAPES)}.",
                hint="use one of them, or load real weights with --model",
            )

    def load(self, progress: Callable[[str], None] | None = None) -> LoadedModel:
        """Load the model onto its device, or create it with the same random weights every time, without a tokenizer.

        Raises:
            ConfigError: This machine does not have the device.
            ModelFileError, DownloadError, MissingExtraError: See `dola.load`.
        """
        device = self._device()
        if self.random_weights:
            return LoadedModel(_make(self.model, device, None if self.dtype == "auto" else getattr(torch, self.dtype)), None)
        model, tokenizer = load(self.model, progress=progress, dtype=self.dtype, trust_remote_code=self.trust_remote_code)
        return LoadedModel(model.to(device), tokenizer)

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"device={self.device!r} is not available. Allowed: auto, cpu, and the devices that torch finds.",
                hint="use --device auto or cpu",
            ) from error
        if device.type == "meta":
            raise InputError("device='meta' does not compute, so it cannot be timed.", hint="use --device cpu or cuda")
        return device


def _make(shape: str, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A model of a shape with random weights, created on its device: 8B parameters never pass through the CPU's memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, sizes = SHAPES[shape]
    # These shapes' special token ids exceed some of the sizes here, and no generation here ends with one.
    config = AutoConfig.for_model(family, **sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
    return model.eval().requires_grad_(False)

"""Checkpoints as llm-compressor writes them: compressed-tensors' formats, scales from the largest weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHANNEL8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
TOKEN = {"type": "int", "strategy": "token"}
"""Activations rounded to 8 bits by token, when they are known."""


def save_compressed(
    model: Any,
    folder: Path,
    weights: dict[str, Any],
    activations: dict[str, Any] | None = None,
    *,
    form: str = "int-quantized",
    head: bool = False,
) -> None:
    """Quantize a model, in place, and save it: linear layers, and its head on request. It saves no tokenizer."""
    from compressed_tensors import compressors, quantization

    rounding = {"weights": quantization.QuantizationArgs(**weights)}
    if activations:
        rounding["input_activations"] = quantization.QuantizationArgs(dynamic=True, num_bits=8, **activations)
    group = quantization.QuantizationScheme(targets=["Linear"], **rounding)
    settings = {"ignore": [] if head else ["lm_head"], "format": form, "quantization_status": "frozen"}
    quantization.apply_quantization_config(model, quantization.QuantizationConfig(config_groups={"all": group}, **settings))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.unflatten(-1, (-1, weights.get("group_size", module.weight.shape[-1])))
            largest = 448 if weights["type"] == "float" else 2 ** (weights["num_bits"] - 1) - 1
            module.weight_scale.data.copy_(groups.abs().amax(-1) / largest)
    compressor = compressors.ModelCompressor.from_pretrained_model(model, form)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)

"""What tells a model from others: a few numbers of each weight of each block, of the final norm and of the head.

A checksum would refuse the same model in another number type. The head alone would accept a fine-tune with other blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from dola.model.adapters_on import adapted, added
from dola.model.anatomy import Anatomy

SAMPLES = 16
"""Numbers of each weight that are kept."""
SAME = 5e-3
"""Largest relative difference that another number type makes: bfloat16 rounds to 2e-3."""
QUANTIZED = 0.2
"""Largest relative difference that quantization makes, 4-bit included."""


def parts(anatomy: Anatomy) -> Iterator[tuple[str, nn.Module]]:
    """The parts that are compared, by name."""
    yield from ((f"block.{j}", block) for j, block in enumerate(anatomy.blocks))
    for name, part in (("norm", anatomy.final_norm), ("head", anatomy.head)):
        if isinstance(part, nn.Module):
            yield name, part


@torch.no_grad()
def statistics(anatomy: Anatomy) -> dict[str, Tensor]:
    """By part and weight: mean, root mean square, and `SAMPLES` elements, float32."""
    return statistics_of(parts(anatomy))


@torch.no_grad()
def statistics_of(named: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """The same for parts that were named as `parts` names them. What adapters add counts, merged or not."""
    found: dict[str, Tensor] = {}
    for part, module in named:
        deltas = {f"{layer}.base_layer.weight".lstrip("."): added(it, names) for layer, it, names in adapted(module)}
        for name, weight in module.named_parameters():
            if weight.is_floating_point() and weight.numel() and weight.device.type != "meta" and "lora_" not in name:
                delta = deltas.get(name)
                found[f"{part}.{_plain(name)}"] = numbers_of(weight if delta is None else weight + delta.to(weight))
    return found


def _plain(name: str) -> str:
    return name.replace("base_layer.", "")


def numbers_of(weight: Tensor) -> Tensor:
    """The numbers of one weight."""
    flat = weight.detach().flatten()
    places = torch.linspace(0, len(flat) - 1, SAMPLES, dtype=torch.float64).long()
    mean, rms = flat.mean(dtype=torch.float32), torch.linalg.vector_norm(flat, dtype=torch.float32) / len(flat) ** 0.5
    return torch.cat([torch.stack([mean, rms]).cpu(), flat[places.to(flat.device)].float().cpu()])


def difference(ours: Tensor, theirs: Tensor) -> float:
    """How much a weight differs, relative to its size: in its samples, and in its root mean square."""
    size = max(float(ours[1]), 1e-12)
    samples = float((ours[2:] - theirs[2:]).square().mean().sqrt()) / size
    return max(samples, abs(float(ours[1] - theirs[1])) / size)

"""A lens: one linear map and bias per layer of one model, from the layer's state to what the head can read.

linear:  q_l = softmax(head(W_l h_l + b_l))                    least squares to the mature layer's normed state
tuned:   q_l = softmax(head(final_norm(h_l + A_l h_l + b_l)))  the residual form of tuned lenses (arXiv 2303.08112)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dola.errors import LensError
from dola.lens.file import read, write
from dola.lens.maps import Maps
from dola.lens.source import located

KINDS = ("linear", "tuned")


@dataclass(frozen=True, eq=False)
class Lens:
    """The maps of one model's layers, and what is known of them.

    Attributes:
        kind: "linear": the map replaces the final norm. "tuned": the map is added to the state, and the final norm follows.
        layers: The layers that have a map; 0 is the embedding output.
        weight: W (or A) of each layer, float32 [L, d, d].
        bias: b of each layer, float32 [L, d].
        mean: The mean state of each layer [L, d], where it is known: it keeps rounded weights exact there.
        facts: Facts about the lens, for JSON: model, revision, num_layers, dtype, tokens, text, text_sha256, table, dola.
        statistics: What tells the model from others, see `fingerprint`.
        digest: SHA-256 of the file; "" before the lens was saved.
        source: The file or hub id that it was loaded from, or saved to. Wherever a file is expected, such as the `lens` of a
            configuration, the lens stands for it.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> lens = dola.fit_lens(model, tokenizer, ["The Eiffel Tower is in Paris. " * 8] * 8, layers=[25])
        >>> lens.save("smollm2.lens.safetensors")
        >>> dola.Lens.load("smollm2.lens.safetensors").layers
        (25,)
        >>> config = dola.DoLaConfig([25], lens="smollm2.lens.safetensors")
        >>> dola.DoLaConfig([25], lens=lens) == config
        True
    """

    kind: str
    layers: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    mean: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    digest: str = ""
    source: str = ""

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Lens:
        """The lens of a file, or of a hub id with or without "@revision".

        Raises:
            LensError: It cannot be found or read, or it is not a lens.
        """
        name = os.fspath(source)
        path = located(name)
        try:
            state = path.stat()
        except OSError as error:
            raise LensError(f"The lens {str(path)!r} cannot be read: {error.strerror}.", hint="dola lens show FILE") from None
        return _loaded(name, path, state.st_mtime_ns, state.st_size)

    def __fspath__(self) -> str:
        """`source`: settings hold the name of a lens, as they hold nothing that JSON cannot.

        Raises:
            LensError: The lens was not saved, or its file has changed since.
        """
        if not self.source:
            raise LensError(
                f"This lens of {self.model} has no file yet, and settings hold the name of a file.",
                hint='save it first: lens.save("model.lens.safetensors")',
            )
        if Lens.load(self.source).digest != self.digest:
            raise LensError(
                f"The lens {self.source!r} has changed since it was loaded.", hint=f"load it again: Lens.load({self.source!r})"
            )
        return self.source

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the lens to a file. An existing file is replaced once the new one is complete.

        Raises:
            LensError: The file cannot be written.
        """
        tensors = {"weight": self.weight, "bias": self.bias, **{f"model.{k}": v for k, v in self.statistics.items()}}
        if self.mean is not None:
            tensors["mean"] = self.mean
        digest = write(Path(path), tensors, {"kind": self.kind, "layers": list(self.layers), **self.facts})
        object.__setattr__(self, "digest", digest)  # frozen: what the file says of itself is all that may change
        object.__setattr__(self, "source", os.fspath(path))

    @property
    def width(self) -> int:
        """d, the size of the states."""
        return self.weight.shape[-1]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.facts.get("model") or "unknown")

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise LensError where the lens has no map for one of these layers."""
        if missing := [layer for layer in layers if layer not in self.layers]:
            raise LensError(
                f"The lens of {self.model} has no map for layer {missing[0]}; it has {', '.join(map(str, self.layers))}.",
                hint="choose layers that the lens has, or fit one with --layers all",
            )

    def maps(self, layers: Sequence[int], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Maps:
        """The maps of some layers, on a device and in a number type.

        Rounding the weights changes what the mean state is mapped to. A few dimensions of it are huge, so that this is most of
        the rounding error; where the mean is known, the bias makes up for it.

        Raises:
            LensError: The lens has no map for one of these layers.
        """
        self.check_layers(layers)
        return _maps(self, tuple(layers), torch.device(device), dtype)


@functools.lru_cache(maxsize=2)  # each call of `generate` asks for the same; a set of maps is K * d^2 numbers
@torch.inference_mode(False)  # a call in inference mode may be followed by one with gradients
def _maps(lens: Lens, layers: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Maps:
    """See `Lens.maps`."""
    places = [lens.layers.index(layer) for layer in layers]
    weight, bias = lens.weight[places], lens.bias[places]
    rounded = weight.to(dtype)
    if lens.mean is not None:
        lost = weight.double() - rounded.double()
        bias = (bias.double() + torch.einsum("koi,ki->ko", lost, lens.mean[places].double())).to(bias)
    return Maps(
        layers=layers,
        weight=rounded.transpose(1, 2).contiguous().to(device),
        bias=bias.to(dtype)[:, None].contiguous().to(device),
        residual=lens.kind == "tuned",
        final_norm=lens.kind == "tuned",
    )


@functools.lru_cache(maxsize=4)
def _loaded(source: str, path: Path, changed: int, size: int) -> Lens:
    """A file is read once, and again when it has changed."""
    tensors, facts, digest = read(path)
    kind, layers = facts.pop("kind", None), facts.pop("layers", None)
    weight, bias, mean = tensors.get("weight"), tensors.get("bias"), tensors.get("mean")
    if (
        kind not in KINDS
        or not isinstance(layers, list)
        or any(type(layer) is not int for layer in layers)
        or not all(tensor.is_floating_point() for tensor in tensors.values())
        or weight is None
        or bias is None
        or weight.dim() != 3
        or weight.shape[1] != weight.shape[2]
        or len(weight) != len(layers)
        or bias.shape != weight.shape[:2]
        or (mean is not None and mean.shape != bias.shape)
    ):
        raise LensError(
            f"{str(path)!r} is not a lens that this version reads: its kind is {kind!r}, its layers are {layers!r}.",
            hint="fit it again: dola lens fit MODEL --output FILE",
        )
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise LensError(f"The lens {str(path)!r} has NaN or infinite numbers.", hint="fit it again on other text")
    statistics = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return Lens(kind, tuple(layers), weight.float(), bias.float(), mean, facts, statistics, digest, source)

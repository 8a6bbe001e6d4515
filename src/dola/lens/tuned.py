"""Reads folders of tuned lenses (Belrose et al., arXiv 2303.08112), as the package tuned-lens saves them.

config.json   base_model_name_or_path, base_model_revision, d_model, num_hidden_layers, bias, lens_type, unembed_hash
params.pt     a state dict: "0.weight" [d, d], "0.bias" [d], ... for hidden_states[0 .. N-1]
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dola.errors import LensError
from dola.files.json_text import BrokenJSONError, loads
from dola.lens.lens import Lens

LENS_TYPE = "linear_tuned_lens"
_HINT = "name a folder that has config.json and params.pt of tuned-lens"


def read_tuned(folder: Path) -> Lens:
    """The lens of a folder. Its pickle is opened for tensors only, so that no code in it runs.

    Raises:
        LensError: A file is missing, broken, or not of a tuned lens.
    """
    config, params = _config(folder / "config.json"), _params(folder / "params.pt")
    kind = config.get("lens_type", LENS_TYPE)
    if kind != LENS_TYPE:
        raise LensError(f"{str(folder)!r} is a lens of type {kind!r}; allowed is {LENS_TYPE!r}.", hint=_HINT)
    count, width = config.get("num_hidden_layers"), config.get("d_model")
    if not isinstance(count, int) or not isinstance(width, int) or isinstance(count, bool) or isinstance(width, bool):
        raise LensError(
            f"{str(folder / 'config.json')!r} has num_hidden_layers={count!r} and d_model={width!r}, not two numbers.",
            hint=_HINT,
        )
    weights = [_tensor(folder, params, f"{layer}.weight", (width, width)) for layer in range(count)]
    bare = config.get("bias", True) is False
    biases = [torch.zeros(width) if bare else _tensor(folder, params, f"{layer}.bias", (width,)) for layer in range(count)]
    facts = {
        "model": config.get("base_model_name_or_path"),
        "revision": config.get("base_model_revision"),
        "num_layers": count,
        "text": "a tuned lens, imported",
        "unembed_hash": config.get("unembed_hash"),
    }
    return Lens("tuned", tuple(range(count)), torch.stack(weights), torch.stack(biases), None, facts)


def _config(path: Path) -> dict[str, Any]:
    try:
        found = loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror}.", hint=_HINT) from None
    except (BrokenJSONError, UnicodeDecodeError) as error:
        raise LensError(f"{str(path)!r} is not JSON: {error}.", hint=_HINT) from None
    if not isinstance(found, dict):
        raise LensError(f"{str(path)!r} is not a JSON object.", hint=_HINT)
    return found


def _params(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise LensError(f"{str(path)!r} cannot be read: {error.strerror}.", hint=_HINT) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile):
        raise LensError(f"{str(path)!r} is cut off, or holds other things than tensors.", hint=_HINT) from None
    if not isinstance(found, dict):
        raise LensError(f"{str(path)!r} is not a state dict.", hint=_HINT)
    return found


def _tensor(folder: Path, params: dict[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    value = params.get(name)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = "no tensor" if not isinstance(value, Tensor) else f"one of shape {tuple(value.shape)}"
        raise LensError(f"{str(folder / 'params.pt')!r} has {got} for {name!r}; allowed is shape {shape}.", hint=_HINT)
    if not value.isfinite().all():
        raise LensError(f"{str(folder / 'params.pt')!r} has NaN or infinite numbers in {name!r}.", hint=_HINT)
    return value.float()

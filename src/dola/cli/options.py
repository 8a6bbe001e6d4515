"""Options that several verbs share, and what verbs make of them: a configuration (method_options.py), a loaded model.

An option without its own default is None if it was not given. So a default never counts as a contradiction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.config_file import read_config_file
from dola.cli.endings import importing
from dola.cli.field_options import LAYERS_HELP, METHOD_HELP, Layers, Method, OwnLayers, Set, method_options
from dola.cli.method_options import (
    DEFAULTS,
    MethodOptions,
    documented,
    is_dola,
    named_config,
    parse_layers,
    settings_beside_layers,
)
from dola.cli.output import loading, quiet_libraries, say
from dola.cli.values import between, complete
from dola.errors import UsageError
from dola.methods.layers import spelled
from dola.methods.registry import BUILT_IN

if TYPE_CHECKING:
    from dola.loading.models import LoadedModel
    from dola.loading.weights import WeightsReport
    from dola.methods.config import MethodConfig

__all__ = [
    "BUILT_IN",
    "DEFAULTS",
    "LAYERS_HELP",
    "METHOD_HELP",
    "Layers",
    "Method",
    "MethodOptions",
    "OwnLayers",
    "Set",
    "between",
    "complete",
    "documented",
    "is_dola",
    "load_model",
    "method_options",
    "named_config",
    "parse_layers",
    "settings_beside_layers",
    "settle_layers",
]


class DType(str, Enum):
    """The dtypes to load a model's weights as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _apply_config_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the settings of a file the defaults of this command."""
    if path is not None and not context.resilient_parsing:
        context.default_map = {**(context.default_map or {}), **read_config_file(path, context.command.params)}
    return path


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A hub id (owner/name), a folder, a .gguf file, or an alias: smollm2, gemma3-270m.",
        autocompletion=complete("smollm2", "gemma3-270m"),
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Use the model's chat template.", show_default="if it has one"),
]
MaxNewTokens = Annotated[int, typer.Option(help="Maximum length of an answer.", callback=between(1))]
RepetitionPenalty = Annotated[
    float,
    typer.Option(help="Repetition penalty (1 = off). Without one DoLa tends to loop in long texts.", callback=between(0.01)),
]
DTypeOption = Annotated[
    DType | None, typer.Option("--dtype", help="Dtype of the weights.", show_default="as stored; float32 for GGUF")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device: cpu, cuda, cuda:1, mps, or auto.",
        show_default="a GPU if available",
        autocompletion=complete("auto", "cpu", "cuda", "mps"),
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="JSON file of options, by name without leading dashes. Options on the command line take precedence.",
        callback=_apply_config_file,
        is_eager=True,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads that torch uses.", show_default="torch's own choice", callback=between(1))
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own Python code. Read it first.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON to standard output: see docs/cli.md.")]


def settle_layers(config: MethodConfig | None, given: str | None, model: Any) -> tuple[MethodConfig | None, str]:
    """The configuration and the name of its layers: from `--layers`, or else from the model's generation config.

    Reports on stderr which layers are used if the generation config names some.

    Raises:
        ConfigError: The layers of the generation config cannot be used.
    """
    from dola.decoding.as_asked import own_config
    from dola.decoding.attach import as_config
    from dola.methods.config import DoLaConfig
    from dola.model.anatomy import Anatomy
    from dola.model.generation_fields import own_layers, shown

    own = own_layers(own_config(model))
    if config is not None and not isinstance(config, DoLaConfig):  # dola_layers are DoLa's
        return config, spelled(config.layers)
    if given is not None or own is None or config is None:
        named = "high" if given is None else given
        if own is not None and spelled(own) != named:
            say(f"{shown('dola_layers', own)} of the model's generation config is not used: --layers {named} was given.")
        return config, named
    layers = as_config(None, Anatomy.of(model)).layers
    say(f"--layers was not given: {shown('dola_layers', own)} of the model's generation config is used.")
    return dataclasses.replace(config, layers=layers), spelled(layers)


def load_model(
    name: str,
    *,
    dtype: DType | None,
    device: str | None,
    trust_remote_code: bool,
    on_weights: Callable[[WeightsReport], None] | None = None,
) -> LoadedModel:
    """Load a model as the options say, without the libraries' own messages.

    Notes on the model go to stderr. For `on_weights` see `dola.load`.

    Raises:
        UsageError: This machine does not have the device.
        ModelFileError, ModelError, DownloadError, MissingExtraError: See `dola.load`.
    """
    with loading(name) as progress:
        with importing():
            quiet_libraries()
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 - so that `load` finds them imported

            import dola

        settings: dict[str, Any] = _device_settings(device)
        if dtype is not None:
            settings["dtype"] = getattr(torch, dtype.value)
        if on_weights is not None:
            settings["on_weights"] = on_weights
        if trust_remote_code:
            settings["trust_remote_code"] = True
        return dola.load(name, progress=progress, **settings)


def _device_settings(device: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that put a model on a device."""
    from dola.loading.models import devices

    there = devices()
    if device is None:
        device = "auto" if len(there) > 1 else None
    if device in (None, "auto"):
        return {"device_map": device} if device else {}
    if device not in there and not (device == "cuda" and "cuda:0" in there):
        raise UsageError(
            f"No device {device!r} on this machine. Available: {', '.join(there)}, auto.",
            hint="omit --device, or use --device cpu",
        )
    return {"device_map": device}

"""Options that several verbs share, defined once, and what they mean: a DoLaConfig, a loaded model.

An option without a default of its own is None where it was not given, so that contradictions can be told from defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.config_file import read_config_file
from dola.cli.endings import importing
from dola.cli.output import loading, quiet_libraries, say
from dola.errors import UsageError
from dola.files.json_text import loads
from dola.methods.layers import is_named, parse, spelled

if TYPE_CHECKING:
    from dola.loading.models import LoadedModel
    from dola.loading.weights import WeightsReport
    from dola.methods.config import MethodConfig


class Divergence(str, Enum):
    """How the premature layer is chosen."""

    jsd = "jsd"
    reference = "reference"


class DType(str, Enum):
    """The numbers that a model's weights are loaded as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _complete(*values: str) -> Any:
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def between(low: float, high: float = math.inf) -> Any:
    """A callback that refuses values outside [low, high], and infinity."""

    def check(param: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            allowed = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
            flag = max(param.opts, key=len)
            raise UsageError(f"{flag} {value} is out of range; allowed is {allowed}.", hint=f"leave {flag} out for the default")
        return value

    return check


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
        autocompletion=_complete("smollm2", "gemma3-270m"),
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Use the model's chat template.", show_default="where it has one"),
]
LAYERS_HELP = "high (short answers), low (longer reasoning), all, last:10, numbers such as 28,30 (0 is the embedding output)"
Layers = Annotated[
    str, typer.Option(help=f"Layers to contrast: {LAYERS_HELP}, or off.", autocompletion=_complete("high", "low", "all", "off"))
]
OwnLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help=f"Layers to contrast: {LAYERS_HELP}, or off.",
        show_default="dola_layers of the model's generation config, else high",
        autocompletion=_complete("high", "low", "all", "off"),
    ),
]
DivergenceOption = Annotated[
    Divergence | None,
    typer.Option("--divergence", help="How the layer is chosen: the paper's, or the old code's formula.", show_default="jsd"),
]
FinalNorm = Annotated[
    bool | None,
    typer.Option("--final-norm/--no-final-norm", help="Whether earlier layers pass the final norm.", show_default="final-norm"),
]
RelativeTop = Annotated[
    float | None,
    typer.Option(
        help="Rule out tokens below this fraction of the likeliest one's probability; 0 rules out none.",
        show_default="0.1",
        callback=between(0, 1),
    ),
]
Reference = Annotated[bool, typer.Option("--reference", help="Decode as transformers 4.55.4 did, token for token.")]
Method = Annotated[
    str | None,
    typer.Option("--method", help="dola, or a method that an installed package adds.", show_default="dola"),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Repeat it for more.", show_default=False),
]
MaxNewTokens = Annotated[int, typer.Option(help="Length of an answer, at most.", callback=between(1))]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        help="1 is none. DoLa loops in long texts without one; give greedy the same to compare.", callback=between(0.01)
    ),
]
DTypeOption = Annotated[
    DType | None, typer.Option("--dtype", help="Load the weights as this.", show_default="as stored; float32 for GGUF")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps, or auto.",
        show_default="a GPU where there is one",
        autocompletion=_complete("auto", "cpu", "cuda", "mps"),
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A JSON file with options by their names here, without dashes in front. Options given on the command line win.",
        callback=_apply_config_file,
        is_eager=True,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads that torch uses.", show_default="torch's own choice", callback=between(1))
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model. Read it first.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output: see docs/cli.md.")]


def dola_config(
    layers: str | None,
    *,
    divergence: Divergence | None = None,
    final_norm: bool | None = None,
    relative_top: float | None = None,
    reference: bool = False,
    method: str | None = None,
    set_: list[str] | None = None,
) -> MethodConfig | None:
    """The configuration that the options mean; None for `--layers off`. Without layers it has those of the method.

    Raises:
        UsageError: Options that contradict each other.
        ConfigError: A value that is not allowed.
    """
    norm = None if final_norm is None else "--final-norm" if final_norm else "--no-final-norm"
    given = [
        flag
        for flag, value in (("--divergence", divergence), (norm, final_norm), ("--relative-top", relative_top))
        if flag and value is not None
    ]
    if layers == "off":
        given += ["--reference"] if reference else []
        given += [flag for flag, value in (("--method", method), ("--set", set_)) if value]
        if given:
            raise UsageError(
                f"{' and '.join(given)} cannot be used with --layers off, which decodes without DoLa.",
                hint="leave it out, or name layers: --layers high",
            )
        return None
    if reference and (clash := [flag for flag in given if flag != "--relative-top"]):
        raise UsageError(
            f"--reference sets the divergence and the final norm itself, and {' and '.join(clash)} was given too.",
            hint="give --reference alone, or only the others",
        )
    with importing():  # torch comes with it
        from dola.methods.config import DoLaConfig
        from dola.methods.registry import config_of

    named = settings_by_name(set_)
    if not is_dola(method):
        own = [flag for flag in ([*given, "--reference"] if reference else given) if flag != norm]
        if own:
            raise UsageError(
                f"{' and '.join(own)} cannot be used with --method {method}: only DoLa has it.",
                hint=f"leave it out; settings of {method} are given by --set name=value",
            )
        asked = {"layers": None if layers is None else parse_layers(layers), "final_norm": final_norm}
        return config_of({"method": method, **{key: value for key, value in asked.items() if value is not None}, **named})
    chosen = DoLaConfig.layers if layers is None else parse_layers(layers)
    base = DoLaConfig.reference(chosen) if reference else DoLaConfig(chosen)
    changes: dict[str, Any] = {
        "divergence": divergence and divergence.value,
        "final_norm": final_norm,
        "relative_top": relative_top,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if twice := sorted(changes.keys() & named.keys()):
        raise UsageError(f"{twice[0]} was given by --set and by its option.", hint="give one of them")
    return config_of({**base.as_dict(), **changes, **named})


def is_dola(method: str | None) -> bool:
    """Whether `--method` means DoLa."""
    return method in (None, "dola")


def named_config(layers: str | None, method: str | None, set_: list[str] | None) -> MethodConfig:
    """The configuration of verbs whose only options for it are `--layers`, `--method` and `--set`."""
    from dola.methods.registry import config_of

    named = {name: value for name, value in (("layers", layers), ("method", method)) if value is not None}
    return config_of({**named, **settings_by_name(set_)})


def settings_by_name(given: list[str] | None) -> dict[str, Any]:
    """What `--set` says: values as JSON has them, and else text.

    Raises:
        UsageError: No "=", a name given twice, or layers, which have an option.
    """
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"--set {each!r} is not a name and a value.", hint="--set relative_top=0.2")
        if name in found:
            raise UsageError(f"--set gives {name} twice.", hint="give it once")
        if name in ("layers", "method"):
            raise UsageError(f"--set {name}=... is --{name}.", hint=f"--{name} {text}")
        try:
            found[name] = loads(text.strip())
        except ValueError:
            found[name] = text.strip()
    return found


def settings_beside_layers(config: MethodConfig | None) -> dict[str, Any]:
    """The other settings of the method, for JSON: those of DoLa as null without one."""
    from dola.methods.config import DoLaConfig

    found = (config or DoLaConfig()).as_dict()
    return {name: config and value for name, value in found.items() if name not in ("layers", "lazy")}


def parse_layers(text: str) -> str | tuple[int, ...]:
    """`--layers` as DoLaConfig takes it: the name of layers, or their indices.

    Raises:
        UsageError: Neither.
    """
    layers = parse(text)
    if isinstance(layers, str) and is_named(layers):
        return layers
    if not isinstance(layers, tuple):
        raise UsageError(
            f"--layers {text!r} is not known; allowed are high, low, all, off, last:10, or numbers with commas between them.",
            hint="--layers high, or for instance --layers 24,28",
        )
    return layers


def settle_layers(config: MethodConfig | None, given: str | None, model: Any) -> tuple[MethodConfig | None, str]:
    """The configuration with the layers of the model's generation config, where `--layers` was not given; and its layers' name.

    Says on stderr which layers are used where the generation config names some.

    Raises:
        ConfigError: Layers of the generation config that cannot be used.
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
            say(f"{shown('dola_layers', own)} of the model's generation config is set aside: --layers {named} was given.")
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
    """Load a model as the options say, without the noise of the libraries.

    Notes on the model go to stderr. `on_weights` takes what was found of its weights, as that of `dola.load`.

    Raises:
        UsageError: A device that is not there.
        ModelFileError, ModelError, DownloadError, MissingExtraError: As `dola.load`.
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
            f"--device {device!r} is not here; there {'are' if len(there) > 1 else 'is'} {', '.join(there)}, and auto.",
            hint="leave --device out, or use --device cpu",
        )
    return {"device_map": device}

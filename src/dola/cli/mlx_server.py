"""`dola mlx-server`: starts mlx-lm's OpenAI-compatible server with DoLa."""

from __future__ import annotations

import ipaddress
import json
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import options
from dola.cli.endings import importing
from dola.cli.output import quiet_libraries
from dola.errors import UsageError
from dola.loading.embedded import EMBEDDED

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig
    from dola.serving.settings import Served

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: options that dola does not define belong to mlx-lm."""


@options.method_options()
def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A hub id or a folder that mlx-lm reads, before mlx-lm's own options.")],
    layers: Annotated[
        str | None,
        typer.Option(
            help=f"Layers for requests without options: {options.LAYERS_HELP}, or off.",
            show_default="off; with --method or a setting of it, the method's own",
            autocompletion=options.complete("high", "low", "all", "off"),
        ),
    ] = None,
    dola: options.MethodOptions = options.DEFAULTS,
) -> None:
    """Start mlx-lm's OpenAI-compatible server with DoLa in it.

    Requests without options are decoded plainly unless --layers, --method or a setting is given. Each request can choose in
    its body: "dola_layers": "high" | "low" | "off" | [26, 28], "dola_method": "sled", and so on. The server listens on
    127.0.0.1 unless --host is given. Options that are not listed here go to mlx-lm unchanged: --host, --port, --draft-model,
    --max-tokens, and so on.

    \b
    Examples:
      dola mlx-server mlx-community/SmolLM2-135M-Instruct --port 8080
      dola mlx-server ./my-model --layers high --draft-model ./small-model
      dola mlx-server ./my-model --method sled --set rate=2
    """
    from dola.mlx.need import check

    if model.startswith("-"):
        raise UsageError(
            f"{model!r} is in the place of the model.", hint="name the model first: dola mlx-server MODEL --port 8080"
        )
    check()
    _check(model, context.args)
    method = replace(dola, layers=layers)
    is_on = method != options.DEFAULTS and layers != "off"
    settings = _settings(method.config(), is_on=is_on)
    with importing():
        quiet_libraries()
        from dola.integrations.mlx_server import serve

    def ready(served: Served, host: str, port: int) -> None:
        print(served.in_force(), file=sys.stderr)
        print(_example(model, host, port, is_on=is_on), file=sys.stderr, flush=True)

    serve([*context.args, "--model", model], settings, on_ready=ready)


def _check(model: str, arguments: list[str]) -> None:
    if model in EMBEDDED or model.endswith(".gguf"):
        from dola.cli.backend_mlx import check_name

        check_name(model, then="dola mlx-server")
    if any(argument.startswith("--mo") for argument in arguments):  # mlx-lm takes abbreviations
        raise UsageError(f"--model was given in addition to {model!r}.", hint="name one model: dola mlx-server MODEL")


def _settings(config: MethodConfig | None, *, is_on: bool) -> dict[str, Any]:
    """The server's settings, as `Served.of` reads them. Requests can choose all layers, or those that the lens has."""
    if config is None:
        return {"capture": "all", "default": "off"}
    beside = options.settings_beside_layers(config)
    capture = {} if config.lens else {"capture": "all"}
    return {"layers": config.layers, **beside, **capture, "default": "on" if is_on else "off"}


def _example(model: str, host: str, port: int, *, is_on: bool) -> str:
    """A request to paste."""
    body: dict[str, Any] = {"prompt": "The capital of Washington State is", "max_tokens": 20}
    body |= {"dola_layers": "off" if is_on else "high"}
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        host = "localhost" if address.is_loopback or address.is_unspecified else host
    return (
        f"Serves {model}. A request {'without' if is_on else 'with'} DoLa:\n  curl http://{host}:{port}/v1/completions "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )

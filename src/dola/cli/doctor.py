"""`dola doctor`: what is installed and, of a model, what was found in it and whether DoLa works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dola.checkup import Checkup
    from dola.config import DoLaConfig
    from dola.environment import Environment

SCHEMA = {
    "environment.python, .platform": "version of Python; operating system",
    "environment.packages": "package -> version, null where it is not installed",
    "environment.cpu": "cores, usable (by this process), torch_threads, capability (vector instructions), memory in bytes or null",
    "environment.devices[]": "accelerators: name (as for --device), description, memory in bytes or null",
    "environment.compiler": "path of the C++ compiler that torch.compile uses on the CPU, or null",
    "environment.cache, .models[]": "folder of the embedded models; alias and state (fetched, not fetched, damaged) of each",
    "environment.extras[]": "name; missing requirements (none: it is installed); the install command",
    "environment.variables": "environment variable -> value, null where it is not set; of those that may hold secrets only 'set'",
    "model": "null without MODEL; else name, load_seconds and the fields below",
    "model.class_name, .parameters, .dtype, .devices": "class; number of parameters; their dtypes; their devices",
    "model.parts": "num_layers (N), and class and path of blocks, final_norm, projection, head, logit_transform; tied; or null",
    "model.buckets[]": "name; layers (0 is the embedding output, N the mature layer), or null and the problem",
    "model.layers": "the candidate layers that --layers stands for",
    "model.timings": "plain and dola: milliseconds per token, medians over runs of so many tokens, prompt included; or null",
    "model.checks[]": "name; status: ok, warning, failed or not run; text",
    "model.healthy": "whether no check failed; the exit code is 0 then, else 1",
    "advice[]": "sentences",
}
"""Fields of `dola doctor --json`, schema dola.doctor/1."""


def command(
    model: Annotated[
        str | None, typer.Argument(help="A hub id, a folder, a .gguf file, or an alias.", show_default=False)
    ] = None,
    layers: Annotated[str, typer.Option(help="What to try: low, high, all, or layers as 24,28.")] = "high",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16, ...; the model's own by default.", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.", show_default=False)] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings along. Read it first.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema dola.doctor/1.")] = False,
) -> None:
    """Report what is installed and, of a model, whether DoLa works on it. Example: dola doctor smollm2.

    The first thing a bug report should hold. Exit code 1 if a check of the model failed.
    """
    from dola.cli.doctor_page import render
    from dola.cli.output import print_json, stdout
    from dola.environment import advice, look_around

    config = parse_layers(layers)
    environment = look_around()
    said = advice(environment)
    examined = None
    if model is not None:
        examined, more = _examine(model, config, {"dtype": dtype, "device_map": device, "trust_remote_code": trust_remote_code})
        said += more
    if json:
        print_json("dola.doctor/1", as_json(environment, examined, said))
    else:
        render(stdout(), environment, examined, said)
    if examined is not None and not examined[2].healthy:
        raise typer.Exit(1)


def parse_layers(text: str) -> DoLaConfig:
    """The configuration that `--layers` stands for."""
    from dola.config import DoLaConfig
    from dola.errors import LayersError
    from dola.layers import BUCKETS

    if text in BUCKETS:
        return DoLaConfig(text)
    try:
        return DoLaConfig([int(layer) for layer in text.split(",")])
    except ValueError as error:
        if isinstance(error, LayersError):
            raise
        raise LayersError(
            f"--layers {text} is neither a bucket nor a list of layers; allowed are {', '.join(BUCKETS)}, or numbers as 24,28.",
            hint="dola doctor smollm2 --layers low",
        ) from None


def as_json(environment: Environment, examined: tuple[str, float, Checkup] | None, advice: list[str]) -> dict[str, Any]:
    """The result as `SCHEMA` describes it."""
    model = None
    if examined is not None:
        name, seconds, checkup = examined
        model = {"name": name, "load_seconds": seconds, **asdict(checkup), "healthy": checkup.healthy}
    return {"environment": asdict(environment), "model": model, "advice": advice}


def _examine(name: str, config: DoLaConfig, settings: dict[str, Any]) -> tuple[tuple[str, float, Checkup], list[str]]:
    """Load a model and check it up: its name, the seconds it took to load, the findings; and advice."""
    import time

    from dola.checkup import advice, check_up
    from dola.models import load

    start = time.perf_counter()
    model, tokenizer = load(name, **{key: value for key, value in settings.items() if value})
    seconds = time.perf_counter() - start
    checkup = check_up(model, tokenizer, config)
    return (name, seconds, checkup), advice(checkup)

"""`dola doctor`: reports what is installed and, for a model, its parts and whether DoLa works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import options
from dola.cli.endings import importing

if TYPE_CHECKING:
    from dola.doctor.checkup import Checkup
    from dola.doctor.environment import Environment
    from dola.loading.weights import WeightsReport
    from dola.methods.config import DoLaConfig, MethodConfig

SCHEMA = {
    "environment.python": "version",
    "environment.platform": "operating system",
    "environment.packages": "package -> version, or null if it is not installed",
    "environment.misfit": "why dola cannot work with the installed torch and transformers, and how to fix it; or null",
    "environment.misfit.message": "what does not fit",
    "environment.misfit.hint": "the command that fixes it",
    "environment.cpu.cores": "logical cores of the machine",
    "environment.cpu.usable": "cores that this process may use",
    "environment.cpu.torch_threads": "threads that torch computes with",
    "environment.cpu.capability": "the widest vector instructions that torch uses",
    "environment.cpu.memory": "main memory in bytes, or null",
    "environment.devices[].name": "an accelerator, by its name for --device",
    "environment.devices[].description": "its product name",
    "environment.devices[].memory": "its memory in bytes, or null",
    "environment.compiler": "path of the C++ compiler that torch.compile uses on the CPU, or null",
    "environment.kernels": "'in use', or 'not in use' and why: without dola's own CPU kernels DoLa is slower on the CPU",
    "environment.cache": "folder of the embedded models",
    "environment.models[].alias": "an embedded model",
    "environment.models[].state": "fetched, not fetched, or damaged",
    "environment.extras[].name": "an optional part of dola",
    "environment.extras[].missing[]": "a requirement that is not met; empty if the extra is installed",
    "environment.extras[].install": "the command that installs it",
    "environment.variables": "environment variable -> value, or null if it is not set; 'set' for those that may be secret",
    "model": "null if no model was named",
    "model.name": "name of the model, as given",
    "model.load_seconds": "seconds for loading the model, including downloads",
    "model.class_name": "class of the model",
    "model.parameters": "number of parameters; tied ones count once",
    "model.dtype": "dtypes of the parameters",
    "model.devices[]": "devices of the parameters",
    "model.parts": "null if they were not found; each part is its class and its path in the model",
    "model.parts.num_layers": "N, the number of blocks, and the index of the mature layer",
    "model.parts.blocks": "the blocks",
    "model.parts.final_norm": "the norm after the last block, or none",
    "model.parts.projection": "the part between final norm and head, or none",
    "model.parts.head": "from hidden size to vocabulary",
    "model.parts.logit_transform": "soft-cap or scale after the head, or none",
    "model.parts.tied": "whether the head shares the input embedding's weights",
    "model.buckets[].name": "low, high, all",
    "model.buckets[].layers[]": "its layers; 0 is the embedding output; null if the bucket cannot be used",
    "model.buckets[].problem": "why it cannot be used, or null",
    "model.layers[]": "the candidate layers that --layers means",
    "model.timings": "null if they were not measured",
    "model.timings.plain": "milliseconds per token without DoLa, including the prompt, median of the runs",
    "model.timings.dola": "the same with DoLa",
    "model.timings.tokens": "tokens that each run generated",
    "model.timings.runs": "runs of each",
    "model.checks[].name": "weights, parts, layers, tokenizer, without DoLa, readout, chat template, with DoLa, "
    "contrast, after DoLa, speed, generation config",
    "model.checks[].status": "ok, warning, failed, or not run",
    "model.checks[].text": "the finding",
    "model.healthy": "whether no check failed: then the exit code is 0, otherwise 1",
    "advice[]": "sentences",
}
"""Fields of `dola doctor --json`, schema dola.doctor/1."""


def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A hub id, a folder, a .gguf file, or an alias.", show_default=False)
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to test: low, high, all, or numbers as 24,28.",
            show_default="dola_layers of the model's generation config, else high",
        ),
    ] = None,
    method: options.Method = None,
    set_: options.Set = None,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema dola.doctor/1.")] = False,
) -> None:
    """Report what is installed, and whether DoLa works on a model.

    Put its output into a bug report. The exit code is 1 if a check of the model fails, or if the versions of torch and
    transformers do not fit; then no model is examined.

    \b
    Examples:
      dola doctor
      dola doctor smollm2
      dola doctor meta-llama/Llama-3.2-1B --layers low --json
    """
    from dola.cli.doctor_page import render
    from dola.cli.output import print_json, stdout

    with importing(checked=False):  # here a misfit is a finding
        from dola.doctor.environment import advice, look_around
        from dola.installed.versions import misfit

        fits = misfit() is None
        if fits and model is not None:
            import dola.doctor.checkup  # noqa: F401

    config = _config(layers, method, set_) if fits else None
    environment = look_around()
    said = advice(environment)
    examined = None
    if fits and model is not None:
        examined, more = _examine(model, config, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        said += more
    if json:
        print_json("dola.doctor/1", as_json(environment, examined, said))
    else:
        render(stdout(), environment, examined, said)
    if not fits or (examined is not None and not examined[2].healthy):
        raise typer.Exit(1)


def parse_layers(text: str) -> DoLaConfig:
    """The configuration that `--layers` means."""
    from dola.errors import LayersError
    from dola.methods.config import DoLaConfig
    from dola.methods.layers import BUCKETS, is_named, parse

    layers = parse(text)
    if not (isinstance(layers, tuple) or is_named(layers)):
        raise LayersError(
            f"--layers {text} is neither a bucket nor a list of layers. Allowed: {', '.join(BUCKETS)}, last:10, "
            "or numbers as 24,28.",
            hint="dola doctor smollm2 --layers low",
        )
    return DoLaConfig(layers)


def _config(layers: str | None, method: str | None, set_: list[str] | None) -> MethodConfig | None:
    """The configuration to test; None leaves it to the model's generation config."""
    if layers is not None:
        parse_layers(layers)  # with its own error message
    return None if (layers, method, set_) == (None, None, None) else options.named_config(layers, method, set_)


def as_json(environment: Environment, examined: tuple[str, float, Checkup] | None, advice: list[str]) -> dict[str, Any]:
    """The result as `SCHEMA` describes it."""
    model = None
    if examined is not None:
        name, seconds, checkup = examined
        model = {"name": name, "load_seconds": seconds, **asdict(checkup), "healthy": checkup.healthy}
    return {"environment": asdict(environment), "model": model, "advice": advice}


def _examine(name: str, config: MethodConfig | None, **settings: Any) -> tuple[tuple[str, float, Checkup], list[str]]:
    """Load a model as `generate` does and examine it. Returns its name, loading time and findings, and advice."""
    import time

    from dola.doctor.checkup import advice, check_up

    start = time.perf_counter()
    weights: list[WeightsReport] = []
    model, tokenizer = options.load_model(name, on_weights=weights.append, **settings)
    seconds = time.perf_counter() - start
    checkup = check_up(model, tokenizer, config, weights)
    return (name, seconds, checkup), advice(checkup)

"""Prints the report of `dola doctor`: sections of names and texts, readable at 80 columns and without color."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dola.doctor.checkup import Checkup
    from dola.doctor.environment import Environment

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "not run": "dim"}
NAMES = 17
"""Minimum width of the column of names."""

Row = tuple[str, str]


def render(
    console: Console, environment: Environment, examined: tuple[str, float, Checkup] | None, advice: Iterable[str]
) -> None:
    """Print the machine, the model with its checks, and advice."""
    _section(console, "Machine", _machine(environment))
    if examined is not None:
        name, seconds, checkup = examined
        _section(console, f"Model {name}", _model(seconds, checkup))
        _section(console, "Checks", [(check.name, check.text, check.status) for check in checkup.checks])
    if found := list(advice):
        console.print(Text("\nAdvice", style="bold"))
        grid = Table.grid(padding=(0, 1))
        for sentence in found:
            grid.add_row(" -", Text(sentence))
        console.print(grid)
    if examined is not None:
        console.print(_verdict(examined[2]))
    else:
        console.print("\nTo check a model: dola doctor MODEL")


def _section(console: Console, title: str, rows: Iterable[Row | tuple[str, str, str]]) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    listed = list(rows)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=max(NAMES, *(len(name) + 2 for name, *_ in listed)), no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text, *status in listed:
        found = Text(text)
        for word in status:
            found = Text.assemble((f"{word}: ", STYLES[word]), text)  # `+` would style the whole of it
        grid.add_row(Text(f"  {name}", style="dim"), found)
    console.print(grid)


def _machine(environment: Environment) -> list[Row | tuple[str, str, str]]:
    packages = environment.packages
    absent = ", ".join(name for name, version in packages.items() if version is None)
    cpu = environment.cpu
    memory = f", {_gigabytes(cpu.memory)}" if cpu.memory else ""
    models = ", ".join(f"{model.alias} ({model.state})" for model in environment.models)
    given = {name: value for name, value in environment.variables.items() if value is not None}
    return [
        ("python", f"{environment.python} on {environment.platform}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)),
        *([("not installed", absent)] if absent else []),
        *([("versions", f"{misfit.message} {misfit.hint}", "failed")] if (misfit := environment.misfit) else []),
        ("processor", f"{cpu.usable} of {cpu.cores} cores available, torch uses {cpu.torch_threads}; {cpu.capability}{memory}"),
        ("accelerators", ", ".join(_device(*device) for device in _devices(environment)) or "none found"),
        ("C++ compiler", environment.compiler or "none"),
        ("CPU kernels", environment.kernels),
        ("models", f"{models}; kept in {_short(environment.cache)}"),
        *((f"extra {extra.name}", _extra(extra.missing, extra.install)) for extra in environment.extras),
        (
            "environment",
            ", ".join(f"{name}={value}" for name, value in given.items()) or "no variable that affects dola is set",
        ),
    ]


def _model(seconds: float, checkup: Checkup) -> list[Row]:
    rows = [
        ("loaded", f"in {seconds:.1f} s: {checkup.class_name}, {_count(checkup.parameters)} parameters, {checkup.dtype}"),
        ("device", ", ".join(checkup.devices)),
    ]
    if (parts := checkup.parts) is not None:
        rows += [
            ("blocks", f"{parts.num_layers} x {parts.blocks}"),
            ("final norm", parts.final_norm),
            ("projection", parts.projection),
            ("head", f"{parts.head}, {'tied to the input embedding' if parts.tied else 'not tied'}"),
            ("logit transform", parts.logit_transform),
        ]
    rows += [
        (f"layers {bucket.name}", _layers(bucket.layers) if bucket.layers else str(bucket.problem))
        for bucket in checkup.buckets
    ]
    return rows


def _verdict(checkup: Checkup) -> Text:
    statuses = [check.status for check in checkup.checks]
    if set(statuses) == {"ok"}:
        return Text(f"\nAll {len(statuses)} checks passed.", style="bold green")
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STYLES if status in statuses)
    words = "No check failed" if checkup.healthy else "Do not rely on DoLa with this model yet"
    return Text(f"\n{words}: {counts}.", style="bold green" if checkup.healthy else "bold red")


def _layers(layers: tuple[int, ...]) -> str:
    """Indices; a long consecutive run as its two ends."""
    if len(layers) > 3 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _devices(environment: Environment) -> list[tuple[str, str, int | None]]:
    return [(device.name, device.description, device.memory) for device in environment.devices]


def _device(name: str, description: str, memory: int | None) -> str:
    return f"{name}: {description}" + (f", {_gigabytes(memory)}" if memory else "")


def _extra(missing: tuple[str, ...], install: str) -> str:
    return f"needs {', '.join(missing)}: {install}" if missing else "installed"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path.removeprefix(home) if path.startswith(home + "/") else path

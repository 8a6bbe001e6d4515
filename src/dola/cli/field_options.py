"""Makes a method's options from the fields of its configuration: a new field automatically becomes an option of every verb."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.method_options import MethodOptions, flag
from dola.cli.values import between, complete
from dola.methods.config import DoLaConfig
from dola.methods.registry import BUILT_IN

if TYPE_CHECKING:
    from dola.methods.facts import Setting

LAYERS_HELP = "high (short answers), low (longer reasoning), all, last:10, numbers such as 28,30 (0 is the embedding output)"
METHOD_HELP = f"{', '.join(BUILT_IN)}, or one that an installed package adds (see dola methods)"
Layers = Annotated[
    str, typer.Option(help=f"Layers to contrast: {LAYERS_HELP}, or off.", autocompletion=complete("high", "low", "all", "off"))
]
OwnLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help=f"Layers to contrast: {LAYERS_HELP}, or off.",
        show_default="dola_layers of the model's generation config, else high",
        autocompletion=complete("high", "low", "all", "off"),
    ),
]
Reference = Annotated[bool, typer.Option("--reference", help="Decode as transformers 4.55.4 did, token for token.")]
Method = Annotated[
    str | None,
    typer.Option("--method", help=METHOD_HELP, show_default="dola", autocompletion=complete(*BUILT_IN)),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Repeat it for more.", show_default=False),
]


def method_options(
    *,
    layers: Any = None,
    reference: bool = False,
    method: bool = True,
    by_task: str | None = None,
    fields: Iterable[Setting] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Fill a verb's parameter `dola: MethodOptions` from options, which replace it in the help.

        @method_options(layers=OwnLayers)
        def command(prompt: ..., dola: MethodOptions = DEFAULTS, ...): ...

    Args:
        layers: The annotation of `--layers`; None if the verb has its own layers, or none.
        reference: Whether to add `--reference`.
        method: Whether to add `--method` and `--set`.
        by_task: Text in the help for defaults that come from the task.
        fields: The settings that become options; by default all that DoLa offers.
    """
    offered = DoLaConfig.options() if fields is None else fields
    chosen = sorted((each for each in offered if each.kind is not object), key=lambda each: each.name)
    parameters = [_parameter("layers", layers)] if layers is not None else []
    parameters += [_parameter(each.name, option(each, by_task=by_task)) for each in chosen]
    parameters += [_parameter("reference", Reference, False)] if reference else []
    parameters += [_parameter("method", Method), _parameter("set_", Set)] if method else []
    names = [each.name for each in chosen]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(**values: Any) -> None:
            own = {each.name: values.pop(each.name) for each in parameters}
            given = {name: plain(own.pop(name)) for name in names}
            given = {name: value for name, value in given.items() if value is not None}
            verb(**values, dola=MethodOptions(**_renamed(own), given=given))

        signature = inspect.signature(verb, eval_str=True)
        expanded = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            for each in (parameters if parameter.name == "dola" else [parameter])
        ]
        run.__signature__ = signature.replace(parameters=expanded)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in expanded}
        return run

    return decorate


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _renamed(own: dict[str, Any]) -> dict[str, Any]:
    return {"named" if name == "set_" else name: value for name, value in own.items()}


def option(setting: Setting, *, by_task: str | None = None) -> Any:
    """The option of a setting: its type with typer's annotation. If the option is not given, its value is None."""
    facts = setting.facts
    shown = by_task if by_task and facts.by_task else _usual(setting)
    if setting.kind is bool:
        both = f"{flag(setting.name)}/{flag(setting.name, off=True)}"
        return Annotated[bool | None, typer.Option(both, help=facts.help, show_default=shown)]
    kind: Any = setting.kind
    check = between(facts.lowest, facts.highest) if kind in (int, float) else None
    if setting.choices:
        kind = _enumeration("Choice", {each: each for each in setting.choices}, type=str)
    return Annotated[kind | None, typer.Option(flag(setting.name), help=facts.help, show_default=shown, callback=check)]


_enumeration: Any = Enum  # mypy wants literals as its arguments


def _usual(setting: Setting) -> str | bool:
    """The default as the help shows it."""
    if setting.default is None:
        return False
    if setting.kind is bool:
        return flag(setting.name, off=not setting.default).removeprefix("--")
    return str(setting.default)


def plain(value: Any) -> Any:
    """The plain value of an enumeration's member, as configurations expect it; any other value unchanged."""
    return value.value if isinstance(value, Enum) else value

"""Refuses requests whose DoLa options vLLM would drop or ignore, before they reach the engine.

    options reach the plugin         SamplingParams.extra_args, over HTTP "vllm_xargs": checked by requests.py
    options are dropped              beams, scores and label reads build their own sampling parameters
    options are ignored              a key next to "vllm_xargs": vLLM's requests accept any field silently

All front ends (HTTP, batch files) pass each request to `BaseServing._check_model`, and beams start in `beam_search`. dola
wraps both with a check. A vLLM that lacks one of them does not start with DoLa.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import wraps
from importlib import import_module
from typing import Any

from dola.errors import ConfigError
from dola.installed.hints import install_vllm
from dola.integrations.vllm import engines
from dola.serving.settings import Served, seems_ours

CARRYING = (
    "CompletionRequest",
    "ChatCompletionRequest",
    "BatchChatCompletionRequest",
    "ResponsesRequest",
    "GenerateRequest",
)
"""Kinds of requests whose options reach the engine. Other kinds that decode are refused while DoLa is on."""

NOTHING_DECODED = ("Tokenize", "Detokenize", "Derender")
"""First words of kinds that make text or tokens without running a model."""

PLACE = '"vllm_xargs": {"dola_layers": "off"}'
"""The place of options in most requests."""

SERVING = "vllm.entrypoints.serve.engine.serving"
ONLINE = "vllm.entrypoints.generate.beam_search.online"
OFFLINE = "vllm.entrypoints.generate.beam_search.offline"
FORGETFUL = (
    ("vllm.entrypoints.anthropic.serving", "AnthropicServingMessages", "create_messages"),
    ("vllm.entrypoints.cohere.serving", "CohereServingChatV2", "create_chat_v2"),
    ("vllm.entrypoints.scale_out.token_in_token_out.serving", "ServingTokens", "serve_tokens"),
)
"""Front ends whose requests drop undeclared fields; the body of the HTTP request still has them."""


def install(*, required: bool) -> None:
    """Put the checks around vLLM's front ends, once in a process.

    Args:
        required: Whether an engine with DoLa starts here.

    Raises:
        ConfigError: The checks are required, and this vLLM lacks a function to wrap.
    """
    places = [
        (SERVING, "BaseServing", "_check_model", _checking),
        (ONLINE, "BeamSearchOnlineMixin", "beam_search", _refusing_beams),
        (OFFLINE, "BeamSearchOfflineMixin", "beam_search", _refusing_beams),
        *((*place, _reading_the_body) for place in FORGETFUL),
    ]
    for module, kind, name, check in places:
        try:
            owner = getattr(import_module(module), kind)
            original = owner.__dict__[name]
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "vllm":
                continue  # a front end whose own dependencies are not installed cannot run
            missing = module
        except (AttributeError, KeyError):
            missing = f"{module}.{kind}.{name}"
        else:
            if not hasattr(original, "dola_checks"):
                setattr(owner, name, check(original))
                owner.__dict__[name].dola_checks = True
            continue
        if required:
            raise ConfigError(f"This vLLM has no {missing}, where dola checks requests.", hint=install_vllm())


def check_request(request: Any, engine: Served | None) -> None:
    """Refuse a request of a front end whose options vLLM would drop or ignore.

    Args:
        request: One of vLLM's request models.
        engine: The settings of its engine; None without DoLa.

    Raises:
        ConfigError: The request would be decoded differently than it says.
    """
    kind = type(request).__name__
    if kind.startswith(NOTHING_DECODED):
        return
    check_fields(_undeclared(request))
    if getattr(request, "use_beam_search", False):
        check_dropped("Beam search", 'omit "use_beam_search"', _options(request), engine)
    elif kind not in CARRYING:
        check_dropped(f"This endpoint ({kind})", "use /v1/completions or /v1/chat/completions", _options(request), engine)


def check_fields(fields: Mapping[str, Any], place: str = PLACE) -> None:
    """Refuse options of DoLa in fields that vLLM ignores.

    Args:
        fields: Fields of a request that its model does not declare.
        place: The place of options in it.

    Raises:
        ConfigError: The fields contain an option of DoLa.
    """
    if (path := next(_ours(fields), None)) is not None:
        raise ConfigError(f"{'.'.join(path)!r} was given where vLLM ignores it.", hint=place)


def check_dropped(what: str, instead: str, options: Mapping[str, Any] | None, engine: Served | None) -> None:
    """Refuse a kind of request that always decodes with the engine's default, unless the request asks for that default.

    Raises:
        ConfigError: The default is DoLa, or the request asks for DoLa.
    """
    asked = engines.config_of(engine, options)
    if engine is not None and engine.default_on:
        raise ConfigError(
            f"{what} drops a request's DoLa options in vLLM, and would read DoLa's scores here, because this server decodes "
            'with DoLa by default. It is not supported, not even with "dola_layers": "off".',
            hint=f'{instead}, or start the server with --default off ("default": "off" in the engine\'s dola settings)',
        )
    if asked is not None:
        raise ConfigError(
            f"{what} drops a request's DoLa options in vLLM, so it would decode without DoLa.",
            hint=f'{instead}, or "dola_layers"',
        )


def _options(request: Any) -> Mapping[str, Any] | None:
    sampling = getattr(request, "sampling_params", None)
    found: Mapping[str, Any] | None = (
        getattr(request, "vllm_xargs", None) if sampling is None else getattr(sampling, "extra_args", None)
    )
    return found if isinstance(found, Mapping) else None


def _undeclared(request: Any) -> dict[str, Any]:
    """Fields of a request that its model does not declare, and those that go to a chat template.

    Except "vllm_xargs": a batch of chats passes it on undeclared, and `check_dropped` reports it if it is dropped.
    """
    fields = {name: value for name, value in (getattr(request, "model_extra", None) or {}).items() if name != "vllm_xargs"}
    if template := getattr(request, "chat_template_kwargs", None):
        fields["chat_template_kwargs"] = template
    return fields


def _ours(fields: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of DoLa's options, as paths of keys."""
    if not isinstance(fields, Mapping) or len(path) > 4:
        return
    for name, value in fields.items():
        here = (*path, str(name))
        if seems_ours(name):
            yield here
        yield from _ours(value, here)


def _engine(front_end: Any) -> Served | None:
    """The settings of a front end's engine; if several engines are possible, of the first with DoLa."""
    client = getattr(front_end, "engine_client", None) or getattr(front_end, "llm_engine", None)
    return next((engine for engine in engines.engines_of(getattr(client, "vllm_config", None)) if engine), None)


def _checking(original: Any) -> Any:
    @wraps(original)
    async def _check_model(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        found = await original(self, request, *args, **kwargs)
        if found is not None:
            return found
        try:
            check_request(request, _engine(self))
        except ConfigError as error:
            return self.create_error_response(str(error))
        return None

    return _check_model


def _refusing_beams(original: Any) -> Any:
    """Check beams that do not come through a request of the server."""

    @wraps(original)
    def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_dropped("Beam search", "sample, or decode greedily", None, _engine(self))
        return original(self, *args, **kwargs)

    return beam_search


def _reading_the_body(original: Any) -> Any:
    """Check requests whose models drop undeclared fields."""

    @wraps(original)
    async def create(self: Any, request: Any, raw_request: Any = None) -> Any:
        body = {} if raw_request is None else await raw_request.json()
        try:
            check_body(body, getattr(type(request), "model_fields", {}))
        except ConfigError as error:
            return self.create_error_response(str(error))
        return await original(self, request, raw_request)

    return create


def check_body(body: Mapping[str, Any], declared: Iterable[str]) -> None:
    """Refuse options of DoLa in fields of a body that its request's model does not declare, or does not pass on.

    Raises:
        ConfigError: The body contains one.
    """
    fields = {name: value for name, value in body.items() if name not in {*declared} - {"sampling_params"}}
    place = PLACE if "vllm_xargs" in declared else "use /v1/chat/completions: this endpoint does not accept options of DoLa"
    if "sampling_params" in declared:
        place = '"sampling_params": {"extra_args": {"dola_layers": "off"}}'
        if isinstance(sampling := fields.get("sampling_params"), Mapping):
            fields["sampling_params"] = {name: value for name, value in sampling.items() if name != "extra_args"}
    check_fields(fields, place)

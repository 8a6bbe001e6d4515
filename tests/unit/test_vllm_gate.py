"""Requests whose DoLa options vLLM would drop or ignore: refused by the gate. A real server is asked in tests/serving."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dola.errors import ConfigError
from dola.integrations.vllm import gate
from dola.serving.settings import Served

ON, OFF = (
    Served.of({"capture": "all"}, num_layers=8, tied=False),
    Served.of({"capture": "all", "default": "off"}, num_layers=8, tied=False),
)


def _request(kind: str, *, more: Any = None, **fields: Any) -> Any:
    """A request of a server: `more` are fields that its model does not declare."""
    return type(kind, (SimpleNamespace,), {})(model_extra=more or {}, **(more or {}), **fields)


@pytest.mark.parametrize("kind", ["CompletionRequest", "ChatCompletionRequest"])
@pytest.mark.parametrize(
    ("engine", "layers", "words"),
    [
        (ON, None, "decodes with DoLa by default"),
        (ON, "off", "decodes with DoLa by default"),
        (ON, "on", "decodes with DoLa by default"),
        (ON, "hihg", "is not a bucket"),
        (OFF, "on", "would decode without DoLa"),
        (OFF, [3], "would decode without DoLa"),
        (OFF, None, None),
        (OFF, "off", None),
        (None, "high", "does not decode with DoLa"),
        (None, None, None),
    ],
)
def test_beams_are_refused_where_dola_is_on(
    kind: str, engine: Any, layers: Any, words: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOLA_VLLM", "0")  # the reason is then known without vLLM
    request = _request(kind, use_beam_search=True, vllm_xargs=None if layers is None else {"dola_layers": layers})
    if words is None:
        return gate.check_request(request, engine)
    with pytest.raises(ConfigError, match=words):
        gate.check_request(request, engine)


@pytest.mark.parametrize("kind", ["GenerativeScoringRequest", "StructuredDecisionRequest", "SomethingNew"])
def test_what_drops_options_is_refused_where_dola_is_on(kind: str):
    with pytest.raises(ConfigError, match=f"This endpoint .{kind}. drops a request's DoLa options"):
        gate.check_request(_request(kind), ON)
    gate.check_request(_request(kind), OFF)
    gate.check_request(_request(kind, more={"vllm_xargs": {"dola_layers": "off"}}), OFF)
    with pytest.raises(ConfigError, match="so it would decode without DoLa"):
        gate.check_request(_request(kind, more={"vllm_xargs": {"dola_layers": "high"}}), OFF)


@pytest.mark.parametrize("kind", gate.CARRYING)
def test_what_carries_options_is_not_refused(kind: str):
    sampling = {"sampling_params": SimpleNamespace(extra_args={"dola_layers": "low"})} if kind == "GenerateRequest" else {}
    gate.check_request(_request(kind, vllm_xargs={"dola_layers": "low"}, **sampling), ON)
    gate.check_request(_request("TokenizeChatRequest"), ON)  # decodes nothing


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"dola_layers": "off"}, "dola_layers"),
        ({"DoLa_Layers": "off"}, "DoLa_Layers"),
        ({"dloa_layers": "off"}, "dloa_layers"),
        ({"extra_body": {"vllm_xargs": {"dola_layers": "off"}}}, "extra_body.vllm_xargs.dola_layers"),
        ({"extra_args": {"dola_layers": "off"}}, "extra_args.dola_layers"),
        ({"sampling_params": {"extra_args": {"dola_layers": "off"}}}, "sampling_params.extra_args.dola_layers"),
    ],
)
@pytest.mark.parametrize("engine", [ON, OFF, None])
def test_options_where_vllm_ignores_them_are_refused(engine: Any, more: Any, path: str):
    with pytest.raises(ConfigError, match=f"'{path}' was given where vLLM ignores it"):
        gate.check_request(_request("ChatCompletionRequest", more=more), engine)
    gate.check_request(_request("ChatCompletionRequest", more={"user_id": 3, "extra_body": {"guided": "x"}}), engine)
    with pytest.raises(ConfigError, match=r"chat_template_kwargs\.dola_layers"):
        gate.check_request(_request("ChatCompletionRequest", chat_template_kwargs={"dola_layers": "off"}), engine)


def test_bodies_whose_models_forget_what_they_do_not_declare():
    tokens, messages = ("token_ids", "sampling_params"), ("messages", "vllm_xargs")
    gate.check_body({"token_ids": [1], "sampling_params": {"extra_args": {"dola_layers": "off"}}}, tokens)
    gate.check_body({"messages": [{"dola_layers": 1}], "vllm_xargs": {"dola_layers": "off"}}, messages)
    for declared, body, place in (
        (tokens, {"vllm_xargs": {"dola_layers": "off"}}, "extra_args"),
        (tokens, {"sampling_params": {"dola_layers": "off"}}, "extra_args"),
        (messages, {"dola_layers": "off"}, "vllm_xargs"),
        (("messages",), {"vllm_xargs": {"dola_layers": "off"}}, "/v1/chat/completions"),
    ):
        with pytest.raises(ConfigError, match="given where vLLM ignores it") as caught:
            gate.check_body(body, declared)
        assert place in caught.value.hint

"""Cases of chats, and of the other endpoints; and options that no request may have."""

from __future__ import annotations

import json
from typing import Any

from asked import CITY, FUNCTION, STRICT, World, tagged
from request_cases import CHAT, CHATS, COMPLETIONS, DROPPED, EQUAL, IGNORED, OFF, OWN, PROMPT, case, every_way, refused


@case(CHATS, "a conversation", EQUAL)
def _(world: World) -> None:
    for options, layers in every_way():
        assert world.chat(CHAT, options) == [world.chat_tokens(CHAT, layers)]


@case(CHATS, "`n=2`, `logprobs` with `top_logprobs`", "tokens and log-softmax of the contrast, to 1e-3")
def _(world: World) -> None:
    for options, layers in every_way():
        found = world.chats(CHAT, options, n=2, temperature=1e-3, seed=1, logprobs=True, top_logprobs=2).choices
        assert [each.model_extra["token_ids"] for each in found] == [world.chat_tokens(CHAT, layers)] * 2
        for each in found:
            world.close([token.logprob for token in each.logprobs.content], world.logprobs(world.templated(CHAT), layers))


@case(CHATS, "a stream; a stream that is closed early", EQUAL)
def _(world: World) -> None:
    for options, layers in every_way():
        pieces = list(world.chats(CHAT, options, stream=True))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == world.text(world.chat_tokens(CHAT, layers))
        with world.chats(CHAT, options, stream=True) as stream:
            next(iter(stream))


@case(
    CHATS,
    "tools (`strict`), `tool_choice` that names one, and `required`",
    "a call of the function, with arguments of its schema",
)
def _(world: World) -> None:
    for options, _ in every_way():
        for chosen in ({"type": "function", "function": {"name": "weather"}}, "required"):
            given = {"tools": [STRICT], "tool_choice": chosen, "max_tokens": 120, "logit_bias": world.to_an_end()}
            (call,) = world.chats(CHAT, options, **given).choices[0].message.tool_calls
            assert (call.function.name, json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")) == ("weather", True)


@case(CHATS, "tools, `auto`, and an answer that the parser (`hermes`) reads; streamed too", "the call is parsed")
def _(world: World) -> None:
    for options, _ in every_way():
        given = {"tools": [FUNCTION], "tool_choice": "auto", "max_tokens": 120, "more": {"structured_outputs": tagged()}}
        (call,) = world.chats(CHAT, options, **given).choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")) == ("weather", True)
        pieces = [piece.choices[0].delta for piece in world.chats(CHAT, options, stream=True, **given) if piece.choices]
        calls = [call.function for piece in pieces for call in piece.tool_calls or []]
        assert "".join(call.name or "" for call in calls) == "weather"


@case(CHATS, "`response_format`: a JSON schema", "an object of the schema")
def _(world: World) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    for options, _ in every_way():
        text = world.chats(CHAT, options, response_format=schema, max_tokens=60).choices[0].message.content
        assert json.loads(text)["city"] in ("Rome", "Oslo")


refused(CHATS, "`prompt_logprobs`, with DoLa", OWN, lambda w: w.chats(CHAT, {}, more={"prompt_logprobs": 1}))
refused(CHATS, "beams", DROPPED, lambda w: w.chats(CHAT, {}, n=2, more={"use_beam_search": True}))


@case("/v1/responses", "a text, a conversation, a stream", "text of `dola.generate`, for all four options")
def _(world: World) -> None:
    for options, layers in every_way():
        expected = world.text(world.chat_tokens(CHAT, layers))
        for given in (CHAT[0]["content"], CHAT):
            assert world.response(given, options).output_text == expected
        pieces = [event.delta for event in world.response(CHAT, options, stream=True) if event.type.endswith("text.delta")]
        assert "".join(pieces) == expected


@case("/v1/messages", "a conversation, by the `anthropic` package; a stream", "text of `dola.generate`, for all four options")
def _(world: World) -> None:
    for options, layers in every_way():
        expected = world.text(world.chat_tokens(CHAT, layers))
        assert world.message(CHAT, options).content[0].text == expected
        pieces = [
            event.delta.text for event in world.message(CHAT, options, stream=True) if event.type == "content_block_delta"
        ]
        assert "".join(pieces) == expected


@case("/v1/chat/completions/batch", "two conversations", EQUAL)
def _(world: World) -> None:
    for options, layers in every_way():
        answer = world.raw("/v1/chat/completions/batch", messages=[CHAT, CHAT], vllm_xargs=options)[1]
        assert [choice["token_ids"] for choice in answer["choices"]] == [world.chat_tokens(CHAT, layers)] * 2


@case("/inference/v1/generate", "token ids", EQUAL)
def _(world: World) -> None:
    for options, layers in every_way():
        sampling = {"temperature": 0, "max_tokens": 16, "extra_args": options}
        answer = world.raw("/inference/v1/generate", token_ids=world.ids(PROMPT), sampling_params=sampling)[1]
        assert answer["choices"][0]["token_ids"] == world.tokens(PROMPT, layers)


for scoring in ({}, OFF):
    refused(
        "/generative_scoring",
        f"labels, `{json.dumps(scoring)}`",
        DROPPED,
        lambda w, options=scoring: w.must(
            "/generative_scoring", query="abc", items=["def"], label_token_ids=[5, 9], vllm_xargs=options
        ),
    )

WRONG_TYPES: list[Any] = [
    *(
        {"dola_layers": value}
        for value in (None, True, 3, 2.5, [], [2.5], ["high"], [[2]], {"from": 2}, "", "OFF", [99], [-1], [2, 2])
    ),
    *({"dola_layers": "high", "dola_relative_top": value} for value in ("0.3", None, [0.1], -1, 2, 1e999)),
    *({"dola_layers": "high", "dola_divergence": value} for value in (1, None, "kl", ["jsd"])),
    *({"dola_layers": "high", "dola_strength": value} for value in ("1", None, [1])),
    *({"dola_layers": "high", "dola_scores": value} for value in (1, None, "x")),
    *({"dola_layers": "high", "dola_final_norm": value} for value in (2, "yes", None, [1])),
    *({"dola_method": value} for value in (1, None, "", "nothing", ["sled"], True)),
    *({"dola_method": "sled", "dola_rate": value} for value in ("2", None, [2], -1)),
    *({name: "off"} for name in ("dloa_layers", "layers", "DOLA_LAYERS", "dola", "dola_", "dola_lens", "dola_lazy")),
    "dola_layers=off",
    ["dola_layers"],
    3,
]
"""Values of `vllm_xargs` that no request may have."""


@case(f"{COMPLETIONS}, {CHATS}", f"`vllm_xargs` of wrong types and names: {len(WRONG_TYPES)} of them", "400 with the reason")
def _(world: World) -> None:
    for options in WRONG_TYPES:
        for path, given in ((COMPLETIONS, {"prompt": "abc"}), (CHATS, {"messages": CHAT})):
            status, answer = world.raw(path, **given, vllm_xargs=options)
            assert (status, bool(answer["error"]["message"])) == (400, True), (options, answer)
    assert world.completion(PROMPT, {}) == [world.tokens(PROMPT, "high")]


@case(
    f"{COMPLETIONS}, {CHATS}",
    "JSON's `true` and `false` where a number belongs",
    "1 and 0: vLLM reads them so before dola sees them",
)
def _(world: World) -> None:
    for value in (True, False):
        found = [world.completion(PROMPT, {"dola_layers": "high", "dola_relative_top": each}) for each in (value, int(value))]
        assert found[0] == found[1]


for misplaced in ({"dola_layers": "off"}, {"extra_body": {"vllm_xargs": OFF}}, {"extra_args": OFF}, {"dloa_layers": "off"}):
    wrong_place = f"an option in the wrong place: `{json.dumps(misplaced)}`"
    refused(COMPLETIONS, wrong_place, IGNORED, lambda w, more=misplaced: w.complete(PROMPT, {}, more=more))
    refused(CHATS, wrong_place, IGNORED, lambda w, more=misplaced: w.chats(CHAT, {}, more=more))

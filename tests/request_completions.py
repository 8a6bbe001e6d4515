"""Cases of /v1/completions."""

from __future__ import annotations

import json

from asked import CITY, World, choices, digits
from request_cases import COMPLETIONS, DROPPED, EQUAL, HALF, OFF, OWN, PROMPT, case, every_way, refused


@case(COMPLETIONS, "a prompt; no options, `off`, `low`, a list of layers", EQUAL)
def _(world: World) -> None:
    for options, layers in every_way():
        assert world.completion(PROMPT, options) == [world.tokens(PROMPT, layers)]


@case(COMPLETIONS, "a list of three prompts", EQUAL)
def _(world: World) -> None:
    prompts = [PROMPT, "xyz", "1 2 3 4"]
    for options, layers in every_way():
        assert world.completion(prompts, options) == [world.tokens(prompt, layers) for prompt in prompts]


@case(COMPLETIONS, "token ids, and a list of lists of them", EQUAL)
def _(world: World) -> None:
    ids = world.ids(PROMPT)
    for options, layers in every_way():
        assert world.completion(ids, options) == [world.tokens(PROMPT, layers)]
        assert world.completion([ids, ids], options) == [world.tokens(PROMPT, layers)] * 2


@case(COMPLETIONS, "`n=3`, temperature 0.001 with a seed", f"{EQUAL}, three times")
def _(world: World) -> None:
    for options, layers in every_way():
        assert world.completion(PROMPT, options, n=3, temperature=1e-3, seed=1) == [world.tokens(PROMPT, layers)] * 3


@case(COMPLETIONS, "`n=4`, temperature 1, a seed, twice", "the same four answers; no implausible token in them")
def _(world: World) -> None:
    found = [world.completion(PROMPT, {}, n=4, temperature=1.0, seed=7) for _ in range(2)]
    assert found[0] == found[1]
    for answer in found[0]:
        assert all(score > -500 for score in world.scores_along(PROMPT, answer, "high"))


@case(COMPLETIONS, "`echo`", "the prompt, then the text of `dola.generate`")
def _(world: World) -> None:
    for options, layers in every_way():
        (choice,) = world.complete(PROMPT, options, echo=True, more={"return_token_ids": False}).choices
        whole = PROMPT + world.text(world.tokens(PROMPT, layers))
        assert choice.text.rstrip(HALF) == whole.rstrip(HALF)  # vLLM keeps back the bytes of half a character


@case(COMPLETIONS, "`logprobs=3`", "log-softmax of the contrast, for all four options, to 1e-3")
def _(world: World) -> None:
    for options, layers in every_way():
        (choice,) = world.complete(PROMPT, options, logprobs=3).choices
        world.close(choice.logprobs.token_logprobs, world.logprobs(PROMPT, layers))


@case(COMPLETIONS, "`prompt_logprobs`, or `echo` with `logprobs`, and `off`", "the model's own, to 1e-3")
def _(world: World) -> None:
    (choice,) = world.complete(PROMPT, OFF, echo=True, logprobs=0).choices
    own = world.own_logprobs(PROMPT)
    world.close(choice.logprobs.token_logprobs[1 : 1 + len(own)], own)
    (choice,) = world.complete(PROMPT, OFF, more={"prompt_logprobs": 0}).choices
    world.close([next(iter(each.values()))["logprob"] for each in choice.prompt_logprobs[1:]], own)


refused(COMPLETIONS, "`echo` with `logprobs`, with DoLa", OWN, lambda w: w.complete(PROMPT, {}, echo=True, logprobs=1))
refused(COMPLETIONS, "`prompt_logprobs`, with DoLa", OWN, lambda w: w.complete(PROMPT, {}, more={"prompt_logprobs": 1}))


@case(COMPLETIONS, "`logit_bias` of +3, -8, +100 and -100", f"{EQUAL} under the same bias")
def _(world: World) -> None:
    for options, layers in every_way():
        first = world.tokens(PROMPT, layers)[0]
        for token, bias in ((first, -8.0), (first, -100.0), (first + 1, 3.0), (first + 1, 100.0)):
            given = {"sequence_bias": {(token,): -float("inf") if bias == -100 else bias}}
            expected = world.tokens(PROMPT, layers, **given)
            assert world.completion(PROMPT, options, logit_bias={str(token): bias}) == [expected], (layers, token, bias)


@case(COMPLETIONS, "`repetition_penalty`, `bad_words`, `allowed_token_ids`", f"{EQUAL} under the same processors")
def _(world: World) -> None:
    for options, layers in every_way():
        assert world.completion(PROMPT, options, more={"repetition_penalty": 1.2}) == [
            world.tokens(PROMPT, layers, repetition_penalty=1.2)
        ]
        allowed = [token for token in range(40, 90) if token not in world.tokens(PROMPT, layers)]
        found = world.completion(PROMPT, options, more={"allowed_token_ids": allowed})
        assert found == [world.tokens(PROMPT, layers, prefix_allowed_tokens_fn=lambda *_, allowed=allowed: allowed)]


@case(COMPLETIONS, "a stop string, `max_tokens=1`", "cut where plain text of `dola.generate` would be cut")
def _(world: World) -> None:
    text = world.text(world.tokens(PROMPT, "high"))
    (choice,) = world.complete(PROMPT, {}, stop=[text[3]]).choices
    assert choice.text == text[: text.index(text[3])]
    assert world.completion(PROMPT, {}, max_tokens=1) == [world.tokens(PROMPT, "high")[:1]]


@case(COMPLETIONS, "a stream", f"{EQUAL}, in pieces")
def _(world: World) -> None:
    for options, layers in every_way():
        pieces = list(world.complete(PROMPT, options, stream=True))
        found = [token for piece in pieces for token in (piece.choices[0].model_extra or {}).get("token_ids") or []]
        assert (found, len(pieces) > 4) == (world.tokens(PROMPT, layers), True)


@case(COMPLETIONS, "a stream that the client closes after one piece, eight times", "the next requests get their own tokens")
def _(world: World) -> None:
    for _ in range(8):
        with world.complete("the end", {}, stream=True, max_tokens=100) as stream:
            next(iter(stream))
    for options, layers in every_way():
        assert world.completion(PROMPT, options) == [world.tokens(PROMPT, layers)]
    world.idle()


@case(COMPLETIONS, "structured outputs: a choice", "tokens of `dola.generate` that allows the same texts")
def _(world: World) -> None:
    for options, layers in every_way():
        allowed = choices(world, ["yes", "no", "never"])
        found = world.completion(PROMPT, options, more={"structured_outputs": {"choice": ["yes", "no", "never"]}})
        assert found == [world.tokens(PROMPT, layers, prefix_allowed_tokens_fn=allowed)]


@case(COMPLETIONS, "structured outputs: a regular expression", "tokens of `dola.generate` that allows the same texts")
def _(world: World) -> None:
    for options, layers in every_way():
        found = world.completion(PROMPT, options, more={"structured_outputs": {"regex": "[0-9]{3}-[0-9]{2}"}})
        assert found == [world.tokens(PROMPT, layers, prefix_allowed_tokens_fn=digits(world, "ddd-dd"))]


@case(COMPLETIONS, "structured outputs: a JSON schema", "an object of the schema")
def _(world: World) -> None:
    for options, _ in every_way():
        text = world.complete(PROMPT, options, max_tokens=60, more={"structured_outputs": {"json": CITY}}).choices[0].text
        assert json.loads(text)["city"] in ("Rome", "Oslo")


@case(COMPLETIONS, "structured outputs: a grammar", "a text of the grammar")
def _(world: World) -> None:
    for options, _ in every_way():
        grammar = {"grammar": world.grammar}
        assert world.complete(PROMPT, options, more={"structured_outputs": grammar}).choices[0].text in ("ab", "ba")


for beams in ({}, OFF, {"dola_layers": "on"}):
    refused(
        COMPLETIONS,
        f"beams, `{json.dumps(beams)}`",
        DROPPED,
        lambda w, beams=beams: w.complete(PROMPT, beams, n=2, more={"use_beam_search": True}),
    )

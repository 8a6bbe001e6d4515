"""What the cases of every_request.py ask with: clients of a server, and the judge beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dola

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
STRICT = {"type": "function", "function": {**FUNCTION["function"], "strict": True}}
"""vLLM holds arguments to the schema only of functions that say so."""
EBNF, LARK = 'root ::= "ab" | "ba"', 'start: "ab" | "ba"'
"""The same grammar for xgrammar and for the other backends that read one."""


class World:
    """A server and its judge.

    Args:
        server: A `servers.Server`.
        judge: An `engines.Judge` on the same folder.
        grammar: A grammar for the server's backend of structured outputs.
    """

    def __init__(self, server: Any, judge: Any, *, grammar: str = EBNF) -> None:
        from anthropic import Anthropic
        from openai import OpenAI

        self.server, self.judge, self.grammar = server, judge, grammar
        root = f"http://localhost:{server.port}"
        self.client = OpenAI(base_url=f"{root}/v1", api_key="none", max_retries=0, timeout=120)
        self.anthropic = Anthropic(base_url=root, api_key="none", max_retries=0, timeout=120)
        self._known: dict[str, list[int]] = {}

    # Requests. `options` go into vllm_xargs, `more` into other fields that the client does not declare.

    def complete(self, prompt: Any, options: dict[str, Any], more: dict[str, Any] | None = None, **given: Any) -> Any:
        body = {"return_token_ids": True, "vllm_xargs": options, **(more or {})}
        settings = {"temperature": 0, "max_tokens": 16, **given}
        return self.client.completions.create(model="m", prompt=prompt, extra_body=body, **settings)

    def completion(self, prompt: Any, options: dict[str, Any], **given: Any) -> list[list[int]]:
        return [choice.model_extra["token_ids"] for choice in self.complete(prompt, options, **given).choices]

    def chats(self, messages: Any, options: dict[str, Any], more: dict[str, Any] | None = None, **given: Any) -> Any:
        body = {"return_token_ids": True, "vllm_xargs": options, **(more or {})}
        settings = {"temperature": 0, "max_tokens": 16, **given}
        return self.client.chat.completions.create(model="m", messages=messages, extra_body=body, **settings)

    def chat(self, messages: Any, options: dict[str, Any]) -> list[list[int]]:
        return [choice.model_extra["token_ids"] for choice in self.chats(messages, options).choices]

    def response(self, given: Any, options: dict[str, Any], **more: Any) -> Any:
        settings = {"temperature": 0, "max_output_tokens": 16, **more}
        return self.client.responses.create(model="m", input=given, extra_body={"vllm_xargs": options}, **settings)

    def message(self, messages: Any, options: dict[str, Any], **more: Any) -> Any:
        body = {"temperature": 0, "vllm_xargs": options}  # this client has no argument for a temperature
        return self.anthropic.messages.create(model="m", messages=messages, max_tokens=16, extra_body=body, **more)

    def raw(self, path: str, **body: Any) -> tuple[int, Any]:
        return self.server.post(path, **body)

    def must(self, path: str, **body: Any) -> None:
        """Raise the client's error for anything but 200."""
        import openai

        status, answer = self.raw(path, **body)
        if status == 400:
            raise openai.OpenAIError(answer["error"]["message"])
        assert status == 200, answer

    @staticmethod
    def error(run: Callable[[], Any]) -> str:
        """The message of a request's HTTP 400."""
        import openai

        with pytest.raises(openai.OpenAIError) as raised:
            run()
        assert getattr(raised.value, "status_code", 400) == 400, raised.value
        return str(raised.value)

    def idle(self) -> None:
        """Wait until the server runs nothing, as its metrics say."""
        deadline = time.monotonic() + 30
        while sum(self.metric("vllm:num_requests_running")) + sum(self.metric("vllm:num_requests_waiting")):
            assert time.monotonic() < deadline, "the server still runs requests of clients that have gone"
            time.sleep(0.1)

    def metric(self, name: str) -> list[float]:
        """The values of a metric."""
        lines = [line for line in self.server.text("/metrics").splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return [float(line.rpartition(" ")[2]) for line in lines]

    # The judge.

    def ids(self, prompt: str) -> list[int]:
        return self.judge.tokenizer(prompt)["input_ids"]

    def text(self, tokens: list[int]) -> str:
        return self.judge.tokenizer.decode(tokens, skip_special_tokens=True)

    def to_an_end(self) -> dict[str, float]:
        """A bias against white space and for the end: where a grammar allows them, a random model would never stop."""
        tokenizer = self.judge.tokenizer
        blanks = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).isspace()]
        return {**{str(token): -100.0 for token in blanks}, str(tokenizer.eos_token_id): 100.0}

    def templated(self, messages: Any) -> str:
        return self.judge.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def tokens(self, prompt: str, layers: Any, **settings: Any) -> list[int]:
        if settings:
            return self.judge.tokens(prompt, layers, **settings)
        key = f"{prompt} {layers}"
        if key not in self._known:
            self._known[key] = self.judge.tokens(prompt, layers)
        return list(self._known[key])

    def chat_tokens(self, messages: Any, layers: Any) -> list[int]:
        return self.tokens(self.templated(messages), layers)

    def scores_along(self, prompt: str, answer: list[int], layers: Any) -> list[float]:
        """The log-softmax of the scores of an answer's tokens; the model's own where `layers` is None."""
        ids = self.ids(prompt)
        given = torch.tensor([ids + answer])
        with torch.no_grad():
            if layers is None:
                logits = self.judge.model(given).logits
            else:
                with dola.attach(self.judge.model, layers):
                    logits = self.judge.model(given).logits
        rows = logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
        return [row[token].item() for row, token in zip(rows, answer, strict=True)]

    def logprobs(self, prompt: str, layers: Any) -> list[float]:
        return self.scores_along(prompt, self.tokens(prompt, layers), layers)

    def own_logprobs(self, prompt: str) -> list[float]:
        """Log-probabilities of the prompt's tokens after the first."""
        ids = torch.tensor([self.ids(prompt)])
        with torch.no_grad():
            rows = self.judge.model(ids).logits[0, :-1].log_softmax(-1)
        return rows.gather(-1, ids[0, 1:, None])[:, 0].tolist()

    @staticmethod
    def close(found: list[float], expected: list[float]) -> None:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-3, rtol=1e-3)


# What may follow, for `prefix_allowed_tokens_fn`: any tokens that spell a beginning of an allowed text.


def _spelling(world: World, fits: Callable[[str], bool], is_whole: Callable[[str], bool]) -> Callable[[int, Any], list[int]]:
    tokenizer, start = world.judge.tokenizer, None
    spelled = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    special = set(tokenizer.all_special_ids)

    def allowed(_: int, ids: Any) -> list[int]:
        nonlocal start
        start = len(ids) if start is None else start
        text = tokenizer.decode(ids[start:])
        may = [token for token, piece in enumerate(spelled) if token not in special and piece and fits(text + piece)]
        return [*may, tokenizer.eos_token_id] if is_whole(text) else may

    return allowed


def choices(world: World, texts: list[str]) -> Callable[[int, Any], list[int]]:
    """Tokens that spell one of these texts."""
    return _spelling(world, lambda text: any(each.startswith(text) for each in texts), lambda text: text in texts)


def digits(world: World, pattern: str) -> Callable[[int, Any], list[int]]:
    """Tokens that spell a pattern in which `d` is any digit."""

    def fits(text: str) -> bool:
        parts = zip(text, pattern, strict=False)
        return len(text) <= len(pattern) and all(
            character in "0123456789" if part == "d" else character == part for character, part in parts
        )

    return _spelling(world, fits, lambda text: len(text) == len(pattern) and fits(text))


def tagged() -> dict[str, str]:
    """Structured outputs that make any model call the function, in the tags that the parser `hermes` reads."""
    call = r'\{"name": "weather", "arguments": \{"city": "(Rome|Oslo)"\}\}'
    return {"regex": f"<tool_call>\n{call}\n</tool_call>"}

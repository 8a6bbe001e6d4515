"""Renders messages with a model's chat template and checks that the prompt still holds their words.

A template is a program that others wrote. Some expect the content of a message as a list of parts and drop a plain text, so
that two different questions give the same prompt. So every prompt is checked before it is used:

    messages -> rendered as texts, then as lists of parts -> does it hold the words? -> the form that keeps them, or an error
"""

from __future__ import annotations

import functools
import html
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dola.errors import InputError

Message = Mapping[str, Any]
"""A message as chat templates take it: a "role" and a "content"."""

NO_CHAT = "do without the chat template"
"""The hint of errors about a chat template that fails."""

CHECKED = ("user", "system", "developer")
"""Roles whose words must be in the prompt. Some templates deliberately leave out parts of earlier answers, such as thoughts."""

_STAND_INS = ("x", "0", "y", "1", "z", "2")
"""Other contents to render for comparison: a word that the template itself adds must not count as the user's."""


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def can_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer can render a chat: with a template, or with its own code as `MistralCommonBackend` does."""
    classes = (each for each in type(tokenizer).__mro__ if each.__name__ != "PreTrainedTokenizerBase")
    return has_chat(tokenizer) or any("apply_chat_template" in vars(each) for each in classes)


def chat_ids(tokenizer: Any, message: str, *, hint: str = NO_CHAT) -> list[Any]:
    """The tokens of a user's message, followed by the start of an answer. The tokenizer must be able to render a chat.

    Raises:
        InputError: The chat template fails, or does not keep the message's words. `hint` says how to fix it.
    """
    settings = {"add_generation_prompt": True}
    render = functools.partial(rendered, tokenizer, **settings)
    messages, _ = faithful(render, [{"role": "user", "content": message}], hint=hint)
    try:
        return list(tokenizer.apply_chat_template(messages, return_dict=True, **settings)["input_ids"])
    except Exception as problem:
        raise InputError(f"The model's {_failure(problem)}.", hint=hint) from problem


def faithful(render: Callable[[Any], Any], messages: Sequence[Message], *, hint: str = NO_CHAT) -> tuple[list[Message], str]:
    """The messages in a form whose words a chat template keeps, and the prompt that it renders from them.

    Args:
        render: Renders messages as a prompt, as `apply_chat_template(..., tokenize=False)` does.
        messages: Messages whose contents are texts. If the template loses them, they are passed as lists of parts.
        hint: How to fix it if neither form works.

    Raises:
        InputError: With both forms the template fails, or drops or changes the words of a user or system message.
    """
    what, cause = "", None
    for form in (list(messages), [_in_parts(message) for message in messages]):
        try:
            prompt = render(form)
            lost = _lost(render, messages, form, prompt)
        except Exception as problem:  # a template may add words to numbers, or divide by zero
            what, cause = (what, cause) if what else (_failure(problem), problem)
            continue
        if not lost:
            return form, prompt
        what = what or lost
    raise InputError(f"The model's {what}.", hint=hint) from cause


def rendered(tokenizer: Any, messages: Any, **settings: Any) -> Any:
    """The prompt that a tokenizer renders from messages. `settings` are arguments of `apply_chat_template`."""
    if has_chat(tokenizer):
        return tokenizer.apply_chat_template(messages, tokenize=False, **settings)
    ids = tokenizer.apply_chat_template(messages, return_dict=True, **settings)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True)  # with them, SentencePiece shows bytes and spaces by their names


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _failure(problem: Exception) -> str:
    by_template = type(problem).__module__.startswith("jinja2")
    what = "chat template fails: " if by_template else f"chat template or tokenizer fails: {type(problem).__name__}: "
    return f"{what}{problem}".rstrip(".")


def _lost(render: Callable[[Any], Any], messages: Sequence[Message], form: Sequence[Message], prompt: Any) -> str:
    """What a template did to the words of `messages`, rendered as `form`; "" if they are in the prompt."""
    prompt = prompt if isinstance(prompt, str) else ""
    words = [_words(message) for message in messages]
    # Other words that these do not contain: else the prompt without them would hold them by chance.
    stand_in = next((each for each in _STAND_INS if not any(plain(each) in plain(text) for text in words)), _STAND_INS[0])
    without = _without(render, [_other(*each, stand_in) for each in zip(messages, form, words, strict=True)])
    checked = [(message, text) for message, text in zip(messages, words, strict=True) if text]
    lost = [message for message, text in checked if not _keeps(prompt, without, text, words) or _prints_part(prompt, message)]
    # A prompt can hold the words by chance, so it must also be longer: by all of them, less one character for each of them.
    if not lost and len(plain(prompt)) - len(plain(without)) < sum(len(plain(text)) - 1 for _, text in checked):
        lost = [message for message, _ in checked[-1:]]
    if not lost:
        return ""
    did = "drops" if prompt == without or not prompt.strip() else "drops or changes"
    whose = f"{did} the words of the {lost[0]['role']} message"
    return f"chat template {whose}: {short(lost[0]['content'])} gives the prompt {short(prompt)}"


def _prints_part(prompt: str, message: Message) -> bool:
    """Whether a template prints a part of a message as Python or JSON writes it, instead of its text."""
    part = {"type": "text", "text": message["content"]}
    return str(part) in prompt or json.dumps(part) in prompt


def _words(message: Message) -> str:
    """The words of a message that the prompt must hold. In a system text directives such as /no_think do not count."""
    role, content = message.get("role"), message.get("content")
    if role not in CHECKED or not isinstance(content, str) or not plain(content):
        return ""
    return content if role == "user" else " ".join(word for word in content.split() if not word.startswith("/"))


def _other(message: Message, form: Message, words: str, stand_in: str) -> Message:
    """A message of the same form with other words, and the same directives."""
    if not words:
        return form
    kept = [] if message["role"] == "user" else [word for word in message["content"].split() if word.startswith("/")]
    text = " ".join([stand_in, *kept])
    return {**form, "content": text if isinstance(form["content"], str) else [{"type": "text", "text": text}]}


def _without(render: Callable[[Any], Any], messages: Sequence[Message]) -> str:
    """The prompt of other messages; "" if the template refuses them."""
    try:
        prompt = render(messages)
    except Exception:
        return ""
    return prompt if isinstance(prompt, str) else ""


def _keeps(prompt: str, without: str, text: str, words: Sequence[str]) -> bool:
    """Whether `prompt` holds `text` as often as `words` do, not counting what the prompt without them holds.

    Templates may strip, change newlines, escape or mark each line; that does not lose a word.
    """
    found, before = plain(prompt), plain(without)
    times = sum(plain(text) == plain(other) for other in words)

    def holds(words: str, least: int = 1) -> bool:
        return found.count(plain(words)) - before.count(plain(words)) >= least

    if any(holds(form, times) for form in _escaped(text)):
        return True
    lines = [line for line in text.splitlines() if plain(line)]
    return len(lines) > 1 and any(all(map(holds, form)) for form in zip(*map(_escaped, lines), strict=True))


def _escaped(text: str) -> tuple[str, ...]:
    """A text unchanged, and as HTML, JSON and Python write it."""
    quoted = html.escape(text, quote=False)
    markup = html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # as markupsafe does, which jinja uses
    in_json = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return text, quoted, html.escape(text), markup, *in_json, repr(text)[1:-1]


def plain(text: str) -> str:
    """A text without what templates change and readers do not see: white space, case, variants of one character."""
    return "".join(unicodedata.normalize("NFKD", text).casefold().split())


def short(text: str, length: int = 80) -> str:
    """A text in quotation marks; a long one without its middle."""
    return repr(text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}")

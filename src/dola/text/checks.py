"""What `dola doctor` reports about a tokenizer and a chat template."""

from __future__ import annotations

from typing import Any

from dola.errors import InputError
from dola.text.chat import Message, can_chat, faithful, has_chat, plain, rendered
from dola.text.encoding import Encoder

QUESTION = "Who wrote Hamlet?"
SYSTEM = "Answer in one word."


def odd_about(encoder: Encoder, model: Any, text: str) -> list[str]:
    """Unusual properties of a tokenizer, as clauses of a sentence. `text` is the text to try it with."""
    tokenizer = encoder.tokenizer
    return [
        *_lost_words(encoder, text),
        *_tokens_without_rows(encoder),
        *_appended(encoder),
        *_without_mask(tokenizer, text),
        *_ends_of_another(tokenizer, model),
    ]


def chat_report(encoder: Encoder) -> str:
    """How the chat template renders a question, and whether it supports system messages.

    Raises:
        InputError: The template fails or loses the question's words, or the model has no embedding for one of its tokens.
    """
    if not can_chat(encoder.tokenizer):
        return "none: prompts are continued as they are"
    if not has_chat(encoder.tokenizer):
        return "none, but the tokenizer renders chats with its own code: used with --chat"
    question: Message = {"role": "user", "content": QUESTION}
    count = len(encoder.chat(QUESTION))
    form, _ = _faithful(encoder.tokenizer, [question])
    how = "" if isinstance(form[0]["content"], str) else ", passed as a list of parts (the template drops a plain string)"
    return f"a short question takes {count} tokens{how}; {_system(encoder.tokenizer, question)}"


def _faithful(tokenizer: Any, messages: list[Message]) -> tuple[list[Message], str]:
    return faithful(lambda form: rendered(tokenizer, form, add_generation_prompt=True), messages)


def _system(tokenizer: Any, question: Message) -> str:
    try:
        _faithful(tokenizer, [{"role": "system", "content": SYSTEM}, question])
    except InputError:
        return "system messages are not supported"
    return "system messages are supported"


def _lost_words(encoder: Encoder, text: str) -> list[str]:
    found = encoder.tokenizer.decode(encoder.text(text), skip_special_tokens=True)
    return [] if plain(text) in plain(found) else [f"it loses words: {text!r} comes back as {found!r}"]


def _tokens_without_rows(encoder: Encoder) -> list[str]:
    """The tokens of the vocabulary that the model has no embeddings for."""
    vocabulary: dict[str, int] = getattr(encoder.tokenizer, "get_vocab", dict)()
    beyond = sorted((token, text) for text, token in vocabulary.items() if not encoder.has_row(token))
    if not beyond:
        return []
    token, text = beyond[0]
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    role = f", the padding token {encoder.tokenizer.pad_token!r} among them" if _pads_beyond(encoder) else ""
    return [f"the model has no embedding for token {token} ({text!r}){more}{role}: a text that contains one is refused"]


def _pads_beyond(encoder: Encoder) -> bool:
    pad = getattr(encoder.tokenizer, "pad_token_id", None)
    return pad is not None and not encoder.has_row(pad)


def _appended(encoder: Encoder) -> list[str]:
    after = encoder.around[1]
    if not after:
        return []
    names = " ".join(encoder.named(token) for token in after)
    return [f"it appends {names} to every text: dola removes that, unlike a direct call of the tokenizer"]


def _without_mask(tokenizer: Any, text: str) -> list[str]:
    if "attention_mask" in tokenizer(text):
        return []
    return ["it does not return an attention mask: dola makes one, unlike a direct call of the tokenizer"]


def _ends_of_another(tokenizer: Any, model: Any) -> list[str]:
    """Whether the model's end token is ordinary text in this tokenizer, as it would be in another model's vocabulary."""
    ends = getattr(model.config.get_text_config(), "eos_token_id", None)
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*getattr(tokenizer, "all_special_ids", ()), *(added if isinstance(added, dict) else ())}
    known = [token for token in ends if isinstance(token, int)]
    if not known or not special or special.intersection(known):
        return []
    text = tokenizer.convert_ids_to_tokens(known[0])
    return [
        f"the model's end token {known[0]} is {text!r} here, not a special token: does this tokenizer belong to another model?"
    ]

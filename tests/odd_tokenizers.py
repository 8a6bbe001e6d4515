"""Tokenizers and chat templates as people have them: at odds with what a program expects, and with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command import TEMPLATE, tokenizer
from families import VOCAB, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, PreTrainedTokenizer, PreTrainedTokenizerFast

ADDS = {"nothing": "$A", "start": "<s> $A", "end": "$A </s>", "both": "<s> $A </s>", "two at the end": "<s> $A </s> </s>"}
"""What a tokenizer puts around a text, by name."""

KEEPS = {
    "plain": TEMPLATE,
    "strips": "{% for m in messages %}<user>{{ m['content'] | trim }}<answer>{% endfor %}",
    "collapses": "{% for m in messages %}<user>{{ m['content'].split() | join(' ') }}<answer>{% endfor %}",
    "html": "{% for m in messages %}<user>{{ m['content'] | e }}<answer>{% endfor %}",
    "json": "{{ messages | tojson }}",
    "breaks lines": "{% for m in messages %}{% for l in m['content'].split('\n') %}| {{ l }}\n{% endfor %}{% endfor %}<answer>",
    "lower case": "{% for m in messages %}{{ m['content'] | lower }}<answer>{% endfor %}",
    "no generation prompt": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    "begins with bos": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "ends with eos": "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}",
    "says None": "{{ None }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "alternates": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}<answer>",
    "text or parts": "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}<answer>{% endfor %}",
}
"""Chat templates that keep the words of a message given as a text."""

PARTS = {
    "parts": "{% for m in messages %}<user>{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<answer>{% endfor %}",
    "first part": "{% for m in messages %}<user>{{ m['content'][0]['text'] }}<answer>{% endfor %}",
    "parts or error": "{% for m in messages %}{% for c in m['content'] %}{% if c.type == 'text' %}{{ c.text }}{% else %}"
    "{{ raise_exception('unknown type') }}{% endif %}{% endfor %}<answer>{% endfor %}",
    "parts with a default": "{% for m in messages %}Help the user. {% for c in m['content'] | selectattr('type', 'equalto', "
    "'text') %}{{ c.text | trim }}{% endfor %}{% endfor %}",
}
"""Those that need a list of parts."""

LOSES = {
    "nothing": "<user><answer>",
    "only roles": "{% for m in messages %}<user>{{ m['role'] }}<answer>{% endfor %}",
    "None": "{{ None }}",
    "white space": "  \n ",
    "another key": "{% for m in messages %}<user>{{ m['value'] }}<answer>{% endfor %}",
    "cut": "{% for m in messages %}<user>{{ m['content'][:3] }}<answer>{% endfor %}",
    "replaced": "{% for m in messages %}<user>{{ m['content'] | replace('a', 'o') | replace('e', 'u') }}<answer>{% endfor %}",
    "count": "{% for m in messages %}<user>{{ m['content'] | length }}<answer>{% endfor %}",
    "first word": "{% for m in messages %}<user>{{ m['content'].split() | first }}<answer>{% endfor %}",
    "only the system": "{% for m in messages if m['role'] == 'system' %}{{ m['content'] }}{% endfor %}<answer>",
    "parts as they are": "{% for m in messages %}{% for c in m['content'] %}<part>{{ c }}{% endfor %}{% endfor %}",
    "raises": "{{ raise_exception('no') }}",
    "breaks": "{{ 1 + 'word' }}",
    "not a template": "{% for m in messages %}",
    "named, no default": {"rag": TEMPLATE, "tools": TEMPLATE},
}
"""Those that lose the words in either form, or fail."""


def odd_tokenizer(
    adds: str = "nothing", *, mask: bool = True, extra: int = 0, pad: str = "own", side: str = "left", template: Any = None
) -> Any:
    """A byte-level tokenizer that is odd in the ways that are asked for.

    Args:
        adds: A key of ADDS.
        mask: Whether it gives an attention mask.
        extra: How many added tokens it has, "<extra0>" and so on, beyond the embeddings of `tiny`.
        pad: Its padding token: "own", "none", or "beyond" the embeddings.
        side: The side on which it pads.
        template: Its chat template.
    """
    names = {} if mask else {"model_input_names": ["input_ids"]}  # which a folder keeps only if it is given here
    made = tokenizer(padding_side=side, **names)
    special = [(token, made.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    made.backend_tokenizer.post_processor = TemplateProcessing(single=ADDS[adds], special_tokens=special)
    if extra or pad == "beyond":
        made.add_tokens([AddedToken(f"<fill{i}>", special=True) for i in range(VOCAB - len(made))])
        made.add_tokens([f"<extra{i}>" for i in range(extra)])
    if pad == "beyond":
        made.add_special_tokens({"pad_token": "<padding>"})
    if pad == "none":
        made.pad_token = None
    made.chat_template = template
    return made


def save_odd(folder: Path, *, eos: Any = None, **oddities: Any) -> Path:
    """A tiny llama in a folder, with an odd tokenizer."""
    model = tiny("llama")
    model.generation_config.eos_token_id = eos
    model.save_pretrained(folder)
    odd_tokenizer(**oddities).save_pretrained(folder)
    return folder


def lossy_tokenizer() -> Any:
    """One that drops what it does not know: only the words "word0" to "word9" are tokens."""
    core = Tokenizer(models.BPE({f"{n}": n for n in range(10)}, []))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)


class Letters(PreTrainedTokenizer):
    """A slow tokenizer of letters, which appends an end token and has no token for what it does not know."""

    def __init__(self, **settings: Any) -> None:
        self._ids = {letter: i for i, letter in enumerate(["<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz ?"])}
        super().__init__(**{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **settings})

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text.lower())

    def _convert_token_to_id(self, token: str) -> Any:
        return self._ids.get(token)

    def _convert_id_to_token(self, index: int) -> Any:
        return {i: letter for letter, i in self._ids.items()}.get(index)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
        return [*token_ids_0, 2]

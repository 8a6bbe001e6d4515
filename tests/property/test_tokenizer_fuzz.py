"""Any tokenizer with any chat template: what a model reads is right, or there is a DolaError in plain words and exit code 2.

The judge of right is transformers alone: what the tokenizer makes of a text without special tokens, behind those that this
tokenizer is known to put first; what `apply_chat_template` makes of a message; the model's own log-probabilities.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from families import VOCAB, tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odd_tokenizers import ADDS, KEEPS, LOSES, PARTS, odd_tokenizer

import dola
from dola.bench.cases import whole_cases
from dola.cli import main
from dola.cli.decoding import Decoding, check_length, decode, encode
from dola.errors import DolaError
from dola.evidence.generation import generate_texts
from dola.evidence.ways import Way
from dola.loading.models import LoadedModel
from dola.scoring.recipe import Recipe
from dola.tasks import Generation
from dola.tasks.items import QuestionItem
from dola.text.encoding import Encoder
from dola.ui.request import Limits, Request

NEW = 3
PIECES = ["Who", " wrote", "Hamlet?", "</s>", "<s>", "<pad>", "<user>", "<answer>", "<extra0>", "é", "日本", "\n", "\r\n", "  "]
MARKUP = ["&", "<b>", '"', "'", "{{ 1 }}", "{% x %}", "\\n", "0", "x", "ß", "ﬁ", "\u0338", "a", "user"]


@dataclass(frozen=True)
class Oddities:
    """How a tokenizer is odd; see `odd_tokenizer`."""

    adds: str
    mask: bool
    extra: int
    pad: str
    side: str
    template: tuple[str, str] | None

    @property
    def tokenizer(self) -> Any:
        made = _made(self.adds, self.mask, self.extra, self.pad, self.side)
        made.chat_template = None if self.template is None else {**KEEPS, **PARTS, **LOSES}[self.template[1]]
        return made


@functools.cache
def _made(adds: str, mask: bool, extra: int, pad: str, side: str) -> Any:
    return odd_tokenizer(adds, mask=mask, extra=extra, pad=pad, side=side)


@functools.cache
def model() -> Any:
    return tiny("llama")


templates = st.one_of(
    st.none(),
    *(
        st.tuples(st.just(kind), st.sampled_from(sorted(of)))
        for kind, of in (("keeps", KEEPS), ("parts", PARTS), ("loses", LOSES))
    ),
)
oddities = st.builds(
    Oddities,
    st.sampled_from(sorted(ADDS)),
    st.booleans(),
    st.sampled_from([0, 2]),
    st.sampled_from(["own", "none", "beyond"]),
    st.sampled_from(["left", "right"]),
    templates,
)
texts = st.lists(st.sampled_from(PIECES + MARKUP), min_size=1, max_size=6).map("".join) | st.text(max_size=8)


def judged(odd: Oddities, text: str) -> list[int] | None:
    """The tokens of a prompt by transformers alone; None where there must be an error."""
    tokenizer = odd.tokenizer
    if odd.template is None:
        ids = [1] * ("<s>" in ADDS[odd.adds]) + tokenizer(text, add_special_tokens=False)["input_ids"]
    elif odd.template[0] == "loses":
        return None
    else:
        content = text if odd.template[0] == "keeps" else [{"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids if ids and max(ids) < VOCAB else None


def outcome(door: Any) -> Any:
    """What a call returns, or the DolaError that it raises. Any other exception fails the test."""
    try:
        return door()
    except DolaError as error:
        refused = error
    assert refused.message
    assert refused.hint
    return refused


def has_lost(odd: Oddities, text: str) -> bool:
    """Whether a template of those that lose words loses some of this text, which may be too short for that."""
    if odd.template is None or odd.template[0] != "loses":
        return False
    name = odd.template[1]
    shorter = {"cut": text[:3], "replaced": text.replace("a", "o").replace("e", "u"), "first word": (text.split() or [""])[0]}
    short = name == "parts as they are" and all(len(line.strip()) < 2 for line in text.splitlines())
    return not short and shorter.get(name, "").strip() != text.strip()


def asked(odd: Oddities, text: str) -> Any:
    return encode(model(), odd.tokenizer, [text], chat=odd.template is not None)


@given(oddities, texts)
@settings(deadline=None, max_examples=150)
def test_a_prompt_is_what_transformers_makes_of_it_or_an_error(odd, text):
    assume(text.strip())
    expected, found = judged(odd, text), outcome(lambda: asked(odd, text))
    if expected is None:
        assert isinstance(found, DolaError) or not has_lost(odd, text)
    else:
        assert not isinstance(found, DolaError), found
        assert found["input_ids"].tolist() == [expected]
        assert found["attention_mask"].tolist() == [[1] * len(expected)]


@given(oddities, texts, texts)
@settings(deadline=None, max_examples=100)
def test_two_questions_never_give_one_prompt(odd, first, second):
    """A template may strip, collapse or fold; beyond that, what differs before it differs after it."""
    folded = ["".join(text.casefold().split()) for text in (first, second)]
    assume(all(folded) and folded[0] != folded[1])
    found = [outcome(lambda text=text: asked(odd, text)) for text in (first, second)]
    if not any(isinstance(each, DolaError) for each in found):
        assert found[0]["input_ids"].tolist() != found[1]["input_ids"].tolist()


@given(oddities, st.lists(texts, min_size=2, max_size=3))
@settings(deadline=None, max_examples=30)
def test_prompts_of_a_batch_are_completed_as_transformers_completes_each(odd, prompts):
    assume(all(text.strip() for text in prompts))
    expected = [judged(odd, text) for text in prompts]
    assume(None not in expected)
    tokenizer = odd.tokenizer
    inputs = encode(model(), tokenizer, prompts, chat=odd.template is not None)
    check_length(model(), inputs, NEW)
    batch = decode(model(), tokenizer, inputs, Decoding(NEW, 1.0))
    for ids, completion in zip(expected, batch.completions, strict=True):
        assert completion.token_ids == plainly(ids)
        assert completion.prompt_tokens == len(ids)


@given(oddities, texts)
@settings(deadline=None, max_examples=20)
def test_every_other_door_reads_the_same_tokens(odd, text):
    assume(text.strip())
    chat = odd.template is not None
    expected, tokenizer = judged(odd, text), odd.tokenizer
    encoder = Encoder.of(model(), tokenizer)
    page = outcome(lambda: Request(prompt=text).tokens(encoder, Limits()))
    bench = outcome(lambda: whole_cases(encoder, {"it": text})[0].prompts[0].tolist()[0])
    written = outcome(lambda: written_by_eval(odd, text, chat=chat))
    if expected is None:
        assert not has_lost(odd, text) or all(isinstance(each, DolaError) for each in (page, bench, written))
        return
    assert page == bench == expected
    assert written == tokenizer.decode(plainly(expected), skip_special_tokens=True)
    if not chat:
        trace = dola.trace(model(), tokenizer, text)
        assert [token.after for token in trace.tokens] == expected


def written_by_eval(odd: Oddities, text: str, *, chat: bool) -> str:
    way = Way("it", "it", Recipe(None), 1.0)
    item = QuestionItem("0", text, text)
    found = generate_texts(model(), odd.tokenizer, [item], [way], Generation(NEW, ()), chat=chat, progress=False)
    return found.by_way["it"][0]


@torch.no_grad()
def plainly(ids: list[int]) -> list[int]:
    """The model's continuation, from transformers alone."""
    prompt = torch.tensor([ids])
    found = model().generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW)
    return found[0, len(ids) :].tolist()


@given(oddities, texts, texts)
@settings(deadline=None, max_examples=30)
def test_a_continuation_is_scored_as_transformers_scores_its_own_tokens(odd, context, continuation):
    tokenizer = odd.tokenizer
    first = [1] * ("<s>" in ADDS[odd.adds])
    before, whole = (
        first + tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, context + continuation)
    )
    found = outcome(lambda: dola.score(model(), tokenizer, [context], [[continuation]], {"it": None}, progress=False))
    if not before or len(whole) <= len(before) or max(whole) >= VOCAB or max(before) >= VOCAB:
        assert isinstance(found, DolaError)
        return
    assert not isinstance(found, DolaError), found
    with torch.no_grad():
        log_p = model()(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
    expected = sum(float(log_p[i - 1, whole[i]]) for i in range(len(before), len(whole)))
    assert found.tokens == [[len(whole) - len(before)]]
    assert found.values["it"][0][0] == pytest.approx(expected, abs=2e-3)


CASES = {
    "as usual": Oddities("start", True, 0, "own", "left", None),
    "an end token": Oddities("both", True, 0, "own", "left", None),
    "no mask": Oddities("nothing", False, 0, "own", "right", None),
    "no padding token": Oddities("end", False, 0, "none", "right", None),
    "padding beyond the model": Oddities("both", False, 2, "beyond", "left", None),
    "a token beyond the model": Oddities("nothing", True, 2, "own", "left", None),
    "a template that wants parts": Oddities("both", True, 0, "own", "left", ("parts", "parts")),
    "a template that loses words": Oddities("both", True, 0, "own", "left", ("loses", "another key")),
    "a template that fails": Oddities("nothing", True, 0, "own", "left", ("loses", "breaks")),
    "templates without a default": Oddities("nothing", True, 0, "own", "left", ("loses", "named, no default")),
}


@pytest.mark.parametrize("verb", ["generate", "compare", "trace", "file", "doctor"])
@pytest.mark.parametrize("name", CASES)
def test_the_command_is_right_or_reports_a_mistake(name, verb, monkeypatch, capsys, tmp_path):
    odd = CASES[name]
    monkeypatch.setattr("dola.load", lambda *_, **__: LoadedModel(tiny("llama"), odd.tokenizer))
    prompt = "Who wrote <extra0>?" if name == "a token beyond the model" else "Who wrote Hamlet?"
    (tmp_path / "two.txt").write_text(f"{prompt}\nWhy?\n")
    plain = ["--layers", "off", "--repetition-penalty", "1", "--max-new-tokens", NEW, "--json"]
    arguments = {
        "generate": ["generate", prompt, *plain],
        "file": ["generate", "--file", tmp_path / "two.txt", *plain],
        "compare": ["compare", prompt, "--max-new-tokens", NEW, "--json"],
        "trace": ["trace", prompt, "--generate", NEW, "--greedy", "--repetition-penalty", "1", "--json"],
        "doctor": ["doctor", "any", "--json"],
    }[verb]
    monkeypatch.setattr(sys, "argv", ["dola", *map(str, arguments)])
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    expected = judged(odd, prompt)
    if verb == "doctor":
        checks = {check["name"]: check["status"] for check in json.loads(out)["model"]["checks"]}
        assert code == int(odd.template is not None and odd.template[0] == "loses")
        assert checks["tokenizer"] == (
            "warning" if "end" in odd.adds or odd.adds == "both" or odd.extra or not odd.mask else "ok"
        )
        assert checks["chat template"] == ("failed" if code else "ok")
    elif expected is None:
        assert (code, out) == (2, "")
        assert err.startswith(f"dola: --file '{tmp_path}" if verb == "file" else "dola: The ")
        assert "\nHint: " in err
        assert "Traceback" not in err
    else:
        found = json.loads(out.splitlines()[0])
        tokens = {
            "compare": lambda: found["columns"][0]["token_ids"],
            "trace": lambda: [token["token"] for token in found["tokens"]],
        }.get(verb, lambda: found["token_ids"])()
        assert (code, tokens, found["prompt_tokens"]) == (0, plainly(expected), len(expected))

"""Chat templates: the prompt contains the message's words, or an error says what the template did."""

import pytest
from odd_tokenizers import KEEPS, LOSES, PARTS, odd_tokenizer

from dola.errors import InputError
from dola.text.chat import can_chat, chat_ids, faithful, has_chat, rendered

QUESTIONS = [
    "Who wrote Hamlet?",
    '  Tom & "Jerry" <b>it\'s</b>\r\nsecond line é ﬁ\n\n\tend  ',
    "help the user",
    "日本\n語 ?",
    "</s> Hi",
    "1\n2\n3",
]


def asked(question, **more):
    return [{"role": "user", "content": question, **more}]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", KEEPS)
def test_a_template_that_keeps_the_words_is_used_as_transformers_uses_it(name, question):
    tokenizer = odd_tokenizer("both", template=KEEPS[name])
    expected = tokenizer.apply_chat_template(asked(question), add_generation_prompt=True, return_dict=True)["input_ids"]
    assert chat_ids(tokenizer, question) == expected


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", PARTS)
def test_a_template_that_wants_parts_gets_them(name, question):
    tokenizer = odd_tokenizer(template=PARTS[name])
    parts = asked([{"type": "text", "text": question}])
    found = chat_ids(tokenizer, question)
    assert found == tokenizer.apply_chat_template(parts, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert question.strip() in tokenizer.decode(found)


def test_two_questions_give_two_prompts():
    tokenizer = odd_tokenizer(template=PARTS["parts"])
    as_text = [tokenizer.apply_chat_template(asked(each), tokenize=False) for each in ("Who wrote Hamlet?", "Why?")]
    assert as_text[0] == as_text[1]  # what transformers makes of a text
    assert chat_ids(tokenizer, "Who wrote Hamlet?") != chat_ids(tokenizer, "Why?")


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", LOSES)
def test_a_template_that_loses_the_words_is_refused(name, question):
    if name == "replaced" and question in ("日本\n語 ?", "</s> Hi", "1\n2\n3"):
        return  # it has nothing to replace there
    if name == "parts as they are" and question == "1\n2\n3":
        return  # each line is a character, and there whole
    with pytest.raises(InputError, match="The model's chat template ") as refused:
        chat_ids(odd_tokenizer(template=LOSES[name]), question, hint="--no-chat")
    assert refused.value.hint == "--no-chat"


@pytest.mark.parametrize("question", ["help", "assistant", "a", "user", "You are a helpful assistant"])
def test_words_of_the_template_itself_are_not_the_users(question):
    template = "You are a helpful assistant. {% for m in messages %}<user>{{ m['text'] }}<answer>{% endfor %}"
    with pytest.raises(InputError, match="drops the words of the user message"):
        chat_ids(odd_tokenizer(template=template), question)
    kept = template.replace("m['text']", "m['content']")
    assert chat_ids(odd_tokenizer(template=kept), question)


def test_the_error_says_what_the_template_did():
    with pytest.raises(InputError) as dropped:
        chat_ids(odd_tokenizer(template=LOSES["another key"]), "Who wrote Hamlet?")
    assert dropped.value.message == (
        "The model's chat template drops the words of the user message: 'Who wrote Hamlet?' gives the prompt '<user><answer>'."
    )
    with pytest.raises(InputError, match=r"drops or changes the words .* gives the prompt '<user>Who<answer>'"):
        chat_ids(odd_tokenizer(template=LOSES["cut"]), "Who wrote Hamlet?")
    with pytest.raises(InputError, match="no default specified"):
        chat_ids(odd_tokenizer(template=LOSES["named, no default"]), "Who wrote Hamlet?")


def test_a_cut_that_leaves_the_last_line_elsewhere_in_the_text_is_seen():
    template = "{% for m in messages %}<user>{{ m['content'][:17] }}<answer>{% endfor %}"
    with pytest.raises(InputError, match="drops or changes"):
        chat_ids(odd_tokenizer(template=template), "Who wrote Hamlet?\nam")


def test_a_cut_that_the_template_completes_by_chance_is_seen():
    with pytest.raises(InputError, match="drops or changes"):
        chat_ids(odd_tokenizer(template=LOSES["cut"]), "Who<answer>")


@pytest.mark.parametrize("system", ["/no_think", "Be brief. /no_think", "Be brief.", "/no_think Be  brief.\n"])
def test_directives_of_a_system_text_are_for_the_template(system):
    """Like SmolLM3's template, which removes them and writes out what they mean."""
    template = (
        "{% set s = messages[0]['content'] %}{% if '/no_think' in s %}Quick!{% else %}Think long and hard first.{% endif %}"
        "{{ s.replace('/no_think', '') | trim }}{{ messages[1]['content'] }}"
    )
    tokenizer = odd_tokenizer(template=template)
    messages = [{"role": "system", "content": system}, *asked("Why?")]
    assert "Why?" in faithful(lambda form: rendered(tokenizer, form), messages)[1]
    tokenizer.chat_template = template.replace("| trim", "| length")
    if "brief" in system:
        with pytest.raises(InputError, match="words of the system message"):
            faithful(lambda form: rendered(tokenizer, form), messages)


def test_a_message_of_white_space_has_no_words_to_lose():
    assert chat_ids(odd_tokenizer(template=KEEPS["strips"]), " \n ") == chat_ids(odd_tokenizer(template=KEEPS["strips"]), "")


def test_named_templates_with_a_default():
    tokenizer = odd_tokenizer(template={"default": KEEPS["strips"], "rag": LOSES["nothing"]})
    assert tokenizer.decode(chat_ids(tokenizer, " Hi ")) == "<user>Hi<answer>"


def test_bos_is_not_doubled():
    tokenizer = odd_tokenizer("both", template=KEEPS["begins with bos"])
    ids = chat_ids(tokenizer, "Hi")
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize(
    ("name", "system", "user"),
    [("plain", True, True), ("parts", True, True), ("no system", False, True), ("only the system", True, False)],
)
def test_a_system_text_must_be_in_the_prompt_as_well(name, system, user):
    ignores = "{% for m in messages if m['role'] != 'system' %}<user>{{ m['content'] }}<answer>{% endfor %}"
    template = {**KEEPS, **PARTS, **LOSES, "no system": ignores}[name]
    tokenizer = odd_tokenizer(template=template)
    messages = [{"role": "system", "content": "Be brief."}, *asked("Be brief?")]

    def render(form):
        return rendered(tokenizer, form, add_generation_prompt=True)

    if system and user:
        assert "Be brief." in faithful(render, messages)[1]
    else:
        with pytest.raises(InputError, match=f"words of the {'user' if system else 'system'} message"):
            faithful(render, messages)


def test_the_same_words_twice_must_be_there_twice():
    tokenizer = odd_tokenizer(template="{{ messages[-1]['content'] }}<answer>")
    messages = [*asked("Go on."), {"role": "assistant", "content": "Yes."}, *asked("Go on.")]
    with pytest.raises(InputError, match="drops or changes the words of the user message"):
        faithful(lambda form: rendered(tokenizer, form), messages)
    tokenizer.chat_template = KEEPS["no generation prompt"]
    assert faithful(lambda form: rendered(tokenizer, form), messages)[1].count("Go on.") == 2


def test_thoughts_of_the_assistant_may_be_left_out():
    tokenizer = odd_tokenizer(template="{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }}{% endfor %}")
    messages = [*asked("Why?"), {"role": "assistant", "content": "So."}, *asked("How?")]
    assert faithful(lambda form: rendered(tokenizer, form), messages)[1] == "Why?How?"


def test_a_template_that_refuses_other_words_is_still_read():
    template = "{% if messages[0]['content'] != 'Hi' %}{{ raise_exception('only Hi') }}{% endif %}Hi"
    assert chat_ids(odd_tokenizer(template=template), "Hi")
    with pytest.raises(InputError, match="chat template fails: only Hi"):
        chat_ids(odd_tokenizer(template=template), "Ho")


class Renders:
    """Like MistralCommonBackend: code in place of a template, which returns tokens and no text."""

    chat_template = None

    def apply_chat_template(self, messages, tokenize=True, **_):
        assert tokenize, "unsafe, as MistralCommonBackend says"
        return {"input_ids": [ord(letter) for letter in f"[INST]{messages[0]['content']}[/INST]"]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(map(chr, ids))


def test_a_tokenizer_with_code_of_its_own():
    assert not has_chat(Renders())
    assert can_chat(Renders())
    assert Renders().decode(chat_ids(Renders(), "Why?")) == "[INST]Why?[/INST]"
    assert not can_chat(odd_tokenizer())
    assert can_chat(odd_tokenizer(template=KEEPS["plain"]))

"""What `dola ui` does without a browser and without Gradio: requests, shared models, answers, files."""

import json
import threading
from itertools import pairwise

import pytest
from command import TEMPLATE
from command import tokenizer as byte_tokenizer
from each_method import METHODS, each_method

import dola
from dola.errors import ConfigError, InputError, ModelFileError
from dola.loading.models import LoadedModel
from dola.tracing.trace_file import read_traces, write_traces
from dola.ui.form import offered
from dola.ui.models import KEPT, Models
from dola.ui.request import Limits, Request
from dola.ui.session import Session
from dola.ui.view import Answer, View, answer_html, answers, message_html

PROMPT = "The quick brown fox"
LIMITS = Limits(prompt_tokens=40, new_tokens=12)


@pytest.fixture
def session(llama, monkeypatch):
    monkeypatch.setattr("dola.ui.session.VIEW_SECONDS", 0)  # these answers take less than a view
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE

    def load(name):
        if name != "tiny":
            raise ModelFileError(f"There is no {name}.", hint="check the path")
        return LoadedModel(llama, tokenizer)

    return Session(Models(load), LIMITS)


def asked(prompt=PROMPT, **settings):
    return Request(**{"model": "tiny", "prompt": prompt, "new_tokens": 12, **settings})


def views(session, request, who="me"):
    return list(session.answer(request, who))


def test_an_answer_is_that_of_trace(session, llama):
    *_, view = views(session, asked(layers="2, 4", settings={"relative_top": 0.05}, repetition_penalty=1.1, chat=False))
    assert (view.error, view.running) == ("", False)
    assert view.status.startswith("Done: 12 and 12 tokens")
    _, tokenizer = session.models.get("tiny")
    config = dola.DoLaConfig([2, 4], relative_top=0.05)
    for trace, answer, decode in zip(view.traces, view.answers, ("greedy", "dola"), strict=True):
        settings = {"generate": 12, "decode": decode, "repetition_penalty": 1.1}
        expected = dola.trace(llama, tokenizer, PROMPT, config, **settings)
        ids = [token.token for token in trace.tokens]
        assert ids == [token.token for token in expected.tokens]
        assert [token.layer for token in trace.tokens] == [token.layer for token in expected.tokens]
        assert trace.settings == expected.settings
        assert (trace.model, trace.mode, trace.prompt) == ("tiny", decode, PROMPT)
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.tokens == 12


@each_method
def test_each_method(session, llama, name):
    config = METHODS[name]
    settings = {each.name: getattr(config, each.name) for each in offered(type(config))}
    *_, view = views(session, asked(method=name, layers=config.layers, settings=settings, chat=False, new_tokens=6))
    assert (view.error, view.method) == ("", type(config).title)
    _, tokenizer = session.models.get("tiny")
    expected = dola.trace(llama, tokenizer, PROMPT, config, generate=6, decode="dola", repetition_penalty=1.2)
    assert [token.token for token in view.traces[1].tokens] == [token.token for token in expected.tokens]
    assert view.traces[1].settings == expected.settings


def test_a_saved_trace_names_its_method(session, llama, tmp_path):
    path = tmp_path / "t.jsonl"
    trace = dola.trace(llama, session.models.get("tiny").tokenizer, PROMPT, dola.SLEDConfig(), generate=2)
    write_traces([trace], path)
    assert session.open(path, "t.jsonl").method == "SLED"
    path.write_text(path.read_text().replace('"method": "sled"', '"method": "gone"'))
    assert session.open(path, "t.jsonl").method == "gone"


def test_the_chat_template_is_used_where_it_is_asked_for(session):
    *_, view = views(session, asked())
    assert view.traces[0].prompt == f"<user>{PROMPT}<answer>"
    *_, view = views(session, asked(chat=False))
    assert view.traces[0].prompt == PROMPT


def test_text_comes_token_by_token(session):
    seen = views(session, asked())
    assert seen[0].status.startswith("Loading tiny")
    assert not any(view.status.startswith("Loading") for view in views(session, asked()))
    counts = [view.answers[1].tokens for view in seen]
    assert set(counts) == set(range(13))
    assert all(view.running for view in seen[:-1])


def test_a_page_is_not_sent_more_than_it_can_draw(session, monkeypatch):
    monkeypatch.setattr("dola.ui.session.VIEW_SECONDS", 600)
    *before, last = views(session, asked())
    decoding = [view for view in before if view.status.startswith("Decoding")]
    assert len(decoding) <= 2  # one for each way
    assert not last.running
    assert [len(trace.tokens) for trace in last.traces] == [12, 12]


def test_a_trace_is_sent_again_when_it_has_grown_by_a_share_of_itself(session, monkeypatch):
    monkeypatch.setattr("dola.tracing.live.BLOCK", 1)
    lengths = [sum(len(trace.tokens) for trace in view.traces) for view in views(session, asked())]
    sent = sorted({*lengths} - {0})
    assert lengths == sorted(lengths)
    assert sent[-1] == 24
    assert all(later >= 1.25 * earlier for earlier, later in pairwise(sent[:-1]))


def test_a_page_for_strangers_opens_no_lens(session, tmp_path):
    """A lens is a file on this machine or on the hub, so a name that a stranger typed is not opened."""
    strict = Session(session.models, Limits(40, 12, lens=False))
    *_, view = views(strict, asked(settings={"lens": str(tmp_path / "x.safetensors")}, chat=False))
    assert view.error == "This page does not read through lenses."
    *_, view = views(session, asked(settings={"lens": str(tmp_path / "x.safetensors")}, chat=False))
    assert "does not exist" in view.error


def test_stop_affects_only_the_page_that_asks(session):
    request = asked(new_tokens=12)
    mine, theirs = session.answer(request, "me"), session.answer(request, "they")
    for each in (mine, theirs):
        next(view for view in each if view.answers[0].tokens)
    session.stop("me")
    session.stop("nobody")
    *_, last_of_mine = mine
    *_, last_of_theirs = theirs
    assert last_of_theirs.status.startswith("Done: 12 and 12")
    assert last_of_mine.status.startswith("Stopped: ")
    assert [answer.tokens for answer in last_of_mine.answers] == [len(trace.tokens) for trace in last_of_mine.traces]


def test_a_new_request_of_a_page_stops_its_old_one(session):
    old = session.answer(asked(), "me")
    next(view for view in old if view.answers[0].tokens)
    *_, new = session.answer(asked(), "me")
    *_, ended = old
    assert ended.status.startswith("Stopped")
    assert new.status.startswith("Done")


def test_two_people_get_their_own_answers(session):
    wanted = {"a": asked(layers="high"), "b": asked("Something else", layers="low", new_tokens=9)}
    alone = {who: views(session, request, who)[-1] for who, request in wanted.items()}
    together = {}

    def ask(who):
        together[who] = views(session, wanted[who], who)[-1]

    threads = [threading.Thread(target=ask, args=(who,)) for who in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for who, view in together.items():
        assert view.traces == alone[who].traces
        assert view.answers == alone[who].answers


def test_everything_ends_with_the_server(session):
    running = session.answer(asked(), "me")
    next(view for view in running if view.answers[0].tokens)
    session.stop_all()
    *_, view = running
    assert view.status.startswith("Stopped")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "  \n"}, "The prompt is empty"),
        ({"prompt": "x" * 1601}, "has 1,601 characters. Allowed: 1,600"),
        ({"prompt": "zq " * 60}, "tokens, including the model's template. Allowed: 40"),
        ({"new_tokens": 13}, "13 new tokens is out of range. Allowed: 1 to 12"),
        ({"new_tokens": 0}, "0 new tokens is out of range"),
        ({"layers": "heigh"}, "heigh"),
        ({"layers": "99"}, "99"),
        ({"layers": ""}, "layers"),
        ({"settings": {"relative_top": 2.0}}, "relative_top"),
        ({"settings": {"divergence": "kl"}}, "divergence"),
        ({"repetition_penalty": 0.0}, "repetition penalty 0.0 is out of range"),
        ({"repetition_penalty": float("nan")}, "repetition penalty nan is out of range"),
        ({"model": "nowhere"}, "There is no nowhere"),
        ({"model": ""}, "Allowed: an alias, a hub id or a folder"),
    ],
)
def test_a_request_that_fails_is_reported_and_the_page_continues(session, settings, message):
    *_, view = views(session, asked(**settings))
    assert message in view.error
    assert view.hint
    assert not view.running
    assert views(session, asked())[-1].status.startswith("Done")


def test_an_internal_error_is_reported_too(session, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patch:
        patch.setattr("dola.tracing.live.LayerReader.read_states", broken)
        *_, view = views(session, asked())
    assert "ZeroDivisionError: oh" in view.error
    assert "a request of the page failed" in caplog.text
    assert views(session, asked())[-1].status.startswith("Done")


def test_a_chat_template_that_fails(session):
    session.models.get("tiny").tokenizer.chat_template = "{{ raise_exception('no') }}"
    *_, view = views(session, asked())
    assert "The model's chat template fails" in view.error
    assert view.hint == "do without the chat template"


def test_a_model_is_loaded_once_whoever_asks():
    loads, go = [], threading.Event()

    def load(name):
        loads.append(name)
        assert go.wait(10)
        return LoadedModel(name, None)

    models, got = Models(load), []
    threads = [threading.Thread(target=lambda: got.append(models.get("one"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not models.has("one")
    go.set()
    for thread in threads:
        thread.join()
    assert loads == ["one"]
    assert len(got) == 3
    assert models.has("one")


def test_few_models_stay_loaded_those_that_were_used_last():
    loads = []
    models = Models(lambda name: LoadedModel(loads.append(name), None))
    names = [f"model{number}" for number in range(KEPT + 1)]
    for name in [*names[:KEPT], names[0], names[KEPT]]:
        models.get(name)
    assert [models.has(name) for name in names] == [True, *[False] * (KEPT - 1), True]
    models.get(names[0])
    assert loads == names


def test_a_failed_load_is_tried_again():
    attempts = []

    def load(name):
        attempts.append(name)
        if len(attempts) == 1:
            raise ModelFileError("no", hint="yes")
        return LoadedModel(None, None)

    models = Models(load)
    with pytest.raises(ModelFileError):
        models.get("one")
    assert models.get("one")


def test_models_can_be_held_to_a_list():
    models = Models(lambda name: LoadedModel(name, None), ["smollm2"])
    assert models.get("smollm2").model == "smollm2"
    with pytest.raises(InputError, match=r"No model '/etc' here\. Allowed: smollm2"):
        models.get("/etc")


def test_a_request_as_a_config():
    assert asked(layers=" 3,4").config() == dola.DoLaConfig([3, 4])
    assert asked(settings={"divergence": "reference", "final_norm": False}).config() == dola.DoLaConfig(
        "high", divergence="reference", final_norm=False
    )
    with pytest.raises(ConfigError):
        asked(layers="3,3").config()


def test_saved_traces_are_opened_again(session, tmp_path):
    *_, view = views(session, asked())
    write_traces(view.traces, tmp_path / "t.jsonl")
    opened = session.open(tmp_path / "t.jsonl", "t.jsonl")
    assert opened.traces == view.traces
    assert opened.error == ""
    for answer, trace in zip(opened.answers, view.traces, strict=True):
        assert answer.text == "".join(trace.text(token.token) for token in trace.tokens)
    assert read_traces(tmp_path / "t.jsonl", "it") == list(view.traces)


def test_a_prompts_trace_is_opened_without_answers(session, llama, tmp_path):
    trace = dola.trace(llama, byte_tokenizer(), PROMPT)
    write_traces([trace], tmp_path / "t.json")
    opened = session.open(tmp_path / "t.json", "t.json")
    assert (opened.traces, opened.answers) == ((trace,), (Answer(), Answer()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[: len(line) // 2], "t.jsonl, line 1: This is not a whole JSON object"),
        (lambda line: line.replace("dola.trace/1", "dola.trace/2"), "has schema 'dola.trace/2'"),
        (lambda line: '{"a": 1}', "no trace"),
        (lambda line: "", "t.jsonl is empty"),
        (lambda line: "\udc80", "not valid UTF-8"),
        (lambda line: f"{line}\n" * 3, "holds 3 traces; the page shows two side by side"),
    ],
)
def test_files_that_cannot_be_opened(session, llama, tmp_path, change, message):
    line = dola.trace(llama, byte_tokenizer(), PROMPT).to_json()
    path = tmp_path / "t.jsonl"
    path.write_bytes(change(line).encode("utf-8", "surrogateescape"))
    view = session.open(path, "t.jsonl")
    assert message in view.error
    assert view.hint
    assert view.traces == ()


def test_a_file_that_is_too_large_or_not_there(session, tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"schema": "dola.trace/1"}))
    monkeypatch.setattr("dola.ui.session.LARGEST_FILE", 3)
    assert "t.jsonl is larger than" in session.open(path, "t.jsonl").error


def test_where_dola_leaves_greedy_is_marked(llama):
    tokenizer = byte_tokenizer()

    def progress(text):
        from dola.tracing.live import Progress

        return Progress("dola", tuple(tokenizer(text)["input_ids"]), None, False)

    first, second = answers(tokenizer, [progress("It is Seattle"), progress("It is Olympia, I think")])
    assert (first.text, second.text) == ("It is Seattle", "It is Olympia, I think")
    assert second.text[: second.common] == "It is "
    assert answers(tokenizer, [None, progress("It")]) == (Answer(), Answer("It", 0, len(progress("It").token_ids)))
    shown = answer_html(second, running=False, mark=True)
    assert "It is <mark>Olympia, I think</mark>" in shown
    assert "<mark>" not in answer_html(first, running=False, mark=False)
    same = answers(tokenizer, [progress("It is"), progress("It is")])[1]
    assert "<mark>" not in answer_html(same, running=False, mark=True)


def test_texts_cannot_run_as_code():
    wicked = "<img src=x onerror=alert(1)>"
    for shown in (
        answer_html(Answer(wicked, 0, 1), running=True, mark=True),
        message_html(View(status=wicked)),
        message_html(View().failed(wicked, wicked)),
    ):
        assert "<img" not in shown
        assert "img" in shown


def test_messages_reach_a_screen_reader():
    assert 'role="status"' in message_html(View(status="Ready."))
    failed = message_html(View(status="Ready.").failed("It failed.", "try again"))
    assert 'role="alert"' in failed
    assert "Try again" in failed
    assert "Ready" not in failed
    assert "Nothing yet" in answer_html(Answer(), running=False, mark=True)
    assert 'aria-busy="true"' in answer_html(Answer(), running=True, mark=True)

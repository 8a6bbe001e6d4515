"""`dola eval --trace-items N`: the items that a row changed most, with what each layer says about both answers."""

import csv
import json
import re

import pytest

from dola.tracing.data import LayerTrace

QUESTIONS = [f"Is {i} even?" for i in range(12)]


@pytest.fixture
def asked(dola_command, folder, tmp_path):
    """`dola eval` of a file with these rows."""

    def run(rows, *options):
        path = tmp_path / "questions.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("question", "answer", "wrong")[: len(rows[0])], *rows])
        return dola_command("eval", path, "--model", folder, *options)

    return run


def written(trace):
    """The text of a trace's tokens."""
    return "".join(trace.text(token.token) for token in trace.tokens)


def plainly(text):
    """The letters of ASCII: a part of a character is written in two ways."""
    return re.sub(r"\\x..|[^ -~]", "", text).strip()


def by_item(found):
    """The traces of each item, by the row whose answer they are."""
    items = {}
    for each in found["traces"]:
        items.setdefault(each["item"], {})[each["row"]] = each | {"trace": LayerTrace.from_value(each["trace"])}
    return items


def test_chosen_answers(asked, tmp_path):
    rows = [(each, QUESTIONS[i - 1], QUESTIONS[i - 5]) for i, each in enumerate(QUESTIONS)]  # the model is random
    ended = asked(rows, "--json", "--trace-items", 3, "--html", tmp_path / "report.html")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    items = by_item(found)
    [row] = {each["read_as"] for each in found["traces"]}
    ways = {way["name"]: way for way in found["ways"]}
    places = {item: place for place, item in enumerate(found["item_ids"])}

    def moved(place):
        """How far the row moved an item: whether it is right, then the probability of the right answer."""
        right = [ways[name]["items"]["accuracy"][place] for name in ("vanilla", row)]
        mass = [ways[name]["mass"][place] for name in ("vanilla", row)]
        return abs(right[1] - right[0]), abs(mass[1] - mass[0])

    counted = [place for place in places.values() if moved(place) >= (0, 0.1)]
    assert [places[item] for item in items] == sorted(counted, key=lambda place: (*(-x for x in moved(place)), place))[:3]
    assert 0 < len(items) <= 3
    for item, answers in items.items():
        texts = {name: ways[name]["chosen"][places[item]] for name in ("vanilla", row)}
        assert list(answers) == (["vanilla", row] if texts["vanilla"] != texts[row] else ["vanilla"])
        for name, each in answers.items():
            assert written(each["trace"]).strip() == texts[name]
            assert each["same"]
            assert each["trace"].prompt.endswith(f"Q: {QUESTIONS[places[item]]}\nA: {texts[name]}")
            assert each["trace"].without_lens is None
    assert any(line.startswith(f'Traced: items that "{row}" changed most') for line in found["notes"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("layers read as") == len(found["traces"])


def test_items_in_a_drawn_order(asked):
    rows = [(each, QUESTIONS[i - 1], QUESTIONS[i - 5]) for i, each in enumerate(QUESTIONS)]
    ended = asked(rows, "--json", "--trace-items", 2, "--sequential")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["item_ids"] != sorted(found["item_ids"], key=int)
    assert 0 < len(by_item(found)) <= 2
    for item, answers in by_item(found).items():
        assert all(f"Q: {QUESTIONS[int(item) - 1]}\n" in each["trace"].prompt for each in answers.values())


def test_written_answers_are_decoded_again_as_their_rows_did(asked):
    settings = ("--json", "--max-new-tokens", 3)
    plain = json.loads(asked([(each, "x") for each in QUESTIONS[:4]], *settings).out)
    texts = {way["name"]: way["texts"] for way in plain["ways"]}
    vanilla, ours = texts["vanilla"], texts["DoLa high"]
    differ = [i for i in range(4) if vanilla[i] != ours[i] and ours[i].strip()]
    assert differ
    answers = [(question, text.strip() or "x") for question, text in zip(QUESTIONS, ours, strict=False)]
    ended = asked(answers, *settings, "--trace-items", 1, "--ways", "standard")
    assert ended.code == 0, ended.err
    [(item, read)] = by_item(json.loads(ended.out)).items()
    place, [_, row] = int(item) - 1, read
    for name in ("vanilla", row):
        assert plainly(written(read[name]["trace"])) == plainly(texts[name][place])
        assert read[name]["same"]
        assert read[name]["trace"].mode == ("greedy" if name == "vanilla" else "dola")
        penalty = 1.0 if name == "vanilla" else 1.2
        assert read[name]["trace"].settings["repetition_penalty"] == penalty


def test_nothing_changed(asked):
    ended = asked([(each, "no such words") for each in QUESTIONS[:2]], "--json", "--max-new-tokens", 2, "--trace-items", 2)
    found = json.loads(ended.out)
    assert found["traces"] == []
    assert "Nothing was traced: no row changed an answer." in found["notes"]


@pytest.mark.parametrize(
    ("task", "options", "said", "hint"),
    [
        ("questions", ["--trace-items", "2"], "--trace-items needs a place for the traces", "add --html report.html"),
        ("questions", ["--trace-items", "-1", "--json"], "--trace-items -1 is out of range", "leave --trace-items out"),
        ("questions", ["--trace-items", "2", "--json", "--signals"], "--trace-items does not apply to --signals", "omit"),
        ("vicuna", ["--trace-items", "2", "--json", "--answers", "."], "vicuna, which draws its answers", "omit"),
        ("lm-eval:arc_easy", ["--trace-items", "2", "--json"], "--trace-items does not apply to lm-eval:arc_easy", "omit"),
    ],
)
def test_mistakes(dola_command, tmp_path, monkeypatch, task, options, said, hint):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "questions.csv"
    path.write_text("question,answer\nWhy?,x\n", encoding="utf-8")
    data = tmp_path / "vicuna.jsonl"
    data.write_text('{"question_id": 1, "turns": ["Why?"]}\n', encoding="utf-8")
    named = {"questions": [path], "vicuna": ["vicuna", "--data", data]}.get(task, [task])
    ended = dola_command("eval", *named, "-m", "nowhere/at-all", *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert hint in ended.err

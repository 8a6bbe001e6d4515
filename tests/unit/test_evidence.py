"""Evaluations: samples, ways and controls, their numbers, and the texts of a report."""

import io
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import samples
import torch
from rich.console import Console

import dola
from dola import DoLaConfig, Recipe
from dola.errors import DataError, InputError, UsageError
from dola.evidence import chart
from dola.evidence.choice import held_out, measure_length, score_items
from dola.evidence.evaluate import Judges, evaluate
from dola.evidence.generation import generate_texts
from dola.evidence.markdown_page import markdown
from dola.evidence.report import make_report
from dola.evidence.sample import Sample, draw, find_task
from dola.evidence.table import render
from dola.evidence.ways import LENGTH, STATIC, VANILLA, Role, Way, choice_ways, generation_ways
from dola.model.hidden import cut_left
from dola.scoring.score import Scores
from dola.tasks import TASKS, Generation, PaperSettings
from dola.tasks.items import ChoiceItem, QuestionItem

TRUTHFULQA, FACTOR, GSM8K = TASKS["truthfulqa-mc"], TASKS["factor-news"], TASKS["gsm8k"]
MODEL = SimpleNamespace(dtype="torch.float32")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return dola.load(str(samples.long_window(tmp_path_factory.mktemp("long"))))


@pytest.fixture(scope="module")
def factor_report(long, tmp_path_factory):
    sample = Sample.of(FACTOR, [str(samples.factor(tmp_path_factory.mktemp("data") / "f.csv"))], seed=3)
    own = DoLaConfig([1, 4], relative_top=0.1)
    return sample, evaluate(*long, sample, name="tiny", dola=own, progress=False)


def said_under(report, title):
    """The sentences of one section of the details."""
    return next((section.lines for section in report.details if section.title == title), [])


# samples


def test_a_limit_draws_items_and_keeps_their_order():
    items = list(range(100))
    assert draw(items, 10, 0) == sorted(draw(items, 10, 0)) == draw(items, 10, 0) != draw(items, 10, 1)
    assert len(set(draw(items, 10, 0))) == 10


def test_a_sample_says_what_it_is_of(tmp_path):
    path = samples.factor(tmp_path / "news_factor.csv", rows=12)
    whole, part = Sample.of(FACTOR, [str(tmp_path)]), Sample.of(FACTOR, [str(path)], limit=5, seed=2)
    assert [item.id for item in whole.items] == [str(i) for i in range(1, 13)]
    assert whole.origins == part.origins
    assert part.facts == {
        "task": "factor-news",
        "data": f"{path} with SHA-256 {part.origins[0].sha256}",
        "items": "5 of 12, seed 2",
    }
    assert Sample.of(FACTOR, [str(path)], limit=99).items == whole.items
    with pytest.raises(InputError, match="limit=0 leaves no item"):
        Sample.of(FACTOR, [str(path)], limit=0)
    with pytest.raises(DataError, match="The Hugging Face hub does not have factor-news"):
        Sample.of(FACTOR)
    with pytest.raises(UsageError, match=r"'mmlu' is not a task. Tasks: truthfulqa-mc, .*vicuna"):
        find_task("mmlu")


# ways


def test_every_report_of_a_choice_task_has_its_controls():
    names = [way.name for way in choice_ways(TRUTHFULQA, DoLaConfig(relative_top=0.0))]
    assert names == [
        "vanilla",
        "DoLa low",
        "DoLa high",
        "static, held out",
        "reference high, not normalized",
        "reference high, normalized",
        "DoLa high, not normalized",
        "random layer of high",
        "length alone",
    ]
    ways = {way.name: way for way in choice_ways(FACTOR, DoLaConfig([3, 5]), seed=4)}
    assert ways["DoLa 3,5"].recipe == Recipe(DoLaConfig([3, 5]))
    assert ways["reference low, normalized"].recipe == Recipe.factor("low")
    assert ways["constraint alone"].recipe == Recipe(DoLaConfig("low"), premature="none")
    assert ways["random layer of low"].recipe.seed == 4
    assert {name for name, way in ways.items() if way.control} == set(list(ways)[-5:])


def test_the_papers_recipe_is_what_the_tasks_fields_say():
    paper = PaperSettings("low", relative_top=0.0, post_softmax=True)
    found = {way.description: way for way in choice_ways(replace(TRUTHFULQA, paper=paper), DoLaConfig())}
    assert found["the paper's recipe"].recipe == Recipe.reference("low", relative_top=0.0, post_softmax=True)
    assert found["the paper's recipe"].name == "reference low, normalized"
    assert Recipe.reference("low", relative_top=0.1, post_softmax=True) == Recipe.factor("low")
    assert Recipe.reference("high", relative_top=0.0, post_softmax=False) == Recipe.truthfulqa("high")


def test_generation_is_compared_with_the_same_penalty():
    ways = generation_ways(DoLaConfig("low"), 1.2)
    assert [(way.name, way.repetition_penalty) for way in ways] == [
        ("vanilla", 1.0),
        ("vanilla, penalty 1.2", 1.2),
        ("DoLa low", 1.2),
        ("DoLa high", 1.2),
    ]
    assert [way.name for way in generation_ways(DoLaConfig("all"), 1.0)] == ["vanilla", "DoLa low", "DoLa high", "DoLa all"]


# controls


def scores_of(tokens):
    return Scores(tokens=tokens, values={}, greedy={}, implausible={}, layers={})


def test_the_length_control_answers_with_the_longest():
    item = ChoiceItem("1", "Q", (" a", " b", " c"), (True, False, False), best=0)
    found = measure_length(TRUTHFULQA, [item, replace(item, id="2")], scores_of([[5, 3, 4], [3, 4, 2]]), seed=0)
    assert found["mc1"] == [1.0, 0.0]
    assert found["mc2"] == [pytest.approx(1 / (1 + math.exp(-20) + math.exp(-10)), abs=1e-3), pytest.approx(0, abs=1e-3)]


def test_ties_of_the_length_control_are_broken_by_chance():
    """FACTOR gives a tie to the true ending: by mean per token, this scorer would be right on every item."""
    items = [ChoiceItem(str(i), "Q", (" a", " b", " c", " d"), (True, False, False, False), best=0) for i in range(400)]
    found = measure_length(FACTOR, items, scores_of([[3, 3, 3, 3]] * 400), seed=0)
    for metric in ("factor", "factor_official"):
        assert 0.18 < sum(found[metric]) / 400 < 0.32
    assert found == measure_length(FACTOR, items, scores_of([[3, 3, 3, 3]] * 400), seed=0)


def test_no_item_affects_the_layer_that_judges_it():
    """Each candidate is right on one item only, so the layer for an item comes from the other fold."""
    first, second = {"m": [1.0, 0, 1, 0, 1, 0]}, {"m": [0.0, 1, 0, 1, 0, 1]}
    values, chosen = held_out({"a": first, "b": second}, ["m"], 6, seed=0)
    from dola.evidence.statistics import folds

    parts = folds(6, 2, 0)
    for part, other, name in zip(parts, reversed(parts), chosen["m"], strict=True):
        means = {each: sum(of["m"][i] for i in other) for each, of in (("a", first), ("b", second))}
        assert means[name] == max(means.values())
        assert all(values["m"][i] == {"a": first, "b": second}[name]["m"][i] for i in part)
    one, none = held_out({"a": {"m": [0.5]}, "b": {"m": [1.0]}}, ["m"], 1, seed=0)
    assert (one, none) == ({"m": [0.5]}, {"m": []})


# evaluate


def test_row_values_equal_those_of_dola_score(factor_report, long):
    sample, report = factor_report
    own = {"DoLa 1,4": DoLaConfig([1, 4]), "vanilla": None, "reference low, normalized": Recipe.factor("low")}
    scores = score_items(*long, sample.items, own, progress=False)
    for name in own:
        expected = [FACTOR.measure(item, scores.values[name][i], scores.tokens[i]) for i, item in enumerate(sample.items)]
        assert report.way(name).items["factor"] == [values["factor"] for values in expected]
        assert report.way(name).layers == scores.layer_shares(name)
    assert report.ways[0].name == VANILLA
    assert report.chance == {"factor": 0.25, "factor_official": 0.25}
    assert report.settings == {
        "dola": {
            "layers": (1, 4),
            "relative_top": 0.1,
            "divergence": "jsd",
            "strength": 1.0,
            "scores": "contrast",
            "final_norm": True,
            "lazy": True,
            "lens": None,
        }
    }
    assert any(note.startswith(f"{STATIC}: for factor, layer ") for note in report.notes)


def test_the_report_says_how_often_each_layer_was_chosen(factor_report):
    _, report = factor_report
    low = report.way("DoLa low").layers
    assert set(low) <= {0, 2}
    often = max(low, key=low.get)
    chosen = said_under(report, "Layers")
    (said,) = [line for line in chosen if line.startswith('"DoLa low" used layers ')]
    assert said.startswith(f'"DoLa low" used layers {often} ({100 * low[often]:.0f}%)')
    assert not any(line.startswith(("vanilla", "random")) for line in chosen)


def test_every_row_has_its_answers_and_how_likely_it_finds_the_right_one(factor_report, long):
    """The static row's answers are those of the chosen layers; the length control picks the longest."""
    sample, report = factor_report
    for way in report.ways:
        right = [text in item.right for text, item in zip(way.chosen, report.items, strict=True)]
        assert right == [value == 1 for value in way.items["factor"]]
        assert all(text in item.right + item.wrong for text, item in zip(way.chosen, report.items, strict=True))
    scores = score_items(*long, sample.items, {"vanilla": None}, progress=False)
    odds = [[math.exp(value - max(of)) for value in of] for of in scores.values["vanilla"]]
    assert report.way(VANILLA).mass == pytest.approx([of[0] / sum(of) for of in odds], abs=1e-6)
    longest = report.way(LENGTH)
    counts = scores.tokens
    places = [
        [text.strip() for text in item.continuations].index(text)
        for text, item in zip(longest.chosen, sample.items, strict=True)
    ]
    assert all(of[place] == max(of) for of, place in zip(counts, places, strict=True))


def test_the_report_notes_a_file_that_differs_from_the_published_one(factor_report):
    _, report = factor_report
    assert f"SHA-256 {report.origins[0].sha256[:12]}" in "".join(report.sentences)
    assert "is not the file that published figures are from" in report.notes[0]


def test_the_report_notes_truncated_contexts(llama, tmp_path):
    from command import tokenizer

    sample = Sample.of(FACTOR, [str(samples.factor(tmp_path / "f.csv", rows=4))])
    long_one = replace(sample.items[2], context="the cat sat " * 100)
    sample = replace(sample, items=[*sample.items[:2], long_one, sample.items[3]])
    with pytest.warns(UserWarning, match="1 of 4 contexts"):
        report = evaluate(llama, tokenizer(), sample, name="tiny", progress=False)
    assert "1 of 4 contexts were cut on the left: they exceed 256 tokens with the continuations (items 3)." in report.notes


def test_the_report_notes_ties(long, tmp_path):
    """All answers are at the floor, which FACTOR counts as right."""
    sample = Sample.of(FACTOR, [str(samples.factor(tmp_path / "f.csv", rows=30))])
    same = replace(sample.items[0], continuations=(" cat",) * 4)
    report = evaluate(*long, replace(sample, items=[same, *sample.items[1:]]), name="tiny", progress=False)
    assert any(note.startswith("vanilla: in 1 of 30 items answers tie") for note in report.notes)


def test_texts_are_those_of_generate(long):
    model, words = long
    items = [QuestionItem(str(i), prompt, prompt) for i, prompt in enumerate(["Once upon a time", "The cat", "Why? " * 5])]
    ways = generation_ways(DoLaConfig([2, 4]), 1.2)
    found = generate_texts(*long, items, ways, Generation(8, ()), batch_size=2, progress=False)
    assert found.truncated == []
    for way, layers, penalty in (("vanilla", None, 1.0), ("vanilla, penalty 1.2", None, 1.2), ("DoLa 2,4", [2, 4], 1.2)):
        for i, item in enumerate(items):
            inputs = words(item.prompt, return_tensors="pt")
            call = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": penalty, "pad_token_id": 0}
            out = dola.generate(model, **inputs, **call, dola_layers=layers) if layers else model.generate(**inputs, **call)
            assert found.by_way[way][i] == words.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found.by_way["vanilla"] != found.by_way["DoLa 2,4"]


def test_prompts_that_leave_no_room_are_cut_on_the_left(llama):
    from command import tokenizer

    words = tokenizer()
    long_one, short = "the cat sat on a mat " * 60, "the cat sat"
    room = 256 - 8
    kept = words.decode(words(long_one)["input_ids"][-room:])
    ways = generation_ways(DoLaConfig(), 1.0)[:1]
    items = [QuestionItem("a", long_one, ""), QuestionItem("b", short, ""), QuestionItem("c", kept, "")]
    found = generate_texts(llama, words, items, ways, Generation(8, ()), progress=False)
    assert found.truncated == [0]
    assert found.by_way["vanilla"][0] == found.by_way["vanilla"][2]
    assert found.unfinished == {"vanilla": [True] * 3}
    with pytest.raises(InputError, match="leaves no room for a prompt"):
        generate_texts(llama, words, items, ways, Generation(256, ()), progress=False)


def test_a_text_that_an_end_token_ends_is_finished(llama, monkeypatch):
    from command import tokenizer

    words, prompt = tokenizer(), "the cat sat"
    asked = torch.tensor([words(prompt)["input_ids"]])
    new = llama.generate(asked, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, asked.shape[1] :].tolist()
    ways, items = generation_ways(DoLaConfig(), 1.0)[:1], [QuestionItem("a", prompt, "")]
    for end, unfinished in ((None, True), (new[0], False)):
        monkeypatch.setattr(llama.generation_config, "eos_token_id", end)
        found = generate_texts(llama, words, items, ways, Generation(8, ()), progress=False)
        assert found.unfinished == {"vanilla": [unfinished]}


def test_a_cut_keeps_the_beginning_of_the_sequence():
    assert cut_left([1, 2, 3, 4, 5], 3, 1) == [1, 4, 5]
    assert cut_left([1, 2, 3, 4, 5], 3, None) == cut_left([1, 2, 3, 4, 5], 3, 9) == [3, 4, 5]
    assert cut_left([1, 2, 3], 1, 1) == [1]


def test_interrupted_generation_resumes(long, tmp_path):
    items = [QuestionItem(str(i), f"The cat {i}", "") for i in range(5)]
    settings = Generation(6, (), temperature=0.7)
    run = {"batch_size": 2, "seed": 5, "progress": False}
    ways = generation_ways(DoLaConfig(), 1.0)
    path = tmp_path / "texts.jsonl"
    whole = generate_texts(*long, items, ways, settings, results=path, **run)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:7])
    assert generate_texts(*long, items, ways, settings, results=path, **run) == whole
    assert sorted(path.read_bytes().splitlines()) == sorted(line.rstrip(b"\n") for line in lines)
    with pytest.raises(InputError, match=r"belongs to a different run \(generation: "):
        generate_texts(*long, items, ways, settings, results=path, **{**run, "seed": 6})


def test_accuracy_of_generated_answers(long, tmp_path, monkeypatch):
    """A model that writes the right answer under DoLa alone."""
    sample = Sample.of(GSM8K, [str(samples.gsm8k(tmp_path / "test.jsonl", rows=30))])

    def write(model, tokenizer, prompts, way, settings):
        texts = [tokenizer.decode(tokens) for tokens in prompts]
        numbers = [int(text.rpartition("What is ")[2].split()[0]) + 1 for text in texts]
        return [(f" The answer is {n if way.name.startswith('DoLa') else 0}.", False) for n in numbers]

    monkeypatch.setattr("dola.evidence.generation._written", write)
    report = evaluate(*long, sample, name="tiny", progress=False)
    assert {way.name: way.estimates["accuracy"].mean for way in report.ways} == {
        "vanilla": 0.0,
        "vanilla, penalty 1.2": 0.0,
        "DoLa low": 1.0,
        "DoLa high": 1.0,
    }
    assert report.settings["max_new_tokens"] == 256
    assert report.verdict.startswith("accuracy: DoLa low: better. +100.0 points (+100.0 to +100.0) on 30 items.")
    assert report.sentences[0].startswith("DoLa low: better. +100.0 points")
    assert any('against "vanilla, penalty 1.2" 0.0 on 30 items, 100.0 points higher' in said for said in report.sentences)
    assert report.way("DoLa low").texts[0] == " The answer is 1."
    assert report.counts["DoLa low"].unfinished == 0


class Says:
    """A judge that answers yes to prompts that contain a word."""

    def __init__(self, word):
        self.word, self.asked = word, []

    def probability_of_yes(self, prompt):
        self.asked.append(prompt)
        return float(self.word in prompt)


def test_open_answers_are_judged_once(long, tmp_path, monkeypatch):
    sample = Sample.of(TASKS["truthfulqa-open"], [str(samples.truthfulqa(tmp_path / "TruthfulQA.csv", rows=3))])
    monkeypatch.setattr(
        "dola.evidence.generation._written",
        lambda model, words, prompts, way, settings: [(f" {way.name}", False)] * len(prompts),
    )
    with pytest.raises(UsageError, match="needs a judge"):
        evaluate(*long, sample, name="tiny", progress=False)
    truth, info = Says("DoLa"), Says("penalty")
    run = {"name": "tiny", "judges": Judges(truth, info, ("t", "i")), "results": tmp_path / "r.jsonl", "progress": False}
    report = evaluate(*long, sample, **run)
    means = {way.name: {name: each.mean for name, each in way.estimates.items()} for way in report.ways}
    assert means["DoLa high"] == {"truth": 1.0, "info": 0.0, "truth_info": 0.0, "reject": 0.0}
    assert means["vanilla, penalty 1.2"] == {"truth": 0.0, "info": 1.0, "truth_info": 0.0, "reject": 0.0}
    assert truth.asked[0].startswith("Q: Why ")
    assert report.settings["judges"] == ["t", "i"]
    asked = len(truth.asked)
    assert evaluate(*long, sample, **run) == report
    assert len(truth.asked) == asked == 12


def test_answers_are_written_for_fastchat(long, tmp_path, monkeypatch):
    task = replace(TASKS["vicuna"], generation=Generation(5, (), temperature=0.7))
    sample = Sample.of(task, [str(samples.vicuna(tmp_path / "question.jsonl"))])
    prompts = []
    original = long.tokenizer.apply_chat_template
    monkeypatch.setattr(
        long.tokenizer,
        "apply_chat_template",
        lambda messages, **settings: prompts.append(messages) or original(messages, **settings),
    )
    with pytest.raises(UsageError, match="needs a folder"):
        evaluate(*long, sample, name="org/tiny", progress=False)
    report = evaluate(*long, sample, name="org/tiny", answers=tmp_path / "out", progress=False)
    assert prompts[0] == [{"role": "user", "content": sample.items[0].prompt}]
    assert [path.rpartition("/")[2] for path in report.files] == [
        "tiny-vanilla.jsonl",
        "tiny-vanilla-penalty-1.2.jsonl",
        "tiny-dola-low.jsonl",
        "tiny-dola-high.jsonl",
    ]
    lines = [json.loads(line) for line in (tmp_path / "out" / "tiny-dola-high.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [80, 81, 82]
    assert {line["model_id"] for line in lines} == {"tiny-dola-high"}
    assert lines[0]["choices"][0]["turns"] == [report.way("DoLa high").texts[0]]
    assert (report.verdict, report.verdicts, said_under(report, "How to read it")) == ("", [], [])
    assert f"- {report.files[0]}" in markdown(report).partition("**Written**")[2]


# reports


def made_report(values, **settings):
    """A report of 40 items from the values of mc1 and mc2 by way; mc3 and mc2_reference are mc2's."""
    items = [ChoiceItem(str(i), "Q", (" a", " b"), (True, False), best=0) for i in range(40)]
    sample = Sample(TRUTHFULQA, items, [], 40)
    roles = {VANILLA: Role.VANILLA, LENGTH: Role.LENGTH}
    ways = [Way(name, name, role=roles.get(name, Role.METHOD)) for name in values]
    by_way = {name: {"mc1": one, "mc2": two, "mc2_reference": two, "mc3": two} for name, (one, two) in values.items()}
    return make_report(sample, MODEL, "m", ways, by_way, settings={}, **settings)


LOW, HIGH = [0.4, 0.5] * 20, [0.6, 0.7] * 20


def test_the_report_says_that_length_explains_a_gain():
    report = made_report({VANILLA: ([0.0] * 40, LOW), "DoLa": ([0.0] * 40, HIGH), LENGTH: ([0.0] * 40, HIGH)})
    said = "\n".join(report.sentences)
    few = "none of them differs, which is too few to rule a difference out."
    assert f"DoLa: cannot tell. +0.0 points (+0.0 to +0.0) on 40 items; {few}" in said
    assert "whose own interval excludes 0, without a verdict: mc2 +20.0 (+20.0 to +20.0), mc2_reference +20.0" in said
    means = " / ".join(["65.0"] * 3)
    explained = f"the number of tokens explains the gain of DoLa: {means} by counting tokens, {means} by DoLa."
    assert f"mc2, mc2_reference, mc3: {explained}" in said
    assert "mc1: the number of tokens" not in said  # there is no gain to explain


def test_the_report_says_that_length_does_not_explain_a_gain():
    report = made_report({VANILLA: ([0.0] * 40, LOW), "DoLa": ([1.0] * 40, HIGH), LENGTH: ([0.0] * 40, LOW)})
    said = said_under(report, "Reasons")
    assert any(
        line.startswith("mc1, mc2, mc2_reference, mc3: the number of tokens alone does not reach DoLa:") for line in said
    )
    assert not any("explains" in sentence for sentence in report.sentences)


def test_a_loss_is_not_explained_away():
    report = made_report({VANILLA: ([1.0] * 40, HIGH), "DoLa": ([0.0] * 40, LOW), LENGTH: ([1.0] * 40, HIGH)})
    assert report.sentences[0].startswith("DoLa: worse. -100.0 points")
    assert not any("number of tokens" in sentence for sentence in report.sentences)


def test_markdown(factor_report):
    _, report = factor_report
    page = markdown(report)
    rows = [line for line in page.partition("<details>")[0].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.ways) + 1
    assert len({row.count("|") for row in rows}) == 1
    assert rows[0] == "|  | factor (95% interval) | factor_official (95% interval) | factor against vanilla | verdict |"
    assert sum(row.startswith("| *") for row in rows) == sum(way.control for way in report.ways) + 1
    assert all(f"- {sentence}" in page for sentence in [*report.sentences, *report.notes])
    order = [report.verdict, f"- {report.verdicts[0]}", "|  | factor", "#### Details", "**Rows**"]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert f"All 40 items of {report.origins[0].name} (SHA-256 {report.origins[0].sha256[:12]}); seed 3; dola" in page


def test_markdown_has_verdicts_of_better_or_worse_in_bold():
    report = made_report({VANILLA: ([0.0] * 40, LOW), "DoLa": ([1.0] * 40, HIGH), LENGTH: ([0.0] * 40, LOW)})
    assert "| +100.0 (+100.0 to +100.0) | **better** |" in markdown(report)


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits(factor_report, width):
    _, report = factor_report
    written = io.StringIO()
    render(Console(file=written, width=width, no_color=True), report)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    names = {way.name for way in report.ways} | {"chance", "Controls"}
    assert all(any(line.startswith(name) for line in lines) for name in names)
    first = next(line for line in lines if line.startswith("vanilla "))
    assert ("(" in first) == (width == 160)
    assert "\x1b" not in written.getvalue()


def test_the_table_of_four_metrics_fits_80_columns():
    name = "reference high, not normalized"
    report = made_report({VANILLA: ([1, 0] * 20, LOW), name: ([1, 0, 1, 1] * 10, HIGH), LENGTH: ([0.0] * 40, LOW)})
    written = io.StringIO()
    render(Console(file=written, width=80), report)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    row = re.compile(rf"{name} +75\.0( +[\d.]+){{3}} \+25\.0 \[\+[\d.]+, \+[\d.]+\]\s*")
    assert sum(bool(row.fullmatch(line)) for line in lines) == 1
    assert not any("\u2026" in line for line in lines)
    assert "*" not in written.getvalue()


@pytest.mark.parametrize(("width", "left"), [(40, "mc2_reference, mc3"), (300, "")])
def test_a_narrow_terminal_names_the_metrics_left_out(width, left):
    report = made_report({VANILLA: ([1, 0] * 20, LOW), "DoLa": ([1, 0, 1, 1] * 10, HIGH)})
    written = io.StringIO()
    render(Console(file=written, width=width), report)
    assert (f"Too wide for this terminal: {left}." in " ".join(written.getvalue().split())) == bool(left)
    assert any(line.endswith(" verdict") for line in map(str.rstrip, written.getvalue().splitlines())) == (not left)
    assert ("The verdicts are above the table." in " ".join(written.getvalue().split())) == bool(left)


def test_the_chart_has_a_point_and_its_interval_for_each_way(factor_report):
    _, report = factor_report
    panels = [MagicMock(), MagicMock()]
    chart.draw(panels, report)
    for panel, metric in zip(panels, report.metrics, strict=True):
        points = [call.args[0] for call in panel.errorbar.call_args_list]
        assert points == [100 * way.estimates[metric].mean for way in report.ways]
        panel.axvline.assert_called_once_with(25.0, color="black", linestyle=":", linewidth=1)


def test_the_chart_is_a_file(factor_report, tmp_path):
    pytest.importorskip("matplotlib")
    chart.save_chart(factor_report[1], tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_json_holds_every_item(factor_report):
    sample, report = factor_report
    found = json.loads(json.dumps(report.to_json()))
    assert found["item_ids"] == [item.id for item in sample.items]
    for way in found["ways"]:
        assert [len(values) for values in way["items"].values()] == [40, 40]
    assert found["sentences"] == report.sentences

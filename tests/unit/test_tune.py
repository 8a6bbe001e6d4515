"""Tuning: what is tried, that held-out items do not affect the choice, and that it says off unless a gain is significant."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import samples

import dola
from dola import DoLaConfig, Recipe, SLEDConfig
from dola.errors import ConfigError, InputError
from dola.evidence.candidates import Space, choice_candidates, generation_candidates
from dola.evidence.choice import measure, score_items
from dola.evidence.finding import Verdict
from dola.methods.registry import read_config
from dola.tasks import TASKS

MODULE = import_module("dola.evidence.chosen")
FACTOR, GSM8K = TASKS["factor-news"], TASKS["gsm8k"]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return dola.load(str(samples.long_window(tmp_path_factory.mktemp("long"))))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return FACTOR.items(samples.factor(tmp_path_factory.mktemp("data") / "f.csv", rows=40))


def test_what_is_tried(llama):
    found = choice_candidates(llama, relative_top=0.25)
    static = [f"layer {layer}" for layer in (0, 2, 3, 5)]
    kinds = [
        ("strength 0.25",),
        ("strength 0.5",),
        *((*some, "distribution scores") for some in (("strength 0.25",), ("strength 0.5",), ())),
    ]
    strengths = ["".join(f", {words}" for words in kind) for kind in kinds]
    assert list(found) == [
        "off",
        *(
            f"{bucket}{settings}"
            for bucket in ("low", "high")
            for settings in (
                "",
                ", no final norm",
                ", reference divergence",
                ", reference divergence, no final norm",
                *strengths,
            )
        ),
        *(f"{layer}{settings}" for layer in static for settings in ("", ", no final norm", *strengths)),
    ]
    assert found["off"] is None
    assert found["layer 3, no final norm"] == DoLaConfig([3], relative_top=0.25, final_norm=False)
    assert found["low, strength 0.25, distribution scores"] == DoLaConfig(
        "low", relative_top=0.25, strength=0.25, scores="distribution"
    )
    assert found["low, reference divergence"] == DoLaConfig("low", relative_top=0.25, divergence="reference")
    assert list(generation_candidates([2, 4], relative_top=0.1)) == ["off", "low", "high", "layer 2", "layer 4"]


def test_a_bare_head_differs_where_a_model_transforms_its_logits():
    from families import tiny

    found = choice_candidates(tiny("gemma2"), relative_top=0.1)
    assert found["layer 3, reference divergence, no final norm"].raw_head
    assert "layer 3, reference divergence" not in found


def test_candidates_are_what_dola_score_finds(long, items):
    found = dola.tune(*long, "factor-news", items, progress=False, seed=1)
    scores = score_items(*long, items, {"layer 3": Recipe(DoLaConfig([3])), "off": Recipe(None)}, progress=False)
    for name in ("layer 3", "off"):
        assert found.candidates[name] == pytest.approx(sum(measure(FACTOR, items, scores, name)["factor"]) / 40)
    assert found.gain.items == found.items == 40
    assert found.gain.baseline == pytest.approx(found.candidates["off"])
    assert len(found.chosen) == 2
    assert json.loads(json.dumps(found.to_json()))["sentence"] == found.sentence


def scored_as(monkeypatch, right):
    """Make each candidate right on the items for which `right(name, item)` is true."""
    monkeypatch.setattr(
        MODULE,
        "measure",
        lambda task, items, scores, name: {"factor": [float(right(name, i)) for i in range(len(items))]},
    )


def test_off_where_nothing_beats_it_on_held_out_items(long, items, monkeypatch, tmp_path):
    """Each candidate is right on items of its own: whatever is best on one half is at chance on the other."""
    names = list(choice_candidates(long.model, relative_top=0.1))
    scored_as(monkeypatch, lambda name, i: i % len(names) == names.index(name))
    found = dola.tune(*long, FACTOR, items, progress=False)
    assert found.config is None
    assert found.settings == {"layers": "off"}
    assert found.sentence.endswith("So: off.")
    found.save(tmp_path / "tuned.json")
    with pytest.raises(ConfigError, match="says that DoLa is off"):
        DoLaConfig.from_file(tmp_path / "tuned.json")


def test_a_gain_on_held_out_items_is_taken(long, items, monkeypatch, tmp_path):
    scored_as(monkeypatch, lambda name, i: i % 4 == 0 or (name == "layer 3, no final norm" and i % 4 < 3))
    found = dola.tune(*long, FACTOR, items, progress=False)
    assert found.config == DoLaConfig([3], final_norm=False)
    assert found.best == "layer 3, no final norm"
    assert found.chosen == [found.best] * 2
    assert (found.gain.baseline, found.gain.method) == (0.25, 0.75)
    assert found.sentence.startswith("factor, held out: layer 3, no final norm 75.0 against off 25.0 on 40 items")
    assert found.sentence.endswith("So: layer 3, no final norm.")
    found.save(tmp_path / "tuned.json")
    assert json.loads((tmp_path / "tuned.json").read_text()) == {
        "layers": [3], "divergence": "jsd", "strength": 1.0, "scores": "contrast", "final-norm": False
    }  # fmt: skip
    assert DoLaConfig.from_file(tmp_path / "tuned.json") == found.config


def test_the_threshold_of_scoring_is_not_decoded_with_unless_it_was_asked_for(long, tmp_path, monkeypatch):
    task = TASKS["truthfulqa-mc"]
    questions = task.items(samples.truthfulqa(tmp_path / "t.csv", rows=24))
    seen = []

    def measured(task, items, scores, name):
        return {"mc1": [float(name == "high")] * len(items)}

    monkeypatch.setattr(MODULE, "measure", measured)
    monkeypatch.setattr(MODULE, "score_items", lambda *args, **run: seen.append(args[3]) or type("S", (), {"truncated": []}))
    found = dola.tune(*long, task, questions, progress=False)
    assert seen[0]["high"] == Recipe(DoLaConfig("high", relative_top=0.0))
    assert found.config == DoLaConfig("high")
    assert "relative-top" not in found.settings
    asked = dola.tune(*long, task, questions, relative_top=0.3, progress=False)
    assert asked.config.relative_top == asked.settings["relative-top"] == 0.3


def test_tasks_that_generate(long, tmp_path, monkeypatch):
    """A model that solves everything with layer 3, and half of it with the penalty alone."""
    problems = GSM8K.items(samples.gsm8k(tmp_path / "test.jsonl", rows=60))
    asked = []

    def write(model, tokenizer, prompts, way, settings):
        texts = []
        for tokens in prompts:
            number = int(tokenizer.decode(tokens).rpartition("What is ")[2].split()[0])
            asked.append((way.name, number))
            right = way.name == "layer 3" or (way.name == "off, penalty 1.2" and number % 2)
            texts.append((f" The answer is {number + 1 if right else 0}.", not right))
        return texts

    monkeypatch.setattr("dola.evidence.generation._written", write)
    path = tmp_path / "r.jsonl"
    found = dola.tune(*long, "gsm8k", problems, train=20, static=[3], results=path, progress=False)
    assert found.config == DoLaConfig([3])
    assert list(found.candidates) == ["off", "low", "high", "layer 3", "off, penalty 1.2"]
    assert (found.candidates["layer 3"], found.candidates["off"]) == (1.0, 0.0)
    assert found.gain.items == 40
    assert 0.3 < found.gain.baseline < 0.7  # the better of the two that are off
    assert found.unfinished == {"off, penalty 1.2": round(40 * (1 - found.gain.baseline)), "layer 3": 0}
    assert "The length limit cut answers to held-out items: " in found.notes[0]
    choosing = {number for name, number in asked if name == "low"}
    assert len(choosing) == 20
    assert {number for name, number in asked if name == "layer 3"} == set(range(60))
    before = len(asked)
    assert dola.tune(*long, "gsm8k", problems, train=20, static=[3], results=path, progress=False) == found
    assert len(asked) == before


def test_the_penalty_alone_is_no_reason_for_dola(long, tmp_path, monkeypatch):
    problems = GSM8K.items(samples.gsm8k(tmp_path / "test.jsonl", rows=50))

    def write(model, tokenizer, prompts, way, settings):
        numbers = [int(tokenizer.decode(tokens).rpartition("What is ")[2].split()[0]) for tokens in prompts]
        return [(f" The answer is {number + 1 if way.repetition_penalty > 1 else 0}.", False) for number in numbers]

    monkeypatch.setattr("dola.evidence.generation._written", write)
    found = dola.tune(*long, "gsm8k", problems, progress=False)
    assert (found.config, found.settings["repetition-penalty"]) == (None, 1.2)
    assert found.sentence.endswith("So: off, penalty 1.2.")  # what the settings hold


def test_mistakes(llama, items, tmp_path):
    run = {"progress": False}
    with pytest.raises(ConfigError, match=r"'mc1' is not a metric of factor-news\. Metrics: factor, factor_official"):
        dola.tune(llama, None, FACTOR, items, metric="mc1", **run)
    with pytest.raises(InputError, match="vicuna has no metric to choose by"):
        dola.tune(llama, None, "vicuna", [], **run)
    for task in ("factor-news", "gsm8k"):
        with pytest.raises(InputError, match="There are too few items \\(1\\); at least 2 are required"):
            dola.tune(llama, None, task, items[:1], **run)
    with pytest.raises(InputError, match="40 items cannot be split into 41 folds"):
        dola.tune(llama, None, FACTOR, items, folds=41, **run)
    problems = GSM8K.items(samples.gsm8k(tmp_path / "test.jsonl", rows=4))
    with pytest.raises(InputError, match=r"Choosing on 4 of 4 items is not possible\. Allowed: 1 to 3"):
        dola.tune(llama, None, GSM8K, problems, train=4, **run)


# more than layers


def test_methods_strengths_thresholds_and_a_lens_are_tried(llama):
    space = Space(("dola", "sled", "confident"), (0.5, 1.0), (0.1, 0.3), "x.lens.safetensors")
    found = choice_candidates(llama, space, relative_top=0.0)
    assert found["low, relative_top 0.3"].relative_top == 0.3
    assert {each.relative_top for each in found.values() if isinstance(each, DoLaConfig)} == {0.1, 0.3}
    assert {each.strength for each in found.values() if isinstance(each, DoLaConfig)} == {0.5, 1.0}
    assert {each.method for each in found.values() if each is not None} == {"dola", "sled", "confident"}
    lensed = [each for each in found.values() if each is not None and each.lens is not None]
    assert {each.method for each in lensed} == {"dola", "sled", "confident"}
    assert all(each.final_norm for each in lensed)
    assert found["sled"].lens is None
    assert {each.rate for each in found.values() if isinstance(each, SLEDConfig)} == {2.0, 1.75, 2.5}
    assert len({repr(each) for each in found.values()}) == len(found)  # each once


def test_without_dola_among_the_methods_other_methods_and_off_are_tried(llama):
    assert list(choice_candidates(llama, Space(("confident",)), relative_top=0.1)) == ["off", "confident"]
    assert list(generation_candidates([], Space(("confident",)), relative_top=0.1)) == ["off", "confident"]


def test_tasks_that_generate_try_strengths_and_a_lens_where_they_are_asked_for():
    found = generation_candidates([3], Space(strengths=(0.5,), lens="x.lens.safetensors"), relative_top=0.1)
    assert len(found) == 1 + 3 * 2 * 2
    assert found["layer 3, strength 0.5"] == DoLaConfig([3], strength=0.5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"methods": ("nosuch",)}, "method='nosuch' is unknown"),
        ({"methods": ()}, "No method is to be tried"),
        ({"strengths": (-1,)}, "strength"),
        ({"thresholds": (0.1,), "relative_top": 0.2}, "both given"),
    ],
)
def test_what_cannot_be_tried(llama, items, how, said):
    with pytest.raises(ConfigError, match=said):
        dola.tune(llama, None, FACTOR, items, progress=False, **how)


def test_another_method_is_chosen_written_and_read(long, items, monkeypatch, tmp_path):
    scored_as(monkeypatch, lambda name, i: name == "sled, rate 1.75, scale 5" or i % 4 == 0)
    found = dola.tune(*long, FACTOR, items, methods=("dola", "sled"), progress=False)
    assert found.config == SLEDConfig(rate=1.75, scale=5)
    assert found.finding.verdict is Verdict.BETTER
    found.save(tmp_path / "tuned.json")
    written = json.loads((tmp_path / "tuned.json").read_text())
    assert written == {
        "method": "sled", "layers": "all", "final-norm": False, "set": ["rate=1.75", "scale=5", "steps=10"]
    }  # fmt: skip
    assert read_config(tmp_path / "tuned.json") == found.config
    with pytest.raises(ConfigError, match="settings of the method 'sled', not of DoLa"):
        DoLaConfig.from_file(tmp_path / "tuned.json")


def test_a_lens_is_written_too(long, items, monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "score_items", lambda *args, **run: type("S", (), {"truncated": []}))
    scored_as(monkeypatch, lambda name, i: name.startswith("layer 3, lens") or i % 4 == 0)
    found = dola.tune(*long, FACTOR, items, lens=tmp_path / "x.lens.safetensors", progress=False)
    found.save(tmp_path / "tuned.json")
    assert found.config.lens == str(tmp_path / "x.lens.safetensors")
    assert read_config(tmp_path / "tuned.json") == DoLaConfig.from_file(tmp_path / "tuned.json") == found.config


def test_the_verdict_has_the_words_of_reports(long, items, monkeypatch):
    scored_as(monkeypatch, lambda name, i: i % 4 == 0 or (name == "layer 3" and i % 8 == 1))
    found = dola.tune(*long, FACTOR, items, progress=False, smallest=0.05)
    assert found.finding.verdict is Verdict.CANNOT_TELL
    assert "Verdict: cannot tell. +12.5 points" in found.sentence
    assert "detecting 5 points needs about" in found.sentence
    assert found.sentence.endswith("So: off.")
    assert (found.to_json()["finding"]["verdict"], found.to_json()["finding"]["smallest"]) == ("cannot tell", 0.05)


def test_where_off_is_chosen_everywhere_nothing_is_tested(long, items, monkeypatch):
    scored_as(monkeypatch, lambda name, i: i % 2 == 0)
    found = dola.tune(*long, FACTOR, items, progress=False)
    assert found.sentence.endswith("Nothing was better than off where it was chosen. So: off.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"method": "sled", "set": ["rate"]}', "is not a name and a value"),
        ('{"method": "nosuch"}', "method='nosuch' is unknown"),
        ('{"lyers": "high"}', "'lyers' is not a setting of the method 'dola'"),
    ],
)
def test_mistakes_in_a_file_of_settings(tmp_path, content, said):
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path / "tuned.json")


def test_a_file_that_says_off(tmp_path):
    (tmp_path / "tuned.json").write_text('{"layers": "off", "repetition-penalty": 1.2}')
    assert read_config(tmp_path / "tuned.json") is None


def test_a_group_is_on_one_side_of_a_choice(long, items, monkeypatch):
    """Items of a group depend on each other, so none may judge a choice made with the others."""
    grouped = [replace(item, group=str(i // 4)) for i, item in enumerate(items)]
    parts = []
    original = MODULE.held_out
    monkeypatch.setattr(MODULE, "held_out", lambda *args, **how: parts.extend(how["parts"]) or original(*args, **how))
    found = dola.tune(*long, FACTOR, grouped, folds=5, methods=("confident",), progress=False)
    assert found.gain.items == 40
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert all({i // 4 for i in part}.isdisjoint({i // 4 for i in other}) for part in parts for other in parts if part != other)
    drawn = MODULE._drawn(grouped, 18, seed=1)
    assert len(drawn) == 20
    assert drawn == {i for i in range(40) if i // 4 in {j // 4 for j in drawn}}
    with pytest.raises(InputError, match="10 groups cannot be split into 11 folds"):
        dola.tune(*long, FACTOR, grouped, folds=11, methods=("confident",), progress=False)
    with pytest.raises(InputError, match="leaves none of the 10 groups"):
        MODULE._drawn(grouped, 38, seed=1)

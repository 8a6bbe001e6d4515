"""Sequential runs: the order is drawn beforehand, looks decide rows, decided rows stop, and a killed run continues."""

import json
import math
from dataclasses import replace

import pytest
import samples

import dola
from dola import DoLaConfig
from dola.errors import InputError, UsageError
from dola.evidence.choice import held_out, held_out_by_looks
from dola.evidence.course import Course, in_drawn_order, planned, planned_looks
from dola.evidence.evaluate import evaluate
from dola.evidence.finding import Verdict, headline
from dola.evidence.looks import ends
from dola.evidence.sample import Sample, groups_of
from dola.evidence.verdict import judge
from dola.evidence.ways import LENGTH, STATIC, VANILLA, Role, Way
from dola.scoring.results_file import ResultsFile
from dola.tasks import TASKS
from dola.tasks.items import ChoiceItem

FACTOR, GSM8K = TASKS["factor-news"], TASKS["gsm8k"]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return dola.load(str(samples.long_window(tmp_path_factory.mktemp("long"))))


@pytest.fixture(scope="module")
def factor(tmp_path_factory):
    return Sample.of(FACTOR, [str(samples.factor(tmp_path_factory.mktemp("data") / "f.csv", rows=20))], seed=3)


def sample_of(groups, seed=0):
    items = [ChoiceItem(str(i), "Q", (" a", " b"), (True, False), group=group) for i, group in enumerate(groups)]
    return Sample(FACTOR, items, [], len(items), seed)


# the order


def test_the_order_is_drawn_by_the_seed_and_keeps_every_item():
    sample = sample_of([None] * 30)
    first, again, other = ([item.id for item in in_drawn_order(replace(sample, seed=seed)).items] for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other) == sorted(item.id for item in sample.items)
    assert first != [item.id for item in sample.items]


def test_a_group_is_never_split_between_looks():
    """Groups of very different sizes, interleaved in the data."""
    groups = [f"g{i % 7}" if i % 3 else "large" for i in range(60)]
    sample = in_drawn_order(sample_of(groups, seed=5))
    looks = planned_looks(sample.items)
    labels = groups_of(sample.items)
    assert looks[-1] == 60
    assert all(set(labels[:end]).isdisjoint(labels[end:]) for end in looks)
    assert all(min(end for end in looks if end >= target) >= target for target in ends(60))
    assert planned_looks(sample_of([None] * 10).items) == (3, 5, 8, 10)


# what a look decides


def test_a_row_that_stopped_is_judged_as_it_was_at_its_look():
    baseline, good = [0.0, 1.0] * 200, [1.0, 1.0] * 200
    open_row = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0] * 50
    looks = ends(400)
    at_first = judge(baseline[:100], {"good": good[:100], "open": open_row[:100]}, looks=looks)
    assert (at_first["good"].verdict, at_first["good"].look) == (Verdict.BETTER, 1)
    assert (at_first["open"].verdict, at_first["open"].look) == (Verdict.CANNOT_TELL, None)
    later = judge(baseline, {"good": good[:100], "open": open_row}, looks=looks)
    assert replace(later["good"], adjusted=0) == replace(at_first["good"], adjusted=0)
    assert later["open"].items == 400
    assert "on 100 items, decided at look 1." in later["good"].sentence("good")
    with pytest.raises(InputError, match="same items"):
        judge(baseline, {"good": good[:99]}, looks=looks)
    with pytest.raises(InputError, match="same items"):
        judge(baseline, {"good": good[:100]})


def test_values_after_a_row_stopped_are_ignored():
    """The row ended for futility. Its later items would differ and leave more of the level to the other row."""
    baseline = [1.0] * 4000
    same = [1.0] * 1000 + [0.0] * 3000
    stopped = judge(baseline, {"same": same[:1000]}, looks=ends(4000))["same"]
    whole = judge(baseline, {"same": same}, looks=ends(4000))["same"]
    assert stopped == whole
    assert (whole.verdict, whole.items) == (Verdict.NO_DIFFERENCE, 1000)


def test_later_values_that_are_not_right_or_wrong_change_no_earlier_decision():
    baseline, good = [0.0] * 400, [1.0] * 200 + [0.5] * 200
    first = judge(baseline[:200], {"good": good[:200]}, looks=ends(400))["good"]
    assert judge(baseline, {"good": good}, looks=ends(400))["good"] == first


def test_the_headline_names_the_best_row_where_lower_is_better():
    baseline = [1.0] * 400
    rows = {"some": [0.0] * 100 + [1.0] * 300, "most": [0.0] * 300 + [1.0] * 100}
    findings = judge(baseline, rows, higher_is_better=False)
    assert headline(findings, "errors").startswith("errors: most: better. -75.0 points")


def test_a_static_layer_is_chosen_by_earlier_items_and_never_revised():
    candidates = {"a": {"m": [1.0, 0.0] * 6}, "b": {"m": [0.0, 1.0, 0.0, 0.0] * 3}}
    values, chosen = held_out_by_looks(candidates, ["m"], [4, 8, 12], seed=0)
    shorter, _ = held_out_by_looks(candidates, ["m"], [4, 8], seed=0)
    assert shorter["m"] == values["m"][:8]
    assert held_out_by_looks(candidates, ["m"], [12], seed=0) == held_out(candidates, ["m"], 12, seed=0)
    assert chosen["m"][2:] == ["a", "a"]
    assert values["m"][4:] == candidates["a"]["m"][4:]


WAYS = [
    Way(VANILLA, "", role=Role.VANILLA),
    Way("clear", "", role=Role.METHOD),
    Way("open", "", role=Role.METHOD),
    Way("control", "", role=Role.CONTROL),
]


def followed(table, ways=WAYS, groups=(None,) * 400):
    """Follow a run whose values are known; returns the result and the rows that each block asked for."""
    sample, course = planned(sample_of(groups), ways, smallest=0.02, sequential=True)
    asked, so_far = [], {}

    def run(block, live):
        asked.append([way.name for way in live])
        for way in live:
            found = so_far.setdefault(way.name, {"factor": []})["factor"]
            found += [table[way.name][int(item.id) % 2] for item in block.items]
        return so_far

    return course.follow(sample, run), asked


def test_decided_rows_stop_and_the_others_continue():
    table = {VANILLA: (0.0, 1.0), "clear": (1.0, 1.0), "open": (0.0, 1.0), "control": (1.0, 0.0)}
    table["open"] = (1.0, 0.0)  # as many items change for the better as for the worse: never clear
    (values, done), asked = followed(table)
    assert asked[0] == [VANILLA, "clear", "open", "control"]
    assert asked[1:] == [[VANILLA, "open", "control"]] * 3
    assert (done, len(values["clear"]["factor"]), len(values["open"]["factor"])) == (400, 100, 400)


def test_a_run_ends_when_no_row_is_open():
    table = {VANILLA: (0.0, 1.0), "clear": (1.0, 1.0), "open": (1.0, 1.0), "control": (1.0, 0.0)}
    (values, done), asked = followed(table)
    assert (done, len(asked)) == (100, 1)
    assert {len(of["factor"]) for of in values.values()} == {100}


def test_without_looks_all_items_are_one_block():
    sample = sample_of([None] * 10)
    asked = []
    values, done = Course(WAYS, 0.02).follow(sample, lambda block, live: asked.append((block.start, len(block.items))) or {})
    assert (values, done, asked) == ({}, 10, [(0, 10)])


def test_a_run_without_anything_to_decide_is_refused():
    with pytest.raises(UsageError, match="has nothing to decide"):
        planned(sample_of([None]), [WAYS[0], WAYS[3]], smallest=0.02, sequential=True)
    with pytest.raises(UsageError, match="another program judges"):
        planned(replace(sample_of([None]), task=TASKS["vicuna"]), WAYS, smallest=0.02, sequential=True)


# whole runs


def test_likelihoods_of_a_sequential_run_are_those_of_a_run_at_once(long, factor, monkeypatch):
    monkeypatch.setattr("dola.evidence.scored.LEAST", math.inf)  # a slow machine would first say how long the run takes
    run = {"name": "tiny", "dola": DoLaConfig("high", relative_top=0.1), "progress": False}
    whole = evaluate(*long, factor, **run)
    said = []
    report = evaluate(*long, factor, **run, sequential=True, tell=said.append, smallest=0.9)
    assert report.looks == [5, 10, 15, 20]
    assert report.item_ids == [item.id for item in in_drawn_order(factor).items][: len(report.item_ids)]
    order = [whole.item_ids.index(name) for name in report.item_ids]
    for way in report.ways:
        if way.name.startswith("random layer") or way.name in (STATIC, LENGTH):  # draws and choices of their own
            continue
        for metric, values in way.items.items():
            assert values == [whole.way(way.name).items[metric][i] for i in order[: len(values)]]
    assert {each.verdict for each in report.findings.values()} == {Verdict.NO_DIFFERENCE}
    assert all(len(report.way(name).items["factor"]) == each.items for name, each in report.findings.items())
    assert len(report.item_ids) == max(each.items for each in report.findings.values()) < 20
    assert said[0].startswith("look 1 of 4, after 5 items: ")
    assert any(line.startswith("Sequential: items in an order drawn with seed 3, looks after 5, 10, 15 and 20 items; the run "
                               "ended after ") for line in report.sentences)  # fmt: skip


def test_a_killed_sequential_run_continues_in_the_same_order(long, factor, tmp_path, monkeypatch):
    run = {"name": "tiny", "sequential": True, "smallest": 0.3, "progress": False}
    whole = evaluate(*long, factor, **run)
    path = tmp_path / "results.jsonl"
    add, added = ResultsFile.add, []

    def killed(self, item, found):
        if len(added) == 8:
            raise KeyboardInterrupt
        added.append(item)
        add(self, item, found)

    with monkeypatch.context() as patch:
        patch.setattr(ResultsFile, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*long, factor, **run, results=path)
    assert [len(each.read_text().splitlines()) - 1 for each in (path, path.with_name("results.jsonl.look2"))] == [5, 3]
    assert evaluate(*long, factor, **run, results=path).to_json() == whole.to_json()
    lines = sum(len(each.read_text().splitlines()) - 1 for each in tmp_path.iterdir())
    assert lines == len(whole.item_ids)  # no item was scored twice
    with pytest.raises(InputError, match=r"belongs to a different run"):
        evaluate(*long, factor, name="tiny", results=path, progress=False)


def test_a_run_that_generates_stops_when_all_rows_are_decided(long, tmp_path, monkeypatch):
    """A model that writes the right answer under DoLa alone."""
    sample = Sample.of(GSM8K, [str(samples.gsm8k(tmp_path / "test.jsonl", rows=30))])
    written = []

    def write(model, tokenizer, prompts, way, settings):
        texts = [tokenizer.decode(tokens) for tokens in prompts]
        written.extend(way.name for _ in texts)
        numbers = [int(text.rpartition("What is ")[2].split()[0]) + 1 for text in texts]
        return [(f" The answer is {n if way.name.startswith('DoLa') else 0}.", False) for n in numbers]

    monkeypatch.setattr("dola.evidence.generation._written", write)
    path = tmp_path / "results.jsonl"
    report = evaluate(*long, sample, name="tiny", sequential=True, results=path, progress=False)
    assert report.looks == [8, 15, 23, 30]
    assert {name: (each.verdict, each.look, each.items) for name, each in report.findings.items()} == {
        "DoLa low": (Verdict.BETTER, 2, 15),
        "DoLa high": (Verdict.BETTER, 2, 15),
    }
    assert len(report.item_ids) == len(report.way("DoLa low").texts) == 15
    assert len(written) == 15 * 4
    assert evaluate(*long, sample, name="tiny", sequential=True, results=path, progress=False).to_json() == report.to_json()
    assert len(written) == 15 * 4
    found = json.loads(json.dumps(report.to_json()))
    assert (found["looks"], found["findings"]["DoLa low"]["look"]) == ([8, 15, 23, 30], 2)

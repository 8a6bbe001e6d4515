"""How long an evaluation takes, said while it begins: for its rows and for each set, without changing a result."""

import re
from types import SimpleNamespace

import pytest
import samples
import torch

import dola
from dola import DoLaConfig
from dola.errors import LayersError
from dola.evidence.evaluate import evaluate
from dola.evidence.forecast import Forecast, spoken
from dola.evidence.generation import generate_texts
from dola.evidence.sample import Sample
from dola.evidence.ways import generation_ways
from dola.model.prefixes import Line, Runner, plan
from dola.scoring.gauge import Gauge
from dola.tasks import TASKS, Generation
from dola.tasks.items import QuestionItem

LINE = re.compile(r"(at most )?about \d+ seconds? for these rows \(--ways standard \d+, methods \d+, full \d+\)")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return dola.load(str(samples.long_window(tmp_path_factory.mktemp("long"))))


@pytest.fixture
def factor(tmp_path):
    return Sample.of(TASKS["factor-news"], [str(samples.factor(tmp_path / "f.csv", rows=8))])


@pytest.fixture
def _announced(monkeypatch):
    """Runs of any length announce their time."""
    monkeypatch.setattr("dola.evidence.scored.LEAST", 0.0)
    monkeypatch.setattr("dola.evidence.generation.LEAST", 0.0)


def test_a_time_has_one_unit_and_two_digits():
    sets = {"standard": 240.0, "methods": 672.0, "full": 1500.0}
    assert spoken(240.0, sets) == "about 4 minutes for these rows (--ways standard 4, methods 11, full 25)"
    assert spoken(41.3, {}) == "about 41 seconds for these rows"
    assert spoken(0.2, {}, most=True) == "at most about 1 second for these rows"
    assert spoken(2.6 * 3600, {"full": 36000}) == "about 2.6 hours for these rows (--ways full 10)"


@pytest.mark.usefixtures("_announced")
def test_a_run_of_likelihoods_announces_its_time_and_keeps_its_numbers(long, factor):
    said = []
    report = evaluate(*long, factor, name="tiny", tell=said.append, progress=False)
    assert report == evaluate(*long, factor, name="tiny", progress=False)
    assert len(said) == 1
    assert LINE.fullmatch(said[0])


@pytest.mark.usefixtures("_announced")
def test_a_sequential_run_announces_the_time_of_all_items_once(long, factor):
    said = []
    evaluate(*long, factor, name="tiny", tell=said.append, progress=False, sequential=True)
    assert LINE.fullmatch(said[0])[1] == "at most "
    assert all(line.startswith("look ") for line in said[1:])


def test_short_runs_announce_nothing_and_measure_no_other_set(long, factor, monkeypatch):
    monkeypatch.setattr(Forecast, "say", lambda *_: pytest.fail("a short run announced its time"))
    monkeypatch.setattr("dola.scoring.gauge._seconds", lambda *_: pytest.fail("another set was measured"))
    evaluate(*long, factor, name="tiny", tell=print, progress=False)


def test_a_pass_is_extrapolated_by_the_tokens_that_run_and_those_that_are_scored(monkeypatch):
    """Forwards at 1 s for 10 tokens, scores at 3 s for 2 of 20; other recipes take 0.5 s a token."""
    clock = iter([0.0, 1.0, 4.0, 4.0])
    monkeypatch.setattr("dola.scoring.gauge.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("dola.scoring.gauge._seconds", lambda anatomy, recipes, *_: recipes["a"])
    told = []
    gauge = Gauge(lambda: {"other": {"a": 0.5}, "impossible": {"a": None}, "own": {"b": 1}}, told.append, least=10.0)
    cpu = SimpleNamespace(lm=SimpleNamespace(device=torch.device("cpu")))
    gauge.begin(SimpleNamespace(anatomy=cpu, recipes={"b": 1}), tokens=100, targets=20)
    gauge.ran()
    gauge.scored(10, {}, torch.zeros(2))
    [cost] = told
    assert (cost.seconds, cost.others) == (10 + 30, {"other": 10 + 10, "own": 40})


def test_the_tokens_of_a_plan_are_those_that_run(llama):
    shared = tuple(range(5, 25))
    lines = [Line((*shared, *range(3, 3 + n)), 20) for n in (1, 4, 9)] + [Line((7, 8, 9), 1)]
    tree = plan(lines, batch_tokens=64)
    every = list(tree.all_batches())
    for wanted in (set(every), {every[0]}, {every[-1]}):
        runner = Runner(llama, lines, wanted, lambda batch: None)
        assert len(list(runner.run(tree))) == len(wanted)
        assert runner.tokens == tree.tokens(lines, wanted)


@pytest.mark.usefixtures("_announced")
def test_a_run_that_generates_announces_its_time_and_writes_the_same(long, monkeypatch):
    items = [QuestionItem(str(i), "The cat " * (i + 1), "") for i in range(6)]
    ways, settings = generation_ways(DoLaConfig("low"), 1.2), Generation(7, ())
    plain = generate_texts(*long, items, ways, settings, batch_size=2, progress=False)
    said = []
    forecast = Forecast(lambda: {"standard": ways, "full": [*ways, *ways]}, said.append)
    from dola.evidence import generation

    asked, written = [], generation._written
    monkeypatch.setattr(
        generation, "_written", lambda *args: asked.append((args[3].name, args[4].max_new_tokens)) or written(*args)
    )
    assert generate_texts(*long, items, ways, settings, batch_size=2, progress=False, forecast=forecast) == plain
    assert re.fullmatch(r"about \d+ seconds? for these rows \(--ways standard \d+, full \d+\)", said[0])
    assert asked[0] == ("vanilla", 7)  # the run's own first batch
    assert sorted(asked[1:9]) == sorted((way.name, tokens) for way in ways for tokens in (1, 5))
    assert len(asked) == 8 + 3 * len(ways)


@pytest.mark.usefixtures("_announced")
def test_a_set_that_the_model_cannot_have_is_left_out(long):
    items, ways = [QuestionItem("a", "The cat", "")], generation_ways(DoLaConfig("low"), 1.2)
    further = generation_ways(DoLaConfig([99]), 1.2)
    said = []
    forecast = Forecast(lambda: {"standard": ways, "full": further}, said.append)
    generate_texts(*long, items, ways, Generation(3, ()), progress=False, forecast=forecast)
    assert "(--ways standard " in said[0]
    assert "full" not in said[0]
    with pytest.raises(LayersError):
        generate_texts(*long, items, further, Generation(3, ()), progress=False)

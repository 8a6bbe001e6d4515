"""Warning signs: AUROC against a count of pairs, a planted signal that is found and noise that is not, and what is read."""

import json
import math
import re
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import samples
import torch

import dola
from dola import DoLaConfig
from dola.errors import InputError, UsageError
from dola.evidence import statistics
from dola.evidence.auroc import auroc, separate
from dola.evidence.sample import Sample
from dola.evidence.signal_report import HEAD, report_signals
from dola.evidence.signals import CONTROL, QUANTITIES, Read, aggregated, signal_names
from dola.evidence.traced_answers import Answer, of_answer, read_answers
from dola.evidence.verdict import holm
from dola.methods.divergences import js_divergence
from dola.tasks import TASKS
from dola.tracing.data import TokenTrace

FACTOR, GSM8K = TASKS["factor-news"], TASKS["gsm8k"]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return dola.load(str(samples.long_window(tmp_path_factory.mktemp("long"))))


@pytest.fixture(scope="module")
def factor(tmp_path_factory):
    return Sample.of(FACTOR, [str(samples.factor(tmp_path_factory.mktemp("data") / "f.csv", rows=12))], seed=3)


@pytest.fixture(scope="module")
def report(long, factor):
    return report_signals(*long, factor, name="tiny", config=DoLaConfig("high"), progress=False)


# AUROC


@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs_that_are_in_order(distinct):
    draw = np.random.default_rng(distinct)
    values, right = draw.integers(distinct, size=60).astype(float), draw.random(60) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in values[right] for b in values[~right]]
    assert auroc(values, right) == pytest.approx([fmean(pairs)], abs=1e-12)


def test_counts_are_repetitions():
    draw = np.random.default_rng(0)
    values, right = draw.integers(6, size=30).astype(float), draw.random(30) < 0.5
    counts = draw.integers(4, size=(5, 30))
    repeated = [auroc(np.repeat(values, row), np.repeat(right, row))[0] for row in counts]
    assert auroc(values, right, counts.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_by_hand():
    assert auroc([1, 2, 3], [False, True, True]) == [1.0]
    assert auroc([3, 2, 1], [False, True, True]) == [0.0]
    assert auroc([7, 7, 7], [False, True, True]) == [0.5]
    assert np.isnan(auroc([1, 2], [True, True])).all()


def planted(strength, *, items=150, seed=0):
    """Six signals and two controls; the first signal separates by so many standard deviations, the controls by 0.3."""
    draw = np.random.default_rng(seed)
    right = draw.random(items) < 0.35
    values = {f"noise {i}": draw.normal(size=items) for i in range(5)}
    controls = {name: draw.normal(size=items) + 0.3 * right for name in ("mean", "lowest")}
    return {"planted": draw.normal(size=items) + strength * right, **values}, controls, right.tolist()


def test_a_planted_signal_is_found_and_noise_is_not():
    values, controls, right = planted(1.8)
    best, found = separate(values, controls, right)
    assert [name for name, each in found.items() if each.beats] == ["planted"]
    assert found["planted"].low > 0.8
    assert found["planted"].difference_low > 0
    assert all(found[name].low < 0.5 < found[name].high for name in values if name != "planted")
    assert best == max(controls, key=lambda name: found[name].auroc)
    assert found[best].difference == found[best].difference_low == found[best].difference_high == 0


def test_where_the_controls_point_the_other_way_noise_does_not_beat_them():
    values, controls, right = planted(1.8)
    turned = {name: [-8 * is_right + each for each, is_right in zip(of, right, strict=True)] for name, of in controls.items()}
    best, found = separate(values, turned, right)
    assert found[best].high < 0.5
    assert all(found[name].difference_low > 0 for name in values)  # all are above the control
    assert [name for name, each in found.items() if each.beats] == ["planted"]


def test_without_an_effect_few_reports_claim_one(monkeypatch):
    """At a level of 5%: of 20 draws without an effect, 4 or more would have a chance of 1.6%."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    claims = 0
    for seed in range(20):
        values, controls, right = planted(0.3, seed=seed)
        claims += any(each.beats for each in separate(values, controls, right, seed=seed)[1].values())
    assert claims < 4


def test_p_values_are_of_the_whole_family():
    values, controls, right = planted(1.0)
    alone = separate({"planted": values["planted"]}, controls, right)[1]["planted"]
    found = separate(values, controls, right)[1]
    among = found["planted"]
    assert [found[name].adjusted for name in values] == list(holm(np.array([found[name].p_value for name in values])))
    assert alone.p_value == alone.adjusted == among.p_value
    assert among.adjusted > among.p_value


def test_answers_of_a_group_are_drawn_together():
    """Each answer occurs four times. Grouped, they count as one answer and not as four."""
    values, controls, right = planted(0.8, items=50)
    once = separate(values, controls, right)[1]["planted"]
    four = [{name: np.tile(of, 4) for name, of in each.items()} for each in (values, controls)]
    together = separate(*four, right * 4, groups=list(range(50)) * 4)[1]["planted"]
    assert together.auroc == once.auroc
    assert (together.low, together.high) == (once.low, once.high)
    apart = separate(*four, right * 4)[1]["planted"]
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


def test_what_cannot_be_separated_is_refused():
    with pytest.raises(InputError, match="All 3 answers are right"):
        separate({"a": [1, 2, 3]}, {"c": [1, 2, 3]}, [True] * 3)
    with pytest.raises(InputError, match="Value 1 of a is not finite"):
        separate({"a": [1, math.nan, 3]}, {"c": [1, 2, 3]}, [True, False, True])
    with pytest.raises(InputError, match="a has 2 values for 3 answers"):
        separate({"a": [1, 2]}, {"c": [1, 2, 3]}, [True, False, True])


# what is read


def read(*, divergence, rank, probability, layer, entropy):
    traced = TokenTrace(
        position=0, after=1, token=2, divergence=divergence, layer=layer, lazy=False, mature_choice=2, dola_choice=2,
        plausible_count=1, plausible=(), top=(), rank=rank, probability=probability, entropy=entropy,
    )  # fmt: skip
    return Read(traced, DoLaConfig([1, 2]), (1, 2), 3)


def test_the_numbers_of_a_token_by_hand():
    first = read(divergence=(0.6, 0.4, 0.2), rank=(900, 8, 2, 1), probability=(0, 0.1, 0.2, 0.8), layer=1, entropy=1.5)
    second = read(divergence=(0.6, 0.1, 0.3), rank=(900, 1, 2, 1), probability=(0, 0.4, 0.1, 0.4), layer=2, entropy=0.5)
    assert aggregated([first, second]) == {
        "largest divergence, mean": pytest.approx(0.35),
        "largest divergence, highest": 0.4,
        "mean divergence, mean": pytest.approx(0.25),
        "mean divergence, highest": pytest.approx(0.3),
        "premature layer, mean": 1.5,
        "premature layer, highest": 2,
        "entropy, mean": 1.0,
        "entropy, highest": 1.5,
        "rank changes, mean": pytest.approx((math.log(8) + 2 * math.log(2)) / 2),
        "rank changes, highest": pytest.approx(math.log(8)),
        "gain, mean": pytest.approx((math.log(8) + math.log(4)) / 2),
        "gain, lowest": pytest.approx(math.log(4)),
        "log-probability, mean": pytest.approx((math.log(0.8) + math.log(0.4)) / 2),
        "log-probability, lowest": pytest.approx(math.log(0.4)),
    }
    assert len(signal_names()) == 2 * len(QUANTITIES) == 12


def test_a_probability_that_has_underflown_is_a_number():
    found = aggregated([read(divergence=(0, 0, 0), rank=(1, 1, 1, 1), probability=(0, 0, 0, 0), layer=1, entropy=0.0)])
    assert all(map(math.isfinite, found.values()))


def test_a_choice_is_the_answer_that_the_model_ranks_first(long, factor, report):
    """The control's mean is the answer's log-likelihood from `dola.score`, divided by its number of tokens."""
    scores = dola.score(*long, [item.context for item in factor.items], [item.continuations for item in factor.items],
                        {"plain": None}, progress=False)  # fmt: skip
    for answer, item, of_item, tokens in zip(report.answers, factor.items, scores.values["plain"], scores.tokens, strict=True):
        best = of_item.index(max(of_item))
        assert (answer.text, answer.right, answer.tokens) == (item.continuations[best], item.correct[best], tokens[best])
        assert answer.signals[CONTROL.mean] == pytest.approx(of_item[best] / tokens[best], rel=1e-4)


@torch.no_grad()
def test_the_divergence_is_that_of_a_forward(long, factor):
    model, tokenizer = long
    one = replace(factor, items=factor.items[:1])
    ((answer,), _) = read_answers(model, tokenizer, one, DoLaConfig([2]), progress=False)
    context = tokenizer(factor.items[0].context, return_tensors="pt")["input_ids"]
    whole = tokenizer(factor.items[0].context + answer.text, return_tensors="pt")["input_ids"]
    states = model(whole, output_hidden_states=True).hidden_states
    rows = slice(context.shape[1] - 1, whole.shape[1] - 1)
    mature = model.lm_head(states[-1][0, rows])
    premature = model.lm_head(model.model.norm(states[2][0, rows]))
    expected = js_divergence(mature, premature[None])[0]
    assert answer.signals["largest divergence, mean"] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert answer.signals["largest divergence, highest"] == pytest.approx(float(expected.max()), rel=1e-3)


def test_what_is_written_is_plain_decoding(long, tmp_path):
    model, tokenizer = long
    task = replace(GSM8K, generation=replace(GSM8K.generation, max_new_tokens=4))
    sample = Sample.of(task, [str(samples.gsm8k(tmp_path / "test.jsonl", rows=2))])
    answers, notes = read_answers(model, tokenizer, sample, DoLaConfig("high"), progress=False)
    for answer, item in zip(answers, sample.items, strict=True):
        prompt = tokenizer(item.prompt, return_tensors="pt")
        made = model.generate(**prompt, max_new_tokens=4, do_sample=False, repetition_penalty=1.0, pad_token_id=0)
        text = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer.text == text.split("Q:")[0].strip()
        assert not answer.right
    assert notes == []


def test_an_answer_ends_before_its_stop_string(long):
    tokenizer = long[1]
    ids = tokenizer(" four\nQ: more")["input_ids"]
    assert tokenizer.decode(of_answer(tokenizer, ids, ("\n",))) == " four"
    assert tokenizer.decode(of_answer(tokenizer, tokenizer(" four Q: more")["input_ids"], ("Q:",))).strip() == "four"
    assert len(of_answer(tokenizer, tokenizer("\n")["input_ids"], ("\n",))) == 1
    assert of_answer(tokenizer, ids, ()) == ids


def test_a_run_continues_from_its_results(long, factor, report, tmp_path):
    path = tmp_path / "signals.jsonl"
    answers, _ = read_answers(*long, factor, DoLaConfig("high"), results=path, progress=False)
    assert answers == report.answers
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    again, _ = read_answers(*long, factor, DoLaConfig("high"), results=path, progress=False)
    assert again == answers
    assert sorted(path.read_text().splitlines()) == sorted(lines)
    with pytest.raises(InputError, match="belongs to a different run"):
        read_answers(*long, factor, DoLaConfig("low"), results=path, progress=False)


def test_tasks_without_right_and_wrong_are_refused(long, factor):
    with pytest.raises(UsageError, match="vicuna are judged elsewhere"):
        read_answers(*long, replace(factor, task=TASKS["vicuna"]), DoLaConfig())


# the report


def made_up(report, right, signals, texts=str):
    answers = [Answer(bool(of), texts(i), 1, signals(i)) for i, of in enumerate(right)]
    return replace(report, answers=answers, item_ids=[str(i) for i in range(len(right))])


def test_a_signal_that_beats_the_control_is_in_the_first_sentence(report):
    draw = np.random.default_rng(0)
    right = draw.random(120) < 0.4
    names = [*signal_names(), CONTROL.mean, CONTROL.worst]
    noise = {name: draw.normal(size=120) for name in names}
    told = made_up(report, right, lambda i: {name: float(noise[name][i]) for name in names})
    assert told.sentence.startswith("None of 12 signals separates right from wrong answers better than the plain token prob")
    noise["entropy, mean"] = noise["entropy, mean"] - 2 * right  # less of it where an answer is right
    found = made_up(report, right, lambda i: {name: float(noise[name][i]) for name in names})
    assert found.winners == ["entropy, mean"]
    assert found.sentence.startswith("1 of 12 signals separates right from wrong answers better")
    assert re.search(r": entropy, mean \(0\.\d\d\)\.$", found.sentence)
    assert f"**{found.sentence}**" in found.markdown()
    assert "| **entropy, mean** | more |" in found.markdown()
    assert "The control itself does not separate right from wrong answers: its interval includes 0.5." in found.lines
    lower = {name: noise[name] - 3 * right if name in (CONTROL.mean, CONTROL.worst) else noise[name] for name in names}
    reversed_control = made_up(report, right, lambda i: {name: float(lower[name][i]) for name in names})
    above = [name for name in signal_names() if reversed_control.separations[name].difference_low > 0]
    assert above == [*signal_names()]  # all of them, but few separate anything (one by chance, with these numbers)
    assert reversed_control.winners == ["entropy, mean", "rank changes, highest"]
    assert "The control points the other way: wrong answers have the higher " in " ".join(reversed_control.lines)
    noise["entropy, mean"] = noise["entropy, mean"] + 4 * right
    turned = made_up(report, right, lambda i: {name: float(noise[name][i]) for name in names})
    assert turned.winners == []
    assert any(line.startswith("These point the other way than expected") and "entropy, mean" in line for line in turned.lines)


def test_a_signal_that_recognizes_one_text_does_not_count(report):
    """40 right answers are one phrase, which has the least entropy; the others are noise."""
    draw = np.random.default_rng(1)
    names = [*signal_names(), CONTROL.mean, CONTROL.worst]
    noise, right = draw.normal(size=(140, len(names))), draw.random(140) < 0.4
    right[:40] = True
    noise[:40, names.index("entropy, mean")] = -9
    found = made_up(
        report,
        right,
        lambda i: dict(zip(names, map(float, noise[i]), strict=True)),
        lambda i: "No comment." if i < 40 else str(i),
    )
    assert found.beating == ["entropy, mean"]
    assert found.winners == []
    assert found.sentence.startswith("None of 12 signals")
    assert any("40 are 'No comment.'" in line and "and 0 of the 1 that beat it" in line for line in found.lines)


def test_too_few_answers_of_a_kind_give_no_verdict(report):
    assert report.sentence.startswith("Too few answers to say whether a signal beats the plain token probability")
    assert report.winners == []
    all_wrong = replace(report, answers=[replace(answer, right=False) for answer in report.answers])
    assert all_wrong.rows == []
    assert "0 right and 12 wrong ones" in all_wrong.sentence
    assert all_wrong.to_json()["control"] is None


def test_the_table_has_all_signals_and_the_controls(report):
    assert [row[0] for row in report.rows] == [*signal_names(), CONTROL.mean, CONTROL.worst]
    assert all(len(row) == len(HEAD) for row in report.rows)
    assert "12 signals were fixed before the run" in " ".join(report.lines)
    assert f"| *{CONTROL.mean}* | less |" in report.markdown()
    assert json.loads(json.dumps(report.to_json()))["signals"].keys() == report.separations.keys()

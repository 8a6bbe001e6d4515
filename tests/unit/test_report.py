"""What a report says, in which order and words: verdicts first, one table, then how to read it and what explains it."""

import dataclasses
import io
import math
import random
import re
from statistics import pvariance
from types import SimpleNamespace

import pytest
from rich.console import Console

from dola import DoLaConfig, Recipe
from dola.evidence.changed import shortened
from dola.evidence.finding import Finding, Verdict
from dola.evidence.generation import Texts
from dola.evidence.html_page import page_data
from dola.evidence.items import ItemText, item_texts
from dola.evidence.markdown_page import markdown
from dola.evidence.power import fewest_items, power_line, shown_difference
from dola.evidence.reading import _one_answer, apart
from dola.evidence.reasons import _answers
from dola.evidence.report import make_report
from dola.evidence.row_answers import Chosen
from dola.evidence.sample import Sample
from dola.evidence.table import render
from dola.evidence.verdict import items_needed, judge
from dola.evidence.ways import LENGTH, VANILLA, Role, Way
from dola.tasks import TASKS, GenerationTask
from dola.tasks.answers import METRICS, measure
from dola.tasks.items import ChoiceItem, QuestionItem
from dola.tasks.task import NO_PAPER, Generation

MODEL = SimpleNamespace(dtype="torch.float32")
PENALTY = "vanilla, penalty 1.2"
ROLES = {VANILLA: Role.VANILLA, LENGTH: Role.LENGTH, PENALTY: Role.PENALTY}
OWN = GenerationTask(
    name="mine.csv", description="", files=(), homepage="", published={}, hub=None, make_items=lambda data: [],
    metrics=METRICS, paper=NO_PAPER, generation=Generation(8, ("\n",)), measure=measure,
)  # fmt: skip


def asked(texts, right="Paris", groups=None, cut=None, **settings):
    """A report of generated texts by row; each item has the same right answer."""
    count = len(texts[VANILLA])
    items = [
        QuestionItem(str(i), f"Q: {i}?\nA:", f"What is {i}?", answers=(right,), group=groups and groups[i])
        for i in range(count)
    ]
    measured = {name: [measure(item, text) for item, text in zip(items, of, strict=True)] for name, of in texts.items()}
    values = {name: {m.name: [each[m.name] for each in of] for m in METRICS} for name, of in measured.items()}
    ways = [Way(name, f"what {name} is", role=ROLES.get(name, Role.METHOD)) for name in texts]
    sample = Sample(OWN, items, [], count)
    return make_report(
        sample,
        MODEL,
        "m",
        ways,
        values,
        settings={"stop": ["\n"], "max_new_tokens": 16},
        texts=Texts(texts, [], cut or {}),
        **settings,
    )


def under(report, title):
    """The sentences of a section, as one text."""
    return " ".join(line for section in report.details if section.title == title for line in section.lines)


RIGHT, WRONG = " Paris\nQ: more", " London"


def mixed(share, count=60, seed=0):
    draw = random.Random(seed)
    return [RIGHT if draw.random() < share else WRONG for _ in range(count)]


def shown_at(report, width):
    written = io.StringIO()
    render(Console(file=written, width=width), report)
    return written.getvalue()


def test_verdicts_come_before_the_only_table_and_everything_else_after_it():
    report = asked({VANILLA: mixed(0.5), "DoLa low": mixed(0.6, seed=1), "DoLa 2,4": mixed(0.4, seed=2)})
    for text in (shown_at(report, 100), markdown(report)):
        text = re.sub(r"\s+", " ", text)
        parts = [report.verdict, *(f"- {line}" for line in report.verdicts), "against vanilla", "Details", "How to read it"]
        places = [text.index(part) for part in parts]
        assert places == sorted(places)
        assert text.partition("Details")[0].count("against vanilla") == 1


def test_one_row_has_its_verdict_in_the_headline_alone():
    report = asked({VANILLA: mixed(0.5), "DoLa low": mixed(0.6, seed=1)})
    assert markdown(report).count(report.verdicts[0]) == 1
    assert shown_at(report, 200).count(report.verdicts[0]) == 1


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_header_breaks_and_no_line_is_too_long(width):
    report = asked({VANILLA: mixed(0.5), "DoLa low": mixed(0.6, seed=1), "reference high, not normalized": mixed(0.4, seed=2)})
    lines = shown_at(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("\u2026" in line for line in lines)
    assert any(line.startswith("reference high, not normalized") for line in lines)
    assert sum(bool(re.search(r"against vanilla( +verdict)? *$", line)) for line in lines) == 1


def test_every_run_says_what_difference_its_items_show_and_what_smallest_is():
    report = asked({VANILLA: mixed(0.5), "DoLa low": mixed(0.6, seed=1)}, smallest=0.05)
    said = under(report, "How to read it")
    apart = [b - a for a, b in zip(*(way.items["contains"] for way in report.ways), strict=True)]
    shown = shown_difference(pvariance(apart), 60)
    assert (
        f"With 60 items, a difference of about {math.ceil(100 * shown)} points or more is detected in 80% of such runs." in said
    )
    assert "lies within ±5 points. Choose the smallest difference that matters to you with --smallest" in said
    assert (
        "The verdicts are about one metric, fixed before the run: contains (a known answer is in the text, as whole words)"
        in said
    )


@pytest.mark.parametrize("family", [1, 3, 16])
@pytest.mark.parametrize("items", [100, 1000])
def test_the_difference_that_items_show_is_the_one_that_needs_so_many(family, items):
    shown = shown_difference(0.2, items, family=family)
    assert items_needed(0.2, shown, family=family) == pytest.approx(items, abs=1)
    assert shown_difference(0.0, items, family=family, binary=False) == 0
    few = shown_difference(0.0, items, family=family)  # at least so many must change for the mean to move so far
    assert items_needed(few, few, family=family) == pytest.approx(items, abs=1)


def test_the_line_on_what_items_show():
    assert (
        power_line(50, [0.211, 0.211])
        == "With 50 items, a difference of about 22 points or more is detected in 80% of such runs."
    )
    assert "about 4 to 9 points or more (depending on the row) is detected in 80%" in power_line(
        2000, [0.04, 0.09], "questions"
    )
    assert power_line(8, [0.9]) == "With 8 items, only a difference of more than 40 points can be detected."


@pytest.mark.parametrize("family", [1, 2, 3, 16])
def test_too_few_items_for_any_difference(family):
    """The most that a row can do is to change every outcome in one direction."""
    fewest = fewest_items(family)

    def best(items):
        found = judge([0.0] * items, {f"row {i}": [1.0] * items if i == 0 else [0.0] * items for i in range(family)})
        return found["row 0"].verdict

    assert best(fewest) is Verdict.BETTER
    assert best(fewest - 1) is Verdict.CANNOT_TELL
    needed = "it takes" if family == 1 else f"{family} rows judged together need"
    assert (
        power_line(fewest - 1, [0.9] * family) == f"{fewest - 1} items cannot show any difference: {needed} at least {fewest}."
    )
    assert "40 points" in power_line(fewest, [0.9] * family)


def found(verdict, low, high, p_value, adjusted):
    return Finding(verdict, 100, (low + high) / 2, low, high, p_value, adjusted, 900, 0.02)


def test_where_interval_and_verdict_seem_to_disagree_the_reason_is_plain():
    many = apart("DoLa 2,4", found(Verdict.CANNOT_TELL, 0.01, 0.1, 0.03, 0.09), 3)
    assert many == ('"DoLa 2,4": the interval excludes 0, but allowing for all 3 rows that is not enough evidence (p = 0.090).')
    one = apart("DoLa low", found(Verdict.CANNOT_TELL, 0.01, 0.1, 0.06, 0.06), 1)
    assert "but by the test, which decides, that is not enough evidence (p = 0.060)" in one
    assert "too small to matter" in apart("a", found(Verdict.NO_DIFFERENCE, 0.001, 0.01, 0.03, 0.09), 3)
    assert "the interval includes 0, but the test" in apart("a", found(Verdict.BETTER, 0.0, 0.1, 0.01, 0.04), 3)


def test_answers_that_are_all_alike_are_said():
    assert "Every row gives the same answers to all 30 items" in under(
        asked({VANILLA: mixed(0.5, 30), "a": mixed(0.5, 30), "b": mixed(0.5, 30)}), "Check this first"
    )
    some = under(asked({VANILLA: mixed(0.5, 30), "a, b": mixed(0.5, 30), "c": mixed(0.5, 30, 1)}), "Check this first")
    assert some == 'The answers of "a, b" are vanilla\'s on all 30 items.'


def test_first_items_that_every_row_gets_wrong_are_said_with_an_example():
    start = [WRONG] * 4
    said = under(asked({VANILLA: [*start, RIGHT, *mixed(0.5)], "a": [*start, WRONG, *mixed(0.5)]}), "Check this first")
    assert "Every row is wrong on the first 4 items." in said
    assert 'asked "What is 0?", vanilla answers "London"; right is "Paris"' in said
    assert under(asked({VANILLA: mixed(0.5), "a": [RIGHT, *mixed(0.4, 59)]}), "Check this first") == ""
    assert "wrong on all 20 items" in under(asked({VANILLA: [WRONG] * 20, "a": [WRONG] * 19 + [" Rome"]}), "Check this first")
    assert "too easy" in under(asked({VANILLA: [RIGHT] * 20, "a": [" Paris"] * 20}), "Check this first")


def test_intervals_of_the_table_are_those_of_the_verdicts_in_groups_too():
    texts = {VANILLA: [WRONG] * 30 + mixed(0.5, 30), "a": [RIGHT] * 10 + [WRONG] * 20 + mixed(0.5, 30, 3)}
    report = asked(texts, groups=[str(i // 10) for i in range(60)])
    against, finding = report.way("a").comparisons["contains"], report.findings["a"]
    assert (against.low, against.high) == (finding.low, finding.high)
    assert (against.low, against.high) != (lambda each: (each.low, each.high))(asked(texts).way("a").comparisons["contains"])
    assert against.p_value is None


def test_questions_are_shown_without_what_all_contexts_share():
    form = "Answer the question.\n\nQ: 1+1?\nA: 2\n\nQ: {}\nA:"
    items = [
        ChoiceItem(str(i), form.format(text), (" a", " b", " c"), (False, True, True), best=2)
        for i, text in enumerate(["Why?", "What is\nthis?"])
    ]
    first, second = item_texts(items)
    assert (first.question, second.question) == ("Q: Why?", "Q: What is\nthis?")
    assert (first.right, first.wrong) == (["c", "b"], ["a"])
    assert item_texts(items[:1])[0].question == form.format("Why?")
    assert item_texts([QuestionItem("1", "", " Why? ", gold="7")])[0].right == ["7"]


def test_json_of_a_report_has_the_words_too():
    report = asked({VANILLA: mixed(0.5), "DoLa low": mixed(0.6, seed=1)})
    found = report.to_json()
    assert found["verdicts"] == report.verdicts
    assert {section["title"] for section in found["details"]} == {section.title for section in report.details}
    assert found["items"][0] == {"question": "What is 0?", "right": ["Paris"], "wrong": [], "group": None}
    assert set(report.metrics) == set(found["descriptions"]) == {metric.name for metric in TASKS["nq-open"].metrics}


# reasons


def test_answers_that_the_length_limit_cut_are_counted_marked_and_warned_of():
    texts = {VANILLA: [" The capital is"] * 8 + [" Paris"] * 4, PENALTY: [" Paris"] * 12, "DoLa": [" Paris"] * 11 + [" It is"]}
    cut = {VANILLA: [True] * 8 + [False] * 4, PENALTY: [False] * 12, "DoLa": [False] * 11 + [True]}
    report = asked(texts, cut=cut)
    assert (report.counts[VANILLA].unfinished, report.counts["DoLa"].unfinished) == (8, 1)
    assert '1 cut at the length limit ("vanilla" 8, "vanilla, penalty 1.2" 0)' in under(report, "Reasons")
    warning = under(report, "Check this first")
    listed = '"vanilla" 8 of 12, "vanilla, penalty 1.2" 0 of 12, "DoLa" 1 of 12'
    assert f"The limit of 16 tokens cut answers: {listed}. What would have followed" in warning
    assert warning.endswith("--max-new-tokens sets the limit.")  # the data are not a task of a benchmark
    assert report.changed["DoLa"].better[0].before == "The capital is [...]"
    assert (report.changed["DoLa"].worse[0].before, report.changed["DoLa"].worse[0].after) == ("Paris", "It is [...]")
    assert report.to_json()["ways"][0]["unfinished"] == cut[VANILLA]
    few = {name: [False] * 12 for name in texts} | {"DoLa": [True] + [False] * 11}
    assert "The limit of 16 tokens" not in under(asked(texts, cut=few), "Check this first")
    assert asked(texts).counts["DoLa"].unfinished is None  # not known


def test_counts_of_a_row_that_stopped_early_name_its_items():
    texts = {VANILLA: [" The capital is"] * 12, "DoLa": [" Paris"] * 12}
    report = asked(texts, cut={VANILLA: [True] * 12, "DoLa": [True] * 12})
    plain, way = report.ways
    early = dataclasses.replace(
        way, texts=way.texts[:6], unfinished=way.unfinished[:6], items={name: of[:6] for name, of in way.items.items()}
    )
    stopped = dataclasses.replace(report, ways=[plain, early], looks=[6, 12])
    assert '6 of 6 cut at the length limit ("vanilla" 12 of 12)' in _answers(stopped, early, plain)[0]
    assert '12 cut at the length limit ("vanilla" 12)' in _answers(report, way, plain)[0]
    assert '"vanilla" 12 of 12, "DoLa" 6 of 6.' in under(stopped, "Check this first")


def test_the_page_leaves_answers_out_that_are_not_known():
    report = asked({VANILLA: [" Paris"] * 3, "DoLa": [" Rome"] * 3}, cut={VANILLA: [False] * 3, "DoLa": [True] * 3})
    assert page_data(report)["items"][0]["answers"] == ["Paris", "Rome [...]"]
    unknown = dataclasses.replace(report, ways=[dataclasses.replace(way, texts=[], unfinished=[]) for way in report.ways])
    assert page_data(unknown)["items"][0]["answers"] == [None, None]


def test_counts_of_length_refusals_empty_answers_and_changes_beside_vanilla_and_its_control():
    texts = {
        VANILLA: [" Paris"] * 20 + [" I don't know"] * 10,
        PENALTY: [" Paris"] * 20 + [""] * 10,
        "DoLa": [" It is Paris"] * 14 + ["", " I cannot answer that", *[" Rome"] * 4] + [" Paris"] * 4 + [""] * 6,
    }
    report = asked(texts)
    counts = report.counts["DoLa"]
    assert (counts.better, counts.worse, counts.changed) == (4, 6, 30)
    assert (counts.empty, counts.refused, counts.formless) == (7, 1, 0)
    assert (counts.unanswered_better, counts.unanswered_worse) == (4, 2)
    assert (counts.longer_better, counts.longer_worse) == (0, 1)
    said = under(report, "Reasons")
    assert 'Answers of "DoLa": 1.8 words on average ("vanilla" 1.7, "vanilla, penalty 1.2" 0.7)' in said
    assert '7 empty ("vanilla" 0, "vanilla, penalty 1.2" 10), 1 decline ("vanilla" 10, "vanilla, penalty 1.2" 0)' in said
    assert '"DoLa" changes 30 of 30 answers: 4 got better, 6 got worse; in 2 of the worse ones the new answer is empty' in said
    assert "in 4 of the better ones vanilla's did so" in said
    assert report.to_json()["counts"]["DoLa"]["refused"] == 1


def test_answers_in_which_the_task_finds_no_answer_are_counted():
    task = TASKS["gsm8k"]
    items = [QuestionItem(str(i), "", f"What is {i}?", gold=str(i)) for i in range(4)]
    texts = {VANILLA: [f" The answer is {i}." for i in range(4)], "DoLa": [" It is easy.", " The answer is 1.", "", " Hm."]}
    values = {
        name: {
            metric.name: [task.measure(item, text)[metric.name] for item, text in zip(items, of, strict=True)]
            for metric in task.metrics
        }
        for name, of in texts.items()
    }
    ways = [Way(name, name, role=ROLES.get(name, Role.METHOD)) for name in texts]
    report = make_report(Sample(task, items, [], 4), MODEL, "m", ways, values, settings={}, texts=Texts(texts, [], {}))
    counts = report.counts["DoLa"]
    assert (counts.formless, counts.empty, counts.unanswered_worse) == (2, 1, 3)
    assert '2 without the form asked for ("vanilla" 0)' in under(report, "Reasons")


def scored(masses, controls=None, count=40):
    """A report of a scored task with two answers: the probability of the right one by row."""
    task = TASKS["memotrap"]
    items = [ChoiceItem(str(i), f"Say {i}", (" short", " a longer ending"), (False, True), best=1) for i in range(count)]
    values = {name: {m.name: [float(mass > 0.5) for mass in of] for m in task.metrics} for name, of in masses.items()}
    chosen = {
        name: Chosen(["a longer ending" if mass > 0.5 else "short" for mass in of], list(of)) for name, of in masses.items()
    }
    ways = [
        Way(name, name, Recipe(DoLaConfig(), premature=controls[name]) if name in (controls or {}) else None,
            role=Role.CONTROL if name in (controls or {}) else ROLES.get(name, Role.METHOD))
        for name in masses
    ]  # fmt: skip
    return make_report(Sample(task, items, [], count), MODEL, "m", ways, values, settings={}, chosen=chosen)


LOST = [0.9] * 10 + [0.2] * 30


def test_a_control_that_loses_as_much_explains_a_loss():
    masses = {VANILLA: [0.9] * 40, "DoLa": LOST, "random layer": LOST[::-1], "flat": [0.9] * 38 + [0.1] * 2}
    report = scored(masses, {"random layer": "random", "flat": "flat"})
    said = under(report, "Reasons")
    assert 'accuracy of "DoLa" minus that of each control: "random layer" +0.0' in said
    assert 'A layer drawn at random explains the difference of "DoLa", as far as these items show: alone it has -75.0' in said
    assert "Making the plausible set flat explains" not in said
    assert "was not run" not in said
    assert {way.name: way.isolates for way in report.ways}["random layer"] == "random"


def test_a_control_of_flattening_that_was_not_run_is_named():
    assert "--ways full adds that control" in under(scored({VANILLA: [0.9] * 40, "DoLa": LOST}), "Reasons")
    assert "--ways full" not in under(scored({VANILLA: [0.9] * 40, "DoLa": [0.9] * 40}), "Reasons")


# groups


def grouped(worse):
    """Three groups of 40 and one of 4; a row that is wrong on so many of the first."""
    names = [f"g{i // 40}" for i in range(120)] + ["tiny"] * 4
    draw = random.Random(3)
    before = [draw.random() < 0.9 for _ in names]
    after = [right and not (i < worse) for i, right in enumerate(before)]
    texts = {name: [RIGHT if right else WRONG for right in of] for name, of in ((VANILLA, before), ("DoLa", after))}
    return asked({**texts, "other": texts[VANILLA]}, groups=names)


def test_the_group_that_differs_is_named_after_correction_for_all_groups_and_rows():
    report = grouped(20)
    said = under(report, "Groups")
    assert said.startswith("3 groups were compared (1 with fewer than 10 items were left out), 6 tests (3 groups times 2 rows)")
    assert 'these differ from vanilla. g0: "DoLa" -' in said
    assert [each.group for each in report.by_group if each.differs] == ["g0"]
    tested = sorted(each.p_value for each in report.by_group)
    assert min(each.adjusted for each in report.by_group) == pytest.approx(6 * tested[0])
    assert "none differs from vanilla" in under(grouped(4), "Groups")


def test_without_groups_or_with_small_ones_none_is_compared():
    assert under(asked({VANILLA: mixed(0.5), "a": mixed(0.6)}), "Groups") == ""
    pairs = asked({VANILLA: mixed(0.5), "a": mixed(0.6)}, groups=[str(i // 2) for i in range(60)])
    assert under(pairs, "Groups") == "30 groups; fewer than two have 10 items or more, so they were not compared."


# answers that changed most


def test_the_items_that_changed_most_are_listed_by_metric_then_by_probability():
    before, after = [0.5] * 40, [0.5] * 40
    before[:4], after[:4] = [0.4, 0.1, 0.45, 0.6], [0.6, 0.95, 0.2, 0.3]
    changed = scored({VANILLA: before, "DoLa": after}).changed["DoLa"]
    assert [each.id for each in changed.better] == ["1", "0"]
    assert [each.id for each in changed.worse] == ["3", "2"]
    first = changed.better[0]
    assert (first.before, first.after, first.right) == ("short", "a longer ending", ["a longer ending"])
    assert (first.values, first.mass) == ((0.0, 1.0), (0.1, 0.95))


def test_ten_of_each_kind_at_most_and_only_what_changed():
    report = asked({VANILLA: [RIGHT] * 15 + [WRONG] * 15, "DoLa": [WRONG] * 15 + [RIGHT] * 3 + [WRONG] * 12})
    changed = report.changed["DoLa"]
    assert (len(changed.better), len(changed.worse)) == (3, 10)
    assert {each.after for each in changed.worse} == {"London"}  # up to the stop string
    for text in (shown_at(report, 200), markdown(report)):
        assert "What is 15?" in text
        assert "London" in text
    assert report.to_json()["changed"]["DoLa"]["better"][0]["question"] == "What is 15?"


def test_markdown_of_answers_is_text_and_not_markup():
    wicked = " <script>|*x*\\ `y`"
    report = asked({VANILLA: [wicked] * 30, "a|b": [RIGHT] * 30})
    (row,) = [line for line in markdown(report).splitlines() if line.startswith("| 0 |")]
    assert r"&lt;script&gt;\|\*x\*\\ \`y\`" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_a_long_answer_is_cut_in_its_middle():
    text = shortened("a" * 500 + " end")
    assert len(text) <= 120
    assert text.endswith(" end")
    assert shortened(" \n") == "(empty)"


@pytest.mark.parametrize(
    ("answers", "rights", "is_said"),
    [
        (["A"] * 20, ["A", "B"] * 10, True),
        (["A"] * 18 + ["B"] * 2, ["A", "B"] * 10, False),
        (["A"] * 20, ["A"] * 20, False),  # the data ask for one answer
        ([""] * 20, ["A", "B"] * 10, True),
    ],
    ids=["one letter", "two letters", "one right answer", "nothing"],
)
def test_a_model_that_gives_one_answer_to_everything_is_said(answers, rights, is_said):
    """Its accuracy is a constant, and so is the difference: "no difference" would say nothing of the method."""
    report = SimpleNamespace(items=[ItemText("Q", [right]) for right in rights])
    said = _one_answer(report, answers)
    assert [line.startswith(f'vanilla answers "{answers[0] or "nothing"}" to 20 of 20 items, whatever') for line in said] == (
        [True] if is_said else []
    )

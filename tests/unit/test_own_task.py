"""The user's own questions: how columns are found, how each item is asked, and what is measured."""

import json

import pytest

from dola.errors import DataError, DolaError, UsageError
from dola.tasks import answers
from dola.tasks.data import open_data
from dola.tasks.own import Asking, Columns, own_task


def opened(tmp_path, content, name="questions.csv"):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return open_data(str(tmp_path / name))


def items(data, **how):
    return own_task(data, "questions.csv", Columns.of(data), Asking(**how)).items(data)


def test_questions_with_answers_are_generated_and_asked_of_chat_models_as_they_are(tmp_path):
    data = opened(tmp_path, "question,answer\nWho wrote Hamlet?,Shakespeare\nWhen?,1599 | 1600\n")
    task = own_task(data, "questions.csv")
    assert task.generates
    assert task.chat
    first, second = task.items(data)
    assert (first.prompt, first.message) == ("Q: Who wrote Hamlet?\nA:", "Who wrote Hamlet?")
    assert second.answers == ("1599", "1600")


def test_wrong_answers_make_it_multiple_choice(tmp_path):
    data = opened(tmp_path, "question,answer,wrong\nCapital of France?,Paris,Lyon; Nice\n")
    [item] = items(data)
    assert (item.context, item.continuations) == ("Q: Capital of France?\nA:", (" Paris", " Lyon", " Nice"))
    assert item.correct == (True, False, False)


@pytest.mark.parametrize("label", ["1", "B", "b", "Paris"])
def test_a_label_is_a_place_a_letter_or_a_text(tmp_path, label):
    rows = [{"question": "Capital of France?", "choices": ["Lyon", "Paris"], "label": label}]
    [item] = items(opened(tmp_path, rows, "q.json"))
    assert item.continuations[0] == " Paris"


def test_choices_as_the_hub_has_them_and_an_answer_that_names_one(tmp_path):
    rows = [{"question": "Q?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}]
    assert items(opened(tmp_path, rows, "q.json"))[0].continuations[0] == " y"
    rows = [{"question": "Q?", "choices": ["x", "y"], "answer": 1}]
    assert items(opened(tmp_path, rows, "q.jsonl"))[0].continuations[0] == " y"


def test_columns_can_be_named_and_unused_ones_are_listed(tmp_path):
    data = opened(tmp_path, "Frage,Antwort,Quelle,group\nWer?,Ich,hier,g1\n")
    columns = Columns.of(data, {"question": "Frage", "answer": "Antwort"})
    assert columns.others == ("Quelle",)
    assert own_task(data, "q", columns).items(data)[0].group == "g1"


def test_names_are_found_in_any_case_and_with_spaces(tmp_path):
    data = opened(tmp_path, "ID,Question,Correct Answers,Incorrect Answers\n7,Q?,yes,no\n")
    [item] = items(data)
    assert (item.id, item.correct) == ("7", (True, False))


def test_context_template_and_examples(tmp_path):
    data = opened(tmp_path, "question,answer,wrong,context\nWho?,Ann,Bob,Ann came.\n")
    assert items(data)[0].context == "Ann came.\n\nQ: Who?\nA:"
    asked = items(data, template="{context} {question} =>", shots=(({"question": "1+1?", "context": ""}, "2"),))[0]
    assert asked.context == " 1+1? => 2\n\nAnn came. Who? =>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "does not contain any rows"),
        ("question,answer\n", "does not contain any rows"),
        ("text,label\na,b\n", "No column holds questions; there are 'text', 'label'"),
        ("question,note\na,b\n", "No column holds answers; there are 'question', 'note'"),
        ("question,choices\na,b|c\n", "none says which is right"),
        ("question,answer\na,\nb,c\n", "row 1: the field 'answer' is empty"),
        ("question,answer\n,b\nc,d\n", "row 1: the field 'question' is empty"),
        ("question,answer\na,;\n", "has no answer"),
        ("question,answer\na,\nb, \n", "The column 'answer' is empty in all 2 rows"),
        ("question,answer,wrong\na,b,\nc,d,\n", "The column 'wrong' is empty in all 2 rows"),
        ("question,answer,wrong\na,The Moon,moon.\n", "is among the right answers and among the wrong ones"),
        ("question,answer,id\na,b,1\nc,d,1\n", "have the id '1'"),
        ("question,choices,label\na,b|c,Z\n", "the label 'Z' names none of the 2 choices"),
        ("question,choices,label\na,b,0\n", "there is one choice alone"),
    ],
)
def test_mistakes_in_the_data_are_named(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        items(opened(tmp_path, content))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"text": ["Ann", "Bob"], "answer_start": [1, 2]}, ("Ann", "Bob")),  # SQuAD
        ({"value": "Ann", "aliases": ["Anna", "Ann"]}, ("Ann", "Anna")),  # TriviaQA
        (["Ann", " Bob "], ("Ann", "Bob")),
        ('["Ann", "Bob"]', ("Ann", "Bob")),
        ("Ann | Bob; B.", ("Ann", "Bob; B.")),
        (1599, ("1599",)),
    ],
)
def test_answers_in_all_the_forms_that_data_sets_have(tmp_path, answer, found):
    for name, content in (
        ("q.json", [{"question": "Who?", "answer": answer}]),
        ("q.jsonl", {"question": "Who?", "answer": answer}),
    ):
        assert items(opened(tmp_path, content, name))[0].answers == found


def test_an_answer_without_any_text(tmp_path):
    with pytest.raises(DataError, match="has no answer"):
        items(opened(tmp_path, [{"question": "Who?", "answer": {"text": []}}], "q.json"))


def test_tables_with_tabs(tmp_path):
    data = opened(tmp_path, "id\tquestion\tanswer\tgroup\nx\tWho, then?\tAnn\tg\n", "q.tsv")
    [item] = items(data)
    assert (item.id, item.question, item.answers, item.group) == ("x", "Who, then?", ("Ann",), "g")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"question": "Frage"}, "The data have no column 'Frage'. Columns: 'question'"),
        ({"title": "question"}, "'title' is not a kind"),
    ],
)
def test_mistakes_in_named_columns_are_named(tmp_path, named, said):
    with pytest.raises(UsageError, match=said):
        Columns.of(opened(tmp_path, "question,answer\na,b\n"), named)


@pytest.mark.parametrize("template", ["{query}", "no place", "{question"])
def test_mistakes_in_a_template_are_named(template):
    with pytest.raises(DolaError, match="template"):
        Asking(template)


@pytest.mark.parametrize(
    ("text", "known", "contains", "exact", "f1"),
    [
        ("It was William Shakespeare.", ["shakespeare"], True, False, 2 / 5),
        ("The Beatles!", ["Beatles"], True, True, 1.0),
        ("An unshakable belief", ["shakable"], False, False, 0.0),
        ("", ["x"], False, False, 0.0),
        ("1,000", ["1000"], True, True, 1.0),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(text, known, contains, exact, f1):
    assert answers.contains(text, known) is contains
    assert answers.exact_match(text, known) is exact
    assert answers.f1(text, known) == pytest.approx(f1)


def test_refusals_and_empty_answers_are_counted_as_such(tmp_path):
    data = opened(tmp_path, "question,answer\nWho?,Ann\n")
    task = own_task(data, "q")
    [item] = task.items(data)
    assert task.measure(item, "I don't know.")["refused"] == 1.0
    assert task.measure(item, "I don\u2019t know.")["refused"] == 1.0
    assert task.measure(item, "  ")["answered"] == 0.0
    assert task.measure(item, "Ann")["refused"] == 0.0


def test_tables_that_are_known_by_another_name_work_too():
    from pathlib import Path

    path = Path(__file__).parents[3] / "shared/data/nq/NQ-open.dev.first1800.jsonl"
    if not path.exists():
        pytest.skip("the data of NQ-open are not here")
    data = open_data(str(path))
    found = items(data)
    assert len(found) == 1800
    assert found[0].answers == ("14 December 1972 UTC", "December 1972")

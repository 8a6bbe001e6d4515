"""Habits of speech and British spelling: found where people read, and left alone in names and code."""

import american
import plain_words
import pytest


@pytest.mark.parametrize(
    ("british", "expected"),
    [
        ("The weights are quantised.", "The weights are quantized."),
        ("Normalisation, renormalised; neighbours' behaviour", "Normalization, renormalized; neighbors' behavior"),
        ("licence of a favourite colour", "license of a favorite color"),
        ("`normalisation=full`, quantised=True and NORMALISATIONS", "`normalisation=full`, quantised=True and NORMALISATIONS"),
        (
            "plot/colours.py, 'normalised' and [a page](normalised.md)",
            "plot/colours.py, 'normalised' and [a page](normalised.md)",
        ),
        ("raises a precise promise otherwise", "raises a precise promise otherwise"),
    ],
)
def test_spelling(british, expected):
    assert american.american(british) == expected


def test_spelling_of_a_file():
    """Comments and strings of several words, not names or single words."""
    source = 'quantised = f"the colour {colour} is"  # a neighbour\nkind = "normalised"\n'
    assert american.in_python(source) == 'quantised = f"the color {colour} is"  # a neighbor\nkind = "normalised"\n'
    page = "A colour.\n```\ncolour\n```\nA `colour`.\n"
    assert american.in_markdown(page) == "A color.\n```\ncolour\n```\nA `colour`.\n"


def test_habits_of_a_file():
    """Lines count, and what Python joins is read as one string."""
    source = 'x = 1\n# it goes on\nraise E(\n    "there is "\n    f"no {x} behind it"\n)\n'
    found = [
        hit
        for line, text in plain_words.of_python(source)
        for hit in plain_words.hits_in(plain_words.Passage("a.py", line, text))
    ]
    assert sorted((hit.line, hit.habit) for hit in found) == [(2, "go on"), (4, "behind"), (4, "is no")]


def test_code_of_a_page_is_not_read():
    page = "```\nthere is no\n```\ntold\n"
    [(line, text)] = plain_words.of_markdown(page)
    assert [(hit.line, hit.habit) for hit in plain_words.hits_in(plain_words.Passage("a.md", line, text))] == [(4, "told")]

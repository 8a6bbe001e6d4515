"""JSON output that other programs can read, and reading of JSON that they write."""

import json
import re
from pathlib import Path

import pytest

import dola
from dola.files.json_text import BrokenJSONError, dumps, finite, loads, values

NAN, INF = float("nan"), float("inf")


def strict(text):
    """The result of a parser that accepts strict JSON only."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected", "sentence"),
    [
        ({"a": NAN}, {"a": None}, "a: NaN and infinity are not JSON; written as null"),
        ([1.5, -INF], [1.5, None], "[1]: NaN"),
        (({"b": (INF, {"c": NAN})},), [{"b": [None, {"c": None}]}], "[0].b[0] and 1 more: NaN"),
        (INF, None, "the value: NaN"),
    ],
)
def test_nan_becomes_null_and_is_reported_once(value, expected, sentence):
    told = []
    assert strict(dumps(value, tell=told.append)) == expected
    assert len(told) == 1
    assert told[0].startswith(sentence)
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        dumps(value)


def test_all_else_is_written_as_python_writes_it():
    value = {"é": [1, 2.5, True, None, "\u2028", 10**30], "t": (1,)}
    assert dumps(value) == json.dumps(value)
    assert dumps(value, ensure_ascii=False) == json.dumps(value, ensure_ascii=False)
    assert finite(value) == ({"é": [1, 2.5, True, None, "\u2028", 10**30], "t": [1]}, [])
    circle = []
    circle.append(circle)
    with pytest.raises((ValueError, RecursionError)):
        dumps(circle)


def test_a_field_that_is_listed_twice_and_what_is_too_deep():
    assert loads('{"a": {"b": 1}, "c": {"b": 2}}') == {"a": {"b": 1}, "c": {"b": 2}}
    with pytest.raises(ValueError, match="the field 'a' is listed twice"):
        loads('{"a": 1, "a": 2}')
    with pytest.raises(ValueError, match="nested too deeply"):
        loads("[" * 1_000_000)


def test_bytes_are_utf_8():
    assert loads('\ufeff"é"'.encode()) == "é"
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(ValueError, match="codec can't decode"):
            loads('"é"'.encode(encoding))


def test_values_that_follow_one_another():
    text = '{"a": 1}\n\n{\n  "a": 2\n}\n[3] "four"\n'
    assert list(values(text)) == [(1, {"a": 1}), (3, {"a": 2}), (6, [3]), (6, "four")]
    assert list(values(" \n")) == []


@pytest.mark.parametrize(
    ("text", "line", "cut_off"),
    [
        ('{"a": 1}\n{"a', 2, True),
        ('{"a": 1}\n{"a"', 2, True),
        ('{"a": 1}\n{"a": tru', 2, True),
        ('[{"a": 1},\n', 1, True),
        ('{"a": 1}\n{"a": 2]\n{"a": 3}', 2, False),
        ('{"a": 1},\n{"a": 2}', 1, False),
        ('{"a": 1, "a": 2}', 1, False),
        ("[" * 1_000_000, 1, False),
        ("x", 1, False),
    ],
)
def test_broken_json_says_where_and_whether_it_may_be_cut_off(text, line, cut_off):
    with pytest.raises(BrokenJSONError) as broken:
        list(values(text))
    assert (broken.value.line, broken.value.cut_off) == (line, cut_off)


ELSEWHERE = {
    "files/json_text.py": "the one place",
    "tasks/endpoint.py": "a request with numbers of our own, and a message",
    "tasks/judge.py": "a server's answer, quoted in an error",
    "tasks/data.py": "a digest, which must stay what it was",
    "bench/memory.py": "between two processes of dola",
    "text/chat.py": "words as a chat template may have put them into a prompt, to compare with",
    "cli/mlx_server.py": "an example of a request, made here",
    "cli/serve.py": "settings, which DoLaConfig has checked",
}
"""Where json.dumps may be called, and why."""


def test_json_is_written_in_one_place():
    package = Path(dola.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if "json.dumps(" in path.read_text("utf-8")}
    assert found == set(ELSEWHERE)

"""`dola compare`: its columns, what is marked in them, and how they are laid out."""

import io
import json
import re
from dataclasses import replace
from importlib.util import find_spec

import pytest
from command import fields, tokenizer
from each_method import METHODS, each_method, on_command_line
from rich.cells import cell_len
from rich.console import Console

import dola
from dola.cli.answers import Answer, answers
from dola.cli.backend_torch import TorchBackend
from dola.cli.columns import differs, render
from dola.cli.compare import SCHEMA, SCHEMA_NAME
from dola.cli.decoding import pieces


@pytest.fixture
def compared(dola_command, folder):
    """The JSON of `dola compare` with some options."""

    def run(*arguments):
        ended = dola_command("compare", "The quick brown fox", "--model", folder, "--max-new-tokens", 8, "--json", *arguments)
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    return run


def greedy(folder, penalty, layers=None):
    model, tokenizer = dola.load(str(folder))
    message = [{"role": "user", "content": "The quick brown fox"}]
    inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    call = {"do_sample": False, "max_new_tokens": 8, "repetition_penalty": penalty, "pad_token_id": 0}
    output = dola.generate(model, **inputs, **call, dola_layers=layers) if layers else model.generate(**inputs, **call)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def test_four_columns(compared, folder):
    made = compared()
    assert made["schema"] == SCHEMA_NAME
    assert fields(made) == set(SCHEMA)
    columns = made["columns"]
    assert [column["title"] for column in columns] == [
        "greedy",
        "greedy, penalty 1.2",
        "DoLa low, penalty 1.2",
        "DoLa high, penalty 1.2",
    ]
    assert columns[0]["token_ids"] == greedy(folder, 1.0)
    assert columns[1]["token_ids"] == greedy(folder, 1.2)
    assert columns[2]["token_ids"] == greedy(folder, 1.2, "low")
    assert columns[3]["token_ids"] == greedy(folder, 1.2, "high")
    for column in columns:
        assert column["text"] == "".join(column["pieces"])
        assert column["seconds"] > 0
        assert column["tokens_per_second"] > 0
    assert not any(columns[0]["differs"])


def test_layers_replace_the_dola_columns(compared):
    columns = compared("--layers", "3,4", "--layers", "all")["columns"]
    assert [column["layers"] for column in columns] == [None, None, [3, 4], "all"]
    assert columns[2]["candidate_layers"] == [3, 4]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--relative-top", "0.3"], "relative_top", 0.3),
        (["--divergence", "reference"], "divergence", "reference"),
        (["--no-final-norm"], "final_norm", False),
        (["--final-norm"], "final_norm", True),
        (["--reference"], "divergence", "reference"),
        (["--repetition-penalty", "1"], "repetition_penalty", 1.0),
        (["--dtype", "bfloat16"], "dtype", "bfloat16"),
        (["--device", "cpu"], "device", "cpu"),
        (["--chat"], "chat", True),
        (["--no-chat"], "chat", False),
        (["--trust-remote-code"], "max_new_tokens", 8),
    ],
)
def test_options(compared, options, field, value):
    made = compared(*options)
    assert {**made["settings"], **made["columns"][3]}[field] == value


def test_a_penalty_of_one_leaves_the_control_greedy(compared):
    columns = compared("--repetition-penalty", "1")["columns"]
    assert [column["title"] for column in columns[:2]] == ["greedy", "greedy, penalty 1"]
    assert columns[0]["token_ids"] == columns[1]["token_ids"]


def test_config_file_with_several_columns(compared, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"layers": ["high", [2, 3]]}')
    assert [column["layers"] for column in compared("--config", path)["columns"][2:]] == ["high", [2, 3]]


def test_config_file_with_one_set_of_layers_is_one_column(compared, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"layers": [2, 3]}', encoding="utf-8-sig")  # as Windows editors save it
    assert [column["layers"] for column in compared("--config", path)["columns"][2:]] == [[2, 3]]


def test_answers_of_a_real_model_have_their_controls(smollm2):
    found = answers(TorchBackend(*smollm2), "The capital of Washington State is", layers=["high", [26, 28]], max_new_tokens=8)
    assert [answer.title for answer in found] == [
        "greedy",
        "greedy, penalty 1.2",
        "DoLa high, penalty 1.2",
        "DoLa 26, 28, penalty 1.2",
    ]
    assert all(1 <= len(answer.token_ids) <= 8 and answer.tokens_per_second > 0 for answer in found)
    assert found[0].token_ids != found[2].token_ids
    assert not hasattr(smollm2.model, "dola")


def test_tokens_are_aligned_not_only_compared_in_place():
    assert differs([1, 2, 3, 4], [1, 9, 2, 3, 4]) == (False, True, False, False, False)
    assert differs([1, 2], [1, 2]) == (False, False)
    assert differs([1, 2], []) == ()
    long = list(range(300)) * 2  # difflib drops frequent elements of long sequences unless told not to
    assert not any(differs(long, long))


def test_pieces_are_the_text_token_by_token():
    made = tokenizer()
    for text in ("Hello there", "日本の首都は", "a 😀 b", " leading", ""):
        token_ids = made(text)["input_ids"]
        found = pieces(made, token_ids)
        assert len(found) == len(token_ids)
        assert "".join(found) == text
    cut = made("😀")["input_ids"][:2]  # half a character at the end
    assert "".join(pieces(made, cut)) == made.decode(cut)


def answer(title, words, marks, **changes):
    made = Answer(
        title=title,
        text="".join(words),
        token_ids=[hash(word) for word in words],
        pieces=list(words),
        finish_reason="length",
        repetition_penalty=1.2,
        config=None,
        candidate_layers=None,
        prompt_tokens=3,
        seconds=0.5,
        differs=tuple(marks),
    )
    return replace(made, **changes)


def shown(found, width, **settings):
    written = io.StringIO()
    render(Console(file=written, width=width, highlight=False, **settings), "日本の首都は", found)
    return written.getvalue()


WIDE = [
    answer("greedy", ["The", " capital", " is", " Paris", "."], [0, 0, 0, 0, 0]),
    answer("greedy, penalty 1.2", ["The", " capital", " is", " Paris", "."], [0, 0, 0, 0, 0]),
    answer("DoLa low, penalty 1.2", ["首都は", "東京です", "。", "", "👩‍🔬 🎉"], [1, 1, 1, 1, 1]),
    answer("DoLa high, penalty 1.2", ["The", " capital", " is", " Rome", "!\n"], [0, 0, 0, 1, 1]),
]


@pytest.mark.parametrize(("width", "side_by_side"), [(160, 4), (120, 2), (80, 2), (40, 1), (20, 1)])
def test_layout(width, side_by_side):
    lines = shown(WIDE, width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert max(len(re.findall("greedy|DoLa", line)) for line in lines[2:-4]) == side_by_side
    bars = [[cell_len(line[: match.start()]) for match in re.finditer("[│┃╇╋┿]|(?<=━)╈|╪", line)] for line in lines]
    assert len({tuple(places) for places in bars if places}) <= 1, "wide characters push bars out of line"


def test_marks_without_colour():
    text = shown(WIDE, 160)
    assert "The capital is {+Rome!+}" in text
    assert "\x1b" not in text
    assert "{+marked+}: tokens not in greedy's answer." in text
    assert "東京です" in text


def test_marks_in_colour():
    text = shown(WIDE, 160, force_terminal=True, color_system="standard", no_color=False)
    assert "The capital is\x1b[1;36m Rome!" in text
    assert "{+" not in text
    assert "\x1b[1;36mmarked\x1b[0m: tokens" in text  # the legend's one word, not its line


def test_no_color_leaves_marks_that_can_be_read(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(WIDE, 160, force_terminal=True)
    assert "{+Rome!+}" in re.sub(r"\x1b\[[\d;]*m", "", text)
    assert not re.search(r"\x1b\[[\d;]*3\dm", text)


def test_a_model_cannot_command_the_terminal():
    wicked = [*WIDE[:3], replace(WIDE[3], pieces=["\x1b[2J", "\x07a", "b", "\x9b5m", "c"])]
    assert not re.search(r"[\x07\x1b\x9b]", shown(wicked, 160))


def test_the_legend_says_what_dola_changed():
    text = " ".join(shown(WIDE, 400).split())
    assert "Control: greedy, penalty 1.2." in text
    assert 'DoLa low diverges from the control at token 1: "首都は", not "The"; 5 of its 5 tokens are marked.' in text
    assert 'DoLa high diverges from the control at token 4: "Rome", not "Paris"; 2 of its 5 tokens are marked.' in text
    same = [*WIDE[:2], replace(WIDE[1], title="DoLa low, penalty 1.2")]
    assert "DoLa low changed nothing: it has the same tokens as the control." in shown(same, 400)
    short = [*WIDE[:2], answer("DoLa low, penalty 1.2", ["The", " capital"], [0, 0])]
    assert "DoLa low says the same as the control but ends elsewhere; 0 of its 2 tokens are marked." in shown(short, 400)
    ended = [*WIDE[:2], answer("DoLa low, penalty 1.2", ["The", ""], [0, 1], finish_reason="stop")]
    assert 'at token 2: the end, not "capital"' in shown(ended, 400)
    blank = [*WIDE[:2], answer("DoLa low, penalty 1.2", ["The", "\n", "x"], [0, 1, 1])]
    assert r'at token 2: "\n", not "capital"' in shown(blank, 400)
    blanks = [*WIDE[:1], replace(blank[2], title="control, penalty 1.2"), answer("DoLa low", ["The", "\n\n"], [0, 1])]
    assert r'at token 2: "\n\n", not "\n"' in shown(blanks, 400)
    wide = [*WIDE[:2], answer("DoLa low, penalty 1.2", ["The", "", "", "\u30bc"], [0, 1, 1, 1])]
    wide[2] = replace(wide[2], token_ids=[wide[1].token_ids[0], 1, 2, 3])
    assert 'at token 2: part of "\u30bc", not "capital"' in shown(wide, 400)


def test_the_description_of_columns(dola_command, folder):
    ended = dola_command("compare", "Hi", "-m", folder, "--max-new-tokens", 3)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("tokens/s") == 4
    assert "DoLa high" in ended.out


def test_another_method(dola_command, folder, toy):
    done = dola_command(
        "compare", "abc", "-m", folder, "--max-new-tokens", 2, "--no-chat", "--json", "--method", "toy", "--set", "rate=0.9"
    )
    assert (done.code, done.err) == (0, "")
    columns = json.loads(done.out)["columns"]
    assert [column.get("method") for column in columns] == [None, None, "toy"]
    assert columns[2]["title"].startswith("toy last:3")


def test_each_method_has_columns_of_its_own(dola_command, folder):
    ended = dola_command("compare", "The cat", "-m", folder, "--method", "dola", "--method", "sled", "--method", "confident",
                         "--max-new-tokens", 3, "--json")  # fmt: skip
    columns = json.loads(ended.out)["columns"]
    assert [each["title"].partition(",")[0] for each in columns] == [
        "greedy", "greedy", "DoLa low", "DoLa high", "sled all", "confident last:10",
    ]  # fmt: skip
    assert columns[4]["rate"] == 2.0


@each_method
def test_each_method(compared, folder, name):
    (*_, column) = compared(*on_command_line(METHODS[name]))["columns"]
    assert column["token_ids"] == greedy(folder, 1.2, METHODS[name])


def test_layers_are_for_each_method(dola_command, folder):
    asked = ["compare", "The cat", "-m", folder, "--max-new-tokens", 2, "--json", "--layers", "last:2", "--layers", "2,4"]
    ended = dola_command(*asked, "--method", "dola", "--method", "sled")
    titles = [each["title"].partition(", penalty")[0] for each in json.loads(ended.out)["columns"]]
    assert titles[2:] == ["DoLa last:2", "DoLa 2, 4", "sled last:2", "sled 2, 4"]


def test_layers_that_do_not_fit_a_method_are_refused(dola_command, folder):
    """DoLa's buckets have gaps, and Confident Decoding walks down layer by layer."""
    ended = dola_command("compare", "The cat", "-m", folder, "--method", "dola", "--method", "confident", "--layers", "high")
    assert (ended.code, ended.out) == (2, "")
    assert "--layers high does not fit the method 'confident'" in ended.err
    assert "last:10" in ended.err.partition("Hint: ")[2]


def test_set_is_for_one_method(dola_command, folder):
    ended = dola_command(
        "compare", "The cat", "-m", folder, "--method", "sled", "--set", "rate=1", "--max-new-tokens", 2, "--json"
    )
    assert json.loads(ended.out)["columns"][2]["rate"] == 1
    ended = dola_command("compare", "The cat", "-m", folder, "--method", "sled", "--method", "confident", "--set", "rate=1")
    assert ended.code == 2
    assert "--set does not say which of several methods it is for" in ended.err


def test_a_column_is_there_once(dola_command, folder):
    ended = dola_command("compare", "The cat", "-m", folder, "--method", "sled", "--method", "sled")
    assert ended.code == 2
    assert "Two columns are the same" in ended.err


@pytest.mark.skipif(find_spec("mlx") is not None, reason="MLX is installed: tests/apple run it")
def test_the_other_backend_is_refused_where_it_is_not_installed(dola_command, folder):
    same = ("compare", "The cat", "-m", folder)
    ended = dola_command(*same, "--backend", "mlx")
    assert (ended.code, ended.out) == (2, "")
    assert "needs mlx and mlx-lm" in ended.err
    assert "pip install" in ended.err.partition("Hint: ")[2]
    assert "'torch', 'mlx'" in dola_command(*same, "--backend", "jax").err

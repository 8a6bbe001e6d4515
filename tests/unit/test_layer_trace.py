"""`LayerTrace`: saving and reading, sentences, the DataFrame, and the pictures."""

import dataclasses
import io
import itertools
import json
import math
import re

import pytest
from command import tokenizer as byte_tokenizer
from rich.cells import cell_len
from rich.console import Console
from words import word_tokenizer

import dola
from dola import LayerTrace
from dola.errors import ConfigError, MissingExtraError, TraceError
from dola.installed.hints import install_line
from dola.plot import figure
from dola.plot.colours import CIVIDIS, colour, ink
from dola.plot.html import page
from dola.plot.terminal import fitting, render
from dola.text.token_text import token_texts, visible
from dola.tracing.data import PlausibleToken, TokenTrace
from dola.tracing.trace_file import read_traces

WICKED = "</script><script>alert(1)</script><!-- data -->"
TEXTS = {
    1: "The",
    2: " Seattle",
    3: " Olympia",
    4: "\n",
    5: " ",
    6: "\u202eabc",
    7: WICKED,
    8: "\x1b[2J",
    9: "日本",
    10: "\\xe6",
}


def member(token, premature, mature, middle=0.1):
    return PlausibleToken(token, round(math.log(mature / premature), 6), (0.0, premature, middle, mature))


def one(token, *, plausible, mature, layer=1, after=1, position=0, **changes):
    """A token of a model of 3 layers with the candidates 1 and 2."""
    top = tuple(((each, 0.5), (9, 0.25)) for each in (6, 7, 8, mature))
    made = TokenTrace(
        position=position,
        after=after,
        token=token,
        divergence=(0.69, 0.4, 0.2),
        layer=layer,
        lazy=len(plausible) == 1,
        mature_choice=mature,
        dola_choice=plausible[0].id,
        plausible_count=len(plausible),
        plausible=tuple(plausible),
        top=top,
        rank=None if token is None else (400, 30, 2, 1),
        probability=None if token is None else (0.0, 0.01, 0.2, 0.5),
    )
    return dataclasses.replace(made, **changes)


RISES = [member(3, 0.01, 0.35), member(2, 0.5, 0.4)]
TOKENS = (
    one(2, plausible=RISES, mature=2),
    one(4, plausible=[member(4, 0.1, 0.9)], mature=4, after=2),
    one(6, plausible=[member(2, 0.01, 0.5), member(6, 0.1, 0.2)], mature=2, after=4, divergence=(0.5, 0.0, 0.3), layer=2),
    one(None, plausible=[member(7, 0.1, 0.4), member(5, 0.2, 0.5)], mature=5, after=6),
)
SETTINGS = {"layers": (1, 2), "relative_top": 0.1, "divergence": "jsd", "final_norm": True, "lazy": True}


@pytest.fixture
def trace():
    return LayerTrace(
        model="tiny",
        prompt=f"The Seattle\n{WICKED}",
        mode="prompt",
        settings=SETTINGS,
        num_layers=3,
        candidates=(1, 2),
        prompt_tokens=4,
        tokens=TOKENS,
        texts=TEXTS,
    )


def test_saved_and_read_again(trace, llama):
    for each in (trace, dola.trace(llama, word_tokenizer(), [5, 17, 200], generate=3)):
        line = each.to_json()
        assert "\n" not in line
        assert json.loads(line)["schema"] == "dola.trace/1"
        assert LayerTrace.from_json(line) == each
    assert trace.config == dola.DoLaConfig([1, 2])
    assert trace.divergence == [[0.69, 0.69, 0.5, 0.69], [0.4, 0.4, 0.0, 0.4], [0.2, 0.2, 0.3, 0.2]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda line: line[: len(line) // 2], "not a whole JSON object"),
        (lambda line: "", "not a whole JSON object"),
        (lambda line: "[1]", "no trace: its schema is None"),
        (lambda line: '{"schema": "dola.generate/1"}', "no trace: its schema is 'dola.generate/1'"),
        (lambda line: '{"schema": 3}', "no trace: its schema is 3"),
        (lambda line: line.replace("dola.trace/1", "dola.trace/2"), "schema 'dola.trace/2', written by dola 0"),
        (lambda line: line.replace('"candidates"', '"nominees"'), "damaged: KeyError: 'candidates'"),
        (lambda line: line.replace("[0.69, 0.4, 0.2]", "[0.69, 0.4]", 1), "divergences of token 0 are not 3 numbers"),
        (lambda line: line.replace("[0.69, 0.4, 0.2]", "[0.69, NaN, 0.2]", 1), "divergences of token 0 are not 3 numbers"),
        (lambda line: line.replace("[0.69, 0.4, 0.2]", "[0.69, null, 0.2]", 1), "divergences of token 0 are not 3 numbers"),
        (lambda line: line.replace("[0.69, 0.4, 0.2]", f"[0.69, {10**400}, 0.2]", 1), "damaged: OverflowError"),
        (lambda line: line.replace('"mode": "prompt"', '"mode": "prompt", "mode": "dola"'), "the field 'mode' is listed twice"),
        (lambda line: line.replace('"relative_top": 0.1', '"relative_top": "x"'), "relative_top 'x'"),
        (lambda line: line.replace('"position": 0', '"position": 0.5'), "what is said of token 0"),
        (lambda line: f"{line} {line}", "This holds 2 JSON values"),
        (lambda line: "[" * 200_000, "nested too deeply"),
        (lambda line: line.replace('"mode": "prompt"', '"mode": "x"'), "mode 'x' is not known"),
        (lambda line: line.replace('"layer": 2', '"layer": 0'), "layer 0 of token 2 is not a candidate"),
        (lambda line: line.replace('"9": ', '"11": '), "a token of token 0 has no text"),
        (lambda line: line.replace('"mature_choice": 4', '"mature_choice": 2'), "the choice of token 1 is not plausible"),
        (lambda line: line.replace("[400, 30, 2, 1]", "null", 1), "what is said of token 0 is not whole"),
        (lambda line: line.replace('"tiny"', "7"), "a text is none"),
        (lambda line: line.replace('"tokens": [', '"tokens": 3, "x": ['), "damaged: TypeError"),
        (lambda line: json.dumps({**json.loads(line), "tokens": []}), "it has no tokens"),
    ],
)
def test_files_that_are_not_traces_are_refused(trace, spoil, message):
    with pytest.raises(TraceError, match=re.escape(message)) as refused:
        LayerTrace.from_json(spoil(trace.to_json()))
    assert refused.value.hint


def test_a_trace_with_what_is_not_a_number_is_strict_json(trace):
    odd = dataclasses.replace(trace.tokens[0], divergence=(float("nan"), float("inf"), 0.2))
    with pytest.warns(UserWarning, match="written as null"):
        line = dataclasses.replace(trace, tokens=(odd, *trace.tokens[1:])).to_json()
    assert json.loads(line, parse_constant=pytest.fail)["tokens"][0]["divergence"] == [None, None, 0.2]


def test_traces_of_a_file_that_jq_has_spread_over_lines(trace, tmp_path):
    path = tmp_path / "traces.json"
    path.write_text("\n\n".join(json.dumps(json.loads(trace.to_json()), indent=2) for _ in range(2)), encoding="utf-8-sig")
    assert read_traces(path, "it") == [trace, trace]
    path.write_text(f"{trace.to_json()}\n{trace.to_json().replace('dola.trace/1', 'dola.trace/2')}\n")
    with pytest.raises(TraceError, match=r"it, line 2: This trace has schema 'dola.trace/2'"):
        read_traces(path, "it")
    path.write_text(f"{trace.to_json()}\n{trace.to_json()[:-9]}")
    with pytest.raises(TraceError, match=r"it, line 2: This is not a whole JSON object(.|\n)*was it cut off"):
        read_traces(path, "it")
    path.write_text(f"{trace.to_json()}}}")
    with pytest.raises(TraceError) as refused:
        read_traces(path, "it")
    assert "cut off" not in refused.value.hint


def test_sentences(trace):
    assert trace.explain(0) == (
        'After "The" the last layer puts " Seattle" first (40.0%; 50.0% in layer 1), but " Olympia" gained most over that '
        'layer (from 1.0% to 35.0%), so DoLa chooses it; the text continues with " Seattle", the last layer\'s first choice.'
    )
    assert trace.explain(1) == (
        'After " Seattle" the last layer puts "\\n" first (90.0%) and no other token is plausible, so no earlier layer can '
        "change the choice."
    )
    assert "it gained most over layer 2 as well (10.0% there), so DoLa agrees; the text continues" in trace.explain(2)
    assert 'continues with "\\u202eabc", rank 1 in' in trace.explain(2)
    assert trace.explain(-1).endswith("so DoLa chooses it.")
    generated = dataclasses.replace(trace, mode="dola")
    assert "the repetition penalty or another rule of generation made it" in generated.explain(0)
    greedy = dataclasses.replace(trace, mode="greedy").explain(0)
    assert "so DoLa would choose it" in greedy
    assert "made it" not in greedy
    with pytest.raises(IndexError):
        trace.explain(4)
    assert trace.telling() in (0, 3)


def test_texts_of_single_tokens():
    made = byte_tokenizer()
    ids = made("a 😀\n 日本")["input_ids"]
    texts = token_texts(made, ids)
    joined = "".join(texts[token] for token in ids)
    assert joined.startswith("a")
    assert re.search(r"(\\x[0-9a-f]{2}){2}", joined)
    assert "\ufffd" not in joined
    assert "\n" in joined
    assert token_texts(made, [100_000]) == {100_000: "<token 100000>"}
    assert token_texts(made, made.all_special_ids)[made.eos_token_id] == "</s>"


class SentencePiece:
    """What Llama 2's tokenizer does: the space of a first word is lost when it is decoded alone."""

    def decode(self, ids):
        return {1: "word", 2: "", 3: "\ufffd"}[ids[0]]

    def convert_ids_to_tokens(self, token):
        return {1: "▁word", 2: "<unused>", 3: "<0xE6>"}[token]


def test_texts_of_sentencepiece_tokens():
    assert token_texts(SentencePiece(), [1, 2, 3]) == {1: " word", 2: "<unused>", 3: "<0xE6>"}


def test_what_is_invisible_is_shown():
    assert visible("a b\n\t\r") == r"a b\n\t\r"
    assert visible("\x1b[2J\x00\x9b") == r"\x1b[2J\x00\x9b"
    assert visible("\u202e\u200b\u00ad\u2028\u00a0") == r"\u202e\u200b\xad\u2028\xa0"
    assert visible("\u0301") == "\u25cc\u0301"
    assert visible("日本 é 😀") == "日本 é 😀"


def test_a_data_frame(trace):
    pytest.importorskip("pandas")
    frame = trace.to_pandas()
    assert len(frame) == 4 * 4
    row = frame[(frame["index"] == 0) & frame["chosen"]].iloc[0]
    assert (row["layer"], row["divergence"], row["rank"], row["top_token"]) == (1, 0.4, 30, WICKED)
    assert frame[frame["layer"] == 3]["divergence"].eq(0).all()


def test_a_data_frame_without_pandas(trace, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line("plot"))):
        trace.to_pandas()


# sRGB as people without red or green cones see it (Machado, Oliveira and Fernandes 2009, severity 1), on linear values.
DEFICIENCIES = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("seen", DEFICIENCIES.values(), ids=DEFICIENCIES)
def test_the_scale_grows_brighter_for_everybody(seen):
    """What is twice as far along the scale is brighter to people who see fewer colors, too: lightness L* in even steps."""

    def lightness(rgb):
        linear = [(c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 10 else c / 255 / 12.92 for c in rgb]
        red, green, blue = (min(max(sum(a * b for a, b in zip(row, linear, strict=True)), 0), 1) for row in seen)
        return 116 * max(0.2126 * red + 0.7152 * green + 0.0722 * blue, 0.009) ** (1 / 3) - 16

    steps = [lightness(colour(step / 10)) for step in range(11)]
    assert all(4 < after - before < 14 for before, after in itertools.pairwise(steps)), steps


def test_colours_run_from_end_to_end():
    assert colour(-1) == colour(0) == CIVIDIS[0]
    assert colour(1) == colour(2) == CIVIDIS[-1]
    brightness = [sum(colour(step / 50)) for step in range(51)]
    assert brightness == sorted(brightness)
    assert (ink(CIVIDIS[0]), ink(CIVIDIS[-1])) == ((255, 255, 255), (0, 0, 0))


def shown(trace, width=80, **settings):
    written = io.StringIO()
    render(Console(file=written, width=width, highlight=False, **settings), trace)
    return written.getvalue()


@pytest.mark.parametrize(("room", "count"), [(100, 30), (30, 30), (29, 29), (20, 20), (10, 10), (9, 9), (0, 9)])
def test_layers_that_fit_a_terminal(room, count):
    """Candidates are never left out; the others are thinned evenly."""
    needed = {0, *range(15, 30, 2)}
    found = fitting(range(29, -1, -1), needed, room)
    assert len(found) == count
    assert sorted(found, reverse=True) == found
    assert needed <= set(found)
    others = sorted(set(found) - needed)
    gaps = [after - before for before, after in itertools.pairwise(others)]
    assert not gaps or max(gaps) - min(gaps) <= 4


def test_a_low_terminal_gets_fewer_layers_and_says_so(trace):
    deep = dataclasses.replace(
        trace,
        num_layers=40,
        tokens=tuple(dataclasses.replace(token, divergence=(0.5,) * 40) for token in trace.tokens),
    )
    text = shown(deep, force_terminal=True, no_color=True, height=24)
    assert "Left out, so that the others fit into 24 lines: 33 of 40 layers. --html shows all." in " ".join(text.split())
    assert sum(bool(re.match(r"\W*\d+ [* ]", line)) for line in text.splitlines()) == 7
    assert "Left out" not in shown(deep, height=24)


def test_layers_are_counted_where_there_is_a_choice(trace):
    open_, settled = (dataclasses.replace(trace.tokens[0], plausible_count=count) for count in (2, 1))
    tokens = [*[dataclasses.replace(open_, layer=2)] * 7, dataclasses.replace(open_, layer=1), settled]
    many = dataclasses.replace(trace, tokens=tuple(tokens))
    assert many.uses() == {2: 7, 1: 1}
    assert many.uses(settled=True) == {settled.layer: 1}
    assert "Where there is a choice, layer 2 was used in 7 columns, layer 1 in 1." in " ".join(shown(many).split())
    unmarked = dataclasses.replace(many, tokens=(*tokens, dataclasses.replace(open_, layer=None)))
    assert "layer 1 in 1, none in 1." in " ".join(shown(unmarked).split())
    low, high = (shown(many, force_terminal=True, no_color=True, height=lines) for lines in (16, 60))
    assert ("Where there is" in low, "Where there is" in high) == (False, True)
    assert "Where there is a choice" not in shown(dataclasses.replace(trace, tokens=tuple(tokens[:7])))


def test_on_a_terminal_without_colour(trace):
    text = shown(trace)
    assert not re.search(r"[\x1b\x00\u202e]", text)
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if re.match(r" +\d", line)}
    assert rows["2"] == ["*", "0.20", "0.20", "[0.30]", "0.20"]
    assert rows["1"] == ["*", "[0.40]", "[0.40]", "0.00", "[0.40]"]
    assert rows["0"] == ["0.69", "0.69", "0.50", "0.69"]
    assert re.search(r"^last +Seattle \\n +Seattle \" \"", text, re.MULTILINE)
    assert re.search(r"^DoLa +Olympia = +=", text, re.MULTILINE)
    assert "Token 1. After" in text
    assert "In 1 of 4 columns just one token is plausible, so no earlier layer can change" in " ".join(text.split())


def test_on_a_terminal_in_colour(trace):
    text = shown(trace, force_terminal=True, color_system="truecolor", no_color=False)
    assert "48;2;" in text
    assert "[0.40]" in text
    bare = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "\x1b" not in bare


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_blocks_of_tokens_fit_the_width(trace, width):
    many = dataclasses.replace(trace, tokens=TOKENS * 20)
    lines = shown(many, width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    per_block = max(1, (width - 7) // 8)
    assert sum(line.startswith("after") for line in lines) == -(-80 // per_block)
    assert "more tokens differ" in shown(many, 160)


def test_the_old_formula_is_shown_relative_to_the_largest(trace):
    tokens = tuple(dataclasses.replace(token, divergence=(2e-6, 1e-6, 5e-7)) for token in TOKENS)
    old = dataclasses.replace(trace, settings={**SETTINGS, "divergence": "reference"}, tokens=tokens)
    text = shown(old)
    assert "100%" in text
    assert "[50%]" in text
    assert "in percent of the largest one here" in " ".join(text.split())


def test_the_page_is_self_contained_and_safe(trace):
    made = page([trace, trace])
    assert "<!-- " not in re.sub(r'<script type="application/json".*?</script>', "", made, flags=re.DOTALL)
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", made)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', made, re.DOTALL)[1]
    assert "<" not in data
    found = json.loads(data)["traces"][0]
    assert found["texts"]["7"] == WICKED
    assert found["texts"]["6"] == r"\u202eabc"
    assert found["texts"]["8"] == r"\x1b[2J"
    assert found["explanations"] == [trace.explain(index) for index in range(4)]
    assert made.count("<script") == 2
    assert "alert(1)</script>" not in made


def test_a_notebook_shows_the_page_in_a_frame(trace):
    made = trace._repr_html_()
    assert made.startswith("<iframe")
    assert 'sandbox="allow-scripts"' in made
    assert made.count("<") == 2  # the frame's own: what it holds is escaped


@pytest.fixture
def axes():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_the_heatmap(trace, axes):
    figure.heatmap(axes, trace)
    assert axes.images[0].get_array().tolist() == trace.divergence
    assert [(box.get_x(), box.get_y()) for box in axes.patches] == [(-0.5, 0.5), (0.5, 0.5), (1.5, 1.5), (2.5, 0.5)]
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["Seattle", r"\n"]


def test_probabilities_over_the_layers(trace, axes):
    figure.probabilities(axes, trace, 0)
    labels = [line.get_label() for line in axes.lines]
    assert labels == ['" Olympia" (DoLa)', '" Seattle" (last layer, text)', "premature layer 1"]
    assert list(axes.lines[0].get_ydata()) == [0.01, 0.01, 0.1, 0.35]  # of the embedding, below all others, the floor
    low, high = axes.get_ylim()
    assert 0.001 < low < 0.01 < 1 < high
    axes.clear()
    figure.probabilities(axes, dataclasses.replace(trace, candidates=(0, 1, 2)), 0)
    assert axes.lines[0].get_ydata()[0] == figure.FLOOR
    axes.clear()
    follows = dataclasses.replace(trace, tokens=(dataclasses.replace(TOKENS[0], token=9),))
    figure.probabilities(axes, follows)
    assert [line.get_label() for line in axes.lines][2] == '"日本" (text)'
    assert list(axes.lines[2].get_ydata())[1:] == [0.01, 0.2, 0.5]
    axes.clear()
    figure.probabilities(axes, follows, -1, [9, 2])
    assert [line.get_label() for line in axes.lines][:2] == ['"日本" (text)', '" Seattle" (last layer)']
    with pytest.raises(ConfigError, match='The trace lacks the probabilities of " " at token 0'):
        figure.probabilities(axes, follows, 0, [5])


def test_the_layer_histogram(trace, axes):
    figure.layer_histogram(axes, trace)
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[2, 1], [1, 0]]


def test_a_figure_is_written_whatever_the_tokens_are(trace, tmp_path):
    pytest.importorskip("matplotlib")
    odd = {**TEXTS, 2: "$x^$", 3: "\u0e01\u0e33"}
    many = dataclasses.replace(trace, tokens=TOKENS * 8, texts=odd)
    figure.save([many, trace], tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()

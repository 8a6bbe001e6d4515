"""The words of a trace fit its method: DoLa, contrast and premature layer appear only for DoLa."""

import json
from io import StringIO

import pytest
from families import tiny
from rich.console import Console
from toy_method import ToyConfig
from words import word_tokenizer

import dola
from dola.errors import TraceError
from dola.plot import figure, html, terminal
from dola.tracing.data import LayerTrace

OTHERS = {
    "SLED": dola.SLEDConfig(layers="all"),
    "DeLTa": dola.DeLTaConfig(layers="all"),
    "Confident Decoding": dola.ConfidentConfig(layers="last:3"),
    "toy": ToyConfig(layers="last:3"),
}
PROMPT = [5, 17, 200, 33, 70]


@pytest.fixture(scope="module")
def loaded():
    return tiny(), word_tokenizer()


@pytest.fixture(params=OTHERS)
def name(request):
    return request.param


@pytest.fixture
def trace(loaded, toy, name):
    return dola.trace(*loaded, PROMPT, OTHERS[name], generate=3)


def printed(trace):
    console = Console(file=StringIO(), width=100)
    terminal.render(console, trace)
    return console.file.getvalue()


def texts_of(figure):
    """All texts that a figure shows."""
    from matplotlib.text import Text

    return "\n".join(each.get_text() for each in figure.findobj(Text))


def test_the_terminal(trace, name):
    said = " ".join(printed(trace).split())
    assert f"tokens that {name} chose" in said
    assert f"chosen: {name}'s first choice" in said
    assert not [word for word in ("DoLa", "dola", "contrast", "premature") if word in said]
    assert (f"[ ] the layer that {name} used" in said) == any(token.layer is not None for token in trace.tokens)


def test_sentences(trace, name):
    said = [trace.explain(index) for index in range(len(trace.tokens))]
    assert all(name in each or "no other token is plausible" in each for each in said)
    assert not [each for each in said if "DoLa" in each or "contrast" in each]


def test_the_page_has_the_words_of_the_method(trace, name):
    [drawn] = html.page_data([trace])["traces"]
    assert drawn["words"] == {"method": name, "layer": f"layer that {name} used", "dola": False}
    shown = [drawn["title"], *drawn["explanations"]]
    assert not [each for each in shown if "DoLa" in each or "premature" in each]


def test_the_figure(trace, name):
    pyplot = pytest.importorskip("matplotlib.figure")
    whole = pyplot.Figure()
    left, right = whole.subplots(1, 2)
    figure.probabilities(left, trace)
    figure.layer_histogram(right, trace)
    said = texts_of(whole)
    assert "DoLa" not in said
    assert "premature" not in said
    assert "contrasted" not in said
    assert (f"{name} used no single layer" in said) == all(token.layer is None for token in trace.tokens)


def test_a_layer_is_named_only_where_one_alone_had_a_weight(loaded, toy):
    for name, config in OTHERS.items():
        layers = [token.layer for token in dola.trace(*loaded, PROMPT, config).tokens]
        logs = [each.log_q for token in dola.trace(*loaded, PROMPT, config).tokens for each in token.plausible]
        if name == "Confident Decoding":  # None where the walk ends at once
            assert set(layers) <= {None, 3, 4, 5}
        elif name in ("DeLTa", "toy"):
            assert set(layers) == {None}
            assert set(logs) == {None}
    static = dola.trace(*loaded, PROMPT, dola.DeLTaConfig(layers=[2]))
    assert {token.layer for token in static.tokens} == {2}
    assert all(token.layer is not None for token in dola.trace(*loaded, PROMPT, "high").tokens)


def test_scores_count_the_same_layers_as_traces(loaded, toy):
    found = dola.score(*loaded, [PROMPT], [[PROMPT]], OTHERS, progress=False)
    for name, config in OTHERS.items():
        read = dola.trace(*loaded, [*PROMPT, *PROMPT], config).tokens[len(PROMPT) - 1 : -1]
        layers = [token.layer for token in read if token.layer is not None]
        assert found.layers[name] == [{layer: layers.count(layer) for layer in sorted(set(layers))}]


def test_files_keep_that_there_is_no_layer_and_dolas_must_have_one(loaded, toy):
    trace = dola.trace(*loaded, PROMPT, OTHERS["toy"])
    assert LayerTrace.from_json(trace.to_json()) == trace
    found = json.loads(dola.trace(*loaded, PROMPT, "high").to_json())
    found["tokens"][1]["layer"] = None
    with pytest.raises(TraceError, match="layer None of token 1 is not a candidate"):
        LayerTrace.from_value(found)


def test_a_method_that_is_not_installed_here_has_the_name_of_its_settings(loaded, tmp_path):
    trace = dola.trace(*loaded, PROMPT, OTHERS["toy"])
    assert trace.method_name == "toy"
    assert "toy used no single layer" not in printed(trace)
    assert "chosen: toy's first choice" in printed(trace)

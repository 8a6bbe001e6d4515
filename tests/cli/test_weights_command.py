"""Folders whose weights are not what config.json says: every verb refuses them in two lines, and doctor reports them."""

import json

import checkpoints
import pytest
import torch
from command import dola_process
from samples import factor, truthfulqa

from dola.cli import options
from dola.errors import ModelFileError
from dola.ui.models import Models

VERBS = [
    ["generate", "Hi", "-m", "MODEL"],
    ["generate", "Hi", "-m", "MODEL", "--layers", "off"],
    ["generate", "Hi", "-m", "MODEL", "--json"],
    ["compare", "Hi", "-m", "MODEL"],
    ["trace", "Hi there", "-m", "MODEL"],
    ["eval", "factor-news", "--data", "DATA", "-m", "MODEL"],
    ["tune", "factor-news", "--data", "DATA", "-m", "MODEL"],
    ["bench", "-m", "MODEL", "--new-tokens", "4", "--repeats", "1"],
]


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    return checkpoints.save(tmp_path_factory.mktemp("headless"), checkpoints.without("lm_head"))


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_every_verb_refuses_random_weights(dola_command, headless, tmp_path, arguments):
    data = factor(tmp_path / "news_factor.csv", 12)
    known = {"MODEL": headless, "DATA": data}
    ended = dola_command(*(known.get(each, each) for each in arguments))
    assert (ended.code, ended.out) == (2, "")
    said = ended.err[ended.err.index("dola: ") :].splitlines()
    assert len(said) == 2
    assert "lacks 1 of the 57 weights of LlamaForCausalLM, and random numbers would take their place: lm_head.weight" in said[0]
    assert said[1].startswith("Hint: save the whole model again")
    assert "Traceback" not in ended.err


def test_the_judge_of_an_evaluation_too(dola_command, folder, headless, tmp_path):
    data = truthfulqa(tmp_path / "tqa.csv", 4)
    ended = dola_command("eval", "truthfulqa-open", "--data", data, "-m", folder, "--judge", headless)
    assert (ended.code, ended.out) == (2, "")
    assert f"{str(headless)!r} lacks 1 of the 57 weights" in ended.err


def test_the_page_refuses_them_when_another_model_is_chosen(folder, headless):
    """`dola ui` loads models by the same function, whose errors the page shows."""
    models = Models(lambda name: options.load_model(name, dtype=None, device=None, trust_remote_code=False))
    assert models.get(str(folder)).model.config.num_hidden_layers == 6
    with pytest.raises(ModelFileError, match="lacks 1 of the 57 weights"):
        models.get(str(headless))
    assert not models.has(str(headless))


def test_unused_weights_are_named_on_stderr(dola_command, folder, tmp_path):
    more = checkpoints.save(tmp_path, lambda weights: {**weights, "value_head.weight": torch.ones(1)})
    plain = dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", "4")
    ended = dola_command("generate", "Hi", "-m", more, "--max-new-tokens", "4")
    assert (ended.code, ended.out) == (0, plain.out)
    assert "holds 1 weight that LlamaForCausalLM cannot use: value_head.weight" in ended.err
    assert "no place" not in plain.err


def test_warnings_of_transformers_reach_stderr(dola_command, tmp_path):
    ended = dola_command("generate", "Hi", "-m", checkpoints.save(tmp_path, tie_word_embeddings=True), "--max-new-tokens", "2")
    assert ended.code == 0
    assert "transformers warns: The tied weights mapping and config for this model specifies" in ended.err


@pytest.mark.parametrize(
    ("edit", "config", "words"),
    [
        (checkpoints.without("lm_head"), {}, "lm_head.weight. The head was not saved"),
        (checkpoints.renamed("module."), {}, "begin with 'module.'"),
        (dict, {"vocab_size": 500}, "401 x 32 in the file"),
        (dict, {"num_hidden_layers": 4}, "model.layers.4, model.layers.5"),
    ],
)
def test_doctor_reports_the_weights(dola_command, tmp_path, edit, config, words):
    model = checkpoints.save(tmp_path, edit, **config)
    ended = dola_command("doctor", model, "--json")
    assert ended.code == 1
    checks = json.loads(ended.out)["model"]["checks"]
    assert (checks[0]["name"], checks[0]["status"]) == ("weights", "failed")
    assert words in checks[0]["text"]
    page = dola_command("doctor", model)
    assert page.code == 1
    assert "failed: " in page.out
    assert "Do not rely on DoLa with this model yet" in page.out


def test_doctor_names_unused_weights(dola_command, tmp_path):
    model = checkpoints.save(tmp_path, lambda weights: {**weights, "value_head.weight": torch.ones(1)})
    ended = dola_command("doctor", model, "--json")
    assert ended.code == 0
    check = json.loads(ended.out)["model"]["checks"][0]
    assert (check["name"], check["status"]) == ("weights", "warning")
    assert "value_head.weight" in check["text"]


def test_an_environment_variable_that_a_library_cannot_read():
    """Such a library fails while it is imported, so this needs a process of its own."""
    done = dola_process("generate", "Hi", env={"HF_HUB_DOWNLOAD_TIMEOUT": "soon"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "dola: A library cannot be imported: invalid literal for int() with base 10: 'soon'" in done.stderr
    assert "Hint: unset HF_HUB_DOWNLOAD_TIMEOUT" in done.stderr
    assert "Traceback" not in done.stderr

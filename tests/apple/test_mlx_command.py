"""`dola generate|compare|trace --backend mlx`: the output of `--backend torch` for the same model, and errors in its form."""

from __future__ import annotations

import json
import shutil

import pytest
from command import fields

METHODS = [[], ["--layers", "1,2"], ["--layers", "off"], ["--reference"]]
METHODS += [["--strength", "0.5", "--scores", "distribution"], ["--method", "sled"]]
METHODS += [["--method", "confident", "--layers", "all"], ["--method", "delta", "--layers", "all"]]
PROMPT = "The quick brown fox"


@pytest.fixture
def both(dola_command, folder):
    """The JSON of a verb with each backend."""

    def run(*arguments):
        found = []
        for backend in ("torch", "mlx"):
            ended = dola_command(*arguments, "--model", folder, "--backend", backend, "--json")
            assert (ended.code, ended.err) == (0, ""), ended.err
            found.append([json.loads(line) for line in ended.out.splitlines()])
        return found

    return run


@pytest.mark.parametrize("method", METHODS, ids=" ".join)
@pytest.mark.parametrize("penalty", ["1", "1.2"])
def test_generate(both, method, penalty):
    (torch,), (mlx,) = both("generate", PROMPT, "--max-new-tokens", 24, "--repetition-penalty", penalty, *method)
    assert mlx["token_ids"] == torch["token_ids"]
    assert fields(mlx) == fields(torch)
    assert mlx["settings"] == {**torch["settings"], "backend": "mlx"}
    same = ("text", "prompt_tokens", "finish_reason", "prompt")
    assert {name: mlx[name] for name in same} == {name: torch[name] for name in same}


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_file_in_batches(both, tmp_path, size):
    """Rows of different lengths, some of which end before others, are those of each prompt alone."""
    path = tmp_path / "prompts.txt"
    path.write_text("The quick brown fox\nA\nOnce upon a time there was\n")
    torch, mlx = both("generate", "--file", path, "--batch-size", size, "--max-new-tokens", 12)
    assert [each["token_ids"] for each in mlx] == [each["token_ids"] for each in torch]
    assert [each["index"] for each in mlx] == [0, 1, 2]


def test_an_output_file_belongs_to_one_backend(dola_command, folder, tmp_path):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("A\nB\n")
    options = ["generate", "--file", prompts, "--output", output, "-m", folder, "--max-new-tokens", 4]
    assert dola_command(*options, "--backend", "mlx").code == 0
    ended = dola_command(*options)
    assert ended.code == 2
    assert 'it was made with backend = "mlx", not "torch"' in ended.err


def test_sampling_repeats_with_its_seed_and_follows_its_options(both, dola_command, folder):
    options = ["generate", PROMPT, "--sample", "--max-new-tokens", 30, "--temperature", "1.5"]
    _, (first,) = both(*options, "--seed", 3)
    _, (again,) = both(*options, "--seed", 3)
    _, (other,) = both(*options, "--seed", 4)
    assert first["token_ids"] == again["token_ids"] != other["token_ids"]
    assert first["settings"]["temperature"] == 1.5
    (greedy,), (cold,) = both("generate", PROMPT, "--sample", "--max-new-tokens", 30, "--seed", 3, "--top-p", "0.0001")
    assert cold["token_ids"] == greedy["token_ids"]  # only the likeliest token is left


def test_compare(both):
    (torch,), (mlx,) = both("compare", PROMPT, "--max-new-tokens", 10, "--method", "dola", "--method", "sled")
    assert fields(mlx) == fields(torch)
    for ours, theirs in zip(mlx["columns"], torch["columns"], strict=True):
        for name in ("title", "layers", "candidate_layers", "text", "token_ids", "pieces", "differs", "finish_reason"):
            assert ours[name] == theirs[name]


@pytest.mark.parametrize("method", [*METHODS[:2], *METHODS[3:]], ids=" ".join)
@pytest.mark.parametrize("how", [[], ["--generate", "5"]], ids=["prompt", "generated"])
def test_trace(both, method, how):
    (torch,), (mlx,) = both("trace", PROMPT, *how, *method)
    assert fields(mlx) == fields(torch)
    assert close(mlx["tokens"], torch["tokens"])
    for name in ("prompt", "mode", "num_layers", "candidates", "prompt_tokens", "settings"):
        assert mlx[name] == torch[name]


def close(ours, theirs):
    """Equal, and numbers equal up to float32's rounding."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == (pytest.approx(theirs, rel=2e-3, abs=2e-5) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "confident", "--set", "probability=0.5"], "probability=0.5 draws by position"),
        (["--layers", "9"], "layer 9 in --layers 9 does not exist"),
        (["--device", "cuda"], "MLX has no device 'cuda' on this machine. Available: "),
        (["--lens", "none.safetensors"], "does not exist"),
        (["--model", "smollm2"], "'smollm2' is a GGUF file, which mlx-lm does not read"),
        (["--model", "/nowhere"], "cannot be loaded with MLX"),
        (["--max-new-tokens", "100000"], "together the model allows"),
    ],
)
def test_mistakes(dola_command, folder, options, words):
    ended = dola_command("generate", PROMPT, "-m", folder, "--backend", "mlx", *options)
    assert ended.code == 2
    assert words in ended.err
    assert "Hint: " in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_a_missing_extra(dola_command, folder, monkeypatch):
    monkeypatch.setattr("dola.mlx.need.find_spec", lambda name: None)
    ended = dola_command("compare", PROMPT, "-m", folder, "--backend", "mlx")
    assert ended.code == 2
    assert "Decoding with MLX needs mlx and mlx-lm, not installed here." in ended.err
    assert "[mlx]" in ended.err


@pytest.fixture
def configured(folder, tmp_path):
    """The model with fields in its generation config."""

    def make(**fields):
        made = shutil.copytree(folder, tmp_path / "configured")
        path = made / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return made

    return make


def test_layers_of_the_generation_config(dola_command, configured):
    ended = dola_command("generate", PROMPT, "-m", configured(dola_layers="low"), "--backend", "mlx", "--json")
    assert ended.code == 0
    assert "dola_layers='low' of the model's generation config is used" in ended.err
    assert json.loads(ended.out)["settings"]["layers"] == "low"


@pytest.mark.parametrize("field", [{"suppress_tokens": [4]}, {"min_new_tokens": 3}, {"stop_strings": ["x"]}])
def test_rules_that_mlx_lacks_are_refused_by_name(dola_command, configured, field):
    ended = dola_command("generate", PROMPT, "-m", configured(**field), "--backend", "mlx")
    assert ended.code == 2
    assert f"sets {next(iter(field))}=" in ended.err
    assert "which is not done with MLX" in ended.err


def test_what_is_not_used_is_reported(dola_command, configured):
    model = configured(num_beams=4, repetition_penalty=1.5, cache_implementation="hybrid", surprise=1)
    ended = dola_command("generate", PROMPT, "-m", model, "--backend", "mlx")
    assert ended.code == 0
    for word in ("num_beams=4", "repetition_penalty=1.5", "cache_implementation='hybrid'", "surprise=1"):
        assert ended.err.count(word) == 1


def test_text_on_a_terminal_is_that_of_a_pipe(dola_command, folder, monkeypatch):
    options = ["generate", PROMPT, "-m", folder, "--backend", "mlx", "--max-new-tokens", 40]
    whole = dola_command(*options)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    ended = dola_command(*options)
    assert ended.code == whole.code == 0
    assert ended.out == whole.out

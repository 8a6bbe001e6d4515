"""What SECURITY.md promises of files that others made: their code does not run, and nothing in our sources could run it."""

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch
from command import save
from safetensors.torch import load_file

import dola
from dola.errors import ModelFileError

SOURCES = sorted((Path(__file__).parents[2] / "src" / "dola").rglob("*.py"))


@pytest.fixture
def pickled(tmp_path):
    """A model whose weights are a pytorch_model.bin, and a folder that appears when a pickle's code runs."""
    folder = save(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder, tmp_path / "code-has-run"


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_the_pickle_of_this_test_would_run_code(pickled):
    _, mark = pickled
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.is_dir()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))], ids=["zip", "raw"])
def test_code_in_a_pickle_of_weights_does_not_run(pickled, write):
    folder, mark = pickled
    write({"lm_head.weight": Malicious(mark)}, folder / "pytorch_model.bin")
    words = r"a pickle that torch cannot read or that holds more than tensors(.|\n)*safetensors"
    with pytest.raises(ModelFileError, match=words) as caught:
        dola.load(str(folder))
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the check off
    assert not mark.exists()


def test_a_pickle_of_tensors_alone_is_read(pickled):
    folder, _ = pickled
    assert dola.load(str(folder)).model.config.model_type == "llama"


def test_safetensors_come_first(pickled, tmp_path):
    folder, mark = pickled
    save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(folder / "model.safetensors")
    torch.save(Malicious(mark), folder / "pytorch_model.bin")
    dola.load(str(folder))
    assert not mark.exists()


def _calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_runs_what_it_reads(path):
    for called, keywords in _calls(path):
        assert called not in ("eval", "exec", "os.system", "os.popen", "yaml.load", "joblib.load"), called
        assert called != "torch.load" or keywords.get("weights_only") == "True"
        assert not called.startswith(("pickle.", "marshal.", "shelve.", "dill.")), called
        assert keywords.get("shell") != "True", called
        assert keywords.get("trust_remote_code") != "True", called

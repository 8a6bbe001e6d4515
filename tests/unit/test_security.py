"""What SECURITY.md promises about files from others: their code does not run, and our sources cannot run it."""

import inspect
import os
import pickle
from pathlib import Path

import pytest
import torch
from command import save
from risky import imports, risks
from safetensors.torch import load_file

import dola
from dola.cli import serve, ui
from dola.errors import ConfigError, ModelFileError
from dola.serving.settings import Served
from dola.ui import server

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dola"
SOURCES = sorted(path for folder in (PACKAGE, ROOT / "hub", ROOT / "examples") for path in folder.rglob("*.py"))


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


RISKY = (
    "import pickle; pickle.loads(b'')",
    "import pickle as p; p.load(file)",
    "from pickle import loads",
    "from pickle import Unpickler as Reader",
    "import pickle; read = pickle.loads",
    "from _pickle import loads",
    "import marshal; marshal.loads(b'')",
    "import shelve; shelve.open('x')",
    "import dill, cloudpickle; cloudpickle.loads(b'')",
    "from joblib import load",
    "import yaml; yaml.load(text)",
    "from yaml import unsafe_load",
    "import yaml; yaml.load(text, Loader=yaml.SafeLoader)",  # safe_load says it in a word
    "eval('1')",
    "exec('1')",
    "compile(text, 'x', 'exec')",
    "__import__(name)",
    "import builtins; builtins.eval('1')",
    "import os; os.system('ls')",
    "from os import popen",
    "import subprocess; subprocess.run('ls', shell=True)",
    "import torch; torch.load(path)",
    "import torch; torch.load(path, weights_only=False)",
    "import torch; torch.load(path, weights_only=flag)",
    "from torch import load as read; read(path)",
    "import torch; read = torch.load",
    "import torch; torch.hub.load('owner/name', 'model')",
    "import torch; torch.jit.load(path)",
    "import numpy as np; np.load(path, allow_pickle=True)",
    "import numpy as np; np.load(path, allow_pickle=flag)",
    "from numpy import load; load(path, allow_pickle=True)",
    "import pandas as pd; pd.read_pickle(path)",
    "import runpy; runpy.run_path(path)",
    "import shutil; shutil.unpack_archive(path)",
    "import tarfile; tarfile.open(path).extractall()",
    "import ssl; ssl._create_unverified_context()",
    "import tempfile; tempfile.mktemp()",
    "load(name, trust_remote_code=True)",
    "requests.get(url, verify=False)",
    "def serve(host='0.0.0.0'): ...",
    "bind(('::', 80))",
)
HARMLESS = (
    "import pickle\ntry: ...\nexcept pickle.UnpicklingError: ...",
    "import torch; torch.load(path, map_location='cpu', weights_only=True)",
    "import numpy as np; np.load(path); np.load(path, allow_pickle=False)",
    "import yaml; yaml.safe_load(text)",
    "import re; re.compile('x')",
    "import torch; torch.compile(model)",
    "model.eval()",
    "def measure(compile=False): return compile",
    "import mlx.core as mx; mx.eval(tensors)",
    "import ast; ast.literal_eval('[1]')",
    "import subprocess; subprocess.run(['ls'])",
    "load(name, trust_remote_code=False)",
    "help = 'Address; 0.0.0.0 means all of them'",
)


@pytest.mark.parametrize("source", RISKY)
def test_what_runs_what_it_reads_is_found(source):
    assert risks(source)


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_harmless_is_not(source):
    assert risks(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_it_reads(path):
    found = risks(path.read_text("utf-8"))
    if path == ROOT / "hub" / "space" / "app.py":  # a container, whose proxy reaches no loopback address
        assert found.pop() == "listens on '0.0.0.0'"
    assert found == []


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        # returns free memory to the system; calls and loads the kernels
        ("ctypes", {"bench/memory.py", "native/__init__.py", "native/build.py"}),
        ("subprocess", {"bench/memory.py", "loading/embedded.py", "native/build.py"}),  # itself; pip; the C compiler
        ("socket", {"ui/server.py"}),
    ],
)
def test_few_modules_start_programs_or_listen(module, allowed):
    """The list is short, so that it can be read. A new line needs a reason."""
    found = {path for path in PACKAGE.rglob("*.py") if module in imports(path.read_text("utf-8"))}
    assert {path.relative_to(PACKAGE).as_posix() for path in found} == allowed


def test_the_page_listens_on_this_machine_by_default():
    assert inspect.signature(ui.command).parameters["host"].default == "127.0.0.1"
    with server.bind("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_request_names_no_file():
    """A server reads one lens, when it starts."""
    engine = Served.of({"layers": [1, 2]}, num_layers=4, tied=False)
    assert engine.of_request({"dola_layers": [1]}).layers == (1,)
    with pytest.raises(ConfigError, match="dola_lens"):
        engine.of_request({"dola_lens": "/etc/passwd"})


@pytest.mark.parametrize(
    ("header", "hosts", "allowed"),
    [
        ("127.0.0.1:7860", server.LOOPBACK, True),
        ("localhost", server.LOOPBACK, True),
        ("LOCALHOST:7860", server.LOOPBACK, True),
        ("[::1]:7860", server.LOOPBACK, True),
        ("evil.example:7860", server.LOOPBACK, False),
        ("127.0.0.1.evil.example", server.LOOPBACK, False),
        ("localhost@evil.example", server.LOOPBACK, False),
        ("", server.LOOPBACK, False),
        (None, server.LOOPBACK, False),
        ("[", server.LOOPBACK, False),
        ("evil.example", None, True),
    ],
)
def test_a_name_that_leads_here_is_not_enough(header, hosts, allowed):
    """A site that points its own name at 127.0.0.1 reads nothing."""
    assert server.called_so(header, hosts) is allowed


@pytest.mark.parametrize(
    ("arguments", "file", "named"),
    [
        (["--port", "1"], None, False),
        (["--host", "0.0.0.0"], None, True),
        (["--host=::"], None, True),
        (["--uds", "/run/x"], None, True),
        ([], "port: 1\nhost: 10.0.0.1\n", True),
        ([], "served-model-name: host\n", False),
    ],
)
def test_a_server_listens_elsewhere_only_if_it_is_asked_to(arguments, file, named, tmp_path):
    (tmp_path / "vllm.yaml").write_text(file or "")
    assert serve._names_an_address(arguments, tmp_path / "vllm.yaml" if file else None) is named

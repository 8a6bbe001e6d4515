"""`dola models`: list, pull, path, remove. Nothing is fetched: the fetching is tested in tests/unit/test_embedded.py."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dola.cli import main
from dola.cli.app import app
from dola.cli.models import ALIASES, SCHEMA
from dola.loading import embedded

runner = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def fetched(cache, monkeypatch):
    """The fetching replaced: a file of the right size, and a line of progress."""

    def fetch(alias, progress=None):
        path = embedded._embedded(alias).path
        with path.open("wb") as file:
            file.truncate(embedded.EMBEDDED[alias].size)  # takes no room on the disk
        print(f"fetching {alias}", file=sys.stderr)
        return path

    monkeypatch.setattr(embedded, "fetch", fetch)


def mistake(monkeypatch, capsys, *args):
    """The error message of the whole command, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["dola", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert captured.out == ""
    return stop.value.code, captured.err


def test_the_help_names_the_embedded_models():
    assert ", ".join(embedded.EMBEDDED) == ALIASES
    for verb in ("list", "pull", "path", "remove"):
        assert f"dola models {verb}" in " ".join(runner.invoke(app, ["models", verb, "--help"]).output.split())


def test_list_fits_80_columns(fetched, cache):
    (cache / embedded.EMBEDDED["gemma3-270m"].file).write_bytes(b"GGUF")
    lines = runner.invoke(app, ["models", "list"]).output.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines == [
        "smollm2",
        "  source   HuggingFaceTB/SmolLM2-135M-Instruct, 98 MB",
        "  license  Apache-2.0",
        "  state    not fetched: dola models pull smollm2",
        "gemma3-270m",
        "  source   google/gemma-3-270m, 253 MB",
        "  license  Gemma Terms of Use",
        "  state    damaged, to repair it: dola models pull gemma3-270m",
    ]


def test_list_does_not_break_a_path(fetched, cache, monkeypatch):
    deep = cache / ("a[b]" * 30)  # longer than a line, and no markup
    deep.mkdir()
    monkeypatch.setenv("DOLA_CACHE", str(deep))
    embedded.fetch("smollm2")
    assert f"  fetched  {deep}/SmolLM2-135M-Instruct.Q4_1.gguf" in runner.invoke(app, ["models", "list"]).stdout.splitlines()


def test_list_as_json(fetched, cache):
    embedded.fetch("smollm2")
    result = json.loads(runner.invoke(app, ["models", "list", "--json"]).stdout)
    assert (result["schema"], result["cache"]) == ("dola.models/1", str(cache))
    fields = {f"models[].{field}" for model in result["models"] for field in model}
    assert fields | {"cache"} == set(SCHEMA)
    smollm2, gemma = result["models"]
    assert (smollm2["alias"], smollm2["state"], smollm2["size"]) == ("smollm2", "fetched", 98_362_432)
    assert smollm2["path"] == str(cache / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (gemma["state"], gemma["path"], gemma["license"]) == ("not fetched", None, "Gemma Terms of Use")
    assert "prohibited-use policy" in gemma["notice"]


@pytest.mark.parametrize("verb", ["pull", "path"])
def test_pull_and_path_print_nothing_but_paths(fetched, cache, verb):
    done = runner.invoke(app, ["models", verb, "smollm2"])
    assert done.stdout == f"{cache / 'SmolLM2-135M-Instruct.Q4_1.gguf'}\n"
    assert done.stderr == "fetching smollm2\n"


def test_pull_takes_several(fetched):
    assert len(runner.invoke(app, ["models", "pull", "smollm2", "gemma3-270m"]).stdout.splitlines()) == 2


def test_remove(fetched, cache):
    path = embedded.fetch("smollm2")
    done = runner.invoke(app, ["models", "remove", "smollm2"])
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    assert not path.exists()
    again = runner.invoke(app, ["models", "remove", "smollm2"])
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "smollm2 was not in the cache.\n")


def test_pull_without_a_model(monkeypatch, capsys):
    assert mistake(monkeypatch, capsys, "models", "pull") == (
        2,
        "dola: `dola models pull` needs the name of a model. Available: smollm2, gemma3-270m.\n"
        "Hint: dola models pull smollm2\n",
    )


@pytest.mark.parametrize("verb", ["pull", "path", "remove"])
def test_an_unknown_alias(monkeypatch, capsys, verb):
    assert mistake(monkeypatch, capsys, "models", verb, "gpt5") == (
        2,
        "dola: 'gpt5' is not an embedded model. Available: smollm2, gemma3-270m.\nHint: use one of them\n",
    )


@pytest.mark.parametrize("verb", ["pull", "path", "remove"])
def test_a_folder_is_not_an_alias(monkeypatch, capsys, cache, verb):
    code, said = mistake(monkeypatch, capsys, "models", verb, str(cache))
    assert code == 2
    assert said.endswith("Hint: a folder or file needs no fetching: pass its path as the model\n")


def test_these_verbs_import_nothing_heavy_before_they_run():
    """`dola --help` has to be fast. Modules that the package itself imports do not count."""
    code = (
        "import sys, dola\n"
        "heavy = ('torch', 'transformers', 'rich.table', 'dola.loading.models', 'dola.doctor.checkup')\n"
        "heavy += ('dola.loading.embedded',)\n"
        "for name in [n for n in sys.modules if n.startswith('dola.') or n in heavy]: del sys.modules[name]\n"
        "import dola.cli.models, dola.cli.doctor\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""The site: its pages fit together, their code runs, their commands exist, and every public name has an example that runs."""

import doctest
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from page_commands import PAGES as PAGES_AND_README
from page_commands import blocks, commands

import dola
from dola.cli.app import app
from dola.model import adapters

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = ("cli.md", "doors.md", "supported-models.md", "vllm-models.md")


FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
PART = re.compile(r"<!-- part of: \S+ -->\n```\w+\n(.*?)```", re.DOTALL)


def _named(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """docs/stage.py, writing elsewhere."""
    spec = importlib.util.spec_from_file_location("stage", DOCS / "stage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SITE", tmp_path)
    monkeypatch.setattr(module, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(module, "print", lambda *_: None, raising=False)
    return module


def test_pages_fit_together(stage, tmp_path):
    stage.Stage().run()
    configuration = (tmp_path / "zensical.toml").read_text()
    for page in re.findall(r'= "([\w/-]+\.md)"', configuration):
        assert (tmp_path / "pages" / page).is_file()


@pytest.mark.parametrize("link", ["[gone](gone.md)", "![gone](screens/gone.png)"])
def test_a_link_to_nothing_and_a_page_without_a_place_fail(stage, monkeypatch, tmp_path, link):
    monkeypatch.setattr(stage, "ROOT", tmp_path / "root")
    (tmp_path / "root" / "docs").mkdir(parents=True)
    (tmp_path / "root" / "zensical.toml").write_text("")
    for name in ("site.css", "site.js"):
        (tmp_path / "root" / "docs" / name).touch()
    (tmp_path / "root" / "docs" / "lonely.md").write_text(f"# Lonely\n\n{link}\n\n```text\n[code](is-left.md)\n```\n")
    with pytest.raises(SystemExit) as raised:
        stage.Stage().run()
    assert "no such file" in str(raised.value)
    assert "is-left" not in str(raised.value)
    assert "lonely.md has no line in the navigation" in str(raised.value)


def test_links_out_of_docs_lead_to_copies_and_folders_become_their_text(stage, tmp_path):
    stage.Stage().run()
    pages = tmp_path / "pages"
    assert "(files/examples/vllm_batch.py)" in (pages / "serving.md").read_text()
    assert (pages / "files" / "examples" / "vllm_batch.py").is_file()
    assert "](../hub" not in (pages / "migration.md").read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=_named)
def test_a_page_begins_with_what_the_reader_will_have(page):
    title, *lines = [line for line in page.read_text().splitlines() if line]
    assert title.startswith("# ")
    assert not lines[0].startswith(("#", "|", "```", "!["))


@pytest.mark.parametrize("page", PAGES_AND_README, ids=_named)
def test_paragraphs_are_short(page):
    """Prose of at most 100 words at a time, in lines that a terminal shows; tables and code are as wide as they are."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    prose = [block for block in re.split(r"\n\n|\n(?=- |\d+\. )", text) if not re.match(r"\s*[|<#!]", block)]
    assert not [block for block in prose if len(block.split()) > 100]
    assert not [line for block in prose for line in block.splitlines() if len(line) > 128 and "](" not in line]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page.name != "mlx.md"], ids=_named)
def test_the_python_of_a_page_runs(page, smollm2, monkeypatch, tmp_path, capsys):
    """Blocks run one after the other, as a reader would paste them, with the embedded model for any other. MLX is not here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dola, "load", lambda name="smollm2", **_: smollm2)
    monkeypatch.setattr(adapters, "_registered", dict(adapters._registered), raising=False)
    model, tokenizer = smollm2
    inputs = tokenizer("The capital of Washington State is", return_tensors="pt")
    names = {"__name__": "page", "dola": dola, "torch": torch, "model": model, "tokenizer": tokenizer, "inputs": inputs}
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in FILE.findall(page.read_text()):
        (tmp_path / name).write_text(code)
    for code in blocks(page, "python"):
        if code in PART.findall(page.read_text()):  # cli/test_add_a_method.py puts these into their file
            continue
        exec(compile(code, _named(page), "exec"), names)
    assert not hasattr(model, "dola")


def _commands():
    """Every `dola ...` line of README and pages, those that are not run as well."""
    for page in PAGES_AND_README:
        for code in blocks(page, "sh") + blocks(page, "sh", run=False):
            for line in commands(code):
                for part in line.split("|"):
                    if part.strip().startswith("dola "):
                        yield pytest.param(part.strip(), id=f"{_named(page)}: {part.strip()[:60]}")


@pytest.mark.parametrize("line", list(_commands()))
def test_every_command_exists_with_its_options(line, monkeypatch, tmp_path):
    """Parsed, not run: an option that was renamed, or a value that is not allowed, fails here."""
    monkeypatch.chdir(tmp_path)
    Path("tuned.json").write_text('{"layers": "high"}')
    words = [word.replace("$M", "smollm2") for word in shlex.split(line, comments=True)][1:]
    words = words[: words.index(">")] if ">" in words else words
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("dola", words, resilient_parsing=False)


PUBLIC = [name for name in dola.__all__ if name != "__version__"]


def test_the_api_page_has_every_public_name():
    assert [f"::: dola.{name}" for name in PUBLIC if f"\n::: dola.{name}\n" not in (DOCS / "api.md").read_text()] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example_that_runs(name, smollm2, monkeypatch, tmp_path):
    """Some five lines in the docstring, on the embedded model, which `model` and `tokenizer` are as well."""
    given = getattr(dola, name).__doc__ or ""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dola, "load", lambda name="smollm2", **_: smollm2)
    model, tokenizer = smollm2
    names = {"dola": dola, "torch": torch, "model": model, "tokenizer": tokenizer}
    example = doctest.DocTestParser().get_doctest(given, names, name, None, None)
    assert 1 <= len(example.examples) <= 8
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)
    assert not hasattr(model, "dola")


def test_environment_variables_are_all_on_their_page():
    """The variables that the package and its tests read. Exceptions: typer reads one, and a test misspells an option."""
    page = (DOCS / "environment.md").read_text()
    source = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    used = {name for path in source for name in re.findall(r"[\"'](DOLA_[A-Z_]+)[\"']", path.read_text())}
    assert used - {"DOLA_COMPLETE", "DOLA_LAYERS"} <= set(re.findall(r"`(DOLA_[A-Z_]+)`", page)), "docs/environment.md"


def test_errors_are_all_on_their_page():
    page = (DOCS / "errors.md").read_text()
    kinds = [name for name, kind in vars(dola.errors).items() if isinstance(kind, type) and issubclass(kind, dola.DolaError)]
    assert [name for name in kinds if f"`{name}`" not in page and name != "DolaError"] == []


def test_the_glossary_is_short():
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert 20 <= len(terms) <= 25
    assert terms == sorted(terms, key=str.lower)


def test_the_built_site_asks_no_other_host():
    """After `make site`: what pages load is theirs. Links that a reader follows may lead elsewhere."""
    html = ROOT / "build" / "site" / "html"
    if not html.is_dir():
        pytest.skip("the site is not built: make site")
    loads = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|srcset|href)="((?:https?:)?//[^"]+)"')
    found = {f"{page.name}: {url}" for page in html.rglob("*.html") for url in loads.findall(page.read_text())}
    assert not {each for each in found if "canonical" not in each}

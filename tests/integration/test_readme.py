"""The README's first screen and the quickstart: what a newcomer sees comes early, runs, and prints what the pages say."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import transformers

import dola

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINES = README.splitlines()
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
EXAMPLE = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)


def _printed(code: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue()


def _first(what: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if what in line)


def test_the_first_screen_holds_the_picture_and_the_install_line():
    assert _first("<picture>") <= 12
    assert _first("pip install") <= 20
    assert len(LINES) <= 130


def test_the_readmes_python_runs(smollm2, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 6
    model, tokenizer = smollm2  # the hub cannot be reached everywhere; these are the same weights, in 4 bits
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda name: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    assert "Paris" in _printed(code)


def test_the_quickstarts_first_example_prints_what_it_says(smollm2, monkeypatch):
    code, shown = EXAMPLE.groups()
    monkeypatch.setattr(dola, "load", lambda name: smollm2)
    assert _printed(code) == shown


def test_the_quickstart_is_right_about_plain_decoding(smollm2, monkeypatch):
    monkeypatch.setattr(dola, "load", lambda name: smollm2)
    page = " ".join((ROOT / "docs" / "quickstart.md").read_text().split())
    said = re.search(r'the same model answers "(.*?) …"', page).group(1)
    assert _printed(EXAMPLE[1].replace('with dola.attach(model, "high"):', "if True:")).startswith(said)


def test_the_readmes_numbers_are_those_of_the_pages():
    """A changed figure on a page must also change in the README."""
    read = " ".join(README.split())
    assert "from 33.2% to 26.4% (95% interval of the difference: -9.8 to -3.8 points)" in read
    assert "from 40.4% to 34.7% (-9.0 to -2.5)" in read
    results = (ROOT / "docs" / "evaluation.md").read_text()
    assert "| vanilla | 33.2 | 34.1 |" in results
    assert "| DoLa high | 26.4 | 26.2 | -6.9 (-9.8 to -3.8) |" in results
    assert "| vanilla | 40.4 | 44.4 |" in results
    assert "| DoLa high | 34.7 | 34.1 | -5.8 (-9.0 to -2.5) |" in results
    models = " ".join((ROOT / "docs" / "supported-models.md").read_text().split())
    total, works, refused = (re.search(what, models)[1] for what in (r"\((\d+) of them", r"(\d+) work,", r"(\d+) are refused"))
    assert f"{works} of the {total} text-generation architectures" in read
    assert f"{refused} are refused" in read
    batches, _, rest = (ROOT / "docs" / "benchmarks.md").read_text().partition("## One text at a time")
    assert "| | 32 | 68.6 | x1.240 " in batches
    assert "32 at a time 1.2 times" in read
    costs = rest.partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]*\| (?:32|64|256) \| [\d.]+ \| x([\d.]+) \(", costs, re.MULTILINE)
    assert len(rows) == 9
    assert f"{min(map(float, rows)):.1f} to {max(map(float, rows)):.1f} times" in read


def test_every_page_installs_from_where_the_readme_does():
    """When a release changes the README's line, this test names every other line that must change too."""
    line = re.compile(r"pip install (?:-e )?'?(\.|dola-decoding)(?=[\['`\s])")
    (first,) = re.findall(r"<!-- install: .*? -->\n```sh\n(.*?)\n```", README)
    source = line.match(first)[1]
    other = [f"{page.name}: {found[0]}" for page in PAGES for found in line.finditer(page.read_text()) if found[1] != source]
    assert not other


def test_every_link_leads_somewhere():
    for page in PAGES:
        text = page.read_text()
        for target in [*re.findall(r"\]\((?!http)([^)#]+)", text), *re.findall(r'src(?:set)?="(?!http)([^"]+)"', text)]:
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""The README's first screen: its code runs, and prints what the README says it prints."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import dola

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_first_example_prints_what_it_says(smollm2, monkeypatch):
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    monkeypatch.setattr(dola, "load", lambda name: smollm2)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == shown


def test_what_the_readme_says_of_plain_decoding_is_so(smollm2, monkeypatch):
    code, _ = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    monkeypatch.setattr(dola, "load", lambda name: smollm2)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code.replace('with dola.attach(model, "high"):', "if True:"), {})
    said = re.search(r'the same model answers "(.*?) …"', README).group(1)
    assert printed.getvalue().startswith(said)


def test_every_link_leads_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""American spelling: the words that the project spells so, and a command that rewrites British ones.

    python tests/american.py            # rewrites src, tests, docs, examples, benchmarks and the pages at the root
    python tests/american.py --check    # lists what it would rewrite; exit 1 if there is anything

It reads comments, docstrings and strings of Python files, and Markdown outside of code. Names stay as they are: whatever is
in backticks or quotes by itself, next to "_", "=" or "/", or part of a dotted name, such as `normalisation=` of lm-eval's type.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", "*.md")
LEFT = (
    "tests/american.py",
    "test_plain_words.py",
    "tests/golden/",
    "benchmarks/results/",
    "docs/captures/",
    "prompts/",
    "docs/supported-models.md",
)
"""Files that stay as they are: this one, data, and what was recorded."""

STEMS = {
    **{f"{stem}is": f"{stem}iz" for stem in (
        "normal", "quant", "token", "penal", "optim", "maxim", "minim", "organ", "recogn", "summar", "initial", "serial",
        "general", "special", "visual", "emphas", "final", "util", "categor", "character", "local", "real", "author", "custom",
        "vector", "random", "standard", "parallel", "factor", "priorit", "stabil", "material", "synchron",
    )},
    **{f"{stem}our": f"{stem}or" for stem in ("col", "neighb", "behavi", "fav", "hon", "flav", "lab")},
    **{f"{stem}ll": f"{stem}l" for stem in ("model", "label", "cancel", "travel", "signal")},
    "analys": "analyz", "licence": "license", "catalogue": "catalog", "programme": "program", "artefact": "artifact",
    "judgement": "judgment", "defence": "defense", "centre": "center", "misspelt": "misspelled", "learnt": "learned",
    "whilst": "while", "grey": "gray",
}  # fmt: skip
ENDINGS = {"is": "e|ed|es|er|ers|ing|ation|ations", "ll": "ed|ing|er|ers", "analys": "e|ed|er|ers|ing"}
BEFORE = "(?:re|un|de|dis|mis|non-|pre)?"

_WORDS = "|".join(
    stem + (f"(?:{ENDINGS[end]})" if (end := next((e for e in ENDINGS if stem.endswith(e)), "")) else "[a-z]*")
    for stem in STEMS
)
BRITISH = re.compile(rf"(?<![\w/.=-])({BEFORE})({_WORDS})\b(?![\w=/(]|\.\w|_)", re.IGNORECASE)
PROTECTED = re.compile(
    r"`[^`]*`|\{[^{}]*\}|\]\([^)]*\)|(?<!\w)'[\w.-]+'|\"[\w.-]+\"|^ +\w+(?:, \w+)*:|My favourite colour is|List three colours",
    re.MULTILINE,
)
"""Inline code, values of an f-string, targets of links, single words in quotes, names in lists of attributes, and prompts."""


def american(text: str) -> str:
    """A text with its British words spelled as Americans do."""
    parts, end = [], 0
    for kept in PROTECTED.finditer(text):
        parts += [BRITISH.sub(_spelled, text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*parts, BRITISH.sub(_spelled, text[end:])])


def _spelled(match: re.Match[str]) -> str:
    word = match[2]
    if word.isupper():  # a constant
        return match[0]
    stem = max((stem for stem in STEMS if word.lower().startswith(stem)), key=len)
    new = STEMS[stem] + word[len(stem) :].lower()
    return match[1] + (new.capitalize() if word[0].isupper() else new)


def in_python(text: str) -> str:
    """A Python file with its comments, and its strings of several words, rewritten."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    pieces, end = [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_prose = token.type == tokenize.COMMENT or (" " in token.string.strip() and token.type in STRINGS)
        if is_prose:
            first, last = starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1]
            pieces += [text[end:first], _in_string(token.string)]
            end = last
    return "".join([*pieces, text[end:]])


def _in_string(token: str) -> str:
    """A token without its outer quotes rewritten, so that these do not protect what they hold."""
    quote = re.match(r"[a-zA-Z]*(\"\"\"|'''|\"|')", token)
    if quote is None:
        return american(token)
    return quote[0] + american(token[quote.end() : -len(quote[1])]) + quote[1]


STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def in_markdown(text: str) -> str:
    """A page with the text outside of fenced code rewritten."""
    found, fenced = [], False
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        found.append(line if fenced or fence else american(line))
        fenced ^= fence
    return "\n".join(found)


def main() -> int:
    """Rewrite the files, or with --check list them; 1 if that finds any."""
    ways: dict[str, Callable[[str], str]] = {".py": in_python, ".md": in_markdown}
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = 0
    for name in sorted(set(listed.stdout.split())):
        path = ROOT / name
        if path.suffix not in ways or any(part in name for part in LEFT) or not path.exists():
            continue
        before = path.read_text(encoding="utf-8")
        if (after := ways[path.suffix](before)) == before:
            continue
        changed += 1
        for number, (old, new) in enumerate(zip(before.split("\n"), after.split("\n"), strict=True), 1):
            if old != new:
                print(f"{name}:{number}: {new.strip()}")
        if "--check" not in sys.argv:
            path.write_text(after, encoding="utf-8")
    return int("--check" in sys.argv and changed > 0)


if __name__ == "__main__":
    sys.exit(main())

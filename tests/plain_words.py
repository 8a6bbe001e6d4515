"""Looks in README, docs and src for habits of speech that make sentences hard to read. `make lint` runs it.

    python tests/plain_words.py            # lists every hit that ALLOWED does not name; exit 1 if there is one
    python tests/plain_words.py --count    # how often each habit occurs, allowed hits included

In Python files it reads docstrings, comments and strings; in Markdown, the text outside of code blocks. A hit that is
deliberate goes into ALLOWED with its reason, and MOST limits how many there may be.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

HABITS = {  # name: (pattern, what to write instead)
    "is no": (r"\b(is|are|was|were) no\b(?! (longer|more than))", "does not, has none, is not a"),
    "behind": (r"\bbehind\b", "after"),
    "stand": (r"\b(stand|stands|stood)\b(?! for\b)", "is"),
    "in words": (r"\bin( plain)? words\b", "as text, with a message, in prose"),
    "told": (r"\btold\b", "distinguished from, given"),
    "go on": (r"\b(go|goes|going|went|gone) on\b(?! (a|an|the|to|its|their|with)\b)", "continue"),
    "anew": (r"\banew\b", "again"),
    "for who": (r"\bfor who\b", "if you"),
    "of which": (r"\bof which\b", "whose, or a new sentence"),
    "Of ...": (r"(\A|: )Of (?!course)", "name the thing: Sampling temperature"),
    "Have X do": (r"\AHave\b", "say what the function does"),
    "can be had": (r"\bcan(not)? be had\b|\bbe had\b", "is available, can be reached"),
    "mend": (r"\bmend(s|ed|ing)?\b", "fix"),
    "makers only": (r"\.\./shared\b|\bin every submission\b|\bthe design this was built from\b", "words a reader knows"),
}
MOST = 30  # allowed hits in all

ALLOWED = {  # (file, words around the hit): why it is meant
    ("docs/evaluation.md", '"answer is no"'): "what the model wrote",
    ("docs/vllm-models.md", "There is no module or parameter named"): "what vLLM said",
    ("CHANGELOG.md", "an error in plain words with a hint"): "it is the point of the entry",
}


class Passage(NamedTuple):
    """A docstring, a comment, a string or a paragraph, and the line where it starts."""

    path: str
    line: int
    text: str


class Hit(NamedTuple):
    """One occurrence of a habit."""

    path: str
    line: int
    habit: str
    around: str


def main() -> int:
    """Print the hits; 1 if any is not allowed, or if ALLOWED has entries without a hit or more than MOST."""
    hits = [hit for path in files() for passage in passages(path) for hit in hits_in(passage)]
    if "--count" in sys.argv:
        counts = Counter(hit.habit for hit in hits)
        print("\n".join(f"{counts[habit]:4} {habit}" for habit in HABITS), f"{len(hits):4} in all", sep="\n")
        return 0
    used = {key for hit in hits for key in ALLOWED if allows(key, hit)}
    new = [hit for hit in hits if not any(allows(key, hit) for key in ALLOWED)]
    for path, line, habit, around in new:
        print(f"{path}:{line}: {habit!r} in '... {around} ...' (write: {HABITS[habit][1]})")
    for path, words in ALLOWED.keys() - used:
        print(f"{path}: ALLOWED names {words!r}, which is not there")
    if len(hits) - len(new) > MOST:
        print(f"{len(hits) - len(new)} hits are allowed, more than {MOST}")
    return int(bool(new) or used != ALLOWED.keys() or len(hits) - len(new) > MOST)


def allows(key: tuple[str, str], hit: Hit) -> bool:
    """Whether an entry of ALLOWED is about this hit."""
    return key[0] == hit.path and key[1] in hit.around


def files() -> list[Path]:
    """README, the pages of docs, and the Python files of src."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("src/**/*.py"))]


def hits_in(passage: Passage) -> Iterator[Hit]:
    """The habits of one passage."""
    for habit, (pattern, _) in HABITS.items():
        for found in re.finditer(pattern, passage.text):
            line = passage.line + passage.text.count("\n", 0, found.start())
            around = passage.text[max(found.start() - 40, 0) : found.end() + 40]
            yield Hit(passage.path, line, habit, " ".join(around.split()))


def passages(path: Path) -> Iterator[Passage]:
    """The passages of one file."""
    name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for line, passage in of_markdown(text) if path.suffix == ".md" else of_python(text):
        yield Passage(name, line, passage)


def of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """The text outside of fenced code, as one passage whose lines keep their numbers."""
    inside, kept = False, []
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        kept.append("" if inside or fence else line)
        inside ^= fence
    yield 1, "\n".join(kept)


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """Strings (what Python joins is one; a value in an f-string is "{}") and comments (lines below each other are one)."""
    tree = ast.parse(text)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value
    start, comment = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] == start + comment.count("\n") + 1:
                comment += "\n" + token.string[1:]
            else:
                yield start, comment
                start, comment = token.start[0], token.string[1:]
    yield start, comment


if __name__ == "__main__":
    sys.exit(main())
